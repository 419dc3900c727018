"""SLUB and SLAB: caches, slabs, objects and slots, freelists, and what an address is."""
