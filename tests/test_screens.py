"""Every screen at every size, in both sets, in themes and without colour, from one recorded session at one moment; and
what hostile names do to them: nothing.

The expected screens of the monitor alone are test_app's, of the start screen test_start's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from rich.cells import cell_len
from rich.style import Style
from screens import ARMS, HOSTILE, compared, recorded, settled, stream, waited
from textual.app import App
from textual.pilot import Pilot

from quanttui import events as e
from quanttui import session
from quanttui.tui import snapshot
from quanttui.tui.app import Monitor
from quanttui.tui.screens.arm import ArmPage
from quanttui.tui.screens.over import Leave
from quanttui.tui.screens.page import Page
from quanttui.tui.snapshot import screen_text

SIZES = ("40x10", "80x24", "120x40", "200x50")

WALK = {
    "monitor": (), "quant": ("enter",), "figures": ("escape", "c"), "answers": ("tab",), "plot": ("tab",),
    "differs": ("tab",), "page help": ("question_mark",), "help": ("escape", "escape", "question_mark"),
    "palette": ("escape", "ctrl+p"), "note": ("escape", "S"), "quit": ("escape", "q"),
}  # fmt: skip
"""Every screen that is drawn of the session alone, and the keys that lead there from the one before."""


EXPECTED: dict[tuple[str, str], tuple[str, ...]] = {
    ("40x10", "ascii"): tuple(name for name in WALK if name != "monitor"),
    ("80x24", "braille"): tuple(name for name in WALK if name != "monitor"),
    ("120x40", "braille"): ("figures", "plot"),
}
"""Of which screens the text is kept in tests/snapshots; of the others its properties are looked at."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("all") / "made-up", list(stream()))


@asynccontextmanager
async def opened(folder: Path, size: str, **options: Any) -> AsyncIterator[Pilot[Any]]:
    """The monitor of a sweep of this process, at the end of the session, with nothing in it that the clock moves."""
    columns, rows = map(int, size.split("x"))
    ending = threading.Event()
    run, stop = (lambda: ending.wait(60)), ending.set
    app = Monitor(folder, "live", run, stop=stop, still=True, sessions=folder.parent, **options)
    try:
        async with app.run_test(size=(columns, rows)) as pilot:
            await settled(pilot)
            app.select("Q4_K_M")
            await settled(pilot)
            yield pilot
    finally:
        ending.set()


def picture(pilot: Pilot[Any]) -> tuple[str, str]:
    """The screen as SVG and as text."""
    app = pilot.app
    assert isinstance(app, Monitor) and app.view is not None
    svg, _, _ = snapshot.taken(app, snapshot.caption(app.folder, app.view, app.state), app.view)
    return svg, screen_text(app)


async def walked(pilot: Pilot[Any]) -> dict[str, tuple[str, str]]:
    """Every screen in turn, as SVG and as text."""
    found = {}
    for name, keys in WALK.items():
        await pilot.press(*keys)
        await settled(pilot)
        found[name] = picture(pilot)
        assert legible(pilot.app), name
    assert isinstance(pilot.app.screen, Leave)
    return found


def filled(text: str, size: str) -> bool:
    """Whether a screen has its rows, none wider than it is, and nothing that a terminal would obey."""
    columns, rows = map(int, size.split("x"))
    lines = text.split("\n")[:-1]
    return len(lines) == rows and all(cell_len(line) <= columns and line.isprintable() for line in lines)


# --- SVG ------------------------------------------------------------------------------------------------------------

_RULE = re.compile(r"\.([\w-]+-r\d+) \{ fill: (#[0-9a-f]{6})")
_TEXT = re.compile(r'<text class="([\w-]+-r\d+)"[^>]*>([^<]*)</text>')


def colours(svg: str) -> dict[str, set[str]]:
    """What is written in each colour."""
    fills = dict(_RULE.findall(svg))
    found: dict[str, set[str]] = {}
    for name, words in _TEXT.findall(svg):
        found.setdefault(fills[name], set()).add(words.replace("&#160;", " "))
    return found


