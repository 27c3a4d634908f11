"""Every key of the registry, of pages, questions and the palette does what its words say, and no other key anything."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from screens import alive, recorded, settled, stream, waited
from textual.binding import BindingsMap
from textual.pilot import Pilot

from quanttui import events as e
from quanttui import flags, session, transport
from quanttui.summary import summarize
from quanttui.tui import keys, layout, view
from quanttui.tui.app import QUIT, STOP, Monitor
from quanttui.tui.screens.arm import ArmPage
from quanttui.tui.screens.compare import VIEWS, ComparePage
from quanttui.tui.screens.monitor import MonitorScreen
from quanttui.tui.screens.over import Ask, Help, Leave, Palette, Sure
from quanttui.tui.screens.page import Page
from quanttui.tui.screens.sessions import SessionsPage
from quanttui.tui.screens.start import Start
from quanttui.tui.snapshot import screen_text

BY_ID = {action.id: action for action in keys.ACTIONS}
LAST = stream()[-1].t
PAGES = {"": MonitorScreen, "enter": ArmPage, "c": ComparePage, "w": SessionsPage}
"""The screens that follow the cursor, by the key that opens them from the monitor."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A session whose sweep runs, for all that a viewer can tell, among others."""
    recorded(tmp_path / "other", builders.events(builders.Arm("Q8_0"), builders.Arm("Q4_K_M", ppl=8.3)))
    return recorded(tmp_path / "s", alive(stream()))


def watching(folder: Path, **options: Any) -> Monitor:
    return Monitor(folder, "attach", glyphs="braille", sessions=folder.parent, **options)


async def stand(pilot: Pilot[Any], t: float | None) -> None:
    """Have the cursor stand still at a moment, or follow the tail."""
    app = pilot.app
    assert isinstance(app, Monitor)
    app._go(transport.Cursor(t))
    if not app.settled:
        await settled(pilot)


# --- the time cursor, on every screen that follows it ---------------------------------------------------------------


def placed(app: Monitor) -> tuple[float | None, bool, float]:
    return app.cursor.t, app.cursor.playing, app.cursor.speed


def edge(edges: Callable[[Any], list[float]], here: float, forward: bool) -> float:
    found = transport.neighbour(edges(builders.fold.fold(stream())), here, forward)
    assert found is not None
    return found


HERE = LAST / 2
MOVES: dict[str, float] = {
    "earlier": HERE - 5,
    "later": HERE + 5,
    "far_earlier": HERE - 50,
    "far_later": HERE + 50,
    "previous_phase": edge(transport.phases, HERE, False),
    "next_phase": edge(transport.phases, HERE, True),
    "previous_turn": edge(transport.quants, HERE, False),
    "next_turn": edge(transport.quants, HERE, True),
    "first": 0.0,
    **{f"tenth({tenth})": LAST * tenth / 10 for tenth in range(10)},
}
"""Where an action moves the cursor to from the middle of the session."""

OTHERS = {
    "freeze", "last", "faster", "slower", "next_flag", "previous_flag", "snapshot", "annotate", "theme", "palette",
    "help",
}  # fmt: skip


def test_every_action_that_works_everywhere_is_tried_everywhere() -> None:
    assert {one.id for one in keys.ACTIONS if one.scope == keys.EVERYWHERE} == {*MOVES, *OTHERS}


