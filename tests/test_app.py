"""The whole screen: what it shows at fixed moments, what its keys do, and that a sweep outlives it.

The expected screens lie in tests/snapshots; QUANTTUI_TEST_REGENERATE=1 writes them anew, to be read before kept.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from textual import events
from textual.geometry import Size
from textual.pilot import Pilot

from quanttui import events as e
from quanttui import paths, session
from quanttui.errors import UserError
from quanttui.state import TIMED
from quanttui.tui import app as tui
from quanttui.tui import keys, pace, snapshot
from quanttui.tui.app import HUNG_UP, LEAVE, QUIT, STOP, Monitor, picture
from quanttui.tui.screens.over import Ask, Help, Leave
from quanttui.tui.snapshot import screen_text

GOLDEN = Path(__file__).parent / "snapshots"
SIZES = ("40x10", "80x24", "120x40", "200x50")

NOTE = "CPU-only build: reinstall llama-cpp-python with CMAKE_ARGS=-DGGML_CUDA=on"
ARMS = (
    builders.Arm("Q8_0", chunks=12, tokens=64),
    builders.Arm("Q6_K", chunks=12, tokens=64, tok_s=21.0, ppl=8.05),
    builders.Arm("Q5_K_M", chunks=12, tokens=64, tok_s=3.1, swap=0.021, ppl=8.1),
    builders.Arm("Q4_K_M", chunks=12, tokens=64, tok_s=25.0, ppl=8.2),
    builders.Arm("Q4_K_S", chunks=12, tokens=64, tok_s=11.0, cpu=0.5, ppl=8.25),
    builders.Arm("IQ3_XS", chunks=12, fails="oom", error="killed by signal 9"),
    builders.Arm("Q3_K_M", planned_only=True),
    builders.Arm("Q2_K", planned_only=True),
)


@functools.cache
def stream() -> list[e.Event]:
    """A sweep over eight quants that ends in the middle, on a host without a GPU and without an energy counter."""
    made = builders.events(*ARMS, closed=None, notes=(NOTE,), settings=builders.settings(prompt=64, decode=64))
    probes: list[e.Event] = [
        e.ProbeFound(probe="memory"),
        e.ProbeFound(probe="swap"),
        e.ProbeLost(probe="nvidia", why="no NVIDIA driver"),
        e.ProbeLost(probe="power", why="energy_uj is readable by root only (CVE-2020-8694)"),
    ]
    told = [made[0], *(msgspec.structs.replace(one, t=0.0) for one in probes), *made[1:]]
    return [msgspec.structs.replace(one, n=n) for n, one in enumerate(told)]


def recorded(folder: Path, events: list[e.Event]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, events)))
    return folder


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("sessions") / "made-up", stream())


def moment(arm: str, phase: str, share: float = 0.6) -> float:
    """Session time in the middle of a phase of the stream."""
    begun = next(x.t for x in stream() if isinstance(x, e.PhaseStarted) and (x.arm, x.phase) == (arm, phase))
    ended = next(x.t for x in stream() if isinstance(x, e.PhaseDone) and (x.arm, x.phase) == (arm, phase))
    return begun + share * (ended - begun)


MOMENTS = {
    "swapping": lambda: moment("Q5_K_M", "decode"),
    "scoring": lambda: moment("Q4_K_M", "perplexity"),
    "end": lambda: stream()[-1].t,
}


def compared(name: str, text: str) -> None:
    """Against the expected screen, or written as the new one."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("QUANTTUI_TEST_REGENERATE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


async def settled(pilot: Pilot[Any], passes: Callable[[], bool] = lambda: True) -> None:
    """Wait until the screen stands at its cursor, and for what else is asked."""
    app = pilot.app
    assert isinstance(app, Monitor)
    for _ in range(1000):
        if app.settled and passes():
            await pilot.pause()
            return
        await pilot.pause(0.01)
    raise AssertionError("the screen did not come to stand")


def body(text: str) -> str:
    """The screen without its header and its status line, which name the mode and the screen's own cost."""
    lines = text.splitlines()
    return "\n".join(line for index, line in enumerate(lines) if index and index != len(lines) - 2)


