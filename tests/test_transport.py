"""The time cursor moves as said, and the feed gives the state that the cursor stands at, by whatever way it came."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session, transport
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.transport import FROZEN, LIVE, REPLAY, Cursor
from quanttui.tui import feed as log

TIMES = st.floats(0, 1e5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90s", 90),
        ("12m", 720),
        ("1.5m", 90),
        ("1h18m", 4680),
        ("1h02m03s", 3723),
        ("00:41:22", 2482),
        ("2:05", 125),
        ("Q4_K_M", None),
        ("flag", None),
        ("", None),
        ("-5s", None),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, expected: float | None) -> None:
    assert transport.seconds(text) == expected


@given(TIMES, TIMES, st.floats(-1e5, 1e5))
def test_a_cursor_never_leaves_the_session(now: float, end: float, by: float) -> None:
    now = min(now, end)
    for cursor in (Cursor(), Cursor(FROZEN, now), Cursor(REPLAY, now, 4.0)):
        moved = cursor.moved(by, now, end)
        assert moved.t is None or 0 <= moved.t <= end
        assert moved.mode == REPLAY if cursor.mode == REPLAY else moved.mode in (LIVE, FROZEN)


@given(TIMES)
def test_freezing_twice_is_live_again(now: float) -> None:
    frozen = Cursor().toggled(now)
    assert (frozen.mode, frozen.t) == (FROZEN, now)
    assert frozen.toggled(now) == Cursor()


@given(TIMES, TIMES, st.floats(0, 100), st.floats(0.1, 100))
def test_a_replay_goes_forward_at_its_speed_and_stops_at_the_end(
    t: float, end: float, passed: float, speed: float
) -> None:
    t = min(t, end)
    after = Cursor(REPLAY, t, speed).passed(passed, end)
    assert after.t == pytest.approx(min(end, t + passed * speed))
    assert after.playing == (t + passed * speed < end)


@given(TIMES, st.floats(0, 100))
def test_time_moves_neither_a_live_nor_a_frozen_nor_a_paused_cursor(t: float, passed: float) -> None:
    for cursor in (Cursor(), Cursor(FROZEN, t), Cursor(REPLAY, t, playing=False)):
        assert cursor.passed(passed, 1e6) == cursor


def test_home_is_the_start_and_end_is_live_or_the_end_of_a_replay() -> None:
    assert Cursor().to_start() == Cursor(FROZEN, 0.0, playing=False)
    assert Cursor(FROZEN, 3.0).to_end(9.0) == Cursor()
    assert Cursor(REPLAY, 3.0, 2.0).to_start().t == 0
    assert Cursor(REPLAY, 3.0, 2.0).to_end(9.0).t == 9


def test_the_header_names_the_cursor() -> None:
    assert Cursor().words == "LIVE"
    assert Cursor(FROZEN, 1.0).words == "FROZEN"
    assert Cursor(REPLAY, 1.0, 4.0).words == "REPLAY 4x"
    assert Cursor(REPLAY, 1.0, 4.0, False).words == "REPLAY paused"


ARMS = (builders.Arm("Q8_0"), builders.Arm("Q5_K_M", tok_s=3.0, swap=0.021), builders.Arm("Q4_K_M", tok_s=25.0))


def contaminated(state: fold.State) -> bool:
    return len(state.arms["Q5_K_M"].units) > 0


def test_a_quant_is_found_where_it_started_in_any_case() -> None:
    events = builders.events(*ARMS)
    started = next(one.t for one in events if isinstance(one, e.ArmStarted) and one.arm == "Q5_K_M")
    assert transport.locate(events, "q5_k_m", contaminated) == started


def test_a_flag_is_found_within_a_second_of_session_time() -> None:
    events = builders.events(*ARMS)
    first = next(state.t for state in builders.states(events) if contaminated(state))
    assert first <= transport.locate(events, "flag", contaminated) <= first + 1


def test_what_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(UserError, match=r"--at q9: .*Q8_0, Q5_K_M, Q4_K_M"):
        transport.locate(builders.events(*ARMS), "q9", contaminated)
    with pytest.raises(UserError, match="--at flag: nothing was flagged"):
        transport.locate(builders.events(*ARMS), "flag", lambda state: False)


# --- the feed -------------------------------------------------------------------------------------------------------


def written(folder: Path, events: list[e.Event], frames: tuple[int, ...] = ()) -> Path:
    """A session folder with these events, and key frames after so many of them."""
    folder.mkdir(parents=True, exist_ok=True)
    state, offset = fold.State(), 0
    with open(folder / session.EVENTS, "wb") as file:
        for count, event in enumerate(events, 1):
            line = e.encode(event)
            file.write(line)
            file.flush()
            offset += len(line)
            state.apply(event)
            if count in frames:
                session.append_frame(folder, offset, state)
    return folder


def settle(feed: log.Feed, t: float | None) -> fold.State:
    """The feed's state once it stands at `t`."""
    for _ in range(5000):
        if feed.advance(t):
            return feed.state
        threading.Event().wait(0.002)
    raise AssertionError("the feed did not come to stand")


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[log.Feed]:
    events = builders.events(*ARMS)
    found = log.Feed(written(tmp_path / "s", events, (len(events) // 3, 2 * len(events) // 3)))
    yield found
    found.close()


def test_wherever_the_cursor_jumps_the_state_is_the_fold_of_the_events_up_to_it(feed: log.Feed) -> None:
    """With and without key frames in between, forwards and backwards."""
    events = builders.events(*ARMS)
    jumps = random.Random(1)
    for _ in range(8):
        t = jumps.uniform(0, events[-1].t)
        feed.seek(t)
        expected = fold.fold([one for one in events if one.t <= t])
        assert fold.encode(settle(feed, t)) == fold.encode(expected)
    feed.seek(None)
    assert fold.encode(settle(feed, None)) == fold.encode(fold.fold(events))


def test_what_is_appended_later_is_followed(tmp_path: Path) -> None:
    events = builders.events(*ARMS)
    folder = written(tmp_path / "s", events[:100])
    feed = log.Feed(folder)
    try:
        assert settle(feed, None).n == 99
        with open(folder / session.EVENTS, "ab") as file:
            file.writelines(e.encode(one) for one in events[100:])
        while feed.state.n < events[-1].n:
            settle(feed, None)
        assert fold.encode(feed.state) == fold.encode(fold.fold(events))
    finally:
        feed.close()


def test_a_frozen_cursor_lets_the_reader_wait(tmp_path: Path) -> None:
    """A screen that stands still holds no more events than it may and one block of the log."""
    events = builders.events(*(builders.Arm("Q8_0", id=f"arm {n}") for n in range(20)))
    feed = log.Feed(written(tmp_path / "s", events), ahead=50)
    try:
        settle(feed, 0.0)
        assert 0 < feed.waiting < 0.8 * len(events)
    finally:
        feed.close()


def test_the_end_is_the_last_whole_event(tmp_path: Path) -> None:
    events = builders.events(*ARMS)
    folder = written(tmp_path / "s", events)
    with open(folder / session.EVENTS, "ab") as file:
        file.write(b'{"event":"beat","n":99999,"t":1e9,"wa')
    assert log.end(folder) == events[-1].t


def test_no_session_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no session"):
        log.end(tmp_path)
