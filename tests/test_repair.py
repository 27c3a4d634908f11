"""Repair: exactly what nobody can read goes, everything that can be read stays as it is, and all of it is told."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import builders
import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanttui import cli, repair, session
from quanttui import events as e
from quanttui import state as fold
from quanttui.errors import UserError

EVENTS = builders.events(builders.Arm("Q8_0", chunks=2, repetitions=2))
LINES = [e.encode(event) for event in EVENTS]
LOG = b"".join(LINES)
HEAD = 24
"""Bytes of a key frame's head."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_log(tmp_path, LOG)


def with_log(sessions: Path, log: bytes) -> Path:
    made = session.create(sessions, "m")
    (made / session.EVENTS).write_bytes(log)
    return made


def log_of(folder: Path) -> bytes:
    return (folder / session.EVENTS).read_bytes()


def valid(log: bytes) -> bytes:
    """The whole lines of a log that are events."""
    kept = []
    for line in log.split(b"\n")[:-1]:
        try:
            e.decode(line)
        except ValueError:
            continue
        kept.append(line + b"\n")
    return b"".join(kept)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is whole stays --------------------------------------------------------------------------------------------


def test_a_whole_session_is_left_as_it_is(folder: Path) -> None:
    before = contents(folder)
    found = repair.repair(folder)
    assert (found.events, found.dropped, found.frames, found.log_before) == (len(EVENTS), (), 0, "")
    assert contents(folder) == before
    assert repair.report(found).splitlines()[0] == f"{folder.name}: {len(EVENTS)} events, nothing to repair"


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "remove", "zero", "swap"]),
        st.integers(0, len(LOG) - 1), st.integers(1, 400), st.binary(min_size=1, max_size=40),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def damaged(log: bytes, damage: list[tuple[str, int, int, bytes]]) -> bytes:
    """A log after what a disk, a crash or a person may do to it."""
    for kind, place, count, junk in damage:
        place %= max(1, len(log))
        here, rest = log[:place], log[place:]
        log = {
            "flip": here + bytes(byte ^ 1 << count % 8 for byte in rest[:1]) + rest[1:],
            "cut": here,
            "insert": here + junk + rest,
            "remove": here + rest[count:],
            "zero": here + bytes(len(rest[:count])) + rest[count:],
            "swap": rest + here,
        }[kind]
    return log


@given(DAMAGE)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_damage_the_log_is_its_whole_valid_lines(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, int, int, bytes]]
) -> None:
    broken = damaged(LOG, damage)
    folder = with_log(tmp_path_factory.mktemp("damaged"), broken)
    wanted = valid(broken)
    planned = repair.examine(folder)
    assert log_of(folder) == broken
    done = repair.repair(folder)
    assert log_of(folder) == wanted
    assert (done.dropped, done.frames) == (planned.dropped, planned.frames)
    assert done.events == wanted.count(b"\n")
    assert sum(one.bytes for one in done.dropped if one.kind in ("line", "end")) == len(broken) - len(wanted)
    if wanted != broken:
        assert (folder / done.log_before).read_bytes() == broken
    again = repair.repair(folder)
    assert (again.dropped, again.frames, again.log_before) == ((), 0, "")
    assert log_of(folder) == wanted


@given(DAMAGE)
@settings(max_examples=60, deadline=None)
def test_readers_see_the_same_before_and_after(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, int, int, bytes]]
) -> None:
    folder = with_log(tmp_path_factory.mktemp("damaged"), damaged(LOG, damage))
    before = list(session.Reader(folder).events())
    repair.repair(folder)
    reader = session.Reader(folder)
    assert list(reader.events()) == before and reader.dropped == 0


def test_events_of_a_newer_quanttui_stay(folder: Path) -> None:
    newer = b'{"event":"moon.phase","n":%d,"t":1e9,"full":true}\n' % len(EVENTS)
    (folder / session.EVENTS).write_bytes(LOG + newer)
    found = repair.repair(folder)
    assert found.dropped == () and log_of(folder) == LOG + newer
    assert "1 events are a newer quanttui's: they stay" in found.notes


# --- what goes is told ----------------------------------------------------------------------------------------------


def test_each_line_that_goes_is_told_with_its_number_bytes_and_a_clean_beginning(folder: Path) -> None:
    nasty = b'{"event":"beat","wall":"\x1b]0;owned\x07\xe2\x80\xaeabc"}\n'
    (folder / session.EVENTS).write_bytes(b"".join([*LINES[:3], nasty, b"\n", *LINES[3:], b'{"event":"be']))
    found = repair.repair(folder)
    last = len(LINES) + 3
    assert [(one.kind, one.line, one.bytes) for one in found.dropped] == [
        ("line", 4, len(nasty)), ("line", 5, 1), ("end", last, 12),
    ]  # fmt: skip
    told = repair.report(found)
    assert f"dropped: line 4 of events.jsonl, {len(nasty)} bytes: is no event (" in told
    assert "dropped: line 5 of events.jsonl, 1 bytes: is empty" in told
    assert f'dropped: the end of events.jsonl, its line {last}, 12 bytes: is cut off: {{"event":"be' in told
    assert f"the log as it was: {session.BEFORE_REPAIR}" in told
    assert not set(told) & {"\x1b", "\x07", "\u202e"}


