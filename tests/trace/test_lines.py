"""What is read from lines as kernels and tools of many versions print them.

The excerpts are real: from the lab's guest (6.1), kernel commit messages and mailing lists. Where
a version's own output was not at hand, the line is made from that version's TP_printk, as said.
"""

from __future__ import annotations

import pytest

from crashext.trace import table
from tests.trace.helpers import read, site, skipped
from tests.trace.perf_form import frame, sample

# Linux 6.1, tracefs, hash-ptr=0 (which leaves the strings empty on this kernel).
TRACEFS_6_1 = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 301950/301950   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
            init-1       [000] .....     5.624322: kmalloc: call_site=tracepoint_add_func+0xf7/0x3f0 ptr=ffff8ccc09698600 bytes_req=64 bytes_alloc=64 gfp_flags= node=-1 accounted=false
            init-1       [000] .....     5.626153: kmem_cache_free: call_site=__fput+0x100/0x250 ptr=ffff8ccc01e4d6f0 name=
            init-1       [000] .....     5.626953: mm_page_alloc: page=fffff34f80044100 pfn=0x1104 order=1 migratetype=0 gfp_flags=
         leaklab-103     [000] .....     5.646054: kmalloc: call_site=leaklab_lease_grant+0x21/0xd0 [leaklab] ptr=ffff8ccc09698e00 bytes_req=64 bytes_alloc=64 gfp_flags= node=-1 accounted=false
         leaklab-105     [000] .....     5.949530: kfree: call_site=leaklab_packets_forward+0x21/0x60 [leaklab] ptr=0000000000000000
"""  # noqa: E501

# The same kernel through trace-cmd 3.1.6, an instance's buffer.
REPORT_6_1 = """\
cpus=2
leaklab:             init-1     [000]     5.624322: kmalloc:              (tracepoint_add_func+0xf7) call_site=tracepoint_add_func+0xf7 ptr=0xffff8ccc09698600 bytes_req=64 bytes_alloc=64 gfp_flags=GFP_KERNEL node=-1 accounted=false
leaklab:             init-1     [000]     5.626153: kmem_cache_free:      (__fput+0x100) call_site=__fput+0x100 ptr=0xffff8ccc01e4d6f0 name=lsm_file_cache
leaklab:             init-1     [000]     5.626953: mm_page_alloc:        page=0xffffffffb4616834 pfn=0x1104 order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
leaklab:          leaklab-103   [000]     5.646054: kmalloc:              (leaklab_lease_grant+0x21) call_site=leaklab_lease_grant+0x21 ptr=0xffff8ccc09698e00 bytes_req=64 bytes_alloc=64 gfp_flags=GFP_KERNEL node=-1 accounted=false
leaklab:          leaklab-105   [000]     5.949530: kfree:                (leaklab_packets_forward+0x21) call_site=leaklab_packets_forward+0x21 ptr=(nil)
"""  # noqa: E501

# perf 6.1 on the same kernel, perf record -g.
PERF_6_1 = """\
perf   107 [001]     5.897625:                   kmem:kmalloc: call_site=alloc_cpumask_var_node+0x1b ptr=0xffff8f4efffc9148 bytes_req=8 bytes_alloc=8 gfp_flags=GFP_KERNEL node=-1 accounted=false
	ffffffffb6eb63b9 __traceiter_kmalloc+0x59 ([kernel.kallsyms])
	ffffffffb6eb95b7 __kmalloc_node+0xa7 ([kernel.kallsyms])
	ffffffffb75d63fb alloc_cpumask_var_node+0x1b ([kernel.kallsyms])
	ffffffffc05a61ce [unknown] ([unknown])
	           ee137 sched_setaffinity@@GLIBC_2.3.4+0x7 (/lib/x86_64-linux-gnu/libc.so.6)

perf   107 [001]     5.898331:           kmem:kmem_cache_free: call_site=do_sys_openat2+0x9b ptr=0xffff8f4ec192e000 name=names_cache
	ffffffffb6eb6469 __traceiter_kmem_cache_free+0x39 ([kernel.kallsyms])