@pytest.mark.parametrize("opened", PAGES)
async def test_on_every_screen_each_key_of_the_time_cursor_moves_it_as_said(folder: Path, opened: str) -> None:
    app = watching(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        app.select("Q4_K_M")
        await pilot.press(*opened.split())
        assert type(app.screen) is PAGES[opened]
        for name, expected in MOVES.items():
            for key in BY_ID[name].keys:
                await stand(pilot, HERE)
                await pilot.press(key)
                assert placed(app) == (pytest.approx(expected, abs=1e-6), False, 1.0), key
                assert type(app.screen) is PAGES[opened]
        await settled(pilot)
        assert app.cursor.t is not None and app.state.t <= app.cursor.t
        for key in BY_ID["last"].keys:
            await stand(pilot, HERE)
            await pilot.press(key)
            assert app.cursor.mode == transport.LIVE, key
        await settled(pilot)
        await pilot.press("space")
        assert app.cursor.mode == transport.FROZEN and app.cursor.t == app.state.t
        assert "FROZEN" in screen_text(app)
        await pilot.press("space")
        assert app.cursor.mode == transport.LIVE


@pytest.mark.parametrize("opened", ["", "enter"])
async def test_plus_and_minus_play_from_where_the_cursor_stands_within_their_bounds(folder: Path, opened: str) -> None:
    app = watching(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*opened.split(), "plus")
        assert app.cursor.mode == transport.LIVE
        for faster, slower in zip(BY_ID["faster"].keys, BY_ID["slower"].keys * 2, strict=True):
            await stand(pilot, 1.0)
            speeds = []
            for key in [faster] * 4 + [slower] * 7:
                await pilot.press(key)
                speeds.append(app.cursor.speed)
                assert app.cursor.playing
            assert speeds == [1, 2, 4, 8, 4, 2, 1, 0.5, 0.25, 0.25, 0.25]
        await stand(pilot, 0.0)
        app._go(msgspec.structs.replace(app.cursor, speed=32.0, playing=True))
        await pilot.press("plus", "plus")
        assert app.cursor.speed == 64
        await pilot.press("space")
        assert not app.cursor.playing and app.cursor.t is not None


@pytest.mark.parametrize("opened", ["", "enter"])
async def test_n_goes_from_flag_to_flag_and_back_each_with_its_quant_and_words(folder: Path, opened: str) -> None:
    known = flags.doubtful(tail := builders.fold.fold(stream()), summarize(tail))
    assert len(known) > 1
    app = watching(folder)
    async with app.run_test(size=(200, 50)) as pilot:
        await settled(pilot)
        app.select("Q8_0")
        await pilot.press(*opened.split())
        await stand(pilot, 0.0)
        there = []
        for one in known:
            await pilot.press("n")
            await settled(pilot)
            assert app.cursor.t is None or one.t - 1e-6 <= app.cursor.t <= max(one.t, one.until) + 1
            assert app._notice.endswith(one.text) and app.chosen == (one.arm or app.chosen)
            there.append(app.cursor.t)
        await pilot.press("n")
        assert "no later flag" in app._notice and app.cursor.t == there[-1]
        for t in reversed(there[:-1]):
            await pilot.press("N")
            await settled(pilot)
            assert app.cursor.t == t
        await pilot.press("N")
        assert "no earlier flag" in app._notice


# --- snapshot, theme, help, palette: everywhere ---------------------------------------------------------------------


@pytest.mark.parametrize("opened", PAGES)
async def test_on_every_screen_s_saves_it_t_changes_colours_and_help_and_palette_open(
    folder: Path, opened: str
) -> None:
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.select("Q4_K_M")
        await pilot.press(*opened.split())
        await waited(pilot, lambda: "reading the sessions" not in screen_text(app))
        await stand(pilot, HERE)
        await pilot.press("s")
        (text,) = folder.glob("snapshots/*.txt")
        inside = {"": "perplexity", "enter": "─ quant ─", "c": "figures against Q8_0", "w": "2 sessions"}[opened]
        assert inside in text.read_text()
        assert {path.suffix for path in folder.glob("snapshots/*")} == {".svg", ".txt", ".json"}
        before = app.theme
        await pilot.press("t")
        assert app.theme != before
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help) and " help " in screen_text(app)
        everywhere = "\n".join("".join(part for part, _ in line) for line in app.screen.every(72, app._glyphs))
        assert ("in a fresh" in everywhere) == (not opened)
        if opened:
            page = app.screen_stack[-2]
            assert isinstance(page, Page) and all(f"{key} " in everywhere for key, _, _ in page.KEYS)
        await pilot.press("escape", "ctrl+p")
        assert isinstance(app.screen, Palette)
        await pilot.press("escape")
        assert type(app.screen) is PAGES[opened]


