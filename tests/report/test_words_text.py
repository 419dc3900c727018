"""Words of an object on a terminal: a line each, names and numbers whole."""

from __future__ import annotations

import pytest
from rich.console import Console

from crashext.analysis.results.reports import Word
from crashext.hosts.base import U64
from crashext.report.text import print_words

NAMES = {0: "se.avg.util_est.enqueued, se.avg.util_est.ewma and 2 more", 8: "flags"}
WORDS = (
    Word(0, U64(1), 8, "two-numbers", "1, 0 (two 32-bit numbers)", 0.961, 0.1, "5 values"),
    Word(8, U64(0xFFFF888000000000), 8, "slab-pointer", "[kmalloc-256+0x0]", 1.0, 1.0, ""),
    *(Word(16 + 8 * i, U64(0), 8, "zero", "0", 1.0, 1.0, "") for i in range(4)),
)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("in_group", [False, True])
def test_words_fit_and_nothing_in_them_breaks(
    width: int, names: dict[int, str] | None, in_group: bool
) -> None:
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as page:
        print_words(console, WORDS, False, in_group, marked=(8,), names=names)
    lines = [text.rstrip() for text in page.get().splitlines()]
    assert max(map(len, lines)) <= width
    told = " ".join(lines)
    for whole in ("[kmalloc-256+0x0]", "ffff888000000000", "4 words of zeros"):
        assert whole in told
    if in_group:
        assert any("96.1 %" in text for text in lines)
    if names is not None:
        assert "se.avg.util_est.enqueued," in told
        assert "se.avg.util_est.ewma" in told
    assert sum(" * " in f"{text} " for text in lines) == 1
