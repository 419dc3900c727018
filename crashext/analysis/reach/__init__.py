"""What nothing reaches, and who holds the rest: references, the mark, holders, its self-check."""
