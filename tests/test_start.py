"""The start screen: from nothing to a sweep in three keys, whatever was found, broken, slow or running already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from rich.cells import cell_len
from screens import HOSTILE, compared, recorded, waited
from textual.pilot import Pilot

from quanttui import catalog, session
from quanttui.catalog import Brief, File, Place
from quanttui.diagnosis.fit import Fitted, Plan, Range, Room
from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.sweep.choose import outline
from quanttui.tui import theming
from quanttui.tui.glyphs import SETS
from quanttui.tui.screens.start import Look, Outline, Start
from quanttui.tui.snapshot import screen_text
from quanttui.tui.start import Choice
from quanttui.tui.widgets import bars
from quanttui.tui.widgets import start as widget

PLACES = (Place("models", "/models", "folder"), Place("Ollama", "/ollama", "ollama"))
GIB = 1 << 30


def file(quant: str, title: str = "Tiny 1B", argument: str = "", error: str = "", path: str = "") -> File:
    """A GGUF that was found."""
    where = path or f"/models/{title}-{quant}.gguf"
    brief = Brief(name=title, quant=quant, architecture="llama", layers=16, parameters=10**9, bytes=GIB)
    return File((where,), argument or where, "", quant, title, (title.lower(),), brief, error)


def looking(*files: File) -> Look:
    def look(stop: Callable[[], bool]) -> Iterator[File]:
        yield from files

    return look


NOTHING = looking()


def fitted(quant: str, verdict: str = "fits", **changes: Any) -> Fitted:
    """A quant that was weighed."""
    made = Fitted(
        id=quant, quant=quant, bytes=GIB, context=512, kv_type="f16", weights={"cpu": GIB}, kv={"cpu": 1 << 20},
        compute={"cpu": 1 << 20}, output=1 << 20, need={"cpu": GIB + (66 << 20)}, twice=0, offloaded=0, verdict=verdict,
        spare=GIB, device="cpu", longest=4096, trained=4096, tok_s=Range(10.0, 20.0), tok_s_full=None, slow_why="",
        seconds=Range(60.0, 120.0), estimated=True, note="",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def planned(*arms: Fitted, model: str = "Tiny 1B", notes: tuple[str, ...] = ()) -> Plan:
    every = arms or (fitted("F16", "no"), fitted("Q8_0", "tight"), fitted("Q4_K_M"))
    return Plan(
        model=model, context=512, kv="f16", arms=every,
        rooms=(Room(device="cpu", total=16 * GIB, free=8 * GIB),), bandwidth={}, notes=notes, seconds_low=0.0,
        seconds_high=0.0,
    )  # fmt: skip


class Asked:
    """Plans whatever it is asked about, and remembers what that was."""

    def __init__(self, plan: Plan | UserError | None = None) -> None:
        self.plan = plan or planned()
        self.calls: list[tuple[tuple[str, ...], tuple[str, ...], str]] = []

    def __call__(self, models: tuple[str, ...], tasks: tuple[str, ...], until: str) -> Plan:
        self.calls.append((models, tasks, until))
        if isinstance(self.plan, UserError):
            raise self.plan
        return self.plan


def started(sessions: Path, look: Look = NOTHING, plan: Outline | None = None, **options: Any) -> Start:
    given: dict[str, Any] = {"tasks": ("speed", "ppl"), "until": "full", "text": "WikiText-2, fetched once"}
    given |= {"glyphs": "braille"} | options
    return Start(look, plan or Asked(), PLACES, sessions, "guest · 24 GiB · 2 cores", **given)


async def found(pilot: Pilot[Any]) -> None:
    """Wait until the search is over and shown."""
    app = pilot.app
    assert isinstance(app, Start)
    await waited(pilot, lambda: app._found.complete and len(app._plans) == len(app._found.models))
    app._show()
    await pilot.pause()


# --- three keys -----------------------------------------------------------------------------------------------------


async def test_from_nothing_to_a_sweep_in_two_keys(tmp_path: Path) -> None:
    """The shipped model, whose plan is the real one."""

    def plan(models: tuple[str, ...], tasks: tuple[str, ...], until: str) -> Plan:
        return outline(Settings(), tmp_path, models, tasks, until)

    app = started(tmp_path, plan=plan)
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        await pilot.press("enter", "enter")
    choice = app.return_value
    assert choice is not None and (choice.act, choice.models, choice.until) == ("sweep", (), "full")
    assert choice.tasks == ("speed", "ppl") and len(choice.quants.split(",")) == 9 and "Q4_K_M" in choice.quants


async def test_a_model_that_was_found_is_swept_in_three_keys_those_quants_that_fit(tmp_path: Path) -> None:
    asked = Asked()
    app = started(tmp_path, looking(file("Q8_0"), file("Q4_K_M"), file("F16")), asked)
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        assert "2 of 3 fit" in screen_text(app)
        await pilot.press("down", "enter", "enter")
    models = tuple(f"/models/Tiny 1B-{quant}.gguf" for quant in ("F16", "Q4_K_M", "Q8_0"))
    assert app.return_value == Choice("sweep", models, "Q8_0,Q4_K_M", ("speed", "ppl"), "full")
    assert {models for models, *_ in asked.calls} == {models}


async def test_where_nothing_fits_the_last_quant_is_taken_and_a_sweep_may_still_begin(tmp_path: Path) -> None:
    app = started(tmp_path, plan=Asked(planned(fitted("Q8_0", "no"), fitted("Q4_K_M", "no"))))
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        await pilot.press("enter")
        assert "✗ does not fit" in screen_text(app)
        await pilot.press("enter")
    assert app.return_value is not None and app.return_value.quants == "Q4_K_M"


# --- what is found --------------------------------------------------------------------------------------------------


async def test_a_slow_search_is_said_shows_what_it_has_and_holds_nobody_up(tmp_path: Path) -> None:
    gate = threading.Event()

    def look(stop: Callable[[], bool]) -> Iterator[File]:
        gate.wait(20)
        yield file("Q8_0")

    app = started(tmp_path, look)
    async with app.run_test(size=(80, 24)) as pilot:
        await waited(pilot, lambda: "looking for models" in screen_text(app))
        assert "quanttui pocket" in screen_text(app) and "Tiny 1B" not in screen_text(app)
        await pilot.press("enter")
        assert "measure" in screen_text(app)
        await pilot.press("escape")
        gate.set()
        await found(pilot)
        text = screen_text(app)
        assert "Tiny 1B" in text and "looking for models" not in text and "looked in: models, Ollama" in text


async def test_leaving_tells_a_search_under_way_to_stop(tmp_path: Path) -> None:
    ended = threading.Event()

    def look(stop: Callable[[], bool]) -> Iterator[File]:
        while not stop():
            ended.wait(0.01)
        ended.set()
        yield from ()

    app = started(tmp_path, look)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("q")
    assert app.return_value is None and ended.wait(10)


async def test_with_nothing_found_the_shipped_model_is_there_and_where_was_looked(tmp_path: Path) -> None:
    app = started(tmp_path / "none")
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        text = screen_text(app)
        assert "quanttui pocket" in text and "looked in: models, Ollama" in text


async def test_a_broken_file_is_shown_with_what_is_wrong_and_cannot_be_taken(tmp_path: Path) -> None:
    app = started(tmp_path, looking(file("Q8_0", error="broken.gguf: is cut off", path="/models/broken.gguf")))
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        text = screen_text(app)
        assert "cannot be used" in text and "✗ broken.gguf" in text and "is cut off" in text
        await pilot.press("down", "enter")
        assert "this one cannot be used: choose another" in screen_text(app)
        await pilot.press("up")
        assert "choose another" not in screen_text(app)


async def test_a_running_session_stands_first_and_is_attached_to_a_past_one_is_replayed(tmp_path: Path) -> None:
    import os

    import psutil

    alive = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    events = builders.events(builders.Arm("Q8_0"), closed=None)
    running = recorded(tmp_path / "now", [msgspec.structs.replace(events[0], **alive), *events[1:]])
    past = recorded(tmp_path / "past", builders.events(builders.Arm("Q8_0")))
    for keys, expected in ((("enter",), Choice("attach", folder=str(running))),
                           (("pagedown", "enter"), Choice("replay", folder=str(past)))):  # fmt: skip
        app = started(tmp_path)
        async with app.run_test(size=(80, 24)) as pilot:
            await found(pilot)
            lines = [line.strip() for line in screen_text(app).splitlines() if line.strip()]
            assert lines[1] == "running now" and lines[2].startswith("▶ ▶ now")
            await pilot.press(*keys)
        assert app.return_value == expected


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+z", "ctrl+q"])
async def test_leaving_chooses_nothing(tmp_path: Path, key: str) -> None:
    app = started(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        await pilot.press(key)
    assert app.return_value is None and not app.is_running


async def test_a_plan_that_cannot_be_made_says_why_on_both_pages(tmp_path: Path) -> None:
    asked = Asked(UserError("Tiny 1B: its header names no architecture"))
    app = started(tmp_path, looking(file("Q8_0")), asked)
    async with app.run_test(size=(120, 40)) as pilot:
        await found(pilot)
        assert screen_text(app).count("names no architecture") == 1
        await pilot.press("down", "enter")
        assert screen_text(app).count("names no architecture") == 2
        asked.plan = planned()
        await pilot.press("enter")
        assert "measure" in screen_text(app)
        asked.plan = UserError("the disk is gone")
        await pilot.press("d")
        assert "the disk is gone" in screen_text(app) and "Q4_K_M" in screen_text(app)


async def test_why_the_last_choice_came_to_nothing_is_said_until_a_key(tmp_path: Path) -> None:
    app = started(tmp_path, notice="x.gguf: was deleted meanwhile")
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        assert "x.gguf: was deleted meanwhile" in screen_text(app)
        await pilot.press("down")
        assert "deleted meanwhile" not in screen_text(app)


# --- the second page ------------------------------------------------------------------------------------------------


async def test_quants_tasks_and_how_much_is_scored_are_switched_by_their_keys(tmp_path: Path) -> None:
    asked = Asked()
    app = started(tmp_path, plan=asked)
    async with app.run_test(size=(120, 40)) as pilot:
        await found(pilot)
        await pilot.press("enter")
        assert "2 quants: about 2m00s to 4m00s, a guess" in screen_text(app)
        await pilot.press("down", "space")
        assert "1 quant: about 1m00s to 2m00s, a guess" in screen_text(app)
        await pilot.press("j", "space", "k", "k", "space")
        assert [line.wanted for line in app.page.lines] == [True, False, False]  # type: ignore[union-attr]
        await pilot.press("a")
        assert "3 quants" in screen_text(app)
        await pilot.press("a")
        text = screen_text(app)
        assert "no quant is chosen" in text and "a guess" not in text
        await pilot.press("enter")
        assert app.is_running and "choose a quant" in screen_text(app)
        await pilot.press("a", "1", "2", "enter")
        assert app.is_running and "choose what is measured" in screen_text(app)
        assert "WikiText-2" not in screen_text(app)
        await pilot.press("2", "3", "4", "d")
        text = screen_text(app)
        assert "[ ] speed" in text
        assert all(f"[x] {one}" in text for one in ("perplexity", "KL", "prompts", "only until"))
        await pilot.press("space", "enter")
    assert asked.calls[-1] == ((), ("ppl", "kld", "prompts"), "decided")
    assert app.return_value == Choice("sweep", (), "Q8_0,Q4_K_M", ("ppl", "kld", "prompts"), "decided")


@pytest.mark.parametrize("key", ["escape", "backspace"])
async def test_one_goes_back_to_the_models(tmp_path: Path, key: str) -> None:
    app = started(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        await pilot.press("enter", key)
        assert "what is to be measured?" in screen_text(app)


@pytest.mark.parametrize("key", ["escape", "question_mark", "enter", "q"])
async def test_the_help_covers_either_page_and_nothing_happens_behind_it(tmp_path: Path, key: str) -> None:
    app = started(tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await found(pilot)
        for before in ((), ("enter",)):
            await pilot.press(*before)
            page = screen_text(app)
            await pilot.press("question_mark")
            text = screen_text(app)
            assert all(f" {head} " in text for head, _ in widget.HELP if head) and text != page
            await pilot.press(*(("down", "space", "a", "d", "1") if key == "q" else ()), key)
            assert screen_text(app) == page and app.is_running


# --- sizes, sets, names ---------------------------------------------------------------------------------------------

FILES = (
    file("F16"), file("Q8_0"), file("Q4_K_M"), file("Q4_K_M", "Other 7B"),
    file("Q2_K", error="cut-off.gguf: ends amid a tensor", path="/models/cut-off.gguf"),
)  # fmt: skip


@pytest.mark.parametrize(("size", "glyphs"), [("80x24", "braille"), ("80x24", "ascii"), ("40x10", "braille")])
async def test_both_pages_and_the_help_are_the_expected_ones(tmp_path: Path, size: str, glyphs: str) -> None:
    recorded(tmp_path / "2026-01-12-made-up", builders.events(builders.Arm("Q8_0"), builders.Arm("Q4_K_M", ppl=8.2)))
    columns, rows = map(int, size.split("x"))
    notes = ("no bandwidth was measured on this machine yet: `quanttui doctor` does it",)
    app = started(tmp_path, looking(*FILES), Asked(planned(notes=notes)), glyphs=glyphs)
    shown = []
    async with app.run_test(size=(columns, rows)) as pilot:
        await found(pilot)
        for keys in ((), ("down", "enter"), ("question_mark",)):
            await pilot.press(*keys)
            shown.append(screen_text(app))
    text = "\f\n".join(shown)
    assert all(cell_len(line.strip("\f")) <= columns for line in text.splitlines())
    assert glyphs != "ascii" or text.isascii()
    compared(f"start-{size}-{glyphs}", text)


async def test_without_colour_it_is_written_in_the_terminals_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = started(tmp_path, looking(*FILES))
    async with app.run_test(size=(80, 24)) as pilot:
        await found(pilot)
        for key in ("down", "enter", "question_mark"):
            await pilot.press(key)
            strips = app.screen._compositor.render_strips()
            used = [part.style for strip in strips for part in strip if part.text.strip() and part.style]
            assert used and all(one.color is None or one.color.is_default for one in used)
            assert all(one.bgcolor is None or one.bgcolor.is_default for one in used)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (8, 3), (20, 5), (59, 7), (300, 90)])
async def test_no_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    app = started(tmp_path, looking(*FILES))
    async with app.run_test(size=size) as pilot:
        await found(pilot)
        for key in ("down", "enter", "space", "question_mark", "escape", "a", "escape", "end"):
            await pilot.press(key)
            lines = screen_text(app).splitlines()
            assert len(lines) == size[1] and all(cell_len(line) <= size[0] for line in lines)
        await pilot.resize_terminal(80, 24)
        await waited(pilot, lambda: "what is to be measured?" in screen_text(app))
        await pilot.press("q")
    assert not app.is_running


@pytest.mark.parametrize("width", [*range(1, 130, 7)])
def test_the_lines_of_keys_cut_no_word_and_end_in_help(width: int) -> None:
    whole = {f"{key} {word}" for keys in (widget.OFFER_KEYS, widget.SELECTION_KEYS) for key, word in keys}
    for pairs in (widget.OFFER_KEYS, widget.SELECTION_KEYS):
        text = "".join(part for part, _ in bars.keyed(pairs, width, SETS["braille"]))
        assert cell_len(text) == width
        if width >= 20:
            kept = [f"{key} {word}" for key, word in pairs if f" {key} {word}" in text]
            assert " ".join(text.split()) == " ".join(kept) and set(kept) <= whole and "? help" in kept


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (80, 24), (120, 40)])
async def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path, size: tuple[int, int]) -> None:
    """In models, arguments, errors, plans, sessions, places and notices."""
    for index, name in enumerate(HOSTILE):
        events = builders.events(builders.Arm("Q8_0"))
        recorded(tmp_path / f"s{index}", [msgspec.structs.replace(events[0], model=name), *events[1:]])
    files = [file(name, name, f"{name}\n{index}") for index, name in enumerate(HOSTILE)]
    files += [file("Q8_0", error=name, path=f"/models/{name}") for name in HOSTILE]
    arms = [fitted(name, note=name) for name in HOSTILE]
    app = started(
        tmp_path, looking(*files), Asked(planned(*arms, model=" ".join(HOSTILE), notes=HOSTILE)), notice=HOSTILE[0],
        text=HOSTILE[1],
    )  # fmt: skip
    seen = []
    async with app.run_test(size=size) as pilot:
        await found(pilot)
        for key in ("down", *["pagedown"] * 5, "escape", "pageup", "pageup", "pageup", "down", "enter", "a", "down"):
            await pilot.press(key)
            seen.append(screen_text(app))
        assert len(set(seen)) > 3
        await pilot.press("a", "enter")
    for screen in seen:
        assert all(line.isprintable() for line in screen.splitlines())
        assert all(cell_len(line) <= size[0] for line in screen.splitlines())
    assert size[0] < 80 or any("[red]x[/red]" in screen for screen in seen)
    choice = app.return_value
    assert choice is not None and len(choice.models) == 1 and choice.models[0].rsplit("\n", 1)[0] in HOSTILE


def test_every_role_is_a_themes(tmp_path: Path) -> None:
    from quanttui.tui import start

    infos = session.listing(tmp_path)
    plan = planned()
    offer = start.offer(catalog.gather(FILES, PLACES), {}, infos, "guest", "", "notice")
    chosen = start.selection(plan, {"Q8_0"}, "", ("ppl",), "full", "text", "error")
    for lines in (widget.offer(offer, 120, 40, SETS["braille"]), widget.selection(chosen, 120, 40, SETS["braille"]),
                  widget.help_(120, 40, SETS["braille"])):  # fmt: skip
        assert {role.rstrip("+") for line in lines for _, role in line} <= {"", *theming.COLOURS}
