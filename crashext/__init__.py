"""crashext finds kernel memory leaks in crash dumps: similarity, decoding, evidence."""

__version__ = "0.2.0"
