"""What is over, and will rarely be asked for again, packed: in a tenth of the memory. Pure. Knows nothing of what it
packs.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values

MOST = 64 << 20
"""Bytes that anything may have when it is unpacked: no sweep's comes near, and a file from elsewhere cannot fill the
memory."""

_LEVEL = 6
"""zlib's: 800 answers, of 0.5 MB, shrink to a seventh in 12 ms, once; level 1 leaves a third more."""

_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A dict that is packed: how many items it has, and what `pack` made of it."""

    count: int
    body: bytes


def pack(value: Any) -> bytes:
    """The value as zlib over MessagePack."""
    return zlib.compress(_encoder.encode(value), _LEVEL)


def inflated(body: bytes) -> bytes:
    """What zlib has packed, MOST bytes at most.

    Raises:
        ValueError: it is cut off, or no such thing, or too large.
    """
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(body, MOST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacking.eof:
        raise ValueError("it is cut off, or too large")
    return found


class Shelf(Generic[T]):
    """What was unpacked of one kind, the latest that was asked for: nobody's to change.

    Args:
        kind: what is packed, as msgspec decodes it.
        room: bytes of it, as it is encoded, that are kept at hand; as objects it takes some five times as much.
    """

    def __init__(self, kind: Any, room: int) -> None:
        self.room = room
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._known: OrderedDict[bytes, tuple[T, int]] = OrderedDict()

    def get(self, body: bytes) -> T:
        """What is packed there.

        Raises:
            ValueError: it is damaged.
        """
        known = self._known.get(body)
        if known is not None:
            return known[0]
        encoded = inflated(body)
        found = self._decoded(encoded)
        self._known[body] = found, len(encoded)
        over = sum(size for _, size in list(self._known.values())) - self.room
        while over > 0 and len(self._known) > 1:
            over -= self._known.popitem(last=False)[1][1]
        return found

    def fresh(self, body: bytes) -> T:
        """The same, its owner's to change.

        Raises:
            ValueError: it is damaged.
        """
        return self._decoded(inflated(body))

    @property
    def held(self) -> int:
        """Bytes that are at hand, as they are encoded."""
        return sum(size for _, size in list(self._known.values()))

    def _decoded(self, encoded: bytes) -> T:
        try:
            return self._decoder.decode(encoded)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None


class Kept(Mapping[K, V]):
    """A dict that is packed, to be read: how much it holds is known, the rest is unpacked when it is asked for."""

    __slots__ = ("_packed", "_shelf")

    def __init__(self, packed: Packed, shelf: Shelf[dict[K, V]]) -> None:
        self._packed, self._shelf = packed, shelf

    def _unpacked(self) -> dict[K, V]:
        return self._shelf.get(self._packed.body)

    def __len__(self) -> int:
        return self._packed.count

    def __getitem__(self, key: K) -> V:
        return self._unpacked()[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._unpacked())

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._unpacked())

    def __contains__(self, key: object) -> bool:
        return key in self._unpacked()

    def get(self, key: K, default: Any = None) -> Any:
        return self._unpacked().get(key, default)

    def keys(self) -> dict_keys[K, V]:
        return self._unpacked().keys()

    def values(self) -> dict_values[K, V]:
        return self._unpacked().values()

    def items(self) -> dict_items[K, V]:
        return self._unpacked().items()