async def test_a_note_is_typed_rubbed_out_pasted_and_goes_into_the_snapshot(folder: Path) -> None:
    from textual import events

    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await stand(pilot, HERE)
        await pilot.press("S", *"qn? xy", "backspace")
        assert isinstance(app.screen, Ask) and "> qn? x_" in screen_text(app)
        app.post_message(events.Paste(" [b]\x1b[31mred\n"))
        await waited(pilot, lambda: "> qn? x[b] [31mred_" in screen_text(app))
        await pilot.press("enter")
        await waited(pilot, lambda: any(folder.glob("snapshots/*.txt")))
        (text,) = folder.glob("snapshots/*.txt")
        assert text.read_text().splitlines()[-1].endswith(": qn? x[b] [31mred")
        assert not isinstance(app.screen, Ask)
        for key in ("escape", "ctrl+c", "ctrl+z", "ctrl+q"):
            await pilot.press("S", "x", key)
            assert isinstance(app.screen, MonitorScreen) and app.is_running
        assert len([*folder.glob("snapshots/*")]) == 3


async def test_every_action_with_words_is_in_the_palette_found_by_its_name_and_run(folder: Path) -> None:
    told = [one for one in keys.ACTIONS if one.words and "(" not in one.id]
    app = watching(folder)
    ran: list[str] = []

    class Noted(Monitor):
        async def run_action(self, action: Any, *spaces: Any) -> bool:
            return bool(ran.append(action)) if action in BY_ID else await super().run_action(action, *spaces)

    app.__class__ = Noted
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("ctrl+p")
        palette = app.screen
        assert isinstance(palette, Palette) and palette.found == told
        for one in told:
            palette._put(one.id)
            assert one in palette.found and len(palette.found) < 8
        palette._put("")
        for one in told:
            assert one.words[:30] in "".join(part for line in palette.body(72, app._glyphs) for part, _ in line)
            palette.action_choose(1)
        await pilot.press("escape")
        for place in range(0, len(told), 6):
            one = told[place]
            app.action_palette()
            await pilot.pause()
            assert isinstance(app.screen, Palette)
            app.screen.action_choose(place)
            app.screen.action_take()
            await waited(pilot, lambda: bool(ran))
            assert ran.pop() == one.id
    assert not ran


