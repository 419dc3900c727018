"""Where kernels of two ages keep VMCOREINFO's text: crash gives the note itself to nobody."""

from __future__ import annotations

import pytest

from crashext.hosts.base import ReadFault
from crashext.hosts.vmcoreinfo import kept
from tests.fake import FakeHost, word

TEXT = b"OSRELEASE=3.10.0\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\n"
DATA, SIZE, PAGE = 0x1000, 0x2000, 0x8000
EXPECTED = {"OSRELEASE": "3.10.0", "PAGESIZE": "4096", "SYMBOL(_stext)": "ffffffff81000000"}


def test_an_array_until_4_13() -> None:
    host = FakeHost()
    host.put(DATA, TEXT.ljust(4096, b"\0"))
    host.put(SIZE, word(len(TEXT)))
    assert kept(host.read, DATA, SIZE) == EXPECTED


def test_a_pointer_since() -> None:
    host = FakeHost()
    host.put(DATA, word(PAGE))
    host.put(PAGE, TEXT.ljust(4096, b"\0"))
    host.put(SIZE, word(len(TEXT)))
    assert kept(host.read, DATA, SIZE) == EXPECTED


def test_where_it_is_not_in_the_dump() -> None:
    host = FakeHost()
    host.put(DATA, word(PAGE))
    host.put(SIZE, word(len(TEXT)))
    with pytest.raises(ReadFault):
        kept(host.read, DATA, SIZE)
