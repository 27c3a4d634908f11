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


def frozen(t: float) -> Cursor:
    return Cursor(t)


def replay(t: float, speed: float = 1.0, playing: bool = True) -> Cursor:
    return Cursor(t, speed, playing, recorded=True)


@given(TIMES, TIMES, st.floats(-1e5, 1e5))
def test_a_cursor_never_leaves_the_session(now: float, end: float, by: float) -> None:
    now = min(now, end)
    for cursor in (Cursor(), frozen(now), replay(now, 4.0), Cursor(now, playing=True)):
        moved = cursor.moved(by, now, end)
        assert moved.t is None or 0 <= moved.t <= end
        assert moved.recorded == cursor.recorded and moved.playing in (cursor.playing, False)


@given(TIMES)
def test_freezing_twice_is_live_again(now: float) -> None:
    still = Cursor().toggled(now, now)
    assert (still.mode, still.t) == (FROZEN, now)
    assert still.toggled(now, now) == Cursor()


@given(TIMES, TIMES, st.floats(0, 100), st.floats(0.1, 100))
def test_a_replay_goes_forward_at_its_speed_and_stops_at_the_end(
    t: float, end: float, passed: float, speed: float
) -> None:
    t = min(t, end)
    after = replay(t, speed).passed(passed, end)
    assert after.t == pytest.approx(min(end, t + passed * speed))
    assert after.playing == (t + passed * speed < end)


@given(TIMES, st.floats(0, 100))
def test_time_moves_neither_a_live_nor_a_frozen_nor_a_paused_cursor(t: float, passed: float) -> None:
    for cursor in (Cursor(), frozen(t), replay(t, playing=False)):
        assert cursor.passed(passed, 1e6) == cursor


def test_the_end_is_live_or_the_end_of_a_recording() -> None:
    assert Cursor().to(0.0, 9.0) == frozen(0.0)
    assert frozen(3.0).to(9.0, 9.0) == Cursor()
    assert replay(3.0, 2.0).to(0.0, 9.0).t == 0
    assert replay(3.0, 2.0).to(12.0, 9.0).t == 9


def test_a_recording_that_has_ended_begins_anew() -> None:
    assert replay(9.0, playing=False).toggled(9.0, 9.0) == replay(0.0)
    assert replay(4.0, playing=False).toggled(4.0, 9.0) == replay(4.0)
    assert replay(4.0).toggled(4.0, 9.0) == replay(4.0, playing=False)


@given(TIMES, st.lists(st.sampled_from([0.5, 2.0]), max_size=30))
def test_the_pace_stays_between_a_quarter_and_sixty_four(t: float, steps: list[float]) -> None:
    cursor = replay(t)
    for step in steps:
        cursor = cursor.faster(step)
    assert 0.25 <= cursor.speed <= 64


def test_what_went_before_plays_on_until_it_is_live_again() -> None:
    """A live session is played from the past: at the pace that it had first, then faster."""
    playing = frozen(3.0).faster(2.0)
    assert (playing.mode, playing.speed, playing.playing) == (REPLAY, 1.0, True)
    assert playing.faster(2.0).speed == 2.0
    assert playing.passed(1.0, 9.0).t == 4.0
    assert playing.passed(7.0, 9.0).mode == LIVE
    assert playing.toggled(3.0, 9.0).mode == FROZEN
    assert Cursor().faster(2.0) == Cursor()


def test_the_header_names_the_cursor() -> None:
    assert Cursor().words == "LIVE"
    assert frozen(1.0).words == "FROZEN"
    assert replay(1.0, 4.0).words == "REPLAY 4x"
    assert replay(1.0, 4.0, False).words == "REPLAY paused"


@given(st.lists(TIMES), TIMES)
def test_an_edge_is_the_next_one_and_going_back_leads_to_where_one_was(times: list[float], t: float) -> None:
    edges = sorted(times)
    ahead, behind = transport.neighbour(edges, t, True), transport.neighbour(edges, t, False)
    assert ahead is None or (ahead > t and not any(t + transport.APART < one < ahead for one in edges))
    assert behind is None or (behind < t and not any(behind < one < t - transport.APART for one in edges))


ARMS = (builders.Arm("Q8_0"), builders.Arm("Q5_K_M", tok_s=3.0, swap=0.021), builders.Arm("Q4_K_M", tok_s=25.0))


def test_a_quant_is_found_where_it_started_in_any_case() -> None:
    state = fold.fold(builders.events(*ARMS))
    assert transport.start_of(state, "q5_k_m") == state.arms["Q5_K_M"].file.t  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"--at q9: .*Q8_0, Q5_K_M, Q4_K_M"):
        transport.start_of(state, "q9")


def test_phases_and_quants_begin_where_the_log_says() -> None:
    events = builders.events(*ARMS)
    state = fold.fold(events)
    begun = sorted({one.t for one in events if isinstance(one, e.PhaseStarted)})
    phases, turns = transport.phases(state), transport.quants(state)
    assert phases[:-1] == begun and phases[-1] == state.spans[-1].end
    assert len(turns) == len(ARMS) + 1 and set(turns) <= set(phases)


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
                session.append_frame(folder / session.FRAMES, offset, state)
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


