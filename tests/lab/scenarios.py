"""What each dump contains: parameters of the leak module and of the guest, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .errors import LabError
from .suites import SUITES

DEBIAN = "debian"
"""The kernel of a scenario that names none: Debian's binary."""

_OWN = "no_timer_check"
"""A kernel that does not know it is a guest tests its timer, which is slow on a busy machine."""
_ALLOCINFO = f"{_OWN} rdinit=/lab/with-allocinfo"

OWN_KERNELS = {
    "slab": _OWN,
    "slab-debug": _OWN,
    "profiling": _ALLOCINFO,
    "profiling-flags": f"{_ALLOCINFO} sysctl.vm.mem_profiling=1,compressed",
    "arm64-64k": "",
}
"""Of ``kernels/``: those on which any scenario may run, and words for their command line."""

_MORE_MEMORY = {"arm64-64k": "1G"}
"""Of kernels whose pages are too large for the usual guest: each file takes 64 KiB."""


_READERS_HOLD_THEIR_CPU = ("bullseye", "arm64", "arm64-trixie", "arm64-16k", *OWN_KERNELS)
"""Kernels without CONFIG_PREEMPT_RCU: the scenario ``rcu`` has a module more there."""

MODULE_PARAMETERS = (
    "nodes",
    "nodes_later",
    "private",
    "tasks",
    "messages",
    "chains",
    "chain_length",
    "vmallocs",
    "vmalloc_size",
    "pages",
    "sessions",
    "requests",
    "living",
    "hashed",
    "freed",
    "leases",
    "packets",
    "fragments",
    "pools",
    "rcu_calls",
    "rcu_frees",
)
"""Parameters of ``module/main.c``, which explains them."""

USER_PARAMETERS = (
    "process_mib",
    "pagetables_mib",
    "hugetlb",
    "tmpfs_mib",
    "pagecache_mib",
    "dentries",
)
"""Parameters of ``guest/init`` that need ``guest/labuser.c``: MiB of a process's own memory, of
page tables of another, 2 MiB pages in use (``hugepages=`` on the command line reserves them), MiB
of a file on tmpfs, MiB of a clean file on a disk, names that do not exist."""

GUEST_PARAMETERS = ("files", "trace", "stacks", "lost_files", *USER_PARAMETERS)
"""Parameters of ``guest/init``: ``files`` is how many files, and as many missing names;
``trace`` traces the allocations while the module works, ``stacks`` with the stack of each.
``lost_files`` is what the module of that scenario does, and has a fixed count."""


@dataclass(frozen=True)
class Scenario:
    """One guest to boot and dump."""

    name: str
    summary: str
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Counts and sizes, of MODULE_PARAMETERS and GUEST_PARAMETERS; none of the module's: the
    module is not even loaded."""
    memory: str = "256M"
    """Guest memory in QEMU's notation."""
    append: str = ""
    """More words for the kernel command line."""
    distribution: bool = False
    """Boots Debian from a disk and puts load on it (busy.py), in place of ``guest/init``."""
    extra: str = ""
    """A module of its own, built from the folder of that name in ``modules/`` and loaded before
    all else. Only such a scenario's dumps depend on its source."""
    processor: str = ""
    """QEMU's name of the CPU, where it is not the usual one of the kernel."""
    kernel: str = DEBIAN
    """Debian's binary kernel, that of another of its suites by name (suites.py), or the NAME of a
    ``kernels/NAME.config``, which takes minutes to compile (own_kernel.py)."""

    @property
    def module_parameters(self) -> dict[str, int]:
        """The part of the parameters that goes to the leak module."""
        return {k: v for k, v in self.parameters.items() if k in MODULE_PARAMETERS}

    @property
    def needs_program(self) -> bool:
        """Whether ``guest/labuser.c`` has something to do."""
        return any(self.parameters.get(name) for name in USER_PARAMETERS)

    @property
    def settings(self) -> dict[str, int]:
        """Every parameter there is, as ``guest/init`` reads them."""
        names = (*MODULE_PARAMETERS, *GUEST_PARAMETERS)
        return {name.upper(): self.parameters.get(name, 0) for name in names}

    def changed(
        self, parameters: Mapping[str, int], memory: str | None = None, append: str = ""
    ) -> Scenario:
        """This scenario with some values replaced, and words added to the command line."""
        unknown = sorted(set(parameters) - {*MODULE_PARAMETERS, *GUEST_PARAMETERS})
        if unknown:
            known = ", ".join((*MODULE_PARAMETERS, *GUEST_PARAMETERS))
            raise LabError(f"no such parameter: {', '.join(unknown)} (known: {known})")
        return replace(
            self,
            parameters={**self.parameters, **parameters},
            memory=memory or self.memory,
            append=f"{self.append} {append}".strip(),
        )


