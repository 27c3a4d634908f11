"""The log and its folder: nothing recorded is lost, a torn end is tolerated, key frames change nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import pytest

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.errors import UserError

OURS = psutil.Process().create_time()
"""When this process began: a session that it opened then runs."""


def opened(folder: Path, started: float = 1.0) -> session.Writer:
    writer = session.Writer(folder)
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA,
            model="m",
            host=e.Host(name="h", os="o", cpu="c", cores=2, threads=2, memory=2**34),
            build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False),
            settings=e.Settings(threads=2),
            plan=(e.PlannedArm(id="A", quant="Q8_0"), e.PlannedArm(id="B", quant="Q4_K_M")),
            wall=1.7e9,
            origin_ns=writer.origin_ns,
            pid=os.getpid(),
            pid_started=started,
        )
    )
    return writer


def fill(writer: session.Writer, count: int) -> None:
    for index in range(count):
        unit = e.Unit(arm="A", kind="decode", index=index, tokens=8)
        writer.append(e.UnitStarted(unit=unit, at=float(index)))
        writer.append(e.UnitDone(unit=unit, at=float(index), tokens=8, ns=10**9, counters=e.Counters(read=0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return session.create(tmp_path, "Some Model/../x", None)


def test_a_session_cannot_leave_its_folder(tmp_path: Path) -> None:
    made = session.create(tmp_path, "../../etc/\x1b[31mpasswd", None)
    assert made.parent == tmp_path
    assert session.part(made, "raw", "../../x").parent == made / "raw"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the kernel which file a handle is of")
def test_what_the_log_speaks_of_is_on_the_disk_before_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def told(handle: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    writer = opened(folder)
    monkeypatch.setattr(os, "fsync", told)
    for name in ("A.nll", "A.kld", session.LOGITS, f"{session.LOGITS}.part"):
        (folder / "raw" / name).write_bytes(bytes(8))
    writer.sync()
    assert sorted(synced[:-1]) == ["A.kld", "A.nll"] and synced[-1] == session.EVENTS
    os.utime(folder / "raw" / "A.kld", (1.0, 1.0))  # long unchanged
    synced.clear()
    writer.sync()
    assert synced == ["A.nll", session.EVENTS]
    writer.close()


def test_reading_gives_what_was_written(folder: Path) -> None:
    writer = opened(folder)
    fill(writer, 20)
    writer.close()
    events = list(session.Reader(folder).events())
    assert [event.n for event in events] == list(range(41))
    assert fold.encode(fold.fold(events)) == fold.encode(writer.state)
    assert sorted(event.t for event in events) == [event.t for event in events]


def test_a_log_torn_at_any_byte_of_its_last_line_keeps_all_before(folder: Path) -> None:
    writer = opened(folder)
    fill(writer, 3)
    writer.close()
    log = folder / session.EVENTS
    whole = log.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        log.write_bytes(whole[:cut])
        again = session.Writer(folder)
        assert again.state.n == 5
        again.append(e.ArmDone(arm="A"))
        again.close()
        assert [event.n for event in session.Reader(folder).events()] == list(range(7))


def test_a_broken_line_in_the_middle_is_dropped_and_counted(folder: Path) -> None:
    writer = opened(folder)
    fill(writer, 2)
    writer.close()
    log = folder / session.EVENTS
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], b'{"event":"beat","n":"x"}\n', *lines[2:]]))
    reader = session.Reader(folder)
    assert len(list(reader.events())) == 5 and reader.dropped == 1


def test_a_follower_sees_only_whole_lines(folder: Path) -> None:
    writer = opened(folder)
    reader = session.Reader(folder)
    assert len(list(reader.events())) == 1
    os.write(writer.log, b'{"event":"arm.done","n":1,"t":1.0')
    assert list(reader.events()) == []
    os.write(writer.log, b',"arm":"A"}\n')
    assert list(reader.events()) == [e.ArmDone(n=1, t=1.0, arm="A")]


def test_a_key_frame_changes_nothing(folder: Path) -> None:
    writer = opened(folder)
    fill(writer, 5)
    session.append_frame(folder / session.FRAMES, os.path.getsize(folder / session.EVENTS), writer.state)
    fill(writer, 5)
    writer.append(e.PhaseStarted(arm="A", phase="decode"))
    session.append_frame(folder / session.FRAMES, os.path.getsize(folder / session.EVENTS), writer.state)
    writer.append(e.ArmDone(arm="A"))
    writer.close()
    assert len(session.frames(folder)) == 2
    by_frames = fold.encode(session.load(folder))
    (folder / session.FRAMES).unlink()
    assert by_frames == fold.encode(session.load(folder)) == fold.encode(writer.state)


def test_a_key_frame_of_another_layout_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of an older version would lack what this one folds."""
    writer = session.Writer(folder)
    monkeypatch.setattr(fold, "layout", lambda: b"old1")
    session.append_frame(folder / session.FRAMES, 0, writer.state)
    assert len(session.frames(folder)) == 1
    monkeypatch.undo()
    assert session.frames(folder) == []


def test_a_torn_key_frame_is_left_out(folder: Path) -> None:
    writer = opened(folder)
    fill(writer, 5)
    session.append_frame(folder / session.FRAMES, os.path.getsize(folder / session.EVENTS), writer.state)
    whole = (folder / session.FRAMES).read_bytes()
    for cut in range(0, len(whole), 7):
        (folder / session.FRAMES).write_bytes(whole[:cut])
        assert fold.encode(session.load(folder)) == fold.encode(writer.state)


