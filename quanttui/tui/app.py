"""The monitor as a Textual app: drains the log, moves the cursor, paints at its pace, and asks before it leaves.

The sweep is a callable handed in: it runs in a thread that outlives the screen, and nothing here waits for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from rich.style import Style
from textual import events
from textual.actions import ActionParseResult
from textual.app import App
from textual.dom import DOMNode
from textual.geometry import Size
from textual.pilot import Pilot
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import Worker

from quanttui import flags, paths, session, transport
from quanttui import state as fold
from quanttui.diagnosis import verdicts
from quanttui.errors import UserError
from quanttui.format import clean, size
from quanttui.remote.mirror import LAGS, Link
from quanttui.summary import Known, Summary, summarize
from quanttui.transport import LIVE, Cursor
from quanttui.tui import evidence, glyphs, keys, snapshot, theming, view
from quanttui.tui import feed as log
from quanttui.tui import keymap as user_keys
from quanttui.tui.cost import Cost
from quanttui.tui.pace import ORDINARY, Pace, Rates, rates
from quanttui.tui.panels import Charts
from quanttui.tui.parts import Own, View
from quanttui.tui.screens.arm import ArmPage
from quanttui.tui.screens.compare import ComparePage
from quanttui.tui.screens.monitor import DRAWN, NUMBERS, MonitorScreen
from quanttui.tui.screens.over import Ask, Help, Leave, Palette, Sure
from quanttui.tui.screens.page import Page, Scene
from quanttui.tui.screens.sessions import SessionsPage
from quanttui.tui.terminal import driver_class

NOTICE = 6.0
"""Seconds that a notice stays in the status line."""

CATCHING_UP = 0.02
"""Seconds between rounds of folding while the state is behind the cursor."""

PROGRESS = 2_000
"""Events waiting to be folded from which on the screen says how far it is."""

LOOKING, PAINTING = 0.02, 0.3
"""Seconds for which a repetition waits, at most: for a look at the log, and for a frame."""

BETWEEN = 0.2
"""Seconds between looks for the end of another process's repetition, where whole frames wait for it."""

SOON = 1.0
"""Seconds: where whole frames are no further apart, none is hurried."""

LIVES = 0.95
"""Seconds for which a writer that lived is taken to live."""

STEADY = 0.95
"""Seconds for which charts keep their bounds."""

PATIENT = Rates(1.0, 60.0)
"""How often it says so: what was read is painted seldom, for painting takes from the reading."""

QUIT, LEAVE, STOP, HUNG_UP = "quit", "leave", "stop", "hang-up"
"""What `Monitor.run()` returns: the screen was closed; the sweep is to go on without it; the sweep was asked to stop,
by a key or by SIGINT; the terminal hung up or SIGTERM came, and the sweep goes on."""

