"""The view says what is known, why the rest is not, and nothing that is unsafe to print."""

from __future__ import annotations

import json
from typing import Any

import builders
import msgspec
import pytest

from quanttui import events as e
from quanttui import state as fold
from quanttui.summary import summarize
from quanttui.transport import FROZEN, REPLAY, Cursor
from quanttui.tui import panels, view
from quanttui.tui.parts import Own, View

CLEAN = builders.Arm("Q8_0")
SWAPPED = builders.Arm("Q5_K_M", tok_s=3.0, swap=0.021)
QUICK = builders.Arm("Q4_K_M", tok_s=25.0)
TO_COME = builders.Arm("Q4_K_S", planned_only=True)


def seen(state: fold.State, cursor: Cursor | None = None, columns: int = 60, **options: Any) -> View:
    """The view of a state."""
    summary = summarize(state)
    return view.of(state, summary, view.charts(state, summary, columns), cursor or Cursor(), Own(), **options)


def upto(events: list[e.Event], last: type, arm: str = "", phase: str = "", count: int = 1) -> fold.State:
    """The state after the `count`-th event of a kind, of an arm and in a phase."""
    state = fold.State()
    for event in events:
        state.apply(event)
        if isinstance(event, last) and state.arm == (arm or state.arm) and state.phase == (phase or state.phase):
            count -= 1
            if not count:
                return state
    raise AssertionError("no such event")


def words(line: Any) -> str:
    return "".join(text for text, _ in line)


def panel_text(one: Any) -> str:
    return "\n".join(words(left) + "  " + words(right) for left, right in one.lines) + one.why + one.status


def test_a_running_figure_has_its_own_mark_and_a_tainted_one_another() -> None:
    events = builders.events(CLEAN, SWAPPED)
    running = seen(upto(events, e.UnitDone, "Q8_0", "decode", 2))
    assert running.metrics["gen"].value.split()[0].endswith("…")
    tainted = seen(builders.state(CLEAN, SWAPPED))
    assert tainted.metrics["gen"].value.split()[0].endswith("*")
    cells = {row.id: row.cells["gen"][0] for row in tainted.rows}
    assert "*" in cells["Q5_K_M"] and "*" not in cells["Q8_0"]


def test_what_is_predicted_is_marked_and_follows_from_the_bytes() -> None:
    """Only where some quant's speed is the memory bandwidth's."""
    at_wall = seen(builders.state(CLEAN, TO_COME, closed=None))
    row = at_wall.rows[1]
    done, planned = (arm.plan.bytes or 0 for arm in builders.state(CLEAN, TO_COME).arms.values())
    assert row.cells["gen"][0].startswith("~")
    assert float(row.cells["gen"][0][1:]) == pytest.approx(17.0 * done / planned, rel=0.02)
    unexplained = seen(builders.state(builders.Arm("Q8_0", tok_s=9.0), TO_COME, closed=None))
    assert unexplained.rows[1].cells["gen"][0] == "·"


def test_a_contaminated_quant_is_flagged_wherever_it_is_named() -> None:
    shown = seen(builders.state(CLEAN, SWAPPED))
    mark = next(mark for mark in shown.marks if mark.id == "Q5_K_M")
    assert (mark.sign, mark.role) == ("!", "bad")
    assert "[!!] swap 2.1%" in shown.rows[1].cells["verdict"][0]
    assert "[!!] swap 2.1%" in shown.panels["swap"].status
    assert shown.metrics["swap"].note == "[!!] swap 2.1%"
    assert any("[!!]" in words(line) and "came back from swap" in words(line) for line in shown.verdict)
    assert any(entry.glyph == "[!!]" and "Q5_K_M" in entry.text for entry in shown.events)


def test_contamination_is_flagged_while_it_happens() -> None:
    events = builders.events(CLEAN, SWAPPED)
    shown = seen(upto(events, e.UnitDone, "Q5_K_M", "decode", 1))
    assert "[!!]" in shown.rows[1].cells["verdict"][0]
    assert any(entry.glyph == "[!!]" for entry in shown.events)