def test_threads_append_whole_lines_in_one_order(folder: Path) -> None:
    writer = opened(folder)
    threads = [threading.Thread(target=fill, args=(writer, 50)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert [event.n for event in session.Reader(folder).events()] == list(range(401))


def test_session_time_goes_on_where_the_log_ended(folder: Path) -> None:
    writer = opened(folder)
    writer.origin_ns -= 5_000_000_000
    first = writer.append(e.ArmDone(arm="A"))
    writer.close()
    again = session.Writer(folder)
    second = again.append(e.ArmDone(arm="B"))
    assert first.t >= 5.0
    assert first.t <= second.t < first.t + 5.0


def test_requests_are_taken_once_and_nonsense_is_refused(folder: Path) -> None:
    session.request(folder, "skip", "A")
    with open(folder / session.CONTROL, "ab") as file:
        file.write(b"nonsense\n[1]\n" + b"[" * 10_000 + b"\n")
    session.request(folder, "tolerance", value="2")
    *found, last = session.requests(folder, 0)
    assert [(one.request, one.arm) for one in found if not one.refused] == [("skip", "A")]
    assert sum(bool(one.refused) for one in found) == 3
    assert (last.request, last.value) == ("tolerance", "2")
    assert list(session.requests(folder, last.offset)) == []


def test_a_folder_with_a_log_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    opened(folder).close()
    with pytest.raises(UserError, match="--resume"):
        session.create(tmp_path, "m", folder)


def test_a_full_disk_leaves_whole_lines(folder: Path) -> None:
    writer = opened(folder)
    fill(writer, 2)
    full = os.open("/dev/full", os.O_WRONLY) if Path("/dev/full").exists() else None
    if full is None:
        pytest.skip("this host has no /dev/full")
    kept, writer.log = writer.log, full
    with pytest.raises(UserError, match=r"No space left.*--resume"):
        writer.append(e.ArmDone(arm="A"))
    writer.log = kept
    writer.append(e.ArmDone(arm="A"))
    assert [event.n for event in session.Reader(folder).events()] == list(range(6))


def test_the_state_of_a_session_is_told_by_its_writer(folder: Path, tmp_path: Path) -> None:
    assert session.status(session.load(folder)) == "empty"
    writer = opened(folder)
    assert session.status(writer.state) == "interrupted"
    assert writer.state.writer is not None
    writer.append(e.SessionClosed(outcome="ok"))
    assert session.status(writer.state) == "done"
    assert [one.state for one in session.listing(tmp_path)] == ["done"]
    assert session.find(tmp_path, None) == folder


def test_a_writer_that_goes_on_makes_the_key_frames_that_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FRAME_EVERY", 10)
    writer = opened(folder)
    fill(writer, 35)
    writer.close()
    before = session.frames(folder)
    whole = (folder / session.FRAMES).read_bytes()
    for damage in (b"", whole[:100], whole[: before[-1].place + 5], whole + b"torn"):
        (folder / session.FRAMES).write_bytes(damage)
        session.Writer(folder).close()
        again = session.frames(folder)
        assert [frame.offset for frame in again] == [frame.offset for frame in before]
        for frame in again:
            reader = session.Reader(folder)
            expected = fold.State()
            for event in reader.events():
                expected.apply(event)
                if reader.offset == frame.offset:
                    break
            reader.close()
            assert fold.encode(session.read_frame(folder / session.FRAMES, frame)) == fold.encode(expected)


def test_attach_finds_the_session_that_runs_before_a_later_one_that_ended(tmp_path: Path) -> None:
    running, ended = session.create(tmp_path, "a"), session.create(tmp_path, "b")
    opened(running, OURS).append(e.PhaseStarted(arm="A", phase="decode"))
    assert session.running(tmp_path) == running
    writer = opened(ended)
    writer.append(e.SessionClosed(outcome="ok"))
    writer.close()
    os.utime(running / session.EVENTS, (1, 1))
    assert session.find(tmp_path, None) == ended and session.running(tmp_path) == running


def test_a_session_is_deleted_whole_and_nothing_beside_it(tmp_path: Path) -> None:
    folder = session.create(tmp_path / "all", "a")
    writer = opened(folder)
    writer.append(e.SessionClosed(outcome="ok"))
    writer.close()
    (folder / "raw" / "A.nll").write_bytes(b"x")
    (folder / "mine.txt").write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (folder / "raw" / "link").symlink_to(outside)
    (tmp_path / "all" / "alias").symlink_to(folder)
    for wrong in (tmp_path / "all" / "alias", outside, tmp_path / "all"):
        with pytest.raises(UserError, match="nothing is deleted"):
            session.delete(wrong, tmp_path / "all")
    assert session.delete(folder, tmp_path / "all") == "mine.txt"
    assert [path.name for path in folder.iterdir()] == ["mine.txt"] and (outside / "kept").exists()


def test_a_running_session_is_not_deleted(tmp_path: Path) -> None:
    folder = session.create(tmp_path, "a")
    opened(folder, OURS)
    with pytest.raises(UserError, match="is running"):
        session.delete(folder, tmp_path)
    assert (folder / session.EVENTS).is_file()
