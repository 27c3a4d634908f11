"""A week's sweep and the soak in their short forms: what must hold whatever the machine is doing beside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest
from benchmarks.machine import Machine
from benchmarks.scale import reading, week, written
from benchmarks.screen.figure import FAILED, MET, MISSED
from benchmarks.screen.programs import Bench
from benchmarks.soak import command as soak
from benchmarks.soak.viewers import Look, Visits

from quanttui import events as e
from quanttui import session
from quanttui import state as fold

EVENTS = 150_000

HOURLY = 12e6
"""Bytes of log in an hour, of a model of 50 tok/s at the default rates."""

AN_ENGINE = 4
"""Descriptors that an engine takes: few looks may all have come while there was none, of which each arm starts one."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="terminals, descriptors and signals of POSIX")


def silent(text: str) -> None:
    """Nobody is told."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> written.Written:
    """A session of EVENTS events, by the program's own writer."""
    return written.week(tmp_path_factory.mktemp("week") / "session", EVENTS, silent)


# --- the made-up week -----------------------------------------------------------------------------------------------


def test_the_week_comes_at_the_default_rates() -> None:
    """Samples four times a second and beats once, whatever is measured; tokens no oftener than five times a second."""
    found = list(islice(week.Week(week.arms(1)).events(), 30_000))
    seconds = found[-1].at
    kinds = Counter(type(told.event) for told in found)
    assert kinds[e.Sample] == pytest.approx(week.HZ * seconds, rel=0.02)
    assert kinds[e.Beat] == pytest.approx(seconds, rel=0.02)
    assert seconds < kinds[e.Tokens] <= 5 * seconds


def test_the_week_goes_forward_and_every_event_is_its_own() -> None:
    found = list(islice(week.Week(week.arms(2)).events(), 30_000))
    assert all(before.at <= after.at for before, after in pairwise(found))
    samples = [told.event.readings for told in found if isinstance(told.event, e.Sample)]
    assert len({msgspec.json.encode(readings) for readings in samples}) == len(samples)


def test_each_unit_of_the_week_begins_and_ends_once(made: written.Written) -> None:
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for event in _events(made.folder):
        if isinstance(event, e.UnitStarted):
            begun[event.unit.id] += 1
        elif isinstance(event, e.UnitDone):
            ended[event.unit.id] += 1
    assert max(begun.values()) == max(ended.values()) == 1
    assert set(ended) <= set(begun) and len(begun) - len(ended) <= 1  # the end may come amid a unit


def _events(folder: Path) -> Iterator[e.Event]:
    reader = session.Reader(folder)
    try:
        yield from (event for event in reader.events() if isinstance(event, e.Event))
    finally:
        reader.close()


# --- at scale -------------------------------------------------------------------------------------------------------


def test_an_hour_at_fifty_tokens_a_second_takes_no_more_disk_than_it_may(tmp_path: Path) -> None:
    found = written.of_speed(tmp_path / "session", 50.0, 0.4, silent)
    assert found.per_hour <= HOURLY


def test_key_frames_lie_evenly_and_lead_to_the_same_state(made: written.Written) -> None:
    frames = session.frames(made.folder)
    assert len(frames) == EVENTS // session.FRAME_EVERY
    whole = fold.fold(_events(made.folder))
    assert fold.encode(session.load(made.folder)) == fold.encode(whole)


def test_the_writer_goes_on_where_it_was(made: written.Written, tmp_path: Path) -> None:
    """Resumed after all of them: the next one is numbered on, and no frame is made twice."""
    frames = (made.folder / session.FRAMES).read_bytes()
    log = (made.folder / session.EVENTS).read_bytes()
    copy = session.create(tmp_path, week.MODEL, tmp_path / "copy")
    (copy / session.EVENTS).write_bytes(log)
    (copy / session.FRAMES).write_bytes(frames)
    writer = session.Writer(copy)
    try:
        assert writer.append(e.Beat(wall=1.0)).n == EVENTS
    finally:
        writer.close()
    assert (copy / session.FRAMES).read_bytes() == frames


def test_a_growing_copy_is_always_a_session(made: written.Written, tmp_path: Path) -> None:
    """At every step its key frames are those that its log reaches, and the last one has all but the end."""
    original = session.frames(made.folder)
    for at, count in reading.grown(made.folder, tmp_path / "copy", EVENTS - 1):
        frames = session.frames(tmp_path / "copy")
        assert frames == original[: len(frames)] and len(frames) == count // session.FRAME_EVERY
        assert session.end(tmp_path / "copy") == at
    assert count == EVENTS - 1


# --- the soak's own judgement ---------------------------------------------------------------------------------------


def _looks(memory: list[float], descriptors: int = 20, last: int = 20) -> list[Look]:
    end = 2 * len(memory) // 3
    return [Look(float(at), int(each), last if at >= end else descriptors, 3) for at, each in enumerate(memory)]


def test_what_grows_is_seen_and_what_comes_and_goes_is_not() -> None:
    steady = soak.growth("it", _looks([1e8, 1.5e8] * 30))
    assert [one.verdict for one in steady] == [MET] * 3
    leaking = soak.growth("it", _looks([1e8 + 2e5 * at for at in range(60)], last=21))
    assert [one.verdict for one in leaking] == [MISSED, MISSED, MET]
    assert leaking[1].value == 1


def test_a_process_that_was_hardly_seen_is_no_success() -> None:
    assert [one.verdict for one in soak.growth("it", [])] == [FAILED]


def test_what_is_lost_or_left_is_told(tmp_path: Path) -> None:
    """An event that is missing, a line that is none, a request taken twice, a strange file, a temporary one."""
    folder = session.create(tmp_path, "m", tmp_path / "session")
    unit = e.Unit(arm="a", kind="decode", index=0)
    session.request(folder, "pause")
    end = (folder / session.CONTROL).stat().st_size
    events = [
        e.Beat(n=0, t=0.0, wall=0.0),
        e.Control(n=1, t=1.0, request="pause", offset=end),
        e.Control(n=2, t=2.0, request="pause", offset=end),
        e.UnitDone(n=4, t=3.0, unit=unit, at=0.0, tokens=1, ns=1),
        e.UnitDone(n=5, t=4.0, unit=unit, at=0.0, tokens=1, ns=1),
    ]
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, events)) + b"no event\n")
    (folder / "core").write_bytes(b"")
    temporary = tmp_path / "cache"
    temporary.mkdir()
    (temporary / "left").write_bytes(b"")
    found = soak.Soaked([], Visits())
    soak._audit(found, folder, temporary, "nobody's")
    assert (found.lost, found.twice, found.requests, found.untaken) == (2, 1, 1, 1)
    assert (found.strange, found.temporary, found.processes) == (["core"], ["left"], [])


def test_twenty_seconds_of_soak_leave_nothing_behind(tmp_path: Path) -> None:
    """Half an hour of a sweep with three viewers: no event, unit or request is lost, and nothing is left or added."""
    bench = Bench(tmp_path, Machine(0.0, silent), True, silent)
    with bench.session() as folder:
        found = soak.soak(bench, folder, hours=0.5, minutes=1 / 3)
    assert found.code == 130 and not found.visits.wrong
    assert (found.lost, found.twice, found.untaken) == (0, 0, 0)
    assert (found.strange, found.temporary, found.processes) == ([], [], [])
    assert found.hours > 0.1 and found.visits.left and found.visits.stayed
    grown = {one.what: one.value or 0 for one in soak.growth("sweep", found.swept)}
    assert grown["sweep: more descriptors"] <= AN_ENGINE and grown["sweep: more threads"] <= 1
