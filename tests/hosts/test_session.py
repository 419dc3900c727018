"""Sessions: what was recorded is replayed, and a file from a stranger can do no harm."""

from __future__ import annotations

import json
import lzma
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crashext.hosts import session
from crashext.hosts.base import Host, HostError, Module, ReadFault, Symbol
from crashext.hosts.recorded import RecordedHost, RecordingHost
from tests.fake import FakeHost, layout

MAGIC = b"CRASHEXT-SESSION 1\n"
HELD, APART, MISSING = 0xFFFF888000001000, 0xFFFF888000009000, 0xFFFF888000F00000
CACHE = layout("struct kmem_cache", 200, size=(8, 4), inuse=(12, 4, 0, 15))


def kernel() -> FakeHost:
    host = FakeHost(
        CACHE,
        symbols={"slab_caches": 0xFFFFFFFF81000100},
        enumerators={"PG_slab": 9},
        modules=[Module("leaky", ((0xFFFFFFFFC0000000, 0xFFFFFFFFC0002000),))],
        present=[(0, 0x9F000), (0x100000, 0x8000000)],
    )
    host.put(HELD, bytes(range(256)) * 16)
    host.put(APART, b"apart" * 100)
    return host


def ask(host: Host) -> list[Any]:
    """One run's questions and what was answered."""
    rows, ok = host.read_many(np.array([HELD + 512, MISSING, APART, HELD], np.uint64), 64)
    try:
        fault = str(host.read(MISSING + 64, 8))
    except ReadFault as error:
        fault = hex(error.address)
    return [
        host.info(),
        host.present(),
        list(host.modules()),
        host.read(HELD + 16, 100),
        host.read(APART, 500),
        rows.tolist(),
        ok.tolist(),
        fault,
        host.symbol_at(0xFFFFFFFF81000104),
        host.symbol_at(0x1234),
        host.address_of("slab_caches"),
        host.address_of("no_such_symbol"),
        host.layout("struct kmem_cache"),
        host.layout("struct no_such"),
        host.enumerator("PG_slab"),
        host.enumerator("PG_no_such"),
    ]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    recorder = RecordingHost(kernel())
    ask(recorder)
    path = tmp_path / "run.session"
    recorder.save(path, "leakscan kmalloc-64")
    return path


def parts(path: Path) -> tuple[dict[str, Any], list[tuple[int, bytes]]]:
    document, extents = session.load(path)
    return document, [(a, bytes(d)) for a, d in extents]


def forged(path: Path, text: bytes, table: bytes, content: bytes, count: int | None = None) -> Path:
    """A well packed session of any content."""
    count = len(table) // 16 if count is None else count
    inner = struct.pack("<Q", len(text)) + text + struct.pack("<Q", count) + table + content
    path.write_bytes(MAGIC + lzma.compress(inner, preset=0))
    return path


def test_a_replay_answers_as_the_kernel_did(recorded: Path) -> None:
    replay = RecordedHost(recorded)
    assert ask(replay) == ask(kernel())
    assert replay.command == "leakscan kmalloc-64"
    assert replay.unanswered == 0


def test_a_replay_answers_within_what_was_read(recorded: Path) -> None:
    replay = RecordedHost(recorded)
    assert replay.read(HELD + 20, 3) == bytes([20, 21, 22])
    # Two reads that met in the middle are one piece of memory now.
    assert replay.read(HELD, 116) == bytes(range(116))
    assert replay.symbol_at(0xFFFFFFFF81000107) == Symbol("slab_caches", 0xFFFFFFFF81000100, 8)
    assert replay.unanswered == 0


def test_recording_does_not_change_the_answers() -> None:
    assert ask(RecordingHost(kernel())) == ask(kernel())


def test_questions_that_were_not_recorded_are_counted(recorded: Path) -> None:
    replay = RecordedHost(recorded)
    with pytest.raises(ReadFault):
        replay.read(HELD + 0x800, 8)
    with pytest.raises(ReadFault):
        replay.read(HELD + 100, 4096)
    _, ok = replay.read_many(np.array([0x10, 0x10, HELD, 0x20], np.uint64), 8)
    assert ok.tolist() == [False, False, True, False]
    assert replay.unanswered == 4
    questions: list[Callable[[], object]] = [
        lambda: replay.symbol_at(0xFFFFFFFF81FFFFFF),
        lambda: replay.address_of("jiffies"),
        lambda: replay.layout("struct page"),
        lambda: replay.enumerator("PG_lru"),
    ]
    for number, question in enumerate(questions, 5):
        assert question() is None
        assert replay.unanswered == number


def test_memory_that_was_missing_then_is_no_unanswered_question(recorded: Path) -> None:
    replay = RecordedHost(recorded)
    with pytest.raises(ReadFault):
        replay.read(MISSING + 64, 8)
    replay.read_many(np.array([MISSING], np.uint64), 64)
    assert replay.unanswered == 0


