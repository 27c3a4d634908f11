"""What a relay and a mirror say to each other: one JSON line a message. Knows neither sessions nor processes.

The relay speaks first (`Hello`), the mirror answers with where to go on (`From`). Then the relay sends the log in
pieces of whole lines, each behind a `Piece` that says where it begins and how long it is, and a `Beat` a second; the
mirror sends `Ask` for each request that its viewer left, and has it confirmed (`Took`). What a login shell prints
before the first message is no message.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")

PROTOCOL = 1

MARK = b'{"relay":'
"""How each message of a relay begins."""

LINE = 1 << 16
"""Bytes that a message may have."""


class FromRelay(msgspec.Struct, frozen=True, kw_only=True, tag_field="relay"):
    """What a relay says."""


class Hello(FromRelay, frozen=True, kw_only=True, tag="hello"):
    """Which session this is: its folder's name and place. `key` is a digest of how its log begins, `size` in bytes."""

    protocol: int
    session: str
    folder: str
    key: str
    size: int
    alive: bool
    wall: float


class Piece(FromRelay, frozen=True, kw_only=True, tag="log"):
    """`size` bytes of the log follow this line: whole lines, from `offset` on. `crc`: their CRC-32."""

    offset: int
    size: int
    crc: int


class Beat(FromRelay, frozen=True, kw_only=True, tag="beat"):
    """Each second, and at once when something changed.

    alive: whether the session's writer runs. whole: everything written so far was sent. over: and nothing more will be.
    wall: Unix time there. age: seconds since the log grew.
    """

    alive: bool
    whole: bool
    over: bool
    wall: float
    age: float


class Took(FromRelay, frozen=True, kw_only=True, tag="took"):
    """The request that was sent with this `at` lies in the session's control.jsonl."""

    at: int


class FromMirror(msgspec.Struct, frozen=True, kw_only=True, tag_field="mirror"):
    """What a mirror says."""


class From(FromMirror, frozen=True, kw_only=True, tag="from"):
    """Where in the log to begin, in bytes: the end of a line."""

    offset: int


class Ask(FromMirror, frozen=True, kw_only=True, tag="ask"):
    """A viewer's request. `via` is its own in all the world: what was carried over twice is left once.

    `at`: where it ends in the mirror's control.jsonl.
    """

    at: int
    via: str
    request: str
    arm: str = ""
    value: str = ""


RelaySays = Hello | Piece | Beat | Took
MirrorSays = From | Ask

_encoder = msgspec.json.Encoder()
_relay: msgspec.json.Decoder[RelaySays] = msgspec.json.Decoder(RelaySays)
_mirror: msgspec.json.Decoder[MirrorSays] = msgspec.json.Decoder(MirrorSays)


def encode(message: FromRelay | FromMirror) -> bytes:
    """One message as a line, newline included."""
    return _encoder.encode(message) + b"\n"


def of_relay(line: bytes) -> RelaySays:
    """What a relay said in this line.

    Raises:
        ValueError: nothing that this version knows.
    """
    return _decoded(_relay, line)


def of_mirror(line: bytes) -> MirrorSays:
    """What a mirror said in this line.

    Raises:
        ValueError: nothing that this version knows.
    """
    return _decoded(_mirror, line)


def _decoded(decoder: msgspec.json.Decoder[T], line: bytes) -> T:
    try:
        return decoder.decode(line)
    except RecursionError:
        raise ValueError("is nested too deep") from None
