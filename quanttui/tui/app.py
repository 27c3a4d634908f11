"""The monitor as a Textual app: drains the log, moves the cursor, paints at its pace, and asks before it leaves.

The sweep is a callable handed in: it runs in a thread that outlives the screen, and nothing here waits for it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import psutil
from textual import events
from textual.actions import ActionParseResult
from textual.app import App
from textual.dom import DOMNode
from textual.geometry import Size
from textual.pilot import Pilot
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import Worker

from quanttui import paths, session, transport
from quanttui import state as fold
from quanttui.diagnosis import verdicts
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.summary import Summary, summarize
from quanttui.transport import FROZEN, LIVE, REPLAY, Cursor
from quanttui.tui import feed as log
from quanttui.tui import glyphs, theming, view
from quanttui.tui.pace import ORDINARY, Pace, rates
from quanttui.tui.panels import Charts
from quanttui.tui.parts import Own, View
from quanttui.tui.screens.monitor import DRAWN, NUMBERS, MonitorScreen
from quanttui.tui.screens.over import Help, Leave
from quanttui.tui.terminal import driver_class

NOTICE = 6.0
"""Seconds that a notice stays in the status line."""

CATCHING_UP = 0.02
"""Seconds between rounds of folding while the state is behind the cursor."""

QUIT, LEAVE, STOP, HUNG_UP = "quit", "leave", "stop", "hang-up"
"""What `Monitor.run()` returns: the screen was closed; the sweep is to go on without it; the sweep was asked to stop;
the terminal hung up or SIGTERM came, and the sweep goes on."""

_CELL = 12.2
"""Width of a cell in Rich's SVGs."""

_INDENTED = re.compile(r'x="([\d.]+)"( y="[\d.]+") textLength="([\d.]+)"([^>]*)>((?:&#160;)+)')
_FONTS = re.compile(r"@font-face\s*\{[^}]*\}")


