"""The fault campaign in short: a few of each fault of files, disks, clocks, devices and viewers; and what the campaign
found, one test each."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

if os.name != "posix":
    pytest.skip("signals, disks and locks of POSIX", allow_module_level=True)

from quanttui import events as e
from quanttui import session
from quanttui.engine import protocol
from quanttui.engine.process import Refused
from quanttui.errors import UserError
from quanttui.models import pocket, store
from tests.campaign import bench as benches
from tests.campaign import files, judge, rounds
from tests.campaign.bench import Bench
from tests.campaign.ground import Fault, Ground
from tests.campaign.table import Row

SHORT = [fault for fault in files.FAULTS if fault.short]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="module")
def rows(ground: Ground) -> dict[str, Row]:
    """All of the short form, two faults at a time."""
    return {row.fault.name: row for row in rounds.rows(ground, [(fault, fault.short) for fault in SHORT], 1, 2)}


@pytest.mark.alone
@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.name.replace(" ", "-"))
def test_nothing_is_lost_and_what_is_missing_is_resumed(fault: Fault, rows: dict[str, Row]) -> None:
    row = rows[fault.name]
    if row.skipped:
        pytest.skip(row.skipped)
    assert [one.said for one in row.outcomes if one.amiss] == []
    assert len(row.outcomes) == fault.short


def test_the_long_form_has_the_faults_that_were_promised() -> None:
    """A full disk at 50 places at least, 250 faults in all, and no two of one name."""
    assert sum(fault.times for fault in files.FAULTS if fault.group == "disks") >= 50
    assert sum(fault.times for fault in files.FAULTS) >= 250
    assert len({fault.name for fault in files.FAULTS}) == len(files.FAULTS)


# --- what the campaign found ----------------------------------------------------------------------------------------


def test_a_request_behind_one_that_was_cut_off_is_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / session.CONTROL).write_bytes(b'{"request": "skip", "arm": "A')
    session.request(tmp_path, "stop")
    session.request(tmp_path, "pause")
    found = list(session.requests(tmp_path, 0))
    assert [(one.request, bool(one.refused)) for one in found[1:]] == [("stop", False), ("pause", False)]
    assert found[0].refused and found[-1].offset == (tmp_path / session.CONTROL).stat().st_size


def test_an_empty_line_among_requests_is_none(tmp_path: Path) -> None:
    (tmp_path / session.CONTROL).write_bytes(b'\n{"request": "stop"}\n\n{"request": "pause"}\n')
    assert [one.request for one in session.requests(tmp_path, 0)] == ["stop", "pause"]


@pytest.mark.parametrize("log", [b"", b'{"event":"session.op'])
def test_a_session_that_never_came_to_a_line_is_begun_anew_in_the_same_folder(tmp_path: Path, log: bytes) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "one")
    (folder / session.EVENTS).write_bytes(log)
    assert session.create(tmp_path, "m", folder) == folder
    (folder / session.EVENTS).write_bytes(b"a line\n")
    with pytest.raises(UserError, match="holds a session already"):
        session.create(tmp_path, "m", folder)


def test_key_frames_of_another_session_are_left_out(tmp_path: Path) -> None:
    """They fit by their layout and length; what they hold is another sweep."""
    folders = []
    for name, value in (("one", 1.0), ("other", 2.0)):
        bench = Bench(tmp_path, tmp_path / "cache", folder=tmp_path / name)
        bench.open()
        writer = session.Writer(bench.folder)
        writer.append(e.Sample(readings={"mem.used": value}))
        writer.close()
        size = os.path.getsize(bench.folder / session.EVENTS)
        session.append_frame(bench.folder / session.FRAMES, size, writer.state)
        folders.append(bench.folder)
    one, other = folders
    with open(one / session.EVENTS, "ab") as log:
        log.write(b"\n" * 200)  # as long as the other one's, at least
    (one / session.FRAMES).write_bytes((other / session.FRAMES).read_bytes())
    assert session.frames(one) and session.load(one).readings == {"mem.used": 1.0}
    session.Writer(one).close()
    assert session.frames(one) == []


def test_a_sweep_whose_session_is_moved_ends_and_goes_on_where_it_is_now(tmp_path: Path, ground: Ground) -> None:
    whole = benches.whole(ground)
    for answer in range(2, whole.answers, 40):
        made = Bench(tmp_path / str(answer), ground.cache)
        made.place.mkdir()
        moved = made.place / "moved"

        def strike(running: Bench, moved: Path = moved, answer: int = answer) -> None:
            if running.answers == answer:
                os.rename(running.folder, moved)
                assert running.heart is not None
                running.heart.beat()

        made.open()
        with pytest.raises(UserError, match="was moved or deleted"):
            made.run(strike)
        assert not made.folder.exists()
        made.folder = moved
        outcome = made.resumed(judge.recorded(moved), whole.qualities)
        assert not outcome.amiss, outcome.said


def test_an_arm_whose_file_changes_while_it_is_measured_fails_and_the_others_are_done(
    tmp_path: Path, ground: Ground
) -> None:
    whole = benches.whole(ground)
    mine = tmp_path / "mine.gguf"
    for answer in (60, 75, 90):
        mine.write_bytes(pocket.MODEL.read_bytes())
        made = Bench(tmp_path / str(answer), ground.cache, files={"B": mine})
        made.place.mkdir()
        struck: list[str] = []

        def strike(running: Bench, struck: list[str] = struck) -> None:
            known = [event.arm for event in running.events() if isinstance(event, e.ArmLoaded)]
            if not struck and known[-1:] == ["B"]:
                struck.append("B")
                with open(mine, "r+b") as file:
                    file.seek(1 << 20)
                    file.write(b"another weight")

        made.open()
        assert made.run(strike) == "failed"
        outcome = made.judged(judge.Recorded(), "failed", whole.qualities, ("refused",))
        assert not outcome.amiss, outcome.said
        assert "has changed while B was measured" in judge.recorded(made.folder).failed["B"].error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "raw/B.nll"), None])
def test_a_disk_that_was_full_for_a_moment_ends_the_sweep_and_fails_no_arm(
    tmp_path: Path, ground: Ground, error: OSError | None
) -> None:
    whole = benches.whole(ground)
    refusal = Refused(protocol.FULL, "raw/B.nll: No space left on device")

    def strike(running: Bench) -> None:
        if running.answers == whole.answers // 2:
            raise error or refusal

    made = Bench(tmp_path, ground.cache)
    made.open()
    with pytest.raises(UserError, match=r"raw/B\.nll: No space left on device: what was recorded stays; make room"):
        made.run(strike)
    before = judge.recorded(made.folder)
    assert before.failed == {} and before.closed == ""
    assert not made.resumed(before, whole.qualities).amiss


def test_a_file_that_is_only_touched_is_the_same(tmp_path: Path, ground: Ground) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(pocket.MODEL.read_bytes())
    made = Bench(tmp_path, ground.cache, files={"B": mine})
    made.open()
    assert made.run(lambda _: os.utime(mine)) == "ok"


def test_a_clock_that_is_set_makes_no_leftover_of_what_a_living_process_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.gguf"
    store.hold(target)
    growing = store.temporary(target)
    growing.touch()
    booted = psutil.boot_time()
    for module in (psutil, getattr(psutil, "_pslinux", psutil)):
        monkeypatch.setattr(module, "boot_time", lambda: booted + 86400)
    store.prepare(tmp_path, "for a test")
    assert growing.exists()
    store.release(target)
    assert [path.name for path in tmp_path.iterdir()] == [growing.name]


def test_a_sweep_is_seen_to_run_after_the_clock_was_set(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path / "cache")
    bench.open()
    state = session.load(bench.folder)
    assert state.writer is not None
    state.writer = state.writer[0], state.writer[1] - 86400
    assert session.status(state, bench.folder) == "running"
    os.utime(bench.folder / session.EVENTS, (1e9, 1e9))
    assert session.status(state, bench.folder) == "interrupted"
