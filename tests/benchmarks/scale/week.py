"""A sweep as long as one likes, made up: events and their moments, at the default rates of sampler and engine.

Each arm measures prompt and decode at two depths, scores a text of wikitext-2's length against the base's logits, and
answers MMLU, entities and prompts, thinking before it does. How long that takes is its speed's matter: an arm of 50
tok/s is through in less than an hour, one of 2.5 tok/s in sixteen.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import psutil

from quanttui import events as e
from quanttui.diagnosis import roofline
from quanttui.measure.speed import TELL_NS
from quanttui.probes.sampler import BEAT_S

if __package__.startswith("tests."):
    from tests import builders
else:  # the tests' folder is on the path, as pytest has it
    import builders

MODEL = "made-up 1.3B"

SPEEDS = (50.0, 20.0, 10.0, 6.0, 4.0, 2.5)
"""Tok/s of decode of the arms, in turn: quants that fit a memory and those that do not."""

AHEAD = 10.0
"""A prompt goes so many times faster than a decode."""

HZ = 4.0
"""Samples a second."""

DEPTHS, REPETITIONS, PROMPT, DECODE = (0, 4096), 12, 512, 128

CHUNKS, GROUP, CONTEXT, SCORED = 655, 4, 512, 255
"""wikitext-2's test split, as it is scored."""


class Asked(NamedTuple):
    """A task: how many items, tokens of a prompt, tokens of an answer with what is thought, letters of an answer."""

    name: str
    items: int
    prompt: int
    answer: int
    letters: int


TASKS = (Asked("mmlu", 500, 300, 120, 1), Asked("ner", 300, 80, 100, 150), Asked("prompts", 12, 60, 128, 500))

ARM_TOKENS = (
    len(DEPTHS) * REPETITIONS * (DECODE + PROMPT / AHEAD)
    + CHUNKS * CONTEXT / AHEAD
    + sum(task.items * (task.answer + task.prompt / AHEAD) for task in TASKS)
)
"""What an arm does, as tokens of decode."""

A_SECOND = 7.0
"""Events of an arm in each second, about: samples, a beat, tokens, and units."""

TEXT = (
    "The boat went out over a quiet sea and saw many lights, far away and near; none of them was what the old man had "
    "been told to look for, and so he turned back before the wind did. "
)


class Told(NamedTuple):
    """An event, and the session time of it in seconds."""

    at: float
    event: e.Event


@dataclass(frozen=True)
class Arm:
    """A quant that decodes at `tok_s`, and what a text is to it."""

    id: str
    quant: str
    tok_s: float
    ppl: float
    kld: float


def arms(count: int, speeds: Sequence[float] = SPEEDS) -> tuple[Arm, ...]:
    """So many quants, their speeds in turn."""
    names = sorted(builders.BY_NAME, key=lambda name: -builders.BY_NAME[name].bits_per_weight)
    each = enumerate(islice(zip(cycle(names), cycle(speeds), strict=False), count))
    return tuple(Arm(f"{name}-{at}", name, tok_s, 8 + at / 50, 0.001 + at / 500) for at, (name, tok_s) in each)


def planned(events: int, speeds: Sequence[float] = SPEEDS) -> tuple[Arm, ...]:
    """Arms enough for so many events."""
    count, known = 1, 0.0
    for tok_s in cycle(speeds):
        known += A_SECOND * ARM_TOKENS / tok_s
        if known >= 1.2 * events:
            return arms(count, speeds)
        count += 1
    raise AssertionError("a cycle has no end")


