"""Debug files by build ID from debuginfod servers: drgn asks them, only where we say so.

drgn 0.3 asks by itself, and without a word, where a kernel's release says Fedora, and nowhere else:
`by_hand` takes that out of its hands. A process of its own asks, which is this file run as a
program: libdebuginfod waits for a first answer up to three times $DEBUGINFOD_TIMEOUT, 90 seconds
each if that is not set, and hears nothing meanwhile. What comes is kept in its cache.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import drgn

_FINDER = "debuginfod"
_FAILED = re.compile(r"couldn't download.* from debuginfod: (.+)")
_CAME = re.compile(r"downloading from debuginfod at |in debuginfod cache$")
_NOT_IT = "what came is not it, or not whole"
_WHY_NOT = {
    "No such file or directory": "they have none",
    "Timer expired": "no answer in time",
}
_GRACE = 1.0  # seconds for libdebuginfod to put away what it had begun


def servers() -> list[str]:
    """The hosts that $DEBUGINFOD_URLS names; what else is in an address may be a secret."""
    urls = os.environ.get("DEBUGINFOD_URLS", "").split()
    return [urlsplit(url).hostname or url for url in urls]


def by_hand(program: drgn.Program) -> None:
    """Servers are not asked before `download` does."""
    finders = program.enabled_debug_info_finders()
    program.set_enabled_debug_info_finders([name for name in finders if name != _FINDER])


def download(program: drgn.Program, build_id: str) -> str:
    """Load the kernel's debug info from the servers; "" or, in a few words, why it is not loaded.

    The first Ctrl-C stops it, and nothing else. A terminal shows how far it is.
    """
    path, why = _asked(build_id)
    if not path:
        return why
    try:
        program.load_debug_info([path], main=True)
    except Exception:  # drgn raises bare Exception for what it has no class for
        return _NOT_IT
    return ""


def _asked(build_id: str) -> tuple[str, str]:
    """(file, "") or ("", why there is none), by a process that the first Ctrl-C ends."""
    # Ctrl-C of a terminal is ours alone, and the process's own are held until it can take one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, build_id],  # -P: drgn.py beside it is not drgn
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if sys.stderr.isatty() else subprocess.DEVNULL,
            text=True,
            process_group=0,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process, _ended_by_interrupt(process) as stopped:
        out, _ = process.communicate()
    if stopped:
        return "", "stopped"
    path, _, why = out.rstrip("\n").partition("\n")
    return path, "" if path else why or "the process that asked has died"


@contextlib.contextmanager
def _ended_by_interrupt(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Ctrl-C is noted in the list that this gives, once: the second is everybody's again."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.getsignal(signal.SIGINT)
    later = threading.Timer(_GRACE, process.kill)

    def end(number: int, _: object) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, before)
        process.send_signal(signal.SIGINT)
        later.start()

    signal.signal(signal.SIGINT, end)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
        later.cancel()
        process.kill()


class _Silent(logging.StreamHandler):  # type: ignore[type-arg]
    """Prints nothing. drgn shows progress only where a handler would print on standard error, and
    says nowhere else why a download failed.
    """

    def __init__(self) -> None:
        super().__init__(sys.__stderr__)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _ask(build_id: str) -> tuple[str, str]:
    logger, handler = logging.getLogger("drgn"), _Silent()
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    program = drgn.Program()
    if _FINDER not in program.registered_debug_info_finders():
        return "", "this drgn was built without debuginfod"
    program.set_enabled_debug_info_finders([_FINDER])
    kernel = program.extra_module("kernel", create=True)
    kernel.build_id = bytes.fromhex(build_id)
    kernel.loaded_file_status = drgn.ModuleFileStatus.DONT_WANT
    try:
        program.load_module_debug_info(kernel)
    except drgn.MissingDebugInfoError:
        pass
    except Exception as error:  # drgn raises bare Exception for what it has no class for
        return "", " ".join(str(error).split())
    return kernel.debug_file_path or "", _why_not(handler.said)


def _why_not(said: list[str]) -> str:
    why = next((m[1] for line in said if (m := _FAILED.search(line))), "")
    if not why and any(_CAME.search(line) for line in said):
        return _NOT_IT
    return _WHY_NOT.get(why, why) or "it did not come"


if __name__ == "__main__":
    # libdebuginfod stops a download, and puts it away, where SIGINT has a handler.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    print("\n".join(_ask(sys.argv[1])))
