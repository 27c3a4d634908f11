"""The programs that are held against each other, each as one measurement. Owns how they are called and read.

quanttui is run as a user runs it: `quanttui run`, headless or on a terminal of its own, into a session that is read
afterwards and thrown away. What it does beside the timed work (hashing, reading its own process, the log, the screen)
is therefore going on while it is timed.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quanttui import events as e
from quanttui import session

from .tools import BENCH, Tools

SIZE = (120, 40)
"""Columns and rows of the terminal that the live screen is on."""

LONGEST = 7200.0
"""Seconds after which a run has failed."""

_ALWAYS = ("--schedule", "sequential", "--order", "given", "--anchor", "0", "--precision", "0", "--gpu-layers", "-1")
_SAME = {"n_threads": "threads", "n_batch": "batch", "n_ubatch": "ubatch", "type_k": "kv", "type_v": "kv"}
_LAST = 512


class Failed(Exception):
    """A run came to nothing, or did not do the same work as the other: one clear line."""


@dataclass(frozen=True)
class SpeedTest:
    """A speed test: tokens of the prompt or of the decode (the other is 0), repetitions in one process, threads."""

    prompt: int
    decode: int
    repetitions: int
    threads: int

    @property
    def words(self) -> tuple[str, ...]:
        """Flags that quanttui and llama-bench share."""
        named = {"-p": self.prompt, "-n": self.decode, "-r": self.repetitions, "-t": self.threads}
        return tuple(word for name, value in named.items() for word in (name, str(value)))

    @property
    def kind(self) -> str:
        return "prompt" if self.prompt else "decode"


def bench(tools: Tools, model: Path, test: SpeedTest) -> tuple[float, dict[str, Any]]:
    """llama-bench's avg_ts (tokens per second, mean over the repetitions), and all that it tells of the test."""
    found = tools.run(BENCH, "-m", str(model), *test.words, "-b", "2048", "-ub", "512", "-o", "json")
    (told,) = json.loads(found.stdout)
    return float(told["avg_ts"]), told


