"""Files of key frames: states of a log's fold, so that it is opened at its end, or at any time, without all of it being
read. Knows states and bytes, no events and no sessions.

A frame has the part of the state that all arms share, and those arms that changed since the frame before it; of the
others it says where in the file they lie. So a frame stays small however many quants a sweep has behind it, and is made
in the time that the arm under way takes.

    file    frames, one after another
    frame   4 bytes that tell the state's layout, uint64 bytes of the log, uint64 nanoseconds of session time, uint32
            length of what follows: parts, index, uint32 length of the index
    part    zlib over MessagePack: what is shared, or an arm
    index   zlib over MessagePack: [place, length] of what is shared, [arm, place, length] of each arm in its order
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from quanttui import packed, paths
from quanttui import state as fold

_HEAD = struct.Struct("<4sQQI")
_LENGTH = struct.Struct("<I")

_LEVEL = 1
"""zlib's level: a quant under way, of 0.2 MB, shrinks to a third in 3 ms; higher levels gain little."""


class Frame(msgspec.Struct, frozen=True):
    """Where a key frame lies: it is the state after `offset` bytes of the log, at session time `t`; what belongs to it
    alone is `length` bytes from `place` on in its file."""

    offset: int
    t: float
    place: int
    length: int


class _Index(msgspec.Struct, frozen=True, array_like=True):
    shared: tuple[int, int]
    arms: tuple[tuple[str, int, int], ...]


class Taken(msgspec.Struct, frozen=True):
    """A state as a frame takes it: `arms` are its arms' names, `new` those that no frame before it has as they are."""

    t: float
    shared: bytes
    arms: tuple[str, ...]
    new: dict[str, bytes]


class Appender:
    """Adds frames of one log's fold to one file, which nobody else writes to. `take` may be called by another thread
    than `append`; what was taken is appended in the same order.

    Args:
        path: the file, made 0600 where there is none. What is in it already is left alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._end: int | None = None

    def take(self, state: fold.State) -> Taken:
        """The state as it is now, encoded: what it becomes later is not in it."""
        known = self._taken
        new = {arm.id: fold.encode_arm(arm) for arm in state.arms.values() if known.get(arm.id) != arm.changed}
        known.update((name, state.arms[name].changed) for name in new)
        return Taken(state.t, fold.encode_shared(state), tuple(state.arms), new)

    def append(self, offset: int, taken: Taken) -> Frame:
        """Add a frame: the state after the first `offset` bytes of the log.

        Raises:
            OSError: it cannot be written. The file is as it was, and the next state that is taken is taken whole.
        """
        try:
            return self._append(offset, taken)
        except OSError:
            self._places.clear()
            self._end, self._taken = None, {}
            raise

    def _append(self, offset: int, taken: Taken) -> Frame:
        with open(self.path, "ab", opener=paths.private, buffering=0) as file:
            begin = file.tell()
            if self._end is not None and self._end != begin:
                raise OSError(f"{self.path.name}: another one writes to it")
            place = begin + _HEAD.size
            shared = zlib.compress(taken.shared, _LEVEL)
            parts, places = [shared], dict(self._places)
            end = place + len(shared)
            for name, encoded in taken.new.items():
                parts.append(zlib.compress(encoded, _LEVEL))
                places[name] = end, len(parts[-1])
                end += len(parts[-1])
            if any(name not in places for name in taken.arms):
                raise OSError(f"{self.path.name}: a frame before this one could not be written")
            index = _Index((place, len(shared)), tuple((name, *places[name]) for name in taken.arms))
            listed = zlib.compress(msgspec.msgpack.encode(index), _LEVEL)
            body = b"".join((*parts, listed, _LENGTH.pack(len(listed))))
            whole = _HEAD.pack(fold.layout(), offset, int(taken.t * 1e9), len(body)) + body
            try:
                if file.write(whole) != len(whole):
                    raise OSError(28, os.strerror(28))
            except OSError:
                with suppress(OSError):
                    file.truncate(begin)
                raise
            self._places, self._end = places, begin + len(whole)
            return Frame(offset, int(taken.t * 1e9) / 1e9, place, len(body))


def append(path: Path, offset: int, state: fold.State) -> Frame:
    """Add a frame that has all of the state: that after the first `offset` bytes of the log.

    Raises:
        OSError: it cannot be written.
    """
    one = Appender(path)
    return one.append(offset, one.take(state))


def listed(path: Path, size: int) -> list[Frame]:
    """The frames in a file, of a log of `size` bytes; torn or foreign ones, and what comes after them, are left out."""
    found: list[Frame] = []
    try:
        with open(path, "rb", buffering=0) as file:
            end, place = os.fstat(file.fileno()).st_size, 0
            while len(head := os.pread(file.fileno(), _HEAD.size, place)) == _HEAD.size:
                magic, offset, t_ns, length = _HEAD.unpack(head)
                place += _HEAD.size
                if magic != fold.layout() or place + length > end or offset > size:
                    break
                found.append(Frame(offset, t_ns / 1e9, place, length))
                place += length
    except OSError:
        pass
    return found


def read(path: Path, frame: Frame) -> fold.State:
    """The state that a frame holds.

    Raises:
        ValueError: it is torn, or of another version.
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        log = file.fileno()
        end = frame.place + frame.length
        try:
            (length,) = _LENGTH.unpack(os.pread(log, _LENGTH.size, end - _LENGTH.size))
            index = msgspec.msgpack.decode(_part(log, end - _LENGTH.size - length, length), type=_Index)
            names = [name for name, _, _ in index.arms]
            state = fold.joined(_part(log, *index.shared), _parts(log, index))
        except (struct.error, msgspec.DecodeError, OverflowError) as error:
            raise ValueError(str(error)) from None
    if list(state.arms) != names:
        raise ValueError("its arms are others than its index says")
    return state


def _parts(log: int, index: _Index) -> Iterator[bytes]:
    return (_part(log, place, length) for _, place, length in index.arms)


def _part(log: int, place: int, length: int) -> bytes:
    """A part, unpacked.

    Raises:
        ValueError: it is none.
    """
    if place < 0 or not 0 <= length <= packed.MOST:
        raise ValueError(f"no part lies at byte {place}")
    return packed.inflated(os.pread(log, length, place))