def stands_alone(svg: str) -> bool:
    """Whether nothing is fetched, run or linked by an SVG."""
    told = set(re.findall(r"https?://[^\s\"'<>)]+", svg))
    allowed = {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
    return told <= allowed and not re.search(r"@font-face|@import|url\((?!#)|<script|<image|href|onload", svg)


def styles(app: App[Any]) -> set[Style]:
    """How what is seen is written."""
    strips = app.screen._compositor.render_strips()
    return {part.style for strip in strips for part in strip if part.text.strip() and part.style is not None}


def legible(app: App[Any]) -> bool:
    """Whether nothing is written in the colour of what is behind it."""
    return all(one.color is None or one.color.is_default or one.color != one.bgcolor for one in styles(app))


# --- what is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "glyphs", "theme"),
    [(size, glyphs, theme) for size in SIZES for glyphs, theme in (("braille", "dusk"), ("ascii", "paper"))],
)
async def test_every_screen_fills_its_size_in_either_set_and_is_the_expected_one(
    folder: Path, size: str, glyphs: str, theme: str
) -> None:
    async with opened(folder, size, glyphs=glyphs, theme=theme) as pilot:
        found = await walked(pilot)
    for name, (svg, text) in found.items():
        assert filled(text, size), name
        assert glyphs != "ascii" or text.isascii(), name
        assert stands_alone(svg), name
    texts = [text for _, text in found.values()]
    assert len(set(texts)) == len(texts)
    if pages := EXPECTED.get((size, glyphs)):
        compared(f"pages-{size}-{glyphs}", "".join(f"=== {name}\n{found[name][1]}" for name in pages))


async def test_themes_differ_in_colours_alone(folder: Path) -> None:
    """The words are the same; what is bad, explained, dim and plain stands in colours of its own in each theme."""
    seen = {}
    for theme in ("dusk", "paper"):
        async with opened(folder, "120x40", glyphs="braille", theme=theme) as pilot:
            seen[theme] = await walked(pilot)
    for name in WALK:
        assert seen["dusk"][name][1] == seen["paper"][name][1]
        assert set(colours(seen["dusk"][name][0])) != set(colours(seen["paper"][name][0]))
    for theme in seen:
        by_colour = colours(seen[theme]["monitor"][0])
        (bad,) = [one for one, words in by_colour.items() if any("[!!]" in word for word in words)]
        (wall,) = [one for one, words in by_colour.items() if any("[=]" in word for word in words)]
        (figure,) = [one for one, words in by_colour.items() if any(word.strip() == "8.301" for word in words)]
        assert len({bad, wall, figure}) == 3