# --- what is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("glyphs", ["braille", "ascii"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("when", MOMENTS)
def test_the_screen_is_the_expected_one(sweep_folder: Path, when: str, size: str, glyphs: str) -> None:
    columns, rows = map(int, size.split("x"))
    _, text, _ = picture(sweep_folder, f"{MOMENTS[when]():.3f}s", (columns, rows), glyphs=glyphs)
    *screen, caption = text.splitlines()
    assert all(len(line) <= columns for line in screen) and len(screen) == rows and caption.startswith("made-up at ")
    assert glyphs != "ascii" or text.isascii()
    compared(f"{when}-{size}-{glyphs}", text)


def test_a_snapshot_is_the_same_each_time_in_all_three_forms(sweep_folder: Path) -> None:
    first, second = (picture(sweep_folder, "q5_k_m", (120, 40)) for _ in range(2))
    assert first == second
    svg, _, content = first
    assert svg.startswith("<svg") and "http" not in svg.replace("http://www.w3.org", "").replace(
        "https://www.textualize.io", ""
    )
    told = json.loads(content)
    assert told["view"]["model"] == "made-up 1.3B" and told["caption"]["session"] == "made-up"


def test_a_snapshot_may_be_taken_at_the_first_flag_and_at_no_unknown_quant(sweep_folder: Path) -> None:
    _, text, _ = picture(sweep_folder, "flag", (120, 40))
    assert "[!!] swap" in text
    with pytest.raises(UserError, match="--at q9"):
        picture(sweep_folder, "q9", (120, 40))