def test_a_file_that_cannot_be_opened_or_written_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(HostError, match=str(path)):
            RecordedHost(path)
    with pytest.raises(HostError, match="cannot write"):
        RecordingHost(kernel()).save(tmp_path / "no folder" / "x", "leakscan")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a crashext session"),
        (b"\x7fELF" + bytes(100), "not a crashext session"),
        (b"CRASHEXT-SESSION", "not a crashext session"),
        (b"CRASHEXT-SESSION 2\n" + bytes(10), "update crashext"),
        (b"CRASHEXT-SESSION 999999999999999\n", "update crashext"),
        (b"CRASHEXT-SESSION one\n", "first line"),
        (b"CRASHEXT-SESSION -1\n", "first line"),
        (b"CRASHEXT-SESSION 1" + b" " * 40, "first line"),
        (b"CRASHEXT-SESSION 1\n", "cut short|damaged"),
        (b"CRASHEXT-SESSION 1\nnot xz at all", "damaged"),
    ],
)
def test_what_is_no_session_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "x.session"
    path.write_bytes(data)
    with pytest.raises(HostError, match=says):
        RecordedHost(path)


def test_a_session_cut_anywhere_is_refused(recorded: Path) -> None:
    data = recorded.read_bytes()
    for length in range(0, len(data), 7):
        recorded.write_bytes(data[:length])
        with pytest.raises(HostError):
            RecordedHost(recorded)


def use(host: RecordedHost, rng: random.Random) -> None:
    """Ask everything of a session that opened; only `ReadFault` may come out."""
    host.info(), host.present(), host.modules()
    for name in ("struct kmem_cache", "struct page"):
        known = host.layout(name)
        if known is not None:
            assert all(0 <= m.offset <= known.size for m in known.members.values())
    host.enumerator("PG_slab"), host.address_of("slab_caches")
    for address in (0, HELD, APART, MISSING, rng.getrandbits(64), (1 << 64) - 1):
        host.symbol_at(address)
        rows, ok = host.read_many(np.array([address], np.uint64), 64)
        assert rows.shape == (1, 64)
        assert ok.shape == (1,)
        for size in (0, 8, 100, 1 << 40):
            try:
                assert len(host.read(address, size)) == size
            except ReadFault:
                continue


def open_and_use(path: Path, rng: random.Random) -> bool:
    """Whether the session opened."""
    try:
        host = RecordedHost(path)
    except HostError:
        return False
    use(host, rng)
    return True


def test_a_session_with_any_byte_changed_is_refused(recorded: Path) -> None:
    """The packer's checksum sees it, wherever it is."""
    data = recorded.read_bytes()
    rng = random.Random(4)
    for at in [*range(len(MAGIC) - 2), *rng.sample(range(len(MAGIC), len(data)), 200)]:
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        recorded.write_bytes(changed)
        with pytest.raises(HostError):
            RecordedHost(recorded)


def test_a_forged_session_is_refused_or_harmless(recorded: Path) -> None:
    """Damage inside the packed stream, whose checksum a stranger would have made fit."""
    inner = lzma.decompress(recorded.read_bytes()[len(MAGIC) :])
    text_end = 8 + struct.unpack_from("<Q", inner)[0]
    rng = random.Random(5)
    opened = 0
    for round_ in range(500):
        changed = bytearray(inner)
        for _ in range(rng.randint(1, 3)):
            # Half of the damage goes to the extents' table, which has few bytes.
            at = rng.randrange(text_end) if round_ % 2 else rng.randrange(text_end, text_end + 72)
            changed[at] = (
                rng.choice(b'0123456789-e.,:[]{}"ntf\0\xff') if round_ % 2 else (rng.randrange(256))
            )
        recorded.write_bytes(MAGIC + lzma.compress(changed, preset=0))
        opened += open_and_use(recorded, rng)
    assert 50 < opened < 450  # both ends of the test are reached


HOSTILE: list[tuple[str, Any]] = [
    ("command", 5),
    ("command", None),
    ("info", None),
    ("info", {}),
    ("info", []),
    ("present", [[1]]),
    ("present", 7),
    ("present", [["a", "b"]]),
    ("present", [[float("inf"), 1]]),
    ("faults", [None]),
    ("faults", 3),
    ("faults", [float("nan")]),
    ("symbols", [[1, ["name"]]]),
    ("symbols", [[1]]),
    ("symbols", {"a": 1}),
    ("names", []),
    ("names", {"slab_caches": []}),
    ("names", {"slab_caches": float("inf")}),
    ("modules", [["leaky"]]),
    ("modules", [["leaky", [[1]]]]),
    ("modules", 1),
    ("layouts", {"struct page": []}),
    ("layouts", {"struct page": [64]}),
    ("layouts", {"struct page": [64, []]}),
    ("layouts", {"struct page": [0, {}]}),
    ("layouts", {"struct page": [-8, {}]}),
    ("layouts", {"struct page": [1 << 40, {}]}),
    ("layouts", {"struct page": [float("nan"), {"flags": [0, 8, 0, 0]}]}),
    ("layouts", {"struct page": [64, {"flags": [60, 8, 0, 0]}]}),
    ("layouts", {"struct page": [64, {"flags": [-8, 8, 0, 0]}]}),
    ("layouts", {"struct page": [64, {"flags": [0, -8, 0, 0]}]}),
    ("layouts", {"struct page": [64, {"flags": [0, 1 << 62, 0, 0]}]}),
    ("layouts", {"struct page": [64, {"flags": [60, 4, 31, 8]}]}),
    ("layouts", {"struct page": [64, {"flags": [0, 4, 0, 65]}]}),
    ("layouts", {"struct page": [64, {"flags": [0, 4, -1, 8]}]}),
    ("layouts", {"struct page": [64, {"flags": [0, 4, 0]}]}),
    ("layouts", {"struct page": [64, {"flags": 5}]}),
    ("enumerators", "PG_slab"),
    ("enumerators", {"PG_slab": "nine"}),
]