def test_a_line_too_long_for_an_event_goes_whole_and_readers_skip_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LONGEST_LINE", 5_000)
    monkeypatch.setattr(session, "_READ", 1_000)
    long = b'{"event":"beat","wall":1,"more":"' + b"x" * 20_000 + b'"}\n'
    longest = max(map(len, LINES))
    assert longest <= 5_000 and e.decode(long)
    (folder / session.EVENTS).write_bytes(b"".join([*LINES[:4], long, *LINES[4:]]))
    reader = session.Reader(folder)
    assert list(reader.events()) == EVENTS and reader.dropped == 1
    assert reader.offset == len(LOG) + len(long)
    found = repair.repair(folder)
    assert [(one.line, one.bytes) for one in found.dropped] == [(5, len(long))] and "too long" in found.dropped[0].why
    assert log_of(folder) == LOG


@pytest.mark.parametrize("kind", ["beat", "moon.phase"])
def test_a_line_nested_without_end_is_no_event(folder: Path, kind: str) -> None:
    deep = b'{"event":"' + kind.encode() + b'","wall":1.0,"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    (folder / session.EVENTS).write_bytes(LOG + deep)
    assert len(list(session.Reader(folder).events())) == len(EVENTS)
    assert [one.line for one in repair.repair(folder).dropped] == [len(LINES) + 1] and log_of(folder) == LOG


def test_missing_and_disordered_events_are_told_and_stay(folder: Path) -> None:
    mixed = b"".join([*LINES[:5], *LINES[7:9], *LINES[5:7], *LINES[9:]])
    (folder / session.EVENTS).write_bytes(mixed)
    found = repair.repair(folder)
    assert log_of(folder) == mixed and found.dropped == ()
    assert "line 6: before event 7 all after 4 are missing" in found.notes
    assert "line 8: event 5 comes after 8" in found.notes
    back = e.encode(e.Beat(n=len(EVENTS), t=0.5, wall=1.0))
    (folder / session.EVENTS).write_bytes(LOG + back)
    assert any("its time, 0.500000 s, lies before" in note for note in repair.repair(folder).notes)


def test_many_places_out_of_order_are_counted(folder: Path) -> None:
    (folder / session.EVENTS).write_bytes(LINES[0] + LINES[1] * 100)
    found = repair.repair(folder)
    assert len([note for note in found.notes if note.startswith("line ")]) == repair.TOLD
    assert any(note.startswith("and ") for note in found.notes)


def test_a_lost_opening_is_told(folder: Path) -> None:
    (folder / session.EVENTS).write_bytes(b"x" + LOG)
    found = repair.repair(folder)
    assert found.dropped[0].line == 1 and any("opening is gone" in note for note in found.notes)
    assert session.info(folder).state == "empty"


def test_half_written_files_go_and_raw_and_stderr_stay(folder: Path) -> None:
    for name in ("manifest.json.new", "events.jsonl.new", "remote.json.new", "manifest.json", "notes.txt"):
        (folder / name).write_text("{")
    (folder / "raw" / "base.logits.part").write_bytes(b"x")
    found = repair.repair(folder)
    assert sorted(one.file for one in found.dropped) == ["events.jsonl.new", "manifest.json.new", "remote.json.new"]
    assert {one.kind for one in found.dropped} == {"temporary"}
    assert {"manifest.json", "notes.txt", "events.jsonl"} <= {path.name for path in folder.iterdir()}
    assert (folder / "raw" / "base.logits.part").exists() and not list(folder.glob("*.new"))
    assert found.log_before == ""


# --- rows in raw/ ---------------------------------------------------------------------------------------------------


