"""Ctrl-C and closed pipes at random moments, in real crash with real PyKdump: crash lives, its
prompt is clean, and nothing is left behind. Needs what `test_crash` needs.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import lab_dump, only_if
from tests.in_crash.processes import gone
from tests.in_crash.test_crash import BUILDS, Crash
from tests.lab import read_addresses

pytestmark = only_if(
    BUILDS and shutil.which("crash"),
    "NOT TESTED INSIDE CRASH: set CRASHEXT_PYKDUMP to mpykdump64.so, and install crash",
)

# {n}: another seed every time, or the answer would be there already.
COMMANDS = (
    "leakscan --seed {n}",
    "leakscan --seed {n} | head -2",
    "leakscan --seed {n} kmalloc-32 dentry filp | grep leak",
    "leakscan --seed {n} dentry | sleep 0.{n}",
    "objsim --seed {n} {node}",
)
MOMENTS = 50
UNCLEAN = re.compile(
    r"Traceback|Exception|lost sys\.stderr|segmentation|sys\.exit|BrokenPipe|restart|leakscan: \n"
)


@pytest.fixture(params=BUILDS)
def crash(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crash]:
    session = Crash(tmp_path, str(request.param), "vmcore")
    yield session
    session.quit()


def test_50_interruptions_at_random_moments(crash: Crash) -> None:
    node = f"{read_addresses(lab_dump('default').addresses('nodes'))[7]:x}"
    chance = random.Random(12)
    crash.ask("leakscan --no-refs kmalloc-32")
    descriptors = crash.descriptors()
    for moment in range(MOMENTS):
        line = COMMANDS[moment % len(COMMANDS)].format(n=moment + 1, node=node)
        if moment % 10 == 9:  # then an engine is starting, too, when Ctrl-C comes
            for engine in crash.engines():
                os.kill(engine, signal.SIGKILL)
                assert gone(engine)
        crash.terminal.sendline(line)
        time.sleep(chance.uniform(0, 2.5))
        for _ in range(chance.choice((1, 1, 1, 2))):
            crash.terminal.sendcontrol("c")
        said = crash.answer(line)
        assert not UNCLEAN.search(said), (line, said)
        crash.settle(moment)
        assert len(crash.engines()) <= 1
    assert "kmalloc-32: 200,000" in crash.ask("leakscan --no-refs kmalloc-32")
    assert crash.descriptors() == descriptors
    assert not crash.children()
    (engine,) = crash.engines()
    os.kill(crash.terminal.pid, signal.SIGKILL)
    assert gone(engine)
    crash.terminal.wait()
    crash.terminal.close()


def test_a_reader_that_leaves_early_gets_the_prompt_back(crash: Crash) -> None:
    """Nobody reads the answer any more: nobody waits for it, and nothing is said."""
    begun = time.monotonic()
    assert not crash.ask("leakscan --orphans | sleep 0.1").strip()
    assert crash.ask("leakscan --seed 7 | sleep 1").strip() == ""
    assert time.monotonic() - begun < 30
    assert len(crash.ask("leakscan --no-refs kmalloc-32 | head -2").splitlines()) == 2


def test_200_mixed_commands(crash: Crash) -> None:
    """crash grows by less than 20 MiB, one engine process, no descriptor lost."""
    node = f"{read_addresses(lab_dump('default').addresses('nodes'))[7]:x}"
    lines = (
        "leakscan --no-refs kmalloc-32",
        "leakscan --no-refs --seed {n} dentry > /dev/null",
        f"objsim {node} | head -3",
        "objsim linux_banner",
        "leakscan kmaloc-32",
        "leakscan -h > /dev/null",
        "leakscan --nonsense",
        "ps | grep swapper | head -1",
    )
    for line in lines:
        crash.ask(line.format(n=0))
    descriptors, memory, engines = crash.descriptors(), crash.memory(), crash.engines()
    for number in range(200):
        crash.ask(lines[number % len(lines)].format(n=number // 16))
    assert crash.descriptors() == descriptors
    assert crash.engines() == engines
    assert len(engines) == 1
    assert not crash.children()
    assert crash.memory() < memory + 20 * 1024
