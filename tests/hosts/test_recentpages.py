"""Words of few pages, read again and again: each page is asked for once."""

from __future__ import annotations

from crashext.hosts.recentpages import RecentPages

PAGE = 4096


class Memory:
    """Each byte is its address, cut to a byte; some pages are not there."""

    def __init__(self, *holes: int) -> None:
        self.holes, self.asked = holes, list[list[int]]()

    def fetch(self, pages: list[int]) -> list[bytes | None]:
        self.asked.append(pages)
        return [None if p in self.holes else bytes(b & 0xFF for b in range(PAGE)) for p in pages]


def test_a_page_is_asked_for_once_whatever_is_read_of_it() -> None:
    memory = Memory()
    pages = RecentPages(memory.fetch)
    assert pages.read(3 * PAGE + 8, 2) == b"\x08\x09"
    assert pages.read(4 * PAGE - 1, 1) == b"\xff"
    assert pages.many([3 * PAGE, 5 * PAGE + 1, 7 * PAGE], 1) == [b"\0", b"\x01", b"\0"]
    assert memory.asked == [[3 * PAGE], [5 * PAGE, 7 * PAGE]]


def test_what_is_in_no_one_page_is_asked_for_by_itself() -> None:
    memory = Memory(8 * PAGE)
    pages = RecentPages(memory.fetch)
    assert pages.read(4 * PAGE - 1, 2) is None
    assert memory.asked == []
    assert pages.many([8 * PAGE, 9 * PAGE], 4) == [None, bytes(range(4))]
    assert pages.read(8 * PAGE, 4) is None  # nor asked for again
    assert memory.asked == [[8 * PAGE, 9 * PAGE]]


def test_old_pages_are_given_up() -> None:
    memory = Memory()
    pages = RecentPages(memory.fetch)
    for number in range(5000):
        assert pages.read(number * PAGE, 1) == b"\0"
    assert pages.read(4999 * PAGE, 1) == b"\0"
    assert len(memory.asked) == 5000
    pages.read(0, 1)
    assert len(memory.asked) == 5001