def test_a_description_of_the_right_form_is_accepted(recorded: Path) -> None:
    """Else the refusals below would say nothing."""
    document, extents = parts(recorded)
    page = [64, {"flags": [0, 8, 0, 0], "objects": [42, 4, 0, 15]}]
    session.write(recorded, {**document, "layouts": {"struct page": page}}, extents)
    found = RecordedHost(recorded).layout("struct page")
    assert found == layout("struct page", 64, flags=(0, 8), objects=(42, 4, 0, 15))


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=str)
def test_a_description_of_the_wrong_form_is_refused(recorded: Path, key: str, value: Any) -> None:
    document, extents = parts(recorded)
    session.write(recorded, {**document, key: value}, extents)
    with pytest.raises(HostError, match="damaged session"):
        RecordedHost(recorded)


@pytest.mark.parametrize(
    "text", [b"[]", b"null", b'"text"', b"{}", b"{", b"\xff\xfe", b'{"command": "x"}', b""]
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(HostError, match="damaged session"):
        RecordedHost(forged(tmp_path / "x", text, b"", b""))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
def test_a_deeply_nested_description_is_refused(tmp_path: Path, opening: bytes) -> None:
    with pytest.raises(HostError, match="damaged session"):
        RecordedHost(forged(tmp_path / "x", opening * 2_000_000, b"", b""))


@pytest.mark.parametrize(
    ("extents", "content"),
    [
        ([(0x1000, 16), (0x1008, 16)], 32),
        ([(0x2000, 16), (0x1000, 16)], 32),
        ([(0x1000, 16), (0x1000, 16)], 32),
        ([(0x1000, 17)], 16),
        ([(0x1000, (1 << 64) - 1)], 16),
        ([(0x1000, 8), (0x2000, 1 << 63)], 16),
    ],
    ids=["overlapping", "descending", "twice", "too long", "endless", "second endless"],
)
def test_extents_that_cannot_be_are_refused(
    recorded: Path, extents: list[tuple[int, int]], content: int
) -> None:
    document, _ = parts(recorded)
    table = b"".join(struct.pack("<QQ", *e) for e in extents)
    with pytest.raises(HostError, match="damaged session"):
        RecordedHost(forged(recorded, json.dumps(document).encode(), table, bytes(content)))


@pytest.mark.parametrize("count", [1, 1 << 22, (1 << 22) + 1, 1 << 63])
def test_a_table_that_is_not_all_there_is_refused(recorded: Path, count: int) -> None:
    document, _ = parts(recorded)
    text = json.dumps(document).encode()
    with pytest.raises(HostError, match="damaged session"):
        RecordedHost(forged(recorded, text, b"", b"", count))


def test_a_description_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for length in (100, (32 << 20) + 1, (1 << 64) - 1):
        path.write_bytes(MAGIC + lzma.compress(struct.pack("<Q", length) + b"{}"))
        with pytest.raises(HostError, match="damaged session"):
            RecordedHost(path)


def test_a_bomb_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_MAX_JSON", "MAX_MEMORY"):
        monkeypatch.setattr(session, name, 1 << 20)
    monkeypatch.setattr(session, "_MAX_EXTENTS", 1 << 16)
    path = tmp_path / "bomb"
    path.write_bytes(MAGIC + lzma.compress(bytes(64 << 20), preset=0))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(HostError, match="damaged session"):
            RecordedHost(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_stream_that_needs_a_huge_dictionary_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_XZ_MEMORY", 1 << 20)
    path = tmp_path / "x"
    path.write_bytes(MAGIC + lzma.compress(bytes(100), preset=6))
    with pytest.raises(HostError):
        RecordedHost(path)


def test_too_much_to_record_is_said_when_it_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_MEMORY", 1000)
    recorder = RecordingHost(kernel())
    recorder.read(HELD, 1001)
    with pytest.raises(HostError, match="fewer caches"):
        recorder.save(tmp_path / "x", "leakscan")


def test_of_two_answers_about_a_byte_one_is_kept(tmp_path: Path) -> None:
    """On a running kernel memory moves on between two reads that overlap."""
    host = kernel()
    recorder = RecordingHost(host)
    recorder.read(HELD, 16)
    host.put(HELD, b"\xee" * 32)
    recorder.read(HELD, 16)
    recorder.read(HELD + 8, 16)
    recorder.save(tmp_path / "x", "leakscan")
    replay = RecordedHost(tmp_path / "x")
    assert replay.read(HELD, 24) == bytes(range(16)) + b"\xee" * 8
