"""Numbers have one form in whatever is printed: a share is never in powers of ten and never 100 %
of most, and one object is not "1 objects".
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crashext
from crashext.wording import percent
from tests.conftest import SESSIONS, ask
from tests.record_samples import SAMPLES, Sample

_THINGS = "objects|areas|pages|blocks|slabs|sites|caches|tasks|places|functions|groups|lines"
_FORM = re.compile(r"(?:(?<![\d.,])-?(?:\d{1,3}\.\d|0|100)|<0\.1|>99\.9) %")


@pytest.mark.parametrize(
    "share", [0, 1e-9, 0.0004, 0.001, 0.5, 0.9994, 0.9996, 1 - 1e-12, 1, -0.02]
)
def test_a_share_has_one_form(share: float) -> None:
    assert _FORM.fullmatch(percent(share))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_every_percentage_that_is_printed_has_it(sample: Sample) -> None:
    name, question = sample.name, sample.question[:1]
    out = ask("leakscan", "-v", "-r", SESSIONS / f"{name}.session", *question).out
    shares = [out[max(0, m.start() - 7) : m.end()] for m in re.finditer(r" %", out)]
    assert shares
    assert [s for s in shares if not _FORM.search(s) and "95 %" not in s] == []


def test_nobody_else_formats_one() -> None:
    folder = Path(crashext.__file__).parent
    own = re.compile(r"\{[^{}]*:[^{}]*\} ?%|:\.\d+%\}|:g\} %")
    found = {
        p.name for p in folder.rglob("*.py") if own.search(p.read_text()) and p.name != "wording.py"
    }
    assert found == set()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_one_of_a_thing_is_not_called_many(sample: Sample) -> None:
    name, question = sample.name, sample.question[:1]
    out = ask("leakscan", "-v", "-r", SESSIONS / f"{name}.session", *question).out
    assert re.findall(rf"(?<![\d.,])(?<!of )[+-]?1 (?:{_THINGS})\b", out) == []


def test_a_sentence_counts_through_the_one_word_for_it() -> None:
    """``{n:,} objects`` says "1 objects" one day; after "of", and before "are", many are meant."""
    own = re.compile(
        rf"(?<!of )(?<!the )\{{[^{{}}]*:\+?,\}} (?:{_THINGS})\b(?! (?:are|name|have|were))"
    )
    folder = Path(crashext.__file__).parent
    found = {f"{p.name}: {m[0]}" for p in folder.rglob("*.py") for m in own.finditer(p.read_text())}
    assert found == set()
