"""Folders of proc files: how they are laid out, what is damaged or hostile, and this machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crashext.hosts.base import HostError
from crashext.procfs.folder import MAX_LINE, Moment, ProcFolder
from crashext.procfs.processes import parse_status

MEMINFO = "MemTotal:  1000 kB\nMemFree:  10 kB\n"


def write(path: Path, text: str | bytes = MEMINFO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: ProcFolder, kind: str = "meminfo") -> list[str]:
    return list(folder.lines(kind))


@pytest.mark.parametrize("place", ["meminfo", "proc/meminfo"])
def test_flat_and_as_sosreport_saves_it(tmp_path: Path, place: str) -> None:
    write(tmp_path / place)
    write(tmp_path / "sys/kernel/debug/kmemleak", "x\n")
    write(tmp_path / "sos_commands/process/ps_auxwwwm", "PID RSS\n")
    folder = ProcFolder(tmp_path)
    assert folder.kinds == ("meminfo", "kmemleak", "ps")
    assert read(folder) == MEMINFO.splitlines()
    assert folder.problems == []
    assert not folder.live


def test_proc_of_a_saved_tree_has_sys_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo")
    write(tmp_path / "sys/kernel/debug/page_owner", "x\n")
    assert ProcFolder(tmp_path / "proc").kinds == ("meminfo", "page_owner")


def test_a_folder_without_any_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "hello")
    with pytest.raises(HostError, match="has none of the files"):
        ProcFolder(tmp_path)
    with pytest.raises(HostError, match="is not a directory"):
        ProcFolder(tmp_path / "notes.txt")
    with pytest.raises(HostError, match="No such file"):
        ProcFolder(tmp_path / "nowhere")


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", "root:x\n")
    saved = tmp_path / "saved"
    write(saved / "vmstat", "nr_free_pages 1\n")
    (saved / "meminfo").symlink_to(secret)
    (saved / "slabinfo").symlink_to("vmstat")  # inside: harmless
    folder = ProcFolder(saved)
    assert folder.kinds == ("slabinfo", "vmstat")
    assert [(p.what, p.effect) for p in folder.problems] == [
        ("meminfo", "not read: it is a link that leads out of the folder")
    ]


def test_a_file_swapped_for_a_link_after_it_was_found(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", "root:x\n")
    path = write(tmp_path / "saved/meminfo")
    folder = ProcFolder(tmp_path / "saved")
    path.unlink()
    path.symlink_to(secret)
    assert read(folder) == []
    assert len(folder.problems) == 1


def test_loops_of_links(tmp_path: Path) -> None:
    write(tmp_path / "vmstat", "nr_free_pages 1\n")
    (tmp_path / "meminfo").symlink_to("meminfo")
    (tmp_path / "proc").symlink_to(".")
    (tmp_path / "sys").symlink_to("sys")
    (tmp_path / "7").symlink_to(".")
    folder = ProcFolder(tmp_path)
    assert folder.kinds == ("vmstat",)
    assert "meminfo" in {p.what for p in folder.problems}
    assert list(folder.status_files()) == []
    assert list(folder.alloc_traces()) == []
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(HostError, match="a loop of links"):
        ProcFolder(tmp_path / "round")


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    write(tmp_path / "vmstat", "nr_free_pages 1\n")
    os.mkfifo(tmp_path / "meminfo")  # whoever opens it would wait for ever
    (tmp_path / "slabinfo").mkdir()
    os.mkfifo(tmp_path / "status.1")
    folder = ProcFolder(tmp_path)
    assert folder.kinds == ("vmstat",)
    assert list(folder.status_files()) == []


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    path = write(tmp_path / "meminfo")
    folder = ProcFolder(tmp_path)
    path.unlink()
    assert read(folder) == []
    assert folder.problems[0].effect == "not read: No such file or directory"


def test_closed_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "slabinfo", "x\n")
    write(tmp_path / "meminfo")
    folder = ProcFolder(tmp_path)
    real = os.open

    def closed(path: Path, *rest: int) -> int:
        if Path(path).name == "slabinfo":
            raise PermissionError(13, "Permission denied")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", closed)
    assert read(folder, "slabinfo") == []
    assert len(read(folder)) == 2
    assert [(p.what, p.effect) for p in folder.problems] == [
        ("slabinfo", "not read: permission denied (try as root)")
    ]


def test_bytes_and_line_ends(tmp_path: Path) -> None:
    write(tmp_path / "meminfo", b"one\r\ntwo\x80\xff\n\x1b[2J\nlast without end")
    assert read(ProcFolder(tmp_path)) == ["one", "two\\x80\\xff", "\x1b[2J", "last without end"]


def test_endless_lines_are_left_out(tmp_path: Path) -> None:
    long = b"x" * (MAX_LINE + 1)
    huge = b"y" * (3 << 20)
    fits = b"z" * MAX_LINE
    write(tmp_path / "vmallocinfo", b"\n".join([b"a", long, b"b", huge, b"c", fits, huge]))
    folder = ProcFolder(tmp_path)
    assert [line[:1] for line in read(folder, "vmallocinfo")] == ["a", "b", "c", "z"]
    (problem,) = folder.problems
    assert problem.what.endswith("bytes: 3")


def test_only_so_much_of_a_file_is_read(tmp_path: Path) -> None:
    with (tmp_path / "meminfo").open("wb") as file:
        file.write(b"a b\n" * 10)
        file.truncate(1 << 40)  # a hole: takes no room
    folder = ProcFolder(tmp_path)
    assert len(read(folder)) == 10
    assert "only its first 1 MiB were read" in {p.effect for p in folder.problems}


def test_status_files_of_any_layout(tmp_path: Path) -> None:
    def status(pid: int) -> str:
        return f"Name:\tx\nPid:\t{pid}\nVmRSS:\t8 kB\n"

    for place, pid in (("12/status", 12), ("proc/3/status", 3), ("status.44", 44)):
        write(tmp_path / place, status(pid))
    write(tmp_path / "java_status", status(5))
    write(tmp_path / "notapid/status", status(6))
    found = [parse_status(lines)[0] for lines in ProcFolder(tmp_path).status_files()]
    assert sorted(p.pid for p in found if p) == [3, 5, 12, 44]


def test_alloc_traces_under_the_name_of_a_merged_cache(tmp_path: Path) -> None:
    slab = tmp_path / "sys/kernel/slab"
    write(slab / ":0000192/alloc_calls", "1 a+0x1/0x2 age=1 pid=1\n")
    write(slab / "dentry/alloc_calls", "2 a+0x1/0x2 age=1 pid=1\n")
    (slab / "cred_jar").symlink_to(":0000192")
    (slab / "kmalloc-192").symlink_to(":0000192")
    write(tmp_path / "sys/kernel/debug/slab/dentry/alloc_traces", "3 a+0x1/0x2 age=1 pid=1\n")
    found = {name: list(lines) for name, lines in ProcFolder(tmp_path).alloc_traces()}
    assert {name: lines[0][0] for name, lines in found.items()} == {
        "kmalloc-192": "1",
        "dentry": "3",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sat Nov 21 07:13:19 UTC 2026", 1795245199),
        ("Sat Nov 21 07:13:19 CET 2026", 1795245199),  # letters count as UTC
        ("Sat Nov 21 07:13:19 AM UTC 2026", 1795245199),
        ("Sat 21 Nov 2026 07:13:19 PM UTC", 1795245199 + 12 * 3600),
        ("Sat, 21 Nov 2026 09:13:19 +0200", 1795245199),
        ("2026-11-21T07:13:19+00:00", 1795245199),
        ("2026-11-21 02:13:19,123456789-05:00", 1795245199.123456),
        ("Sat Xyz 21 07:13:19 UTC 2026", None),
        ("Sat Nov 31 07:13:19 UTC 2026", None),
        ("\x1b[2J", None),
    ],
)
def test_dates(tmp_path: Path, text: str, seconds: float | None) -> None:
    write(tmp_path / "meminfo")
    write(tmp_path / "date", text + "\n")
    assert ProcFolder(tmp_path).moment().date == (
        None if seconds is None else pytest.approx(seconds)
    )


def test_clocks(tmp_path: Path) -> None:
    os.utime(write(tmp_path / "proc/meminfo"), (1000, 2000))
    assert ProcFolder(tmp_path).moment() == Moment(None, None, 2000)
    write(tmp_path / "proc/uptime", "12282.55 24000.01\n")
    write(tmp_path / "sos_commands/date/date", "Sat Nov 21 07:13:19 UTC 2026\n")
    assert ProcFolder(tmp_path).moment() == Moment(1795245199, 12282.55, 2000)
    write(
        tmp_path / "uptime", " 07:13:19 up 3 days,  2:00,  1 user\n"
    )  # the command's, not the file's
    assert ProcFolder(tmp_path).moment().uptime is None


@pytest.mark.parametrize("place", ["/proc", "/"])
def test_this_machine(place: str) -> None:
    folder = ProcFolder(Path(place))
    assert folder.live
    assert {"meminfo", "vmstat", "zoneinfo", "buddyinfo"} <= set(folder.kinds)
    assert read(folder)[0].startswith("MemTotal:")
    own = next(
        p
        for lines in folder.status_files()
        if (p := parse_status(lines)[0]) and p.pid == os.getpid()
    )
    assert own.rss > 1 << 20
    assert list(folder.alloc_traces()) is not None
    assert folder.moment().uptime is not None
