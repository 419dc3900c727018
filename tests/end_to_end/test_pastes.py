"""`leakscan PATH` on what reporters pasted: the first line names who has the memory.

The texts below tests/procfs/data/cases are public reports' own, some filled in so that sums agree.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import run

CASES = Path(__file__).parent.parent / "procfs" / "data" / "cases"


def first(out: str) -> str:
    """The first verdict's sentence, on one line."""
    lines = out.splitlines()
    end = next(
        i
        for i, line in enumerate(lines)
        if line.startswith(("  for:", "  against:", "  next:", "next:"))
    )
    return " ".join(" ".join(lines[:end]).split())


@pytest.mark.parametrize(
    ("case", "said", "also"),
    [
        (
            "vmware-balloon",
            ("known-holder", "VMware balloon holds 4.8 GiB", "no leak"),
            ("ask the host", "vmmemctl: 1,259,520 pages"),
        ),
        (
            "oom-log",
            ("3.0 GiB of slab memory (47.4 % of memory)", "kmemleak_object has 2.3 GiB"),
            ("kmemleak's own notes", "read: OOM report"),
        ),
        ("slabtop", ("ebitmap_node has 43.8 GiB",), ("734,506,368 objects",)),
        ("percpu", ("per-CPU memory has 17.1 GiB (54.6 % of memory)",), ("cgroup.stat",)),
        (
            "percpu-minor",
            ("per-CPU memory has 544.0 MiB (27.6 % of memory)", "slab memory 564.4 MiB"),
            ("cgroups that do not die",),
        ),
        (
            "allocinfo",
            ("mm/filemap.c:2012 (__filemap_get_folio)", "10.3 GiB", "10.2 GiB"),
            ("99.4 % of what is unaccounted for",),
        ),
        (
            "allocinfo-iec",
            ("mm/filemap.c:2012 (__filemap_get_folio)", "10.3 GiB", "10.2 GiB"),
            ("99.4 % of what is unaccounted for",),
        ),
        ("dated-names", ("ebitmap_node has 43.8 GiB",), ("slabinfo-2019-11-22.log (slabinfo)",)),
        (
            "slabinfo-wrapped",
            ("94.0 % of memory", "skbuff_head_cache has 259.0 MiB", "size-2048 has 256.4 MiB"),
            ("66,314 objects", "65,628 objects"),
        ),
        (
            "crash-session",
            ("45.4 GiB of slab memory (72.5 % of memory)", "kmalloc-512 could not"),
            ("kmalloc-2048 has 114.2 MiB: 48,835 objects",),
        ),
    ],
)
def test_what_reporters_pasted(
    case: str, said: tuple[str, ...], also: tuple[str, ...], schema: Any
) -> None:
    ran = run("leakscan", "-v", CASES / case)
    assert (ran.status, ran.err) == (0, "")
    for words in said:
        assert words in first(ran.out)
    for words in also:
        assert words in " ".join(ran.out.split())
    assert not ran.out.startswith(("healthy", "leak"))
    jsonschema.validate(run("leakscan", CASES / case, "--json").document, schema)


