"""A scripted engine: answers like an engine process, from figures that it was given, at once and without llama.cpp.

Ships in the package so that anybody can test a sweep, a screen or a report. Deterministic: its clock is its own, and
moves only by what its script says a thing takes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from quanttui import __version__
from quanttui import events as e
from quanttui.engine import protocol
from quanttui.engine.process import EngineFailure, Interrupted


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """How one arm behaves: tok/s of prompt and decode, nats per token and their spread, what is wrong with it.

    `fails` maps a unit's id, or load / quantize / bandwidth, to the failure that comes instead of an answer.
    `holds` names a unit id at which it waits to be interrupted.
    """

    prompt: float = 500.0
    decode: float = 20.0
    nll: float = 2.0
    spread: float = 2.3
    chunks: int = 8
    gb_s: float | None = 30.0
    load_s: float = 0.5
    read: int = 0
    majflt: int = 0
    swap_in: int = 0
    cpu_share: float = 1.0
    fails: Mapping[str, EngineFailure] = {}
    holds: str = ""


class Clock:
    """Monotonic nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.ns = 0

    def read(self) -> int:
        return self.ns

    def pass_(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


class Engine:
    """One scripted engine. `scripts` by arm; an arm without one gets `Script()`. `asked` collects the requests."""

    def __init__(self, scripts: Mapping[str, Script], clock: Clock, origin_ns: int = 0, pid: int = 1) -> None:
        self.pid = pid
        self.asked: list[protocol.Request] = []
        self.held = threading.Event()
        self.closed = False
        self._scripts = scripts
        self._clock = clock
        self._origin_ns = origin_ns
        self._interrupted = threading.Event()
        self._settings = e.Settings()
        self._arm = ""

    def ask(self, request: protocol.Request, patience: float = 600.0) -> Iterator[protocol.Answer]:
        """Like engine.process.Engine.ask."""
        if self._interrupted.is_set():
            raise Interrupted
        self.asked.append(request)
        if isinstance(request, protocol.Describe):
            yield protocol.Described(
                build=e.Build(quanttui=__version__, llama_cpp_python="0", llama_cpp="scripted", gpu_offload=False)
            )
        elif isinstance(request, protocol.Bandwidth):
            yield from self._bandwidth(request)
        elif isinstance(request, protocol.Load):
            yield from self._load(request)
        elif isinstance(request, protocol.Quantize):
            self._fail(self._script(request.arm), "quantize")
            Path(request.target).write_bytes(Path(request.source).read_bytes())
            yield e.PhaseProgress(arm=request.arm, phase="quantize", fraction=1.0)
        elif isinstance(request, protocol.Tokenize):
            chunks = self._script(request.arm).chunks
            yield protocol.Counted(chunks=chunks, tokens=chunks * request.context)
        elif isinstance(request, protocol.Speed):
            yield from self._speed(request.unit)
        elif isinstance(request, protocol.Score):
            yield from self._score(request)

    def interrupt(self) -> None:
        """Like engine.process.Engine.interrupt."""
        self._interrupted.set()

    def close(self) -> None:
        self.closed = True

    def _script(self, arm: str) -> Script:
        return self._scripts.get(arm, Script())

    def _at(self) -> float:
        return (self._clock.read() - self._origin_ns) / 1e9

    def _fail(self, script: Script, where: str) -> None:
        if where in script.fails:
            raise script.fails[where]
        if where == script.holds:
            self.held.set()
            self._interrupted.wait()
            raise Interrupted

    def _bandwidth(self, request: protocol.Bandwidth) -> Iterator[protocol.Answer]:
        script = self._script(request.arm)
        self._fail(script, "bandwidth")
        if script.gb_s is None:
            yield e.Ceiling(arm=request.arm, how="absent", why="the script gives none")
            return
        yield e.Ceiling(
            arm=request.arm,
            how="measured",
            gb_s=script.gb_s,
            repeats=(script.gb_s,),
            threads=request.threads,
            over="a script",
        )

    def _load(self, request: protocol.Load) -> Iterator[protocol.Answer]:
        script = self._script(request.arm)
        self._fail(script, "load")
        self._arm, self._settings = request.arm, request.settings
        self._clock.pass_(script.load_s)
        yield e.ArmLoaded(
            arm=request.arm,
            pid=self.pid,
            gpu_layers=0,
            layers=5,
            load_ns=round(script.load_s * 1e9),
            threads=request.settings.threads,
            attempt=request.attempt,
        )

    def _speed(self, unit: e.Unit) -> Iterator[protocol.Answer]:
        script = self._script(unit.arm)
        self._fail(script, unit.id)
        rate = script.decode if unit.kind == "decode" else script.prompt
        each = round(1e9 / rate)
        at = self._at()
        yield e.UnitStarted(unit=unit, at=at)
        self._clock.pass_(unit.tokens * each / 1e9)
        if unit.kind == "decode":
            yield e.Tokens(unit=unit, first=0, ns=(each,) * unit.tokens)
        yield self._done(unit, at, unit.tokens, unit.tokens * each, script)

    def _done(self, unit: e.Unit, at: float, tokens: int, ns: int, script: Script) -> e.UnitDone:
        counters = e.Counters(
            cpu_ns=round(ns * script.cpu_share * self._settings.threads),
            majflt=script.majflt,
            read=script.read,
            swap_in=script.swap_in,
            zswap_in=0,
            rss=10**9,
            anonymous=10**8,
        )
        return e.UnitDone(unit=unit, at=at, tokens=tokens, ns=ns, counters=counters)

    def _score(self, request: protocol.Score) -> Iterator[protocol.Answer]:
        """Chunks whose nll depend on arm and chunk alone, so that any order of units gives the same."""
        unit, script = request.units[0], self._script(request.units[0].arm)
        self._fail(script, unit.id)
        scored, at = self._settings.context // 2 - 1, self._at()
        each = round(self._settings.context * 1e9 / script.prompt)
        yield e.UnitStarted(unit=unit, at=at)
        for chunk in range(unit.index, unit.index + unit.count):
            rows = np.abs(np.random.default_rng(chunk).normal(0.0, script.spread, scored)) * script.nll
            with open(request.raw, "r+b" if Path(request.raw).exists() else "w+b") as file:
                file.seek(chunk * scored * 8)
                file.write(rows.astype("<f8").tobytes())
            self._clock.pass_(each / 1e9)
            yield e.Perplexity(
                unit=unit,
                chunk=chunk,
                chunks=request.chunks,
                scored=scored,
                nll=math.fsum(rows),
                nll2=math.fsum(rows * rows),
                at=at,
                ns=each,
                file=request.file,
                offset=chunk * scored * 8,
            )
        yield self._done(unit, at, unit.count * self._settings.context, unit.count * each, script)
