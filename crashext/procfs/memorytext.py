"""Memory as text: what crash, gdb, drgn, hexdump, xxd, od, and the kernel itself print of it.

Every line is read by its own shape. Where a text has a name in place of a value (`rd -s`, `rd -S`),
the place keeps the name and no value is made up. The order of bytes in words is that of the tool;
where a line has a column of characters as well, that decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from crashext.hosts.faults import HostError
from crashext.procfs.cleaning import clean
from crashext.procfs.othertext import DRGN_ADDRESS, Asked, asked, drgn_array, numbers

_MOST_NAMES = 1 << 16
_MOST_FILLED = 1 << 20
_LINE_BYTES = 64
# "ffff88031e138000:  ..." of rd, "0xffff88031e138000 <sym+16>:\t..." of x, print_hex_dump's with
# its prefix.
_COLON = re.compile(
    r"\s*(?:[\w .\[\]()-]{0,40}?[:\s])??\s*(0x)?([0-9a-fA-F]{4,16})(?:\s*<[^>]{1,200}>)?:"
    r"([ \t]+)(.*)"
)
_BARE = re.compile(r"\s*(0x)?([0-9a-fA-F]{5,16})([ \t]+)(\S.*)")
_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]{16}|[0-9a-fA-F]{8}|[0-9a-fA-F]{4}|[0-9a-fA-F]{2})")
_SLAB = re.compile(r"\[(?:([0-9a-fA-F]{8,16}):)?([^\]\s]{1,128})\]")
_SYMBOL = re.compile(r"[A-Za-z_.][\w.$]*(?:\+(?:0x[0-9a-fA-F]+|\d+))?")
_OFFSET = re.compile(r"[A-Za-z_.][\w.$]*\+(?:0x[0-9a-fA-F]+|\d+)")
_GDB = re.compile(r"0x([0-9a-fA-F]{1,16})(?:\s+<([^>]{1,200})>)?")
_GDB_LINE = re.compile(r"(?:\s*0x[0-9a-fA-F]{1,16}(?:\s+<[^>]{1,200}>)?){1,4}\s*")
_BYTES = re.compile(r"\s*((?:[0-9a-f]{2} ){1,31}[0-9a-f]{2})(?:\s.*|$)")
_OBJECT = re.compile(r"unreferenced object 0x([0-9a-f]{1,16}) \(size (\d{1,9})\)")
_SLUB = re.compile(
    r"(?:Object|Redzone|Padding|Bytes b4|First byte)?\s*(?:Object|Redzone|Padding|Bytes b4)"
    r"\s+(?:0x)?([0-9a-f]{8,16}):\s((?:[0-9a-f]{2}\s){1,16})"
)
_NOT_OBJECT = re.compile(r"\s*(?:Redzone|Padding|Bytes b4)\s")
_DRGN_READ = re.compile(r".*\bread(?:_physical)?\(\s*(0x[0-9a-fA-F]{1,16})")
_DRGN_BYTES = re.compile(r"""\s*b(['"])(.*)\1\s*$""")


@dataclass
class _Piece:
    start: int
    data: bytearray


@dataclass(frozen=True)
class Excerpt:
    """Bytes found in a text: (address, content) of each gapless piece, in order."""

    pieces: tuple[tuple[int, bytes], ...]
    ignored: int
    """Lines that show no memory."""
    names: dict[int, tuple[str, bool]] = field(default_factory=dict)
    """Address of a word -> what the text calls it, and whether the text has its value too."""
    assumed: int = 0
    """Lines whose order of bytes is the usual one of such a dump, but could be the other."""
    broken: int = 0
    """Lines that end in something that is neither a value nor a name."""


def memory_of(text: str) -> Excerpt:
    """Raises `HostError` where the text shows no memory."""
    excerpt = parse(text)
    if not excerpt.pieces:
        raise HostError(
            "no memory in this text: paste the output of crash's rd, gdb's x/gx, hexdump -C, xxd, "
            "or kmemleak"
        )
    return excerpt


def parse(text: str) -> Excerpt:
    """Read every line that shows memory; the others are counted."""
    lines = text.splitlines()
    reader = _Reader(None)
    for line in lines:
        reader.line(line)
    if reader.assumed and reader.decided is not None:  # some line tells what the others do not
        reader = _Reader(reader.decided)
        for line in lines:
            reader.line(line)
    return reader.result()


class _Reader:
    def __init__(self, in_order: bool | None) -> None:
        self._in_order = in_order
        """Whether words without a colon's help are bytes in their order; None: not known."""
        self.assumed = 0
        self.decided: bool | None = None
        self._pieces: list[_Piece] = []
        self._names: dict[int, tuple[str, bool]] = {}
        self._ignored = self._broken = 0
        self._object: int | None = None
        """Where the bytes belong that come without an address: kmemleak's."""
        self._read: int | None = None
        self._repeat: bytes | None = None
        """``*`` was printed: the last line goes on until the next address."""
        self._last: tuple[int, bytes] | None = None
        self._octal = False
        self._asked = Asked()

    def line(self, raw: str) -> None:
        text = clean(raw)
        if not text.strip():
            return
        self._asked = asked(text, self._asked)
        if _NOT_OBJECT.match(text):
            self._ignored += 1
        elif text.strip() == "*" and self._last is not None:
            self._repeat = self._last[1]
        elif not (self._of_kernel(text) or self._of_drgn(text) or self._of_dump(text)):
            self._ignored += 1

    def _of_kernel(self, text: str) -> bool:
        """kmemleak's objects and SLUB's reports."""
        if head := _OBJECT.search(text):
            self._object = int(head[1], 16)
            return False  # the line itself shows no memory
        if (slub := _SLUB.match(text)) is not None and "Object" in text:
            return self._add(int(slub[1], 16), bytes.fromhex(slub[2]))
        if self._object is not None and (shown := _BYTES.match(text)):
            data = bytes.fromhex(shown[1])[:32]
            at, self._object = self._object, self._object + len(data)
            return self._add(at, data)
        if "backtrace" in text:
            self._object = None
        return False

    def _of_drgn(self, text: str) -> bool:
        if call := _DRGN_READ.match(text) or DRGN_ADDRESS.match(text):
            self._read = int(call[1], 16)
            return False
        if self._read is not None and (array := drgn_array(text)) is not None:
            at, self._read = self._read, None
            return self._add(at, array)
        shown = _DRGN_BYTES.match(text) if self._read is not None else None
        if shown is None or self._read is None:
            return False
        at, self._read = self._read, None
        try:
            data = shown[2].encode("latin-1", "replace").decode("unicode_escape").encode("latin-1")
        except (UnicodeError, ValueError):
            return False
        return self._add(at, data)

    def _of_dump(self, text: str) -> bool:
        match = _COLON.match(text)
        colon = match is not None
        if match is None and (match := _BARE.match(text)) is None:
            return False
        marked, digits, gap, rest = match.groups()
        address = self._address(digits, colon or bool(marked))
        if colon and len(digits) < 8 and not marked:
            return False
        if colon and (told := numbers(rest, gap, self._asked)) is not None:
            return self._add(address, told)
        asked_for = self._asked
        if (
            colon
            and asked_for.base
            and (asked_for.by_rd or "\t" in gap)
            and asked_for.base in "dutoc"
        ):
            return False  # a number of another base than was asked for
        words = _Words(rest, colon and not marked and len(digits) == 8 and gap == " ")
        if words.undecided:
            self.assumed += self._in_order is None
            if self._in_order:
                words.turn()
        if words.decided is not None:
            self.decided = words.decided
        if not words.data and not words.names:
            return False
        if not colon and not words.fits_bare(bool(marked)):
            return False
        if not self._add(address, bytes(words.data)):
            return False
        for offset, name in words.names.items():
            if len(self._names) < _MOST_NAMES:
                self._names[address + offset] = name
        self._broken += words.broken
        return True

    def _address(self, digits: str, certain: bool) -> int:
        """od counts in octal: where its step makes sense only so, it is."""
        plain = int(digits, 16)
        if certain or self._last is None or not digits.isdigit() or set(digits) & set("89"):
            return plain
        before, data = self._last
        if plain == before + len(data) and not self._octal:
            return plain
        octal = int(digits, 8)
        if self._octal or int(f"{before:x}" or "0", 8) + len(data) == octal:
            self._octal = True
            return octal
        return plain

    def _add(self, address: int, data: bytes) -> bool:
        if address + len(data) > 1 << 64:
            return False
        if self._repeat is not None and self._last is not None:
            self._fill(address)
        self._repeat = None
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.start + len(last.data) == address:
            last.data.extend(data)
        else:
            self._pieces.append(_Piece(address, bytearray(data)))
        self._last = (address, data)
        return True

    def _fill(self, until: int) -> None:
        assert self._last is not None
        start, unit = self._last
        piece = self._pieces[-1]
        end = piece.start + len(piece.data)
        if start + len(unit) == end and 0 < until - end <= _MOST_FILLED and unit:
            gap = until - end
            piece.data.extend((unit * (gap // len(unit) + 1))[:gap])

    def result(self) -> Excerpt:
        pieces = tuple((p.start, bytes(p.data)) for p in self._pieces if p.data)
        return Excerpt(pieces, self._ignored, self._names, self.assumed, self._broken)


class _Words:
    """The values on one line."""

    def __init__(self, rest: str, xxd: bool) -> None:
        self.data = bytearray()
        self.names: dict[int, tuple[str, bool]] = {}
        self.broken = 0
        self.undecided = False
        self.decided: bool | None = None
        """Whether the column of characters says that words are bytes in their order."""
        self._widths: list[int] = []
        # hexdump -C has two blanks in the middle of its bytes.
        bytewise = re.match(r"(?:[0-9a-fA-F]{2}[ -]+){2}", rest + " ") is not None
        columns = re.split(r"\s*\|", rest)[0] if "|" in rest else rest
        if bytewise:
            self._bytes(columns)
            return
        if "0x" in columns and self._gdb(columns):
            return
        symbolic = _is_symbolic(columns)
        parts = re.split(r" {2,}", columns)
        self._values((columns if symbolic else parts[0]).split(), symbolic)
        self._order("" if symbolic else columns[len(parts[0]) :].strip(), xxd)

    def _gdb(self, columns: str) -> bool:
        """x/a drops leading zeros, and names what has a name."""
        found = _GDB.findall(columns)
        if not found or not _GDB_LINE.fullmatch(columns):
            return False
        widths = {len(value) for value, _ in found}
        if len(widths) == 1 and not any(name for _, name in found):
            return False
        for value, name in found[:4]:
            if name:
                self.names[len(self.data)] = (name, True)
            self.data += int(value, 16).to_bytes(8, "little")
            self._widths.append(16)
        return True

    def _bytes(self, columns: str) -> None:
        run = re.match(r"((?:[0-9a-fA-F]{2}(?:  ?|-|$)){1,64})", columns)
        for i, token in enumerate(re.split(r"[ -]+", run[1].strip()) if run else []):
            if i >= 16 and len(self.data) >= 16 and "  " not in columns[:60]:
                break
            self.data.append(int(token, 16))
        self._widths = [2] * len(self.data)
        del self.data[_LINE_BYTES:]

    def _values(self, tokens: list[str], symbolic: bool) -> None:
        width = 0
        for token in tokens:
            if len(self.data) >= (16 if width != 2 else 32):
                break
            match = _HEX.fullmatch(token)
            if match and (not width or len(match[1]) == width):
                width = len(match[1])
                self._widths.append(width)
                self.data += int(match[1], 16).to_bytes(width // 2, "little")
            elif symbolic and width in (0, 16) and self._name(token):
                width = 16
            else:
                self.broken += symbolic
                break

    def _name(self, token: str) -> bool:
        slab = _SLAB.fullmatch(token)
        if slab is None and not _SYMBOL.fullmatch(token):
            return False
        value = int(slab[1], 16) if slab and slab[1] else 0
        name = f"[{slab[2]}]" if slab else token
        self.names[len(self.data)] = (name, bool(value))
        self.data += value.to_bytes(8, "little")
        return True

    def _order(self, shown: str, xxd: bool) -> None:
        """Bytes as they are in memory: words came as numbers, unless the tool prints bytes."""
        width = self._widths[0] if self._widths else 0
        if width <= 2 or self.names:
            return
        self.decided = _decides(bytes(self.data), self._turned(), shown) if xxd else None
        if xxd and self.decided is None:
            self.undecided = width > 4 and bytes(self.data) != self._turned()
        if self.decided or (xxd and self.decided is None and width == 4):
            self.turn()

    def _turned(self) -> bytes:
        step = self._widths[0] // 2
        return b"".join(
            bytes(self.data[i : i + step])[::-1] for i in range(0, len(self.data), step)
        )

    def turn(self) -> None:
        """Take each word's bytes the other way round."""
        self.data[:] = self._turned()

    def fits_bare(self, marked: bool) -> bool:
        """Without a colon any two numbers could be a dump: only lines that are full of them are."""
        return len(self._widths) >= (2 if marked or self._widths[:1] != [2] else 4)


def _decides(plain: bytes, swapped: bytes, shown: str) -> bool | None:
    """Whether the characters beside a line are those of `swapped`; None where they do not tell."""
    if len(shown) < len(plain) or plain == swapped:
        return None
    text = shown[: len(plain)]

    def fits(data: bytes) -> bool:
        return all(chr(b) == c for b, c in zip(data, text, strict=True) if 0x21 <= b < 0x7F)

    first, second = fits(plain), fits(swapped)
    return None if first == second else second


def _is_symbolic(columns: str) -> bool:
    """Whether a name stands in place of a word (rd -s, -S): not in a column of characters.

    A name without an offset could be characters: it counts where only the second word can begin.
    """
    tokens = [(t.start(), t[0]) for t in re.finditer(r"\S+", columns)]
    if not 1 <= len(tokens) <= 2:
        return False
    certain = [bool(_SLAB.fullmatch(t) or _OFFSET.fullmatch(t)) for _, t in tokens]
    whole = [bool(re.fullmatch(r"[0-9a-fA-F]{16}", t)) for _, t in tokens]
    if all(c or w for c, w in zip(certain, whole, strict=True)):
        return any(certain)
    if len(tokens) == 1:
        return False
    (_, first), (second_at, second) = tokens
    names = all(
        w or c or _SYMBOL.fullmatch(t) for (_, t), w, c in zip(tokens, whole, certain, strict=True)
    )
    return (
        names
        and (any(certain) or any(whole))
        and second_at == max(17, len(first) + 1)
        and bool(second)
    )
