"""FORMAT.md and the log that it describes: neither goes stale, and what an old log says stays what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import builders
import format_document as made
import msgspec
import pytest

from quanttui import events as e
from quanttui import session, summary
from quanttui import state as fold
from quanttui.errors import UserError

SCHEMAS = range(1, e.SCHEMA + 1)


def test_the_document_is_what_events_are() -> None:
    told = made.DOCUMENT.read_text(encoding="utf-8")
    assert told == made.document(told), f"FORMAT.md is out of date: {made.COMMAND}"
    assert f"about schema {e.SCHEMA}." in told


def test_every_event_record_and_reading_is_in_the_document_with_every_field() -> None:
    told = made.DOCUMENT.read_text(encoding="utf-8")
    headings = [line for line in told.splitlines() if line.startswith("### `")]
    assert len(headings) == len(set(headings)) == len(made.kinds()) + len(made.records())
    for kind in (*made.kinds(), *made.records()):
        name = kind.__struct_config__.tag if issubclass(kind, e.Event) else kind.__name__
        section = told.split(f"### `{name}`\n")[1].split("\n### ")[0]
        fields = kind.__struct_fields__[2 if issubclass(kind, e.Event) else 0 :]
        assert [line for line in section.splitlines() if line.startswith("| `")] == [
            line for field in fields for line in section.splitlines() if line.startswith(f"| `{field}` |")
        ]
        assert section.count("\n| `") == len(fields)
    assert all(f"- `{name}`: " in told for name in e.READINGS)


def test_what_stands_around_the_tables_is_left_alone() -> None:
    assert made.document("a\n" + made.BEGIN + "old" + made.END + "\nb").startswith("a\n" + made.BEGIN)
    assert made.document(made.BEGIN + made.END + "\nb").endswith(made.END + "\nb")


# --- schemas --------------------------------------------------------------------------------------------------------


def within(old: Any, new: Any) -> bool:
    """Whether all that `old` says is in `new`, which may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and within(value, new[name]) for name, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(within, old, new))
    return type(old) is type(new) and bool(old == new)


def pairs(schema: int) -> list[tuple[str, dict[str, Any]]]:
    told, read = made.sample(schema)
    both = zip(told.read_text().splitlines(), read.read_text().splitlines(), strict=True)
    return [(line, json.loads(values)) for line, values in both]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_log_of_each_schema_reads_as_it_always_did(schema: int) -> None:
    """Where this fails, old logs would say something else: raise events.SCHEMA, or leave the event as it was."""
    assert {values["event"] for _, values in pairs(schema)}
    for line, values in pairs(schema):
        event = e.decode(line.encode())
        assert not isinstance(event, e.Unknown), f"{values['event']} is gone"
        assert within(values, made.plain(event)), line
        assert within(json.loads(line), made.plain(event)), line


@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_was_read_is_written_again_as_the_same(schema: int) -> None:
    for line, _ in pairs(schema):
        event = e.decode(line.encode())
        assert isinstance(event, e.Event)
        again = e.encode(event)
        assert e.decode(again) == event
        assert within(without_defaults(json.loads(line), again), json.loads(again))


def without_defaults(old: dict[str, Any], again: bytes) -> dict[str, Any]:
    """What a line says but for a field at its default, which is left out when it is written."""
    return {name: value for name, value in old.items() if name in json.loads(again)}


def test_the_sample_has_every_event_with_every_field() -> None:
    """Else: python -m tests.format_document"""
    assert list(made.completed()) == made.lines(e.SCHEMA), made.COMMAND
    assert {json.loads(line)["event"] for line in made.lines(e.SCHEMA)} == {
        kind.__struct_config__.tag for kind in made.kinds()
    }


def test_a_changed_default_type_or_name_is_seen() -> None:
    """The pin pins: each way in which a schema can break makes `within` false, a new field does not."""
    (line, values) = next(pair for pair in pairs(1) if pair[1]["event"] == "beat")
    assert within(values, {**values, "new": 1})
    for wrong in ({**values, "wall": str(values["wall"])}, {**values, "wall": 0.0}, {"event": "beat"}):
        assert not within(values, wrong)
    assert json.loads(line).keys() <= values.keys()


# --- logs of others -------------------------------------------------------------------------------------------------


def log_of(folder: Path, lines: list[bytes]) -> Path:
    made = session.create(folder, "m")
    (made / session.EVENTS).write_bytes(b"".join(lines))
    return made


def newer_log() -> list[bytes]:
    """A log of the schema after this one: its opening has more in it, and two events are of kinds unknown here."""
    written = [msgspec.json.decode(e.encode(event)) for event in builders.events(builders.Arm("Q8_0"))]
    written[0] = {**written[0], "schema": e.SCHEMA + 1, "moon": {"phase": "full"}}
    written[3:3] = [{"event": "moon.phase", "n": 3, "t": 0.0}, {"event": "tide", "n": 4, "t": 0.0, "high": [1]}]
    return [msgspec.json.encode(line) + b"\n" for line in written]


def test_a_newer_log_is_read_with_a_notice(tmp_path: Path) -> None:
    folder = log_of(tmp_path, newer_log())
    state = session.load(folder)
    schemas = f"(log schema {e.SCHEMA + 1}, this one's is {e.SCHEMA})"
    notice = f"written by a newer quanttui {schemas}: 2 events of it were skipped"
    assert session.newer(state) == notice == session.info(folder).note
    assert summary.summarize(state).notes[0] == notice
    same = fold.fold(builders.events(builders.Arm("Q8_0")))
    assert state.arms["Q8_0"].units.keys() == same.arms["Q8_0"].units.keys()


def test_the_notice_outlives_a_key_frame(tmp_path: Path) -> None:
    folder = log_of(tmp_path, newer_log())
    before = session.newer(session.load(folder))
    size = (folder / session.EVENTS).stat().st_size
    session.append_frame(folder / session.FRAMES, size, session.load(folder))
    assert len(session.frames(folder)) == 1 and session.newer(session.load(folder)) == before


def test_a_log_of_our_own_has_no_notice() -> None:
    assert session.newer(builders.state(builders.Arm("Q8_0"))) == "" == session.newer(fold.State())


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([b"no log at all\n", b"\x00\xff\n"], "no line of events.jsonl is an event: `quanttui sessions --repair`"),
        ([b'{"what":"session.opened","schema":7}\n'], "newer quanttui (log schema 7, this one reads 1)"),
    ],
)
def test_only_what_nobody_can_read_is_refused(tmp_path: Path, lines: list[bytes], says: str) -> None:
    folder = log_of(tmp_path, lines)
    with pytest.raises(UserError) as refused:
        session.load(folder)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert (session.info(folder).state, len(session.listing(tmp_path))) == ("unreadable", 1)
    assert session.delete(folder, tmp_path) == ""


def test_an_empty_log_is_no_error(tmp_path: Path) -> None:
    assert session.info(log_of(tmp_path, [])).state == "empty"
