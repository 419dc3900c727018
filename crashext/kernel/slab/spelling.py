"""Names that people type for a slab cache, and what to say of one that no cache has.

It needs no numpy.
"""

from __future__ import annotations

from collections.abc import Iterable

from crashext.kernel.slab.families import family


def spellings(name: str) -> tuple[str, ...]:
    """`name`, and what else the same cache is called."""
    return (name, _other_spelling(name), *_names_of_other_times(name))


def _other_spelling(name: str) -> str:
    """kmalloc-1024 is kmalloc-1k since 4.20 ("mm, slab: shorten kmalloc cache names for large
    sizes"); both are said.
    """
    prefix, _, size = name.rpartition("-")
    if not prefix.endswith("kmalloc") and "kmalloc" not in prefix:
        return name
    if len(size) > 8 or not size.isascii():
        return name
    if size.isdigit() and int(size) >= 1024 and int(size) % 1024 == 0:
        kib = int(size) // 1024
        return f"{prefix}-{kib // 1024}M" if kib >= 1024 else f"{prefix}-{kib}k"
    if size[:-1].isdigit() and size[-1:] in "kM":
        return f"{prefix}-{int(size[:-1]) * (1024 if size.endswith('k') else 1 << 20)}"
    return name


def _names_of_other_times(name: str) -> tuple[str, ...]:
    """size-512 is kmalloc-512 since SLAB shares kmalloc's caches (3.10); both are said."""
    plain, variant = family(name)
    spelled = _other_spelling(plain)
    if variant == "size":
        return plain, spelled
    if variant or not plain.startswith("kmalloc-"):
        return ()
    size = spelled if plain[-1:] in "kM" else plain
    return (f"size-{size.removeprefix('kmalloc-')}",)


def unknown(name: str, every: Iterable[str], count: int) -> str:
    """That none of a kernel's `count` caches, with all their names, is called so; with the names
    that are close."""
    from rapidfuzz import fuzz, process  # for mistakes alone

    close = process.extract(name, sorted(every), scorer=fuzz.ratio, limit=3, score_cutoff=60)
    hint = ", ".join(found for found, _, _ in close)
    return f"no slab cache is called {name}" + (
        f": did you mean {hint}?" if hint else f" among the {count} of this kernel"
    )