class Quanttui:
    """quanttui, with a cache, a configuration and sessions of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "sessions").mkdir(parents=True, exist_ok=True)

    def headless(self, model: Path, test: SpeedTest) -> tuple[float, dict[str, Any]]:
        """Tokens per second without a screen, as `bench` tells them, and the report."""
        with self._session() as folder:
            report = self.run(folder, str(model), "--tasks", "speed", *test.words)
            return _rate(folder, test), report

    def live(self, model: Path, test: SpeedTest) -> tuple[float, dict[str, Any]]:
        """The same with the live screen on a terminal that somebody reads."""
        with self._session() as folder:
            words = self._words(folder, "run", str(model), "--tasks", "speed", *test.words, *_ALWAYS)
            _on_terminal(words, self._environment(), folder)
            report = self._json("report", str(folder))
            return _rate(folder, test), report

    def perplexity(self, model: Path, text: Path, threads: int, chunks: int) -> tuple[float, float, dict[str, Any]]:
        """Seconds of decoding and scoring, the perplexity, and the report.

        The seconds go from the first unit's beginning, by the engine's clock, to the moment at which its last unit is
        recorded: after loading and tokenizing, with all that telling of the chunks costs.
        """
        with self._session() as folder:
            words = ("--tasks", "ppl", "--until", "full", "--text", str(text), "--chunks", str(chunks))
            report = self.run(folder, str(model), *words, "-t", str(threads))
            (arm,) = report["arms"]
            if arm["perplexity"] is None:
                raise Failed(f"quanttui: no perplexity of {model.name}: {arm['error']}")
            return _scoring(folder), arm["perplexity"]["value"], report

    def sweep(self, models: Sequence[Path], *words: str) -> tuple[float, float, dict[str, Any]]:
        """A sweep over files: seconds in perplexity phases, seconds from start to end, and the report."""
        with self._session() as folder:
            begun = time.monotonic()
            report = self.run(folder, *map(str, models), *words)
            return _in_phase(folder, "perplexity"), time.monotonic() - begun, report

    def run(self, folder: Path, *words: str) -> dict[str, Any]:
        """`quanttui run --headless --json` into a session's folder: the report."""
        return self._json("run", *words, *_ALWAYS, "--headless", "--session", str(folder))

    def _json(self, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "quanttui", *words, "--json"]
        found = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST,
            env=self._environment(),
        )
        if found.returncode not in (0, 1) or not found.stdout.strip():
            last = (found.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise Failed(f"quanttui {' '.join(words)}: exit code {found.returncode}: {last}")
        report: dict[str, Any] = json.loads(found.stdout)
        return report

    def _words(self, folder: Path, *words: str) -> list[str]:
        return [sys.executable, "-m", "quanttui", *words, "--session", str(folder)]

    def _environment(self) -> dict[str, str]:
        """No configuration of the user's, and a plain terminal."""
        foreign = ("QUANTTUI_", "TEXTUAL", "COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "SSH_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        empty = self._folder / "config.toml"
        empty.touch()
        own = {"QUANTTUI_CACHE_DIR": str(self._folder / "cache"), "QUANTTUI_CONFIG": str(empty)}
        return kept | own | {"TERM": "xterm-256color"}

    @contextmanager
    def _session(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder / "sessions"))
        try:
            yield folder / "session"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def same_settings(told: dict[str, Any], report: dict[str, Any]) -> None:
    """Hold what llama-bench says of a test against what quanttui's session says.

    Raises:
        Failed: they measured different things.
    """
    asked = report["asked"]
    pairs = ((name, told[name], asked[ours]) for name, ours in _SAME.items())
    differ = [f"{name} {one} / {other}" for name, one, other in pairs if one != other]
    auto = {-1: "auto", 0: "off", 1: "on"}.get(told["flash_attn"], "")
    if auto != asked["flash_attn"]:
        differ.append(f"flash_attn {auto} / {asked['flash_attn']}")
    if differ:
        raise Failed(f"llama-bench and quanttui measured with different settings: {', '.join(differ)}")


def _rate(folder: Path, test: SpeedTest) -> float:
    """Mean of the rates of the repetitions that are recorded, as llama-bench's avg_ts.

    Of a repetition that was disturbed the second try counts. A quant that came out far too slow is measured once more
    by the sweep: that second attempt is not part of the test.
    """
    rates = {}
    for event in _events(folder):
        if isinstance(event, e.UnitDone) and event.unit.kind == test.kind and event.unit.attempt == 1:
            rates[event.unit.id] = 1e9 * event.tokens / event.ns
    if len(rates) != test.repetitions:
        raise Failed(f"quanttui: measured {test.kind} {len(rates)} times and not {test.repetitions}")
    return sum(rates.values()) / len(rates)


def _scoring(folder: Path) -> float:
    begun, ended = None, 0.0
    for event in _events(folder):
        if isinstance(event, e.UnitStarted) and event.unit.kind == "perplexity" and begun is None:
            begun = event.at
        elif isinstance(event, e.UnitDone) and event.unit.kind == "perplexity":
            ended = event.t
    if begun is None or ended <= begun:
        raise Failed("quanttui: the session has no perplexity units")
    return ended - begun


def _in_phase(folder: Path, phase: str) -> float:
    """Seconds in which at least one arm was in a phase."""
    inside: set[str] = set()
    total = begun = 0.0
    for event in _events(folder):
        if not isinstance(event, (e.PhaseStarted, e.PhaseDone, e.PhaseFailed, e.ArmDone, e.ArmFailed)):
            continue
        before = bool(inside)
        inside.discard(event.arm)
        if isinstance(event, e.PhaseStarted) and event.phase == phase:
            inside.add(event.arm)
        if inside and not before:
            begun = event.t
        elif before and not inside:
            total += event.t - begun
    return total


def _events(folder: Path) -> Iterator[e.Event]:
    reader = session.Reader(folder)
    try:
        yield from (event for event in reader.events() if isinstance(event, e.Event))
    finally:
        reader.close()


def _on_terminal(words: list[str], environment: dict[str, str], folder: Path) -> None:
    """Run a program on a terminal of its own until its session is closed, then leave it with `q`.

    Raises:
        Failed: it ends before, or not at all.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        os.execve(words[0], words, environment)
    try:
        if not _drain(terminal, LONGEST, lambda: _closed(folder)):
            raise Failed(f"quanttui: the live run ended before its session was closed: {folder}")
        for _ in range(20):
            with suppress(OSError):
                os.write(terminal, b"q")
            if not _drain(terminal, 1.0, lambda: False):
                return
        raise Failed("quanttui: the live run does not end on q")
    finally:
        _end(pid, terminal)


def _drain(terminal: int, seconds: float, done: Callable[[], bool]) -> bool:
    """Read what the program writes, until `done` (asked once a second) or `seconds`; False if the program ended."""
    end, look = time.monotonic() + seconds, 0.0
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    while (now := time.monotonic()) < end:
        if now >= look:
            if done():
                return True
            look = now + 1.0
        if poll.poll(1000 * max(0.0, min(end, look) - now)):
            try:
                if not os.read(terminal, 1 << 16):
                    return False
            except OSError:
                return False
    return True


def _closed(folder: Path) -> bool:
    """Whether the last line of the session's log says so."""
    try:
        with open(folder / session.EVENTS, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST))
            return b'"session.closed"' in log.read()
    except OSError:
        return False


def _end(pid: int, terminal: int) -> None:
    """Reap the program, killed if it has not ended within a few seconds."""
    for _ in range(50):
        done, _status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(terminal)