def test_the_tail_goes_on_while_the_cursor_stands(tmp_path: Path) -> None:
    events = builders.events(*ARMS)
    folder = written(tmp_path / "s", events[:100])
    feed = log.Feed(folder)
    try:
        settle(feed, None)
        t = feed.state.t
        with open(folder / session.EVENTS, "ab") as file:
            file.writelines(e.encode(one) for one in events[100:])
        while feed.tail.n < events[-1].n:
            assert fold.encode(settle(feed, t)) == fold.encode(fold.fold([one for one in events if one.t <= t]))
        assert feed.whole and feed.share == 1
    finally:
        feed.close()


def test_the_reader_waits_for_the_folding(tmp_path: Path) -> None:
    """What is not folded yet is no more than may wait, and one block of the log."""
    events = builders.events(*(builders.Arm("Q8_0", id=f"arm {n}") for n in range(20)))
    follower = log.Follower(written(tmp_path / "s", events), ahead=50)
    follower.start()
    try:
        while not follower.queue:
            threading.Event().wait(0.002)
        threading.Event().wait(0.05)
        assert len(follower.queue) < 0.8 * len(events)
    finally:
        follower.stop()


def test_key_frames_that_are_missing_are_made_while_the_log_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FRAME_EVERY", 50)
    events = builders.events(*ARMS)
    feed = log.Feed(written(tmp_path / "s", events))
    try:
        settle(feed, None)
        feed.seek(0.0)
        made = feed._frames.before(None)
        assert len(made) == len(events) // 50 and not (tmp_path / "s" / session.FRAMES).exists()
        for t in (events[-1].t * 0.9, events[-1].t * 0.2, events[-1].t * 0.5):
            feed.seek(t)
            assert feed.state.n >= 0 and feed.state.t <= t
            assert fold.encode(settle(feed, t)) == fold.encode(fold.fold([one for one in events if one.t <= t]))
    finally:
        feed.close()


def test_a_long_log_is_shown_as_far_as_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step gives the state of the events so far, in time for keys; then it is followed as any other."""
    monkeypatch.setattr(log, "LONG", 0)
    monkeypatch.setattr(session, "FRAME_EVERY", 100)
    events = builders.events(*ARMS)
    folder = written(tmp_path / "s", events[:-1])
    feed = log.Feed(folder)
    try:
        shares, steps = [], 0
        while not feed.advance(None, 0.0):
            steps += 1
            if not feed.whole:
                assert fold.encode(feed.state) == fold.encode(fold.fold(events[: feed.tail.n + 1]))
            shares.append(feed.share)
        assert steps >= len(events) // 64 and shares == sorted(shares) and shares[0] < 0.2 and shares[-1] == 1
        with open(folder / session.EVENTS, "ab") as file:
            file.write(e.encode(events[-1]))
        while feed.tail.n < events[-1].n:
            settle(feed, None)
        assert fold.encode(feed.state) == fold.encode(fold.fold(events))
        feed.seek(0.0)
        assert [one.offset for one in feed._frames.before(None)] == [
            sum(len(e.encode(event)) for event in events[:count]) for count in range(1105, 100, -100)
        ]
    finally:
        feed.close()


def test_key_frames_that_cannot_be_packed_in_time_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many may wait, and no more: they would fill the memory."""
    monkeypatch.setattr(session, "FRAME_EVERY", 10)
    monkeypatch.setattr(log, "PATIENCE", 0.001)
    frames, state, gate = log.Frames(written(tmp_path / "s", [])), fold.State(), threading.Event()
    try:
        frames.see(state, 1, 20)
        frames.settle()
        assert frames._packing is not None
        frames._packing.submit(gate.wait)
        for offset in range(2, 40):
            frames.see(state, offset, 20)
        gate.set()
        frames.settle()
        assert [one.offset for one in frames.before(None)] == list(range(1 + log.PACKING, 0, -1))
        frames.see(state, 50, 20)
        frames.settle()
        assert frames.before(None)[0].offset == 50
    finally:
        gate.set()
        frames.close()


def test_frames_that_are_there_already_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FRAME_EVERY", 10)
    frames = log.Frames(written(tmp_path / "s", builders.events(*ARMS)[:30], (20,)))
    frames.see(fold.State(), 999, 20)
    frames.settle()
    assert len(frames.before(None)) == 1
    frames.close()


def test_a_moment_is_found_by_what_holds_of_the_state(feed: log.Feed) -> None:
    settle(feed, None)
    end = feed.tail.t
    first = next(state.t for state in builders.states(builders.events(*ARMS)) if state.arms["Q5_K_M"].units)
    found = feed.find(0.0, end, lambda state: len(state.arms["Q5_K_M"].units) > 0, 60.0)
    assert first <= found <= first + 1 and feed.state.t == found
    assert feed.find(found, end, lambda state: False, 60.0) == end


def test_the_end_is_the_last_whole_event(tmp_path: Path) -> None:
    events = builders.events(*ARMS)
    folder = written(tmp_path / "s", events)
    with open(folder / session.EVENTS, "ab") as file:
        file.write(b'{"event":"beat","n":99999,"t":1e9,"wa')
    assert session.end(folder) == events[-1].t


def test_no_session_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no session"):
        session.end(tmp_path)