@pytest.mark.parametrize("size", SIZES)
async def test_live_attached_and_replayed_show_the_same_at_the_same_moment(tmp_path: Path, size: str) -> None:
    """One log, and the cursor at one moment of it: of a sweep of this process, of another's, and of a recording."""
    when = f"{moment('Q5_K_M', 'decode')}s"
    columns, rows = map(int, size.split("x"))
    texts = []
    for mode in ("live", "attach", "replay"):
        folder = recorded(tmp_path / mode / "made-up", stream()[: len(stream()) // 3])
        ending = threading.Event()
        running: dict[str, Any] = {"sweep": ending.wait} if mode == "live" else {}
        app = Monitor(folder, mode, glyphs="braille", **running)  # type: ignore[arg-type]
        async with app.run_test(size=(columns, rows)) as pilot:
            await settled(pilot)
            with open(folder / session.EVENTS, "ab") as file:
                file.writelines(map(e.encode, stream()[len(stream()) // 3 :]))
            await settled(pilot, lambda app=app: app.feed.tail.n == stream()[-1].n)  # type: ignore[misc]
            t = tui.moment(folder, when)
            app._go(msgspec.structs.replace(app.cursor, t=t, playing=False))
            await settled(pilot)
            app.repaint()
            await settled(pilot)
            texts.append(body(screen_text(app)))
            ending.set()
    assert texts[0] == texts[1] == texts[2]


def shown_figures(app: Monitor) -> Any:
    """All that a screen says in words and figures: without charts and lane, which show what came later, too."""
    assert app.view is not None
    told = json.loads(snapshot.as_json(app.view))
    for name in ("lane", "lane_end", "cursor", "end", "own", "mode", "mode_role", "left", "quiet"):
        del told[name]
    for one in (*told["metrics"].values(), *told["panels"].values()):
        for name in ("trace", "caption", "why"):
            one.pop(name, None)
    return told


async def test_a_replay_shows_the_figures_that_were_live_then(tmp_path: Path) -> None:
    """Nothing that came later is in them. This process is the writer of what is live here."""
    import psutil

    when = moment("Q5_K_M", "decode")
    cut = next(i for i, x in enumerate(stream()) if x.t > when)
    own = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    events = [msgspec.structs.replace(stream()[0], **own), *stream()[1:]]
    found = []
    for name, upto, mode in (("live", cut, "attach"), ("whole", len(events), "replay")):
        app = Monitor(recorded(tmp_path / name, events[:upto]), mode, at=f"{events[cut - 1].t}s", speed=1e-9)  # type: ignore[arg-type]
        async with app.run_test(size=(120, 40)) as pilot:
            await settled(pilot, lambda app=app: app.state.n == cut - 1)  # type: ignore[misc]
            app.repaint()
            await settled(pilot)
            found.append(shown_figures(app))
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (10, 3), (25, 5), (59, 19), (60, 20), (99, 33), (100, 34), (300, 90)])
async def test_no_size_is_refused(sweep_folder: Path, size: tuple[int, int]) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert len(screen_text(app).splitlines()) == size[1]
        await pilot.press("question_mark", "escape", "q")
    assert app.return_value == QUIT


async def test_the_screen_is_resized_while_it_runs(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "attach", glyphs="braille")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for columns, rows in ((80, 24), (10, 3), (200, 50), (120, 40)):
            await pilot.resize_terminal(columns, rows)
            await settled(pilot, lambda: app.size == Size(columns, rows))  # noqa: B023
            text = screen_text(app).splitlines()
            assert len(text) == rows and all(len(line) <= columns for line in text)
            assert rows < 20 or any("Q4_K_M" in line for line in text)


HOSTILE = ("\x1b]0;owned\x07", "[red]x[/red]", "\u202eabc\u2066", "日本語モデル" * 3, "a" * 300, "e\u0301\u0323" * 9)


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (120, 40)])
async def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path, size: tuple[int, int]) -> None:
    arms = [builders.Arm("Q8_0", id=name, error=name, fails="crashed", label_note=name) for name in HOSTILE]
    events = builders.events(*arms, notes=HOSTILE, host=builders.host(name=HOSTILE[0]))
    events[0] = msgspec.structs.replace(events[0], model=" ".join(HOSTILE))
    app = Monitor(recorded(tmp_path / "s", events), "attach")
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for key in ("j", "j", "j", "question_mark", "escape", "s"):
            await pilot.press(key)
        text = screen_text(app)
    assert all(line.isprintable() for line in text.splitlines())
    assert size == (40, 10) or "[red]x[/red]" in text


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_space_freezes_the_screen_and_the_collection_goes_on(tmp_path: Path) -> None:
    half = len(stream()) // 2
    folder = recorded(tmp_path / "s", stream()[:half])
    app = Monitor(folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app.state.n == half - 1)
        await pilot.press("space")
        assert "FROZEN" in screen_text(app)
        with open(folder / session.EVENTS, "ab") as file:
            file.writelines(map(e.encode, stream()[half:]))
        await settled(pilot)
        assert app.state.n == half - 1
        await pilot.press("space")
        await settled(pilot, lambda: app.state.n == len(stream()) - 1)


async def test_arrows_home_and_end_move_through_time(sweep_folder: Path) -> None:
    app, last = Monitor(sweep_folder, "attach"), stream()[-1].t
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app.state.t == last)
        await pilot.press("left", "left")
        await settled(pilot)
        assert app.cursor.t == pytest.approx(last - 10) and app.state.t <= last - 10
        await pilot.press("right", "right", "right")
        await settled(pilot, lambda: app.cursor.mode == "live")
        await pilot.press("home")
        await settled(pilot, lambda: app.state.t == 0)
        await pilot.press("end")
        await settled(pilot, lambda: app.state.t == last)


async def test_a_replay_runs_at_its_speed_pauses_and_ends(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "replay", speed=1e6)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, lambda: not app.cursor.playing)
        assert app.cursor.t == app.state.t == stream()[-1].t
        await pilot.press("home", "space")
        await settled(pilot, lambda: app.cursor.t == stream()[-1].t)


