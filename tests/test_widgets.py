"""What sheets, charts, the table and the layout draw, without an app: by lines and their text."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from quanttui import paths
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.series import Series
from quanttui.tui import glyphs, keys, layout, theming, trace
from quanttui.tui.glyphs import SETS
from quanttui.tui.parts import Line, Row, Share
from quanttui.tui.terminal import Outlet
from quanttui.tui.theming import tomllib
from quanttui.tui.trace import Trace
from quanttui.tui.widgets import bars, chart, panel, sheet, table

GLYPHS = st.sampled_from(sorted(SETS)).map(SETS.__getitem__)
VALUES = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=80).map(tuple)
TEXT = st.text(max_size=60).map(clean)
SPANS = st.lists(st.tuples(TEXT, st.sampled_from(["text", "dim"])), max_size=5).map(tuple)


def text(line: Sequence[tuple[str, str]]) -> str:
    return "".join(part for part, _ in line)


# --- charts ---------------------------------------------------------------------------------------------------------


@given(VALUES, VALUES, st.booleans(), st.integers(1, 50), st.integers(1, 8), GLYPHS)
def test_a_chart_is_exactly_as_large_as_asked_whatever_its_values(
    values: trace.Columns, ghost: trace.Columns, area: bool, width: int, height: int, used: glyphs.Glyphs
) -> None:
    low, high = (0.0, trace.ceiling(values)) if area else trace.bounds(values)
    drawn = chart.plot(Trace(values, ghost, area, low, high), width, height, used, "speed")
    assert len(drawn) == height
    assert all(cell_len(text(line)) == width for line in drawn)
    if used.plain:
        assert all(text(line).isascii() for line in drawn)


@given(st.lists(st.none() | st.floats(0, 100), min_size=2, max_size=60), st.booleans(), GLYPHS)
def test_a_break_is_blank_and_a_value_is_not(values: list[float | None], area: bool, used: glyphs.Glyphs) -> None:
    """A zero is a value: it has its lowest dot."""
    raster = used.area if area else used.curve
    values = values[: len(values) // raster.across * raster.across]
    width = len(values) // raster.across
    if not width:
        return
    drawn = chart.plot(Trace(tuple(values), (), area, 0.0, 100.0), width, 4, used, "speed")
    for cell in range(width):
        column = "".join(text(line)[cell] for line in drawn)
        known = [value for value in values[cell * raster.across : (cell + 1) * raster.across] if value is not None]
        assert bool(column.strip()) == bool(known)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=40))
def test_areas_stand_on_zero(values: list[float]) -> None:
    """Every column is filled from the bottom up to its value, in proportion."""
    drawn = chart.plot(Trace(tuple(values), (), True, 0.0, 100.0), len(values), 4, SETS["block"], "memory")
    for cell, value in enumerate(values):
        column = [text(line)[cell] for line in reversed(drawn)]
        filled = sum(" ▁▂▃▄▅▆▇█".index(char) for char in column)
        assert filled == min(32, int(value / 100 * 32) + 1)
        assert "".join(column).rstrip() == "".join(column).replace(" ", "")


def test_a_curve_is_joined_but_not_across_a_break() -> None:
    drawn = chart.plot(Trace((0.0, 100.0, None, 0.0), (), False, 0.0, 100.0), 4, 4, SETS["ascii"], "speed")
    columns = ["".join(text(line)[cell] for line in drawn) for cell in range(4)]
    assert columns[1].replace("'", "|") == "||||"[: len(columns[1])]
    assert columns[2].strip() == ""
    assert columns[3].rstrip("\n").strip() == "."


def test_a_ghost_is_dotted_behind_the_values() -> None:
    drawn = chart.plot(Trace((5.0,) * 8, (9.0,) * 8, False, 0.0, 10.0), 4, 4, SETS["braille"], "speed")
    assert {role for line in drawn for part, role in line if part.strip()} == {"speed", "ghost"}


def test_the_newest_columns_stay_where_not_all_fit() -> None:
    drawn = chart.plot(Trace((None,) * 10 + (1.0, 1.0), (), True, 0.0, 1.0), 1, 1, SETS["braille"], "speed")
    assert text(drawn[0]) == "⣿"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(8, 120))
def test_every_column_over_time_is_whole_bins(values: list[float], columns: int) -> None:
    """Column edges are multiples of the bin's width, and every value lies in exactly one of them."""
    series = Series(width=0.5)
    for index, value in enumerate(values):
        series.add(index * 0.25, value)
    now = (len(values) - 1) * 0.25
    drawn = trace.over_time(series, now, 0.0, columns, 0.5)
    assert len(drawn.values) <= columns
    assert drawn.width % series.width == 0 and drawn.start % drawn.width == 0
    assert drawn.start <= now < drawn.start + len(drawn.values) * drawn.width
    assert drawn.start == 0
    assert drawn.high >= max(trace.finite(drawn.values)) - 1e-12


