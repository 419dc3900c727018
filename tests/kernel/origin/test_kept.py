"""Where functions keep the address of the memory that they get, in functions made by hand."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from crashext.hosts.base import Symbol
from crashext.kernel.origin.code import Code
from crashext.kernel.origin.code_arm64 import ISA, Arm64Constants
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.entrypoints import Kind
from crashext.kernel.origin.keepers import Keepers
from crashext.kernel.origin.requests import Requests
from crashext.kernel.origin.stores import Filled, stores_after
from crashext.kernel.origin.stores_arm64 import Arm64Walk
from crashext.kernel.slab.caches import Caches
from tests.fake import INFO, slab_cache
from tests.kernel.origin.peeking import known_callees
from tests.kernel.origin.test_stores import AT, CALL, CALLEE, OTHER, RET, Sized, call, filled

MOV_RDI_RAX = b"\x48\x89\xc7"
MOV_RSI_RBX = b"\x48\x89\xde"
TEST_EAX_EAX = b"\x85\xd2\x74"  # test edx, edx; je ...
KEEP = b"\x48\x89\x43\x78"  # [rbx + 0x78] = rax
FRAME = b"\x55\x48\x89\xe5"  # push rbp; mov rbp, rsp


class Paged(Sized):
    """One with a function every 256 bytes."""

    def symbol_at(self, address: int) -> Symbol | None:
        return Symbol("some", address & ~0xFF, 0x100, "")


def told(found: Filled) -> set[tuple[str, int, int, str]]:
    return {(k.where, k.at, k.inside, k.base) for k in found.kept}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (KEEP, ("member", 0x78, 0, "rbx")),
        (b"\x48\x8d\x50\x10\x48\x89\x13", ("member", 0, 0x10, "rbx")),  # its +0x10 to [rbx]
        (b"\x48\x83\xc8\x02" + KEEP, ("member", 0x78, 2, "rbx")),  # or rax, 2: a tree's mark
        (b"\x48\x89\xc2\x48\x83\xca\x01\x48\x89\x13", ("member", 0, 1, "rbx")),  # a lock's, in rdx
        (b"\x48\x89\x45\x28", ("member", 0x28, 0, "rbp")),  # rbp is a register like any other
        (b"\x48\x89\x04\xcb", ("array", 0, 0, "")),  # [rbx + rcx*8]
        (b"\x48\x89\x44\xcb\x40", ("array", 0x40, 0, "")),
        (b"\x48\x89\x05\x08\x00\x00\x00", ("variable", AT + 20, 0, "")),  # [rip + 8]
        (b"\x48\x87\x43\x18", ("member", 0x18, 0, "rbx")),  # xchg [rbx + 0x18], rax
        (b"\x48\x89\xc1\x31\xc0\xf0\x48\x0f\xb1\x4b\x18", ("member", 0x18, 0, "rbx")),  # cmpxchg
    ],
)
def test_stores_into_other_memory(text: bytes, kept: tuple[str, int, int, str]) -> None:
    assert told(filled(CALL + text + RET)) == {kept}


@pytest.mark.parametrize(
    "text",
    [
        b"\x48\x89\x44\x24\x08",  # to the stack
        b"\x48\x89\x40\x10",  # into itself
        b"\x89\x43\x78",  # half of it
        b"\x48\x89\x53\x78",  # another register
        b"\x48\x0d\0\x10\0\0" + KEEP,  # or rax, 0x1000: no mark in an address's low bits
        b"\x48\x09\xd0" + KEEP,  # or rax, rdx
    ],
)
def test_what_keeps_nothing(text: bytes) -> None:
    assert told(filled(CALL + text + RET)) == set()


def test_beside_a_frame_is_the_stack() -> None:
    host = Sized(symbols={"allocate": AT})
    code = Code(FRAME + CALL + b"\x48\x89\x45\xf8" + RET, AT)
    known = Constants(code, lambda _: None)
    assert stores_after(code, known, 2, known_callees(host)).kept == ()


def test_either_way_of_a_branch_is_taken_and_what_is_written_there_is_not_told() -> None:
    other = b"\xc7\x00\x01\x00\x00\x00" + KEEP  # [rax] = 1
    found = filled(CALL + TEST_EAX_EAX + b"\x01" + RET + other + RET)
    assert told(found) == {("member", 0x78, 0, "rbx")}
    assert found.stores == ()


def test_a_function_that_is_called_keeps_it() -> None:
    """list_add(): the second argument's memory gets the first."""
    text = CALL + MOV_RDI_RAX + MOV_RSI_RBX
    text += call(AT + len(text), CALLEE) + RET
    found = filled(text, (CALLEE, b"\x48\x89\x7e\x08" + RET))
    assert told(found) == {("member", 8, 0, "rsi")}


