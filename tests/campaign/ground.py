"""What a fault is, what it is given, and how what became of it is judged.

`Ground` is one for a whole campaign: a temporary folder, a cache of made quants that all share, and an undisturbed
sweep to compare with. `Ground.site` gives one fault a session folder of its own, the programs started in it, and the
judgement; when it is left, nothing of it runs any more. Knows no fault.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from quanttui import events as e
from quanttui import session

from . import judge
from .judge import Qualities, Recorded
from .terminal import Terminal

CHECKOUT = Path(__file__).resolve().parents[2]

LONG = 120.0
"""Seconds after which a program that should have ended has not."""

SOON = 15.0
"""Seconds in which engines and all else are gone once their parent is."""

LOOK = 0.003
"""Seconds between looks at a process or a log of somebody else."""

FOREIGN = ("QUANTTUI_", "TEXTUAL", "COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "SSH_", "TMUX", "STY")
"""Of the environment that the campaign runs in, nothing of this reaches the programs."""

QUANTTUI = ("-m", "quanttui")

ENGINE = "quanttui.engine.child"

_CLOSED = b'"event":"session.closed"'

BASE = "F16"

SWEEP = (
    *("demo", "--no-ghosts", "--quants", f"{BASE},Q4_K_M", "--order", "given", "--schedule", "sequential"),
    *("-t", "1", "-p", "32", "-n", "8", "-r", "2", "--precision", "0", "--chunks", "8", "--ctx", "256"),
    *("-b", "512", "--tasks", "speed,ppl,kld,prompts", "--max-tokens", "4"),
)
"""A sweep of everything that leaves a result, as short as it can be: two arms, and units of each kind."""

PROMPTS = b"".join(
    b'{"id": "%d", "prompt": "%s", "check": {"regex": "the"}}\n' % (at, text)
    for at, text in enumerate((b"Once upon a time", b"The little dog", b"One day a girl"))
)

BRIEFLY = """\
import sys

if "quanttui.engine.child" in sys.orig_argv:
    from quanttui.probes import bandwidth

    bandwidth.measure.__defaults__ = (0.02, bandwidth.ROOT, 0.02)
"""
"""A sitecustomize: the bandwidth of memory, measured three times for each arm, would be most of so short a sweep."""

CRASHES = (
    b"Traceback (most recent call last)", b"quanttui: unexpected ", b"Exception ignored in", b"Exception in thread"
)  # fmt: skip
"""What no output may hold."""


class Missed(Exception):
    """The fault did not come, because the sweep was over before: it is tried at another moment."""


class Unusable(Exception):
    """The host does not allow this fault: one clear line."""


class Broken(Exception):
    """A program did not do what it has to do: one clear line."""


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    `lost_sweep`: what was on disk is no beginning of what is there now, or the sweep cannot be brought to its end.
    `lost_units`: results that were recorded and are gone. `wrong_resume`: something recorded was run again, or two
    went on at once, or the exit code is not what it has to be. `quality`: a result is not the undisturbed one's.
    `said`: all that is amiss in words; "" where nothing is.
    """

    lost_sweep: bool = False
    lost_units: int = 0
    wrong_resume: bool = False
    quality: bool = False
    said: str = ""

    @property
    def amiss(self) -> bool:
        return bool(self.lost_sweep or self.lost_units or self.wrong_resume or self.quality or self.said)


@dataclass(frozen=True)
class Fault:
    """Something that breaks. `run` does it once, at a moment that the random numbers tell.

    `times` is how often it is done in the long form, `short` in CI; `tells` says in a line what it is.

    `run` raises Missed, Unusable or Broken.
    """

    name: str
    group: str
    times: int
    short: int
    run: Callable[[Ground, random.Random], Outcome]
    tells: str = ""


class Program(Protocol):
    """A subprocess.Popen or a Terminal."""

    pid: int

    def poll(self) -> int | None: ...
    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Whole:
    """A sweep that nothing disturbed: its log, its qualities, and seconds until it recorded the first event."""

    recorded: Recorded
    starts: float
    qualities: Qualities