perf   107 [001]     5.898914:             kmem:mm_page_alloc: page=0xc7d5 pfn=0xc7d5 order=0 migratetype=0 gfp_flags=GFP_HIGHUSER|__GFP_ACCOUNT
	ffffffffb6eb6469 __traceiter_mm_page_alloc+0x39 ([kernel.kallsyms])
	ffffffffb6f10469 __alloc_pages+0x139 ([kernel.kallsyms])
	ffffffffb6f20469 __folio_alloc+0x39 ([kernel.kallsyms])
	ffffffffb6f30469 shmem_alloc_folio+0x39 ([kernel.kallsyms])

"""  # noqa: E101, E501

# Commit "mm, tracing: Print symbol name for call_site in trace events" (5.4): hashed pointers.
HASHED_5_4 = """\
 a-1 [002] ....   808.188897: kmem_cache_free: call_site=putname+0x47/0x50 ptr=00000000cef40c80
 a-1 [002] ....   808.188898: kfree: call_site=security_cred_free+0x42/0x50 ptr=0000000062400820
 a-1 [002] ....   808.188913: kmem_cache_alloc: call_site=prepare_creds+0x26/0x100 ptr=0000000058d74ef8 bytes_req=168 bytes_alloc=576 gfp_flags=GFP_KERNEL
 a-1 [002] ....   808.188917: kmalloc: call_site=security_prepare_creds+0x77/0xa0 ptr=0000000062400820 bytes_req=8 bytes_alloc=336 gfp_flags=GFP_KERNEL|__GFP_ZERO
"""  # noqa: E501

# From a mailing list, about CMA; a comm with slashes and a dash, powerpc, before 5.4.
PERF_POWERPC = """\
jbd2/dm-3-8  7666 [000]  4666.621521: kmem:kmalloc: call_site=c0000000003ce108 ptr=0xc000000fcd646360 bytes_req=96 bytes_alloc=96 gfp_flags=GFP_NOFS|GFP_ZERO
                  27f1dc .__kmalloc (/boot/vmlinux)
                       0 [unknown] ([unknown])
                  3de108 .ext4_find_extent (/boot/vmlinux)
                  3e4038 .ext4_ext_map_blocks (/boot/vmlinux)
"""  # noqa: E501

# From the format strings of 3.10 (%lx, %p, %zu, pfn=%lu).
FORMAT_3_10 = """\
     kworker/0:1-45    [000] d.s2  1234.567890: kmalloc: call_site=ffffffff8118a2b4 ptr=ffff88003605e000 bytes_req=52 bytes_alloc=64 gfp_flags=GFP_ATOMIC
     kworker/0:1-45    [000] d.s2  1234.567891: kmalloc_node: call_site=ffffffff8118a2b4 ptr=ffff88003605e040 bytes_req=52 bytes_alloc=64 gfp_flags=GFP_ATOMIC node=-1
     kworker/0:1-45    [000] d.s2  1234.567892: kmem_cache_alloc_node: call_site=ffffffff8118a2b8 ptr=ffff88003605e080 bytes_req=192 bytes_alloc=192 gfp_flags=GFP_KERNEL node=0
     kworker/0:1-45    [000] d.s2  1234.567893: kmalloc: call_site=ffffffff8118a2b4 ptr=          (null) bytes_req=52 bytes_alloc=64 gfp_flags=GFP_ATOMIC
              sh-2000  [001] ....  1234.567894: kfree: call_site=ffffffff81190000 ptr=(null)
              sh-2000  [001] ....  1234.567895: kfree: call_site=ffffffff81190000 ptr=ffff88003605e040
              sh-2000  [001] ....  1234.567896: mm_page_alloc: page=ffffea0000abc000 pfn=44992 order=2 migratetype=0 gfp_flags=GFP_KERNEL
              sh-2000  [001] ....  1234.567897: mm_page_alloc: page=          (null) pfn=0 order=9 migratetype=0 gfp_flags=GFP_KERNEL
              sh-2000  [001] ....  1234.567898: mm_page_free: page=ffffea0000abc000 pfn=44992 order=2
