"""Runs a plan: schedule -> unit -> engine process -> fact in the log. Knows no screen and never reads a clock to
time anything: the engine times itself. What goes wrong with an arm is a fact, and the next arm follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from quanttui import events as e
from quanttui import session
from quanttui.diagnosis import roofline
from quanttui.engine import protocol
from quanttui.engine.process import EngineFailure, Interrupted
from quanttui.errors import UserError
from quanttui.models import header, label, quantize
from quanttui.state import Arm, Attempt
from quanttui.sweep import plan


class Engine(Protocol):
    """What the sweep needs of an engine process, real or scripted."""

    pid: int

    def ask(self, request: Any, patience: float = ...) -> Iterator[Any]: ...
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


class Sampler(Protocol):
    """What the sweep needs of the sampler."""

    def start(self) -> None: ...
    def watch(self, pid: int | None) -> None: ...
    def stop(self) -> None: ...


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Where quants are kept and how long an engine may be silent. `text` is the perplexity's file."""

    cache: Path
    cache_bytes: int
    patience: float = 600.0
    text: str = ""


class _Asked:
    """An engine that is started when it is asked, and closed when it has answered."""

    def __init__(self, running: Callable[[str], AbstractContextManager[Engine]], name: str, patience: float) -> None:
        self._running, self._name, self._patience = running, name, patience

    def ask(self, request: Any) -> Iterator[Any]:
        with self._running(self._name) as engine:
            yield from engine.ask(request, self._patience)


class Stopped(Exception):
    """The sweep was told to end; what is recorded stays."""


class Skipped(Exception):
    """The arm under way was told to end."""


