"""What memory cgroups have to do with what a root holds; asked only where one holds much."""

from __future__ import annotations

from dataclasses import replace

from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.slab_rules import held_growth
from crashext.hosts.base import Host
from crashext.kernel.counters.cgroups import caches_of_cgroups, memory_cgroups


def with_cgroups(host: Host, facts: Facts) -> Facts:
    """The facts with how many memory cgroups there are, and the caches that they are from."""
    if not any(True for _ in held_growth(facts)):
        return facts
    names = [cache.name for cache in facts.caches]
    return replace(
        facts, cgroups=memory_cgroups(host), cgroup_caches=caches_of_cgroups(host, names)
    )
