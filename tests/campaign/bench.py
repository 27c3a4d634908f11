"""A sweep over scripted engines, with a fault at any of their answers: it costs a hundredth of what a real one does, so
that something can go wrong at every byte. Its log, raw rows and control file are real ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import psutil

from quanttui import events as e
from quanttui import session
from quanttui.engine import protocol, scripted
from quanttui.errors import UserError
from quanttui.measure import tasks
from quanttui.models import pocket
from quanttui.sweep.runner import Options, Sampler, Sweep

from . import judge
from .ground import Ground, Outcome
from .judge import Qualities, Recorded

ARMS = ("A", "B", "C")
BASE = "A"
PROMPTS = "".join(f'{{"id": "{name}", "prompt": "Say {name}", "max_tokens": 6}}\n' for name in ("one", "two", "three"))
SCRIPT = scripted.Script(prompt=400.0, decode=50.0, chunks=6, vocabulary=32, gb_s=None)

Strike = Callable[["Bench"], None]
"""What happens before an answer of an engine is passed on; `answers` of the bench counts them."""


def nothing(_: Bench) -> None:
    """No fault."""


class Killed(BaseException):
    """The process that runs the sweep ends here."""


class Heart:
    """A sampler that has no probes, and beats when it is told to."""

    def __init__(self, emit: Callable[[e.Event], None]) -> None:
        self._emit = emit

    def start(self) -> None: ...

    def watch(self, pid: int | None) -> None: ...

    def rate(self, hz: float) -> None: ...

    def stop(self) -> None: ...

    def sample_now(self) -> e.Sample:
        sample = e.Sample(readings={"mem.total": 2.0**34})
        self._emit(sample)
        return sample

    def beat(self) -> None:
        """The sweep looks for requests at each."""
        self._emit(e.Beat(wall=1.0))


class Engine(scripted.Engine):
    """A scripted engine that strikes before it answers."""

    def __init__(self, bench: Bench) -> None:
        super().__init__({arm: SCRIPT for arm in bench.arms}, bench.clock)
        self._bench = bench

    def ask(self, request: protocol.Request, patience: float = 600.0) -> Iterator[protocol.Answer]:
        for answer in super().ask(request, patience):
            self._bench.answers += 1
            self._bench.strike(self._bench)
            yield answer


@dataclass
class Bench:
    """A session of three arms in `place`, with speed, perplexity, KL divergence and answers.

    `cache` remembers digests. `files` are the arms' GGUFs, the pocket model where none is named. `sampler` makes
    another sampler than `heart`,
    `asleep` says for how long the machine was suspended.
    """

    place: Path
    cache: Path
    arms: tuple[str, ...] = ARMS
    files: dict[str, Path] = field(default_factory=dict)
    folder: Path = Path()
    strike: Strike = nothing
    sampler: Callable[[Callable[[e.Event], None]], Sampler] | None = None
    asleep: Callable[[], float] = float
    answers: int = 0
    clock: scripted.Clock = field(default_factory=scripted.Clock)
    heart: Heart | None = None

    def __post_init__(self) -> None:
        self.folder = self.folder if self.folder.name else self.place / "session"

    def settings(self) -> e.Settings:
        prompts = self.place / "prompts.jsonl"
        if not prompts.exists():
            prompts.write_text(PROMPTS)
        return e.Settings(
            tasks=("speed", "ppl", "kld", "prompts"), prompts=str(prompts), threads=2, prompt=8, decode=12,
            repetitions=2, context=16, batch=32, chunks=6, text="text", kld="file",
        )  # fmt: skip

    def open(self) -> None:
        """Begin the session.

        Raises:
            UserError: it cannot be written.
        """
        session.create(self.place, "m", self.folder)
        writer, me = session.Writer(self.folder), psutil.Process()
        try:
            writer.append(
                e.SessionOpened(
                    schema=e.SCHEMA, model="m",
                    host=e.Host(name="h", os="o", cpu="c", cores=2, threads=2, memory=2**34),
                    build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False),
                    settings=self.settings(),
                    plan=tuple(
                        e.PlannedArm(id=arm, quant="F16", file=str(self.files.get(arm, pocket.MODEL)))
                        for arm in self.arms
                    ),
                    wall=1.0, origin_ns=writer.origin_ns, pid=me.pid, pid_started=me.create_time(),
                )
            )  # fmt: skip
        finally:
            writer.close()

    def run(self, strike: Strike = nothing) -> str:
        """What is missing, with `strike` before every answer; the sweep's outcome.

        Raises:
            UserError: the log cannot be written any more.
        """
        self.strike, self.answers = strike, 0
        writer = session.Writer(self.folder)
        try:
            return self._sweep(writer).run()
        finally:
            writer.close()

    def resume(self, strike: Strike = nothing) -> str:
        """The same in a later process, which says so first."""
        writer, me = session.Writer(self.folder), psutil.Process()
        state = writer.state
        self.strike, self.answers = strike, 0
        try:
            assert state.host is not None and state.build is not None
            writer.append(
                e.SessionResumed(
                    host=state.host, build=state.build, settings=state.settings,
                    plan=tuple(arm.plan for arm in state.arms.values()), wall=2.0, origin_ns=writer.origin_ns,
                    pid=me.pid, pid_started=me.create_time(),
                )
            )  # fmt: skip
            return self._sweep(writer).run()
        finally:
            writer.close()

    def _sweep(self, writer: session.Writer) -> Sweep:
        settings = writer.state.settings
        options = Options(cache=self.cache, cache_bytes=2**30, text="text", tasks=tasks.load(settings))
        started, sampler = lambda stderr, origin_ns: Engine(self), self.sampler or self._heart
        return Sweep(writer, options, started, sampler, asleep=self.asleep)

    def _heart(self, emit: Callable[[e.Event], None]) -> Heart:
        self.heart = Heart(emit)
        return self.heart

    def events(self) -> list[e.Event | e.Unknown]:
        reader = session.Reader(self.folder)
        try:
            return list(reader.events())
        finally:
            reader.close()

    def killed(self, answer: int, strike: Strike = nothing) -> Recorded:
        """Begin the session, with `strike` before every answer, and end before one of them as a killed process does:
        nothing more is written. What the log holds then."""
        size = 0

        def kill(bench: Bench) -> None:
            nonlocal size
            strike(bench)
            if bench.answers == answer:
                size = (bench.folder / session.EVENTS).stat().st_size
                raise Killed

        self.open()
        try:
            self.run(kill)
        except Killed:
            os.truncate(self.folder / session.EVENTS, size)
        return judge.recorded(self.folder)

    def resumed(self, before: Recorded, whole: Qualities, fails: Collection[str] = ()) -> Outcome:
        """Bring it to its end, and judge. Where nothing at all was recorded, it begins anew.

        Args:
            before: the log when the fault came.
            whole: the qualities of the undisturbed sweep.
            fails: outcomes with which the fault may have ended one arm.
        """
        try:
            if session.load(self.folder).opened is None:
                self.open()
                outcome = self.run()
            else:
                outcome = self.resume()
        except UserError as error:
            return Outcome(lost_sweep=True, said=str(error))
        return self.judged(before, outcome, whole, fails)

    def judged(self, before: Recorded, outcome: str, whole: Qualities, fails: Collection[str] = ()) -> Outcome:
        """Judge a session that is over."""
        after = judge.recorded(self.folder)
        wrong = [f"{arm} {event.error}" for arm, event in after.failed.items() if event.outcome not in fails]
        undone = sorted(after.planned - after.complete - set(after.failed))
        cut, again = not after.log.startswith(before.log), judge.run_again(after)
        differing = judge.differences(judge.qualities(self.folder), whole, after.complete, BASE)
        due = "failed" if after.failed else "ok"
        told = [
            *(["the log does not begin with what was recorded"] if cut else []),
            *wrong,
            *(f"{arm} is not done" for arm in undone),
            *(f"{unit} was run again" for unit in again[:3]),
            *([f"the sweep ends {outcome} and not {due}"] if outcome != due else []),
            *differing[:3],
            *judge.irregular(after),
        ]
        return Outcome(
            lost_sweep=bool(cut or wrong or undone),
            lost_units=judge.lost(before, after),
            wrong_resume=bool(again or outcome != due),
            quality=bool(differing),
            said="; ".join(told),
        )


@dataclass(frozen=True)
class Whole:
    """A sweep that nothing disturbed: its folder, with the base's logits still in it, its log and qualities. `answers`
    were given by its engines."""

    folder: Path
    log: bytes
    qualities: Qualities
    answers: int

    def copy(self, bench: Bench, log: bytes) -> None:
        """Have a bench's folder hold this session with another log."""
        shutil.copytree(self.folder, bench.folder)
        shutil.copy(self.folder.parent / "prompts.jsonl", bench.place)
        (bench.folder / session.EVENTS).write_bytes(log)


@lru_cache(maxsize=4)
def whole(ground: Ground) -> Whole:
    """The undisturbed sweep of a bench. Made once."""
    made = Bench(Path(tempfile.mkdtemp(prefix="bench-", dir=ground.folder)), ground.cache)
    kept = made.place / session.LOGITS

    def keep(bench: Bench) -> None:
        """The last sight of the base's logits: the sweep drops them at its end."""
        logits = bench.folder / "raw" / session.LOGITS
        if logits.exists() and not kept.exists():
            shutil.copy(logits, kept)

    made.open()
    outcome = made.run(keep)
    assert outcome == "ok", outcome
    shutil.copy(kept, made.folder / "raw")
    return Whole(made.folder, (made.folder / session.EVENTS).read_bytes(), judge.qualities(made.folder), made.answers)


def also(outcome: Outcome, told: str) -> Outcome:
    """The outcome, and what else is amiss with how the sweep ended or went on."""
    return replace(outcome, wrong_resume=True, said=told + outcome.said) if told else outcome


@contextmanager
def bench(ground: Ground, place: Path | None = None) -> Iterator[Bench]:
    """A bench in a folder of its own, `place` or a new one, which is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=place or ground.folder))
    try:
        yield Bench(folder, ground.cache)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