def rows(folder: Path) -> tuple[Path, int]:
    """A file of per-token values as the log says it, and its bytes."""
    told = [
        e.encode(event) if not isinstance(event, e.Perplexity) else e.encode(
            e.Perplexity(
                n=event.n, t=event.t, unit=event.unit, chunk=event.chunk, chunks=event.chunks, scored=4, nll=event.nll,
                nll2=event.nll2, file="raw/Q8_0.nll", offset=32 * event.chunk,
            )
        )
        for event in EVENTS
    ]  # fmt: skip
    (folder / session.EVENTS).write_bytes(b"".join(told))
    return folder / "raw" / "Q8_0.nll", 64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (0, ""),
        (-8, "raw/Q8_0.nll: ends after 56.0 B: 1 of the 2 rows that the log names are gone"),
        (-40, "raw/Q8_0.nll: ends after 24.0 B: 2 of the 2 rows that the log names are gone"),
        (8, "raw/Q8_0.nll: 8 bytes are of a unit that was not recorded: they stay, a resume writes it again"),
        (None, "raw/Q8_0.nll: is missing: the log names 2 rows of it"),
    ],
)
def test_rows_that_are_too_few_or_too_many_are_told_and_stay(folder: Path, change: int | None, says: str) -> None:
    path, count = rows(folder)
    if change is not None:
        path.write_bytes(b"r" * (count + change))
    before = contents(folder)
    found = repair.repair(folder)
    assert found.notes == ((says,) if says else ())
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["../../etc/passwd", "raw/../../x", "/etc/passwd", "raw/\x1b[31m", "raw/a/b"])
def test_a_log_cannot_have_a_file_outside_raw_looked_at(folder: Path, name: str) -> None:
    unit = e.Unit(arm="Q8_0", kind="perplexity", index=0)
    event = e.Perplexity(n=len(EVENTS), t=1e9, unit=unit, chunk=0, chunks=1, scored=1, nll=1.0, nll2=1.0, file=name)
    (folder / session.EVENTS).write_bytes(LOG + e.encode(event))
    notes = repair.repair(folder).notes
    assert len(notes) == 1 and "is no file of raw/" in notes[0] and "\x1b" not in notes[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a":1}\n{"b":2}\n', ""),
        (b'{"a":1}\n{"b":2}', "its last line that the log names is cut off"),
        (b'{"a":1}\n{"b":2}\n{"c', "3 bytes are of a unit that was not recorded"),
        (b'{"a":1}', "1 of the 2 rows that the log names are gone"),
    ],
)
def test_answers_are_looked_at_by_lines(folder: Path, content: bytes, says: str) -> None:
    told = [
        e.Item(
            n=len(EVENTS) + place, t=1e9, unit=e.Unit(arm="Q8_0", kind="task", index=place, task="t", item=str(place)),
            items=2, prompt="", form="plain", answer="", stopped="eos", tokens=1, prompt_tokens=1, at=1e9, ns=1,
            file="raw/Q8_0.items.jsonl", offset=8 * place,
        )
        for place in range(2)
    ]  # fmt: skip
    (folder / session.EVENTS).write_bytes(LOG + b"".join(map(e.encode, told)))
    (folder / "raw" / "Q8_0.items.jsonl").write_bytes(content)
    notes = repair.repair(folder).notes
    assert (says in notes[0]) if says else not notes


# --- key frames -----------------------------------------------------------------------------------------------------


