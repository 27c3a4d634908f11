"""What is packed is what it was, unpacked only when asked for, and never more of it at hand than there is room for."""

from __future__ import annotations

import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import packed
from quanttui.packed import Kept, Packed, Shelf, pack

KNOWN = st.dictionaries(st.integers(-1000, 1000), st.floats(allow_nan=False))


@given(KNOWN, st.integers(-1000, 1000))
def test_a_kept_dict_reads_as_the_dict(known: dict[int, float], key: int) -> None:
    shelf: Shelf[dict[int, float]] = Shelf(dict[int, float], 1 << 20)
    kept = Kept(Packed(len(known), pack(known)), shelf)
    assert (len(kept), bool(kept), kept == known) == (len(known), bool(known), True)
    assert list(kept) == list(known) and list(reversed(kept)) == list(reversed(known))
    assert list(kept.items()) == list(known.items()) and list(kept.values()) == list(known.values())
    assert kept.keys() == known.keys() and (key in kept) == (key in known)
    assert kept.get(key) == known.get(key) and kept.get(key, 1.5) == known.get(key, 1.5)
    if key in known:
        assert kept[key] == known[key]
    else:
        with pytest.raises(KeyError):
            kept[key]


def test_how_much_there_is_is_known_without_unpacking() -> None:
    shelf: Shelf[dict[int, float]] = Shelf(dict[int, float], 1 << 20)
    kept = Kept(Packed(3, b"nothing that can be unpacked"), shelf)
    assert len(kept) == 3 and kept
    with pytest.raises(ValueError):
        kept.get(1)


def test_what_is_at_hand_is_bounded_and_right() -> None:
    shelf: Shelf[list[int]] = Shelf(list[int], 20_000)
    each = [pack([place] * 3_000) for place in range(300)]
    chance = random.Random(1)
    for _ in range(1_000):
        place = chance.randrange(len(each))
        assert shelf.get(each[place])[-1] == place
        assert shelf.held <= shelf.room
    assert shelf.held > shelf.room / 2


def test_what_is_larger_than_the_room_is_had_all_the_same() -> None:
    shelf: Shelf[bytes] = Shelf(bytes, 10)
    assert len(shelf.get(pack(bytes(1000)))) == len(shelf.get(pack(bytes(1000)))) == 1000


def test_a_fresh_one_is_its_owners() -> None:
    shelf: Shelf[list[int]] = Shelf(list[int], 1 << 20)
    body = pack([1, 2])
    shelf.fresh(body).append(3)
    assert shelf.get(body) == [1, 2] and shelf.get(body) is shelf.get(body)


@pytest.mark.parametrize(
    "wrong", [b"", b"no zlib", zlib.compress(b"no MessagePack"), pack(["no number"]), pack([1])[:-2]]
)
def test_damage_is_said(wrong: bytes) -> None:
    shelf: Shelf[list[int]] = Shelf(list[int], 1 << 20)
    for read in (shelf.get, shelf.fresh):
        with pytest.raises(ValueError):
            read(wrong)
    assert shelf.held == 0


def test_a_small_file_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST", 1 << 16)
    assert len(packed.inflated(zlib.compress(bytes(1 << 16)))) == 1 << 16
    with pytest.raises(ValueError, match="too large"):
        packed.inflated(zlib.compress(bytes(1 << 20)))


def test_packing_is_encoding_and_nothing_else() -> None:
    assert msgspec.msgpack.decode(packed.inflated(pack({"a": [1.5, None]}))) == {"a": [1.5, None]}