@pytest.mark.parametrize(
    "prologue",
    [
        b"\x53\x48\x83\xec\x10" + b"\x48\x8b\x4c\x24\x28",  # push rbx; sub rsp, 16; [rsp + 0x28]
        FRAME + b"\x48\x8b\x4d\x18",  # push rbp; mov rbp, rsp; mov rcx, [rbp + 0x18]
    ],
)
def test_a_function_that_is_called_keeps_what_is_pushed_for_it(prologue: bytes) -> None:
    """alloc_vmap_area(): the eighth argument is the area, and the seventh a number."""
    text = CALL + b"\x50\x6a\x00"  # push rax; push 0
    text += call(AT + len(text), CALLEE) + RET
    found = filled(text, (CALLEE, prologue + b"\x48\x89\x4f\x38" + RET))  # [rdi + 0x38] = rcx
    assert told(found) == {("member", 0x38, 0, "rdi")}
    seventh = prologue[:-1] + bytes((prologue[-1] - 8,))
    other = filled(text, (CALLEE, seventh + b"\x48\x89\x4f\x38" + RET))
    assert told(other) == set()


def test_what_is_pushed_for_a_function_without_a_frame_is_eight_bytes_above_its_stack() -> None:
    """Capstone spells that in decimal: [rsp + 8]."""
    text = CALL + b"\x50"  # push rax
    text += call(AT + len(text), CALLEE) + RET
    load, keep = b"\x48\x8b\x4c\x24\x08", b"\x48\x89\x4f\x38"  # rcx = [rsp + 8]; [rdi + 0x38] = rcx
    assert told(filled(text, (CALLEE, load + keep + RET))) == {("member", 0x38, 0, "rdi")}


@pytest.mark.parametrize(
    ("text", "returned"),
    [(RET, 0), (b"\x48\x83\xc0\x10" + RET, 0x10), (b"\x31\xc0" + RET, None)],
)
def test_what_is_returned(text: bytes, returned: int | None) -> None:
    assert filled(CALL + text).returned == returned


def test_a_return_that_the_kernel_patched_to_a_jump() -> None:
    host = Sized(symbols={"allocate": AT, "__x86_return_thunk": OTHER})
    code = Code(CALL + b"\xe9" + struct.pack("<i", OTHER - AT - 10), AT)
    called = known_callees(host)
    assert stores_after(code, Constants(code, lambda _: None), 0, called).returned == 0


def test_arm64() -> None:
    # bl; str x0, [x19, #0x78]; str x0, [sp, #8]; add x1, x0, #16; str x1, [x2]; ret
    words = (0x94000000, 0xF9003E60, 0xF90007E0, 0x91004001, 0xF9000041, 0xD65F03C0)
    code = Code(struct.pack("<6I", *words), AT, ISA)
    found = stores_after(code, Arm64Constants(code, lambda _: None), 0, None, Arm64Walk)
    assert told(found) == {("member", 0x78, 0, "x19"), ("member", 0, 0x10, "x2")}
    assert found.returned == 0


def test_arm64_marks_a_pointer() -> None:
    # bl; orr x1, x0, #2; str x1, [x19, #8]; ret
    words = (0x94000000, 0xB27F0001, 0xF9000661, 0xD65F03C0)
    code = Code(struct.pack("<4I", *words), AT, ISA)
    found = stores_after(code, Arm64Constants(code, lambda _: None), 0, None, Arm64Walk)
    assert told(found) == {("member", 8, 2, "x19")}