"""  # noqa: E501


@pytest.mark.parametrize("text", [TRACEFS_6_1, REPORT_6_1], ids=["tracefs", "trace-cmd"])
def test_one_kernel_two_tools(text: str) -> None:
    trace = read(text)
    assert (trace.allocs, trace.frees, trace.hashed) == (3, 1, False)
    assert trace.outstanding.address.tolist() == [0xFFFF8CCC09698600, 0xFFFF8CCC09698E00]
    assert [s.function for s in trace.sites] == [
        "leaklab_lease_grant+0x21",
        "tracepoint_add_func+0xf7",
    ]
    assert trace.outstanding_pages.address.tolist() == [0x1104]
    assert trace.outstanding_pages.size.tolist() == [8192]
    assert (trace.begin, trace.end) == (5624322000, 5646054000)
    comms = {trace.tasks[i].comm: trace.tasks[i].pid for i in trace.outstanding.task.tolist()}
    assert comms == {"init": 1, "leaklab": 103}
    assert skipped(trace, "frees of NULL") == 1
    assert skipped(trace, "could not be read") == 0


def test_the_module_where_it_is_printed() -> None:
    assert site(read(TRACEFS_6_1), "leaklab_lease_grant+0x21").module == "leaklab"
    assert site(read(REPORT_6_1), "leaklab_lease_grant+0x21").module == ""


def test_perf_with_stacks() -> None:
    trace = read(PERF_6_1)
    assert (trace.allocs, trace.frees) == (2, 1)
    [only] = trace.by_stack
    assert trace.stacks[only.index] == (
        "__kmalloc_node",
        "alloc_cpumask_var_node",
        "0xffffffffc05a61ce",
    )
    assert [s.function for s in trace.pages] == ["shmem_alloc_folio"]
    assert [(c.name, c.frees) for c in trace.caches if c.name == "names_cache"] == [
        ("names_cache", 1)
    ]
    assert trace.tasks[int(trace.outstanding.task[0])].pid == 107


def test_the_perf_form_of_the_tests_is_perf_s() -> None:
    for line in PERF_6_1.splitlines():
        head, found, rest = line.partition(": ")
        if found and line[0] != "\t":
            comm, pid, cpu, time = head.split()
            event, _, message = rest.strip().partition(": ")
            name = event.removeprefix("kmem:")
            assert sample(comm, int(pid), int(cpu[1:-1]), time, name, message, True) == line
    assert frame("ffffffffb6eb63b9", "f") == "\tffffffffb6eb63b9 f+0x1 ([kernel.kallsyms])"
    # perf script -G of the same file pads the command.
    bare = "            perf   107 [001]     5.897762:                     kmem:kfree: ptr=(nil)"
    assert sample("perf", 107, 1, "5.897762", "kfree", "ptr=(nil)", False) == bare


def test_hashed_pointers_pair_and_are_said_to_be_hashed() -> None:
    trace = read(HASHED_5_4)
    assert trace.hashed
    assert (trace.allocs, trace.frees, len(trace.outstanding)) == (2, 2, 2)
    assert skipped(trace, "before the trace") == 2


def test_powerpc_perf_and_a_task_with_a_dash() -> None:
    trace = read(PERF_POWERPC)
    assert [s.function for s in trace.sites] == ["0xc0000000003ce108"]
    task = trace.tasks[int(trace.outstanding.task[0])]
    assert (task.comm, task.pid) == ("jbd2/dm-3-8", 7666)
    assert trace.stacks[int(trace.outstanding.stack[0])][-1] == ".ext4_ext_map_blocks"


def test_formats_of_3_10() -> None:
    trace = read(FORMAT_3_10)
    assert trace.outstanding.address.tolist() == [0xFFFF88003605E000, 0xFFFF88003605E080]
    assert [c.name for c in trace.caches if c.what == "objects"] == ["kmem_cache 192", "kmalloc 64"]
    assert skipped(trace, "failed") == 2
    assert len(trace.outstanding_pages) == 0
    assert site(trace, "(pages of order 2)").frees == 1
    assert trace.tasks[int(trace.outstanding.task[0])].comm == "kworker/0:1"


def test_32_bit_pointers_are_not_hashes() -> None:
    line = " sh-1 [000] .... 1.000000: kmalloc: call_site=f+0x1/0x2 ptr=c1234560 bytes_req=8 bytes_alloc=8 gfp_flags=GFP_KERNEL\n"  # noqa: E501
    trace = read(line)
    assert trace.outstanding.address.tolist() == [0xC1234560]
    assert not trace.hashed


@pytest.mark.parametrize(
    "where",
    [
        "func+0x1a/0x40 [mod]",
        "func+0x1a",
        "func+0x1a/0x40",
        "func+0x1a/0x40 [mod] <ffffffffc0123456>",
        "func+0x1a/0x40 <ffffffffc0123456>",
    ],
)
def test_spellings_of_one_place(where: str) -> None:
    line = f" sh-1 [000] .... 1.000000: kmalloc: call_site={where} ptr=ffff888012345678 bytes_req=8 bytes_alloc=8 gfp_flags=\n"  # noqa: E501
    [only] = read(line).sites
    assert (only.function, only.module) == ("func+0x1a", "mod" if "[mod]" in where else "")


def test_what_was_lost_is_counted() -> None:
    trace = read(
        "# entries-in-buffer/entries-written: 1000/5000   #P:4\n"
        "CPU:1 [LOST 12 EVENTS]\n"
        "CPU:2 [LOST EVENTS]\n"
        "CPU:0 [7 EVENTS DROPPED]\n"
        "            sh     1 [000]     1.000000: PERF_RECORD_LOST lost 5\n"
        " sh-1 [000] .... 1.000000: kfree: call_site=f+0x1/0x2 ptr=ffff888012345678\n"
        " sh-1 [000] .... 1.000001: sched_waking: comm=x pid=1 prio=120 target_cpu=000\n"
        " sh-1 [000] .... 1.000002: kmalloc: call_site=f+0x1/0x2 ptr=ffff8880zzzz bytes_req=8\n"
        " sh-1 [000] .... 1.000003: kmalloc: call_site=f+0x1/0x2 ptr=(____ptrval____) bytes_req=8 bytes_alloc=8 gfp_flags=\n"  # noqa: E501
        " sh-1 [000] .... 1.000004: kfree: call_site=f+0x1/0x2 ptr=ffff8880123"
    )
    assert skipped(trace, "events lost, as") == 24
    assert skipped(trace, "number unknown") == 1
    assert skipped(trace, "overwritten") == 4000
    assert skipped(trace, "before the trace") == 1
    assert skipped(trace, "other events") == 1
    assert skipped(trace, "could not be read") == 1
    assert skipped(trace, "did not print") == 1
    assert skipped(trace, "cut-off") == 1
    assert trace.events == 1


TWO_CPUS = """\
 a-1 [000] ..... 1.000000: kmalloc: call_site=f+0x1/0x2 ptr=ffff888000000040 bytes_req=8 bytes_alloc=8 gfp_flags=
 b-2 [001] ..... 1.000001: kmalloc: call_site=g+0x1/0x2 ptr=ffff888000000080 bytes_req=8 bytes_alloc=8 gfp_flags=
 a-1 [000] ..... 1.000002: <stack trace>
 => trace_event_raw_event_kmalloc
 => f
 => fork
 b-2 [001] ..... 1.000003: <stack trace>
 => g+0x1/0x2
 => clone+0x3/0x4 [mod]
"""  # noqa: E501


@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
def test_stacks_of_two_cpus_in_one_another(piece: int) -> None:
    trace = read(TWO_CPUS, piece)
    stacks = [trace.stacks[i] for i in trace.outstanding.stack.tolist()]
    assert stacks == [("f", "fork"), ("g", "clone")]


@pytest.mark.parametrize("piece", [400, 1 << 20])
def test_a_stack_finds_its_event_however_late_it_comes(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host of a virtual machine took a CPU away between an event and its stack."""
    monkeypatch.setattr(table, "_PIECE", piece)
    first, event, *_, header, frame, further = TWO_CPUS.splitlines(keepends=True)
    late = " a-1 [000] ..... 1.000002: <stack trace>\n => f\n => fork\n"
    busy = "".join(
        event.replace("0000080 ", f"{0x100 + 64 * i:07x} ") + header + frame + further
        for i in range(200)
    )
    trace = read(first + busy + late, 100)
    assert skipped(trace, "stacks of no known event") == 0
    stacks = [trace.stacks[i] for i in trace.outstanding.stack.tolist()]
    assert stacks == [("f", "fork"), *[("g", "clone")] * 200]
