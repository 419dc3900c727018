"""A guest whose timer did not tick on a busy machine is booted again; one that fails is not."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.lab import qemu
from tests.lab.errors import LabError


class _Guest:
    """Says what the next of `consoles` has, then is gone."""

    consoles: ClassVar[list[str]] = []

    def __init__(self, machine: qemu.Machine) -> None:
        self.said = self.consoles.pop(0)
        machine.console.write_text(self.said)

    def __enter__(self) -> _Guest:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, consoles: list[str]) -> list[str]:
    used: list[str] = []

    def use(guest: qemu.Guest) -> None:
        assert isinstance(guest, _Guest)
        used.append(guest.said)
        if "panic" in guest.said:
            raise LabError("the guest ended")

    monkeypatch.setattr(qemu, "Guest", _Guest)
    monkeypatch.setattr(_Guest, "consoles", consoles)
    machine = qemu.Machine(tmp_path, tmp_path, "1M", "", (), tmp_path / "console")
    qemu.booted(machine, use)
    return used


_NO_TICK = f"Kernel panic - not syncing: {qemu.NO_TICK}!  Boot with apic=debug"


def test_a_guest_whose_timer_did_not_tick_is_booted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _boot(tmp_path, monkeypatch, [_NO_TICK, _NO_TICK, "ready"])[-1] == "ready"


@pytest.mark.parametrize("console", ["Kernel panic - not syncing: Fatal exception", _NO_TICK])
def test_one_that_fails_otherwise_or_for_ever_is_an_error(
    console: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consoles = [console] * 9
    with pytest.raises(LabError, match="the guest ended"):
        _boot(tmp_path, monkeypatch, consoles)
    assert len(consoles) == (4 if console == _NO_TICK else 8)
