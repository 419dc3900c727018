"""An interrupt is raised once, where it does no harm: never inside a question or an import."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import pytest

from crashext.resident.interrupts import Interrupts, Unread

_NUMBERS = (signal.SIGINT, signal.SIGPIPE, signal.SIGALRM, signal.SIGTTOU)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = [signal.getsignal(number) for number in _NUMBERS]
    hook = sys.unraisablehook
    installed = Interrupts()
    installed.install()
    yield installed
    installed.end()
    for number, handler in zip(_NUMBERS, before, strict=True):
        signal.signal(number, handler)
    sys.unraisablehook = hook


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def work() -> None:
    """Longer than an interrupt may take to come."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        time.sleep(0.001)


def test_between_commands_nothing_is_raised(interrupts: Interrupts) -> None:
    send(signal.SIGINT)
    interrupts.begin()
    interrupts.end()
    send(signal.SIGPIPE)
    assert interrupts.count == 0


def test_what_they_become(interrupts: Interrupts) -> None:
    interrupts.begin()
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    with pytest.raises(Unread):
        send(signal.SIGPIPE)
    assert interrupts.count


def test_a_second_one_lets_the_answer_to_the_first_be_given(
    interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts.begin()
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    counted = interrupts.count
    send(signal.SIGINT)
    assert interrupts.count == counted  # what is being told is no less whole
    with pytest.raises(Unread):
        send(signal.SIGPIPE)
    # An answer that does not come is ended, and another command is not concerned.
    monkeypatch.setattr("crashext.resident.interrupts._ANSWERING", 0.0)
    interrupts.begin()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_one_that_waited_counts_again_where_it_cuts_something_off(interrupts: Interrupts) -> None:
    """What was begun while it waited is partial, too."""
    interrupts.begin()
    with pytest.raises(KeyboardInterrupt), interrupts:  # noqa: PT012  (as above)
        send(signal.SIGINT)
        begun = interrupts.count
    assert interrupts.count > begun


def test_a_question_is_not_cut_in_two(interrupts: Interrupts) -> None:
    done = []
    interrupts.begin()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  (where it is raised is the point)
        with interrupts:
            send(signal.SIGINT)
            done.append("answer")
        done.append("after")
    assert done == ["answer"]


def test_an_import_is_not_cut_in_two(
    interrupts: Interrupts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    interrupts.begin()
    with pytest.raises(KeyboardInterrupt):
        import_and_work()
    assert sys.modules["slow_to_import"].whole


def import_and_work() -> None:
    __import__("slow_to_import")
    work()


def test_one_that_a_destructor_swallowed_comes_again(interrupts: Interrupts) -> None:
    class Swallows:
        def __del__(self) -> None:
            send(signal.SIGINT)

    interrupts.begin()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        swallowing = Swallows()
        del swallowing
        work()


def test_one_command_leaves_nothing_behind() -> None:
    numbers = (signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    mine = Interrupts()
    with pytest.raises(KeyboardInterrupt), mine.command():
        send(signal.SIGINT)
    assert mine.count
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before


def test_after_the_last_command_one_means_nothing() -> None:
    """The process ends: Python's own handler would do so with a traceback."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
    try:
        with Interrupts().command(last=True):
            pass
        send(signal.SIGINT)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def test_one_comes_while_other_threads_are_waited_for(interrupts: Interrupts) -> None:
    """That is where a run is nearly all of the time when it reads with more than one."""
    interrupts.begin()
    end = time.monotonic() + 5
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        waited = pool.submit(time.sleep, 0.5)
        Timer(0.1, send, (signal.SIGINT,)).start()
        waited.result()
        while time.monotonic() < end:  # only where it was missed
            time.sleep(0.01)
    assert waited.running() or waited.done()
