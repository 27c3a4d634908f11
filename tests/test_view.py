"""The view says what is known, why the rest is not, and nothing that is unsafe to print."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from rich.cells import cell_len

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.report import text as as_text
from quanttui.summary import Delta, summarize
from quanttui.transport import Cursor
from quanttui.tui import layout, panels, view
from quanttui.tui.app import picture
from quanttui.tui.glyphs import SETS, Glyphs
from quanttui.tui.parts import Own, View
from quanttui.tui.screens.monitor import DRAWN, PARTS
from quanttui.tui.widgets import bars, table

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
    assert seen(closed, Cursor(3.0)).mode == "FROZEN"
    assert seen(closed, Cursor(3.0, 4.0, True, True)).mode == "REPLAY 4x"


def test_only_the_mode_tells_where_the_cursor_stands() -> None:
    """The same state shows the same, whichever way one came to look at it."""
    state = builders.state(CLEAN, SWAPPED, TO_COME, closed=None)
    shown = [seen(state, cursor) for cursor in (Cursor(), Cursor(state.t), Cursor(state.t, recorded=True))]
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


def test_no_base_of_a_hostile_name_can_move_the_terminal() -> None:
    """Its name stands in calls, differences and captions; all of it is said on one clean line."""
    arms = (
        builders.Arm("F16", id=f"F16{HOSTILE}", chunks=24),
        builders.Arm("Q2_K", id=f"Q2{HOSTILE}", chunks=24, ppl=9.9, kld=0.3, disturbed=1),
    )
    for until in ("full", "decided"):
        state = builders.state(*arms, settings=builders.settings(until=until, depths=(0, 64)))
        raw = {arm.name for arm in arms}
        shown = seen(state, selected=arms[1].name)
        said = strings(json.loads(msgspec.json.encode(msgspec.structs.replace(shown, selected=""))))
        assert all(text.isprintable() for text in said if text not in raw)
        for report in (as_text.report(state), as_text.report(state, ascii=True), as_text.brief(state)):
            assert all(line.isprintable() and len(line) <= 120 for line in report.splitlines())


@pytest.mark.parametrize(
    ("percent", "low", "high", "expected"),
    [
        (1.73, 1.42, 2.03, "+1.7% ±0.3"),
        (1.73, 1.42, 2.63, "+1.7% ±0.9"),
        (-0.004, -0.017, 0.009, "-0.00% ±0.01"),
        (0.4321, 0.43, 0.4342, "+0.43% ±0.01"),
        (12.0, None, None, "+12.00% ±?"),
        (250.0, 238.0, 262.0, "+250% ±12"),
        (3e7, 2e7, 4e7, "+3.0e+07%"),
    ],
)
def test_a_difference_has_the_larger_side_of_its_sequence_and_the_decimals_that_it_has_a_say_in(
    percent: float, low: float | None, high: float | None, expected: str
) -> None:
    """What rounds to nothing is not said to be nothing, and what is not known is not left out."""
    one = summarize(builders.state(CLEAN)).arms[0]
    one = msgspec.structs.replace(one, delta=Delta("F16", percent, 0.001, 8, low, high))
    assert panels.difference(one) == expected


# --- deciding sweeps ------------------------------------------------------------------------------------------------

DECIDING = builders.deciding()


def cells(shown: View, column: str) -> dict[str, str]:
    return {row.id: row.cells[column][0] for row in shown.rows}


def test_only_the_quant_under_way_looks_like_it() -> None:
    """The base waits for the others with its chunks half done: begun, not under way, and named so."""
    state = upto(DECIDING, e.UnitStarted, "Q4_K_M", "perplexity", 2)
    shown = seen(state)
    signs = {mark.id: mark.sign for mark in shown.marks}
    assert [name for name, sign in signs.items() if sign == "▶"] == ["Q4_K_M"]
    assert signs["F16"] == "◐" and cells(shown, "quant")["F16"] == "◐F16"
    assert len({SETS["ascii"].text(sign) for sign in "▶◐·✓!✗"}) == 6
    waiting = seen(upto(DECIDING, e.ArmStarted, "Q4_K_M"))
    assert cells(waiting, "verdict")["Q4_K_M"] != "begun, waiting"


def test_every_error_on_the_screen_says_which_it_is() -> None:
    shown = seen(upto(DECIDING, e.UnitDone, "Q4_K_M", "perplexity", 8))
    said = panel_text(shown.panels["perplexity"])
    assert re.search(r"±[\d.]+ se ", said)
    assert re.search(r"Δppl \+[\d.]+% ±[\d.]+ \(95 % sequence\) vs F16 .*over this text", said)
    assert re.search(r"KLD [\d.]+ ±[\d.]+ \(95 %\) .*same top [\d.]+ ±[\d.]+ % se", said)
    assert re.search(r"gen [\d.]+ ±[\d.]+ \(95 %, 12 reps\)", panel_text(shown.panels["speed"]))
    assert "±95" in shown.headings["delta"] and "±sd" in shown.headings["gen"]


def test_an_interval_that_is_not_known_yet_is_not_left_out() -> None:
    shown = seen(upto(DECIDING, e.UnitDone, "Q4_K_M", "perplexity", 1))
    assert "±? (95 % sequence)" in panel_text(shown.panels["perplexity"])
    assert "±?" in cells(shown, "delta")["Q4_K_M"]


def test_calls_are_words_with_the_number_of_chunks() -> None:
    state = fold.fold(DECIDING)
    shown = seen(state)
    assert cells(shown, "call") == {
        "F16": "base", "Q8_0": "within", "Q4_K_M": "open", "Q3_K_M": "worse", "Q2_K": "worse"
    }  # fmt: skip
    assert "±1 %" in shown.headings["call"]
    chunks = {one.id: one.decision.chunks for one in summarize(state).arms if one.decision}
    for quant, said in (("Q8_0", "within 1 % of F16"), ("Q3_K_M", "worse than F16")):
        lines = [words(line) for line in seen(state, selected=quant).verdict]
        assert any(f"{said} after {chunks[quant]} of 655 chunks" in line for line in lines)
    assert f"open after {chunks['Q4_K_M']} chunks" in panel_text(shown.panels["perplexity"])


def test_a_full_sweep_calls_so_far_and_ends_with_all_chunks() -> None:
    """Scoring goes on whatever the call: the words must not say that it was decided."""
    arms = (builders.Arm("F16", chunks=40), builders.Arm("Q2_K", chunks=40, ppl=9.5))
    events = builders.events(*arms)
    midway = panel_text(seen(upto(events, e.UnitDone, "Q2_K", "perplexity", 8)).panels["perplexity"])
    assert "worse so far" in midway and "after" not in midway
    assert "over texts like it" in midway
    assert "worse after 40 chunks" in panel_text(seen(fold.fold(events)).panels["perplexity"])


def test_the_running_perplexity_is_over_the_same_chunks_in_the_same_order() -> None:
    """Drawn at random: the x axis counts chunks, and the base's curve is over those of the arm."""
    state = fold.fold(DECIDING)
    arm, base = state.arms["Q8_0"], state.arms["F16"]
    assert list(arm.chunks) != sorted(arm.chunks)
    ours, ghost = panels.running_perplexity(arm), panels.running_perplexity(base, arm.chunks)
    assert len(ours.sums) == len(ghost.sums) == len(arm.chunks)
    for place in (0, 7, len(arm.chunks) - 1):
        drawn = list(arm.chunks)[: place + 1]
        for series, one in ((ours, arm), (ghost, base)):
            found = one.perplexity(drawn)
            assert found is not None and series.sums[place] == pytest.approx(found[0])


