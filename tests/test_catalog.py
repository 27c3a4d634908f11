"""The list of sessions: what it says of each, what may be deleted, and that it fits any screen."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from quanttui.session import Info
from quanttui.tui import catalog, theming
from quanttui.tui.catalog import Catalog, Weight
from quanttui.tui.glyphs import SETS, Glyphs
from quanttui.tui.widgets import catalog as widget

GOLDEN = Path(__file__).parent / "snapshots"
BRAILLE = SETS["braille"]
FOLDER = "/home/someone/sessions"


def info(name: str = "2026-01-12-llama31-8b", state: str = "done", **changes: Any) -> Info:
    made = Info(Path(FOLDER) / name, name, "Llama-3.1-8B-Instruct", state, 1.7682e9, 12, 12, 4711.0)
    return msgspec.structs.replace(made, **changes)


SESSIONS = (
    info(),
    info("2026-01-13-llama31-8b-instruct", "running", wall=1.7683e9, arms_done=4, seconds=2482.0),
    info("2026-01-11-qwen3-4b", "interrupted", wall=1.7681e9, arms_done=7, model="Qwen3-4B"),
    info("2026-01-10", "empty", wall=0.0, arms=0, arms_done=0, seconds=0.0, model=""),
)
HOSTILE = ["\x1b[31mred\x1b[0m", "[red]x[/red]", "\u202eabc", "日本語" * 40, "a" * 300, "one\ntwo\x85"]


def listed(found: Any = SESSIONS, **options: Any) -> Catalog:
    return catalog.of(found, FOLDER, local=time.gmtime, **options)


def text(line: Any) -> str:
    return "".join(part for part, _ in line)


def drawn(one: Catalog, width: int, height: int, used: Glyphs = BRAILLE) -> list[str]:
    return [text(line) for line in widget.draw(one, width, height, used)]


@pytest.mark.parametrize("size", ["40x10", "80x24", "120x40"])
def test_the_list_is_the_expected_one(size: str) -> None:
    """The files in tests/snapshots are written anew with QUANTTUI_TEST_REGENERATE=1, to be read before kept."""
    width, height = map(int, size.split("x"))
    asked = catalog.question(SESSIONS[0], Weight(12_345_678, 3))
    shown = "\n".join(line.rstrip() for line in drawn(listed(selected=catalog.key(SESSIONS[0]), asked=asked), width,
                                                      height)) + "\n"  # fmt: skip
    path = GOLDEN / f"sessions-{size}-braille.txt"
    if os.environ.get("QUANTTUI_TEST_REGENERATE"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


# --- what it says ---------------------------------------------------------------------------------------------------


def test_the_newest_stands_first_whatever_the_order_was() -> None:
    names = [row.cells["name"][0] for row in listed(SESSIONS).rows]
    assert names == [row.cells["name"][0] for row in listed(tuple(reversed(SESSIONS))).rows]
    assert names == ["2026-01-13-llama31-8b-instruct", "2026-01-12-llama31-8b", "2026-01-11-qwen3-4b", "2026-01-10"]


@pytest.mark.parametrize(
    ("state", "said"),
    [("running", "▶ running"), ("done", "✓ done"), ("interrupted", "! interrupted"), ("empty", "· empty")],
)
def test_a_state_is_a_glyph_and_a_word(state: str, said: str) -> None:
    shown = listed([info(state=state)])
    assert shown.rows[0].cells["state"][0] == said
    assert said in drawn(shown, 80, 10)[2]


def test_what_is_not_known_is_a_dot_and_no_nought() -> None:
    cells = listed(SESSIONS).rows[-1].cells
    assert [cells[name][0] for name in ("model", "quants", "took", "when")] == ["·"] * 4


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_moment_is_too_strange_to_be_listed(wall: float) -> None:
    assert listed([info(wall=wall)]).rows[0].cells["when"][0]


def test_an_empty_list_says_how_to_come_by_a_session() -> None:
    lines = drawn(listed(()), 80, 10)
    assert "none yet" in lines[0] and "quanttui demo" in lines[-1]
    assert listed(()).selected == "" and catalog.moved((), "x", 1) == ""


def test_the_place_of_the_selected_session_stands_at_the_foot() -> None:
    key = catalog.key(SESSIONS[2])
    shown = listed(selected=key)
    assert shown.selected == key and drawn(shown, 80, 10)[-1].strip() == f"{FOLDER}/2026-01-11-qwen3-4b"
    gone = listed(selected="/nowhere")
    assert gone.selected == catalog.key(SESSIONS[1])


def test_moving_goes_by_the_rows_and_holds_at_the_ends() -> None:
    keys = [row.id for row in listed().rows]
    assert [catalog.moved(SESSIONS, keys[0], by) for by in (-1, 0, 1, 2, 9)] == [
        keys[0], keys[0], keys[1], keys[2], keys[3]
    ]  # fmt: skip
    assert catalog.moved(SESSIONS, "/nowhere", 0) == keys[0]
    assert catalog.chosen(SESSIONS, keys[1]) == SESSIONS[0] and catalog.chosen(SESSIONS, "/nowhere") is None


# --- deleting -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["events.jsonl", "raw/Q8_0.nll", "stderr/x.txt"]), st.integers(0, 10**9))))
def test_what_is_lost_is_all_bytes(listing: list[tuple[str, int]]) -> None:
    assert catalog.weigh(listing) == Weight(sum(count for _, count in listing), 0)


def test_the_files_of_one_snapshot_are_one() -> None:
    files = ["001.svg", "001.txt", "001.json", "second.look.svg", "second.look.txt"]
    assert catalog.weigh([(f"snapshots/{name}", 10) for name in files]) == Weight(50, 2)
    assert catalog.weigh([("snapshots", 10), ("raw/001.svg", 10)]).snapshots == 0


def test_the_question_names_the_session_and_what_goes_with_it() -> None:
    said, _ = catalog.question(SESSIONS[0], Weight(12 << 20, 3))
    assert said == "delete 2026-01-12-llama31-8b, 12.0 MiB, 3 snapshots? y/n"
    assert catalog.question(SESSIONS[0], Weight(5, 1))[0].endswith("5.00 B, 1 snapshot? y/n")
    assert "snapshot" not in catalog.question(SESSIONS[0], Weight(5, 0))[0]


def test_only_a_running_session_is_not_asked_about() -> None:
    refused = [one.state for one in SESSIONS if catalog.refusal(one) is not None]
    assert refused == ["running"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_question_is_never_cut(width: int) -> None:
    asked = catalog.question(info("x" * 70), Weight(12 << 20, 3))
    lines = drawn(listed(asked=asked), width, 24)
    assert "".join("".join(lines).split()).endswith("".join(asked[0].split()))


# --- how it is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", SETS.values(), ids=str)
@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (120, 40), (200, 50)])
def test_hostile_names_never_leave_their_cells(words: str, width: int, height: int, used: Glyphs) -> None:
    odd = info(words, model=words, state=words)
    one = listed((*SESSIONS, odd), selected=catalog.key(odd), asked=catalog.question(odd, Weight(1, 1)))
    for shown in (one, catalog.of((odd,), words)):
        lines = drawn(shown, width, height, used)
        assert [cell_len(line) for line in lines] == [width] * height
        assert all(line.isprintable() for line in lines)
        assert not used.plain or all(line.isascii() for line in lines)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_any_size_is_filled_and_the_selected_row_is_in_sight(
    width: int, height: int, count: int, here: int, asks: bool
) -> None:
    many = [info(f"s{k:02}", wall=1e9 - k) for k in range(count)]
    key = catalog.key(many[here]) if here < count else ""
    asked = catalog.question(many[here], Weight(1, 1)) if asks and here < count else ("", "dim")
    one = listed(many, selected=key, asked=asked)
    lines = widget.draw(one, width, height, BRAILLE)
    assert [cell_len(text(line)) for line in lines] == [width] * height
    marked = [line for line in lines if line and all(role.endswith("+") for _, role in line)]
    assert len(marked) <= 1
    if count and height >= 4 and (width >= 60 or not asks):
        assert len(marked) == 1


def test_a_click_hits_the_row_that_is_drawn_there() -> None:
    many = [info(f"s{k:02}", wall=1e9 - k) for k in range(40)]
    one = listed(many, selected=catalog.key(many[20]))
    lines = drawn(one, 80, 24)
    hits = [widget.row_at(one, y, 80, 24, BRAILLE) for y in range(24)]
    for line, hit in zip(lines[:-1], hits, strict=False):
        assert bool(hit) == (line.strip().startswith("✓"))
        assert not hit or Path(hit).name in line
    assert hits[-1] == ""


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_state_and_name_are_always_there(width: int) -> None:
    widths = widget.fitted(listed(), width - 2, BRAILLE)
    assert {"state", "name"} <= set(widths) and widths["name"] >= 20
    assert sum(widths.values()) + 2 * (len(widths) - 1) <= width - 2


def test_every_role_is_a_themes() -> None:
    lines = widget.draw(listed(asked=catalog.question(SESSIONS[0], Weight(1, 1))), 120, 20, BRAILLE)
    assert {role.rstrip("+") for line in lines for _, role in line} <= {"", *theming.COLOURS}
