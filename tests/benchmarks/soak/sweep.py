"""A sweep whose hours pass in minutes. Run as a process without a terminal:

    python -m tests.benchmarks.soak.sweep FOLDER --speed 48 --hours 8

All but the engine and the pace of the clock is the real thing: schedule, log, sampler, probes, requests. It has work
for longer than it is wanted, and ends when it is asked to finish, or stops on SIGTERM. With `--trace`, SIGUSR1 has it
remember what is allocated, and a second one write to FOLDER.trace what has been allocated since.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import psutil

from quanttui import events as e
from quanttui import session
from quanttui.engine import scripted
from quanttui.measure import tasks
from quanttui.models import pocket
from quanttui.probes.sampler import Sampler
from quanttui.sweep.runner import Options, Sweep

from ..screen import live

MODEL = live.MODEL

TOK_S, PROMPT_TOK_S = 20.0, 512.0

PROMPT, DECODE, CONTEXT = 512, 128, 512

TASKS = ("speed", "ppl", "kld", "prompts")

ARMS, SPARE = 12, 6
"""Quants that are measured in the hours that are asked for, each through all phases, and more than those."""

SCORED = 0.25
"""The share of an arm's time in which a text is scored; most of the rest is repetitions."""

STEP_NS = 100_000_000
"""Session time passes in steps of so much: a sample is told within less than half of the time between two."""

LEAST = 0.001
"""Seconds for which the sampler waits at least: the time that it waits for may stand still."""

FRAMES, TOP = 6, 25
"""How deep a traced allocation is told, and how many of them."""


class Time:
    """Session time in nanoseconds. It passes `speed` times as fast as the wall's at best, and only while an engine is
    at work: a machine that is busy with other things does not make the sweep skip what it would have told."""

    def __init__(self, speed: float) -> None:
        self.ns, self.speed = 0, speed

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Until the event is set, or about so many seconds of it are over."""
        event.wait(max(LEAST, seconds / self.speed))


class Clock(live.Wall):
    """An engine's clock, which moves that time on."""

    def __init__(self, time_: Time) -> None:
        super().__init__()
        self._time = time_

    def read(self) -> int:
        return self._time.ns

    def pass_(self, seconds: float) -> None:
        left = round(seconds * 1e9)
        while left > 0:
            step = min(left, STEP_NS)
            super().pass_(step / 1e9 / self._time.speed)
            self._time.ns += step
            left -= step


class Engine(live.Paced):
    """The scripted engine at such a clock's pace."""

    def __init__(self, script: scripted.Script, origin_ns: int, time_: Time) -> None:
        super().__init__(script, origin_ns)
        self._wall = self._clock = Clock(time_)


class Writer(session.Writer):
    """The session's writer, who goes by that time."""

    def __init__(self, folder: Path, time_: Time) -> None:
        super().__init__(folder)
        self._time = time_
        self.origin_ns = 0

    def now(self) -> float:
        return self._time.ns / 1e9


def lengths(hours: float) -> tuple[int, int]:
    """Repetitions and chunks of an arm, of which ARMS take about so many hours."""
    seconds = hours * 3600 / ARMS
    each = PROMPT / PROMPT_TOK_S + DECODE / TOK_S
    return max(2, round((1 - SCORED) * seconds / each)), max(1, round(SCORED * seconds * PROMPT_TOK_S / CONTEXT))


def opened(folder: Path, hours: float, time_: Time) -> Writer:
    """A session over the pocket model's file under many names, with work for longer than `hours`."""
    session.create(folder.parent, MODEL, folder)
    writer, (repetitions, _) = Writer(folder, time_), lengths(hours)
    settings = e.Settings(
        tasks=TASKS, threads=2, prompt=PROMPT, decode=DECODE, repetitions=repetitions, text="text", base="Q0"
    )
    size = pocket.MODEL.stat().st_size
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA,
            model=MODEL,
            host=e.Host(name="soak", os="", cpu="none", cores=8, threads=8, memory=2**34),
            build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="scripted", gpu_offload=False),
            settings=settings,
            plan=tuple(
                e.PlannedArm(id=f"Q{at}", quant="F16", file=str(pocket.MODEL), bytes=size) for at in range(ARMS + SPARE)
            ),
            wall=time.time(),
            origin_ns=writer.origin_ns,
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
        )
    )
    return writer


def made(writer: Writer, hours: float, time_: Time) -> Sweep:
    """The sweep, all of whose clocks go by that time."""
    gb_s = pocket.MODEL.stat().st_size * TOK_S / live.BUS / 1e9
    script = scripted.Script(prompt=PROMPT_TOK_S, decode=TOK_S, chunks=lengths(hours)[1], load_s=0.3, gb_s=gb_s)
    options = Options(
        cache=writer.folder.parent / "cache", cache_bytes=2**30, text="text", tasks=tasks.load(writer.state.settings)
    )

    def sampler(emit: Callable[[e.Event], None]) -> Sampler:
        return Sampler(emit, clock=writer.now, wait=time_.wait)

    return Sweep(writer, options, lambda _, origin_ns: Engine(script, origin_ns, time_), sampler)


class Trace:
    """What is allocated between two signals."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before: tracemalloc.Snapshot | None = None
        tracemalloc.start(FRAMES)

    def told(self, *_: object) -> None:
        now = tracemalloc.take_snapshot()
        if self._before is None:
            self._before = now
            return
        top = now.compare_to(self._before, "traceback")[:TOP]
        lines = [line for one in top for line in (str(one), *one.traceback.format(FRAMES))]
        self._file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Sweep; the exit code is what came of it."""
    asked = _parser().parse_args()
    if asked.trace:
        signal.signal(signal.SIGUSR1, Trace(asked.folder.with_suffix(".trace")).told)
    time_ = Time(asked.speed)
    writer = opened(asked.folder, asked.hours, time_)
    sweep = made(writer, asked.hours, time_)
    outcome = ["interrupted"]
    worker = threading.Thread(target=lambda: outcome.__setitem__(0, sweep.run()), name="sweep")
    signal.signal(signal.SIGTERM, lambda *_: sweep.stop())
    worker.start()
    worker.join()
    writer.close()
    return {"ok": 0, "failed": 1}.get(outcome[0], 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak.sweep")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--trace", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