class Lasting(ThreadPoolExecutor):
    """An executor that the event loop does not wait for when it ends: the sweep goes on, whoever started it joins."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class Monitor(App[str], inherit_bindings=False):
    """Watches a session, live, attached or replayed.

    Args:
        folder: the session's folder.
        mode: "live" with a sweep of this process, "attach" to somebody else's, "replay" of a recorded one.
        sweep: run in a thread once the screen is up. It must end by itself after `stop` or `leave` was called.
        stop, leave: ask the sweep to end, or to end so that it can go on elsewhere; called at most once.
        disturb: told why, when the screen answers a key while repetitions are timed on all cores: the one under way
            does not count.
        speed, at: of a replay: times the recorded pace; a time, a quant's name or "flag" to begin at.
        theme, glyphs: a theme's name; "auto" or a set's name.
        still: nothing moves and nothing of the screen's own cost is shown: for snapshots.

    `run()` returns QUIT, LEAVE, STOP or HUNG_UP; whoever called it then joins the sweep.

    Raises:
        UserError: no session, no such moment, theme or glyph set.
    """

    CSS_PATH = "monitor.tcss"
    TITLE = "quanttui"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[Any]] = []

    def __init__(
        self,
        folder: Path,
        mode: Literal["live", "attach", "replay"] = "live",
        sweep: Callable[[], object] | None = None,
        *,
        stop: Callable[[], object] | None = None,
        leave: Callable[[], object] | None = None,
        disturb: Callable[[str], object] | None = None,
        speed: float = 1.0,
        at: str | None = None,
        theme: str = theming.DEFAULT,
        glyphs: str = "auto",
        still: bool = False,
    ) -> None:
        self._themes, wrong = theming.load(paths.themes())
        super().__init__(driver_class=driver_class(self.hung_up))
        self.folder = folder
        self._mode, self._disturb = mode, disturb
        self._pace, self._rates = Pace(), ORDINARY
        self._alarms: set[tuple[str, str, str]] = set()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self.cursor = _cursor(folder, mode, speed, at, still)
        self.feed = log.Feed(folder, ended=self._unit_ended)
        self.feed.seek(self.cursor.t)
        self.view: View | None = None
        self._glyphs = _glyph_set(glyphs)
        self._sweep, self._stop, self._leave = sweep, stop, leave
        self._sweeping = threading.Event()
        self._still = still
        self._focused = True
        self._sized: Size | None = None
        self._remote = "SSH_CONNECTION" in os.environ
        self._end = log.end(folder)
        self._selected = ""
        self._summary = Summary("", None, None, (), "", ())
        self._charts = Charts()
        self._settled = self._over = self._chasing = False
        self._sought = True
        self._timer: Timer | None = None
        self._interval = 0.0
        self._ticked = time.monotonic()
        self._cost = _Cost()
        self._own = Own()
        self._notice, self._notice_level, self._notice_until = "", "info", 0.0
        for known in self._themes.values():
            self.register_theme(known.textual())
        if theme not in self._themes:
            wrong.append(f"theme {clean(theme, 40)}: no such theme: there are {', '.join(sorted(self._themes))}")
            theme = theming.DEFAULT
        self.theme = theme
        if wrong and not still:
            self._say("; ".join(wrong), "warn")

    # --- life -------------------------------------------------------------------------------------------------------

    def run(self, **options: Any) -> str | None:
        """Show the screen until it is closed. No mouse over SSH: its bytes leak into the shell on a lossy link."""
        options.setdefault("mouse", not self._remote)
        return super().run(**options)

    def get_default_screen(self) -> Screen[Any]:
        return MonitorScreen(self._glyphs)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theming.defaults()

    def on_mount(self) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._event_loop.set_default_executor(Lasting())
        if not self.is_headless:
            self._catch_signals()
        self._dress()
        self._keep_time(0.05)
        if self._sweep is not None:
            self._sweeping.set()
            self.run_worker(self._run_sweep, name="sweep", thread=True, exit_on_error=False)

    def on_unmount(self) -> None:
        self.feed.close()

    def _run_sweep(self) -> None:
        assert self._sweep is not None
        try:
            self._sweep()
        finally:
            self._sweeping.clear()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.name == "sweep" and event.worker.error is not None:
            error = event.worker.error
            self._say(f"the sweep ended: {clean(str(error) or type(error).__name__)}", "bad", stay=True)

    def _catch_signals(self) -> None:
        """SIGHUP and SIGTERM end the screen only. They stay caught afterwards: the sweep may still be joined."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()

        def end(number: int, frame: object) -> None:
            if self._running and not loop.is_closed():
                loop.call_soon_threadsafe(self.hung_up)
            elif number == signal.SIGTERM and self._sweeping.is_set() and self._stop is not None:
                self._stop()

        for name in ("SIGHUP", "SIGTERM"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), end)

    def hung_up(self) -> None:
        """The terminal is gone: end the screen."""
        self.exit(HUNG_UP)

    # --- frames -----------------------------------------------------------------------------------------------------

    def _keep_time(self, interval: float) -> None:
        if interval != self._interval:
            self._interval = interval
            if self._timer is not None:
                self._timer.stop()
            self._timer = self.set_interval(interval, self._tick)

    def _tick(self, ended: bool = False) -> None:
        """One frame: move the cursor, fold what has come, paint what is due.

        Args:
            ended: a repetition has only just ended.
        """
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        self.cursor = self.cursor.passed(passed, self._end) if self._settled else self.cursor
        self._settled = self.feed.advance(self.cursor.t)
        if not self._settled:
            if not self._chasing:
                self._chasing = True
                self.set_timer(CATCHING_UP, self._chase)
            return
        if self._sought or self._alarmed():
            self._sought = False
            self._pace.hurry()
        if self.feed.error:
            self._say(self.feed.error, "bad", stay=True)
        self._rates = wanted = rates(self._quiet, self._remote, self._focused)
        self._keep_time(wanted.numbers)
        self.feed.poll = log.POLL if wanted.few else min(1.0, max(log.POLL, wanted.numbers / 2))
        if self._waiting():
            return
        free = ended or (self.cursor.mode == LIVE and not view.is_timed(self.state))
        due = self._pace.due(now, wanted, free)
        if due:
            self._paint(due, wanted.words)

    def _alarmed(self) -> bool:
        """Whether something contaminates the unit under way that was not seen there before: no reason to wait for the
        next whole frame."""
        running = self.state.running
        if self.cursor.mode != LIVE or running is None:
            return False
        now = {(running.unit.arm, v.phase, v.code) for v in verdicts.live(self.state) if v.kind == "contaminated"}
        fresh = now - self._alarms
        self._alarms |= now
        return bool(fresh)

    @property
    def _quiet(self) -> bool:
        """Whether repetitions are timed on all cores, or may be, where the cursor stands at another moment."""
        if self.cursor.mode == LIVE:
            return view.is_quiet(self.state)
        return self._mode != REPLAY and not self._still and not self._over and view.fills_cores(self.state)

    def _unit_ended(self) -> None:
        """In the reader's thread: a whole frame hurts least right after a repetition."""
        if self._event_loop is not None and self._pace.welcomes(time.monotonic(), self._rates):
            with suppress(RuntimeError):  # the screen has ended meanwhile
                self._event_loop.call_soon_threadsafe(self.call_later, self._tick, True)

    def _disturbs(self, why: str) -> None:
        """What is painted now is painted out of turn: the repetition under way now, and the one when it is there."""
        self._tell_disturbed(why)
        self.call_after_refresh(self._tell_disturbed, why)

    def _tell_disturbed(self, why: str) -> None:
        if self._disturb is not None and self.sweeping and self._quiet:
            self._disturb(why)

    def _chase(self) -> None:
        self._chasing = False
        self._tick()

    def _waiting(self) -> bool:
        """Whether the terminal has yet to take what was painted before."""
        outlet = getattr(self._driver, "outlet", None)
        return outlet is not None and outlet.backlog > 0

    def _paint(self, due: str, pace: str = "") -> None:
        screen = self._monitor
        if due == "whole":
            self._over = self.state.t >= self._end and session.status(self.state) != "running"
            self._summary = summarize(self.state, over=self._over)
            self._charts = view.charts(self.state, self._summary, screen.chart_columns())
        if not self._still:
            self._own = self._cost.now(self._driver, self.feed.age if self.cursor.mode == LIVE else None, pace)
        if self._notice and time.monotonic() < self._notice_until:
            self._own = msgspec.structs.replace(self._own, notice=self._notice, level=self._notice_level)
        self.view = view.of(self.state, self._summary, self._charts, self.cursor, self._own, self._selected, self._over)
        screen.show(self.view, NUMBERS if due == "few" else DRAWN)

    def repaint(self) -> None:
        """A whole frame now: after a key, a change of size or theme."""
        if self._settled:
            self._pace.answered(time.monotonic())
            self._paint("whole")

    @property
    def state(self) -> fold.State:
        return self.feed.state

    @property
    def settled(self) -> bool:
        """Whether the state stands at the cursor, was painted, and everything has its place."""
        return self._settled and self.view is not None and self._monitor.arranged

    @property
    def sweeping(self) -> bool:
        """Whether the sweep of this process still runs."""
        return self._sweeping.is_set()

    @property
    def error(self) -> Exception | None:
        """What ended the app, if something did."""
        return self._exception

    @property
    def _monitor(self) -> MonitorScreen:
        screen = self.screen_stack[0]
        assert isinstance(screen, MonitorScreen)
        return screen

    def on_resize(self, event: events.Resize) -> None:
        if self._sized not in (None, event.size):  # the first size is told of as well, now and then twice
            self._disturbs("the terminal was resized")
        self._sized = event.size
        self.call_after_refresh(self.repaint)

    def on_app_blur(self) -> None:
        self._focused = False

    def on_app_focus(self) -> None:
        self._focused = True

    def _dress(self) -> None:
        self._monitor.dress(self._themes[self.theme].palette())

    def _say(self, text: str, level: str = "info", stay: bool = False) -> None:
        """A passing message in the status line."""
        self._notice, self._notice_level = clean(text), level
        self._notice_until = float("inf") if stay else time.monotonic() + NOTICE
        self._pace.hurry()

    # --- actions (ids of keys.ACTIONS) ------------------------------------------------------------------------------

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """What a key does: every one of ours paints."""
        self._disturbs("a key was answered")
        return await super().run_action(action, default_namespace, namespaces)

    def action_freeze(self) -> None:
        self._go(self.cursor.toggled(self.state.t))

    def action_earlier(self) -> None:
        self._move(-transport.STEP)

    def action_later(self) -> None:
        self._move(transport.STEP)

    def action_first(self) -> None:
        self._go(self.cursor.to_start())

    def action_last(self) -> None:
        self._end = log.end(self.folder)
        self._go(self.cursor.to_end(self._end))

    def _move(self, by: float) -> None:
        self._end = log.end(self.folder)
        self._go(self.cursor.moved(by, self.state.t, self._end))

    def _go(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.feed.seek(cursor.t)
        self._settled, self._sought = False, True
        self._tick()

    def action_next_quant(self) -> None:
        self._select(1)

    def action_previous_quant(self) -> None:
        self._select(-1)

    def _select(self, by: int) -> None:
        names = list(self.state.arms)
        if names:
            here = self._selected if self._selected in names else self.state.arm
            self.select(names[(names.index(here) + by) % len(names)] if here in names else names[0])

    def on_monitor_screen_picked(self, event: MonitorScreen.Picked) -> None:
        self._disturbs("a click was answered")
        self.select(event.arm)

    def select(self, arm: str) -> None:
        """Have the verdicts on this quant spelled out."""
        self._selected = arm
        self.repaint()

    def action_rerun(self) -> None:
        """Ask whoever runs the sweep to measure the selected quant's speed once more."""
        chosen = self._selected if self._selected in self.state.arms else self.state.arm
        arm = self.state.arms.get(chosen)
        if "speed" not in self.state.settings.tasks:
            self._say("this sweep measures no speed: there is nothing to run again", "warn")
        elif arm is None or arm.outcome in ("planned", "running"):
            name = clean(chosen, 24) or "no quant"
            self._say(f"{name}: has not been measured yet: select one that was (tab)", "warn")
        elif self._mode == REPLAY or self._over:
            how = f"quanttui run --resume {self.folder} runs it"
            self._ask("rerun", chosen, f"{clean(chosen, 24)}: asked for; {how}")
        else:
            self._ask("rerun", chosen, f"{clean(chosen, 24)}: runs again after the quant under way")
        self.repaint()

    def _ask(self, act: str, arm: str, said: str) -> None:
        """Leave a request for the sweep, from any viewer."""
        try:
            session.request(self.folder, act, arm)
        except OSError as error:
            self._say(f"{error.filename}: {error.strerror}: the request could not be left", "bad")
        else:
            self._say(said, "ok")

    def action_theme(self) -> None:
        names = sorted(self._themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self._dress()
        self._say(f"theme {self.theme}")
        self.repaint()

    def action_snapshot(self) -> None:
        if self.view is None:
            return
        try:
            stem = save(self.folder, self.view, *taken(self))
            self._say(f"snapshot: {stem}.svg, .txt, .json", "ok")
        except OSError as error:
            self._say(f"snapshot: {error.filename}: {error.strerror}", "bad")
        self.repaint()

    def action_help(self) -> None:
        if self.view is not None:
            self.push_screen(Help(self.view, self._glyphs, self._themes[self.theme].palette()))

    def action_leave(self) -> None:
        """Quit at once, or ask while a sweep of this process runs."""
        if not self.sweeping or self.view is None:
            self.exit(QUIT)
            return
        self.push_screen(Leave(self.view, self._glyphs, self._themes[self.theme].palette()), self._answered)

    def _answered(self, answer: str | None) -> None:
        act = {LEAVE: self._leave, STOP: self._stop}.get(answer or "")
        if act is not None and answer is not None:
            act()
            self.exit(answer)


class _Cost:
    """What this process costs, over stretches of at least a second."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._then = (time.monotonic(), time.process_time(), 0)
        self._own = Own()

    def now(self, driver: Any, age: float | None, pace: str) -> Own:
        written = getattr(getattr(driver, "outlet", None), "written", 0)
        here = (time.monotonic(), time.process_time(), written)
        elapsed = here[0] - self._then[0]
        if elapsed >= 1:
            cpu, sent = (here[1] - self._then[1]) / elapsed, (here[2] - self._then[2]) / elapsed
            self._own = Own(cpu, float(self._process.memory_info().rss), sent)
            self._then = here
        return msgspec.structs.replace(self._own, age=age, pace=pace or self._own.pace)


def _cursor(folder: Path, mode: str, speed: float, at: str | None, still: bool) -> Cursor:
    """Where the screen begins: the tail, or the named moment of a replay."""
    if still:
        return Cursor(FROZEN, log.end(folder) if at is None else _moment(folder, at), speed, False)
    if mode != REPLAY:
        return Cursor()
    return Cursor(REPLAY, 0.0 if at is None else _moment(folder, at), speed, True)


def _moment(folder: Path, at: str) -> float:
    when = transport.seconds(at)
    if when is not None:
        return when
    reader = session.Reader(folder)
    try:
        return transport.locate(reader.events(), at, flagged)
    finally:
        reader.close()


def flagged(state: fold.State) -> bool:
    """Whether something is doubtful or has failed: what `--at flag` looks for."""
    arm = state.arms.get(state.arm)
    if arm is None:
        return False
    if any(note.level == "bad" for note in state.notes):
        return True
    settled = {span.phase for span in state.spans if span.arm == arm.id and span.end is not None}
    return any(
        one.kind == "contaminated" or (one.kind == "caution" and one.phase in settled)
        for one in verdicts.of_arm(state, arm)
    )


def _glyph_set(option: str) -> glyphs.Glyphs:
    return glyphs.choose(option, os.environ)


# --- snapshots ------------------------------------------------------------------------------------------------------


def screen_text(app: App[Any]) -> str:
    """The screen as lines of text, blanks at their ends left out."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def taken(app: Monitor) -> tuple[str, str, str]:
    """The screen now as SVG (no fonts from the network), as text, and its view as JSON."""
    svg = _FONTS.sub("", app.export_screenshot(title=clean(f"quanttui {app.folder.name}")))
    return _INDENTED.sub(_unindented, svg), screen_text(app), as_json(app.view)


def _unindented(found: re.Match[str]) -> str:
    """A run of text begins at its first visible character: not every viewer keeps blanks in front of one."""
    by = found[5].count("&") * _CELL
    return f'x="{float(found[1]) + by:.1f}"{found[2]} textLength="{float(found[3]) - by:.1f}"{found[4]}>'


def as_json(shown: View | None) -> str:
    """A view as JSON; numbers that JSON has no way to write are null."""
    return msgspec.json.format(msgspec.json.encode(shown), indent=1).decode() + "\n"


def save(folder: Path, shown: View, svg: str, text: str, content: str) -> Path:
    """Write a snapshot's three files into the session's snapshots/; returns their common stem.

    Raises:
        OSError: they cannot be written.
    """
    place = folder / "snapshots"
    place.mkdir(exist_ok=True)
    stem = place / f"{shown.clock.replace(':', '')}-{shown.t % 1 * 1000:03.0f}"
    for kind, words in (("svg", svg), ("txt", text), ("json", content)):
        stem.with_name(f"{stem.name}.{kind}").write_text(words, encoding="utf-8")
    return stem


def snapshot(
    folder: Path,
    at: str | None,
    size: tuple[int, int],
    theme: str = theming.DEFAULT,
    glyphs: str = "braille",
) -> tuple[str, str, str]:
    """The screen of a session at a moment, without a terminal: SVG, text, JSON.

    Args:
        at: a time, a quant's name, or "flag"; None: the end.
        size: columns and rows.

    Raises:
        UserError: no session, no such moment.
    """
    app = Monitor(folder, theme=theme, glyphs=glyphs, at=at, still=True)
    found: list[tuple[str, str, str]] = []

    async def take(pilot: Pilot[str]) -> None:
        while not app.settled:
            await pilot.pause(CATCHING_UP)
        app.repaint()
        await pilot.pause()
        found.append(taken(app))
        app.exit(QUIT)

    app.run(headless=True, size=size, auto_pilot=take)
    if not found:
        raise UserError(f"{folder}: no snapshot could be taken: {clean(str(app.error))}")
    return found[0]
