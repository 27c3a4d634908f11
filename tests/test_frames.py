"""Files of key frames: each frame is the fold's state, none repeats what another has, and damage is noticed."""

from __future__ import annotations

import itertools
import random
import zlib
from pathlib import Path

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import frames, packed
from quanttui import state as fold

ARMS = (
    builders.Arm("Q8_0", again=(12.0,), tokens=64),
    builders.Arm("Q5_K_M", tok_s=3.0, swap=0.021),
    builders.Arm("Q4_K_M", fails="oom", fails_in="load"),
    builders.Arm("Q2_K", gpu={"mem_used": 3e9, "power": 90.0, "clock": 1.2e9, "clock_max": 2e9}, gpu_layers=23),
)
EVENTS = builders.events(*ARMS)


@settings(deadline=None, max_examples=25)
@given(st.sets(st.integers(0, len(EVENTS)), min_size=1, max_size=12))
def test_each_frame_of_a_file_is_the_state_that_was_taken(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int]
) -> None:
    path = tmp_path_factory.mktemp("frames") / "frames"
    states, state, begin = {}, fold.State(), 0
    one = frames.Appender(path)
    for cut in sorted(cuts):
        fold.fold(EVENTS[begin:cut], state)
        begin = cut
        one.append(cut, one.take(state))
        states[cut] = fold.encode(state)
    found = frames.listed(path, len(EVENTS))
    assert [frame.offset for frame in found] == sorted(cuts)
    assert all(fold.encode(frames.read(path, frame)) == states[frame.offset] for frame in found)


def test_a_frame_has_only_the_arms_that_changed(tmp_path: Path) -> None:
    """However many quants are over, a frame takes what the one under way takes."""
    arms = [builders.Arm("Q8_0", id=f"arm {place}", tokens=64) for place in range(12)]
    events = builders.events(*arms)
    one, alone, state = frames.Appender(tmp_path / "frames"), [], fold.State()
    for count, event in enumerate(events, 1):
        state.apply(event)
        if isinstance(event, e.ArmDone):
            taken = one.take(state)
            one.append(count, taken)
            alone.append(len(taken.new))
    found = frames.listed(tmp_path / "frames", len(events))
    assert alone[0] == len(arms) and set(alone[1:]) == {1}
    assert found[-1].length < 2 * found[1].length
    assert fold.encode(frames.read(tmp_path / "frames", found[-1])) == fold.encode(
        fold.fold(events[: found[-1].offset])
    )


def test_a_torn_file_has_the_frames_before_the_tear(tmp_path: Path) -> None:
    path, one, state, known = tmp_path / "frames", frames.Appender(tmp_path / "frames"), fold.State(), []
    for cut in range(100, 500, 100):
        fold.fold(EVENTS[cut - 100 : cut], state)
        one.append(cut, one.take(state))
        known.append((path.stat().st_size, fold.encode(state)))
    whole = path.read_bytes()
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        states = [fold.encode(frames.read(path, frame)) for frame in frames.listed(path, len(EVENTS))]
        assert states == [state for size, state in known if size <= cut]


def test_a_damaged_frame_is_no_state(tmp_path: Path) -> None:
    """A flipped bit is refused, or lies where nothing of this frame does: never another state."""
    path, state = tmp_path / "frames", fold.fold(EVENTS[:300])
    frame = frames.append(path, 300, state)
    whole, told = path.read_bytes(), fold.encode(state)
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(frame.place, len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert fold.encode(frames.read(path, frame)) == told
        except ValueError:
            continue


def test_what_could_not_be_written_is_written_with_the_next_frame(tmp_path: Path) -> None:
    path, state = tmp_path / "gone" / "frames", fold.fold(EVENTS[:200])
    one = frames.Appender(path)
    with pytest.raises(OSError):
        one.append(200, one.take(state))
    path.parent.mkdir()
    fold.fold(EVENTS[200:400], state)
    assert fold.encode(frames.read(path, one.append(400, one.take(state)))) == fold.encode(state)


def test_a_frame_that_leans_on_one_that_failed_is_not_written(tmp_path: Path) -> None:
    path, state = tmp_path / "gone" / "frames", fold.fold(EVENTS[:200])
    one = frames.Appender(path)
    first = one.take(state)
    fold.fold(EVENTS[200:220], state)
    second = one.take(state)
    with pytest.raises(OSError):
        one.append(200, first)
    path.parent.mkdir()
    with pytest.raises(OSError, match="before this one"):
        one.append(220, second)
    third = one.append(220, one.take(state))
    assert fold.encode(frames.read(path, third)) == fold.encode(state)


@pytest.mark.parametrize("after", [b"", b"another's bytes"])
def test_a_file_that_another_one_changed_gets_a_whole_frame(tmp_path: Path, after: bytes) -> None:
    path, state = tmp_path / "frames", fold.fold(EVENTS[:200])
    one = frames.Appender(path)
    one.append(200, one.take(state))
    path.write_bytes(after)
    fold.fold(EVENTS[200:220], state)
    with pytest.raises(OSError, match="another one"):
        one.append(220, one.take(state))
    assert fold.encode(frames.read(path, one.append(220, one.take(state)))) == fold.encode(state)


def test_a_part_too_large_to_be_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file from elsewhere cannot fill the memory."""
    path = tmp_path / "frames"
    frame = frames.append(path, 300, fold.fold(EVENTS[:300]))
    monkeypatch.setattr(packed, "MOST", 5_000)
    with pytest.raises(ValueError, match="too large"):
        frames.read(path, frame)
    assert len(zlib.compress(bytes(1 << 20))) < 5_000


def test_frames_beyond_the_log_are_left_out(tmp_path: Path) -> None:
    path, one, state = tmp_path / "frames", frames.Appender(tmp_path / "frames"), fold.State()
    for offset in (10, 20, 30):
        one.append(offset, one.take(state))
    assert [[frame.offset for frame in frames.listed(path, size)] for size in (0, 10, 29, 30)] == [
        [], [10], [10, 20], [10, 20, 30]
    ]  # fmt: skip


def test_an_arm_is_the_same_bytes_as_long_as_nothing_was_told_of_it() -> None:
    """What frames go by: `changed` tells an arm's states apart, in whichever order arms are measured."""
    logs = EVENTS, builders.deciding(anchored=True)
    for log in logs:
        seen: dict[tuple[str, int], bytes] = {}
        state = fold.State()
        for event in log:
            state.apply(event)
            for arm in state.arms.values():
                encoded = fold.encode_arm(arm)
                assert seen.setdefault((arm.id, arm.changed), encoded) == encoded
        assert len(seen) > 100 and len(set(itertools.chain(name for name, _ in seen))) == len(state.arms)
