"""What is kept of a dump, and what is not."""

from __future__ import annotations

from collections.abc import Callable

from crashext.hosts.keeping import Kept


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> int:
        self.done += 1
        return self.done


def kept(interrupts: Callable[[], int] = lambda: 0) -> Kept:
    return Kept(interrupts)


def test_an_answer_is_worked_out_once_for_each_key() -> None:
    answers, work = kept(), Work()
    assert [answers.get(key, work) for key in ("a", "a", "b", "a")] == [1, 1, 2, 1]


def test_what_an_interrupt_may_have_cut_short_is_not_kept() -> None:
    interrupts = Work()  # one more every time that it is asked
    answers, work = kept(interrupts), Work()
    assert [answers.get("a", work) for _ in range(3)] == [1, 2, 3]


def test_the_least_recently_used_goes_first() -> None:
    answers, work = kept(), Work()
    for key in range(48):
        answers.get(key, work)
    answers.get(0, work)
    answers.get(48, work)
    done = work.done
    answers.get(0, work)
    assert work.done == done
    answers.get(1, work)
    assert work.done == done + 1


def test_short_of_memory_reports_stay() -> None:
    answers, work = kept(), Work()
    answers.get("mark", work, large=True)
    answers.get("report", work)
    answers.shrink()
    assert answers.get("report", work) == 2
    assert answers.get("mark", work, large=True) == 3
