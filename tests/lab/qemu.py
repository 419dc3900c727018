"""One guest in QEMU: boot it, wait for what it says on its console, dump it, end it."""

from __future__ import annotations

import json
import os
import selectors
import shlex
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any

from .errors import LabError

MONITOR_TIMEOUT = 600.0
EXIT_TIMEOUT = 20.0
CPUS = 2
LOOK_EACH = 10.0  # seconds
COMMAND_LINE = "console=ttyS0 panic=-1 loglevel=7"


@dataclass(frozen=True)
class Emulator:
    """What boots a guest of one architecture."""

    program: tuple[str, ...]
    cpu: str
    command_line: str = COMMAND_LINE


_MAX = "max,pauth-impdef=on"
"""What QEMU has of arm64's; without the latter, pointer authentication takes the time."""


EMULATORS = {
    "amd64": Emulator(("qemu-system-x86_64",), "qemu64,+rdrand,+rdseed"),
    "arm64": Emulator(
        ("qemu-system-aarch64", "-M", "virt"), "cortex-a57", COMMAND_LINE.replace("S0", "AMA0")
    ),
}


def processor(asked: str, large_pages: bool) -> str:
    """QEMU's words for the CPU that is `asked` for; "" for the usual one of the architecture.

    That of arm64, a Cortex-A57, has no pages of 16 KiB, and no addresses of 52 bits.
    """
    return {"": _MAX if large_pages else "", "max": _MAX}.get(asked, asked)


@dataclass(frozen=True)
class Machine:
    """What to boot."""

    image: Path
    initramfs: Path
    memory: str
    append: str
    disks: tuple[Path, ...]
    """Raw disk images; the guest sees /dev/vda, /dev/vdb and so on."""
    console: Path
    """Where all that the guest prints is written, after the command that started it."""
    cpu: str = ""
    """QEMU's name of it; "" for the usual one of the architecture."""
    arch: str = "amd64"

    @property
    def command(self) -> list[str]:
        """The QEMU command, less its monitor."""
        emulator = EMULATORS[self.arch]
        drives = []
        for number, disk in enumerate(self.disks):
            drives += ["-drive", f"file={disk},if=none,format=raw,cache=unsafe,id=disk{number}"]
            drives += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        return [
            # The guest does not outlive this process, not even when it is killed.
            *("setpriv", "--pdeathsig", "KILL"),
            *(*emulator.program, "-accel", "tcg,thread=multi"),
            *("-cpu", self.cpu or emulator.cpu, "-smp", str(CPUS), "-m", self.memory),
            *("-nodefaults", "-display", "none", "-no-reboot", "-device", "vmcoreinfo"),
            *("-kernel", str(self.image), "-initrd", str(self.initramfs)),
            *("-append", f"{emulator.command_line} {self.append}".strip()),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *drives,
        ]


class Guest:
    """A running guest; leaving the ``with`` block ends it, whatever happened."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._log: IO[bytes] = machine.console.open("wb")
        self._log.write(f"# {shlex.join(machine.command)}\n".encode())
        self._greeted = False
        self._monitor, theirs = socket.socketpair()
        self._monitor.settimeout(MONITOR_TIMEOUT)
        self._replies = self._monitor.makefile("rb")
        fd = theirs.fileno()
        monitor = ["-chardev", f"socket,id=monitor,fd={fd}", "-mon", "monitor,mode=control"]
        with theirs:
            self._qemu = subprocess.Popen(
                machine.command + monitor,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(fd,),
            )

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._qemu.kill()
        self._qemu.wait(EXIT_TIMEOUT)
        assert self._qemu.stdout is not None
        self._qemu.stdout.close()
        self._replies.close()
        self._monitor.close()
        self._log.close()

    def wait_for(self, text: str, timeout: float) -> None:
        """Return once the guest has printed `text`.

        An end is what the guest does, not the clock: it may keep its CPUs busy for `timeout`
        seconds of theirs, however long the host takes for those, or be idle as long.
        """
        assert self._qemu.stdout is not None
        console = self._qemu.stdout
        begun = worked = self._cpu_seconds()
        at_work = monotonic()
        tail = b""
        with selectors.DefaultSelector() as selector:
            selector.register(console, selectors.EVENT_READ)
            while text.encode() not in tail:
                if not selector.select(LOOK_EACH):
                    used = self._cpu_seconds()
                    if used > worked + 1:
                        worked, at_work = used, monotonic()
                    if used - begun > CPUS * timeout or monotonic() - at_work > timeout:
                        raise self._failure(f"did not say {text!r} in {used - begun:.0f} CPU s")
                    continue
                chunk = os.read(console.fileno(), 65536)
                if not chunk:
                    raise self._failure(f"ended before it said {text!r}")
                self._log.write(chunk)
                self._log.flush()
                tail = tail[-len(text) :] + chunk

    def _cpu_seconds(self) -> float:
        """That all threads of the guest have used."""
        fields = Path(f"/proc/{self._qemu.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def dump(self, path: Path, form: str = "elf") -> None:
        """Stop the guest and write its memory to `path`, in a form of QEMU's."""
        if not self._greeted:
            self._reply()
            self._command("qmp_capabilities")
            self._greeted = True
        self._command("stop")
        into = f"file:{path}"
        self._command("dump-guest-memory", paging=False, protocol=into, format=form)

    def go_on(self) -> None:
        """Let a guest that was dumped run again."""
        self._command("cont")

    def _command(self, name: str, **arguments: object) -> None:
        request = {"execute": name, "arguments": arguments}
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = self._reply()
            if "error" in reply:
                raise self._failure(f"monitor command {name}: {reply['error']['desc']}")
            if "return" in reply:
                return

    def _reply(self) -> dict[str, Any]:
        try:
            line = self._replies.readline()
        except TimeoutError:
            raise self._failure(f"monitor silent for {MONITOR_TIMEOUT:.0f} s") from None
        if not line:
            raise self._failure("monitor closed")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _failure(self, what: str) -> LabError:
        return LabError(f"guest {what}; see {self._machine.console}")


NO_TICK = "IO-APIC + timer doesn't work"
"""How a kernel of x86 panics where the machine is too busy for its timer to tick while that is
tested (check_timer() in arch/x86/kernel/apic/io_apic.c): before any of the guest's programs runs.
"""
_BOOTS = 5


def booted(machine: Machine, use: Callable[[Guest], None]) -> None:
    """Boot `machine` for `use`; again where its timer did not tick."""
    for left in reversed(range(_BOOTS)):
        try:
            with Guest(machine) as guest:
                use(guest)
            return
        except LabError:
            if not left or NO_TICK not in machine.console.read_text(errors="replace"):
                raise
