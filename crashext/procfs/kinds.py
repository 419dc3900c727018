"""How lines of each kind of text look: what opens an output, and what goes on with it.

The parsers know more; here is only enough to tell the kinds apart, and to go wrong with none.
"""

from __future__ import annotations

import re

OPENS: tuple[tuple[str, str], ...] = (
    ("meminfo", r"\s*MemTotal:\s+\d+\s*kB"),
    ("slabinfo", r"\s*(?:slabinfo - version: |(?:# ?name|<name>)\s+<active_objs>)"),
    ("slabinfo_tool", r"\s*Name\s+Objects\s+Objsize\s+Space\s+Slabs/Part/Cpu"),
    ("vmstat_m", r"\s*Cache\s+Num\s+Total\s+Size\s+Pages\s*$"),
    ("kmem_areas", r"\s*(?:VMAP_AREA\s+)?VM_STRUCT\s+ADDRESS RANGE\s+SIZE"),
    ("zramctl", r"\s*NAME\s+ALGORITHM\s+DISKSIZE\s.*TOTAL"),
    ("xen", r"\s*Current allocation:\s+\d+ kB\s*$"),
    ("slabtop", r"\s*Active / Total Objects \("),
    ("slabtop_head", r"\s*OBJS\s+ACTIVE\s+USE\s+OBJ"),
    ("allocinfo", r"\s*(?:allocinfo - version: |#\s*<size>\s+<calls>|Memory allocations:)"),
    ("oom", r".{0,64}\binvoked oom-killer|Mem-[Ii]nfo:|\s{0,4}active_anon:\d+ inactive_anon:"),
    ("kmem_i", r"\s*PAGES\s+TOTAL\s+PERCENTAGE"),
    ("kmem_s", r"\s*CACHE\s+(?:NAME\s+)?OBJSIZE\s+ALLOCATED"),
    ("lsmod", r"\s*Module\s+Size\s+Used by"),
    ("ps", r"\s*(?:\S+\s+){0,12}PID\s.*\bRSS\b"),
    ("top", r"\s*(?:\S+\s+){0,3}PID\s.*\bRES\s+SHR\b"),
    ("free", r"\s*total:?\s+used:?\s+free:?\s+shared"),
    ("dma_buf", r"\s*Dma-buf Objects:"),
    ("arcstats", r"\s*(?:name\s+type\s+data|\d+ \d+ 0x\d+ \d+ \d+ \d+ \d+)\s*$"),
    ("crash_sys", r"\s*KERNEL: \S"),
    ("vmstat", r"nr_free_pages[:\s]\s*\d+\s*$"),
    ("memory_stat", r"(?:anon|cache) \d+\s*$"),
    ("vmmemctl", r"\s*(?:(?:target|current):\s+\d+ pages\s*$|balloon capabilities:)"),
    ("hv_balloon", r"\s*host_version\s*: \d+\.\d+\s*$"),
    ("cmdstat", r"\s*guest\.mem\.\w+ = \d+"),
    ("memleak", r"\s*\[\d\d:\d\d:\d\d\] Top \d+ (?:stacks with outstanding|combined)"),
    ("sockstat", r"\s*sockets: used \d+"),
    ("cgroup_stat", r"nr_(?:dying_)?descendants \d+\s*$"),
    ("cgroups", r"\s*#subsys_name\s+hierarchy\s+num_cgroups"),
)
"""First lines. A line of the same kind that comes again may begin another output."""