def test_a_phase_that_is_only_begun_is_flagged_as_nothing() -> None:
    """`too short` so far is said in its sentence, but raises no flag."""
    shown = seen(upto(builders.events(CLEAN), e.UnitDone, "Q8_0", "decode", 1))
    assert shown.rows[0].cells["verdict"][0] == "gen"
    assert "[!]" not in panel_text(shown.panels["bus"])
    assert "Too short" in words(shown.verdict[0])


def test_bus_and_reread_say_what_was_moved() -> None:
    shown = seen(builders.state(CLEAN, SWAPPED))
    assert shown.metrics["reread"].value == "2.1 % of A"
    assert "/33.0 GB/s" in shown.metrics["bus"].value
    clean = seen(builders.state(CLEAN))
    assert clean.metrics["reread"].value == "0.0 % of A"
    assert clean.metrics["bus"].note == "[=] wall"


@pytest.mark.parametrize(
    ("arm", "metric", "said"),
    [
        (builders.Arm("Q8_0", ceiling=None), "bus", "no ceiling: too little memory is free to measure it"),
        (builders.Arm("Q8_0", reads=False), "reread", "this host does not tell what the engine reads from storage"),
    ],
)
def test_a_missing_reading_says_why_and_is_not_zero(arm: builders.Arm, metric: str, said: str) -> None:
    one = seen(builders.state(arm)).metrics[metric]
    assert said in f"{one.note}{one.why}{panel_text(seen(builders.state(arm)).panels['bus'])}"
    assert not one.value.startswith("0")


def test_sources_that_are_lost_give_their_reasons() -> None:
    events = builders.events(CLEAN)
    lost = [
        e.ProbeLost(n=1, t=0.0, probe="power", why="RAPL is readable by root only"),
        e.ProbeLost(n=2, t=0.0, probe="nvidia", why="no NVIDIA driver: no libnvidia-ml"),
        e.ProbeFound(n=3, t=0.0, probe="memory"),
    ]
    shown = seen(fold.fold([events[0], *lost, *events[1:]]))
    assert shown.metrics["power"].why == "no counter: RAPL is readable by root only"
    assert shown.metrics["gpu"].why == "no NVIDIA driver: no libnvidia-ml"
    assert "memory ok" in shown.probes and "power n/a" in shown.probes


def test_before_the_first_event_everything_is_yet_to_come() -> None:
    shown = seen(fold.State())
    assert shown.metrics["gen"].value == "not yet"
    assert shown.rows == () and shown.marks == () and shown.total == 0
    assert msgspec.json.encode(shown)


def test_a_failed_quant_says_how_it_failed() -> None:
    shown = seen(builders.state(builders.Arm("Q8_0", fails="oom", error="killed by signal 9"), QUICK))
    assert shown.rows[0].cells["quant"][0].startswith("✗")
    assert "oom: killed by signal 9" in shown.rows[0].cells["verdict"][0]
    assert any(entry.glyph == "[x]" for entry in shown.events)


def test_notes_of_the_session_and_of_the_cache_are_there_to_be_seen() -> None:
    note = "CPU-only build: reinstall it with CUDA"
    small = builders.state(CLEAN, parameters=20_000_000, notes=(note,))
    shown = seen(small)
    assert shown.notes == (note,)
    assert shown.metrics["bus"].note == "[=] cache"
    assert any("fit in the last-level cache" in words(line) for line in shown.verdict)


def test_columns_of_energy_are_there_only_with_a_counter() -> None:
    assert "energy" not in seen(builders.state(CLEAN)).headings
    with_counter = seen(builders.state(builders.Arm("Q8_0", watts=40.0)))
    assert {"energy", "efficiency"} <= set(with_counter.headings)
    assert "J/token" in panel_text(with_counter.panels["power"])
    assert with_counter.metrics["power"].value.endswith(" W")


@pytest.mark.parametrize(
    ("cores", "gpu_layers", "quiet"),
    [(2, 0, True), (1, 0, True), (4, 0, False), (2, 23, False), (2, 10, True)],
)
def test_quiet_is_asked_for_while_a_repetition_is_timed_on_all_cores(cores: int, gpu_layers: int, quiet: bool) -> None:
    arm = builders.Arm("Q8_0", gpu_layers=gpu_layers)
    events = builders.events(arm, host=builders.host(cores=cores, threads=cores))
    assert view.is_quiet(upto(events, e.Tokens, "Q8_0", "decode")) == quiet
    assert not view.is_quiet(upto(events, e.Perplexity, "Q8_0", "perplexity"))
    assert not view.is_quiet(fold.fold(events))


