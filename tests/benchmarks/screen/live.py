"""The live screen over a sweep whose engine is scripted, at a real one's pace. Run as a process on a terminal:

    python -m tests.benchmarks.screen.live FOLDER [--cores 8] [--decode 128] ...

opens a session in FOLDER (`--attach`: watches the one that is there) and shows it as `quanttui run` does. All but the
engine is the real thing: sweep, log, sampler, probes. On SIGUSR1 it writes FOLDER.clocks: what its threads have cost
so far, by their own clocks, and when it painted what.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from quanttui import events as e
from quanttui import session
from quanttui.engine import protocol, scripted
from quanttui.engine.process import Interrupted
from quanttui.models import pocket
from quanttui.probes.sampler import Sampler
from quanttui.sweep.runner import Options, Sweep
from quanttui.tui.app import Monitor

MODEL = "scripted 1.3B"

TELL_SECONDS = 0.2
"""A real engine tells of its tokens no less often."""

BUS = 0.7
"""Share of the memory's bandwidth that the decode takes."""

PARTS = {
    "MainThread": "screen",
    "terminal-output": "screen",
    "textual-input": "screen",
    "sampler": "sampler",
    "follower": "follower",
}
"""The threads by name; the rest is the executor's, where the sweep runs."""


class Clocks(msgspec.Struct, frozen=True):
    """CPU seconds so far of the process and of its parts, at monotonic time `at`. frames: when, and what was due."""

    at: float
    process: float
    parts: dict[str, float]
    frames: list[tuple[float, str]]


class Wall(scripted.Clock):
    """Time that passes by itself; waiting for it ends when the engine is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def read(self) -> int:
        return time.monotonic_ns()

    def pass_(self, seconds: float) -> None:
        if self.over.wait(seconds):
            raise Interrupted


class Paced(scripted.Engine):
    """A scripted engine that takes its time, and has a process (which sleeps) for the probes to look at."""

    def __init__(self, script: scripted.Script, origin_ns: int) -> None:
        self._wall = Wall()
        self._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        super().__init__(defaultdict(lambda: script), self._wall, origin_ns, self._process.pid)

    def _script(self, arm: str) -> scripted.Script:
        return self._scripts[arm]

    def _speed(self, unit: e.Unit) -> Iterator[protocol.Answer]:
        script = self._script(unit.arm)
        rate = script.prompt if unit.kind == "prompt" else script.decode
        each, at = round(1e9 / rate), self._at()
        yield e.UnitStarted(unit=unit, at=at)
        step = max(1, int(TELL_SECONDS * rate)) if unit.kind != "prompt" else unit.tokens
        for first in range(0, unit.tokens, step):
            count = min(step, unit.tokens - first)
            self._wall.pass_(count / rate)
            if unit.kind != "prompt":
                yield e.Tokens(unit=unit, first=first, ns=(each,) * count)
        yield self._done(unit, at, unit.tokens, unit.tokens * each, script)

    def interrupt(self) -> None:
        self._wall.over.set()
        super().interrupt()

    def close(self) -> None:
        super().close()
        self._process.kill()
        self._process.communicate()


def painted(app: Monitor) -> list[tuple[float, str]]:
    """When the app paints from now on, and what is due then."""
    frames: list[tuple[float, str]] = []
    paint = app._paint

    def telling(due: str, *words: Any, **options: Any) -> None:
        frames.append((time.monotonic(), due))
        paint(due, *words, **options)

    app._paint = telling  # type: ignore[method-assign]
    return frames


def opened(folder: Path, asked: argparse.Namespace) -> session.Writer:
    """A session over the pocket model's file under several names, its plan in the log."""
    session.create(folder.parent, MODEL, folder)
    writer = session.Writer(folder)
    settings = e.Settings(
        tasks=("speed", "ppl") if asked.chunks else ("speed",), threads=2, prompt=asked.prompt, decode=asked.decode,
        repetitions=asked.repetitions, text="text",
    )  # fmt: skip
    size = pocket.MODEL.stat().st_size
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA,
            model=MODEL,
            host=e.Host(name="bench", os="", cpu="none", cores=asked.cores, threads=asked.cores, memory=2**34),
            build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="scripted", gpu_offload=False),
            settings=settings,
            plan=tuple(
                e.PlannedArm(id=f"Q{at}", quant="F16", file=str(pocket.MODEL), bytes=size) for at in range(asked.arms)
            ),
            wall=time.time(),
            origin_ns=writer.origin_ns,
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
        )
    )
    return writer


def swept(writer: session.Writer, asked: argparse.Namespace) -> Sweep:
    """A sweep whose speeds are plausible against its ceiling: one too slow would be measured twice."""
    gb_s = pocket.MODEL.stat().st_size * asked.tok_s / BUS / 1e9
    script = scripted.Script(
        prompt=asked.prompt_tok_s, decode=asked.tok_s, chunks=max(1, asked.chunks), load_s=0.3, gb_s=gb_s
    )
    options = Options(cache=writer.folder.parent / "cache", cache_bytes=2**30, text="text")
    return Sweep(writer, options, lambda _, origin_ns: Paced(script, origin_ns), Sampler)


def clocks(frames: list[tuple[float, str]]) -> Clocks:
    """What the threads have cost. A thread that has ended counts in the process alone."""
    parts: dict[str, float] = defaultdict(float)
    for thread in threading.enumerate():
        if thread.ident is not None:
            spent = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            parts[PARTS.get(thread.name, "sweep")] += spent
    return Clocks(time.monotonic(), time.process_time(), dict(parts), frames)


def _tell(frames: list[tuple[float, str]], folder: Path) -> None:
    file = folder.with_suffix(".clocks")
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(clocks(frames)))
    os.replace(new, file)


def main() -> int:
    """Show the screen until it is closed, and join the sweep; the exit code is the sweep's."""
    asked = _parser().parse_args()
    folder, over, outcome = asked.folder, threading.Event(), ["ok"]
    mouse = "SSH_CONNECTION" not in os.environ
    if asked.attach:
        app = Monitor(folder, mode="attach", mouse=mouse)
        over.set()
    else:
        writer = opened(folder, asked)
        sweep = swept(writer, asked)

        def run() -> None:
            try:
                outcome[0] = sweep.run()
            finally:
                over.set()

        asks = {"stop": sweep.stop, "leave": sweep.leave, "disturb": sweep.disturb}
        app = Monitor(folder, mode="live", sweep=run, mouse=mouse, **asks)
        sweep.between = app.paint_between
    frames = painted(app)
    signal.signal(signal.SIGUSR1, lambda *_: _tell(frames, folder))
    app.run()
    over.wait()
    return {"ok": 0, "failed": 1}.get(outcome[0], 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.screen.live")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attach", action="store_true", help="watch, without a sweep")
    parser.add_argument(
        "--cores", type=int, default=8, help="of the host, as the session tells; its sweep has 2 threads"
    )
    parser.add_argument("--arms", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=0, help="of the perplexity; 0: none")
    parser.add_argument("--tok-s", type=float, default=20.0)
    parser.add_argument("--prompt-tok-s", type=float, default=512.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
