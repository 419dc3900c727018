"""Rules about memory that user space has."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.verdict.commands import of_huge_pages, of_mount, of_process
from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.thresholds import (
    HUGETLB_SHARE,
    TABLES_SHARE,
    USER_SHARE,
)
from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.procfs.processes import Process
from crashext.wording import percent_of, size_text


def user_space(facts: Facts) -> Iterator[Verdict]:
    """Memory that processes, their page tables, or files in memory have."""
    total, split = facts.total, facts.split
    for process in facts.processes:
        size = process.rss_anon if process.rss_anon is not None else process.rss
        if size >= USER_SHARE * total:
            yield _process(facts, process, size, "of its own memory")
    anonymous = split.get("anonymous")
    alone = any(
        (p.rss_anon if p.rss_anon is not None else p.rss) >= USER_SHARE * total
        for p in facts.processes
    )
    if anonymous >= USER_SHARE * total and not alone and facts.processes:
        first = facts.processes[0]
        yield Verdict(
            "user-space",
            "user",
            Culprit(process=f"{first.comm} (pid {first.pid})"),
            anonymous,
            "high",
            f"processes have {size_text(anonymous)} of their own memory, most of it "
            f"{first.comm} (pid {first.pid}): user space, not the kernel",
            (f"{percent_of(anonymous, total)} of memory",),
            (),
            of_process(facts, first.pid),
        )
    tables = split.get("page tables")
    if tables >= TABLES_SHARE * total:
        owner = max(facts.processes, key=lambda p: p.page_tables or 0, default=None)
        if owner is not None and owner.page_tables:
            yield _process(facts, owner, tables, "of page tables")
    for mount in facts.mounts:
        if mount.bytes >= USER_SHARE * total:
            yield Verdict(
                "user-space",
                "user",
                Culprit(mount=mount.mount),
                mount.bytes,
                "high",
                f"files on {mount.mount or 'an unmounted tmpfs'} take {size_text(mount.bytes)} "
                "of memory: user space, not the kernel",
                (f"{percent_of(mount.bytes, total)} of memory is in this tmpfs",),
                (),
                of_mount(facts, mount),
            )
    huge = split.get("hugetlb")
    if huge >= HUGETLB_SHARE * total:
        owner = max(facts.processes, key=lambda p: p.hugetlb or 0, default=None)
        who = f"{owner.comm} (pid {owner.pid})" if owner is not None and owner.hugetlb else ""
        yield Verdict(
            "user-space",
            "user",
            Culprit(process=who),
            huge,
            "high",
            f"the huge page pool has {size_text(huge)}"
            + (f", used by {who}" if who else "")
            + ": user space, not the kernel",
            (f"{percent_of(huge, total)} of memory is in hugetlb's pool",),
            (),
            of_huge_pages(facts),
        )


def _process(facts: Facts, process: Process, size: int, what: str) -> Verdict:
    who = f"{process.comm} (pid {process.pid})"
    return Verdict(
        "user-space",
        "user",
        Culprit(process=who),
        size,
        "high",
        f"{who} has {size_text(size)} {what}: user space, not the kernel",
        (f"{percent_of(size, facts.total)} of memory",),
        (),
        of_process(facts, process.pid),
    )
