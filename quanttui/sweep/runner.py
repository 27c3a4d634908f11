"""Runs a plan: step -> engine process -> fact in the log. Knows no screen and never reads a clock to time anything: the
engine times itself. What comes next is the schedule's to say. What goes wrong with an arm is a fact, and the next arm
follows.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.decide import paired
from quanttui.diagnosis import ceilings, drift, roofline
from quanttui.engine import protocol
from quanttui.engine.process import EngineFailure, Interrupted
from quanttui.errors import UserError, no_room
from quanttui.format import clean, duration
from quanttui.measure.tasks import Task
from quanttui.models import header, label, quantize, store, tiles
from quanttui.probes import apple
from quanttui.sweep import answers, base, changed, plan, requests, room, schedule, suspend, tokens
from quanttui.sweep.schedule import Step

KERNELS = "kernels.json"
"""In the cache folder: the rates of ggml's kernels on this machine."""

QUIET_HZ = 1.0
"""Readings a second while a decode or a prompt fills every core: each one stops one of its threads, and with it all."""

REST_SECONDS = 3.0
"""For so long the idle machine's power is measured where there is a counter of energy: NVML's and RAPL's count at least
once in 0.1 s."""

LEAST_OF_TYPES = 0.02
"""Tensor types that make less of what a token reads have no part in its speed."""

AHEAD = 4
"""How many perplexity units are asked for at once where one can be scored while the next is decoded."""