class Sweep:
    """One run over a session's plan, from what its log says on.

    Args:
        writer: of a log that is opened, i.e. holds settings and plan.
        start_engine: makes an engine process, given its stderr file and the monotonic ns of session time 0.
        sampler: makes the sampler, given where its readings go.
        idle: says why the machine is not idle, "" when it is (asked with --polite).
    """

    def __init__(
        self,
        writer: session.Writer,
        options: Options,
        start_engine: Callable[[Path, int], Engine],
        sampler: Callable[[Callable[[e.Event], None]], Sampler],
        idle: Callable[[], str] = lambda: "",
    ) -> None:
        self.writer = writer
        self.options = options
        self.settings = writer.state.settings
        self.error: UserError | None = None
        self._start_engine = start_engine
        self._sampler = sampler(self._record)
        self._idle = idle
        self._engine: Engine | None = None
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._leaving = threading.Event()
        self._skipping = threading.Event()

    def run(self) -> str:
        """All that is missing, to the end. Returns the outcome that is recorded: ok, failed, interrupted.

        Raises:
            UserError: the log cannot be written any more.
        """
        outcome = "interrupted"
        self._sampler.start()
        try:
            for planned in self.writer.state.opened.plan if self.writer.state.opened else ():
                self._arm(planned)
            outcomes = {arm.outcome for arm in self.writer.state.arms.values()}
            outcome = "ok" if outcomes <= {"ok", "skipped"} else "failed"
        except Stopped:
            pass
        finally:
            self._sampler.stop()
            if self.error is None:
                self.writer.append(e.SessionClosed(outcome=outcome))
                session.write_manifest(self.writer.folder, session.manifest(self.writer.state))
                self.writer.sync()
        if self.error is not None:
            raise self.error
        return outcome

    def stop(self) -> None:
        """End now: the unit under way is given up. Callable from any thread."""
        self._stopping.set()
        self._interrupt()

    def leave(self) -> None:
        """End after the unit under way, so that another process can resume. Callable from any thread."""
        self._leaving.set()

    def skip(self) -> None:
        """Give up the arm under way and go on with the next. Callable from any thread."""
        self._skipping.set()
        self._interrupt()

    def disturb(self, why: str) -> None:
        """The speed unit under way does not count and is measured once more. Callable from any thread."""
        running = self.writer.state.running
        if running is not None and running.unit.kind in plan.TIMED and not running.disturbed:
            self._record(e.UnitDisturbed(unit=running.unit, why=why))

    def _interrupt(self) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.interrupt()

    def _record(self, event: e.Event) -> None:
        """Append an event of the sampler's thread. A log that cannot be written ends the sweep, not the thread."""
        try:
            self.writer.append(event)
            if isinstance(event, e.Beat):
                self._obey()
        except (UserError, OSError) as error:
            self.error = error if isinstance(error, UserError) else UserError(f"{self.writer.folder}: {error}")
            self.stop()

    def _obey(self) -> None:
        """Take the requests that viewers left in control.jsonl: each once, recorded with its offset."""
        for request in session.requests(self.writer.folder, self.writer.state.control_offset):
            self.writer.append(request)
            if request.request == "stop":
                self.stop()
            elif request.request == "leave":
                self.leave()
            elif request.request == "skip" and request.arm in ("", self.writer.state.arm):
                self.skip()

    def _check(self) -> None:
        if self._stopping.is_set() or self._leaving.is_set():
            raise Stopped
        if self._skipping.is_set():
            raise Skipped

    def _append(self, event: e.Event) -> None:
        try:
            self.writer.append(event)
        except UserError as error:
            self.error = error
            raise Stopped from None

    def _arm(self, planned: e.PlannedArm) -> None:
        arm = self.writer.state.arms[planned.id]
        number = arm.attempt.number if arm.attempt else 1
        interrupted = arm.attempt is not None and arm.attempt.failed is not None and arm.outcome == "interrupted"
        if arm.outcome in ("planned", "running") or interrupted:
            self._attempt(planned, arm, number)
        if number == 1 and arm.outcome == "ok" and roofline.is_slow(self.writer.state, arm):
            self._attempt(planned, arm, 2)

    def _attempt(self, planned: e.PlannedArm, arm: Arm, number: int) -> None:
        """One attempt at an arm, whatever comes of it: it ends done or failed, unless the sweep is stopped."""
        try:
            self._check()
            with ExitStack() as held:
                file = self._file(planned, number)
                if not planned.file:
                    held.callback(quantize.release, file)
                self._measure(planned, arm, file, number)
            self._append(e.ArmDone(arm=planned.id, attempt=number))
        except Interrupted:
            self._skipping.clear()
            if self._stopping.is_set() or self._leaving.is_set():
                raise Stopped from None
            self._fail(planned.id, number, "skipped", "skipped on request")
        except Skipped:
            self._skipping.clear()
            self._fail(planned.id, number, "skipped", "skipped on request")
        except EngineFailure as failure:
            self._fail(
                planned.id, number, failure.outcome, failure.error, failure.signal, failure.exit_code, failure.stderr
            )
        except UserError as error:
            self._fail(planned.id, number, "refused", str(error))
        except OSError as error:
            self._fail(planned.id, number, "failed", f"{error.filename or planned.id}: {error.strerror or error}")
        self.writer.sync()

    def _fail(
        self,
        arm: str,
        attempt: int,
        outcome: str,
        error: str,
        signal: int | None = None,
        exit_code: int | None = None,
        stderr: tuple[str, ...] = (),
    ) -> None:
        phase = self.writer.state.phase
        if phase:
            self._append(e.PhaseFailed(arm=arm, phase=phase, error=error, attempt=attempt))
        self._append(
            e.ArmFailed(
                arm=arm,
                outcome=outcome,
                error=error,
                phase=phase,
                signal=signal,
                exit_code=exit_code,
                stderr=stderr,
                attempt=attempt,
            )
        )

    @contextmanager
    def _phase(self, arm: str, phase: str, attempt: int = 1, units: int | None = None) -> Iterator[None]:
        self._append(e.PhaseStarted(arm=arm, phase=phase, units=units, attempt=attempt))
        yield
        self._append(e.PhaseDone(arm=arm, phase=phase, attempt=attempt))

    @contextmanager
    def _running(self, name: str) -> Iterator[Engine]:
        """An engine process of our own for as long as the block lasts, watched by the sampler."""
        stderr = session.part(self.writer.folder, "stderr", f"{name}.txt")
        engine = self._start_engine(stderr, self.writer.origin_ns)
        with self._lock:
            self._engine = engine
        self._sampler.watch(engine.pid)
        try:
            self._check()
            yield engine
        finally:
            self._sampler.watch(None)
            with self._lock:
                self._engine = None
            engine.close()

    def _ask(self, engine: Engine, request: Any) -> list[Any]:
        """Have a request answered: events go to the log as they come, other answers are returned."""
        others = []
        for answer in engine.ask(request, self.options.patience):
            if isinstance(answer, e.Event):
                self._append(answer)
            else:
                others.append(answer)
        return others

    def _file(self, planned: e.PlannedArm, number: int) -> Path:
        """The arm's GGUF, made from its source where it is to be made, and recorded as what its tensors are."""
        path = Path(planned.file) if planned.file else self._made(planned, number)
        read = header.read(path)
        digest = self._digest(planned.id, read.files, number)
        self._append(
            e.ArmStarted(
                arm=planned.id,
                quant=planned.quant,
                file=str(path),
                bytes=read.file_bytes,
                bits_per_weight=header.bits_per_weight(read),
                tensor_types=header.tensor_types(read),
                shape=header.shape(read),
                sha256=digest,
                imatrix=planned.imatrix,
                label_note=label.label_note(read, planned.quant),
                attempt=number,
            )
        )
        session.write_manifest(self.writer.folder, session.manifest(self.writer.state))
        return path

    def _digest(self, arm: str, files: Sequence[Path], number: int) -> str:
        """The SHA-256 of the arm's file, of each part where it is split, comma between. Large ones take a while."""
        with self._phase(arm, "hash", number):
            return ",".join(
                header.sha256(
                    file,
                    self.options.cache,
                    lambda fraction: self._append(e.PhaseProgress(arm=arm, phase="hash", fraction=fraction)),
                )
                for file in files
            )

    def _made(self, planned: e.PlannedArm, number: int) -> Path:
        """The quant in the cache, made now if it is not there: an engine is started only then."""
        with self._phase(planned.id, "quantize", number):
            making = quantize.make(
                planned,
                _Asked(self._running, f"{planned.id}.quantize", self.options.patience),
                self.options.cache,
                max_bytes=self.options.cache_bytes,
                threads=self.settings.threads,
                build=self.writer.state.build.llama_cpp if self.writer.state.build else "",
            )
            while True:
                try:
                    self._append(next(making))
                except StopIteration as made:
                    return Path(made.value)

    def _measure(self, planned: e.PlannedArm, arm: Arm, file: Path, number: int) -> None:
        """Speed, then perplexity in a context of its own: its logits distort memory."""
        attempt = arm.attempts[-1]
        chunks = self._wanted_chunks(arm, number)
        kinds = self._kinds_left(arm, attempt)
        if not kinds and not chunks:
            return
        name = planned.id if number == 1 else f"{planned.id}.{number}"
        with self._running(name) as engine:
            with self._phase(arm.id, "bandwidth", number):
                self._ask(engine, protocol.Bandwidth(arm=arm.id, file=str(file), threads=self.settings.threads))
            with self._phase(arm.id, "load", number):
                self._ask(engine, protocol.Load(arm=arm.id, attempt=number, file=str(file), settings=self.settings))
            for kind in kinds:
                self._speed(engine, arm, attempt, kind)
            if chunks:
                self._perplexity(engine, arm, number)

    def _kinds_left(self, arm: Arm, attempt: Attempt) -> list[str]:
        """The speed phases that miss a repetition."""
        return [
            kind
            for kind in plan.kinds(self.settings)
            if plan.missing(list(plan.repetitions(self.settings, arm.id, attempt, kind)), arm)
        ]

    def _wanted_chunks(self, arm: Arm, number: int) -> bool:
        if number > 1 or not plan.wants_perplexity(self.settings):
            return False
        planned = arm.chunks_planned
        return planned is None or bool(plan.missing(plan.groups(self.settings, planned, arm.id), arm))

    def _speed(self, engine: Engine, arm: Arm, attempt: Attempt, kind: str) -> None:
        with self._phase(arm.id, kind, attempt.number, self.settings.repetitions):
            for unit in plan.repetitions(self.settings, arm.id, attempt, kind):
                if unit.id not in arm.units:
                    self._timed(engine, unit)

    def _timed(self, engine: Engine, unit: e.Unit) -> None:
        self._check()
        while self.settings.polite and (why := self._idle()):
            if self.writer.state.phase != "cool":
                self._append(e.PhaseStarted(arm=unit.arm, phase="cool", attempt=unit.attempt, why=why))
            if self._stopping.wait(1.0):
                raise Stopped
        if self.writer.state.phase == "cool":
            self._append(e.PhaseStarted(arm=unit.arm, phase=unit.kind, attempt=unit.attempt))
        self._ask(engine, protocol.Speed(unit=unit))

    def _perplexity(self, engine: Engine, arm: Arm, number: int) -> None:
        text = self.options.text
        (counted,) = self._ask(engine, protocol.Tokenize(arm=arm.id, text=text, context=self.settings.context))
        limit = self.settings.chunks
        chunks = counted.chunks if limit is None else min(limit, counted.chunks)
        units = plan.groups(self.settings, chunks, arm.id)
        raw = session.part(self.writer.folder, "raw", f"{arm.id}.nll")
        file = str(raw.relative_to(self.writer.folder))
        with self._phase(arm.id, "perplexity", number, len(units)):
            for unit in plan.missing(units, arm):
                self._check()
                self._ask(engine, protocol.Score(units=(unit,), text=text, chunks=chunks, raw=str(raw), file=file))
