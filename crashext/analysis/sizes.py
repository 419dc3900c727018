"""Sizes in words, for sentences that an analysis makes."""

from __future__ import annotations


def size_text(n: int) -> str:
    """``1.5 MiB``"""
    value = float(n)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n:,} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