_EVERYTHING = {
    "nodes": 200_000,
    "private": 20_000,
    "tasks": 200,
    "messages": 2_000,
    "chains": 100,
    "chain_length": 200,
    "vmallocs": 64,
    "vmalloc_size": 65_536,
    "pages": 64,
    "living": 5_000,
}

_KMEMLEAK = "kmemleak=on page_owner=on"
_BUSY = "log_buf_len=4M systemd.show_status=false"

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("default", "every leak at once, 200,000 nodes above all", _EVERYTHING),
        Scenario("nodes", "one leak: 200,000 equal 32-byte nodes", {"nodes": 200_000}),
        Scenario(
            "twin",
            "two leaks in one cache; no two sessions are equal",
            {"sessions": 60_000, "requests": 30_000},
        ),
        Scenario(
            "innocent",
            "no leak: objects in use, a hash table, freed residue, inodes",
            {"living": 20_000, "hashed": 10_000, "freed": 20_000, "files": 5_000},
        ),
        Scenario(
            "pools",
            "no leak of pages: pools without pointers, and lost areas of vmap()",
            {"pools": 256},
        ),
        Scenario("healthy", "no leak, and the leak module not loaded"),
        Scenario(
            "kmemleak",
            "many leaks, reported by the kernel's own leak detector just before the dump",
            {
                "nodes": 6_000,
                "private": 500,
                "tasks": 50,
                "messages": 300,
                "chains": 100,
                "chain_length": 20,
                "vmallocs": 8,
                "vmalloc_size": 65_536,
                "sessions": 300,
                "requests": 150,
                "living": 1_000,
                "hashed": 500,
            },
            append=_KMEMLEAK,
            kernel="kmemleak",
        ),
        Scenario(
            "kmemleak-chain",
            "100 rings of 200, reported by the kernel's own leak detector",
            {"chains": 100, "chain_length": 200},
            append=_KMEMLEAK,
            kernel="kmemleak",
        ),
        Scenario("tasks", "one leak: task_structs by reference", {"tasks": 400}),
        Scenario(
            "files",
            "one leak: 20,000 open files by reference",
            {"lost_files": 20_000},
            extra="lostfiles",
        ),
        Scenario("private", "one leak: objects of a private cache", {"private": 60_000}),
        Scenario("messages", "growth, reachable: an undrained queue", {"messages": 20_000}),
        Scenario(
            "chain",
            "one leak: rings of objects that point to each other",
            {"chains": 300, "chain_length": 200},
        ),
        Scenario(
            "vmalloc",
            "one leak: vmalloc areas, 32 MiB",
            {"vmallocs": 512, "vmalloc_size": 65_536},
        ),
        Scenario("pages", "one leak: pages of order 0 to 3, 60 MiB", {"pages": 1_024}),
        Scenario(
            "nodes-debug",
            "default, smaller, with SLUB's debugging of every cache",
            {
                **_EVERYTHING,
                "nodes": 20_000,
                "private": 2_000,
                "tasks": 100,
                "messages": 500,
                "chains": 20,
                "vmallocs": 16,
                "pages": 16,
                "living": 1_000,
            },
            append="slub_debug=FZPU",
        ),
        Scenario(
            "traced",
            "every leak at once, smaller, with SLUB's note of who allocated each object",
            {
                "nodes": 50_000,
                "private": 5_000,
                "tasks": 100,
                "messages": 500,
                "chains": 20,
                "chain_length": 200,
                "sessions": 5_000,
                "requests": 3_000,
                "living": 1_000,
                "hashed": 1_000,
            },
            append="slub_debug=U",
        ),
        Scenario(
            "accounted",
            "no leak: inodes and dentries that the memory cgroup /lab/tenant is charged for",
            {"files": 5_000},
            append="rdinit=/lab/in-cgroup",
        ),
        Scenario(
            "cgroups",
            "no leak: 4,000 memory cgroups that are charged for files, half of them removed",
            memory="768M",
            append="rdinit=/lab/many-cgroups",
        ),
        Scenario(
            "cpus",
            "one leak, on a machine that may have 512 CPUs",
            {"nodes": 20_000, "living": 1_000},
            memory="2G",
            append="possible_cpus=512",
        ),
        Scenario(
            "numa",
            "one leak, on 16 NUMA nodes with a hole of 128 MiB between two of them",
            {"nodes": 20_000, "living": 1_000},
            memory="1G",
            append="numa=fake=16 memmap=128M$384M",
        ),
        Scenario(
            "trace",
            "one slow leak under traffic 300 times busier, traced",
            {"leases": 500, "packets": 300, "trace": 1},
            memory="512M",
        ),
        Scenario(
            "trace-stacks",
            "the same, shorter, traced with stacks",
            {"leases": 50, "packets": 100, "trace": 1, "stacks": 1},
            memory="512M",
        ),
        Scenario(
            "two",
            "two leaks of different places: nodes, and 24 MiB of vmalloc",
            {"nodes": 100_000, "vmallocs": 384, "vmalloc_size": 65_536},
        ),
        Scenario(
            "kmem_test",
            "one leak: a single vmalloc area of 96 MiB",
            {"vmallocs": 1, "vmalloc_size": 96 << 20},
        ),
        Scenario(
            "growth",
            "the same leak dumped twice: 20,000 nodes, then 80,000 more",
            {"nodes": 20_000, "nodes_later": 80_000},
        ),
        Scenario(
            "rcu",
            "no leak: 200,000 objects each of call_rcu() and kfree_rcu(), which a reader holds up",
            {"rcu_calls": 200_000, "rcu_frees": 200_000},
            append="rcupdate.rcu_cpu_stall_suppress=1",
        ),
        Scenario(
            "fragmentation",
            "no leak: 300,000 objects freed, but for one in each slab",
            {"fragments": 300_000},
        ),
        Scenario("dentries", "no leak: 350,000 names that do not exist", {"dentries": 350_000}),
        Scenario("pagecache", "no leak: a clean file of 96 MiB, read", {"pagecache_mib": 96}),
        Scenario("process", "user space: a process with 100 MiB of its own", {"process_mib": 100}),
        Scenario("tmpfs", "user space: a file of 80 MiB on tmpfs", {"tmpfs_mib": 80}),
        Scenario(
            "pagetables",
            "user space: a process with 48 MiB of page tables and no memory in them",
            {"pagetables_mib": 48},
        ),
        Scenario(
            "hugetlb",
            "user space: 6 of 8 huge pages in use by a process",
            {"hugetlb": 6},
            append="hugepages=8",
        ),
        Scenario(
            "busy",
            "no leak: Debian with services, containers, filesystems and networks under load",
            memory="2G",
            append=_BUSY,
            distribution=True,
        ),
        Scenario(
            "busy-leaks",
            "the same, with leaks of each kind, none above 1 % of memory",
            {
                **_EVERYTHING,
                "nodes": 40_000,
                "private": 8_000,
                "messages": 0,
                "chains": 50,
                "vmallocs": 192,
                "pages": 128,
                "living": 1_000,
            },
            memory="2G",
            append=_BUSY,
            distribution=True,
        ),
        Scenario("healthy4g", "no leak, 4 GiB, the leak module not loaded", memory="4G"),
        Scenario("huge", "20 million nodes in 4 GiB", {"nodes": 20_000_000}, memory="4G"),
    )
}


