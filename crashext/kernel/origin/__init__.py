"""The kernel's own records of who allocated: tracks, kmemleak, page_owner, tags, memcg, stacks."""