SHAPES: tuple[tuple[str, str], ...] = (
    ("slabinfo_line", r"\S.{0,255}?(?:\s+\d+){5}\s?:\s?tunables\b"),
    ("buddyinfo", r"\s*Node\s+\d+, zone\s+\w+(?:\s+\d+){2,32}\s*$"),
    ("zoneinfo", r"\s*Node\s+\d+, zone\s+\w+\s*$"),
    ("vmallocinfo", r"\s*(?:0x)?(?:[0-9a-f]{8,16}|\(_*ptrval_*\))-(?:0x)?\S{8,18}\s+\d+(?:\s|$)"),
    ("kmemleak", r"\s*(?:kmemleak: )?unreferenced (?:percpu )?object "),
    (
        "page_owner",
        r"\s*Page allocated via order |\d+ times(?:, \d+ pages)?(?:, .{0,200})?:\s*$"
        r"|\d+ times, \d+ pages(?:, .{0,200})?\s*$",
    ),
    ("page_owner_stacks", r"\s*(?:nr_base_pages|stack_count): \d+\s*$"),
    ("slub_trace", r"\s*TRACE \S.{0,255}? (?:alloc|free) (?:0x)?[0-9a-f]{8,16} inuse="),
    ("bpftrace", r"\s*@\w{0,64}\[.{0,256}(?:$|\]: )"),
    (
        "trace",
        r".{0,120}\b(?:kmem:)?(?:kmalloc|kmem_cache_alloc|kfree|kmem_cache_free|mm_page_\w+)"
        r"(?:_node)?:\s.{0,120}\b(?:call_site|page|pfn)=",
    ),
    ("kmem_v", r"\s*NR_[A-Z_0-9]+: \d+\s*$"),
    ("alloc_traces", r"\s*\d+ (?:<not-available>|\S+\+0x\S+(?: \[[\w-]+\])?) (?:waste=\S+ )?age="),
    (
        "allocinfo_line",
        r"\s*-?\d[\d.]*\s?[KMGTP]?i?B?\s+\d+\s+\S+:\d+\s+(?:\[[\w-]+\]\s+)?func:\S+",
    ),
    ("slabtop_line", r"\s*\d+\s+\d+\s+\d+%\s+[\d.]+K\s+\d+\s+\d+\s+\d+K\s+\S"),
    (
        "kmem_i_line",
        r"\s*(?:TOTAL MEM|USED|SLAB|FREE|CACHED|BUFFERS|SHARED)\s+\d+\s+[\d.]+ [KMGT]?B",
    ),
    ("kmem_s_line", r"\s*[0-9a-f]{8,16}\s+\d+\s+(?:\d+|\?)\s+(?:\d+|\?)\s+(?:\d+|\?)\s+\d+k\s+\S"),
    ("top_head", r"\s*(?:top - \d\d:|Tasks:\s+\d+ total|%?Cpu\(s\):\s)"),
    ("free_line", r"\s*(?:Mem:\s+\d\S*\s+\d\S*\s+\d|(?:[KMG]iB )?Mem ?:\s*[\d.]+k?\+? ?total)"),
    ("oom_pages", r"\s*\d+ (?:pages of RAM|pages RAM|pages reserved|reserved pages)\s*$"),
    (
        "meminfo_line",
        r"\s*(?:MemFree|MemAvailable|Buffers|Cached|AnonPages|SUnreclaim|SReclaimable|Slab|"
        r"KReclaimable|PageTables|KernelStack|Percpu|VmallocUsed|Committed_AS|SwapTotal|Shmem):"
        r"\s+\d+\s*kB\s*$",
    ),
    ("xen_number", r"\S{0,200}xen_memory0/(?:info/)?\w{1,64}:\s*\d+\s*$"),
    ("zswap", r"\S{0,200}(?:debug/)?zswap/\w{1,64}:\s*\d+\s*$"),
    ("zram", r"\S{0,200}mm_stat:\s*\d+(?:\s+\d+){6,9}\s*$"),
    ("status", r"(?:Name:\t\S|Vm(?:RSS|Size|HWM|Peak):\s+\d+ kB)"),
)
"""Lines that show their kind by themselves, without the heading."""

JOINED = {
    "slabinfo_line": "slabinfo",
    "slabtop_head": "slabtop",
    "slabtop_line": "slabtop",
    "allocinfo_line": "allocinfo",
    "kmem_i_line": "kmem_i",
    "kmem_s_line": "kmem_s",
    "free_line": "free",
    "top_head": "top",
    "meminfo_line": "meminfo",
    "oom_pages": "oom",
    "xen_number": "xen",
}

LABELS = {
    "oom": "OOM report",
    "slub_trace": "SLUB's TRACE lines",
    "kmem_i": "kmem -i",
    "kmem_s": "kmem -s",
    "kmem_v": "kmem -V",
    "kmem_areas": "kmem -v",
    "vmstat_m": "vmstat -m",
    "slabinfo_tool": "the slabinfo tool",
    "xen": "Xen's balloon",
    "crash_sys": "sys",
    "cmdstat": "vmware-toolbox-cmd",
    "toolbox": "vmware-toolbox-cmd",
    "memory_stat": "memory.stat",
    "cgroup_stat": "cgroup.stat",
}
"""What a kind is called where its own name is not what people say."""