def test_the_chart_of_a_deciding_sweep_ends_with_what_was_drawn() -> None:
    state = fold.fold(DECIDING)
    trace = panels.charts(state, summarize(state), 60).perplexity
    assert trace is not None
    reach = len(state.arms["F16"].chunks)
    assert reach <= len(trace.values) * trace.width < 2 * reach + trace.width


def test_depths_and_disturbed_repetitions_are_told() -> None:
    lines = [words(line) for line in seen(fold.fold(DECIDING), selected="Q4_K_M").verdict]
    assert any(re.search(r"at depth 4096: prompt 14\d ±[\d.]+, gen 16.\d ±[\d.]+ tok/s", line) for line in lines)
    assert any("2 repetitions done again: a key was answered" in line for line in lines)


def test_what_is_left_is_a_bound_while_arms_are_undecided() -> None:
    assert seen(fold.fold(DECIDING)).left.startswith("≤")
    assert "≤" not in seen(builders.state(CLEAN, QUICK, TO_COME, closed=None)).left


def test_speeds_within_the_floor_are_the_same() -> None:
    """The anchor differs from itself by as much."""
    assert panels.against(24.9, 25.0, "Q4_K_M", 0.01) == "same as Q4_K_M"
    assert panels.against(24.9, 25.0, "Q4_K_M", 0.001) == "-0.100 vs Q4_K_M"
    assert panels.against(24.9, 25.0, "Q4_K_M", None) == "-0.100 vs Q4_K_M"


ANCHORED = builders.deciding(levels=(16,), anchored=True)


def test_rounds_of_the_anchor_have_a_name_in_steps_and_lane() -> None:
    shown = seen(upto(ANCHORED, e.UnitStarted, "Q2_K", "anchor", 8))
    assert shown.steps[0].phase == "anchor" and shown.phase_left.startswith("anchor")
    assert "anchor round 3" in panel_text(shown.panels["speed"])
    assert "anchor" in {stretch.phase for stretch in shown.lane}
    assert "A" in "".join(text for text, _ in bars.lane(shown, 200, 1, SETS["braille"])[0])


def test_a_drifting_quant_is_doubted_wherever_it_is_named() -> None:
    shown = seen(fold.fold(ANCHORED))
    assert "[!] drifting +8%" in cells(shown, "verdict")["Q4_K_M"]
    assert "drifting" not in cells(shown, "verdict")["Q8_0"]