_SMALLER = {
    "default": {
        **_EVERYTHING,
        "nodes": 20_000,
        "private": 4_000,
        "messages": 500,
        "chains": 50,
    },
}
"""Counts of scenarios on the kernels of other suites, where one leak of each kind is enough."""


def scenario(name: str) -> Scenario:
    """The scenario called `name`, or a `LabError` that lists them.

    ``NAME@SUITE`` is scenario NAME on the kernel of another Debian suite, ``NAME@slab`` on one of
    our own, ``NAME@SUITE+CPU`` on another processor.
    """
    base, _, suite = name.partition("@")
    suite, _, processor = suite.partition("+")
    try:
        chosen = SCENARIOS[base]
    except KeyError:
        raise LabError(f"no scenario {base!r} (known: {', '.join(SCENARIOS)})") from None
    if not suite:
        return chosen
    if suite not in (*SUITES, *OWN_KERNELS):
        raise LabError(f"no kernel {suite!r} (known: {', '.join((*SUITES, *OWN_KERNELS))})")
    if chosen.kernel != DEBIAN:
        raise LabError(f"scenario {base} has a kernel of its own, {chosen.kernel}")
    parameters = _SMALLER.get(base, chosen.parameters)
    if re.search(r"-\d+k$", suite) and {"pagetables_mib", "hugetlb"} & {*parameters}:
        raise LabError(f"{base}: guest/labuser.c knows the tables of pages of 4 KiB, not {suite}'s")
    chosen = replace(chosen, name=name, kernel=suite, parameters=parameters, processor=processor)
    if base == "rcu" and suite in _READERS_HOLD_THEIR_CPU:
        chosen = replace(chosen, extra="heldrcu")
    if suite not in OWN_KERNELS:
        return chosen
    return chosen.changed({}, _MORE_MEMORY.get(suite), OWN_KERNELS[suite])