_FRAME = r"\s*(?:\[<[0-9a-fx_().ptrval]+>\]\s*)?[.\w$]+\+0x[0-9a-f]+/0x[0-9a-f]+"
MEMBERS: dict[str, re.Pattern[str]] = {
    kind: re.compile(shape, re.ASCII)
    for kind, shape in (
        ("meminfo", r"\s*[A-Za-z][\w() -]{0,62}?:\s*\d{1,20}(?:\s+kB)?\s*$"),
        (
            "crash_sys",
            r"\s*(?:DEBUGINFO|DUMPFILE|CPUS|DATE|UPTIME|LOAD AVERAGE|TASKS|NODENAME|RELEASE|VERSION"
            r"|MACHINE|MEMORY|PANIC|PID|COMMAND|TASK|CPU|STATE|SYSTEM MAP|LIVE DUMP): ",
        ),
        (
            "slabinfo",
            r"\s*(?:\S+\s.*:\s?tunables|\S+(?:\s+\d+){6}(?:\s|$)|\S+(?:\s+\d+){5}\s*$|\d[\d\s]*(?::.*)?$"
            r"|:|tunables\b|slabdata|<|# )",
        ),
        ("slabtop", r"\s*(?:Active / Total |Minimum / Average)"),
        ("zoneinfo", r"\s+(?:\S+\s+\d+|pages free|protection:|pagesets|cpu:|\S+:|per-node stats)"),
        ("vmallocinfo", r"\s*(?:\S+\+0x|pages=|vmalloc|vpages|N\d+=)"),
        (
            "kmemleak",
            r'\s*(?:comm "|hex dump|backtrace|(?:[0-9a-f]{2} ){4}|0x[0-9a-f]+\s*$|\.\.\.)|'
            + _FRAME,
        ),
        ("page_owner", rf"\s*(?:PFN|Page |Charged|Slab cache page)|\s*0x[0-9a-f]+\s*$|{_FRAME}"),
        ("alloc_traces", rf"\s+(?:{_FRAME}|0x[0-9a-f]+\s*$)"),
        (
            "oom",
            r"\s*(?:\w+(?:\(\w+\))?:\s?\d+|Node \d|lowmem_reserve|\d+ (?:total )?pages?"
            r"|Unreclaimable slab|Name\s+Used|\S+\s+\d+KB\s+\d+KB|\[\s*\d+\]|\[\s*pid\s*\]"
            r"|Free swap|Total swap|Tasks state|Out of memory|CPU|Hardware|Call [Tt]race|Swap cache"
            r"|cpu \d+ (?:hot|cold)|Free pages:|\S+ cpuset=|Pid: |Modules linked"
            r"|(?:memory|memory\+swap|swap|kmem): usage|Memory cgroup|Task in /|oom-kill:"
            r"|(?:DMA|Normal|HighMem)|Active:\d|free:|Killed|\[<|Mem-[Ii]nfo)|" + _FRAME,
        ),
        (
            "kmem_i",
            r"\s*(?:TOTAL|FREE|USED|SHARED|BUFFERS|CACHED|SLAB|HUGE|SWAP|COMMIT)[A-Z ]*\s+\d+",
        ),
        ("slabinfo_tool", r"\s*\S+\s+\d+\s+\d+\s+\S+\s+\d+/\d+/\d+\s"),
        ("vmstat_m", r"\s*\S+(?:\s+\d+){4}\s*$"),
        ("kmem_areas", r"\s*[0-9a-f]{8,16}\s.*[0-9a-f]{8,16} - [0-9a-f]{8,16}\s+\d+\s*$"),
        ("zramctl", r"\s*/dev/zram\d"),
        ("xen", r"\s*(?:[\w-]+ [\w-]+|Xen hard limit):\s+(?:\d|\?)"),
        ("zram", r"\s*\d+(?:\s+\d+){6,9}\s*$"),
        ("toolbox", r"\s*\d+ MB\s*$"),
        ("kmem_s", r"\s*(?:[0-9a-f]{8,16}\s|kmem:)"),
        ("lsmod", r"\s*[\w-]{1,64}\s+\d+\s+-?\d+(?:\s|$)"),
        ("ps", r"\s*\S+\s+\d+\s.*\S"),
        ("top", r"\s*(?:Tasks|%?Cpu\(s\)|(?:[KMG]iB )?Swap ?):|\s*\d+\s+\S+\s+\S+\s.*\S"),
        ("free", r"\s*(?:Mem|Swap|Low|High|Total|-/\+ buffers/cache):\s+\d"),
        ("dma_buf", r"\s*(?:\d{8}\s|size\s|Attached|Total \d|\S+$|Exp)"),
        ("arcstats", r"\s*\w+\s+\d+\s+-?\d+\s*$"),
        ("vmmemctl", r"\s*[\w ]{1,30}:\s+(?:0x)?[0-9a-f]+(?:\s|$)"),
        ("hv_balloon", r"\s*\w+\s*: .*"),
        ("page_owner_stacks", rf"\s*0x[0-9a-f]+\s*$|{_FRAME}"),
        ("trace", r"#|\s+=>|.{0,120}<(?:user )?stack trace>"),
        ("memleak", r"\s+\S|\d+ bytes in \d+ allocations from|b['\"]"),
        ("bpftrace", r"\s+\S|.{0,256}\]: (?:\d|count )|(?:count|[\w/:.-]{1,64}),\s*$"),
        (
            "slub_trace",
            r"\s*(?:Object |CPU: |Pid: |Hardware name|Call [Tt]race|</?\w+>|[0-9a-f]{16} [0-9a-f]"
            rf"|(?:\? )?{_FRAME}|\[<[0-9a-f]+>\] \? )",
        ),
        ("kmem_v", r"\s*(?:(?:NR_|NUMA_|[A-Z]{4})[A-Z_0-9]*: \d+|VM_[A-Z_]+:\s*$)"),
        ("cmdstat", r"\s*[\w.]+ = \d+"),
        ("sockstat", r"\s*[A-Z0-9]+: inuse \d+"),
        ("cgroups", r"\s*[a-z_]+\s+\d+\s+\d+\s+[01]\s*$"),
        ("status", r"[A-Za-z_]\w{0,63}:[ \t].*"),
        ("vmstat", r"\s*[A-Za-z_][\w-]{0,63}[:\s]\s*\d{1,20}\s*$"),
        ("memory_stat", r"\s*[a-z_]\w{0,63}\s+\d{1,20}\s*$"),
    )
}