async def test_rows_are_selected_and_their_verdicts_spelled_out(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for down, up in (("tab", "shift+tab"), ("j", "k"), ("down", "up")):
            before = app.view.selected if app.view else ""
            await pilot.press(down)
            assert app.view is not None and app.view.selected != before
            await pilot.press(up)
            assert app.view is not None and app.view.selected == before
        while app.view.selected != "Q5_K_M":
            await pilot.press("j")
        assert "Q5_K_M gen [!!] swap 2.1%" in screen_text(app)


async def test_a_click_selects_a_row(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        y = next(i for i, line in enumerate(screen_text(app).splitlines()) if line.startswith("│ !Q4_K_S"))
        await pilot.click(offset=(5, y))
        await pilot.pause()
        assert app.view is not None and app.view.selected == "Q4_K_S"


async def test_s_writes_three_files_and_says_where(tmp_path: Path) -> None:
    app = Monitor(recorded(tmp_path / "s", stream()), "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("s")
        await pilot.pause()
        assert "snapshot: " in screen_text(app)
    written = sorted((tmp_path / "s" / "snapshots").iterdir())
    assert [path.suffix for path in written] == [".json", ".svg", ".txt"]
    assert "quanttui" in written[2].read_text()


async def test_r_asks_for_the_selected_quant_once_more_and_a_recorded_sweep_says_how_it_comes_about(
    tmp_path: Path,
) -> None:
    folder = recorded(tmp_path / "s", stream())
    app = Monitor(folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.select("Q5_K_M")
        await pilot.press("r")
        await pilot.pause()
        assert "quanttui run --resume" in screen_text(app)
    (asked,) = session.requests(folder, 0)
    assert (asked.request, asked.arm) == ("rerun", "Q5_K_M")


async def test_what_has_not_been_measured_cannot_be_measured_again(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "s", builders.events(builders.Arm("Q8_0"), builders.Arm("Q2_K", planned_only=True)))
    app = Monitor(folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.select("Q2_K")
        await pilot.press("r")
        await pilot.pause()
        assert "has not been measured yet" in screen_text(app)
    assert not list(session.requests(folder, 0))


async def test_t_goes_round_the_themes(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        seen = []
        for _ in range(5):
            await pilot.press("t")
            await pilot.pause()
            seen.append(app.theme)
            assert f"theme {app.theme}" in screen_text(app)
        assert set(seen) == {"dusk", "paper", "blue-orange", "ansi", "contrast"}


async def test_keys_of_one_packet_go_to_the_screen_that_the_first_of_them_opens(sweep_folder: Path) -> None:
    """Over a slow link a note's first letters come together with the key that asks for it: `n` and `o` have meanings
    of their own on the monitor."""
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        order = screen_text(app)
        for key in "Snow":
            app.post_message(events.Key(key, key))
        await settled(pilot, lambda: "> now_" in screen_text(app))
        await pilot.press("escape")
        await settled(pilot, lambda: not isinstance(app.screen, Ask))
        assert body(screen_text(app)) == body(order)


async def test_help_names_every_key_that_the_footer_does(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        text = screen_text(app)
        for _ in range(6):
            await pilot.press("pagedown")
            text += screen_text(app)
        for action in keys.ACTIONS:
            if action.priority:
                assert f"{keys.shown(action)} " in text
        await pilot.press("escape")
        assert not isinstance(app.screen, Help)


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+z", "ctrl+q"])
async def test_without_a_sweep_of_its_own_the_screen_closes_at_once(sweep_folder: Path, key: str) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press(key)
    assert app.return_value == QUIT


async def test_an_unknown_or_broken_theme_is_a_notice(
    sweep_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text("[colours]\nbad = 'reddish'")
    monkeypatch.setattr(paths, "themes", lambda: (paths.shipped() / "themes", tmp_path))
    app = Monitor(sweep_folder, "attach", theme="nightfall")
    async with app.run_test(size=(200, 50)) as pilot:
        await settled(pilot)
        text = screen_text(app)
    assert "mine.toml: colours.bad: must be #rrggbb" in text and "theme nightfall: no such theme" in text
    assert app.theme == "dusk"


# --- the sweep ------------------------------------------------------------------------------------------------------


class Sweep:
    """A sweep that appends the stream as fast as it can, then goes on until it is told to end."""

    def __init__(self, folder: Path) -> None:
        self.folder = recorded(folder, stream()[:1])
        self.ending = threading.Event()
        self.over = threading.Event()
        self.told = ""

    def run(self) -> int:
        with open(self.folder / session.EVENTS, "ab") as file:
            file.writelines(map(e.encode, stream()[1:]))
        self.ending.wait(30)
        self.over.set()
        return 0

    def stop(self) -> None:
        self.told = "stop"
        self.ending.set()

    def leave(self) -> None:
        self.told = "leave"
        self.ending.set()

    def monitor(self) -> Monitor:
        return Monitor(self.folder, "live", self.run, stop=self.stop, leave=self.leave)


@pytest.mark.parametrize(
    ("pressed", "told", "returned"),
    [
        (("q", "l"), "leave", LEAVE),
        (("q", "enter"), "leave", LEAVE),
        (("ctrl+c", "s"), "stop", STOP),
        (("ctrl+z", "down", "enter"), "stop", STOP),
    ],
)
async def test_q_asks_while_the_sweep_runs(tmp_path: Path, pressed: tuple[str, ...], told: str, returned: str) -> None:
    sweep = Sweep(tmp_path / "s")
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app.state.n == len(stream()) - 1)
        await pilot.press(pressed[0])
        assert isinstance(app.screen, Leave)
        await pilot.press(*pressed[1:])
    assert (sweep.told, app.return_value) == (told, returned)
    assert sweep.over.wait(10)


@pytest.mark.parametrize("key", ["escape", "q", "n"])
async def test_staying_tells_the_sweep_nothing(tmp_path: Path, key: str) -> None:
    sweep = Sweep(tmp_path / "s")
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("q", key)
        assert not isinstance(app.screen, Leave) and sweep.told == ""
        sweep.stop()
        assert sweep.over.wait(10)


async def test_once_the_sweep_is_over_q_quits_at_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s")
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        sweep.stop()
        await settled(pilot, lambda: not app.sweeping)
        await pilot.press("q")
    assert app.return_value == QUIT


async def test_who_asks_to_leave_before_there_is_a_frame_is_asked_once_there_is(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s")
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        app.view = None
        app.action_leave()
        await settled(pilot, lambda: isinstance(app.screen, Leave))
        assert app.sweeping and app.is_running
        sweep.stop()
        assert sweep.over.wait(10)


async def test_a_hang_up_ends_the_screen_and_not_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s")
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.hung_up()
        await pilot.pause()
    assert app.return_value == HUNG_UP
    assert app.sweeping and sweep.told == "" and not sweep.over.is_set()
    sweep.stop()
    assert sweep.over.wait(10)


def test_run_returns_while_the_sweep_goes_on(tmp_path: Path) -> None:
    """The event loop does not wait for the sweep's thread: whoever started the screen joins it."""
    sweep = Sweep(tmp_path / "s")
    app = sweep.monitor()

    async def leave(pilot: Pilot[str]) -> None:
        await settled(pilot)
        app.exit(HUNG_UP)

    begun = time.monotonic()
    assert app.run(headless=True, size=(80, 24), auto_pilot=leave) == HUNG_UP
    assert time.monotonic() - begun < 25 and not sweep.over.is_set()
    sweep.stop()
    assert sweep.over.wait(10)


async def test_an_error_of_the_sweep_is_told_and_does_not_end_the_screen(tmp_path: Path) -> None:
    def run() -> None:
        raise UserError("model.gguf: cannot be read")

    app = Monitor(recorded(tmp_path / "s", stream()), "live", run)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: "the sweep ended: model.gguf: cannot be read" in screen_text(app))
        assert app.is_running and not app.sweeping


async def test_what_the_screen_costs_is_on_it(sweep_folder: Path) -> None:
    app = Monitor(sweep_folder, "attach")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app.view is not None and app.view.own.cpu is not None)
        assert "% cpu" in screen_text(app)


def test_a_moment_of_no_session_is_an_error_before_any_screen(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no session"):
        Monitor(tmp_path, "attach")




# --- the quiet while repetitions are timed --------------------------------------------------------------------------


class Timed:
    """A sweep of this process that stands inside a timed repetition on all cores, and goes on event by event."""

    def __init__(self, folder: Path, upto: Callable[[e.Event], bool], **changes: Any) -> None:
        import psutil

        own = {"pid": os.getpid(), "pid_started": psutil.Process().create_time(), **changes}
        events = [msgspec.structs.replace(stream()[0], **own), *stream()[1:]]
        self.at = next(i for i, one in enumerate(events) if upto(one)) + 1
        self.events = events
        self.folder = recorded(folder, events[: self.at])
        self.ending = threading.Event()
        self.why: list[str] = []

    def monitor(self) -> Monitor:
        return Monitor(self.folder, "live", lambda: self.ending.wait(30), stop=self.ending.set, disturb=self.why.append)

    def until_done(self) -> list[e.Event]:
        """What comes next, up to the end of the repetition under way."""
        rest = self.events[self.at :]
        return rest[: next(i for i, one in enumerate(rest) if isinstance(one, e.UnitDone)) + 1]

    def write(self, *events: e.Event) -> None:
        with open(self.folder / session.EVENTS, "ab") as file:
            file.writelines(map(e.encode, events))


def decoding(event: e.Event) -> bool:
    return isinstance(event, e.Tokens) and event.unit.kind == "decode"


def scoring(event: e.Event) -> bool:
    return isinstance(event, e.UnitStarted) and event.unit.kind == "perplexity"


def painted(app: Monitor) -> list[str]:
    """What the app paints from now on."""
    frames: list[str] = []
    paint = app._paint

    def counting(due: str, pace: str = "") -> None:
        frames.append(due)
        paint(due, pace)

    app._paint = counting  # type: ignore[method-assign]
    return frames


@pytest.mark.parametrize("key", ["j", "space", "left", "t", "s", "question_mark", "q"])
async def test_a_key_in_a_timed_repetition_is_answered_at_once_and_disturbs_it(tmp_path: Path, key: str) -> None:
    sweep = Timed(tmp_path / "s", decoding)
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert sweep.why == []
        before = screen_text(app)
        await pilot.press(key)
        await settled(pilot)
        assert set(sweep.why) == {"a key was answered"}
        assert screen_text(app) != before
        sweep.ending.set()


async def test_a_key_without_a_meaning_disturbs_nothing(tmp_path: Path) -> None:
    sweep = Timed(tmp_path / "s", decoding)
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("y", "f5")
        await pilot.pause()
        assert sweep.why == []
        sweep.ending.set()


async def test_a_resized_terminal_disturbs_too(tmp_path: Path) -> None:
    sweep = Timed(tmp_path / "s", decoding)
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.resize_terminal(100, 34)
        await settled(pilot, lambda: app.size == Size(100, 34))
        assert set(sweep.why) == {"the terminal was resized"}
        sweep.ending.set()


@pytest.mark.parametrize("case", ["scoring", "a spare core", "the sweep is over", "attached"])
async def test_a_key_disturbs_nothing_where_nothing_of_ours_is_timed_on_all_cores(tmp_path: Path, case: str) -> None:
    spare = {"host": builders.host(cores=4, threads=4)} if case == "a spare core" else {}
    sweep = Timed(tmp_path / "s", scoring if case == "scoring" else decoding, **spare)
    app = Monitor(sweep.folder, "attach", disturb=sweep.why.append) if case == "attached" else sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        if case == "the sweep is over":
            sweep.ending.set()
            await settled(pilot, lambda: not app.sweeping)
        await pilot.press("j", "t", "question_mark", "escape")
        await settled(pilot)
        assert sweep.why == []
        sweep.ending.set()


async def test_inside_a_repetition_few_numbers_and_after_it_a_whole_frame(tmp_path: Path) -> None:
    """The follower tells of the end of another process's unit: the frame does not wait for the next second."""
    sweep = Timed(tmp_path / "s", decoding)
    app = Monitor(sweep.folder, "attach")
    frames = painted(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: "few" in frames)
        first = len(frames)
        await settled(pilot, lambda: len(frames) > first)
        assert set(frames[first:]) <= {"few", "whole"}
        await settled(pilot, lambda: time.monotonic() - app._pace._whole > 1.6)
        told = len(frames)
        sweep.write(*sweep.until_done())
        written = time.monotonic()
        await settled(pilot, lambda: "whole" in frames[told:])
        assert app._pace._whole - written < 1.0


async def test_a_sweep_of_this_process_waits_for_a_whole_frame_before_a_repetition(tmp_path: Path) -> None:
    """It shows what was recorded a moment before, and comes once: a short repetition is not kept waiting by each."""
    sweep = Timed(tmp_path / "s", decoding)
    app = sweep.monitor()
    frames = painted(app)
    app.paint_between()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app._rates.few and time.monotonic() - app._pace._whole > pace.ROOM)
        told = len(frames)
        *_, done = sweep.until_done()
        sweep.write(*sweep.until_done())
        await asyncio.to_thread(app.paint_between)
        assert frames[told:].count("whole") == 1
        assert app.state.running is None and app.state.n == done.n
        told = len(frames)
        await asyncio.to_thread(app.paint_between)
        assert frames[told:] == []
        sweep.ending.set()
    begun = time.monotonic()
    app.paint_between()
    assert time.monotonic() - begun < tui.PAINTING, "a screen that has ended is not waited for"


async def test_a_screen_that_has_not_seen_yet_that_a_repetition_comes_is_quiet_before_it_begins(tmp_path: Path) -> None:
    sweep = Timed(tmp_path / "s", lambda event: isinstance(event, e.ArmLoaded))
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app._settled and app._pace._whole > 0 and not app._rates.few)
        rest = sweep.events[sweep.at :]
        begins = next(i for i, one in enumerate(rest) if isinstance(one, e.PhaseStarted) and one.phase in TIMED)
        sweep.write(*rest[: begins + 1])
        await asyncio.to_thread(app.paint_between)
        assert app._rates.few and app.state.phase in TIMED
        sweep.ending.set()


async def test_a_frame_that_comes_too_late_for_the_gap_is_not_painted_into_the_repetition(tmp_path: Path) -> None:
    sweep = Timed(tmp_path / "s", decoding)
    app = sweep.monitor()
    frames = painted(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app._rates.few and "whole" in frames)
        told, released = len(frames), threading.Event()
        app._paint_now(time.monotonic() - 1, released.set)
        await settled(pilot, released.is_set)
        assert "whole" not in frames[told:]
        sweep.ending.set()


async def test_the_next_whole_frame_has_its_time_from_a_keys(tmp_path: Path) -> None:
    sweep = Timed(tmp_path / "s", decoding)
    app = sweep.monitor()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot, lambda: app._rates.few and app._whole_timer is not None)
        before = app._whole_timer
        await pilot.press("j")
        assert app._whole_timer is not None and app._whole_timer is not before
        sweep.ending.set()


@pytest.mark.parametrize(
    ("observer", "words"),
    [
        (e.Observer(live=0.0064, headless=0.001, pairs=7), "watching costs 0.6 % (measured)"),
        (e.Observer(live=-0.0021, headless=0.001, pairs=7), "watching costs -0.2 % (measured)"),
        (e.Observer(live=-0.0001, headless=0.001, pairs=7), "watching costs 0.0 % (measured)"),
        (None, "observer not measured: quanttui doctor --observer"),
    ],
)
async def test_the_status_line_tells_what_watching_was_measured_to_cost(
    tmp_path: Path, observer: e.Observer | None, words: str
) -> None:
    events = [msgspec.structs.replace(stream()[0], observer=observer), *stream()[1:]]
    app = Monitor(recorded(tmp_path / "s", events), "attach")
    async with app.run_test(size=(200, 50)) as pilot:
        await settled(pilot, lambda: app.view is not None and app.view.own.cpu is not None)
        await settled(pilot, lambda: "% cpu" in screen_text(app))
        assert words in screen_text(app)
        await pilot.press("question_mark")
        text = " ".join(screen_text(app).split())
        assert ("not measured on this machine" if observer is None else "median of 7 pairs") in text