@pytest.mark.parametrize("size", ["80x24", "120x40"])
async def test_without_colour_all_is_said_in_the_same_words_and_in_the_terminals_own(
    folder: Path, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bold, dim and reverse are left to tell apart what colours did."""
    async with opened(folder, size, glyphs="braille") as pilot:
        coloured = screen_text(pilot.app)
        assert any(one.color is not None and not one.color.is_default for one in styles(pilot.app))
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(folder, size, glyphs="braille") as pilot:
        assert screen_text(pilot.app) == coloured
        for keys in WALK.values():
            await pilot.press(*keys)
            await settled(pilot)
            found = styles(pilot.app)
            assert all(one.color is None or one.color.is_default for one in found)
            assert all(one.bgcolor is None or one.bgcolor.is_default for one in found)
            assert len({(one.bold, one.dim, one.reverse) for one in found}) > 1
            assert legible(pilot.app) and stands_alone(picture(pilot)[0])


@pytest.mark.parametrize("size", SIZES)
async def test_the_list_of_sessions_fills_its_size_and_names_them(folder: Path, size: str) -> None:
    async with opened(folder, size, glyphs="ascii") as pilot:
        await pilot.press("w")
        await waited(pilot, lambda: "! interrupted  made-up" in screen_text(pilot.app))
        svg, text = picture(pilot)
        assert filled(text, size) and text.isascii() and stands_alone(svg)
        await pilot.press("d")
        await settled(pilot)
        assert "is being watched here" in " ".join(screen_text(pilot.app).split())


@pytest.mark.parametrize("size", SIZES)
async def test_help_and_the_way_back_are_in_every_pages_last_line(folder: Path, size: str) -> None:
    """And no key is cut in two."""
    async with opened(folder, size, glyphs="braille") as pilot:
        for key in ("enter", "c", "w"):
            await pilot.press(key)
            await settled(pilot)
            page = pilot.app.screen
            assert isinstance(page, Page)
            last = screen_text(pilot.app).splitlines()[-1]
            assert last.endswith("esc back ? help") or last.endswith("esc back  ? help")
            words = [f"{key} {word}" for key, word, _ in page.KEYS] + ["space freeze", "←→ time", "esc back", "? help"]
            assert " ".join(last.split()) == " ".join(one for one in words if f" {one}" in last)
            await pilot.press("escape")


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (300, 90)])
async def test_no_size_is_refused_by_any_screen(folder: Path, size: tuple[int, int]) -> None:
    async with opened(folder, f"{size[0]}x{size[1]}") as pilot:
        for name, (_, text) in (await walked(pilot)).items():
            assert filled(text, f"{size[0]}x{size[1]}"), name


def lines_of(page: Page) -> list[Any]:
    """What a page draws between header and footer."""
    return page.body(page.size.width, max(1, page.size.height - 3))


# --- hostile names --------------------------------------------------------------------------------------------------

FILES = ("\x1b[31mred", "[red]x[/red]", "\u202eabc\u2066", "日本語" * 12, "a" * 120)
"""Names that a file system takes."""


def hostile(folder: Path) -> Path:
    """A session in which all that comes from elsewhere is hostile: model, host, quants, files, errors, stderr, answers,
    notes."""
    arms = [
        builders.Arm(
            arm.quant, id=name, chunks=8, error=name, fails=arm.fails, label_note=name, imatrix=name,
            answers={text: (name if place else text, place == 0) for text in HOSTILE[:3]}, ppl=8 + place / 10,
            stderr=(name,), kld=0.01 * place or None,
        )
        for place, (name, arm) in enumerate(zip(HOSTILE, ARMS[:3] * 2, strict=False))
    ]  # fmt: skip
    asked = builders.settings(prompt=64, tasks=("speed", "ppl", "kld", "prompts"))
    about = builders.host(name=HOSTILE[0], cpu=HOSTILE[1], os=HOSTILE[2])
    events: list[Any] = builders.events(*arms, closed=None, notes=HOSTILE, host=about, settings=asked)
    events[0] = msgspec.structs.replace(events[0], model=" ".join(HOSTILE))
    lost = e.ProbeLost(probe=HOSTILE[1], why=HOSTILE[0], t=events[-1].t, n=events[-1].n + 1)
    made = recorded(folder, [*events, lost])
    for name in HOSTILE:
        path = session.part(made, "stderr", f"{name[:100]}.txt")
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(HOSTILE), encoding="utf-8")
    return made


@pytest.mark.parametrize("size", SIZES)
async def test_hostile_names_print_nothing_odd_on_any_screen(tmp_path: Path, size: str) -> None:
    folder = hostile(tmp_path / FILES[0])
    for name in FILES[1:]:
        recorded(tmp_path / name, list(stream()[:40]))
    seen = []
    async with opened(folder, size, glyphs="braille") as pilot:
        app = pilot.app
        assert isinstance(app, Monitor)
        app.select(HOSTILE[1])
        seen += [text for _, text in (await walked(pilot)).values()]
        await pilot.press("escape", "enter")
        page = app.screen
        assert isinstance(page, ArmPage)
        for name in HOSTILE:
            page.arm, page.top = name, 0
            page.follow(page.scene)
            while True:
                seen.append("\n".join("".join(part for part, _ in line) for line in lines_of(page)))
                before = page.top
                page.action_scroll_pages(1)
                if page.top == before:
                    break
        await pilot.press("escape", "c", "a", "b")
        seen.append(screen_text(app))
        await pilot.press("tab", "full_stop")
        seen.append(screen_text(app))
        await pilot.press("escape", "w")
        await waited(pilot, lambda: "reading the sessions" not in screen_text(app))
        for key in ("pageup", "d", "n", "j", "d", "n", "j", "d", "n", "j", "d", "y"):
            await pilot.press(key)
            seen.append(screen_text(app))
    columns = int(size.split("x")[0])
    assert all(line.isprintable() and cell_len(line) <= columns for text in seen for line in text.split("\n"))
    assert size == "40x10" or any("[red]x[/red]" in text for text in seen)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == len(FILES) - 1, "one of them was deleted"