class Ground:
    """Where a campaign's faults are done. Safe to use from several threads.

    Args:
        folder: all that is written lies below it.
        keep: a folder for what a fault left where something is amiss, None to throw it away.
    """

    def __init__(self, folder: Path, keep: Path | None = None) -> None:
        self.folder, self.keep = folder.resolve(), keep
        self.cache = self.folder / "cache"
        self.prompts = self.folder / "prompts.jsonl"
        self.prompts.write_bytes(PROMPTS)
        (self.folder / "config.toml").touch()
        self.path = self.folder / "path"
        self.path.mkdir()
        (self.path / "sitecustomize.py").write_text(BRIEFLY)
        self._lock = threading.Lock()
        self._whole: dict[tuple[str, ...], Whole] = {}

    def whole(self, *more: str) -> Whole:
        """The undisturbed sweep with these words added to SWEEP. Made once, and before it another that fills the cache.

        Raises:
            Broken: it does not end well, or not twice with the same qualities.
        """
        with self._lock:
            if more not in self._whole:
                first, second = self._undisturbed(more), self._undisturbed(more)
                if differing := judge.differences(second.qualities, first.qualities, first.recorded.complete, BASE):
                    raise Broken(f"two undisturbed sweeps differ: {'; '.join(differing[:3])}")
                self._whole[more] = second
            return self._whole[more]

    def _undisturbed(self, more: tuple[str, ...]) -> Whole:
        with self.site(*more) as site:
            begun, sweep = time.monotonic(), site.sweep()
            site.reached(1, sweep)
            starts, code = time.monotonic() - begun, site.ended(sweep)
            found = judge.recorded(site.session)
            if code or found.failed or found.closed != "ok":
                raise Broken(f"an undisturbed sweep ends with exit code {code}: {site.last_words()}")
            return Whole(found, starts, judge.qualities(site.session))

    @contextmanager
    def site(self, *more: str, cache: bool = True) -> Iterator[Site]:
        """A place for one fault. However it is left, nothing that was started there runs afterwards.

        Args:
            more: words added to SWEEP.
            cache: use the quants that all share, and not a cache of its own that is still empty.
        """
        folder = Path(tempfile.mkdtemp(prefix="site-", dir=self.folder))
        site = Site(self, folder, more, self.cache if cache else folder / "cache")
        try:
            yield site
        except Missed:
            raise
        except BaseException:
            site.amiss = True
            raise
        finally:
            site.close()
            if site.amiss and self.keep is not None:
                self.keep.mkdir(parents=True, exist_ok=True)
                shutil.copytree(folder, self.keep / folder.name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
            shutil.rmtree(folder, ignore_errors=True)


class _Tail:
    """The whole lines that a log has gained since the last look; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def lines(self) -> list[bytes]:
        with suppress(OSError), open(self._path, "rb") as log:
            log.seek(self._read)
            new = log.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            return new.splitlines(keepends=True)
        return []


class Site:
    """One fault's place. `session` is where its sweep records; `amiss`, whether something was found to be wrong."""

    def __init__(self, ground: Ground, folder: Path, more: tuple[str, ...], cache: Path) -> None:
        self.ground, self.folder, self.more, self.cache = ground, folder, more, cache
        self.session = folder / "sessions" / "sweep"
        self.out = folder / "out"
        for made in (self.session.parent, self.out, folder / "lock", folder / "tmp"):
            made.mkdir()
        self.amiss = False
        self._started: list[Program] = []

    # --- programs

    def environment(self, **more: str) -> dict[str, str]:
        """No configuration of the user's, a plain terminal, and everything below this site but the cache."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        own = {
            "QUANTTUI_CACHE_DIR": str(self.cache),
            "QUANTTUI_CONFIG": str(self.ground.folder / "config.toml"),
            "QUANTTUI_LOCK_DIR": str(self.folder / "lock"),
            "QUANTTUI_SESSIONS_DIR": str(self.session.parent),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": os.pathsep.join(map(str, (self.ground.path, CHECKOUT))),
            "TERM": "xterm-256color",
        }
        return kept | own | more

    @property
    def words(self) -> tuple[str, ...]:
        """Arguments of quanttui that begin the sweep."""
        prompts = ("--prompts", str(self.ground.prompts), "--session", str(self.session))
        return (*SWEEP, *prompts, *self.more)

    def start(
        self, *words: str, program: Sequence[str] = QUANTTUI, stdout: int | None = None, **more: str
    ) -> subprocess.Popen[bytes]:
        """A command of quanttui without a terminal, its output in a file unless another place is given for it."""
        with open(self._output(), "ab") as out:
            process = subprocess.Popen(
                [sys.executable, *program, *words], stdin=subprocess.DEVNULL, stdout=out if stdout is None else stdout,
                stderr=out, cwd=self.folder, env=self.environment(**more), start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def terminal(self, *words: str, **more: str) -> Terminal:
        """A command of quanttui on a terminal of its own."""
        started = Terminal([sys.executable, *QUANTTUI, *words], self.environment(**more), self._output())
        self._started.append(started)
        return started

    def sweep(self, *words: str, stdout: int | None = None, **more: str) -> subprocess.Popen[bytes]:
        """The sweep, without a screen."""
        return self.start(*self.words, "--headless", *words, stdout=stdout, **more)

    def resume(self, *words: str, **more: str) -> subprocess.Popen[bytes]:
        """What goes on with it, without a screen."""
        return self.start("run", "--resume", str(self.session), "--headless", *words, stdout=None, **more)

    def _output(self) -> Path:
        path = self.out / f"{len(list(self.out.iterdir())):02}.txt"
        path.touch()
        return path

    def ended(self, program: Program, seconds: float = LONG) -> int:
        """Wait for its end: the exit code.

        Raises:
            Broken: it does not end in that time.
        """
        self.until(lambda: program.poll() is not None, f"process {program.pid} does not end", seconds)
        code = program.poll()
        assert code is not None
        return code

    def until(self, seen: Callable[[], bool], otherwise: str, seconds: float = LONG) -> None:
        """Wait until something is so.

        Raises:
            Broken: it is not in that time.
        """
        end, pause = time.monotonic() + seconds, threading.Event()
        while not seen():
            if time.monotonic() >= end:
                raise Broken(f"{otherwise} within {seconds:.0f} s: {self.last_words()}")
            pause.wait(LOOK)

    # --- moments

    def reached(self, count: int, program: Program | None = None) -> None:
        """Wait until the log has so many whole lines.

        Raises:
            Missed: the program ended before, or where none is given the session was closed.
            Broken: nothing more comes.
        """
        tail, lines = _Tail(self.session / session.EVENTS), 0

        def seen() -> bool:
            nonlocal lines
            ended = program is not None and program.poll() is not None
            new = tail.lines()
            lines += len(new)
            ended |= program is None and any(_CLOSED in line for line in new)
            if lines < count and ended:
                raise Missed
            return lines >= count

        self.until(seen, f"the log does not grow to {count} lines")

    def follow(self, program: Program | None, wanted: Callable[[e.Event], bool]) -> e.Event:
        """Wait for an event in the log.

        Raises:
            Missed: the program ended before, or where none is given the session was closed.
            Broken: it does not come.
        """
        tail = _Tail(self.session / session.EVENTS)
        found: list[e.Event] = []

        def seen() -> bool:
            ended = program is not None and program.poll() is not None
            events = Recorded(b"".join(tail.lines())).events
            found.extend(event for event in events if wanted(event))
            ended |= program is None and any(isinstance(event, e.SessionClosed) for event in events)
            if ended and not found:
                raise Missed
            return bool(found)

        self.until(seen, "what was waited for does not come")
        return found[0]

    def closes(self) -> str:
        """Wait until the session is closed: how.

        Raises:
            Broken: it never is.
        """
        tail = _Tail(self.session / session.EVENTS)
        self.until(lambda: any(_CLOSED in line for line in tail.lines()), "the sweep does not end")
        return self.recorded().closed

    def recorded(self) -> Recorded:
        """What the log holds now."""
        return judge.recorded(self.session)

    # --- processes

    def processes(self, word: str = "") -> list[psutil.Process]:
        """All that runs and was started for this site, by whomever; with this word in its command line."""
        mark = str(self.session.parent)
        found = []
        for pid in psutil.pids():
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                ours = "python" in process.name() and process.environ().get("QUANTTUI_SESSIONS_DIR") == mark
                if ours and (not word or word in process.cmdline()):
                    found.append(process)
        return found

    def engines(self) -> list[psutil.Process]:
        """Those of them that are engines."""
        return self.processes(ENGINE)

    def gone(self, found: Callable[[], list[psutil.Process]], seconds: float = SOON) -> list[psutil.Process]:
        """Those that still run after some time."""
        end, pause = time.monotonic() + seconds, threading.Event()
        while (left := found()) and time.monotonic() < end:
            pause.wait(10 * LOOK)
        return left

    def close(self) -> None:
        """End all that runs."""
        for program in self._started:
            program.send_signal(signal.SIGCONT)
            if isinstance(program, Terminal):
                program.kill()
                program.hang_up()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        for program in self._started:
            with suppress(Broken):
                self.ended(program, SOON)
        self.gone(self.processes)

    # --- judgement

    def output(self) -> bytes:
        """All that was said, on terminals too, and by engines."""
        files = [*sorted(self.out.iterdir()), *sorted((self.session / "stderr").glob("*"))]
        return b"\n".join(path.read_bytes() for path in files if path.is_file())

    def last_words(self) -> str:
        """The last line that was said."""
        lines = [line for line in self.output().decode(errors="replace").splitlines() if line.strip()]
        return "".join(letter for letter in lines[-1] if letter.isprintable())[:200] if lines else "nothing was said"

    def resumed(self, before: Recorded, fails: Collection[str] = ()) -> Outcome:
        """Resume to the end, and judge. Where nothing at all was recorded, the same words begin anew.

        Args:
            before: the log when the fault came.
            fails: outcomes with which the fault may have ended one arm.
        """
        return self.judged(before, self.ended(self.resume() if before.begun else self.sweep()), fails)

    def judged(self, before: Recorded, code: int, fails: Collection[str] = ()) -> Outcome:
        """Judge a session that is over.

        Args:
            before: the log when the fault came.
            code: the exit code of who wrote it last.
            fails: outcomes with which the fault may have ended one arm.
        """
        after, whole = self.recorded(), self.ground.whole(*self.more)
        failed = after.failed
        undone = after.planned - after.complete - set(failed)
        wrong = [f"{arm} {event.outcome}: {event.error}" for arm, event in failed.items() if event.outcome not in fails]
        wrong += [f"{len(failed)} arms failed"] if len(failed) > 1 else []
        cut = not after.log.startswith(before.log)
        again = judge.run_again(after)
        due = 1 if failed else 0
        differing = judge.differences(judge.qualities(self.session), whole.qualities, after.complete, BASE)
        told = [
            *(["the log does not begin with what was recorded"] if cut else []),
            *([f"not closed ({after.closed or 'cut off'})"] if after.closed not in ("ok", "failed") else []),
            *([f"{', '.join(sorted(undone))} not done"] if undone else []),
            *wrong,
            *(f"{unit} was run again" for unit in again[:3]),
            *([f"exit code {code} and not {due}: {self.last_words()}"] if code != due else []),
            *differing[:3],
            *self._other(after),
        ]
        outcome = Outcome(
            lost_sweep=bool(cut or undone or wrong or after.closed not in ("ok", "failed")),
            lost_units=judge.lost(before, after),
            wrong_resume=bool(again or code != due),
            quality=bool(differing),
            said="; ".join(told),
        )
        self.amiss |= outcome.amiss
        return outcome

    def _other(self, after: Recorded) -> Iterator[str]:
        """What else is amiss: an irregular log, a torn manifest, a traceback, something left behind."""
        yield from judge.irregular(after)
        if why := judge.manifest(self.session):
            yield why
        output = self.output()
        yield from (f"{crash.decode().strip()!r} in what was said" for crash in CRASHES if crash in output)
        left = self.gone(self.processes)
        for process in left:
            with suppress(psutil.Error):
                yield f"process {process.pid} is left: {' '.join(process.cmdline()[1:6])}"