@pytest.fixture
def framed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The session with key frames, as its writer makes them."""
    monkeypatch.setattr(session, "FRAME_EVERY", 20)
    session.Writer(folder).close()
    assert len(session.frames(folder)) == len(EVENTS) // 20 > 2
    return folder


def fitting(folder: Path) -> None:
    """Every key frame is what the log comes to."""
    state, reader = fold.State(), session.Reader(folder)
    frames = {frame.offset: frame for frame in session.frames(folder)}
    for count, event in enumerate(reader.events(), 1):
        state.apply(event)
        assert (reader.offset in frames) == (count % session.FRAME_EVERY == 0)
        if reader.offset in frames:
            read = session.read_frame(folder / session.FRAMES, frames[reader.offset])
            assert fold.canonical(read) == fold.canonical(state)


def test_key_frames_that_fit_stay(framed: Path) -> None:
    before = contents(framed)
    assert repair.repair(framed).dropped == () and contents(framed) == before


def test_key_frames_go_with_a_line_and_are_made_again(framed: Path) -> None:
    lines = [*LINES[:5], b"junk\n", *LINES[5:]]
    (framed / session.EVENTS).write_bytes(b"".join(lines))
    found = repair.repair(framed)
    assert [one.kind for one in found.dropped] == ["line", "frames"] and found.frames == len(EVENTS) // 20
    assert log_of(framed) == LOG
    fitting(framed)


@pytest.mark.parametrize("damage", ["cut", "foreign", "shifted", "body", "missing", "too few"])
def test_key_frames_that_do_not_fit_are_made_again(framed: Path, damage: str) -> None:
    path = framed / session.FRAMES
    whole, known = path.read_bytes(), session.frames(framed)
    first = known[1].place - HEAD
    if damage == "cut":
        path.write_bytes(whole[:-3])
    elif damage == "foreign":
        path.write_bytes(b"old1" + whole[4:])
    elif damage == "shifted":
        path.write_bytes(whole[:4] + (known[0].offset + 1).to_bytes(8, "little") + whole[12:])
    elif damage == "body":
        path.write_bytes(whole[: first - 9] + b"x" * 9 + whole[first:])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:first])
    found = repair.repair(framed)
    assert found.frames and log_of(framed) == LOG and found.log_before == ""
    assert [one.kind for one in found.dropped] == ([] if damage in ("missing", "too few") else ["frames"])
    fitting(framed)
    assert repair.repair(framed).frames == 0


# --- when it is not done --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("set_back", [0.0, 3600.0])
def test_nothing_is_done_while_a_writer_lives_though_the_clock_was_set(folder: Path, set_back: float) -> None:
    opening = e.encode(builders.events(builders.Arm("Q8_0"), closed=None)[0])
    alive = json.loads(opening) | {"pid": os.getpid(), "pid_started": psutil.Process().create_time() + set_back}
    broken = json.dumps(alive).encode() + b"\n" + b"junk\n"
    (folder / session.EVENTS).write_bytes(broken)
    with pytest.raises(UserError, match=f"process {os.getpid()} is writing it"):
        repair.repair(folder)
    assert log_of(folder) == broken


def test_a_writer_that_closed_its_session_no_longer_counts(folder: Path) -> None:
    opening = json.loads(LINES[0]) | {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    closing = e.encode(e.SessionClosed(n=1, t=1.0, outcome="ok"))
    (folder / session.EVENTS).write_bytes(json.dumps(opening).encode() + b"\n" + closing + b"junk\n")
    assert len(repair.repair(folder).dropped) == 1


def test_a_mirror_is_repaired_where_it_comes_from(folder: Path) -> None:
    origin = session.Origin(host="far\x1b", session="s", folder="/s", key="k", alive=False, wall=1.0)
    (folder / session.REMOTE).write_bytes(msgspec.json.encode(origin))
    (folder / session.EVENTS).write_bytes(LOG + b"junk")
    with pytest.raises(UserError, match="mirrors a session of far: repair it there") as refused:
        repair.repair(folder)
    assert "\x1b" not in str(refused.value) and log_of(folder) == LOG + b"junk"


def test_a_log_that_was_repaired_before_keeps_both_that_were(folder: Path) -> None:
    (folder / session.EVENTS).write_bytes(LOG + b"one")
    assert repair.repair(folder).log_before == session.BEFORE_REPAIR
    (folder / session.EVENTS).write_bytes(LOG + b"two")
    assert repair.repair(folder).log_before == f"{session.BEFORE_REPAIR}-2"
    kept = [(folder / f"{session.BEFORE_REPAIR}{end}").read_bytes() for end in ("", "-2")]
    assert kept == [LOG + b"one", LOG + b"two"]
    assert session.delete(folder, folder.parent) == ""


def test_the_new_log_is_private_and_as_old_as_the_old_one(folder: Path) -> None:
    (folder / session.EVENTS).write_bytes(LOG + b"torn")
    os.utime(folder / session.EVENTS, (1e9, 1e9))
    old = os.umask(0)
    try:
        repair.repair(folder)
    finally:
        os.umask(old)
    status = (folder / session.EVENTS).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o600, 1e9)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    config = tmp_path / "config.toml"
    config.write_text(f'sessions_dir = "{tmp_path}"\n')
    return ["--config", str(config), "sessions"]


def test_the_command_says_it_first_and_does_it_then(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / session.EVENTS).write_bytes(LOG + b"torn")
    assert cli.main([*command, "--repair", folder.name, "--dry-run"]) == 0
    assert "would drop: the end of events.jsonl" in capsys.readouterr().out and log_of(folder) == LOG + b"torn"
    assert cli.main([*command, "--repair", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == repair.SCHEMA and told["done"] and told["log_before"] == session.BEFORE_REPAIR
    assert told["dropped"][0] | {"why": ""} == {
        "kind": "end", "file": "events.jsonl", "line": len(LINES) + 1, "bytes": 4, "why": "",
    }  # fmt: skip
    assert log_of(folder) == LOG
    assert cli.main([*command, "--repair"]) == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_wrong_usage_is_one_line(folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--dry-run"]) == 2
    assert cli.main([*command, "--repair", "no-such"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and "--dry-run: belongs to --repair" in err and "no-such: is no session" in err


def test_a_session_held_by_a_writer_is_refused(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from quanttui.sweep import lock

    (folder / session.EVENTS).write_bytes(LOG + b"torn")
    held = lock.writer(folder)
    try:
        assert cli.main([*command, "--repair", folder.name]) == 2
    finally:
        os.close(held)
    assert "another process is writing it" in capsys.readouterr().err and log_of(folder) == LOG + b"torn"