@pytest.mark.parametrize("case", ["oom-log", "dated-names", "slabinfo-wrapped", "crash-session"])
@pytest.mark.parametrize("form", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_says_what_its_folder_says(case: str, form: Any, tmp_path: Path) -> None:
    path = tmp_path / "sosreport-host.tar"
    with tarfile.open(path, form) as tar:
        tar.add(CASES / case, "sosreport-host-2019")
    packed, folder = run("leakscan", path), run("leakscan", CASES / case)
    assert first(packed.out) == first(folder.out)


def test_a_folder_above_a_saved_machine(tmp_path: Path) -> None:
    shutil.copytree(CASES / "vmware-balloon", tmp_path / "parent/sosreport-host")
    ran = run("leakscan", tmp_path / "parent")
    assert "VMware balloon holds 4.8 GiB" in first(ran.out)


def whole(case: str) -> str:
    """All texts of a case, as one mail with commands between them."""
    files = sorted(p for p in (CASES / case).rglob("*") if p.is_file())
    return "".join(f"[root@host ~]# cat {p.name}\n{p.read_text()}\n" for p in files)


def crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


def quoted(text: str) -> str:
    return "".join(f"> {line}" for line in text.splitlines(keepends=True))


def twice_quoted(text: str) -> str:
    return "".join(f">> > {line}" for line in text.splitlines(keepends=True))


def numbered(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(f"{i:6}\t{line}" for i, line in enumerate(lines, 1))


def in_html(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<pre>\n{escaped}</pre>\n"


def journal(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(f"Nov 22 07:13:19 host kernel: {line}" for line in lines)


def coloured(text: str) -> str:
    return text.replace("Slab", "\x1b[01;31m\x1b[KSlab\x1b[m\x1b[K")


def hard_spaces(text: str) -> str:
    return text.replace("  ", " \u00a0")


@pytest.mark.parametrize("case", ["slabtop", "dated-names", "slabinfo-wrapped", "allocinfo"])
@pytest.mark.parametrize(
    "dressed",
    [str, crlf, quoted, twice_quoted, numbered, in_html, journal, coloured, hard_spaces],
    ids=lambda f: f.__name__,
)
def test_one_mail_with_all_of_it(case: str, dressed: Any, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    path.write_text(dressed(whole(case)), encoding="utf-8", newline="")
    ran = run("leakscan", path)
    assert ran.err == ""
    assert first(ran.out) == first(run("leakscan", CASES / case).out)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.TextIOWrapper(io.BytesIO(whole("slabtop").encode("utf-16")))
    monkeypatch.setattr("sys.stdin", data)
    assert "ebitmap_node has 43.8 GiB" in first(run("leakscan", "-").out)


def test_what_is_not_recognised_is_listed(tmp_path: Path) -> None:
    (tmp_path / "meminfo.txt").write_text((CASES / "percpu/meminfo").read_text() + "what now?\n")
    (tmp_path / "letter.txt").write_text("dear support\n")
    (tmp_path / "core.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "saved.zip").write_bytes(b"PK\x03\x04" + b"x" * 99)
    out = " ".join(run("leakscan", "-v", tmp_path).out.split())
    assert "recognised by content: meminfo.txt (meminfo)" in out
    assert "1 file; not recognised: letter.txt" in out
    assert "core.bin; not read: it is no text" in out
    assert "saved.zip; not read: zip" in out
    assert "1 line; of no kind that is known, such as: what now?" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"dear support\n", "is recognised"),
        (b"", "is recognised"),
        (b"CRASHEXT-SESSION\x00", "with -r"),
        (b"\x7fELF\x02\x01\x00" + bytes(90), "with -c"),
        (b"KDUMP   " + bytes(90), "with -c"),
        (b"\x1f\x8b\x08\x00damaged", "damaged"),
        (b"\xfd7zXZ\x00damaged", "damaged"),
    ],
)
def test_a_file_of_another_kind_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    ran = run("leakscan", path)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_archives_that_lead_out_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    text = (CASES / "percpu/meminfo").read_bytes()
    secret = tmp_path / "secret-meminfo"
    secret.write_bytes(text)
    with tarfile.open(path, "w") as tar:
        for name in ("../meminfo", "/meminfo", "host/meminfo"):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        link = tarfile.TarInfo("host/proc/slabinfo")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    before = sorted(tmp_path.iterdir())
    ran = run("leakscan", path)
    assert "per-CPU memory has 17.1 GiB" in first(ran.out)
    assert "2 archive members with .. or an absolute path; refused" in " ".join(ran.out.split())
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rd-S.txt", ("[size-256] slab pointer, value not in the text", "2 in 1 group")),
        ("rd-s.txt", ("broad_proc_cleanup+10752, value not in the text", "ffffc900098dc000")),
        ("hexdump-C.txt", ("ffff882f59bade00", "LIST_POISON2", "2 in 1 group")),
        ("kmemleak-hex.txt", ("ffff0000c820d000: 32 bytes", "2000002900000001")),
    ],
)
def test_objects_of_a_paste_and_their_words(name: str, said: tuple[str, ...]) -> None:
    ran = run("objsim", "--text", CASES / "objsim" / name, "--size", "32")
    assert (ran.status, ran.err) == (0, "")
    for words in said:
        assert words in ran.out


def words(*arguments: Any) -> str:
    ran = run("leakscan", "-v", *arguments)
    assert ran.status == 0
    return " ".join(ran.out.split())


def test_what_an_oom_report_does_not_count_has_not_grown() -> None:
    out = words(CASES / "oom-log", CASES / "slabtop")
    assert "+0" not in out
    assert "held-growth" not in out
    assert "not the same machine: MemTotal 6.4 GiB, then 62.9 GiB" in out
    assert "meminfo: MemTotal" not in out
    assert "kmalloc-512 +68.3 MiB" in out
    assert "14 caches not compared, as one of these lists is not whole" in out


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("slabtop", "678.5 MiB of Slab is in caches that this text does not list"),
        ("oom-log", "541.4 MiB of Slab is in caches that this text does not list"),
        (
            "crash-session",
            "45.2 GiB of Slab is in caches that this text does not list, or could not count: "
            "kmalloc-512",
        ),
        ("crash-session", "user memory not told"),
        ("oom-log", "cat /sys/kernel/debug/kmemleak"),
    ],
)
def test_what_a_text_does_not_have_is_said(case: str, said: str) -> None:
    out = words(CASES / case)
    assert said in out
    assert "largest size" not in out
    assert "0 bytes user" not in out


def test_two_outputs_of_one_tool_are_named_once() -> None:
    (read,) = (line for line in words(CASES / "vmware-balloon").split(";") if "read: " in line)
    assert read.count("vmware-toolbox-cmd") == 1


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    text = gzip.compress(b"MemTotal: 500000 kB\nMemFree: 400000 kB\nCached: 3 kB\nSlab: 300 kB\n")
    broken, longer = tmp_path / "b.tar.gz", tmp_path / "meminfo.gz"
    broken.write_bytes(text[:10] + b"\xff\xff" + text[12:])
    ran = run("leakscan", broken)
    assert ran.status == 2
    assert f"{broken}: the archive is damaged" in " ".join(ran.err.split())
    longer.write_bytes(text + b"\0\0something else")
    out = words(longer)
    assert "488.3 MiB of memory" in out
    assert "something else follows its end" in out


def test_a_text_ends_where_it_ends(tmp_path: Path) -> None:
    """Words in its middle are not its end."""
    text = b"LEAKLAB pages nobody reads".ljust(32, b"\0")
    words = [int.from_bytes(text[i : i + 8], "little") for i in range(0, 32, 8)]
    rows = [
        f"ffff88800000{n}0{8 * i:02x}:  {words[i]:016x} {words[i + 1]:016x}"
        for n in (1, 2)
        for i in (0, 2)
    ]
    (tmp_path / "rd").write_text("\n".join(rows) + "\n")
    ran = run("objsim", "--text", tmp_path / "rd", "--size", "32")
    assert (ran.status, ran.err) == (0, "")
    out = " ".join(ran.out.split())
    assert '"LEAKLAB "' in out
    assert '"pages no" +0x010' in out
    assert set(re.findall(r'"([^"]*)", the end of the text before', out)) == {"ds"}
