"""Sessions made up of events, as a sweep would write them: any number of arms, speeds, perplexities, and faults.

    state = builders.state(builders.Arm("Q8_0"), builders.Arm("Q4_K_M", tok_s=25.0, swap=0.021))
    events = builders.events(builders.Arm("Q8_0", fails="oom"))
    events = builders.deciding()

An `Arm` says what is to be seen of a quant; `Log` writes the events, with samples at 4 Hz whose cumulative counters
agree with the units' own. Everything is deterministic.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from quanttui import events as e
from quanttui import state as fold
from quanttui.decide import paired
from quanttui.diagnosis import roofline
from quanttui.quants import BY_NAME
from quanttui.sweep import plan

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
    only: the decode repetitions in which swap, page_in, cpu and others are as said; empty: all of them.
    others: cores that other processes use; None: those that its threads lack. after: GB/s measured again after
        decoding, None where it is not measured.
    kernels: C(type) in GB/s. gpu: readings of gpu0 in every sample, `gpu_before` before it is loaded.
    answers: what it answers to the task "prompts", by item: the text, and whether that is right (None: not checked).
    kld: mean KL divergence from the first arm's logits, in nats; None without. disturbed: decode repetitions that are
    done again.
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
    answers: dict[str, tuple[str, bool | None]] = field(default_factory=dict)
    kld: float | None = None
    kv: str = ""
    disturbed: int = 0
    only: tuple[int, ...] = ()
    others: float | None = None
    after: float | None = None
    kernels: dict[str, float] = field(default_factory=dict)
    gpu: dict[str, float] = field(default_factory=dict)
    gpu_before: dict[str, float] = field(default_factory=dict)
    layers: int = 23
    buffers: dict[str, int] = field(default_factory=dict)

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


def against(chunk: int, ppl: float, base: Arm, scored: int = 255) -> e.Against:
    """A chunk's sums under the base, whose tokens go with the arm's."""
    ours, _ = nll(chunk, ppl, scored)
    total, squares = nll(chunk, base.ppl, scored)
    return e.Against(
        base=base.name, nll=total, nll2=squares, products=ours * total / scored + 0.985 * scored * 2.3**2
    )


def diverged(chunk: int, ppl: float, kld: float, base: Arm, scored: int = 255) -> e.Diverged:
    """A chunk's sums against the base's logits."""
    sums, noise = against(chunk, ppl, base, scored), random.Random(f"{chunk} {kld}").gauss(1.0, 0.1)
    mean = kld * noise
    return e.Diverged(
        base=base.name, nll_base=sums.nll, nll_base2=sums.nll2, nll_nll_base=sums.products,
        kld=scored * mean, kld2=scored * 5 * mean * mean, p_diff=-0.1 * mean * scored, p_diff2=0.1 * mean * scored,
        p_diff4=0.05 * mean * scored, same_top=round(scored * max(0.0, 1 - 3 * mean)), file="raw/x.kld",
    )  # fmt: skip


@dataclass
class Log:
    """The events of a sweep over `arms`, one after another. Counters and the clock go on from arm to arm."""

    arms: tuple[Arm, ...]
    settings: e.Settings = field(default_factory=settings)
    host: e.Host = field(default_factory=host)
    build: e.Build = field(default_factory=build)
    probed_after: bool = True
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
                bytes=int(roofline.resident_bytes(self.shape(arm))), kv=arm.kv,
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
        if self.begin(arm, number, self.phases(number)):
            self.put(e.ArmDone(arm=arm.name, attempt=number))

    def begin(self, arm: Arm, number: int, phases: Sequence[str]) -> bool:
        """The arm starts and goes through these phases; False where it failed in one."""
        made = self.shape(arm)
        size = int(roofline.resident_bytes(made))
        self.put(
            e.ArmStarted(
                arm=arm.name, quant=arm.quant, file=f"/models/{arm.name}.gguf", bytes=size,
                bits_per_weight=size * 8 / self.parameters, tensor_types={arm.quant: 3}, shape=made, sha256="cd" * 32,
                imatrix=arm.imatrix, label_note=arm.label_note, attempt=number,
            )
        )  # fmt: skip
        self.engine(arm)
        return all(self.phase(arm, number, phase) for phase in phases)

    def engine(self, arm: Arm) -> None:
        """Another engine process."""
        self.pid += 1
        self.counters |= {"engine.cpu": 0.0, "engine.majflt": 0.0}
        if arm.reads:
            self.counters["engine.read"] = 0.0
        else:
            self.counters.pop("engine.read", None)

    def phases(self, number: int) -> list[str]:
        wanted = {"prompt": self.settings.prompt, "decode": self.settings.decode}
        speed = [kind for kind, tokens in wanted.items() if tokens]
        speed += ["after"] if self.probed_after else []
        ppl = ["perplexity"] if "ppl" in self.settings.tasks and number == 1 else []
        tasks = ["task"] if "prompts" in self.settings.tasks and number == 1 else []
        return ["bandwidth", "load", *speed, *ppl, *tasks]

    def phase(self, arm: Arm, number: int, phase: str) -> bool:
        """One phase; False where the arm failed in it."""
        repeated = {"prompt": arm.repetitions, "decode": arm.repetitions}
        units = (repeated | {"perplexity": -(-arm.chunks // 4), "task": len(arm.answers)}).get(phase)
        if phase == "after" and arm.after is None:
            return True
        told = {"after": "bandwidth"}.get(phase, phase)
        self.put(e.PhaseStarted(arm=arm.name, phase=told, units=units, attempt=number))
        if arm.fails and arm.fails_in == phase:
            self.fail(arm, number, phase)
            return False
        if phase in ("bandwidth", "after"):
            self.bandwidth(arm, "before" if phase == "bandwidth" else "after")
        elif phase == "load":
            self.load(arm, number)
        elif phase == "perplexity":
            self.perplexity(arm)
        elif phase == "task":
            self.tasks(arm)
        else:
            self.repetitions(arm, number, phase)
        self.put(e.PhaseDone(arm=arm.name, phase=told, attempt=number))
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

    def bandwidth(self, arm: Arm, when: str = "before") -> None:
        self.t += 0.5
        gb_s = arm.ceiling if when == "before" else arm.after
        for name, rate in arm.kernels.items() if when == "before" else ():
            self.put(e.KernelRate(arm=arm.name, type=name, how="measured", gb_s=rate, repeats=(rate,), threads=2))
        if gb_s is None:
            self.put(e.Ceiling(arm=arm.name, how="absent", why="too little memory is free to measure it"))
            return
        device = "gpu0" if arm.gpu_layers else "cpu"
        self.put(
            e.Ceiling(
                arm=arm.name, how=arm.ceiling_how, gb_s=gb_s, repeats=(gb_s,), threads=2,
                over="512 MiB of the mapped file", device=device, when=when,
            )
        )  # fmt: skip

    def load(self, arm: Arm, number: int) -> None:
        """A cold one: the whole file is read, with no major fault, before anything is timed."""
        if arm.gpu_before:
            self.put(e.Sample(readings={f"gpu0.{name}": value for name, value in arm.gpu_before.items()}))
            self.put(e.PhaseStarted(arm=arm.name, phase="load", attempt=number))
        for done in (0.5, 1.0):
            self.t += 0.5
            self.put(e.PhaseProgress(arm=arm.name, phase="load", fraction=done))
        if arm.reads:
            self.counters["engine.read"] += roofline.resident_bytes(self.shape(arm))
        self.put(
            e.ArmLoaded(
                arm=arm.name, pid=self.pid, gpu_layers=arm.gpu_layers, layers=arm.layers, load_ns=10**9,
                threads=self.settings.threads, attempt=number, buffers=arm.buffers,
            )
        )  # fmt: skip

    def repetitions(self, arm: Arm, number: int, kind: str) -> None:
        """All depths; each thousand tokens of depth cost a tenth of the speed."""
        mean = arm.tok_s if kind == "decode" else arm.prompt_tok_s
        for depth in self.settings.depths:
            for index in range(arm.repetitions):
                swing = 2 * index / (arm.repetitions - 1) - 1 if arm.repetitions > 1 else 0.0
                tok_s = mean * 0.9 ** (depth / 1000) * (1 + arm.spread * swing)
                self.repetition(arm, number, kind, index, tok_s, depth)
            if kind == "decode" and depth == self.settings.depths[0]:
                for index in range(arm.disturbed):
                    self.repetition(arm, number, kind, arm.repetitions + index, mean / 2, depth, True)

    def repetition(
        self, arm: Arm, number: int, kind: str, index: int, tok_s: float, depth: int = 0, disturbed: bool = False
    ) -> None:
        tokens = self.settings.prompt if kind == "prompt" else arm.tokens
        unit = e.Unit(arm=arm.name, kind=kind, index=index, tokens=tokens, depth=depth, attempt=number)
        self.unit(arm, unit, tok_s, disturbed)

    def anchor(self, arm: Arm, number: int, tok_s: float, repetitions: int = 3) -> None:
        """A round of the anchor: `number` counts them."""
        self.put(e.PhaseStarted(arm=arm.name, phase="anchor"))
        for index in range(repetitions):
            self.repetition(arm, number, "anchor", index, tok_s * (1 + 0.001 * (index - 1)))
        self.put(e.PhaseDone(arm=arm.name, phase="anchor"))

    def unit(self, arm: Arm, unit: e.Unit, tok_s: float, disturbed: bool = False) -> None:
        """One timed repetition: samples and tokens inside it, its own counters at the end."""
        self.put(e.UnitStarted(unit=unit, at=self.t))
        if disturbed:
            self.put(e.UnitDisturbed(unit=unit, why="a key was answered"))
        begun, each = self.t, 1 / tok_s
        seconds = unit.tokens * each
        before = dict(self.counters)
        spared = unit.kind == "decode" and arm.only and unit.index not in arm.only
        quiet = replace(arm, swap=0.0, page_in=0.0, cpu=max(arm.cpu, 0.97), others=None)
        rates = self.rates(quiet if spared else arm, unit, seconds)
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
                # The clock is read a moment after the unit was said to begin.
                unit=unit, at=begun + 0.0002, tokens=unit.tokens, ns=round(seconds * 1e9),
                counters=self.since(before, arm),
            )
        )
        self.t += 0.01

    def rates(self, arm: Arm, unit: e.Unit, seconds: float) -> dict[str, float]:
        """How fast each cumulative counter grows while the unit runs."""
        made = self.shape(arm)
        active, passes = roofline.batch_bytes(made), -(-unit.tokens // self.settings.ubatch)
        if unit.kind in ("decode", "anchor"):
            active, passes = roofline.active_bytes(made, unit.depth, self.settings.kv), unit.tokens
        scale = passes / seconds
        again = arm.swap + arm.page_in
        return {
            "engine.read": again * active * scale,
            "engine.majflt": (3 + 1000 * again) * scale if again else 0.0,
            "swap.in": (arm.swap * active + arm.neighbour_swap) * scale,
            "engine.cpu": arm.cpu * self.settings.threads,
            "cpu.busy": arm.cpu * self.settings.threads + self.others(arm),
            "package.energy": arm.watts or 0.0,
        }

    def others(self, arm: Arm) -> float:
        lacked = (1 - arm.cpu) * self.settings.threads
        return (lacked if arm.cpu < 0.9 else 0.0) if arm.others is None else arm.others

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
        readings |= {f"gpu0.{name}": value for name, value in arm.gpu.items()}
        if arm.watts is None:
            readings.pop("package.energy")
        self.put(e.Sample(readings=readings, pid=self.pid))
        self.sampled = self.t

    def since(self, before: dict[str, float], arm: Arm) -> e.Counters:
        def grown(name: str) -> int | None:
            return round(self.counters[name] - before[name]) if name in before else None

        cpu, busy = (self.counters[name] - before[name] for name in ("engine.cpu", "cpu.busy"))
        return e.Counters(
            cpu_ns=round(cpu * 1e9), majflt=grown("engine.majflt"), read=grown("engine.read"),
            swap_in=grown("swap.in"), busy_ns=round(1e9 * busy),
            rss=round(roofline.resident_bytes(self.shape(arm))), anonymous=round(2e8),
        )  # fmt: skip

    def perplexity(self, arm: Arm, first: int = 0, last: int | None = None) -> None:
        """The chunks from the `first`-th to be scored to before the `last`-th, by groups."""
        base = self.arms[0]
        for unit in plan.groups(self.settings, arm.chunks, arm.name):
            if not first <= unit.index < (arm.chunks if last is None else last):
                continue
            begun = self.t
            self.put(e.UnitStarted(unit=unit, at=begun))
            self.t += 2.0 * unit.count
            self.sample(arm)
            for chunk in unit.places:
                total, squares = nll(chunk, arm.ppl)
                other = arm is not base and arm.kld is not None
                self.put(
                    e.Perplexity(
                        unit=unit, chunk=chunk, chunks=arm.chunks, scored=255, nll=total, nll2=squares, at=begun,
                        ns=2 * 10**9, against=against(chunk, arm.ppl, base) if other else None,
                        diverged=diverged(chunk, arm.ppl, arm.kld or 0.0, base) if other else None,
                    )
                )  # fmt: skip
            self.put(e.UnitDone(unit=unit, at=begun, tokens=unit.count * 512, ns=2 * 10**9 * unit.count))

    def tasks(self, arm: Arm) -> None:
        """Its answers, a unit each."""
        for index, (item, (text, correct)) in enumerate(arm.answers.items()):
            unit = e.Unit(arm=arm.name, kind="task", index=index, task="prompts", item=item)
            tokens, begun = max(1, len(text) // 4), self.t
            self.put(e.UnitStarted(unit=unit, at=begun))
            self.t += 0.2 + tokens / arm.tok_s
            self.sample(arm)
            ns = round((self.t - begun) * 1e9)
            self.put(
                e.Item(
                    unit=unit, items=len(arm.answers), prompt=hashlib.sha256(item.encode()).hexdigest(), form="chat",
                    answer=text[: e.ANSWER], stopped="eos", tokens=tokens, prompt_tokens=12, at=begun, ns=ns,
                    correct=correct, expected="" if correct is None else "so", file=f"raw/{arm.name}.items.jsonl",
                )
            )  # fmt: skip
            self.put(e.UnitDone(unit=unit, at=begun, tokens=tokens, ns=ns))

    def score(self, arm: Arm, first: int, last: int) -> None:
        """A turn of scoring, as a deciding sweep takes them."""
        units = -(-arm.chunks // 4)
        self.engine(arm)
        self.put(e.PhaseStarted(arm=arm.name, phase="perplexity", units=units))
        self.perplexity(arm, first, last)
        self.put(e.PhaseDone(arm=arm.name, phase="perplexity"))


DECIDING = (
    Arm("F16", tok_s=9.5, prompt_tok_s=210.0, repetitions=12, chunks=655, ppl=8.0),
    Arm("Q8_0", tok_s=17.0, prompt_tok_s=230.0, repetitions=12, chunks=655, ppl=8.002, kld=0.0008),
    Arm("Q4_K_M", tok_s=25.0, prompt_tok_s=220.0, repetitions=12, chunks=655, ppl=8.06, kld=0.021, disturbed=2),
    Arm("Q3_K_M", tok_s=24.9, prompt_tok_s=190.0, repetitions=12, chunks=655, ppl=8.2, kld=0.08),
    Arm("Q2_K", tok_s=31.0, prompt_tok_s=200.0, repetitions=12, chunks=655, ppl=8.9, kld=0.2),
)
"""A sweep that stops scoring an arm when its call is made."""

ROUNDS = (31.0, 31.1, 30.9, 33.4, 33.5)
"""Tok/s of the anchor, Q2_K, before each arm: it drifts while Q4_K_M is measured."""


def deciding(levels: Sequence[int] = (16, 24, 36, 56), anchored: bool = False, **session: Any) -> list[e.Event]:
    """A deciding sweep over DECIDING, left open: speeds arm by arm, `anchored` with rounds of the anchor between them;
    then up to `levels` chunks of the base and of every arm that is still open."""
    asked = settings(
        tasks=("speed", "ppl", "kld"), until="decided", anchor=int(anchored), prompt=64, precision=0.01,
        depths=(0, 4096),
    )  # fmt: skip
    log = Log(DECIDING, **{"settings": asked, **session})
    log.open()
    base, last = DECIDING[0], DECIDING[-1]
    if anchored:
        log.begin(last, 1, ["bandwidth", "load"])
    for arm, tok_s in zip(DECIDING, ROUNDS, strict=True):
        if anchored:
            log.anchor(last, DECIDING.index(arm) + 1, tok_s)
        log.begin(arm, 1, ["bandwidth", "load", "prompt", "decode"])
    why = f"KL divergence: {base.name} is decoded beside each quant"
    log.put(e.BaseChosen(base=base.name, how="beside", chunks=base.chunks, why=why))
    open_, begin = list(DECIDING[1:]), 0
    for level in levels:
        log.score(base, begin, level)
        for arm in list(open_):
            log.score(arm, begin, level)
            now = fold.fold(log.events)
            if paired.call(now, now.arms[arm.name], now.arms[base.name]).call:
                log.put(e.ArmDone(arm=arm.name))
                open_.remove(arm)
        begin = level
    return log.events


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
