"""Which function of ``module/*.c`` allocates the objects of each part."""

from __future__ import annotations

FUNCTIONS = {
    "nodes": "leaklab_leak_nodes",
    "nodes_later": "leaklab_leak_nodes",
    "private": "leaklab_leak_private",
    "chain": "leaklab_leak_chains",
    "vmalloc": "leaklab_leak_vmallocs",
    "pages0": "leaklab_leak_pages",
    "pages1": "leaklab_leak_pages",
    "pages2": "leaklab_leak_pages",
    "pages3": "leaklab_leak_pages",
    "sessions": "leak_session",
    "requests": "leak_request",
    "leases": "leaklab_lease_grant",
    "clients": "leaklab_client_join",
    "messages": "leaklab_queue_messages",
    "living": "leaklab_keep_living",
    "hashed": "leaklab_keep_hashed",
    "payloads": "leaklab_keep_payloads",
    "freed": "leaklab_free_most",
    "freed_kept": "leaklab_free_most",
    "survivors": "leaklab_fragment",
    "pool_chained": "keep_chained",
    "pool_listed": "keep_listed",
    "pool_ring": "keep_ring",
    "pool_large": "keep_large",
    "pool_vmap": "map_held",
    "vmaps": "map_held",
    "rcu_calls": "make_events",
    "rcu_frees": "make_routes",
}
"""By the source: the compiler may have put a function into its caller. The ``tasks`` are the
kernel's own to allocate (copy_process()); the module only ever took a reference."""