@given(st.integers(1, 3000), st.integers(2, 240))
def test_a_curve_over_tokens_never_has_more_columns_than_there_are(count: int, columns: int) -> None:
    series = Series(width=1.0)
    for index in range(count):
        series.add(index, 1.0 + index % 7)
    drawn = trace.over_progress(series, None, count, columns)
    assert columns / 2 <= len(drawn.values) <= columns or count < 2
    assert all(value is not None for value in drawn.values)
    assert math.log2(drawn.width) % 1 == 0


def test_a_past_column_never_changes_while_time_goes_on() -> None:
    """Until the width doubles, and then a new column is the two old ones."""
    series, source = Series(width=0.5), random.Random(3)
    before: Trace | None = None
    for step in range(400):
        t = step * 0.25
        series.add(t, source.random())
        now = trace.over_time(series, t, 0.0, 60, 0.5)
        if before is not None and (now.width, now.start) == (before.width, before.start):
            assert now.values[: len(before.values) - 1] == before.values[:-1]
        before = now


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), max_size=50))
def test_ranges_are_numbers_that_hold_all_values(values: list[float | None]) -> None:
    low, high = trace.bounds(values)
    known = trace.finite(values)
    assert low < high or not math.isfinite(high - low)
    usual = [value for value in known if abs(value) < 1e300]
    slack = 1e-9 * max(map(abs, usual), default=0.0)
    for value in usual:
        assert low - slack <= value <= high + slack
    assert trace.ceiling(values) >= 0


def test_a_gap_that_a_slow_token_explains_is_closed_and_another_is_not() -> None:
    slow = Trace((1.0, None, None, 0.5, None, None, None, None, 4.0), width=1.0)
    assert trace.joined(slow, lambda rate: 1.5 / rate).values == (1.0, 0.5, 0.5, 0.5, None, None, None, None, 4.0)


# --- lines ----------------------------------------------------------------------------------------------------------


@given(SPANS, SPANS, st.integers(0, 60), GLYPHS)
def test_a_line_with_two_ends_is_exactly_as_wide_as_asked(
    left: Line, right: Line, width: int, used: glyphs.Glyphs
) -> None:
    assert cell_len(text(sheet.sides(left, right, width, used))) == width


@given(SPANS, st.integers(0, 60))
def test_cropped_spans_are_exactly_as_wide_as_asked(spans: Line, width: int) -> None:
    assert cell_len(text(sheet.crop(spans, width))) == width


@given(TEXT, st.integers(0, 40), st.booleans())
def test_a_padded_text_is_exactly_as_wide_as_asked(words: str, width: int, right: bool) -> None:
    assert cell_len(sheet.pad(words, width, right)) == width


@given(SPANS, st.integers(8, 60), st.integers(0, 4))
def test_wrapped_lines_hold_every_word_within_the_width(spans: Line, width: int, indent: int) -> None:
    spans = tuple((" ".join(part.split()) + " ", role) for part, role in spans)
    lines = bars.wrap(spans, width, indent)
    assert " ".join(text(spans).split()) == " ".join(" ".join(text(line) for line in lines).split())
    for line in lines:
        longest = max((cell_len(word) for word in text(line).split()), default=0)
        assert cell_len(text(line).rstrip()) <= max(width, longest + indent)


@given(st.lists(st.tuples(st.sampled_from("abc "), st.sampled_from(["", "dim"])), min_size=1, max_size=30), st.data())
def test_only_cells_that_differ_are_painted_again(old: list[tuple[str, str]], data: st.DataObject) -> None:
    """The stretch named is the smallest one outside of which both lines are the same."""
    new = list(old)
    touched = data.draw(st.sets(st.integers(0, len(old) - 1), max_size=3))
    for index in touched:
        new[index] = ("X", "bad")
    found = sheet.changed(tuple(old), tuple(new), len(old))
    assert found == ((min(touched), max(touched) + 1) if touched else None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 80))
