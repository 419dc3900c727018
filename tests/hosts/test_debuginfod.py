"""Debug files by build ID from a server: asked where one is set, with an end to every wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import drgn
import pytest

from crashext.commands.arguments import leakscan_parser, objsim_parser
from crashext.commands.opening import open_dump
from crashext.commands.options import _source
from crashext.commands.place import SHELL
from crashext.hosts.bare import BareHost
from crashext.hosts.debuginfod import by_hand, download, servers
from tests.conftest import alone, lab_dump, lab_host

SECONDS = 20  # that a server which never answers would take: more than any test waits


class Server:
    """Serves one file under its build ID. `held` keeps it from answering at all, or after a bit."""

    def __init__(self, build_id: str, file: Path | None, held: str = "") -> None:
        self.asked: list[str] = []
        self.begun = threading.Event()
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if held == "silent":
                    outer.begun.set()
                    outer.over.wait(SECONDS)
                if file is None or self.path != f"/buildid/{build_id}/debuginfo":
                    self.send_response(404)
                    self.end_headers()
                    return
                size = file.stat().st_size
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                with file.open("rb") as data:
                    if held == "slow":
                        self.wfile.write(data.read(1 << 16))
                        outer.begun.set()
                        outer.over.wait(SECONDS)
                        return
                    while piece := data.read(1 << 22):
                        self.wfile.write(piece)

            def log_request(self, code: object = "", size: object = "") -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Who asked went away, as tests do; its traceback would be in the next one's
                output."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Serve:
    """`serve(file)` sets $DEBUGINFOD_URLS to a server that has it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("DEBUGINFOD_CACHE_PATH", str(folder))
        self._patch = patch
        self.running: list[Server] = []

    def __call__(self, file: Path | None, held: str = "") -> Server:
        server = Server(build_id(), file, held)
        self.running.append(server)
        self._patch.setenv("DEBUGINFOD_URLS", f"http://name:secret@127.0.0.1:{server.port}/")
        return server


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    made = Serve(tmp_path / "cache", monkeypatch)
    yield made
    for server in made.running:
        server.close()


def build_id() -> str:
    return lab_host("default").info().vmcoreinfo["BUILD-ID"]


def program() -> drgn.Program:
    opened = drgn.Program()
    opened.set_core_dump(str(lab_dump("default").vmcore))
    by_hand(opened)
    return opened


def interrupt_when(server: Server) -> threading.Thread:
    """Ctrl-C, once, as soon as the server was asked, or has sent a bit."""

    def go() -> None:
        server.begun.wait(SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=go)
    thread.start()
    return thread


def test_only_hosts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", " https://a:secret@one.example:8002/x?y  file:///srv ")
    assert servers() == ["one.example", "file:///srv"]


@pytest.mark.usefixtures("lab")
def test_the_debug_info_comes_from_the_server(serve: Serve) -> None:
    server, opened = serve(lab_dump("default").vmlinux), program()
    assert download(opened, build_id()) == ""
    assert (
        opened["init_uts_ns"].name.release.string_().decode() == lab_host("default").info().release
    )
    assert server.asked == [f"/buildid/{build_id()}/debuginfo"]
    assert "debuginfod" not in opened.enabled_debug_info_finders()


@pytest.mark.usefixtures("lab")
def test_a_server_without_it_is_said(serve: Serve) -> None:
    serve(None)
    assert download(program(), build_id()) == "they have none"


@pytest.mark.usefixtures("lab")
def test_a_server_that_is_not_there_is_said(serve: Serve) -> None:
    serve(None).close()
    assert download(program(), build_id()) == "Connection refused"


@pytest.mark.usefixtures("lab")
def test_a_server_that_sends_something_else_is_said(serve: Serve) -> None:
    serve(lab_dump("default").folder / "console.log")
    assert download(program(), build_id()) == "what came is not it, or not whole"


@pytest.mark.usefixtures("lab")
def test_a_server_that_never_answers_has_an_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBUGINFOD_TIMEOUT", "1")
    monkeypatch.setenv("DEBUGINFOD_RETRY_LIMIT", "0")
    serve(None, "silent")
    assert download(program(), build_id()) == "no answer in time"


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("held", ["silent", "slow"])
def test_one_interrupt_stops_it_and_nothing_else(serve: Serve, held: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    ctrl_c = interrupt_when(serve(lab_dump("default").vmlinux, held))
    assert download(program(), build_id()) == "stopped"
    ctrl_c.join()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("lab")
def test_whom_it_asks_is_said_and_it_goes_on_without(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(None)
    dump = alone("default", "vmcore.d31")
    host = open_dump(dump, [])
    kernel = f"kernel {host.info().release} (build ID {build_id()})"
    assert capsys.readouterr().err.splitlines() == [
        f"no debug info here for {kernel}: asking 127.0.0.1 for it "
        "(--no-debuginfod, or Ctrl-C once, goes on without)",
        f"debug info of {kernel} from 127.0.0.1: they have none",
        f"{dump}: no debug info: types from the kernel's own BTF; file and line not known",
    ]


@pytest.mark.usefixtures("lab")
def test_nobody_is_asked_where_that_is_declined(serve: Serve) -> None:
    server, dump = serve(lab_dump("default").vmlinux), lab_dump("default")
    assert isinstance(open_dump(alone("default", "vmcore.d31"), [], debuginfod=False), BareHost)
    open_dump(dump.d31, [dump.vmlinux])
    assert server.asked == []


def test_the_option_declines() -> None:
    assert _source(leakscan_parser(SHELL).parse_args(["-c", "x"])).debuginfod
    for parser in (leakscan_parser, objsim_parser):
        given = parser(SHELL).parse_args(["-c", "x", "--no-debuginfod"])
        assert not _source(given).debuginfod
