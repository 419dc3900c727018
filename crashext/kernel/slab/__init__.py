"""SLUB: caches, slabs, objects and slots, freelists, and what an address is."""