def test_thousands_of_turns_make_no_more_stretches_than_a_screen_has_columns() -> None:
    """And neither their time nor their phases are lost."""
    state = builders.state(CLEAN, QUICK, closed=None)
    begin = state.t
    for turn in range(5000):
        phase = "prompt" if turn < 2500 else "decode"
        at = begin + 0.3 * turn
        state.spans.append(fold.Span(("Q8_0", "Q4_K_M")[turn % 2], phase, at, end=at + 0.3))
    state.t = begin + 1500
    lane = seen(state).lane
    assert len(lane) <= 2 * view.LANE
    assert all(a.end <= b.start + 1e-9 for a, b in pairwise(lane))
    late = [one for one in lane if one.end > begin + 10]
    assert {one.phase for one in late} == {"prompt", "decode"}
    drawn = sum(one.end - one.start for one in lane if one.end > begin)
    assert drawn == pytest.approx(1500, rel=0.02)


@pytest.mark.parametrize("size", ["40x10", "80x24", "120x40", "200x50"])
def test_the_screen_of_a_deciding_sweep_is_the_expected_one(tmp_path: Path, size: str) -> None:
    """The files in tests/snapshots are written anew with QUANTTUI_TEST_REGENERATE=1, to be read before kept."""
    folder = tmp_path / "deciding"
    folder.mkdir()
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, DECIDING)))
    columns, rows = map(int, size.split("x"))
    _, text, _ = picture(folder, f"{DECIDING[-1].t - 9:.3f}s", (columns, rows), glyphs="braille")
    *screen, _ = text.splitlines()
    assert all(cell_len(line) <= columns for line in screen) and len(screen) == rows
    path = Path(__file__).parent / "snapshots" / f"deciding-{size}-braille.txt"
    if os.environ.get("QUANTTUI_TEST_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("used", SETS.values(), ids=str)
@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (100, 34), (120, 40), (200, 50)])
def test_nothing_is_wider_than_its_box(width: int, height: int, used: Glyphs) -> None:
    for events in (DECIDING, ANCHORED):
        shown = seen(fold.fold(events))
        for name, place in layout.places(width, height, shown.total).items():
            for line in DRAWN[name](shown, place.width, place.height, used):
                assert cell_len("".join(text for text, _ in line)) <= place.width


@pytest.mark.parametrize("name", PARTS)
def test_a_sheet_that_is_not_drawn_again_would_be_the_same(name: str) -> None:
    """Its part is all of the view that it draws: in a view of another session with that part it looks no different."""
    shown, other = seen(fold.fold(DECIDING)), seen(builders.state(CLEAN, SWAPPED, QUICK), selected="Q5_K_M")
    if name in shown.panels:
        one = shown.panels["speed"]
        shown, mixed = (msgspec.structs.replace(each, panels={**each.panels, name: one}) for each in (shown, other))
    else:
        fields = ("verdict", "events", "notes") if name == "story" else ("rows", "headings", "order", "selected")
        mixed = msgspec.structs.replace(other, **{field: getattr(shown, field) for field in fields})
    assert PARTS[name](mixed) == PARTS[name](shown) != PARTS[name](other)
    drawn = [DRAWN[name](each, 90, 12, SETS["braille"]) for each in (shown, mixed, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_columns_of_quality_are_there_where_there_is_something_in_them() -> None:
    assert not {"call", "kld", "top"} & set(seen(builders.state(CLEAN)).headings)
    full = seen(builders.state(CLEAN, QUICK)).headings
    assert "call" in full and not {"kld", "top"} & set(full)
    deciding = seen(fold.fold(DECIDING))
    for width, more in ((74, set()), (78, {"kld"}), (116, {"kld", "prompt", "peak"})):
        keys, _, _ = table.fitted(deciding, width, SETS["braille"])
        assert {"quant", "gen", "ppl", "delta", "call", "verdict"} | more <= set(keys)


def test_perplexities_over_different_chunks_say_over_how_many() -> None:
    shown = cells(seen(fold.fold(DECIDING)), "ppl")
    assert shown["Q8_0"].endswith("@24") and shown["Q2_K"].endswith("@16")
    assert not any("@" in text for text in cells(seen(builders.state(CLEAN)), "ppl").values())


def test_a_view_is_json() -> None:
    shown = seen(builders.state(CLEAN, SWAPPED, TO_COME))
    again = json.loads(msgspec.json.encode(shown))
    assert again["metrics"]["gen"]["value"] == shown.metrics["gen"].value


def test_charts_over_time_begin_with_the_quant_or_two_minutes_ago() -> None:
    state = builders.state(CLEAN, QUICK, TO_COME, closed=None)
    begun = next(span.start for span in state.spans if span.arm == "Q4_K_M")
    assert panels.window(state, state)[0] == max(0.0, min(begun, state.t - panels.LEAST_WINDOW))
    assert panels.window(builders.state(CLEAN, QUICK), builders.state(CLEAN, QUICK))[0] == 0
