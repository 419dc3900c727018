"""What a word means as an address: a number in hexadecimal, a symbol, what lies near one."""

from __future__ import annotations

import pytest

from crashext.commands.addresses import address_of
from crashext.hosts.faults import HostError
from tests.fake import FakeHost

BANNER = 0xFFFFFFFF82000000


class Debugger(FakeHost):
    """One that takes C, where numbers are decimal."""

    def evaluate(self, expression: str) -> int | None:
        return int(expression) if expression.isdecimal() else BANNER if "&" in expression else None


HOST = Debugger(symbols={"linux_banner": BANNER, "add": 0xADD0})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ffff888003a4b1c0", 0xFFFF888003A4B1C0),
        ("0x12", 0x12),
        ("12", 0x12),  # as crash's own rd takes it
        ("0", 0),
        ("add", 0xADD0),
        ("linux_banner", BANNER),
        ("linux_banner+8", BANNER + 8),
        ("linux_banner - 0x10", BANNER - 16),
        ("&linux_banner", BANNER),
    ],
)
def test_a_word_means_an_address(text: str, address: int) -> None:
    assert address_of(HOST, text) == address


@pytest.mark.parametrize(
    "text",
    [
        "no_such",
        "dead",
        "ffff8881234567890123",
        "linux_banner+zz",
        "",
        "\udcff\udcfe",
        "\u0663" * 9,
    ],
)
def test_a_word_that_means_none_is_told(text: str) -> None:
    with pytest.raises(HostError, match="neither a hexadecimal address nor a symbol"):
        address_of(HOST, text)


def test_an_offset_may_not_leave_the_address_space() -> None:
    with pytest.raises(HostError, match="outside the address space"):
        address_of(HOST, "linux_banner+0xffffffffffffffff")
