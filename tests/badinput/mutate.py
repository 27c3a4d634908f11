"""Valid input made invalid: bits, lengths and counts, structure, encoding. Pure: a random generator and bytes in."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

INTEGERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40,
            2**48, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
"""Where counts and lengths break."""

NUMBERS = (
    "0",
    "-1",
    "-0",
    "1",
    "2",
    "1.5",
    "-1e-5",
    "1e5",
    "65536",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "1e15",
    "1e18",
    "1e19",
    "1e100",
    "1e308",
    "-1e308",
    "1e309",
    "1e999",
    "-1e999",
    "5e-324",
    "NaN",
    "Infinity",
    "-Infinity",
    "nan",
    "inf",
    "9" * 400,
    "9" * 5000,
    "1" + "0" * 320,
    "0." + "0" * 400 + "1",
    "0x10",
    "0x" + "f" * 5000,
    "1_000",
    "+5",
    ".5",
    "5.",
    "1e",
    "٣",
    "½",
    "1,5",
    "true",
    "null",
    '""',
)
"""Numbers as somebody may write them, and what is none."""

STRINGS = (
    "",
    " ",
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;http://example.invalid\x07link\x1b]8;;\x07",
    "\x1b]52;c;aGk=\x07",
    "\x9b31m",
    "\u202eright to left\u202c",
    "\u2066isolate\u2069",
    "zero\u200bwidth\ufeff",
    "\0",
    "a\0b",
    "line\nbreak\r\ttab",
    "[bold]x[/bold]",
    "[@click=app.quit]x[/]",
    "<script>alert(1)</script>",
    "\"'&<>",
    "=1+1",
    "@SUM(A1)",
    "-oProxyCommand=x",
    "+1",
    "../../../x",
    "/etc/passwd",
    "C:\\x",
    "..",
    ".",
    "%s%n%x",
    "{0.__class__}",
    "{{ 7*7 }}",
    "A" * 300,
    "W" * 5000,
    "é" * 200,
    "漢字" * 60,
    "👩‍👩‍👧‍👦",
    "e\u0301" * 50,
    "\ud800",
    "\ue000",
    "\U0010ffff",
    "\u2028",
    "__proto__",
    "null",
    "NaN",
    "nan",
    "inf",
    "0",
    "-1",
    "true",
    "F16",
    "Q4_K_M",
    "x" * 200_000,
)
"""Texts that act on terminals, markup, tables, shells and paths, and such as are too long."""

DEEP = (40, 200, 950, 5_000, 100_000)
"""How deep structures are nested."""

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_QUOTED = re.compile(rb'"(?:[^"\\\n]|\\.)*"')
_RAW = "@raw-%d@"

Change = Callable[[Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


def mutated(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes], form: str) -> bytes:
    """The data changed in a few ways that fit its form.

    Args:
        others: further inputs, of which parts may be taken.
        words: what may be put in.
        form: bytes, text, json or lines, as of Target.
    """
    changes = {"bytes": _BYTES, "text": _TEXT, "json": _JSON, "lines": _LINES}[form]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        data = rng.choice(changes)(rng, data, others, words)[:MOST]
    return data


MOST = 1 << 20
"""Bytes that an input has at most."""


# --- bytes ----------------------------------------------------------------------------------------------------------


def _place(rng: Random, data: bytes) -> int:
    """Beginnings and ends hold what decides."""
    if not data:
        return 0
    return rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 64)), len(data) - 1))


def _stretch(rng: Random, data: bytes) -> tuple[int, int]:
    begin = _place(rng, data)
    return begin, min(len(data), begin + rng.choice((1, 2, 4, 8, rng.randint(1, 64), rng.randint(1, len(data) + 1))))


def _flip(rng: Random, data: bytes, *_: Any) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(rng: Random, data: bytes, *_: Any) -> bytes:
    at = _place(rng, data)
    return (
        data[:at] + bytes([rng.choice((0, 1, 0x0A, 0x20, 0x22, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]
    )


def _cut(rng: Random, data: bytes, *_: Any) -> bytes:
    return data[: _place(rng, data)]


def _drop(rng: Random, data: bytes, *_: Any) -> bytes:
    begin, end = _stretch(rng, data)
    return data[:begin] + data[end:]


def _double(rng: Random, data: bytes, *_: Any) -> bytes:
    begin, end = _stretch(rng, data)
    return data[:end] + data[begin:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _junk(rng: Random, data: bytes, *_: Any) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.randint(1, 32)) + data[at + rng.choice((0, 8)) :]


def _splice(rng: Random, data: bytes, others: Sequence[bytes], _: Any) -> bytes:
    other = rng.choice(others)
    begin, end = _stretch(rng, other)
    at, over = _stretch(rng, data)
    return data[:at] + other[begin:end] + data[rng.choice((at, over)) :]


def _integer(rng: Random, data: bytes, *_: Any) -> bytes:
    """A count or a length set to what it cannot be."""
    size, at = rng.choice((1, 2, 4, 8)), _place(rng, data)
    value = rng.choice((*INTEGERS, len(data), len(data) + 1, -1)) & (1 << 8 * size) - 1
    return data[:at] + value.to_bytes(size, rng.choice(("little", "little", "big"))) + data[at + size :]


def _float(rng: Random, data: bytes, *_: Any) -> bytes:
    at, form = _place(rng, data) & ~3, rng.choice("fd")
    value = rng.choice((0.0, -0.0, -1.0, 3e38, float("nan"), float("inf"), float("-inf"), 1e-40))
    return data[:at] + struct.pack(f"<{form}", value) + data[at + struct.calcsize(form) :]


def _word(rng: Random, data: bytes, _: Any, words: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    word = rng.choice(words) if words and rng.random() < 0.7 else _hostile(rng)
    return data[:at] + word + data[at + rng.choice((0, 0, len(word))) :]


def _hostile(rng: Random) -> bytes:
    return rng.choice(STRINGS).encode("utf-8", "surrogatepass")


# --- text -----------------------------------------------------------------------------------------------------------


def _number(rng: Random, data: bytes, *_: Any) -> bytes:
    """A number in a text set to what it cannot be."""
    found = list(_NUMBER.finditer(data, 0, 1 << 16))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(NUMBERS).encode() + data[one.end() :]


def _string(rng: Random, data: bytes, *_: Any) -> bytes:
    """A text in quotes set to a hostile one, raw or escaped."""
    found = list(_QUOTED.finditer(data, 0, 1 << 16))
    if not found:
        return data
    one, text = rng.choice(found), rng.choice(STRINGS)
    made = json.dumps(text).encode() if rng.random() < 0.7 else b'"' + text.encode("utf-8", "surrogatepass") + b'"'
    return data[: one.start()] + made + data[one.end() :]


def _line(rng: Random, data: bytes, others: Sequence[bytes], _: Any) -> bytes:
    """Lines left out, told twice, moved, or taken from elsewhere."""
    lines = data.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines[at:at] = [lines[at]] * rng.choice((1, 2, 300))
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            lines[at:at] = [rng.choice(rng.choice(others).split(b"\n"))]
        case _:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return b"\n".join(lines)


def _encoded(rng: Random, data: bytes, *_: Any) -> bytes:
    """The same text as another system writes it, or badly."""
    at = _place(rng, data)
    match rng.randrange(8):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return data.replace(b"\n", b"\r\n")
        case 2:
            return data.replace(b"\n", b"\r")
        case 3:
            return (
                data[:at]
                + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"))
                + data[at:]
            )
        case 4:
            return data[:at] + b"\0" + data[at:]
        case 5:
            return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32")))
        case 6:
            return data.rstrip(b"\n") if data.endswith(b"\n") else data + b"\n\n\n"
        case _:
            return data.decode("utf-8", "replace").encode("latin-1", "replace")


def _nest(rng: Random, data: bytes, *_: Any) -> bytes:
    """Brackets without end, closed or not."""
    at, depth = _place(rng, data), rng.choice(DEEP)
    opened, closed = rng.choice(
        ((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"{", b"}"), (b"{%if 1%}", b"{%endif%}"))
    )
    made = opened * depth + (b"1" if rng.random() < 0.5 else b"") + (closed * depth if rng.random() < 0.7 else b"")
    return data[:at] + made + data[at:]


# --- JSON -----------------------------------------------------------------------------------------------------------


def _tree(rng: Random, data: bytes, others: Sequence[bytes], _: Any) -> bytes:
    """A value of a JSON text changed, left out, told twice or nested."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return _string(rng, data)
    raw: dict[str, str] = {}
    whole = _changed(rng, whole, raw)
    text = json.dumps(whole, ensure_ascii=rng.random() < 0.5)
    for mark, put in raw.items():
        text = text.replace(json.dumps(mark), put)
    return text.encode("utf-8", "surrogatepass")