def test_the_mode_is_the_cursors_or_how_the_session_ended() -> None:
    state, closed = builders.state(CLEAN, TO_COME, closed=None), builders.state(CLEAN)
    assert seen(state).mode == "LIVE ●"
    assert seen(state, over=True).mode == "INTERRUPTED"
    assert seen(closed).mode == "DONE"
    assert seen(builders.state(CLEAN, closed="interrupted")).mode == "INTERRUPTED"
    assert seen(closed, Cursor(FROZEN, 3.0)).mode == "FROZEN"
    assert seen(closed, Cursor(REPLAY, 3.0, 4.0)).mode == "REPLAY 4x"


def test_only_the_mode_tells_where_the_cursor_stands() -> None:
    """The same state shows the same, whichever way one came to look at it."""
    state = builders.state(CLEAN, SWAPPED, TO_COME, closed=None)
    shown = [seen(state, cursor) for cursor in (Cursor(), Cursor(FROZEN, state.t), Cursor(REPLAY, state.t))]
    assert len({msgspec.json.encode(msgspec.structs.replace(one, mode="", mode_role="")) for one in shown}) == 1


def test_the_selected_quants_verdicts_are_spelled_out() -> None:
    state = builders.state(CLEAN, SWAPPED, QUICK)
    assert words(seen(state).verdict[0]).startswith("Q4_K_M")
    assert words(seen(state, selected="Q5_K_M").verdict[0]).startswith("Q5_K_M")
    assert words(seen(state, selected="gone").verdict[0]).startswith("Q4_K_M")


HOSTILE = "\x1b[31mX\x07[bold]\u202e\u2066"


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for text in strings(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_no_foreign_string_of_a_view_can_move_the_terminal() -> None:
    arm = builders.Arm("Q8_0", id=f"Q8{HOSTILE}", label_note=f"label {HOSTILE}", fails="crashed", error=HOSTILE)
    events = builders.events(
        arm,
        QUICK,
        host=builders.host(name=HOSTILE),
        build=builders.build(llama_cpp=HOSTILE),
        notes=(f"note {HOSTILE}",),
    )
    opened = msgspec.structs.replace(events[0], model=HOSTILE * 40)
    lost = e.ProbeLost(n=1, t=0.0, probe=HOSTILE, why=HOSTILE)
    shown = seen(fold.fold([opened, lost, *events[1:]]))
    said = strings(json.loads(msgspec.json.encode(msgspec.structs.replace(shown, selected=""))))
    # Ids are keys, compared and never shown.
    said = [text for text in said if text != arm.name]
    assert all(text.isprintable() for text in said)
    assert any("[bold]" in text for text in said)


@pytest.mark.parametrize(
    ("percent", "error", "expected"),
    [
        (1.73, 0.31, "+1.7% ±0.3"),
        (-0.004, 0.013, "-0.00% ±0.01"),
        (0.4321, 0.0021, "+0.43% ±0.00"),
        (12.0, None, "+12.00%"),
        (250.0, 12.0, "+250% ±12"),
        (3e7, 1e6, "+3.0e+07%"),
    ],
)
def test_a_difference_has_the_decimals_that_its_error_has_a_say_in(
    percent: float, error: float | None, expected: str
) -> None:
    from quanttui.summary import Delta

    one = summarize(builders.state(CLEAN)).arms[0]
    one = msgspec.structs.replace(one, delta=Delta("F16", percent, error, 8))
    assert panels.difference(one) == expected


def test_a_view_is_json() -> None:
    shown = seen(builders.state(CLEAN, SWAPPED, TO_COME))
    again = json.loads(msgspec.json.encode(shown))
    assert again["metrics"]["gen"]["value"] == shown.metrics["gen"].value


def test_charts_over_time_begin_with_the_quant_or_two_minutes_ago() -> None:
    state = builders.state(CLEAN, QUICK, TO_COME, closed=None)
    begun = next(span.start for span in state.spans if span.arm == "Q4_K_M")
    assert panels.window_start(state) == max(0.0, min(begun, state.t - panels.LEAST_WINDOW))
    assert panels.window_start(builders.state(CLEAN, QUICK)) == 0
