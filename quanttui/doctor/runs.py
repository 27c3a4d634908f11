"""One run of the observer's measurement, in each condition: how it is started, and what rate it came to.

A run decodes the same number of tokens as many times. Watched runs are sweeps of their own, in a process and a session
folder of their own, without the user's configuration.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import quanttui
from quanttui import events as e
from quanttui import quants, session
from quanttui.doctor.observer import CONDITIONS, REPETITIONS, Rate
from quanttui.engine import protocol
from quanttui.engine.process import Engine, EngineFailure
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import ghost as ghosts
from quanttui.state import Repetition
from quanttui.sweep import lock

COLUMNS, ROWS = 120, 40
"""The live screen's size."""

GHOST = ghosts.GhostShape(layers=16, embedding=1024, heads=16, heads_kv=4, feed_forward=4096, vocabulary=16384)
"""The default model: 274 million weights, 290 MB as Q8_0, of which most is read for every token."""

LOOK = 0.5
"""Seconds between looks at whether a run is over: each costs what it would find out."""

LONG = 1800.0
"""Seconds after which a run is given up."""

LEAVING = 20
"""Seconds that a screen may take to close."""


def all_of(model: Path, threads: int, cache: Path) -> dict[str, Rate]:
    """The runs by condition."""
    runs: dict[str, Rate] = {
        "unwatched": lambda tokens: unwatched(model, threads, tokens),
        "headless": lambda tokens: watched(model, threads, tokens, cache, live=False),
        "live": lambda tokens: watched(model, threads, tokens, cache, live=True),
    }
    return {condition: runs[condition] for condition in CONDITIONS}


def ghost(cache: Path, threads: int, tell: Callable[[str], object]) -> Path:
    """The default model, made if it is not there.

    Raises:
        UserError: it cannot be written or quantized.
    """
    folder = cache / "observer"
    target, source = folder / "ghost-Q8_0.gguf", folder / f"ghost-F16.{os.getpid()}.gguf"
    if target.is_file():
        return target
    tell("making a model of random weights, once")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ghosts.write(source, GHOST, seed=1)
        kind = quants.BY_NAME["Q8_0"]
        request = protocol.Quantize(
            arm="ghost", source=str(source), target=str(target), quant=kind.name, ftype=kind.ftype, threads=threads
        )
        with Engine.start(folder / "stderr.txt", time.monotonic_ns()) as engine:
            list(engine.ask(request))
    except OSError as error:
        raise UserError(f"{clean(str(folder))}: cannot be written ({error.strerror}): set cache_dir") from None
    except EngineFailure as failure:
        raise UserError(f"{clean(str(target))}: cannot be made: {clean(failure.error)}") from None
    finally:
        source.unlink(missing_ok=True)
    return target


def rate(repetitions: Iterable[Repetition | e.UnitDone]) -> float:
    """Tokens per second over all repetitions together; 0 for none."""
    done = [(one.tokens, one.ns) for one in repetitions]
    return sum(tokens for tokens, _ in done) * 1e9 / sum(ns for _, ns in done) if done else 0.0