LOOK_SECONDS = 1.0
"""A paused sweep looks for requests this often at least."""


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
    def rate(self, hz: float) -> None: ...
    def sample_now(self) -> e.Sample: ...
    def stop(self) -> None: ...


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Where quants are kept and how long an engine may be silent. `text` is the perplexity's file, `tasks` what every
    arm answers, `hz` how often the sampler reads. `anyway`: an arm goes on though its file is another one by now."""

    cache: Path
    cache_bytes: int
    patience: float = 600.0
    text: str = ""
    tasks: tuple[Task, ...] = ()
    hz: float = 4.0
    anyway: bool = False


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
        memory: reads mem.total and mem.available, in bytes; empty where they are unknown.
        asleep: seconds for which the machine was suspended since some moment.

    `between` is called, and waited for, before each repetition that is timed on all cores, and after the last of a
    phase: a screen of this process paints then.
    """

    between: Callable[[], object]

    def __init__(
        self,
        writer: session.Writer,
        options: Options,
        start_engine: Callable[[Path, int], Engine],
        sampler: Callable[[Callable[[e.Event], None]], Sampler],
        idle: Callable[[], str] = lambda: "",
        memory: Callable[[], Mapping[str, float]] = dict,
        asleep: Callable[[], float] = suspend.asleep,
    ) -> None:
        self.writer = writer
        self.options = options
        self.error: UserError | None = None
        self.between = lambda: None
        self._start_engine = start_engine
        self._sampler = sampler(self._record)
        self._idle = idle
        self._memory = memory
        self._asleep = asleep
        self._free = memory()
        self._loaded: dict[tuple[str, int], Engine] = {}
        self._asked: Engine | None = None
        self._watched: int | None = None
        self._hz = options.hz
        self._files: dict[str, Path] = {}
        self._started: set[tuple[str, int]] = set()
        self._seen: dict[str, tuple[tuple[tuple[int, int], ...], tuple[Path, ...]]] = {}
        self._counted: dict[str, int] = {}
        self._warmed: dict[str, plan.Test] = {}
        self._tasks = tuple(
            (task.name, tuple(tuple(item.id for item in asked) for asked in answers.together(task.items)))
            for task in options.tasks
        )
        self._items = {(task.name, item.id): item for task in options.tasks for item in task.items}
        self._thinking = {task.name: task.thinking for task in options.tasks}
        self._contexts: dict[str, int] = {}
        self._lock = threading.RLock()
        self._taking = ""
        self._late = True
        self._obeying = threading.Lock()
        self._asked_for = threading.Event()
        self._stopping = threading.Event()
        self._leaving = threading.Event()

    @property
    def settings(self) -> e.Settings:
        """As they are now: a viewer may have changed the tolerance."""
        return self.writer.state.settings

    def run(self) -> str:
        """All that is missing, to the end. Returns the outcome that is recorded: ok, failed, interrupted.

        Raises:
            UserError: the log cannot be written any more.
        """
        outcome = "interrupted"
        self._sampler.start()
        try:
            with ExitStack() as held:
                held.callback(self._close_all)
                self._look()
                self._rest()
                self._all()
            outcomes = {arm.outcome for arm in self.writer.state.arms.values()}
            outcome = "ok" if outcomes <= {"ok", "skipped"} else "failed"
            self._drop_logits()
        except Stopped:
            pass
        finally:
            self._sampler.stop()
            if self.error is None:
                self.writer.append(e.SessionClosed(outcome=outcome))
                with suppress(Stopped):
                    self._note()
                self.writer.sync()
        if self.error is not None:
            raise self.error
        return outcome

    def _rest(self) -> None:
        """What the machine takes while nothing computes, where a counter tells it and this sweep did not ask it yet."""
        state = self.writer.state
        if state.idle is not None or fold.energy_counter(self._sampler.sample_now().readings) is None:
            return
        with self._phase("", "idle"):
            self._sampler.sample_now()
            if self._stopping.wait(REST_SECONDS):
                raise Stopped
            self._sampler.sample_now()

    def _all(self) -> None:
        """Step after step, as the schedule says."""
        while True:
            step = schedule.following(self.writer.state, self._counted, self._together(), self._ahead(), self._tasks)
            if step is None or step.phase != "skip":
                self._end_phase(step)
            if step is None:
                return
            if self.writer.state.paused and step.phase != "skip":
                self._hold(step)
                continue
            for first in (*self._warm_first(step), step):
                self._take(first)

    def _hold(self, step: Step) -> None:
        """Wait as long as the sweep is paused, and nothing is to be skipped."""
        self._enter(Step(step.arm, "paused", step.attempt))
        self._pace(Step(step.arm, "paused"))
        while self.writer.state.paused and not self.writer.state.skips:
            self._check()
            self._asked_for.wait(LOOK_SECONDS)
            self._asked_for.clear()
            self._look()
        self._append(e.PhaseDone(arm=step.arm, phase="paused", attempt=step.attempt))

    def stop(self) -> None:
        """End now: the unit under way is given up. Callable from any thread."""
        self._stopping.set()
        self._asked_for.set()
        self._interrupt()

    def leave(self) -> None:
        """End after the unit under way, so that another process can resume. Callable from any thread."""
        self._leaving.set()
        self._asked_for.set()

    def disturb(self, why: str) -> None:
        """The speed unit under way does not count and is measured once more. Callable from any thread."""
        running = self.writer.state.running
        if running is not None and running.unit.kind in fold.TIMED and not running.disturbed:
            self._record(e.UnitDisturbed(unit=running.unit, why=why))

    def _interrupt(self, arm: str | None = None) -> None:
        """Have the request under way given up, where it is this arm's."""
        with self._lock:
            if self._asked is not None and arm in (None, self._taking):
                self._asked.interrupt()

    def _record(self, event: e.Event) -> None:
        """Append an event of the sampler's thread. A log that cannot be written ends the sweep, not the thread."""
        try:
            self.writer.append(event)
            if isinstance(event, e.Beat):
                self.writer.stays()
                self._obey()
        except (UserError, OSError) as error:
            self.error = error if isinstance(error, UserError) else UserError(f"{self.writer.folder}: {error}")
            self.stop()

    def _obey(self) -> None:
        """Take the requests that viewers left in control.jsonl: each once, recorded with its offset.

        What a request changes is folded from its record; here only what is under way is told of it.
        """
        with self._obeying:
            for request in session.requests(self.writer.folder, self.writer.state.control_offset):
                taken = requests.judged(request, self.writer.state, self._late)
                self.writer.append(taken)
                if taken.refused:
                    continue
                if taken.request == "stop":
                    self.stop()
                elif taken.request in requests.ENDING:
                    self.leave()
                elif taken.request == "skip":
                    self._interrupt(taken.arm)
                self._asked_for.set()
            self._late = False

    def _look(self) -> None:
        """The same in the sweep's own thread."""
        try:
            self._obey()
        except UserError as error:
            self.error = error
            raise Stopped from None

    def _check(self) -> None:
        if self._stopping.is_set() or self._leaving.is_set():
            raise Stopped
        if self._taking in self.writer.state.skips:
            raise Skipped

    def _append(self, event: e.Event) -> None:
        if isinstance(event, (e.UnitDone, e.Perplexity, e.Item)):
            self._still(event.unit.arm)
        elif isinstance(event, e.Tokens):
            event = tokens.kept(self.writer.folder, event)
        self._written(lambda: self.writer.append(event))

    def _written(self, write: Callable[[], object]) -> None:
        """Do something that only a session which cannot be written any more makes fail; that ends the sweep.

        Raises:
            Stopped: it failed.
        """
        try:
            write()
        except (UserError, OSError) as error:
            self.error = error if isinstance(error, UserError) else UserError(f"{self.writer.folder}: {error.strerror}")
            raise Stopped from None

    def _note(self) -> None:
        """Have the manifest say what the log does.

        Raises:
            Stopped: it cannot be written.
        """

        def write() -> None:
            try:
                session.write_manifest(self.writer.folder, session.manifest(self.writer.state))
            except OSError:
                self.writer.check()
                raise

        self._written(write)

    def _still(self, arm: str) -> None:
        """What is recorded of an arm must be of the file that it was begun with, also where that is mapped and
        written to.

        Raises:
            UserError: it is another one by now, or gone.
        """
        if arm not in self._seen:
            return
        looks, files = self._seen[arm]
        known, (now, _) = self.writer.state.arms[arm].file, _looks(files)
        if now == looks or known is None or self.options.anyway:
            return
        digest = ",".join(header.sha256(file, self.options.cache, lambda _: self._check()) for file in files)
        if digest != known.sha256:
            raise UserError(f"{clean(str(files[0]), 200)}: has changed while {clean(arm, 80)} was measured")
        self._seen[arm] = now, files

    def _take(self, step: Step) -> None:
        """Do one step, whatever comes of it: an arm ends done or failed, unless the sweep is stopped."""
        arm, number = step.arm, step.attempt
        with self._lock:
            self._taking = arm
        try:
            self._check()
            self._do(step)
        except Interrupted:
            if self._stopping.is_set() or self._leaving.is_set():
                raise Stopped from None
            self._fail(arm, number, "skipped", "skipped on request")
        except Skipped:
            self._fail(arm, number, "skipped", "skipped on request")
        except EngineFailure as failure:
            self._fail(
                arm, number, failure.outcome, failure.error, failure.signal, failure.exit_code, failure.stderr
            )
        except UserError as error:
            self._fail(arm, number, "refused", str(error))
        except OSError as error:
            outcome = protocol.FULL if no_room(error) else "failed"
            self._fail(arm, number, outcome, f"{error.filename or arm}: {error.strerror or error}")

    def _do(self, step: Step) -> None:
        if step.phase == "done":
            self._append(e.ArmDone(arm=step.arm, attempt=step.attempt))
            self._let_go(step.arm)
            self.writer.sync()
        elif step.phase == "cool":
            self._cool(step)
        elif step.phase == "bandwidth":
            self._probe_after(step)
        else:
            engine = self._engine_of(step)
            if self.writer.state.paused:  # since it began to load: the step comes again when it goes on
                return
            self._pace(step)
            self._enter(step)
            if step.phase == "count":
                self._count(engine, step.arm)
            elif step.phase == "perplexity":
                self._score(engine, step)
            elif step.phase == "task":
                self._answer(engine, step)
            elif step.phase == "warm":
                self._warm(engine, step.units[0])
            else:
                self._timed(engine, step)

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
        """Record that an arm ended badly, unless it did for want of a session that can be written."""
        self._let_go(arm)
        self._blame(outcome, error)
        span = self.writer.state.span
        phase = span.phase if span is not None and span.arm == arm else ""
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
        self.writer.sync()

    def _blame(self, outcome: str, error: str) -> None:
        """Go on only where a failure was the arm's own, and not for want of room or of a session.

        Raises:
            Stopped: it was not.
        """
        if outcome != "skipped":
            self._written(self.writer.check)
        if outcome == protocol.FULL:
            self.error = UserError(
                f"{error}: what was recorded stays; make room, then quanttui run --resume {self.writer.folder}"
            )
            raise Stopped

    @contextmanager
    def _phase(self, arm: str, phase: str, attempt: int = 1) -> Iterator[None]:
        self._append(e.PhaseStarted(arm=arm, phase=phase, attempt=attempt))
        yield
        self._append(e.PhaseDone(arm=arm, phase=phase, attempt=attempt))

    def _enter(self, step: Step) -> None:
        """Begin the step's phase, unless it is under way."""
        phase, units = _phase_of(step), None
        span = self.writer.state.span
        if span is not None and (span.arm, span.phase, span.attempt) == (step.arm, phase, step.attempt):
            return
        if phase in ("prompt", "decode"):
            units = self.settings.repetitions
        elif step.phase == "perplexity":
            units = len(plan.groups(self.settings, self._chunks(step.arm), step.arm))
        elif step.phase == "task":
            units = len(self._items)
        self._append(e.PhaseStarted(arm=step.arm, phase=phase, attempt=step.attempt, units=units))

    def _end_phase(self, following: Step | None) -> None:
        """End the phase under way where the next step is not of it. One that is gone on with later is not done."""
        state, span = self.writer.state, self.writer.state.span
        if span is None or span.phase not in (*fold.TIMED, "perplexity", "task"):
            return
        if following is not None and (following.arm, _phase_of(following), following.attempt) == (
            span.arm,
            span.phase,
            span.attempt,
        ):
            return
        gone_on_with = span.phase in ("prompt", "decode", "task")
        if not (gone_on_with and schedule.has_more(state, state.arms[span.arm], span.phase, self._tasks)):
            self._append(e.PhaseDone(arm=span.arm, phase=span.phase, attempt=span.attempt))
            if span.phase in fold.TIMED:
                self._make_room()

    # --- engines

    def _together(self) -> bool:
        """Whether all arms are to be loaded at once."""
        deciding = self.settings.until == "decided" and plan.wants_perplexity(self.settings)
        if self.settings.schedule == "sequential" and not deciding:
            return False
        return room.arms_fit(self.writer.state, self.writer.state.arms, self._free)

    def _engine_of(self, step: Step) -> Engine:
        """The engine that holds the step's arm: one process per attempt, the others closed unless they are to stay."""
        key, scoring = (step.arm, step.attempt), _phase_of(step) in ("perplexity", "task")
        turns, chosen = self.settings.schedule != "sequential", self.writer.state.base
        if not (self._together() and (turns or scoring)):
            beside = (chosen.base, 1) if chosen is not None and chosen.how == "beside" and scoring else None
            for other in [other for other in self._loaded if other not in (key, beside)]:
                self._close(other)
        if key not in self._loaded:
            self._load(*key)
        engine = self._loaded[key]
        self._watch(engine.pid)
        return engine

    def _load(self, arm: str, number: int) -> None:
        """Start an engine for an arm's attempt and have it load the model."""
        planned = self.writer.state.arms[arm].plan
        file = self._file(planned, number)
        settings = msgspec.structs.replace(self.settings, kv=planned.kv or self.settings.kv)
        engine = self._start(arm if number == 1 else f"{arm}.{number}")
        self._loaded[arm, number] = engine
        attempt = next((one for one in self.writer.state.arms[arm].attempts if one.number == number), None)
        if attempt is None or not (attempt.prompt or attempt.decode):
            self._probe(engine, arm, number, "before")
        with self._phase(arm, "load", number):
            self._ask(engine, protocol.Load(arm=arm, attempt=number, file=str(file), settings=settings))
        if attempt is None or not attempt.kernels:
            self._ceilings(engine, arm, number)

    def _probe(self, engine: Engine, arm: str, number: int, when: str) -> None:
        """Measure the bandwidth of the host's memory over the arm's file."""
        started = self.writer.state.arms[arm].file
        if started is not None:
            with self._phase(arm, "bandwidth", number):
                threads = self.settings.threads
                self._ask(engine, protocol.Bandwidth(arm=arm, file=started.file, threads=threads, when=when))

    def _probe_after(self, step: Step) -> None:
        """The same once more after the arm's decode. An engine that dies of it costs the arm nothing of what it did."""
        try:
            self._probe(self._engine_of(step), step.arm, step.attempt, "after")
        except EngineFailure as failure:
            self._append(e.Ceiling(arm=step.arm, how="absent", when="after", why=failure.error))
            self._append(e.PhaseFailed(arm=step.arm, phase="bandwidth", error=failure.error, attempt=step.attempt))
            if (step.arm, step.attempt) in self._loaded:
                self._close((step.arm, step.attempt))

    def _ceilings(self, engine: Engine, arm: str, number: int) -> None:
        """What else the arm's speed is held against: bandwidths that are configured or looked up, those of the devices
        that hold its layers, and the arithmetic of its tensor types."""
        known = self.writer.state.arms[arm]
        loaded = next((one.loaded for one in known.attempts if one.number == number), None)
        if known.file is None or loaded is None:
            return
        for device, gb_s in self.settings.bandwidth:
            self._append(e.Ceiling(arm=arm, how="configured", gb_s=gb_s, device=device, over="config"))
        on_device = sorted(name for name in loaded.buffers if ceilings.device_of(name) != "cpu")
        types = roofline.active_types(known.file.shape)
        wanted = tuple(name for name, size in types.items() if size >= LEAST_OF_TYPES * sum(types.values()))
        name = on_device[0] if on_device and loaded.gpu_layers >= loaded.layers else "cpu"
        request = protocol.Kernels(
            arm=arm,
            types=wanted,
            threads=self.settings.threads,
            cache=str(self.options.cache / KERNELS),
            build=self._build(),
            device=name,
            named=ceilings.device_of(name),
        )
        try:
            with self._phase(arm, "bandwidth", number):
                for device in on_device if loaded.gpu_layers else ():
                    self._device(engine, arm, device)
                self._ask(engine, request)
        except EngineFailure as failure:
            # A ceiling that cannot be had costs no arm: what is missing is said, and the model loaded anew.
            for one in wanted:
                self._append(e.KernelRate(arm=arm, type=one, how="absent", why=failure.error))
            self._append(e.PhaseFailed(arm=arm, phase="bandwidth", error=failure.error, attempt=number))
            self._close((arm, number))
            self._load(arm, number)

    def _device(self, engine: Engine, arm: str, name: str) -> None:
        """The bandwidth of a device: what its makers say, and how fast it copies."""
        state, named = self.writer.state, ceilings.device_of(name)
        peak = state.readings.get(f"{named}.bandwidth")
        over = "bus width x memory clock"
        if peak is None and state.host is not None:
            cores = apple.gpu_cores() if sys.platform == "darwin" else None
            if (table := apple.looked_up(state.host.cpu, cores)) is not None:
                doubt = apple.ambiguous(state.host.cpu, cores)
                peak, over = table * 1e9, f"table of chips{': ' if doubt else ''}{doubt}"
        if peak is not None:
            self._append(e.Ceiling(arm=arm, how="looked up", gb_s=peak / 1e9, device=named, over=over))
        file = self.writer.state.arms[arm].file
        if file is not None:
            request = protocol.Bandwidth(arm=arm, file=file.file, threads=1, device=name, named=named)
            self._ask(engine, request)

    def _build(self) -> str:
        """The llama.cpp that measures, by all that tells one from another."""
        built = self.writer.state.build
        if built is None:
            return ""
        return f"{built.llama_cpp_python} {built.llama_cpp} {built.system_info} {' '.join(built.devices)}"

    def _start(self, name: str) -> Engine:
        engine = self._start_engine(session.part(self.writer.folder, "stderr", f"{name}.txt"), self.writer.origin_ns)
        self._watch(engine.pid)
        return engine

    def _watch(self, pid: int | None) -> None:
        """Whose readings the sampler takes."""
        if pid != self._watched:
            self._sampler.watch(pid)
            self._watched = pid

    @contextmanager
    def _running(self, name: str) -> Iterator[Engine]:
        """An engine process for as long as the block lasts, watched by the sampler."""
        engine = self._start(name)
        try:
            yield engine
        finally:
            self._watch(None)
            engine.close()

    def _close(self, key: tuple[str, int]) -> None:
        engine = self._loaded.pop(key)
        self._warmed.pop(key[0], None)
        self._watch(None)
        engine.close()

    def _close_all(self) -> None:
        for key in list(self._loaded):
            self._close(key)
        for file in self._files.values():
            store.release(file)

    def _let_go(self, arm: str) -> None:
        """An arm is over: its engines end, and its file, where it was made, may be evicted."""
        for key in [key for key in self._loaded if key[0] == arm]:
            self._close(key)
        if arm in self._files:
            store.release(self._files.pop(arm))

    def _ask(self, engine: Engine, request: Any) -> list[Any]:
        """Have a request answered: events go to the log as they come, other answers are returned."""
        others, asleep = [], self._asleep()
        with self._asking(engine):
            for answer in engine.ask(request, self.options.patience):
                if isinstance(answer, (e.UnitDone, e.Perplexity)):
                    answer = self._awake(answer, self._asleep() - asleep)
                if isinstance(answer, e.Event):
                    self._append(answer)
                else:
                    others.append(answer)
        return others

    def _awake(self, answer: e.UnitDone | e.Perplexity, slept: float) -> e.UnitDone | e.Perplexity:
        """A unit as it counts where the machine was suspended for so many seconds meanwhile: one that is timed is done
        again, of any other the time is not told."""
        if slept <= suspend.LEAST:
            return answer
        if answer.unit.kind not in fold.TIMED:
            return msgspec.structs.replace(answer, ns=0)
        self.disturb(f"the machine was suspended for {duration(slept)}")
        return answer

    @contextmanager
    def _asking(self, engine: Engine) -> Iterator[None]:
        """Whom a stop and a skip interrupt. It answers nothing any more then."""
        with self._lock:
            self._asked = engine
        try:
            self._check()
            yield
        except Interrupted:
            for key in [key for key, held in self._loaded.items() if held is engine]:
                self._close(key)
            raise
        finally:
            with self._lock:
                self._asked = None

    # --- files

    def _file(self, planned: e.PlannedArm, number: int) -> Path:
        """The arm's GGUF, made from its source where it is to be made, and recorded as what its tensors are."""
        path = Path(planned.file) if planned.file else self._made(planned, number)
        if (planned.id, number) in self._started:
            return path
        read = header.read(path)
        digest = self._digest(planned.id, read.files, number)
        self._same(planned.id, path, digest)
        shape, said = header.shape(read), label.label_note(read, planned.quant)
        self._append(
            e.ArmStarted(
                arm=planned.id,
                quant=planned.quant,
                file=str(path),
                bytes=read.file_bytes,
                bits_per_weight=header.bits_per_weight(read),
                tensor_types=header.tensor_types(read),
                shape=shape,
                sha256=digest,
                imatrix=planned.imatrix or header.imatrix(read),
                label_note="; ".join(filter(None, (said, shape.note))),
                attempt=number,
                source_sha256=self._made_from(planned.source if not planned.ghost else ""),
                imatrix_sha256=self._made_from(planned.imatrix if not planned.file else ""),
            )
        )
        self._started.add((planned.id, number))
        self._seen[planned.id] = _looks(read.files)
        self._note()
        return path

    def _digest(self, arm: str, files: Sequence[Path], number: int) -> str:
        """The SHA-256 of the arm's file, of each part where it is split, comma between. Large ones take a while."""

        def told(fraction: float) -> None:
            self._check()
            self._append(e.PhaseProgress(arm=arm, phase="hash", fraction=fraction))

        with self._phase(arm, "hash", number):
            return ",".join(header.sha256(file, self.options.cache, told) for file in files)

    def _same(self, arm: str, path: Path, digest: str) -> None:
        """What is recorded of an arm must not go on with another file.

        Raises:
            UserError: its content is another one.
        """
        other = changed.other(path, self.writer.state.arms[arm].file, digest)
        if other and not self.options.anyway:
            folder = clean(str(self.writer.folder))
            raise UserError(
                f"{other}: what is recorded of {clean(arm, 80)} was measured with the old one: put that back, or run "
                f"this one anew; quanttui run --resume {folder} --anyway takes it all the same"
            )

    def _made_from(self, file: str) -> str:
        """The digest of what an arm's file was made from, "" where it was there: remembered since it was made."""
        return changed.digests(Path(file), self.options.cache) if file else ""

    def _made(self, planned: e.PlannedArm, number: int) -> Path:
        """The quant in the cache, made now if it is not there: an engine is started only then."""
        if (held := self._files.get(planned.id)) is not None:
            return held
        with self._phase(planned.id, "quantize", number), closing(self._making(planned)) as making:
            while True:
                try:
                    self._append(next(making))
                except StopIteration as made:
                    self._files[planned.id] = Path(made.value)
                    return self._files[planned.id]
                if planned.ghost:  # an engine is interrupted by itself
                    self._check()

    def _making(self, planned: e.PlannedArm) -> Generator[e.Event, None, Path]:
        """What makes the arm's file: a ghost needs nothing but its shape, a quant an engine."""
        if planned.ghost:
            return tiles.make(planned, self.options.cache, self.options.cache_bytes)
        return quantize.make(
            planned,
            _Asked(self._quantizer, f"{planned.id}.quantize", self.options.patience),
            self.options.cache,
            max_bytes=self.options.cache_bytes,
            threads=self.settings.threads,
            build=self.writer.state.build.llama_cpp if self.writer.state.build else "",
        )

    @contextmanager
    def _quantizer(self, name: str) -> Iterator[Engine]:
        with self._running(name) as engine, self._asking(engine):
            yield engine

    # --- units

    def _warm_first(self, step: Step) -> list[Step]:
        """Where arms take turns, the warm-ups of all of them, before the first repetition of a test is timed."""
        if step.phase not in ("prompt", "decode") or self.settings.schedule == "sequential" or not self._together():
            return []
        (unit,) = step.units
        state, steps = self.writer.state, []
        for arm in state.arms.values():
            each = plan.tests(self.settings, arm.plan)
            test = next((one for one in each if (one[0], one[2]) == (unit.kind, unit.depth)), None)
            if test is None:
                continue
            first = plan.repetition(self.settings, arm, arm.attempt, test)
            if arm.outcome in ("planned", "running") and first and self._warmed.get(arm.id) != test:
                steps.append(Step(arm.id, "warm", 1, (first,)))
        return steps if step.attempt == 1 else []

    def _warm(self, engine: Engine, unit: e.Unit) -> None:
        self._ask(engine, protocol.Warm(unit=unit))
        self._warmed[unit.arm] = unit.kind, unit.tokens, unit.depth

    def _timed(self, engine: Engine, step: Step) -> None:
        (unit,) = step.units
        while self.settings.polite and (why := self._idle()):
            self._pause(step.arm, step.attempt, why, 1.0)
            if self.writer.state.paused:
                return
        if self.writer.state.phase == "cool":
            self._enter(step)
        self._make_room()
        self._ask(engine, protocol.Speed(unit=unit))

    def _cool(self, step: Step) -> None:
        self._pause(step.arm, step.attempt, step.why, drift.COOL_SECONDS)
        self._append(e.PhaseDone(arm=step.arm, phase="cool", attempt=step.attempt))

    def _pause(self, arm: str, attempt: int, why: str, seconds: float) -> None:
        if self.writer.state.phase != "cool":
            self._append(e.PhaseStarted(arm=arm, phase="cool", attempt=attempt, why=why))
        self._stopping.wait(seconds)
        self._check()

    def _pace(self, step: Step) -> None:
        """How often the sampler reads: seldom while a unit is timed on all cores."""
        quiet = step.phase in fold.TIMED and self.writer.state.fills_cores
        hz = min(self.options.hz, QUIET_HZ) if quiet else self.options.hz
        if hz != self._hz:
            self._sampler.rate(hz)
            self._hz = hz

    def _make_room(self) -> None:
        """Have a screen paint now what it leaves unpainted while a repetition is timed."""
        if self.writer.state.fills_cores:
            self.between()

    def _spare(self) -> bool:
        """Whether there is something to score with while the next unit is decoded: cores, or a GPU that decodes."""
        state = self.writer.state
        attempt = state.arms[state.arm].attempt if state.arm in state.arms else None
        offloaded = attempt is not None and attempt.loaded is not None and attempt.loaded.gpu_layers > 0
        return offloaded or (state.host is not None and self.settings.threads < state.host.cores)

    def _ahead(self) -> int:
        """How many perplexity units go into one request: several where scoring one while the next is decoded pays. One
        where the base is decoded beside them, into the places of one unit."""
        chosen = self.writer.state.base
        beside = chosen is not None and chosen.how == "beside"
        return AHEAD if self._spare() and not beside else 1

    def _chunks(self, arm: str) -> int:
        """How many chunks of the text there are for an arm to score."""
        return self.writer.state.arms[arm].chunks_planned or self._counted[arm]

    def _count(self, engine: Engine, arm: str) -> None:
        request = protocol.Tokenize(arm=arm, text=self.options.text, context=self.settings.context)
        (counted,) = self._ask(engine, request)
        limit = self.settings.chunks
        self._counted[arm] = counted.chunks if limit is None else min(limit, counted.chunks)

    def _score(self, engine: Engine, step: Step) -> None:
        """Score the step's units, and where the base is decoded beside them, that first."""
        state, folder = self.writer.state, self.writer.folder
        arm, chunks = state.arms[step.arm], self._chunks(step.arm)
        if "kld" in self.settings.tasks and state.base is None:
            self._written(self.writer.check)  # a disk that is full just now must not decide it
            pair = sorted(paired.scored(state), key=lambda one: -(one.plan.bytes or 0))[:2]
            fit = room.arms_fit(state, [one.id for one in pair], self._free)
            self._append(base.choose(state, folder, chunks, fit))
        told = base.told(state, folder, arm, step.units, chunks)
        if told is not None and told.ring:
            told = self._beside(told, step.units, chunks)
        raw = session.part(folder, "raw", f"{arm.id}.nll")
        file = str(raw.relative_to(folder))
        self._ask(
            engine,
            protocol.Score(
                units=step.units, text=self.options.text, chunks=chunks, raw=str(raw), file=file, base=told
            ),
        )

    def _answer(self, engine: Engine, step: Step) -> None:
        """Have an item of a task answered, or those that are asked at once. An answer is recorded before its unit is;
        of a unit that is recorded already nothing is any more."""
        asked = [(unit, self._items[unit.task, unit.item]) for unit in step.units]
        known = {unit for unit in step.units if unit.id in self.writer.state.arms[step.arm].units}
        task = step.units[0].task
        count = sum(name == task for name, _ in self._items)
        context = self._context(engine, step.arm)
        request = answers.request(asked, self.settings, context, self._thinking[task])
        with self._asking(engine):
            for told in engine.ask(request, self.options.patience):
                if isinstance(told, (protocol.Generated, protocol.Chosen)):
                    if told.unit not in known:
                        item = self._items[task, told.unit.item]
                        self._append(answers.record(self.writer.folder, told.unit, item, count, told))
                elif getattr(told, "unit", None) not in known:
                    self._append(told)

    def _context(self, engine: Engine, arm: str) -> int:
        """The context, in tokens, that all items fit into with their answers, as far as the model goes."""
        if arm not in self._contexts:
            items = tuple(self._items.values())
            given = tuple(answers.given(item, self._thinking[task]) for (task, _), item in self._items.items())
            (found,) = self._ask(engine, protocol.Render(arm=arm, prompts=given, chat=self.settings.chat))
            self._contexts[arm] = answers.context(items, found, self.settings.max_tokens, self.settings.chat)
        return self._contexts[arm]

    def _beside(self, told: protocol.Base, units: tuple[e.Unit, ...], chunks: int) -> protocol.Base | None:
        """Have the base decode the same chunks, for its logits. Its figures are recorded already.

        A base that fails here ends the KL divergence, not the arm.
        """
        key = told.name, 1
        mine = [msgspec.structs.replace(unit, arm=told.name) for unit in units]
        scratch = session.part(self.writer.folder, "raw", "beside.nll")
        try:
            if key not in self._loaded:
                self._load_beside(told.name)
            engine = self._loaded[key]
            request = protocol.Score(
                units=tuple(mine),
                text=self.options.text,
                chunks=chunks,
                raw=str(scratch),
                base=msgspec.structs.replace(told, write=True, raw="", known=(), sums=""),
            )
            with self._asking(engine):
                for _ in engine.ask(request, self.options.patience):
                    pass
        except EngineFailure as failure:
            self._blame(failure.outcome, failure.error)
            why = f"no KL divergence from here on: {told.name}, decoded beside: {failure.error}"
            self._append(e.BaseChosen(base=told.name, how="none", why=why))
            if key in self._loaded:
                self._close(key)
            return msgspec.structs.replace(told, logits="", slots={}, ring=0, sums="") if told.known else None
        return told

    def _load_beside(self, name: str) -> None:
        """Load the base beside the arm under way, which stays what the log and the sampler are about."""
        planned = self.writer.state.arms[name].plan
        file = Path(planned.file) if planned.file else self._files.get(name) or self._made(planned, 1)
        settings = msgspec.structs.replace(self.settings, kv=planned.kv or self.settings.kv)
        stderr = session.part(self.writer.folder, "stderr", f"{name}.beside.txt")
        engine = self._loaded[name, 1] = self._start_engine(stderr, self.writer.origin_ns)
        with self._asking(engine):
            for _ in engine.ask(
                protocol.Load(arm=name, file=str(file), settings=settings), self.options.patience
            ):
                pass

    def _drop_logits(self) -> None:
        """The base's logits are of no use once all is scored: they can be made again, and are large."""
        chosen = self.writer.state.base
        if chosen is None or chosen.how not in ("file", "beside"):
            return
        for name in (session.LOGITS, f"{session.LOGITS}.part", "beside.nll"):
            with suppress(OSError):
                (self.writer.folder / "raw" / name).unlink(missing_ok=True)


def _looks(files: Sequence[Path]) -> tuple[tuple[tuple[int, int], ...], tuple[Path, ...]]:
    """Sizes and times of change of files, by which it is seen that nobody wrote to them; (0, 0) for one that is gone.
    The files, too."""
    found = []
    for file in files:
        try:
            status = file.stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((0, 0))
    return tuple(found), tuple(files)


def _phase_of(step: Step) -> str:
    """The phase that a step belongs to: counting the text's chunks is part of scoring them."""
    return {"count": "perplexity"}.get(step.phase, step.phase)
