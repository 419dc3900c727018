"""Parts of the verdict's text that can be asked for by a word: `leakscan memory`."""

TOPICS = {
    "why": "every verdict with its evidence",
    "growth": "what grew, with --before",
    "memory": "where all memory is",
    "pages": "who holds the pages that no counter has",
    "caches": "the largest slab caches",
}
"""Each with what it shows, in the order of -v, which prints them all."""
SINCE_WHEN = "growth: since when? --before OLD names an earlier moment"