def test_the_parts_of_a_bar_are_in_proportion_and_none_is_lost(sizes: list[float], width: int) -> None:
    whole = sum(sizes) or 1.0
    shares = [Share(size / whole, sign, sign) for size, sign in zip(sizes, "abcde", strict=False)]
    drawn = text(panel.bar(shares, width, SETS["braille"]))
    assert len(drawn) <= width
    if width >= 5 * len(shares):
        for share in shares:
            assert abs(drawn.count(share.sign) - share.share * width) <= len(shares)
            assert (share.share > 0) <= (share.sign in drawn)


def test_a_sheet_without_an_app_shows_what_it_draws() -> None:
    shown = sheet.Sheet(lambda view, width, height, used: [((f"{width}x{height}", "text"),)])
    shown.extent = (10, 2)
    shown.show(None)  # type: ignore[arg-type]
    assert shown.render_line(0).text == "10x2      "
    assert shown.render_line(1).text == " " * 10


@given(st.text(), GLYPHS)
def test_no_control_character_gets_through_to_the_terminal(words: str, used: glyphs.Glyphs) -> None:
    """Even if somebody forgot to clean a text."""
    assert used.text(words).isprintable()


@pytest.mark.parametrize(
    "hostile", ["\x1b[31mred\x1b[0m", "[red]x[/red]", "\u202eabc", "日本語" * 9, "a" * 300, "e\u0301"]
)
@pytest.mark.parametrize("used", SETS.values(), ids=str)
def test_hostile_text_is_shown_within_its_cells_and_not_obeyed(hostile: str, used: glyphs.Glyphs) -> None:
    line = sheet.sides(((clean(hostile), "text"),), ((clean(hostile), "dim"),), 40, used)
    assert cell_len(text(line)) == 40
    assert "\x1b" not in text(line) and "\u202e" not in text(line)
    if hostile.startswith("[red]"):
        assert "[red]x[/red]" in text(line)


# --- the table ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 29), st.integers(2, 30))
def test_the_selected_row_is_always_in_sight(count: int, chosen: int, height: int) -> None:
    rows = [Row(str(index), {}) for index in range(count)]
    first, last = table.window(rows, str(chosen), height)
    assert 0 <= first <= last <= count and last - first <= height
    if chosen < count:
        assert first <= chosen < last


# --- glyphs, keys, layout, outlet --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "term", "encoding", "expected"),
    [
        ("auto", "xterm-256color", "UTF-8", "braille"),
        ("auto", "xterm-256color", "ANSI_X3.4-1968", "ascii"),
        ("auto", "xterm-256color", "no such encoding", "ascii"),
        ("auto", "linux", "UTF-8", "ascii"),
        ("auto", "dumb", "UTF-8", "ascii"),
        ("block", "linux", "ascii", "block"),
        ("ascii", "xterm", "UTF-8", "ascii"),
    ],
)
def test_glyphs_are_chosen_by_option_then_by_evidence(option: str, term: str, encoding: str, expected: str) -> None:
    assert glyphs.choose(option, {"TERM": term}, encoding).name == expected


def test_an_unknown_glyph_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--glyphs ansi: .*braille, block, ascii"):
        glyphs.choose("ansi", {})


def test_all_sets_are_of_one_shape() -> None:
    for one in SETS.values():
        assert one.area.across == one.curve.across
        for raster in (one.area, one.curve):
            assert len(raster.chars) == 1 << raster.across * raster.up
            assert all(cell_len(char) == 1 for char in raster.chars)


def test_ascii_has_a_sign_for_every_sign_of_the_screen() -> None:
    """A question mark would be a sign that was forgotten."""
    signs = "✓✗▶◐●·…±Δ→←×≥≤–−█▌░▒▓─│╭╮╰╯╟╢╫"
    assert SETS["ascii"].text(signs).isascii() and "?" not in SETS["ascii"].text(signs)


@given(st.integers(0, 400))
def test_the_footer_fits_and_quit_leaves_last(width: int) -> None:
    kept = keys.footer(width)
    assert sum(len(key) + len(word) + 1 + keys.gap(width) for key, word in kept) <= width
    if kept:
        assert ("q", "quit") in kept
    if width >= 240:
        assert len(kept) == sum(action.priority > 0 for action in keys.ACTIONS)


def test_no_key_stands_for_two_actions() -> None:
    bound = [key for action in keys.ACTIONS for key in action.keys]
    assert len(bound) == len(set(bound))


