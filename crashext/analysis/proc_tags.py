"""Memory allocation profiling against the kernel's counters: which line of source holds what.

allocinfo counts a slab's pages at the line that makes slabs, and its objects again where they are
asked for. What a counter has (page cache, anonymous memory, slabs) is no riddle; a line that holds
more pages than its counter has is.
"""

from __future__ import annotations

from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.proc import ProcReport
from crashext.analysis.verdict.facts import TagFact
from crashext.procfs.alloctraces import AllocTag

_MOST = 64
# Files that take pages for what meminfo counts, and the parts of the split they end up in.
_COUNTED_BY = {
    "mm/slub.c": ("slab, reclaimable", "slab, unreclaimable", "slab"),
    "mm/slab.c": ("slab, reclaimable", "slab, unreclaimable", "slab"),
    "mm/slab_common.c": ("slab, reclaimable", "slab, unreclaimable", "slab"),
    "mm/filemap.c": ("file cache", "buffers"),
    "mm/readahead.c": ("file cache", "buffers"),
    "mm/page_cache_ra.c": ("file cache", "buffers"),
    "fs/buffer.c": ("file cache", "buffers"),
    "mm/memory.c": ("anonymous",),
    "mm/huge_memory.c": ("anonymous",),
    "mm/khugepaged.c": ("anonymous", "file cache"),
    "mm/shmem.c": ("shmem and tmpfs",),
    "mm/vmalloc.c": ("vmalloc", "kernel stacks"),
    "mm/execmem.c": ("vmalloc",),
    "kernel/fork.c": ("kernel stacks", "vmalloc"),
    "mm/percpu-vm.c": ("per-CPU",),
    "mm/hugetlb.c": ("hugetlb",),
    "mm/zsmalloc.c": ("zswap pool", "zsmalloc", "zram"),
}


def tag_facts(report: ProcReport) -> tuple[TagFact, ...]:
    """The largest lines of source."""
    info = report.snapshot.allocinfo
    if info is None:
        return ()
    return tuple(
        TagFact(
            f"{tag.file}:{tag.line}",
            tag.function,
            tag.module,
            tag.bytes,
            tag.calls,
            bool(tag.calls) and round(tag.bytes / tag.calls) >= report.snapshot.page_size * 0.99,
            _counted(report.split, _COUNTED_BY.get(_file(tag), ())),
        )
        for tag in info.tags[:_MOST]
    )


def _file(tag: AllocTag) -> str:
    """The path inside the source tree: some builds print a longer one."""
    parts = tag.file.split("/")
    return "/".join(parts[-2:]) if len(parts) > 2 and parts[-2] in ("mm", "fs") else tag.file


def _counted(split: MemorySplit | None, parts: tuple[str, ...]) -> int | None:
    if not parts or split is None:
        return None
    return sum(split.get(name) for name in parts)
