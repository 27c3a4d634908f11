"""Sessions made up of events, as a sweep would write them: any number of arms, speeds, perplexities, and faults.

    state = builders.state(builders.Arm("Q8_0"), builders.Arm("Q4_K_M", tok_s=25.0, swap=0.021))
    events = builders.events(builders.Arm("Q8_0", fails="oom"))

An `Arm` says what is to be seen of a quant; `Log` writes the events, with samples at 4 Hz whose cumulative counters
agree with the units' own. Everything is deterministic.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from quanttui import events as e
from quanttui import state as fold
from quanttui.diagnosis import roofline
from quanttui.quants import BY_NAME

SAMPLE_EVERY = 0.25
TELL_EVERY = 0.2
PARAMETERS = 1_300_000_000
VOCABULARY, WIDTH = 32_000, 2048


@dataclass(frozen=True)
class Arm:
    """What a quant does in the made-up sweep.

    tok_s, prompt_tok_s: means; repetitions go from `spread` below to `spread` above, relatively.
    ppl: perplexity that its chunks work out to, nearly.
    swap, page_in: share of the active bytes that is read again for each token (or batch), from swap or the file.
    neighbour_swap: bytes that somebody else swaps in while a token is decoded.
    cpu: own CPU time as a share of threads x wall. ceiling: measured GB/s, None for absent.
    tokens, repetitions: of decode. fails: an outcome that ends the arm in `fails_in`.
    reads: whether the host tells what a process reads (macOS does not). again: decode tok/s of further attempts.
    watts: of the package, None where there is no counter.
    """

    quant: str = "Q8_0"
    tok_s: float = 17.0
    prompt_tok_s: float = 60.0
    spread: float = 0.01
    ppl: float = 8.0
    swap: float = 0.0
    page_in: float = 0.0
    neighbour_swap: float = 0.0
    cpu: float = 0.97
    ceiling: float | None = 33.0
    ceiling_how: str = "measured"
    tokens: int = 32
    repetitions: int = 5
    chunks: int = 8
    fails: str = ""
    fails_in: str = "decode"
    error: str = ""
    stderr: tuple[str, ...] = ()
    gpu_layers: int = 0
    reads: bool = True
    again: tuple[float, ...] = ()
    watts: float | None = None
    id: str = ""
    label_note: str = ""
    imatrix: str = ""
    planned_only: bool = False

    @property
    def name(self) -> str:
        return self.id or self.quant


def host(**changes: Any) -> e.Host:
    """A small Linux guest: 2 cores, 24 GiB, 32 MiB of last-level cache."""
    made = e.Host(name="guest", os="Linux 6.1", cpu="Zen 4", cores=2, threads=2, memory=24 << 30, cache=32 << 20)
    return msgspec.structs.replace(made, **changes)


def build(**changes: Any) -> e.Build:
    made = e.Build(quanttui="0.1.0", llama_cpp_python="0.3.36", llama_cpp="b6401", gpu_offload=False)
    return msgspec.structs.replace(made, **changes)


def settings(**changes: Any) -> e.Settings:
    made = e.Settings(threads=2, prompt=512, decode=32, repetitions=5, text="pocket", text_sha256="ab" * 32)
    return msgspec.structs.replace(made, **changes)


def shape(quant: str = "Q8_0", parameters: int = PARAMETERS, **changes: Any) -> e.Shape:
    """A dense model of so many weights, all of one type, the output not tied to the embedding."""
    bits = BY_NAME[quant].bits_per_weight
    table = min(VOCABULARY * WIDTH, parameters // 8)

    def group(role: str, elements: int) -> e.TensorGroup:
        return e.TensorGroup(role=role, type=quant, count=1, elements=elements, bytes=int(elements * bits / 8))

    made = e.Shape(
        architecture="llama", name="made-up 1.3B", layers=22, embedding=WIDTH, vocabulary=VOCABULARY, heads=32,
        head_count_kv=(4,) * 22, key_length=64, value_length=64, context=4096, tied=False, parameters=parameters,
        tensors=(group("embedding", table), group("output", table), group("block", parameters - 2 * table)),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def nll(chunk: int, ppl: float, scored: int = 255) -> tuple[float, float]:
    """Sums of nll and of its square over one chunk: the text's own difficulty, the quant's level, a little noise."""
    difficulty = random.Random(chunk).gauss(0.0, 0.3)
    noise = random.Random(f"{chunk} {ppl}").gauss(0.0, 0.005)
    mean = math.log(ppl) + difficulty + noise
    return scored * mean, scored * (mean * mean + 2.3**2)


@dataclass
class Log:
    """The events of a sweep over `arms`, one after another. Counters and the clock go on from arm to arm."""

    arms: tuple[Arm, ...]
    settings: e.Settings = field(default_factory=settings)
    host: e.Host = field(default_factory=host)
    build: e.Build = field(default_factory=build)
    parameters: int = PARAMETERS
    notes: tuple[str, ...] = ()
    events: list[e.Event] = field(default_factory=list)
    t: float = 0.0
    counters: dict[str, float] = field(default_factory=lambda: {"swap.in": 5e9, "cpu.busy": 99, "package.energy": 50})
    sampled: float = 0.0
    pid: int = 4000

    def put(self, event: e.Event) -> None:
        self.events.append(msgspec.structs.replace(event, n=len(self.events), t=self.t))

    def open(self) -> None:
        plan = tuple(
            e.PlannedArm(
                id=arm.name, quant=arm.quant, file=f"/models/{arm.name}.gguf", imatrix=arm.imatrix,
                bytes=int(roofline.resident_bytes(self.shape(arm))),
            )
            for arm in self.arms
        )  # fmt: skip
        self.put(
            e.SessionOpened(
                schema=e.SCHEMA, model="made-up 1.3B", host=self.host, build=self.build, settings=self.settings,
                plan=plan, wall=1.7e9, origin_ns=0, pid=1, pid_started=0.0, notes=self.notes,
            )
        )  # fmt: skip
        self.t += 0.1

    def shape(self, arm: Arm) -> e.Shape:
        return shape(arm.quant, self.parameters)

    def close(self, outcome: str = "ok") -> None:
        self.put(e.SessionClosed(outcome=outcome))

    def arm(self, arm: Arm) -> None:
        """The arm, and its further attempts."""
        self.attempt(arm, 1)
        for number, tok_s in enumerate(arm.again, 2):
            self.attempt(replace(arm, tok_s=tok_s), number)

    def attempt(self, arm: Arm, number: int) -> None:
        made = self.shape(arm)
        size = int(roofline.resident_bytes(made))
        self.put(
            e.ArmStarted(
                arm=arm.name, quant=arm.quant, file=f"/models/{arm.name}.gguf", bytes=size,
                bits_per_weight=size * 8 / self.parameters, tensor_types={arm.quant: 3}, shape=made, sha256="cd" * 32,
                imatrix=arm.imatrix, label_note=arm.label_note, attempt=number,
            )
        )  # fmt: skip
        self.pid += 1
        self.counters |= {"engine.cpu": 0.0, "engine.majflt": 0.0}
        if arm.reads:
            self.counters["engine.read"] = 0.0
        else:
            self.counters.pop("engine.read", None)
        for phase in self.phases(number):
            if not self.phase(arm, number, phase):
                return
        self.put(e.ArmDone(arm=arm.name, attempt=number))

    def phases(self, number: int) -> list[str]:
        wanted = {"prompt": self.settings.prompt, "decode": self.settings.decode}
        speed = [kind for kind, tokens in wanted.items() if tokens]
        ppl = ["perplexity"] if "ppl" in self.settings.tasks and number == 1 else []
        return ["bandwidth", "load", *speed, *ppl]

    def phase(self, arm: Arm, number: int, phase: str) -> bool:
        """One phase; False where the arm failed in it."""
        units = {"prompt": arm.repetitions, "decode": arm.repetitions, "perplexity": -(-arm.chunks // 4)}.get(phase)
        self.put(e.PhaseStarted(arm=arm.name, phase=phase, units=units, attempt=number))
        if arm.fails and arm.fails_in == phase:
            self.fail(arm, number, phase)
            return False
        if phase == "bandwidth":
            self.bandwidth(arm)
        elif phase == "load":
            self.load(arm, number)
        elif phase == "perplexity":
            self.perplexity(arm)
        else:
            self.repetitions(arm, number, phase)
        self.put(e.PhaseDone(arm=arm.name, phase=phase, attempt=number))
        return True

    def fail(self, arm: Arm, number: int, phase: str) -> None:
        error = arm.error or f"the engine ended: {arm.fails}"
        self.put(e.PhaseFailed(arm=arm.name, phase=phase, error=error, attempt=number))
        self.put(
            e.ArmFailed(
                arm=arm.name, outcome=arm.fails, error=error, phase=phase, stderr=arm.stderr, attempt=number,
                signal=9 if arm.fails == "oom" else None,
            )
        )  # fmt: skip

    def bandwidth(self, arm: Arm) -> None:
        self.t += 0.5
        if arm.ceiling is None:
            self.put(e.Ceiling(arm=arm.name, how="absent", why="too little memory is free to measure it"))
            return
        device = "gpu0" if arm.gpu_layers else "cpu"
        self.put(
            e.Ceiling(
                arm=arm.name, how=arm.ceiling_how, gb_s=arm.ceiling, repeats=(arm.ceiling,), threads=2,
                over="512 MiB of the mapped file", device=device,
            )
        )  # fmt: skip

    def load(self, arm: Arm, number: int) -> None:
        """A cold one: the whole file is read, with no major fault, before anything is timed."""
        for done in (0.5, 1.0):
            self.t += 0.5
            self.put(e.PhaseProgress(arm=arm.name, phase="load", fraction=done))
        if arm.reads:
            self.counters["engine.read"] += roofline.resident_bytes(self.shape(arm))
        self.put(
            e.ArmLoaded(
                arm=arm.name, pid=self.pid, gpu_layers=arm.gpu_layers, layers=23, load_ns=10**9,
                threads=self.settings.threads, attempt=number,
            )
        )  # fmt: skip

    def repetitions(self, arm: Arm, number: int, kind: str) -> None:
        for index in range(arm.repetitions):
            tokens = arm.tokens if kind == "decode" else self.settings.prompt
            unit = e.Unit(
                arm=arm.name, kind=kind, index=index, tokens=tokens, depth=self.settings.depths[0], attempt=number
            )
            mean = arm.tok_s if kind == "decode" else arm.prompt_tok_s
            swing = 2 * index / (arm.repetitions - 1) - 1 if arm.repetitions > 1 else 0.0
            self.unit(arm, unit, mean * (1 + arm.spread * swing))

    def unit(self, arm: Arm, unit: e.Unit, tok_s: float) -> None:
        """One timed repetition: samples and tokens inside it, its own counters at the end."""
        self.put(e.UnitStarted(unit=unit, at=self.t))
        begun, each = self.t, 1 / tok_s
        seconds = unit.tokens * each
        before = dict(self.counters)
        rates = self.rates(arm, unit, seconds)
        told, told_at = 0, begun
        ends = [begun + k * each for k in range(1, unit.tokens + 1)] if unit.kind == "decode" else []
        moments = [(t, "token") for t in ends] + [(t, "sample") for t in self.samples(begun + seconds)]
        done = 0
        for moment, what in sorted(moments):
            self.move(moment, rates)
            if what == "sample":
                self.sample(arm)
                continue
            done += 1
            if moment - told_at >= TELL_EVERY or done == unit.tokens:
                self.put(e.Tokens(unit=unit, first=told, ns=(round(each * 1e9),) * (done - told)))
                told, told_at = done, moment
        self.move(begun + seconds, rates)
        self.put(
            e.UnitDone(
                unit=unit, at=begun, tokens=unit.tokens, ns=round(seconds * 1e9), counters=self.since(before, arm)
            )
        )
        self.t += 0.01

    def rates(self, arm: Arm, unit: e.Unit, seconds: float) -> dict[str, float]:
        """How fast each cumulative counter grows while the unit runs."""
        made = self.shape(arm)
        active, passes = roofline.batch_bytes(made), -(-unit.tokens // self.settings.ubatch)
        if unit.kind == "decode":
            active, passes = roofline.active_bytes(made, unit.depth, self.settings.kv), unit.tokens
        scale = passes / seconds
        again = arm.swap + arm.page_in
        return {
            "engine.read": again * active * scale,
            "engine.majflt": (3 + 1000 * again) * scale if again else 0.0,
            "swap.in": (arm.swap * active + arm.neighbour_swap) * scale,
            "engine.cpu": arm.cpu * self.settings.threads,
            "cpu.busy": float(self.settings.threads),
            "package.energy": arm.watts or 0.0,
        }

    def samples(self, end: float) -> list[float]:
        first = max(self.sampled + SAMPLE_EVERY, self.t)
        return [first + k * SAMPLE_EVERY for k in range(max(0, math.ceil((end - first) / SAMPLE_EVERY)))]

    def move(self, t: float, rates: dict[str, float]) -> None:
        for name, rate in rates.items():
            if name in self.counters:
                self.counters[name] += rate * (t - self.t)
        self.t = t

    def sample(self, arm: Arm) -> None:
        size = roofline.resident_bytes(self.shape(arm))
        readings = {"mem.total": float(self.host.memory), "mem.used": 2e9 + size, "swap.used": 639e6}
        readings |= {"engine.rss": size, "engine.anonymous": 2e8} | self.counters
        if arm.watts is None:
            readings.pop("package.energy")
        self.put(e.Sample(readings=readings, pid=self.pid))
        self.sampled = self.t

    def since(self, before: dict[str, float], arm: Arm) -> e.Counters:
        def grown(name: str) -> int | None:
            return round(self.counters[name] - before[name]) if name in before else None

        cpu = self.counters["engine.cpu"] - before["engine.cpu"]
        return e.Counters(
            cpu_ns=round(cpu * 1e9), majflt=grown("engine.majflt"), read=grown("engine.read"),
            swap_in=grown("swap.in"), rss=round(roofline.resident_bytes(self.shape(arm))), anonymous=round(2e8),
        )  # fmt: skip

    def perplexity(self, arm: Arm) -> None:
        for first in range(0, arm.chunks, 4):
            count = min(4, arm.chunks - first)
            unit = e.Unit(arm=arm.name, kind="perplexity", index=first, count=count)
            begun = self.t
            self.put(e.UnitStarted(unit=unit, at=begun))
            self.t += 2.0 * count
            self.sample(arm)
            for chunk in range(first, first + count):
                total, squares = nll(chunk, arm.ppl)
                self.put(
                    e.Perplexity(
                        unit=unit, chunk=chunk, chunks=arm.chunks, scored=255, nll=total, nll2=squares, at=begun,
                        ns=2 * 10**9,
                    )
                )  # fmt: skip
            self.put(e.UnitDone(unit=unit, at=begun, tokens=count * 512, ns=2 * 10**9 * count))


def events(*arms: Arm, closed: str | None = "ok", **session: Any) -> list[e.Event]:
    """A whole session over these arms. `closed` None leaves it open; `session` are Log's other fields."""
    log = Log(arms, **session)
    log.open()
    for arm in arms:
        if not arm.planned_only:
            log.arm(arm)
    if closed is not None:
        log.close(closed)
    return log.events


def state(*arms: Arm, closed: str | None = "ok", **session: Any) -> fold.State:
    """The fold of a whole session."""
    return fold.fold(events(*arms, closed=closed, **session))


def states(log: Iterable[e.Event]) -> Iterable[fold.State]:
    """The state after each event, one object that changes: what a viewer sees on the way."""
    now = fold.State()
    for event in log:
        now.apply(event)
        yield now
