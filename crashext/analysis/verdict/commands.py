"""The one next command of a verdict: plain, as it is typed where it is understood.

`leakscan` is ours; what begins with `crash> ` is crash's, of a dump; anything else is for a shell
of the machine that was looked at. Words after ` # ` say what the answer tells. How to ask from
where the report is read, the report knows (report/asking.py).
"""

from __future__ import annotations

from shlex import quote

from crashext.analysis.verdict.facts import AreaFact, Facts, MountFact

_DUMP = "dump"


def of_cache(cache: str) -> str:
    """A closer look at a cache; at all that is unreachable, where no cache is known."""
    return f"leakscan {quote(cache)}" if cache else "leakscan --orphans"


def of_largest_cache(facts: Facts, why: str) -> str:
    largest = next((c.name for c in facts.caches), "")
    return f"{of_cache(largest)} # {why}"


def of_areas(facts: Facts, area: AreaFact) -> str:
    """Who has the vmalloc areas of one caller, or what is in them."""
    if area.unreachable:
        return "leakscan --orphans # where they are, with everything else that is unreachable"
    if facts.source == _DUMP:
        if area.largest:
            return f"crash> rd -SS {area.largest:x} 64 # how the largest of these areas begins"
        return "crash> kmem -v # all areas, with their sizes"
    name = area.module or area.caller.split("+")[0]
    return f"grep -i {quote(name)} /proc/vmallocinfo" if name else "cat /proc/vmallocinfo"


def of_pages(facts: Facts, owner: str | None = None) -> str:
    """Who allocates pages: the line of source where that is known, else how to learn it.

    `owner` is who allocated those in question, where it is not about all that are unaccounted for.
    """
    if owner is None:
        owner = facts.pages.owner if facts.pages is not None else ""
    # ``function+0x2a``, or ``file:line function``
    owner = owner.split("+")[0].split(" ")[-1]
    if owner:
        command = "crash> sym" if facts.source == _DUMP else "grep -w"
        table = "" if facts.source == _DUMP else " /proc/kallsyms"
        return f"{command} {quote(owner)}{table} # the function that allocates them"
    if facts.pages is not None and facts.pages.unreachable:
        return "leakscan --orphans # where they are, with everything else that is unreachable"
    if facts.source == "procfs":
        if facts.tags:
            return "sort -rn /proc/allocinfo | head # which line of source grows"
        if facts.growth is None or not facts.growth.judged:
            return "leakscan /proc # again in an hour, with --before this: does it grow?"
        return (
            "perf record -ag -e kmem:mm_page_alloc sleep 30 # who takes pages now, without a "
            "reboot: perf report"
        )
    return (
        'grep PAGE_OWNER= "/boot/config-$(uname -r)" '
        "# with y, boot with page_owner=on: it names who allocates pages"
    )


def of_stuck_reader(facts: Facts) -> str:
    why = "which task has been inside rcu_read_lock() for long?"
    if facts.source == _DUMP:
        return f"crash> foreach bt # {why}"
    return f"ps -eo pid,stat,wchan:32,comm # {why}"


def of_process(facts: Facts, pid: int) -> str:
    return f"crash> vm {pid}" if facts.source == _DUMP else f"cat /proc/{pid}/status"


def of_mount(facts: Facts, mount: MountFact) -> str:
    if facts.source == _DUMP or not mount.mount:
        return "crash> mount" if facts.source == _DUMP else "cat /proc/sysvipc/shm"
    return f"du -xsh {quote(mount.mount)}"


def of_huge_pages(facts: Facts) -> str:
    return "crash> kmem -h" if facts.source == _DUMP else "cat /proc/sys/vm/nr_hugepages"


def of_page_cache(facts: Facts) -> str:
    if facts.source == _DUMP:
        return "crash> kmem -i # what is cached and what is free"
    return "grep MemAvailable /proc/meminfo # it counts this memory as available: is it low?"