@given(st.integers(1, 300), st.integers(1, 120), st.integers(0, 40))
def test_places_fill_the_screen_and_never_overlap(width: int, height: int, quants: int) -> None:
    taken: set[tuple[int, int]] = set()
    for place in layout.places(width, height, quants).values():
        cells = {(x, y) for x in range(place.x, place.x + place.width) for y in range(place.y, place.y + place.height)}
        assert cells and not cells & taken
        taken |= cells
    assert taken == {(x, y) for x in range(width) for y in range(height)}


class Stuck:
    """A terminal that takes nothing until it is let go, or fails."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.fails = False
        self.taken = ""

    def write(self, words: str) -> None:
        self.free.wait(10)
        if self.fails:
            raise OSError(5, "gone")
        self.taken += words

    def flush(self) -> None:
        pass


def test_a_stalled_terminal_holds_nobody_up_and_loses_nothing() -> None:
    terminal = Stuck()
    outlet = Outlet(terminal)  # type: ignore[arg-type]
    outlet.start()
    for index in range(100):
        outlet.write(f"{index} ")
    assert outlet.backlog > 0
    terminal.free.set()
    outlet.stop(10)
    assert terminal.taken == "".join(f"{index} " for index in range(100))
    assert (outlet.written, outlet.backlog) == (len(terminal.taken), 0)


def test_a_terminal_that_is_gone_is_written_to_no_more() -> None:
    terminal = Stuck()
    terminal.fails = True
    outlet = Outlet(terminal)  # type: ignore[arg-type]
    outlet.start()
    outlet.write("first")
    terminal.free.set()
    outlet.stop(10)
    outlet.write("later")
    assert outlet.gone and outlet.backlog == 0


# --- themes ---------------------------------------------------------------------------------------------------------


def shipped() -> list[Path]:
    return sorted(paths.shipped().joinpath("themes").glob("*.toml"))


def test_four_themes_are_shipped_and_all_are_right() -> None:
    themes, wrong = theming.load([paths.shipped() / "themes"])
    assert wrong == []
    assert {"dusk", "paper", "blue-orange", "ansi"} <= set(themes)
    assert not themes["paper"].dark and themes["ansi"].ansi


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_theme_names_every_colour(path: Path) -> None:
    assert set(tomllib.loads(path.read_text())["colours"]) == set(theming.COLOURS)


def test_the_default_theme_is_the_one_that_is_shipped() -> None:
    path = next(path for path in shipped() if path.stem == theming.DEFAULT)
    assert tomllib.loads(path.read_text())["colours"] == theming.COLOURS


def test_blue_orange_tells_good_from_bad_without_red_and_green() -> None:
    themes, _ = theming.load([paths.shipped() / "themes"])
    chosen = themes["blue-orange"]
    assert (chosen.colours["ok"], chosen.colours["warn"], chosen.colours["bad"]) == ("#56b4e9", "#e69f00", "#d55e00")
    assert chosen.palette()["bad"].bold


def test_every_theme_has_a_style_for_every_role_and_its_selected_row() -> None:
    for theme in theming.load([paths.shipped() / "themes"])[0].values():
        palette = theme.palette()
        for role in ("", *theming.COLOURS):
            assert {role, f"{role}+"} <= set(palette)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[colours]\nbad = 'reddish'", "mine.toml: colours.bad: must be #rrggbb"),
        ("[colours]\ncheeks = 'red'", "mine.toml: colours.cheeks: no such colour"),
        ("[colours]\nbad = 3", "mine.toml: colours.bad: must be"),
        ("colour = 1", "mine.toml: colour: no such key"),
        ("dark = 'yes'", "mine.toml: dark: must be true or false"),
        ("name = ''", "mine.toml: name: must be a short text"),
        ("name = [", "mine.toml: "),
        ("colours = 3", "mine.toml: colours: must be a table"),
    ],
)
def test_a_bad_theme_file_is_a_sentence_that_names_file_and_key(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "mine.toml").write_text(content)
    themes, wrong = theming.load([tmp_path])
    assert list(themes) == [theming.DEFAULT]
    assert len(wrong) == 1 and wrong[0].startswith(said)


def test_a_users_theme_takes_what_it_leaves_out_from_the_default(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[colours]\nbad = '#ff0000'")
    themes, wrong = theming.load([tmp_path])
    assert wrong == [] and themes["mine"].palette()["ok"] == themes["dusk"].palette()["ok"]
