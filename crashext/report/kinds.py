"""Kinds of words in a few colours, the same ones in a terminal and on a page."""

from __future__ import annotations

COLOURS = {
    "zero": ("zero", "0"),
    "self-pointer": ("pointer", "itself"),
    "slab-pointer": ("pointer", "-> object"),
    "page-pointer": ("pointer", "-> page"),
    "vmalloc-pointer": ("pointer", "-> vmalloc"),
    "struct-page-pointer": ("pointer", "-> struct page"),
    "percpu-pointer": ("pointer", "-> per-CPU"),
    "user-address": ("pointer", "-> user"),
    "text-symbol": ("symbol", "function"),
    "data-symbol": ("symbol", "variable"),
    "module-symbol": ("symbol", "module"),
    "list-poison": ("poison", "LIST_POISON"),
    "poison": ("poison", "poison"),
    "error-pointer": ("number", "error"),
    "negative-number": ("number", "negative"),
    "small-number": ("number", "number"),
    "number": ("number", "number"),
    "two-numbers": ("number", "2 numbers"),
    "text": ("text", "text"),
}
"""Kind of word -> its colour and a word that fits into a cell."""
UNKNOWN = ("opaque", "?")