def unwatched(model: Path, threads: int, tokens: int) -> float:
    """An engine asked directly: no sampler, no log, and this process waits on its pipe.

    Raises:
        UserError: the engine would not.
    """
    settings = e.Settings(threads=threads)
    units = [e.Unit(arm="model", kind="decode", index=index, tokens=tokens) for index in range(REPETITIONS)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Engine.start(Path(folder) / "stderr.txt", time.monotonic_ns()) as engine:
                list(engine.ask(protocol.Bandwidth(arm="model", file=str(model), threads=threads)))
                list(engine.ask(protocol.Load(arm="model", file=str(model), settings=settings)))
                answers = [answer for unit in units for answer in engine.ask(protocol.Speed(unit=unit))]
        except EngineFailure as failure:
            raise UserError(f"{clean(str(model))}: {clean(failure.error)}") from None
    return rate(answer for answer in answers if isinstance(answer, e.UnitDone))


def watched(model: Path, threads: int, tokens: int, cache: Path, live: bool) -> float:
    """A sweep of its own, headless or with the live screen on a terminal that is read as fast as it writes.

    Raises:
        UserError: it failed, or this system has no such terminals.
    """
    with tempfile.TemporaryDirectory(prefix="quanttui-observer-") as folder:
        home = Path(folder)
        (home / "config.toml").touch()
        command = _command(model, threads, tokens, home / "session", live)
        run = _on_terminal if live else _in_the_dark
        code, said = run(command, _environment(home / "config.toml", cache), home)
        how = "the run with the live screen" if live else "the run without a screen"
        try:
            state = session.load(home / "session")
        except UserError:
            raise UserError(f"{how} did not begin (exit code {code}): {clean(said)}") from None
    attempts = [attempt for arm in state.arms.values() for attempt in arm.attempts[:1]]
    done = [one for attempt in attempts for one in attempt.decode]
    if state.closed != "ok" or len(done) != REPETITIONS:
        failed = [attempt.failed.error for attempt in attempts if attempt.failed is not None]
        raise UserError(f"{how} failed (exit code {code}): {clean('; '.join(failed) or said)}")
    return rate(done)


def _command(model: Path, threads: int, tokens: int, folder: Path, live: bool) -> list[str]:
    words = ["--tasks", "speed", "-p", "0", "-n", str(tokens), "-r", str(REPETITIONS), "-t", str(threads)]
    words += ["--anchor", "0", "--precision", "0", "--order", "given", "--schedule", "sequential"]
    words += ["--session", str(folder), *([] if live else ["--headless"])]
    return [sys.executable, "-m", "quanttui", "run", str(model), *words]


def _environment(config: Path, cache: Path) -> dict[str, str]:
    """Ours, without what would make the run another one: the user's settings, a remote terminal, this folder."""
    kept = {
        key: value for key, value in os.environ.items()
        if not key.startswith(("QUANTTUI_", "SSH_", "TEXTUAL_")) and key not in ("NO_COLOR", "COLUMNS", "LINES")
    }  # fmt: skip
    package = str(Path(quanttui.__file__).parents[1])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    ours = {"QUANTTUI_CONFIG": str(config), "QUANTTUI_CACHE_DIR": str(cache), "PYTHONPATH": path}
    ours[lock.FOLDER] = str(config.parent)  # the machine is ours already
    return {**kept, **ours, "PYTHONSAFEPATH": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}


def _in_the_dark(command: list[str], environment: dict[str, str], home: Path) -> tuple[int, str]:
    """Exit code and last line of stderr."""
    with open(home / "stderr.txt", "wb") as stderr:
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                timeout=LONG,
            ).returncode
        except subprocess.TimeoutExpired:
            return -1, f"no end within {LONG:.0f} s"
    return code, _last((home / "stderr.txt").read_bytes())


def _on_terminal(command: list[str], environment: dict[str, str], home: Path) -> tuple[int, str]:
    """Exit code and the last that it wrote; the screen is closed by its key once its session is."""
    try:
        import fcntl
        import pty
        import struct
        import termios
    except ImportError:
        raise UserError("--observer: this system has no terminals that a program can make: measure on POSIX") from None
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    tail = bytearray()
    reader = threading.Thread(target=_drain, args=(ours, tail), daemon=True)
    reader.start()
    try:
        _await_close(home / "session" / session.EVENTS, process)
        return _left(process, ours), _last(bytes(tail))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(LEAVING)
        os.close(ours)


def _drain(terminal: int, tail: bytearray) -> None:
    """Read what is written to a terminal until nobody writes any more, and keep the end of it."""
    with suppress(OSError):
        while block := os.read(terminal, 1 << 16):
            tail += block
            del tail[:-2000]


def _await_close(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the log's last line closes the session, or its process is gone. Only the log's end is read."""
    begun = time.monotonic()
    while time.monotonic() - begun < LONG:
        with suppress(OSError), open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            if b'"session.closed"' in file.read():
                return
        try:
            process.wait(LOOK)
            return
        except subprocess.TimeoutExpired:
            continue


def _left(process: subprocess.Popen[bytes], terminal: int) -> int:
    """Have a screen closed by its key, more than once where it asks before; its exit code."""
    for _ in range(LEAVING):
        with suppress(OSError):
            os.write(terminal, b"q")
        try:
            return process.wait(1.0)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    return process.wait()


def _last(said: bytes) -> str:
    lines = [line for line in map(clean, said.decode("utf-8", "replace").splitlines()) if line]
    return lines[-1][-200:] if lines else ""
