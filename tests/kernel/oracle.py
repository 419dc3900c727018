"""drgn itself on a lab dump, the independent oracle of these tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from unittest.mock import patch

import drgn
from drgn.helpers.linux import slab as drgn_slab
from drgn.helpers.linux.mm import PageSlab, for_each_page
from drgn.helpers.linux.slab import for_each_slab_cache, slab_cache_for_each_allocated_object
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from tests.conftest import few, lab_dump, lab_host
from tests.kernel.oracle_old_slab import allocated_in_old_slabs, has_old_slabs


@few
def drgn_program(name: str) -> drgn.Program:
    """A lab dump opened by drgn alone, the module's debug info included where it is loaded."""
    dump = lab_dump(name)
    program = drgn.Program(vmcoreinfo=_told(name))
    program.set_core_dump(dump.vmcore)
    program.load_debug_info([dump.vmlinux], main=True)
    if dump.module.exists():
        program.load_debug_info([dump.module])
    return program


def _told(name: str) -> bytes | None:
    """VMCOREINFO from the dump's memory, which drgn wants, where the dump has no note of it: before
    4.17 the guest cannot tell QEMU where it is."""
    with lab_dump(name).vmcore.open("rb") as core:
        notes = (s for s in ELFFile(core).iter_segments() if isinstance(s, NoteSegment))
        if any(note["n_name"] == "VMCOREINFO" for one in notes for note in one.iter_notes()):
            return None
    lines = lab_host(name).info().vmcoreinfo.items()
    return "".join(f"{key}={value}\n" for key, value in lines).encode()


def allocated_by_drgn(program: drgn.Program) -> Iterator[tuple[drgn.Object, list[int]]]:
    """Every slab cache with the addresses of its allocated objects, as drgn iterates over them."""
    if has_old_slabs(program):
        yield from allocated_in_old_slabs(program)
        return
    # drgn looks at every page of the machine for every cache, which takes minutes. Its own
    # predicate finds the slab pages once; then each cache is shown only its own.
    pages: dict[int, list[drgn.Object]] = defaultdict(list)
    for page in for_each_page(program):
        try:
            if PageSlab(page):
                slab = drgn_slab_of(program, page)
                pages[slab.slab_cache.value_()].append(page)
        except drgn.FaultError:
            continue
    for cache_object in for_each_slab_cache(program):
        own = pages[cache_object.value_()]

        def of_this_cache(_: drgn.Program, own: list[drgn.Object] = own) -> Iterator[drgn.Object]:
            return iter(own)

        with patch.object(drgn_slab, "for_each_page", of_this_cache):
            objects = slab_cache_for_each_allocated_object(cache_object, "void")
            cached = _cached_with_red_zones(cache_object)
            yield cache_object, sorted(a for o in objects if (a := o.value_()) not in cached)


def _cached_with_red_zones(cache_object: drgn.Object) -> set[int]:
    """Free objects of SLAB's array caches that drgn (0.3.0) takes for allocated.

    With CONFIG_DEBUG_SLAB an object begins behind its first red zone; what is freed goes into an
    array cache by where the red zone is (cache_free_debugcheck()), and drgn looks for it there by
    the object's own address. The lab's own truth says the same of the module's caches.
    """
    offset = cache_object.obj_offset.value_() if hasattr(cache_object, "obj_offset") else 0
    if not offset:
        return set()
    helper = drgn_slab._get_slab_cache_helper(cache_object)
    return {address + offset for address in getattr(helper, "_array_caches")}  # noqa: B009


def drgn_slab_of(program: drgn.Program, page: drgn.Object) -> drgn.Object:
    """The slab that a page is; d122019bf061 (5.17) took struct slab out of struct page."""
    try:
        return drgn.cast("struct slab *", page)
    except LookupError:
        return page