Mode = Literal["live", "attach", "replay"]


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
        stop, leave: ask the sweep to end, or to end so that it can go on elsewhere.
        disturb: told why, when the screen answers a key while repetitions are timed on all cores: the one under way
            does not count.
        speed, at: of a replay: times the recorded pace; a time, a quant's name or "flag" to begin at.
        theme, glyphs, form: a theme's name; "auto" or a set's name; "auto" or a layout's name.
        keymap: the user's own keys by action, as config.toml has them.
        mouse: whether the mouse is listened to.
        sessions: the folder of all sessions, for the list of them.
        link: how the session of another machine, whose mirror `folder` is, is connected.
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
        mode: Mode = "live",
        sweep: Callable[[], object] | None = None,
        *,
        stop: Callable[[], object] | None = None,
        leave: Callable[[], object] | None = None,
        disturb: Callable[[str], object] | None = None,
        speed: float = 1.0,
        at: str | None = None,
        theme: str = theming.DEFAULT,
        glyphs: str = "auto",
        form: str = "auto",
        keymap: Mapping[str, str] = {},
        mouse: bool = True,
        sessions: Path | None = None,
        link: Callable[[], Link] | None = None,
        still: bool = False,
    ) -> None:
        self._themes, wrong = theming.load(paths.themes())
        bare = evidence.settled(os.environ) == "none"  # else Textual greys the terminal's own colours: black on black
        super().__init__(driver_class=driver_class(self.hung_up), ansi_color=bare or None)
        self.folder = folder
        self._sessions, self._link = sessions, link
        self._disturb = disturb
        self._pace, self._rates = Pace(), ORDINARY
        self._alarms: set[tuple[str, str, str]] = set()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._early: int | None = None
        self._leaving = False
        self._still = still
        self.cursor = _cursor(folder, mode, speed, at, still)
        self.feed = log.Feed(folder, ended=self._unit_ended)
        self.view: View | None = None
        self._glyphs, self._form = _glyph_set(glyphs), form
        self._sweep, self._stop, self._leave = sweep, stop, leave
        self._sweeping = threading.Event()
        self._mouse = mouse
        self._focused = True
        self._sized: Size | None = None
        self._aimed: Screen[Any] | None = None
        self._remote = "SSH_CONNECTION" in os.environ
        self._selected = self._order = ""
        self._flag: flags.Flag | None = None
        self._summary, self._known = Summary("", None, None, (), "", ()), Known()
        self._charts = Charts()
        self._drawn: tuple[object, float] = None, 0.0
        self._lived: tuple[object, float, str] = None, 0.0, ""
        self._ended = False
        self._settled = self._over = self._chasing = False
        self._sought = True
        self._timer: Timer | None = None
        self._whole_timer: Timer | None = None
        self._interval = 0.0
        self._ticked = time.monotonic()
        self._cost = Cost()
        self._own = Own()
        self._notice, self._notice_level, self._notice_until = "", "info", 0.0
        if theme not in self._themes:
            wrong.append(f"theme {clean(theme, 40)}: no such theme: there are {', '.join(sorted(self._themes))}")
            theme = theming.DEFAULT
        self._themes = theming.usable(self._themes, evidence.settled(os.environ))
        for known in self._themes.values():
            self.register_theme(known.textual())
        self.theme = theme if theme in self._themes else next(iter(self._themes))
        self._keymap: dict[str, str] = {}
        try:
            chosen = user_keys.check(keymap, {action.id: action.keys for action in keys.ACTIONS})
        except UserError as error:
            wrong.append(f"config.toml: {error}")
        else:
            self._keymap = {name: " ".join(map(user_keys.shown, chosen[name])) for name in keymap}
            self.set_keymap({name: ",".join(chosen[name]) for name in keymap})
        if wrong and not still:
            self._say("; ".join(wrong), "warn")

    # --- life -------------------------------------------------------------------------------------------------------

    def run(self, **options: Any) -> str | None:
        """Show the screen until it is closed."""
        options.setdefault("mouse", self._mouse)
        self._catch_signals()
        return super().run(**options)

    def get_default_screen(self) -> Screen[Any]:
        return MonitorScreen(self._glyphs, self._form)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theming.defaults()

    def on_mount(self) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._event_loop.set_default_executor(Lasting())
        if not self.is_headless:
            self._catch_signals()  # anew: a driver may have had handlers of its own meanwhile
        self._dress()
        self._keep_time(0.05)
        if self._sweep is not None:
            self._sweeping.set()
            self.run_worker(self._run_sweep, name="sweep", thread=True, exit_on_error=False)
        if self._early is not None:
            self._end_by(self._early)

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
        """SIGHUP and SIGTERM end the screen only, SIGINT the sweep as well: ctrl-c is a key, but not before the screen
        stands. They stay caught afterwards: the sweep may still be joined."""
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGHUP", "SIGTERM", "SIGINT"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), self._told)

    def _told(self, number: int, frame: object = None) -> None:
        """A signal came, whatever was being done."""
        loop = self._event_loop
        if loop is None:
            self._early = number
        elif self._running and not loop.is_closed():
            loop.call_soon_threadsafe(self._end_by, number)
        elif number in (signal.SIGINT, signal.SIGTERM):
            self._stop_sweep()

    def _end_by(self, number: int) -> None:
        """End the screen as a signal asks for it."""
        if number == signal.SIGINT:
            self.exit(STOP if self._stop_sweep() else QUIT)
        else:
            self.hung_up()

    def _stop_sweep(self) -> bool:
        """Have the sweep of this process end, if there is one."""
        if self._sweeping.is_set() and self._stop is not None:
            self._stop()
            return True
        return False

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
        self._ended = self._ended or ended  # kept until all that was read with it is folded
        if self._settled and self.cursor.playing and (self.feed.whole or self.cursor.t != 0.0):
            self.cursor = self.cursor.passed(passed, self.end)
        behind = self.feed.waiting > PROGRESS
        self._settled = self.feed.advance(self.cursor.t, log.BUSY if behind else log.BUDGET)
        self._settled = self._settled and (self.feed.whole or not self._still)
        if not self._settled or not self.feed.whole:
            self._catch_up(now)
        if not self._settled:
            return
        if self._sought or (self._rates.whole > SOON and self._alarmed()):
            self._sought = False
            self._pace.hurry()
        if self.feed.error:
            self._say(self.feed.error, "bad", stay=True)
        self._rates = wanted = rates(self._quiet, self._remote, self._focused, self._is_still)
        self._keep_time(wanted.numbers)
        awaits = wanted.few and not self.sweeping
        self.feed.poll = BETWEEN if awaits else min(1.0, max(log.POLL, wanted.numbers / 2))
        if self._waiting():
            return
        free = self._ended or not view.is_timed(self.feed.tail)
        self._ended = False
        due = self._pace.due(now, wanted, free)
        if due:
            self._paint(due, wanted.words)
        if due == "whole":
            self._keep_whole()

    def _keep_whole(self) -> None:
        """Come back when the next whole frame is due: the looks for numbers may all lie just before that."""
        if self._whole_timer is not None:
            self._whole_timer.stop()
        self._whole_timer = self.set_timer(self._rates.whole, self._tick) if self._rates.few else None

    def _catch_up(self, now: float) -> None:
        """Come back soon: more of the log is there than was folded. Where that takes long, show how far it is."""
        if not self._chasing:
            self._chasing = True
            self.set_timer(0.001 if self.feed.waiting > PROGRESS else CATCHING_UP, self._chase)
        if self.feed.waiting > PROGRESS and not self._still and not self._waiting():
            due = self._pace.due(now, PATIENT)
            if due:
                self._paint(due)

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
        running = not self.cursor.recorded and not self._still and not self.feed.tail.closed
        return running and self.feed.tail.fills_cores

    @property
    def _is_still(self) -> bool:
        """Whether what is shown changes by keys alone: a moment that stands, or a session that is over."""
        stands = self.cursor.t is not None and not self.cursor.playing
        notice = self._notice and time.monotonic() < self._notice_until
        return self.feed.whole and not notice and (stands or (self._over and self.cursor.mode == LIVE))

    def _unit_ended(self) -> None:
        """In the reader's thread: a whole frame hurts least right after a repetition. A sweep of this process makes
        room for it."""
        loop = self._event_loop  # there is one once the screen is up
        if loop is not None and not self.sweeping and self._pace.welcomes(time.monotonic(), self._rates):
            with suppress(RuntimeError):  # the screen has ended meanwhile
                loop.call_soon_threadsafe(self.call_later, self._tick, True)

    def paint_between(self) -> None:
        """In the sweep's thread, while no repetition is timed: a whole frame, if one may come."""
        loop = self._event_loop
        if loop is None or not self._running or not self._pace.welcomes(time.monotonic(), self._rates, waits=True):
            return
        self.feed.look(LOOKING)
        painted = threading.Event()
        with suppress(RuntimeError):  # the screen has ended meanwhile
            until = time.monotonic() + PAINTING
            loop.call_soon_threadsafe(self.call_later, self._paint_now, until, painted.set)
            painted.wait(PAINTING)

    def _paint_now(self, until: float, painted: Callable[[], object]) -> None:
        """A whole frame, where it can be painted before the sweep goes on: none is left for the repetition."""
        if time.monotonic() < until and not self._waiting():
            self._pace.hurry()
            self._tick(ended=True)
        self.call_after_refresh(painted)

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
        if not self.screen_stack:  # the screens go before the app does: a timer may still come
            return
        tail = self.feed.tail if self.feed.state is not self.feed.tail else None
        if due == "whole":
            at_end = self.feed.whole and self.state.n >= self.feed.tail.n
            self._over = at_end and self._status() != "running"
            self._summary = summarize(self.state, self._over, self._known)
            self._draw_charts(tail)
        if not self._still:
            age = self.feed.age if self.cursor.mode == LIVE else None
            self._own = self._cost.now(self._driver, age, pace, self._log_words())
        own = self._own
        if self.feed.waiting > PROGRESS and not self._still:
            said = f"reading the log: {self.feed.share * 100:.0f} %"
            own = msgspec.structs.replace(own, notice=said, level="info")
        elif self._notice and time.monotonic() < self._notice_until:
            own = msgspec.structs.replace(own, notice=self._notice, level=self._notice_level)
        elif (link := self._linked()) is not None and (link.status != "connected" or (link.behind or 0.0) >= LAGS):
            own = msgspec.structs.replace(own, notice=link.words, level="warn")
        self.view = view.of(
            self.state, self._summary, self._charts, self.cursor, own, self._selected, self._over, tail, self._order,
            self._keymap,
        )  # fmt: skip
        page = next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Page)), None)
        if page is None:
            self._monitor.show(self.view, NUMBERS if due == "few" else DRAWN)
        elif due == "whole":
            page.follow(self.scene)
        if self._leaving:
            self._leaving = False
            self.action_leave()

    def _draw_charts(self, tail: fold.State | None) -> None:
        """New charts, and so new bounds, at most once a second while nobody goes to another moment."""
        columns, now = self._monitor.chart_columns(), time.monotonic()
        place = self.state.arm, self.cursor.t, columns, self.folder
        if place != self._drawn[0] or now - self._drawn[1] >= STEADY or self._still:
            self._charts = view.charts(self.state, self._summary, columns, tail)
            self._drawn = place, now

    @property
    def scene(self) -> Scene:
        """What a page is made of now."""
        assert self.view is not None
        return Scene(self.folder, self.state, self.feed.tail, self._summary, self.view)

    def _status(self) -> str:
        """running, done, interrupted or empty; whether the writer lives is asked again after a second."""
        tail, now = self.feed.tail, time.monotonic()
        place = self.folder, tail.writer, tail.closed
        if place != self._lived[0] or now - self._lived[1] >= LIVES:
            self._lived = place, now, session.status(tail, self.folder)
        return self._lived[2]

    def _linked(self) -> Link | None:
        return self._link() if self._link is not None else None

    def _log_words(self) -> str:
        """The log's size, and whether somebody writes it."""
        tail = self.feed.tail
        if (link := self._linked()) is not None:
            return link.words
        writer = f"writer {tail.writer[0]} {'alive' if self._status() == 'running' else 'ended'}" if tail.writer else ""
        with suppress(OSError):
            return f"{writer}  log {size((self.folder / session.EVENTS).stat().st_size)} {tail.n + 1} events"
        return writer

    def repaint(self) -> None:
        """A whole frame now: after a key, a change of size or theme."""
        if self._settled:
            self._pace.answered(time.monotonic())
            self._paint("whole")
            self._keep_whole()

    @property
    def state(self) -> fold.State:
        return self.feed.state

    @property
    def end(self) -> float:
        """Session time of the last event that is known."""
        return self.feed.tail.t

    @property
    def settled(self) -> bool:
        """Whether the state stands at the cursor, was painted, and everything has its place."""
        top = self.screen
        placed = top.arranged if isinstance(top, Page) else self._monitor.arranged
        return self._settled and self.feed.whole and self.view is not None and placed

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

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            self._aimed = self.screen
        await super().on_event(event)

    def on_key(self, event: events.Key) -> None:
        """A key that came in one packet with the key that opened a screen went to the screen below: it goes once more
        to the one that stands there now."""
        if self._aimed is not self.screen:
            event.prevent_default()
            self.post_message(events.Key(event.key, event.character))

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
        for screen in self.screen_stack:
            if isinstance(screen, MonitorScreen | Page):
                screen.dress(self.colours)

    @property
    def colours(self) -> dict[str, Style]:
        """A style for each role, of the theme that is on."""
        return self._themes[self.theme].palette()

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

    # the time cursor

    def action_freeze(self) -> None:
        self._go(self.cursor.toggled(self.state.t, self.end))

    def action_earlier(self) -> None:
        self._move(-transport.STEP)

    def action_later(self) -> None:
        self._move(transport.STEP)

    def action_far_earlier(self) -> None:
        self._move(-transport.LEAP)

    def action_far_later(self) -> None:
        self._move(transport.LEAP)

    def action_first(self) -> None:
        self._to(0.0)

    def action_last(self) -> None:
        self._to(self.end)

    def action_tenth(self, tenth: int) -> None:
        self._to(self.end * tenth / 10)

    def action_next_phase(self) -> None:
        self._to_edge(transport.phases(self.feed.tail), True, "phase")

    def action_previous_phase(self) -> None:
        self._to_edge(transport.phases(self.feed.tail), False, "phase")

    def action_next_turn(self) -> None:
        self._to_edge(transport.quants(self.feed.tail), True, "quant")

    def action_previous_turn(self) -> None:
        self._to_edge(transport.quants(self.feed.tail), False, "quant")

    def action_next_flag(self) -> None:
        self._to_flag(True)

    def action_previous_flag(self) -> None:
        self._to_flag(False)

    def action_faster(self) -> None:
        self._play(2.0)

    def action_slower(self) -> None:
        self._play(0.5)

    def _play(self, times: float) -> None:
        if self.cursor.t is None:
            self._say("live: go back in time first (left, home, 0-9), then + plays from there")
        self._go(self.cursor.faster(times))

    def _move(self, by: float) -> None:
        self._go(self.cursor.moved(by, self.state.t, self.end))

    def _to(self, t: float) -> None:
        self._go(self.cursor.to(t, self.end))

    def _to_edge(self, edges: list[float], forward: bool, name: str) -> None:
        found = transport.neighbour(edges, self.state.t, forward)
        if found is not None:
            self._to(found)
        elif forward:
            self._to(self.end)
        else:
            self._say(f"no {name} began before this")
            self.repaint()

    def _to_flag(self, forward: bool) -> None:
        """The next doubtful moment: where a verdict grew out of a contaminated stretch, the moment it appeared."""
        tail = self.feed.tail
        known = flags.doubtful(tail, summarize(tail, bool(tail.closed), self._known))
        here, last = self.state.t, self._flag
        if last is not None and last in known and last.t <= here <= max(last.t, last.until):
            index = known.index(last) + (1 if forward else -1)
            found = known[index] if 0 <= index < len(known) else None
        else:
            t = transport.neighbour([one.t for one in known], here, forward)
            found = next((one for one in known if one.t == t), None)
        if found is None:
            other = "N goes back to the last one" if forward else "n goes to the next one"
            count = f"{len(known)} in this session: {other}" if known else "none in this session"
            self._say(f"no {'later' if forward else 'earlier'} flag; {count}")
            self.repaint()
            return
        t = found.t
        if found.code:
            flag = found
            t = self.feed.find(found.t, found.until, lambda state: flags.stands(state, flag))
        self._to(t)
        self._flag = found
        self._selected = found.arm or self._selected
        self._say(f"{found.glyph} {found.text}", found.level)

    def _go(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._flag = None
        self.feed.seek(cursor.t)
        self._settled, self._sought = False, True
        self._tick()
        if cursor.t is None and not self._settled:  # what is known of the tail is true, if not the very last of it
            self._paint("whole")

    # what is looked at

    def action_next_quant(self) -> None:
        self._select(1)

    def action_previous_quant(self) -> None:
        self._select(-1)

    def _select(self, by: int) -> None:
        names = [row.id for row in self.view.rows] if self.view else []
        if names:
            here = self.chosen
            self.select(names[(names.index(here) + by) % len(names)] if here in names else names[0])

    @property
    def chosen(self) -> str:
        """The quant that is selected, else the one under way."""
        return self._selected if self._selected in self.state.arms else self.state.arm

    def on_monitor_screen_picked(self, event: MonitorScreen.Picked) -> None:
        self._disturbs("a click was answered")
        self.select(event.arm)

    def on_monitor_screen_moved(self, event: MonitorScreen.Moved) -> None:
        self._disturbs("the mouse was answered")
        if event.t is not None:
            self._to(event.t)
        else:
            self._move(event.by)

    def select(self, arm: str) -> None:
        """Have the verdicts on this quant spelled out."""
        self._selected = arm
        self.repaint()

    def action_arm(self) -> None:
        if self.view is not None and self.chosen:
            self.push_screen(ArmPage(self._glyphs, self.colours, self.scene, self.chosen), self._returned)

    def action_compare(self) -> None:
        if self.view is not None and len(self.state.arms) > 1:
            self.push_screen(ComparePage(self._glyphs, self.colours, self.scene, self._measured()), self._returned)
        else:
            self._say("there is one quant only: w lists other sessions to compare with")
            self.repaint()

    def _measured(self) -> str:
        """The selected quant, else the last one that there is something to compare of."""
        known = [one.id for one in self._summary.arms if one.decode is not None or one.perplexity is not None]
        return self.chosen if self.chosen in known or not known else known[-1]

    def action_sessions(self) -> None:
        if self.view is not None and self._sessions is not None:
            page = SessionsPage(self._glyphs, self.colours, self.scene, self._sessions, self.sweeping)
            self.push_screen(page, self._returned)

    def _returned(self, answer: str | None) -> None:
        """Back from a page: to this session, or to another one that was chosen there."""
        if answer:
            self.watch_session(Path(answer))
        self.call_after_refresh(self.repaint)

    def watch_session(self, folder: Path) -> None:
        """Go over to another session: live where it runs, else from its end."""
        try:
            feed = log.Feed(folder, ended=self._unit_ended)
        except UserError as error:
            self._say(str(error), "bad")
            return
        self.feed.close()
        self.folder, self.feed = folder, feed
        running = session.status(session.load(folder), folder) == "running"
        self.cursor = Cursor() if running else Cursor(session.end(folder), recorded=True)
        self._selected, self._flag, self.view = "", None, None
        self._charts, self._summary, self._known = Charts(), Summary("", None, None, (), "", ()), Known()
        self._settled, self._sought, self._over = False, True, False
        self._tick()

    def action_order(self) -> None:
        orders = list(view.ORDERS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self.repaint()

    def action_zoom(self) -> None:
        self._monitor.zoom(1)
        self.call_after_refresh(self.repaint)

    def action_unzoom(self) -> None:
        self._monitor.zoom(0)
        self.call_after_refresh(self.repaint)

    def action_theme(self) -> None:
        names = sorted(self._themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self._dress()
        self._say(f"theme {self.theme}")
        self.repaint()

    # requests to the sweep, from any viewer

    def action_rerun(self) -> None:
        arm = self.state.arms.get(self.chosen)
        name = clean(self.chosen, 24) or "no quant"
        if "speed" not in self.state.settings.tasks:
            self._say("this sweep measures no speed: there is nothing to run again", "warn")
        elif arm is None or arm.outcome in ("planned", "running"):
            self._say(f"{name}: has not been measured yet: select one that was (tab)", "warn")
        elif self._is_over:
            self._ask("rerun", f"{name}: asked for; quanttui run --resume {self.folder} runs it", arm.id)
        else:
            self._ask("rerun", f"{name}: runs again after the quant under way", arm.id)
        self.repaint()

    def action_skip(self) -> None:
        """Skip the selected quant: at once where it is under way, else when its turn comes."""
        tail = self.feed.tail
        arm = tail.arms.get(self.chosen)
        if self._is_over:
            self._say("nothing runs: there is nothing to skip", "warn")
        elif arm is None or arm.outcome not in ("planned", "running"):
            self._say(f"{clean(self.chosen, 24) or 'no quant'}: is measured already: select another one (tab)", "warn")
        else:
            name = clean(arm.id, 24)
            said = f"skip {name}; what it has measured stays"
            self._sure(f"skip {name}?", said, "skip", f"{name}: is skipped", arm.id)
            return
        self.repaint()

    def action_pause(self) -> None:
        if self._is_over:
            self._say("nothing runs: there is nothing to pause", "warn")
        elif self.feed.tail.paused:
            self._ask("resume", "the sweep goes on")
        else:
            self._ask("pause", "paused after the unit under way: p goes on")
        self.repaint()

    def action_finish(self) -> None:
        if self._is_over:
            self._say("nothing runs: there is nothing to stop", "warn")
            self.repaint()
        else:
            said = f"the sweep ends after the unit under way: quanttui run --resume {self.folder} goes on"
            self._sure("stop the sweep after this unit?", "end it; --resume goes on", "finish", said)

    def action_tolerance(self) -> None:
        if self._is_over or self.view is None:
            self._say("nothing runs: the tolerance of a finished sweep stays", "warn")
            self.repaint()
            return
        now = 100 * self.feed.tail.settings.tolerance
        question = f"tolerance in % of the base's perplexity, now {now:g}"
        self.push_screen(Ask(question, self.view, self._glyphs, self.colours, _no_percentage), self._tolerate)

    def _tolerate(self, answer: str | None) -> None:
        if answer:
            value = answer.removesuffix("%").strip()
            self._ask("tolerance", f"the tolerance is {value} % from the next unit on", value=value)
            self.repaint()

    def _sure(self, question: str, yes: str, act: str, said: str, arm: str = "") -> None:
        """Ask first."""

        def answered(answer: str | None) -> None:
            if answer == "yes":
                self._ask(act, said, arm)
                self.repaint()

        if self.view is not None:
            self.push_screen(Sure(question, yes, self.view, self._glyphs, self.colours), answered)

    @property
    def _is_over(self) -> bool:
        """Whether nobody is there to answer a request."""
        return self._status() != "running"

    def _ask(self, act: str, said: str, arm: str = "", value: str = "") -> None:
        """Leave a request for the sweep."""
        try:
            session.request(self.folder, act, arm, value)
        except OSError as error:
            self._say(f"{error.filename}: {error.strerror}: the request could not be left", "bad")
        else:
            link = self._linked()
            late = link is not None and link.status != "connected"
            self._say(f"{said}, once {link.host} is connected again" if late and link is not None else said, "ok")

    # what lies over the screen, and beside it

    def action_help(self) -> None:
        if isinstance(self.screen, Page):
            self.screen.action_help()
        elif self.view is not None:
            self.push_screen(Help(self.view, self._glyphs, self.colours))

    def action_palette(self) -> None:
        if self.view is not None:
            scope = keys.EVERYWHERE if isinstance(self.screen, Page) else keys.MONITOR
            self.push_screen(Palette(self.view, self._glyphs, self.colours, scope), self._picked)

    async def _picked(self, answer: str | None) -> None:
        if answer:
            await self.run_action(answer)

    def action_snapshot(self) -> None:
        self._picture("")

    def action_annotate(self) -> None:
        if self.view is not None:
            self.push_screen(Ask("a note to the snapshot", self.view, self._glyphs, self.colours), self._annotated)

    def _annotated(self, note: str | None) -> None:
        if note is not None:
            self.call_after_refresh(self._picture, note)

    def _picture(self, note: str) -> None:
        if self.view is None:
            return
        try:
            said = snapshot.caption(self.folder, self.view, self.state, note)
            written = snapshot.save(
                snapshot.stem(self.folder, self.view), snapshot.taken(self, said, self.view)
            )
            self._say(f"snapshot: {written[0].with_suffix('')}.svg, .txt, .json", "ok")
        except OSError as error:
            self._say(f"snapshot: {error.filename}: {error.strerror}", "bad")
        self.repaint()

    def action_leave(self) -> None:
        """Quit at once, or ask while a sweep of this process runs: once there is something to ask on."""
        if not self.sweeping:
            self.exit(QUIT)
            return
        if self.view is None:
            self._leaving = True
            return
        self.push_screen(Leave(self.view, self._glyphs, self.colours), self._answered)

    def _answered(self, answer: str | None) -> None:
        act = {LEAVE: self._leave, STOP: self._stop}.get(answer or "")
        if act is not None and answer is not None:
            act()
            self.exit(answer)


def _no_percentage(text: str) -> str:
    try:
        fine = 0 < float(text.removesuffix("%")) < 100
    except ValueError:
        fine = False
    return "" if fine else "a percentage above 0 and below 100, such as 0.5"


def _cursor(folder: Path, mode: Mode, speed: float, at: str | None, still: bool) -> Cursor:
    """Where the screen begins: the tail, or the named moment of a replay."""
    if still:
        return Cursor(session.end(folder) if at is None else moment(folder, at), recorded=True)
    if mode != transport.REPLAY:
        return Cursor()
    return Cursor(0.0 if at is None else moment(folder, at), speed, playing=True, recorded=True)


def moment(folder: Path, at: str) -> float:
    """The session time that `at` names: a time, a quant (its start), or `flag`, the first doubt or failure.

    Raises:
        UserError: no such quant, or nothing was flagged.
    """
    when = transport.seconds(at)
    if when is not None:
        return when
    known = session.load(folder)
    if at.strip().lower() != "flag":
        return transport.start_of(known, at)
    found = flags.doubtful(known, summarize(known, over=bool(known.closed)))
    first = next((one for one in found if one.arm), None)
    if first is None:
        raise UserError(f"--at flag: nothing was flagged in {clean(folder.name, 80)}: give a time (12m)")
    if not first.code:
        return first.t
    feed = log.Feed(folder)
    try:
        return feed.find(first.t, first.until, lambda state: flags.stands(state, first), 60.0)
    finally:
        feed.close()


def _glyph_set(option: str) -> glyphs.Glyphs:
    return glyphs.choose(option, os.environ)


def picture(
    folder: Path,
    at: str | None,
    extent: tuple[int, int],
    theme: str = theming.DEFAULT,
    glyphs: str = "braille",
    note: str = "",
    form: str = "auto",
) -> tuple[str, str, str]:
    """The screen of a session at a moment, without a terminal: SVG, text, JSON.

    Args:
        at: a time, a quant's name, or "flag"; None: the end.
        extent: columns and rows.

    Raises:
        UserError: no session, no such moment.
    """
    app = Monitor(folder, theme=theme, glyphs=glyphs, form=form, at=at, still=True)
    found: list[tuple[str, str, str]] = []

    async def take(pilot: Pilot[str]) -> None:
        while not app.settled:
            await pilot.pause(CATCHING_UP)
        app.repaint()
        await pilot.pause()
        assert app.view is not None
        found.append(snapshot.taken(app, snapshot.caption(folder, app.view, app.state, note), app.view))
        app.exit(QUIT)

    app.run(headless=True, size=extent, auto_pilot=take)
    if not found:
        raise UserError(f"{folder}: no snapshot could be taken: {clean(str(app.error))}")
    return found[0]