async def test_the_palette_narrows_down_by_all_words_typed_and_finds_nothing_gently(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("ctrl+p", *"sort table")
        assert isinstance(app.screen, Palette) and [one.id for one in app.screen.found] == ["order"]
        await pilot.press("enter")
        await waited(pilot, lambda: app._order != "")
        await pilot.press("ctrl+p", *"zzz", "down", "enter")
        assert isinstance(app.screen, MonitorScreen)
        await pilot.press("ctrl+p", *"zz", "backspace", "backspace", "up")
        assert isinstance(app.screen, Palette) and app.screen._chosen == len(app.screen.found) - 1
        await pilot.press("escape")


# --- the monitor's own keys -----------------------------------------------------------------------------------------


async def selects(app: Monitor, pilot: Pilot[Any], key: str, by: int) -> None:
    assert app.view is not None
    names = [row.id for row in app.view.rows]
    app.select(names[1])
    await pilot.press(key)
    assert app.chosen == app.view.selected == names[1 + by]


async def opens(app: Monitor, pilot: Pilot[Any], key: str, page: type[Page]) -> None:
    app.select("Q4_K_M")
    await pilot.press(key)
    assert isinstance(app.screen, page)
    for back in ("escape", "q", "ctrl+c", "ctrl+z"):
        if type(app.screen) is MonitorScreen:
            await pilot.press(key)
        await pilot.press(back)
        assert type(app.screen) is MonitorScreen and app.is_running, back


async def sorts(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    seen = []
    for _ in view.ORDERS:
        await pilot.press(key)
        assert app.view is not None
        seen.append(app.view.order if hasattr(app.view, "order") else app._order)
    assert len(set(seen)) == len(view.ORDERS)


async def zooms(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    whole = screen_text(app)
    seen = []
    for _ in layout.ZOOMED:
        await pilot.press(key)
        await settled(pilot)
        seen.append(screen_text(app))
    assert len({*seen, whole}) == len(layout.ZOOMED) + 1
    await pilot.press("escape")
    await settled(pilot)
    assert screen_text(app).splitlines()[:30] == whole.splitlines()[:30]


async def unzooms(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    await pilot.press("z")
    await settled(pilot)
    await pilot.press(key)
    await settled(pilot)
    assert not app._monitor._places.zoomed


def asked(app: Monitor) -> list[tuple[str, str, str]]:
    return [(one.request, one.arm, one.value) for one in session.requests(app.folder, 0)]


async def requests(app: Monitor, pilot: Pilot[Any], keys_: tuple[str, ...], expected: tuple[str, str, str]) -> None:
    before = asked(app)
    await pilot.press(*keys_)
    await waited(pilot, lambda: len(asked(app)) > len(before))
    assert asked(app) == [*before, expected]
    assert type(app.screen) is MonitorScreen


async def reruns(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    app.select("Q5_K_M")
    await requests(app, pilot, (key,), ("rerun", "Q5_K_M", ""))
    app.select("Q2_K")
    await pilot.press(key)
    assert "has not been measured yet" in app._notice and len(asked(app)) == 1


async def skips(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    app.select("Q2_K")
    for no in ("enter", "escape", "n", "q", "ctrl+c"):
        await pilot.press(key)
        assert isinstance(app.screen, Sure) and "skip Q2_K?" in screen_text(app)
        await pilot.press(no)
        assert type(app.screen) is MonitorScreen and not asked(app), no
    await requests(app, pilot, (key, "y"), ("skip", "Q2_K", ""))
    app.select("Q8_0")
    await pilot.press(key)
    assert "is measured already" in app._notice and type(app.screen) is MonitorScreen


async def pauses(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    await requests(app, pilot, (key,), ("pause", "", ""))
    control = e.Control(request="pause", offset=1, n=stream()[-1].n + 1, t=LAST)
    with open(app.folder / session.EVENTS, "ab") as file:
        file.write(e.encode(control))
    await settled(pilot, lambda: app.feed.tail.paused)
    await requests(app, pilot, (key,), ("resume", "", ""))


async def finishes(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    await pilot.press(key, "enter")
    assert not asked(app)
    await requests(app, pilot, (key, "down", "enter"), ("finish", "", ""))


async def tolerates(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    await pilot.press(key)
    assert isinstance(app.screen, Ask) and "now 1" in screen_text(app)
    for wrong in ("", "0", "100", "nan", "-1", "x"):
        await pilot.press(*wrong, "enter")
        assert isinstance(app.screen, Ask) and "a percentage above 0 and below 100" in screen_text(app), wrong
        await pilot.press(*["backspace"] * len(wrong))
    await pilot.press("escape")
    assert not asked(app)
    await requests(app, pilot, (key, *"2.5%", "enter"), ("tolerance", "", "2.5"))


async def closes(app: Monitor, pilot: Pilot[Any], key: str) -> None:
    await pilot.press(key)
    assert app.return_value == QUIT


CHECKS: dict[str, Callable[[Monitor, Pilot[Any], str], Awaitable[None]]] = {
    "next_quant": lambda app, pilot, key: selects(app, pilot, key, 1),
    "previous_quant": lambda app, pilot, key: selects(app, pilot, key, -1),
    "arm": lambda app, pilot, key: opens(app, pilot, key, ArmPage),
    "compare": lambda app, pilot, key: opens(app, pilot, key, ComparePage),
    "sessions": lambda app, pilot, key: opens(app, pilot, key, SessionsPage),
    "order": sorts,
    "zoom": zooms,
    "unzoom": unzooms,
    "rerun": reruns,
    "skip": skips,
    "pause": pauses,
    "finish": finishes,
    "tolerance": tolerates,
    "leave": closes,
}


def test_every_action_of_the_monitor_alone_is_tried() -> None:
    assert {one.id for one in keys.ACTIONS if one.scope == keys.MONITOR} == set(CHECKS)


@pytest.mark.parametrize(
    ("name", "key"), [(one.id, key) for one in keys.ACTIONS if one.id in CHECKS for key in one.keys]
)
async def test_a_key_of_the_monitor_does_what_its_words_say(folder: Path, name: str, key: str) -> None:
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await stand(pilot, None)
        await CHECKS[name](app, pilot, key)


@pytest.mark.parametrize(
    ("key", "words"),
    [("x", "nothing to skip"), ("p", "nothing to pause"), ("f", "nothing to stop"), ("T", "tolerance of a finished")],
)
async def test_where_nothing_runs_a_request_is_refused_in_words(tmp_path: Path, key: str, words: str) -> None:
    app = watching(recorded(tmp_path / "s", builders.events(builders.Arm("Q8_0"))))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press(key)
        assert words in screen_text(app) and type(app.screen) is MonitorScreen
        assert not asked(app)


async def test_one_quant_alone_is_compared_with_nothing_and_the_way_out_is_said(tmp_path: Path) -> None:
    app = watching(recorded(tmp_path / "s", builders.events(builders.Arm("Q8_0"))))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("c")
        assert type(app.screen) is MonitorScreen and "w lists other sessions" in screen_text(app)


# --- keys of questions and of the help ------------------------------------------------------------------------------


@pytest.mark.parametrize(("walk", "expected"), [(("tab",), STOP), (("j",), STOP), (("up", "up"), STOP),
                                                (("k", "shift+tab"), STOP)])  # fmt: skip
async def test_the_answers_to_quitting_are_walked_through_round_and_round(
    folder: Path, walk: tuple[str, ...], expected: str
) -> None:
    ending = threading.Event()
    app = Monitor(folder, "live", lambda: ending.wait(30), stop=ending.set, leave=ending.set)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("q")
        assert isinstance(app.screen, Leave)
        await pilot.press(*walk, "enter")
    assert app.return_value == expected and ending.is_set()


async def test_the_help_is_scrolled_to_its_end_and_no_further_and_closed(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for close in ("escape", "q", "question_mark", "enter", "ctrl+c"):
            await pilot.press("question_mark")
            assert isinstance(app.screen, Help)
            await pilot.press(close)
            assert type(app.screen) is MonitorScreen and app.is_running, close
        await pilot.press("question_mark")
        box = app.screen
        assert isinstance(box, Help)
        for down, up, by in (("down", "up", 1), ("j", "k", 1), ("pagedown", "pageup", 10), ("space", "pageup", 10)):
            before = screen_text(app)
            await pilot.press(down)
            assert box._top == by and screen_text(app) != before
            await pilot.press(up)
            assert box._top == 0
        await pilot.press(*["pagedown"] * 9)
        end = box._top
        assert "observer" in screen_text(app) and "more lines" not in screen_text(app)
        await pilot.press("down")
        assert box._top == end


# --- keys of pages --------------------------------------------------------------------------------------------------


async def test_the_page_of_a_quant_scrolls_turns_and_jumps_by_sections(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        app.select("Q4_K_M")
        await pilot.press("enter")
        page = app.screen
        assert isinstance(page, ArmPage)
        for down, up, lines in (("down", "up", 1), ("j", "k", 1), ("pagedown", "pageup", 20)):
            await pilot.press(down)
            assert page.top == lines
            await pilot.press(up)
            assert page.top == 0
        for forward, back in (("enter", "backspace"),):
            await pilot.press(forward)
            assert page.top > 0 and "─ figures" in screen_text(app).splitlines()[2]
            await pilot.press(back)
            assert page.top == 0
        await pilot.press("up", *["pagedown"] * 30, "down")
        assert page.top == page.most(80, 21)
        await pilot.press("tab")
        assert (page.arm, page.top) == ("IQ3_XS", 0) and "✗ IQ3_XS" in screen_text(app)
        await pilot.press("shift+tab", "shift+tab")
        assert page.arm == "Q5_K_M"


async def test_the_comparison_turns_views_quants_bases_and_items(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.select("Q4_K_M")
        await pilot.press("c")
        page = app.screen
        assert isinstance(page, ComparePage) and (page.arm, page.base) == ("Q4_K_M", "Q8_0")
        seen = []
        for name in VIEWS:
            assert page.view_ == name
            seen.append(screen_text(app))
            await pilot.press("tab")
        assert page.view_ == VIEWS[0] and len(set(seen)) == len(VIEWS)
        await pilot.press(*["shift+tab"] * (len(VIEWS) - 1))
        assert page.view_ == "answers"
        for later, earlier in (("full_stop", "comma"), ("greater_than_sign", "less_than_sign")):
            before = screen_text(app)
            await pilot.press(later)
            assert page.item == 1 and screen_text(app) != before
            await pilot.press(earlier)
            assert page.item == 0 and screen_text(app) == before
        await pilot.press(*["full_stop"] * 9)
        assert page.item == 2
        await pilot.press("shift+tab", "a")
        assert all(f"│ {arm}" in screen_text(app) for arm in ("Q5_K_M", "IQ3_XS", "Q2_K"))
        await pilot.press("a")
        assert "│ Q5_K_M" not in screen_text(app)
        for down, up in (("down", "up"), ("j", "k")):
            await pilot.press(down)
            assert page.arm == "IQ3_XS"
            await pilot.press(up)
            assert page.arm == "Q4_K_M"
        await pilot.press("b")
        assert page.base == "Q5_K_M" and "against Q5_K_M" in screen_text(app)
        await pilot.press("c")
        assert type(app.screen) is MonitorScreen


async def listed(pilot: Pilot[Any]) -> SessionsPage:
    app = pilot.app
    await pilot.press("w")
    page = app.screen
    assert isinstance(page, SessionsPage)
    await waited(pilot, lambda: "reading the sessions" not in screen_text(app))
    return page


async def select(pilot: Pilot[Any], page: SessionsPage, name: str) -> None:
    await pilot.press("pageup")
    for _ in range(10):
        if page.chosen is not None and page.chosen.name == name:
            return
        await pilot.press("j")
    raise AssertionError(name)


async def test_another_session_is_opened_and_watched(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        page = await listed(pilot)
        await select(pilot, page, "other")
        await pilot.press("enter")
        await settled(pilot, lambda: app.folder.name == "other")
        assert type(app.screen) is MonitorScreen and "REPLAY" in screen_text(app)
        page = await listed(pilot)
        await select(pilot, page, "s")
        await pilot.press("enter")
        await settled(pilot, lambda: app.folder.name == "s")
        assert "LIVE" in screen_text(app)


async def test_while_a_sweep_of_this_screen_runs_another_session_is_not_opened(folder: Path) -> None:
    ending = threading.Event()
    app = Monitor(folder, "live", lambda: ending.wait(30), stop=ending.set, sessions=folder.parent)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        page = await listed(pilot)
        await select(pilot, page, "other")
        await pilot.press("enter")
        assert app.screen is page and "quanttui replay other" in screen_text(app)
        ending.set()


async def test_the_selected_quant_is_compared_with_the_same_one_of_another_session(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.select("Q4_K_M")
        page = await listed(pilot)
        await select(pilot, page, "other")
        await pilot.press("c")
        await waited(pilot, lambda: isinstance(app.screen, ComparePage))
        assert app.screen.base == "Q4_K_M"  # type: ignore[attr-defined]
        await pilot.press("escape")
        assert app.screen is page
        recorded(folder.parent / "empty", list(stream()[:1]))
        await pilot.press("escape")
        page = await listed(pilot)
        await select(pilot, page, "empty")
        await pilot.press("c", "enter")
        assert type(app.screen) in (MonitorScreen, SessionsPage, ComparePage) and app.is_running


async def test_a_session_is_deleted_only_after_a_yes(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        page = await listed(pilot)
        await select(pilot, page, "other")
        for no in ("n", "escape", "q", "down", "ctrl+c", "enter", "c"):
            await pilot.press("d")
            assert "delete other, " in screen_text(app) and "? y/n" in screen_text(app), no
            await pilot.press(no)
            assert app.screen is page and "y/n" not in screen_text(app) and app.cursor.mode == transport.LIVE, no
            await pilot.press("y")
            assert (folder.parent / "other" / session.EVENTS).is_file(), no


@pytest.mark.parametrize("key", ["d", "delete"])
async def test_yes_deletes_the_session_and_the_next_one_is_selected(folder: Path, key: str) -> None:
    recorded(folder.parent / "third", builders.events(builders.Arm("Q8_0")))
    app = watching(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        page = await listed(pilot)
        await select(pilot, page, "other")
        await pilot.press(key, "y")
        assert not (folder.parent / "other").exists() and "other is deleted" in screen_text(app)
        assert page.chosen is not None and "2 sessions" in screen_text(app)
        await pilot.press("y")
        assert (folder.parent / "third").is_dir() and folder.is_dir()


async def test_a_session_that_runs_or_is_watched_is_not_deleted(folder: Path) -> None:
    other = recorded(folder.parent / "another", alive(stream()))
    app = watching(recorded(folder.parent / "mine", list(stream())))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        page = await listed(pilot)
        for name, why in (("another", "is running: stop its sweep first"), ("mine", "is being watched here")):
            await select(pilot, page, name)
            await pilot.press("d")
            assert why in screen_text(app)
            await pilot.press("y")
        assert other.is_dir() and app.folder.is_dir()


# --- the mouse ------------------------------------------------------------------------------------------------------


def line_of(app: Monitor, words: str) -> int:
    return next(y for y, line in enumerate(screen_text(app).splitlines()) if words in line)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
async def test_a_click_selects_a_row_goes_to_a_flag_and_to_a_moment_and_the_wheel_moves(
    folder: Path, size: tuple[int, int]
) -> None:
    from textual import events

    app = watching(folder)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        sheets = app._monitor._sheets
        table = sheets["table"] if "table" in app._monitor._places.of(app.size) else sheets["bare"]
        y = next(y for y in range(table.region.y + 1, table.region.bottom)
                 if "Q5_K_M" in screen_text(app).splitlines()[y][table.region.x :])  # fmt: skip
        await pilot.click(offset=(table.region.x + 6, y))
        assert app.chosen == "Q5_K_M"
        app.select("IQ3_XS")
        await settled(pilot)
        story = sheets["story"].region
        rows = screen_text(app).splitlines()
        happened = next(y for y in range(story.y, story.bottom) if rows[y][story.x :].startswith(" 00:"))
        hours, minutes, seconds = map(int, rows[happened][story.x :].split()[0].split(":"))
        await pilot.click(offset=(story.x + 3, happened))
        await settled(pilot)
        t = app.cursor.t if app.cursor.t is not None else LAST
        assert abs(t - (hours * 3600 + minutes * 60 + seconds)) <= 1
        await stand(pilot, HERE)
        wheels: dict[type[events.MouseEvent], int] = {events.MouseScrollUp: -5, events.MouseScrollDown: 5}
        for wheel, by in wheels.items():
            before = app.cursor.t
            await pilot._post_mouse_events([wheel], offset=(3, size[1] // 2))
            await settled(pilot)
            assert before is not None and app.cursor.t == pytest.approx(before + by)
        if "lane" in app._monitor._places.of(app.size):
            lane = sheets["lane"].region
            await pilot.click(offset=(lane.x + lane.width // 4, lane.y))
            await settled(pilot)
            assert app.cursor.t is not None and 0.1 * LAST < app.cursor.t < 0.4 * LAST
        before = app.cursor
        await pilot.click(offset=(0, 0))
        assert app.cursor == before


# --- keys of the user's own, and keys that mean nothing --------------------------------------------------------------


async def test_keys_of_the_users_own_replace_the_registrys_on_every_screen(folder: Path) -> None:
    mine = {"freeze": "f8", "snapshot": "ctrl+s", "next_quant": "m"}
    app = watching(folder, keymap=mine)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "f8 freeze" in screen_text(app) and "ctrl+s snap" in screen_text(app)
        for opened in ((), ("enter",)):
            await pilot.press(*opened, "space")
            assert app.cursor.mode == transport.LIVE
            await pilot.press("f8")
            assert app.cursor.mode == transport.FROZEN
            await pilot.press("f8")
        await pilot.press("ctrl+s", "escape")
        assert list(folder.glob("snapshots/*.svg"))
        before = app.chosen
        await pilot.press("tab")
        assert app.chosen == before
        await pilot.press("m")
        assert app.chosen != before
        await pilot.press("question_mark")
        assert "│ f8 " in screen_text(app)
        await pilot.press("escape")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"freze": "f"}, "keys.freze: no such action: did you mean freeze?"),
        ({"freeze": "banana"}, "'banana' is no key"),
        ({"freeze": "n"}, "n would be both"),
        ({"freeze": "\x1b[31m"}, "keys.freeze"),
    ],
)
async def test_wrong_keys_are_a_notice_and_the_registrys_stay(
    folder: Path, wrong: dict[str, str], said: str
) -> None:
    app = watching(folder, keymap=wrong)
    async with app.run_test(size=(200, 50)) as pilot:
        await settled(pilot)
        text = screen_text(app)
        assert "config.toml: " in text and said in text
        assert all(line.isprintable() for line in text.splitlines())
        await pilot.press("space")
        assert app.cursor.mode == transport.FROZEN


RESERVED = ("ctrl+a", "ctrl+b")
"""Where screen and tmux listen."""


SCREENS = (Monitor, Start, MonitorScreen, ArmPage, ComparePage, SessionsPage, Help, Palette, Ask, Sure, Leave)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_prefixes_of_screen_and_tmux_mean_nothing(screen: Any) -> None:
    bound = {key for key in BindingsMap(screen.BINDINGS).key_to_bindings}
    assert bound.isdisjoint(RESERVED) and screen._merge_bindings().key_to_bindings.keys().isdisjoint(RESERVED)


def test_no_key_has_two_meanings_on_one_screen() -> None:
    every = [key for action in keys.ACTIONS for key in action.keys]
    assert len(every) == len(set(every))


async def test_keys_without_a_meaning_change_nothing(folder: Path) -> None:
    app = watching(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await stand(pilot, HERE)
        for opened in ("", "enter", "c"):
            await pilot.press(*opened.split())
            before = (app.cursor, app.chosen, type(app.screen), screen_text(app).splitlines()[:20])
            await pilot.press("ctrl+a", "ctrl+b", "ctrl+d", "f5", "Z", "~", "ctrl+s")
            assert (app.cursor, app.chosen, type(app.screen), screen_text(app).splitlines()[:20]) == before
            await pilot.press(*["escape"] * bool(opened))
        assert app.is_running and not asked(app)


@pytest.mark.parametrize("width", range(20, 220, 9))
def test_twins_share_a_word_in_the_footer_and_stand_alone_in_the_help(width: int) -> None:
    told = dict(keys.footer(width, {"later": "l"}))
    assert all(key in ("←l", "[]", "{}", "+-") or key in {one.shown for one in keys.ACTIONS} for key in told)
    assert keys.shown(BY_ID["earlier"]) == "←" and BY_ID["earlier"].twin == "later"
