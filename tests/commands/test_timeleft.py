"""What is left of long work is told by its share so far."""

from __future__ import annotations

from crashext.commands.timeleft import TimeLeft


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float) -> None:
        self.now += seconds


def test_steady_work_ends_when_it_was_said() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    said = []
    for done in range(0, 1001, 100):
        said.append(left.after(done, 1000))
        clock.after(2)
    assert said == ["", "", *(f"{s} s left" for s in (16, 14, 12, 10, 8, 6, 4, 2, 0))]


def test_a_share_is_one_however_it_is_written() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.after(0, 1000)
    clock.after(4)
    assert left.after(15, 100) == left.after(150, 1000) == "23 s left"
    assert left.after(148, 1000) == "23 s left"


def test_a_step_that_counts_anew_is_judged_by_itself() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.after(0, 10)
    clock.after(50)
    assert left.after(5, 10) == "50 s left"
    assert left.after(1, 40) == ""  # another step
    clock.after(60)
    assert left.after(3, 40) == "18 min left"
    assert left.after(0, 40) == ""  # the same once more
    clock.after(4)
    assert left.after(0, 40) == ""  # nothing done yet: nobody knows