def _changed(rng: Random, value: Any, raw: dict[str, str]) -> Any:
    """The value with one part of it changed, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(12):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                return {
                    rng.choice((*STRINGS[:-1], key.upper())) if name == key else name: one
                    for name, one in value.items()
                }
            case 2:
                return {**value, key: _as_is(f"1,{json.dumps(key)}:{json.dumps(value[key])}", raw)}
            case _:
                return {**value, key: _changed(rng, value[key], raw)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * rng.choice((2, 3, 2000)) + value[at:]
            case _:
                return [*value[:at], _changed(rng, value[at], raw), *value[at + 1 :]]
    return _other(rng, value, raw)


def _other(rng: Random, value: Any, raw: dict[str, str]) -> Any:
    match rng.randrange(8):
        case 0:
            return rng.choice((None, True, False, [], {}, "", 0, [[]], {"": {}}))
        case 1 | 2:
            return _as_is(rng.choice(NUMBERS[:40]), raw)
        case 3:
            return rng.choice(STRINGS)
        case 4:
            depth = rng.choice(DEEP)
            opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
            return _as_is(opened * depth + "0" + closed * depth, raw)
        case 5 if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30:
            return rng.choice(
                (-value, value * 1000, value / 7, value + 1, value * value, int(value) ^ 1 << rng.randrange(64))
            )
        case 6 if isinstance(value, str):
            at = rng.randrange(len(value) + 1)
            return value[:at] + rng.choice(STRINGS[:-1]) + value[at:]
        case _:
            return rng.choice(INTEGERS)


def _as_is(text: str, raw: dict[str, str]) -> str:
    """A mark that stands for text which is put in as it is."""
    mark = _RAW % len(raw)
    raw[mark] = text
    return mark


def _tree_line(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    full = [at for at, line in enumerate(lines) if line.strip()]
    if full:
        at = rng.choice(full)
        lines[at] = _tree(rng, lines[at], others, words)
    return b"\n".join(lines)


_BYTES: tuple[Change, ...] = (_flip, _byte, _cut, _drop, _double, _junk, _splice, _integer, _integer, _float, _word)
_TEXT: tuple[Change, ...] = (
    _flip,
    _cut,
    _drop,
    _double,
    _junk,
    _splice,
    _word,
    _word,
    _number,
    _number,
    _number,
    _string,
    _string,
    _line,
    _line,
    _encoded,
    _nest,
)
_JSON: tuple[Change, ...] = (_tree,) * 12 + _TEXT
_LINES: tuple[Change, ...] = (_tree_line,) * 14 + _TEXT