class Week:
    """One sweep over some arms. `t` is session time; counters of the machine and of the engine go on with it."""

    def __init__(self, measured: Sequence[Arm], seed: int = 8) -> None:
        self.arms = tuple(measured)
        self.t = 0.0
        self._random, self._numbers = random.Random(seed), np.random.default_rng(seed)
        self._sampled = self._beaten = 0.0
        self._pid, self._loaded = 4000, 0.0
        self._offsets: dict[str, int] = {}

    @property
    def settings(self) -> e.Settings:
        return builders.settings(
            tasks=("speed", "ppl", "kld", *(task.name for task in TASKS)), prompt=PROMPT, decode=DECODE, depths=DEPTHS,
            repetitions=REPETITIONS, thinking="on",
        )  # fmt: skip

    def events(self) -> Iterator[Told]:
        """From the opening on, until all arms are done; nobody closes it. This process is said to be its writer."""
        yield self._now(
            e.SessionOpened(
                schema=e.SCHEMA, model=MODEL, host=builders.host(cores=8, threads=16), build=builders.build(),
                settings=self.settings,
                plan=tuple(
                    e.PlannedArm(id=arm.id, quant=arm.quant, file=f"/models/{arm.id}.gguf", bytes=_size(arm))
                    for arm in self.arms
                ),
                wall=1.7e9, origin_ns=0, pid=os.getpid(), pid_started=psutil.Process().create_time(),
            )
        )  # fmt: skip
        yield self._now(e.BaseChosen(base=self.arms[0].id, how="file", chunks=CHUNKS, file="raw/base.logits"))
        for arm in self.arms:
            yield from self._arm(arm)

    def _now(self, event: e.Event) -> Told:
        return Told(self.t, event)

    def _passes(self, seconds: float) -> Iterator[Told]:
        """Time goes by; what the sampler says meanwhile."""
        end = self.t + seconds
        while (due := min(self._sampled + 1 / HZ, self._beaten + BEAT_S)) < end:
            self.t = max(self.t, due)
            if due >= self._beaten + BEAT_S:
                self._beaten = self.t
                yield self._now(e.Beat(wall=round(1.7e9 + self.t, 3), boottime=round(18e3 + self.t, 3)))
            else:
                self._sampled = due
                self.t += self._random.uniform(1e-5, 2e-4)
                yield self._now(e.Sample(readings=self._readings(), pid=self._pid))
        self.t = max(self.t, end)

    def _readings(self) -> dict[str, float]:
        """What all probes of a Linux machine without a GPU say, an engine running."""
        t, since, noise = self.t, self.t - self._loaded, self._random.uniform
        used = 4_000_000_000 + 4096 * int(noise(0, 5000))
        return {
            "mem.total": 25_276_502_016, "mem.used": used, "mem.available": 25_276_502_016 - used,
            "swap.total": 0, "swap.used": 0, "swap.in": 0, "swap.out": 0, "zswap.in": 0,
            "psi.memory.some": 44_669_547 + int(90 * t), "psi.memory.full": 10_900_815 + int(31 * t),
            "psi.io.some": 46_231_532 + int(170 * t), "psi.cpu.some": 5_656_577_458 + int(9100 * t),
            "cpu.busy": round(21_686 + 4.2 * t, 2), "cpu.steal": round(215 + 0.01 * t, 2),
            "engine.majflt": 120 + int(0.1 * since), "engine.cpu": round(0.91 + 3.96 * since, 2),
            "engine.rss": 3_300_024_320 + 4096 * int(noise(0, 900)), "engine.anonymous": 308_641_792,
            "engine.read": 4096 * int(5 * since), "self.cpu": round(0.95 + 0.012 * t, 4),
            "self.rss": 49_737_728 + 4096 * int(noise(0, 300)), "self.probes": round(0.0142 + 0.0011 * t, 6),
        }  # fmt: skip

    # --- an arm

    def _arm(self, arm: Arm) -> Iterator[Told]:
        made = builders.shape(arm.quant)
        yield self._now(
            e.ArmStarted(
                arm=arm.id, quant=arm.quant, file=f"/models/{arm.id}.gguf", bytes=_size(arm),
                bits_per_weight=8.0 * _size(arm) / builders.PARAMETERS, tensor_types={arm.quant: 155, "F32": 45},
                shape=made, sha256=hashlib.sha256(arm.id.encode()).hexdigest(),
            )
        )  # fmt: skip
        self._pid, self._loaded = self._pid + 1, self.t
        yield from self._phase(arm, "bandwidth", None, self._bandwidth(arm))
        yield from self._phase(arm, "load", None, self._load(arm))
        for kind, tokens in (("prompt", PROMPT), ("decode", DECODE)):
            yield from self._phase(arm, kind, len(DEPTHS) * REPETITIONS, self._speed(arm, kind, tokens))
        yield from self._phase(arm, "perplexity", -(-CHUNKS // GROUP), self._perplexity(arm))
        yield from self._phase(arm, "task", sum(task.items for task in TASKS), self._tasks(arm))
        yield self._now(e.ArmDone(arm=arm.id))

    def _phase(self, arm: Arm, phase: str, units: int | None, inside: Iterator[Told]) -> Iterator[Told]:
        yield self._now(e.PhaseStarted(arm=arm.id, phase=phase, units=units))
        yield from inside
        yield self._now(e.PhaseDone(arm=arm.id, phase=phase))

    def _bandwidth(self, arm: Arm) -> Iterator[Told]:
        yield from self._passes(2.0)
        rates = tuple(self._random.gauss(33, 0.3) for _ in range(5))
        yield self._now(
            e.Ceiling(arm=arm.id, how="measured", gb_s=rates[2], repeats=rates, threads=4, over="512 MiB of the file")
        )

    def _load(self, arm: Arm) -> Iterator[Told]:
        for done in range(1, 21):
            yield from self._passes(0.5)
            yield self._now(e.PhaseProgress(arm=arm.id, phase="load", fraction=done / 20))
        yield self._now(e.ArmLoaded(arm=arm.id, pid=self._pid, gpu_layers=0, layers=23, load_ns=10**10, threads=4))

    def _speed(self, arm: Arm, kind: str, tokens: int) -> Iterator[Told]:
        for depth in DEPTHS:
            for index in range(REPETITIONS):
                unit = e.Unit(arm=arm.id, kind=kind, index=index, tokens=tokens, depth=depth)
                seconds = tokens / (AHEAD * arm.tok_s) * self._random.gauss(1, 0.01)
                inside = self._decode(unit, arm.tok_s, tokens) if kind == "decode" else self._passes(seconds)
                yield from self._unit(unit, tokens, inside)

    def _unit(self, unit: e.Unit, tokens: int, inside: Iterator[Told]) -> Iterator[Told]:
        begun = self.t
        yield self._now(e.UnitStarted(unit=unit, at=begun))
        yield from inside
        ns = round(1e9 * (self.t - begun))
        counters = e.Counters(
            cpu_ns=4 * ns - int(1e6 * self._random.random()), majflt=0, minflt=int(40 * self._random.random()), read=0,
            nvcsw=int(tokens * self._random.random()), nivcsw=3, swap_in=0, zswap_in=0, rss=3_300_024_320,
            anonymous=308_641_792,
        )  # fmt: skip
        yield self._now(e.UnitDone(unit=unit, at=begun, tokens=tokens, ns=ns, counters=counters))
        yield from self._passes(1e-3)

    def _decode(self, unit: e.Unit, tok_s: float, tokens: int) -> Iterator[Told]:
        """Tokens as the engine tells them: as many as came in TELL_NS, each with a time of its own."""
        each = self._numbers.normal(1e9 / tok_s, 5e6 / tok_s, tokens).astype(int).tolist()
        first, ns = 0, 0
        for at, one in enumerate(each, 1):
            ns += one
            if ns >= TELL_NS or at == len(each):
                yield from self._passes(ns / 1e9)
                yield self._now(e.Tokens(unit=unit, first=first, ns=tuple(each[first:at])))
                first, ns = at, 0

    def _perplexity(self, arm: Arm) -> Iterator[Told]:
        for first in range(0, CHUNKS, GROUP):
            unit = e.Unit(arm=arm.id, kind="perplexity", index=first, count=min(GROUP, CHUNKS - first))
            yield from self._unit(unit, unit.count * CONTEXT, self._chunks(arm, unit))

    def _chunks(self, arm: Arm, unit: e.Unit) -> Iterator[Told]:
        begun, base = self.t, builders.Arm(self.arms[0].quant, id=self.arms[0].id, ppl=self.arms[0].ppl)
        yield from self._passes(unit.count * CONTEXT / (AHEAD * arm.tok_s))
        other = arm is not self.arms[0]
        for chunk in unit.places:
            total, squares = builders.nll(chunk, arm.ppl)
            yield self._now(
                e.Perplexity(
                    unit=unit, chunk=chunk, chunks=CHUNKS, scored=SCORED, nll=total, nll2=squares, at=begun,
                    ns=round(1e9 * (self.t - begun) / unit.count), file=f"raw/{arm.id}.nll", offset=8 * SCORED * chunk,
                    against=builders.against(chunk, arm.ppl, base) if other else None,
                    diverged=builders.diverged(chunk, arm.ppl, arm.kld, base) if other else None,
                )
            )  # fmt: skip

    def _tasks(self, arm: Arm) -> Iterator[Told]:
        for task in TASKS:
            for index in range(task.items):
                unit = e.Unit(arm=arm.id, kind="task", index=index, task=task.name, item=f"{task.name}-{index:04d}")
                yield from self._unit(unit, task.answer, self._answer(arm, task, unit))

    def _answer(self, arm: Arm, task: Asked, unit: e.Unit) -> Iterator[Told]:
        begun, from_ = self.t, self._random.randrange(len(TEXT))
        yield from self._passes(task.prompt / (AHEAD * arm.tok_s))
        yield from self._decode(unit, arm.tok_s, task.answer)
        text = (TEXT * 8)[from_ : from_ + task.letters]
        offset = self._offsets.get(arm.id, 0)
        self._offsets[arm.id] = offset + 200 + 4 * task.answer + len(text)
        right = self._random.random() < 0.6
        yield self._now(
            e.Item(
                unit=unit, items=task.items, prompt=hashlib.sha256(unit.item.encode()).hexdigest(), form="chat",
                answer=text, stopped="eos", tokens=task.answer, prompt_tokens=task.prompt, at=begun,
                ns=round(1e9 * (self.t - begun)), correct=right, expected=text[:1] if right else "so",
                file=f"raw/{arm.id}.items.jsonl", offset=offset, shared=40, group=f"subject {unit.index % 10}",
                chosen=text[:1] if task.letters == 1 else "", parsed=True, valid=True, thought=task.answer - 8,
                switched=True,
            )
        )  # fmt: skip


def _size(arm: Arm) -> int:
    return int(roofline.resident_bytes(builders.shape(arm.quant)))