@pytest.mark.parametrize(
    ("member", "base", "at"),
    [
        (b"\x48\x8d\x7d\x78", "rbp", 0x78),  # lea rdi, [rbp + 0x78]
        (b"\x48\x83\xef\x80", "rdi", 0x80),  # sub rdi, -0x80
        (b"\x48\x81\xc7\x60\x14\0\0", "rdi", 0x1460),  # add rdi, 0x1460
        (b"\x4c\x8d\x75\x78\x4c\x89\xf7", "rbp", 0x78),  # lea r14, [rbp + 0x78]; mov rdi, r14
    ],
)
def test_a_store_through_an_argument_is_where_the_callers_say(
    member: bytes, base: str, at: int
) -> None:
    """lsm_blob_alloc(&cred->security, size): the caller's address is of a member."""
    alloc, callee, caller = AT, AT + 0x100, AT + 0x200
    symbols = {"_text": AT, "_etext": AT + 0x1000, "__kmalloc": alloc}
    host = Paged(symbols=symbols)
    text = bytearray(b"\xcc" * 0x1000)
    keeper = b"\x48\x89\xfb" + b"\xbf\x40\0\0\0"  # mov rbx, rdi; mov edi, 64
    keeper += call(callee + len(keeper), alloc) + b"\x48\x89\x03" + b"\x31\xc0" + RET  # [rbx] = rax
    user = member + call(caller + len(member), callee) + RET
    text[0x100 : 0x100 + len(keeper)] = keeper
    text[0x200 : 0x200 + len(user)] = user
    host.put(AT, bytes(text))
    known = Requests(host, Caches((slab_cache("kmalloc-64", 64),), None))
    (request,) = known.of((Kind.SIZED,))
    found = {(k.where, k.at, k.inside, k.store, k.base) for k in Keepers(known).of(request)}
    assert ("member", at, 0, caller, base) in found


def test_what_fills_a_mempool_keeps_each_object_in_its_reserve() -> None:
    host = Paged(symbols={"_text": AT, "_etext": AT + 0x1000, "mempool_init": AT})
    host.put(AT, b"\xcc" * 0x100 + call(AT + 0x100, AT) + RET + b"\xcc" * 0xEFA)
    known = Requests(host, Caches((slab_cache("bio-248", 248),), None))
    (request,) = known.of((Kind.SLAB,))
    assert {k.where for k in Keepers(known).of(request)} == {"reserve"}


def test_no_answer_depends_on_which_place_was_asked_about_before() -> None:
    """Each function returns what the one before it returns, or new memory; the last keeps it."""
    symbols = {"_text": AT, "_etext": AT + 0x1000, "__kmalloc": AT}
    host = Paged(symbols=symbols)
    text = bytearray(b"\xcc" * 0x1000)
    for number in range(1, 6):
        at = AT + 0x100 * number
        keep = KEEP if number == 5 else b""
        code = b"\x85\xd2\x75" + bytes([6 + len(keep)])  # test edx, edx; jne to the second call
        code += call(at + len(code), at - 0x100 if number > 1 else AT) + keep + RET
        code += b"\xbf\x40\0\0\0"  # mov edi, 64
        code += call(at + len(code), AT) + keep + RET
        text[0x100 * number : 0x100 * number + len(code)] = code
    host.put(AT, bytes(text))

    def answers(backwards: bool) -> dict[int, frozenset[object]]:
        known = Requests(host, Caches((slab_cache("kmalloc-64", 64),), None))
        requests = sorted(known.of((Kind.SIZED,)), key=lambda r: r.call, reverse=backwards)
        assert len(requests) == 6
        keepers = Keepers(known)
        return {r.call: frozenset(keepers.of(r)) for r in requests}

    forwards = answers(False)
    assert forwards == answers(True)
    # Two calls up are followed, no more.
    kept = [bool(found) for _, found in sorted(forwards.items())]
    assert kept == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("length", "argument", "kept"),
    [(3000, 7, True), (3000, 0, False), (2000, 0, True), (5000, 7, False)],
)
def test_arm64_looks_into_as_large_a_function_for_an_argument_after_many(
    length: int, argument: int, kept: bool
) -> None:
    """alloc_vmap_area(): x7 has what x86-64 pushes."""

    class Long(Sized):
        def symbol_at(self, address: int) -> Symbol | None:
            return Symbol("alloc_vmap_area", CALLEE, length, "")

    # str x7 or x0, [x19, #0x38]; ret
    words = (0xF9001E67 if argument == 7 else 0xF9001E60, 0xD65F03C0)
    host = Long(info=replace(INFO, arch="aarch64"))
    host.put(CALLEE, struct.pack("<2I", *words) + b"\x1f\x20\x03\xd5" * (length // 4 - 2))
    found = {(k.where, k.at, k.inside, k.base) for k in known_callees(host).kept(CALLEE, argument)}
    assert found == ({("member", 0x38, 0, "x19")} if kept else set())
