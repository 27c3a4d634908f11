"""The rows: what is compared, on what, and what must come of it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e
from quanttui.engine import protocol
from quanttui.engine.process import Engine
from quanttui.models.ghost import GhostShape
from quanttui.stats import intervals

from . import models
from .contestants import Failed, Quanttui, SpeedTest, bench, same_settings
from .figures import MISSED, REACHED, Target
from .machine import Machine
from .models import Family, Store
from .rounds import Limits, Result, compare
from .tools import Scored, Tools

CONTEXT, GROUP = 512, 4
"""llama-perplexity's n_ctx, and how many chunks of it go together."""

DIGITS = 1e-4 * 0.501
"""How far a perplexity may lie from its four printed decimals."""

SAME_PPL = 1e-6
"""Relative difference of perplexities of hundreds of thousands (a ghost): what two exponential functions make."""

SAME_KLD = 5e-5
"""Relative difference of mean KL divergences, where half a unit of their last printed digit is not more."""

KLD_UNIT, SHARE_UNIT = 1e-6, 1e-5
"""The last digits that llama-perplexity prints of a divergence, and of a share."""

SEEDS = 6
"""How many random orders of the chunks are tried: the fewest that an interval can be told of."""

TOLERANCE = 0.01
"""A quant is within, if its perplexity differs from the base's by no more than this share."""


@dataclass(frozen=True)
class Bench:
    """What rows are measured with."""

    tools: Tools
    store: Store
    quanttui: Quanttui
    machine: Machine
    limits: Limits
    threads: int
    quick: bool
    say: Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A row: `tells` what is divided by what, `target` what must come of it."""

    name: str
    tells: str
    target: Target
    run: Callable[[Bench, Result], Result]


# --- speed ----------------------------------------------------------------------------------------------------------


def _speed(bench_: Bench, result: Result, kind: str, live: bool = False) -> Result:
    """Rates of one kind: quanttui's, with or without its screen, over llama-bench's."""
    shape = models.TINY if bench_.quick else models.SPEED
    model = bench_.store.ghost(shape, "Q8_0")
    tokens, repetitions = (64, 2) if bench_.quick else (512, 5) if kind == "prompt" else (128, 5)
    test = SpeedTest(*((tokens, 0) if kind == "prompt" else (0, tokens)), repetitions, bench_.threads)
    ours = bench_.quanttui.live if live else bench_.quanttui.headless
    _, told = bench(bench_.tools, model, test)
    rate, report = ours(model, test)
    same_settings(told, report)
    result.detail |= {"model": model.name, "bytes": model.stat().st_size, "flags": test.words, "warm": rate}
    return compare(
        result,
        lambda: ours(model, test)[0],
        lambda: bench(bench_.tools, model, test)[0],
        bench_.limits,
        bench_.machine,
        bench_.say,
    )


def decode_live(bench_: Bench, result: Result) -> Result:
    return _speed(bench_, result, "decode", live=True)


def decode_headless(bench_: Bench, result: Result) -> Result:
    return _speed(bench_, result, "decode")


def prompt_headless(bench_: Bench, result: Result) -> Result:
    return _speed(bench_, result, "prompt")


# --- perplexity -----------------------------------------------------------------------------------------------------


def _perplexity(bench_: Bench, result: Result, shape: GhostShape, chunks: int) -> Result:
    """Tokens per second of decoding and scoring. Both must come to the same perplexity, or the row has failed."""
    model, text = bench_.store.ghost(shape), models.POCKET_TEXT
    chunks = 2 * GROUP if bench_.quick else chunks
    tokens = chunks * CONTEXT
    expected = bench_.tools.perplexity(model, text, bench_.threads, chunks)
    result.detail |= {"model": model.name, "chunks": chunks, "ppl": expected.ppl}

    def ours() -> float:
        seconds, value, _ = bench_.quanttui.perplexity(model, text, bench_.threads, chunks)
        if not math.isclose(value, expected.ppl, rel_tol=SAME_PPL):
            raise Failed(f"{model.name}: quanttui's perplexity is {value:.4f}, llama-perplexity's {expected.ppl:.4f}")
        return tokens / seconds

    def tool() -> float:
        return tokens / bench_.tools.perplexity(model, text, bench_.threads, chunks).seconds

    return compare(result, ours, tool, bench_.limits, bench_.machine, bench_.say)


def perplexity_small(bench_: Bench, result: Result) -> Result:
    return _perplexity(bench_, result, models.SMALL, 48)


def perplexity_large(bench_: Bench, result: Result) -> Result:
    return _perplexity(bench_, result, models.LARGE, 16)


# --- digits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Perplexity, mean KL divergence from the base and share of the same favourites, of one quant."""

    ppl: float
    kld: float
    same_top: float

    def differences(self, printed: Digits) -> list[str]:
        """What differs from llama-perplexity's figures by more than their last digits allow."""
        kld = max(SAME_KLD * abs(printed.kld), 0.501 * KLD_UNIT)
        apart = {
            "PPL": abs(self.ppl - printed.ppl) > DIGITS,
            "KLD": abs(self.kld - printed.kld) > kld,
            "same top": abs(self.same_top - printed.same_top) > 0.501 * SHARE_UNIT,
        }
        return [name for name, is_apart in apart.items() if is_apart]


def digits(bench_: Bench, result: Result) -> Result:
    """Ours against llama-perplexity's, of seven quants of two models. A value is 1 where all digits are the same."""
    wanted = models.SEVEN[:2] if bench_.quick else models.SEVEN
    chunks = GROUP if bench_.quick else 4 * GROUP
    for family in (bench_.store.pocket(wanted), bench_.store.stories(wanted)):
        with tempfile.TemporaryDirectory() as folder:
            printed = _printed(bench_, family, Path(folder), chunks)
            found = _own(bench_, family, Path(folder), chunks)
        for quant, own in found.items():
            apart = own.differences(printed[quant])
            result.values.append(0.0 if apart else 1.0)
            result.detail[quant] = {"ours": own.__dict__, "llama-perplexity": printed[quant].__dict__}
            bench_.say(f"digits: {quant}  {'the same' if not apart else ', '.join(apart) + ' differ'}")
            result.notes += [f"{quant}: {', '.join(apart)} differ"] if apart else []
    result.verdict = REACHED if all(result.values) else MISSED
    return result


def _printed(bench_: Bench, family: Family, folder: Path, chunks: int) -> dict[str, Digits]:
    """llama-perplexity's figures: the plain final estimate, and those against its own base file."""
    base = folder / "theirs.base"
    bench_.tools.write_base(family.base, family.text, base, bench_.threads, chunks)
    found = {}
    for quant in family.quants:
        plain = bench_.tools.perplexity(quant, family.text, bench_.threads, chunks)
        text = bench_.tools.divergence(quant, base, bench_.threads)
        kld, same = _number(text, r"Mean\s+KLD"), _number(text, "Same top p")
        found[quant.stem] = Digits(plain.ppl, kld, same / 100)
    return found


def _number(text: str, label: str) -> float:
    match = re.search(rf"^{label}\s*:\s*(-?[\d.]+)", text, re.M)
    if match is None:
        raise Failed(f"llama-perplexity prints no {label}")
    return float(match[1])


def _own(bench_: Bench, family: Family, folder: Path, chunks: int) -> dict[str, Digits]:
    """quanttui's figures, asked of engine processes: the base writes its logits, the quants are held against them."""
    every = tuple(range(chunks))
    base = protocol.Base(
        name="base", logits=str(folder / "ours.base"), places=every, slots=dict(zip(every, every, strict=True))
    )
    found = {}
    for model in (family.base, *family.quants):
        is_base = model == family.base
        against = msgspec.structs.replace(base, write=is_base, sums="" if is_base else str(folder / "sums"))
        scored = _scored(bench_, model, family.text, folder, chunks, against)
        if not is_base:
            found[model.stem] = _digits(model.stem, scored)
    return found


def _scored(
    bench_: Bench, model: Path, text: Path, folder: Path, chunks: int, base: protocol.Base
) -> list[e.Perplexity]:
    """The chunks' events of one model."""
    starts = range(0, chunks, GROUP)
    units = tuple(
        e.Unit(arm=model.stem, kind="perplexity", index=at, count=min(GROUP, chunks - at), tokens=0) for at in starts
    )
    raw = str(folder / f"{model.stem}.nll")
    requests: tuple[protocol.Request, ...] = (
        protocol.Load(arm=model.stem, file=str(model), settings=e.Settings(threads=bench_.threads)),
        protocol.Tokenize(arm=model.stem, text=str(text), context=CONTEXT),
        protocol.Score(units=units, text=str(text), chunks=chunks, raw=raw, base=base),
    )
    with models.engine(folder) as engine:
        return [event for request in requests for event in _asked(engine, request)]


def _asked(engine: Engine, request: protocol.Request) -> list[e.Perplexity]:
    return [answer for answer in engine.ask(request) if isinstance(answer, e.Perplexity)]


def _digits(name: str, scored: list[e.Perplexity]) -> Digits:
    diverged = [event.diverged for event in scored if event.diverged is not None]
    if len(diverged) != len(scored):
        raise Failed(f"{name}: the engine compares {len(diverged)} of {len(scored)} chunks with the base")
    tokens = sum(event.scored for event in scored)
    nll, nll2 = sum(event.nll for event in scored), sum(event.nll2 for event in scored)
    ppl, _ = intervals.perplexity(tokens, nll, nll2)
    return Digits(ppl, sum(one.kld for one in diverged) / tokens, sum(one.same_top for one in diverged) / tokens)


# --- decisions ------------------------------------------------------------------------------------------------------


def decisions(bench_: Bench, result: Result) -> Result:
    """Seconds of perplexity to the same decisions: a sweep that stops when it is sure, over full runs of the tool.

    The decisions are the order of the quants, and which are within 1 % of the base. Each of our runs draws the chunks
    in another order; of the tool's runs, one of the base and of each quant, half come before ours and half after them.
    """
    family = bench_.store.stories(models.SEVEN[:2] if bench_.quick else models.SEVEN)
    chunks = "32" if bench_.quick else "-1"
    files = (family.base, *family.quants)
    full = _full(bench_, files[: len(files) // 2], family.text, int(chunks))
    words = ("--tasks", "ppl", "--until", "decided", "--tolerance", f"{100 * TOLERANCE:g}%", "--chunks", chunks)
    seconds, reports = [], []
    for seed in range(1, 3 if bench_.quick else SEEDS + 1):
        bench_.machine.wait()
        rest = ("--text", str(family.text), "--seed", str(seed), "-t", str(bench_.threads))
        took, wall, report = bench_.quanttui.sweep(files, *words, *rest)
        seconds.append(took)
        reports.append(report)
        result.detail[f"seed {seed}"] = {
            "seconds": took,
            "wall": wall,
            "others": bench_.machine.others(),
            "arms": {arm["id"]: arm.get("decision") for arm in report["arms"]},
        }
        bench_.say(f"decisions: seed {seed}  {took:.1f} s")
    full |= _full(bench_, files[len(files) // 2 :], family.text, int(chunks))
    for seed, report in enumerate(reports, start=1):
        wrong = _wrong(report, full, family)
        result.notes += [f"seed {seed}: {', '.join(wrong)}"] if wrong else []
        bench_.say(f"decisions: seed {seed}  {', '.join(wrong) or 'the same decisions'}")
    theirs = sum(one.seconds for one in full.values())
    result.values += [took / theirs for took in seconds]
    result.detail["full"] = {name: one.ppl for name, one in full.items()}
    result.detail["full seconds"], result.detail["full wall"] = theirs, sum(one.wall for one in full.values())
    verdict = result.target.verdict(result.values, math.inf, last=True)
    result.verdict = MISSED if result.notes and verdict == REACHED else verdict
    return result


def _full(bench_: Bench, files: Sequence[Path], text: Path, chunks: int) -> dict[str, Scored]:
    """llama-perplexity of each file, over all of the text."""
    found = {}
    for file in files:
        bench_.machine.wait()
        found[file.stem] = bench_.tools.perplexity(file, text, bench_.threads, chunks)
        bench_.say(f"decisions: llama-perplexity  {file.stem}  {found[file.stem].ppl:.4f}")
    return found


def _wrong(report: dict[str, Any], full: dict[str, Scored], family: Family) -> list[str]:
    """Where a report's decisions are not those of the full runs."""
    by_id = {arm["id"]: arm for arm in report["arms"]}
    deltas: dict[str, float] = {}
    wrong = []
    base = full[family.base.stem].ppl
    for quant in family.quants:
        label = quant.stem.partition("-")[2]
        arm = by_id.get(label)
        call = (arm or {}).get("decision") or {}
        ratio = full[quant.stem].ppl / base
        expected = "within" if abs(ratio - 1) <= TOLERANCE else "worse" if ratio > 1 else "better"
        if call.get("call") != expected:
            wrong.append(f"{label} {call.get('call') or 'undecided'} and not {expected}")
        delta = (report.get("deltas") or {}).get(label)
        if delta is not None:
            deltas[label] = delta["percent"]
    return wrong + _inverted(deltas, {quant.stem.partition("-")[2]: full[quant.stem].ppl for quant in family.quants})


def _inverted(deltas: dict[str, float], full: dict[str, float]) -> list[str]:
    """Pairs of quants that come in another order than by their full perplexities, which are told to four decimals."""
    missing = [f"{name} has no place" for name in full if name not in deltas]
    pairs = [(a, b) for a in deltas for b in deltas if full[a] < full[b] and deltas[a] > deltas[b]]
    return missing + [f"{b} before {a} ({full[b] / full[a] - 1:.3%} apart)" for a, b in pairs]


# --- Python's share ---------------------------------------------------------------------------------------------------


def python_share(bench_: Bench, result: Result) -> Result:
    """Microseconds of Python in a token, over the thousand that a token takes at 1,000 tok/s (share.py)."""
    model = bench_.store.ghost(models.TINY, "Q8_0")
    tokens, runs = (64, 6) if bench_.quick else (1000, 20)
    command = [sys.executable, "-m", f"{__package__}.share", str(model), str(tokens), str(bench_.threads)]
    for _ in range(runs):
        bench_.machine.wait()
        found = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
        if found.returncode:
            raise Failed(f"share: {(found.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
        told = json.loads(found.stdout.splitlines()[-1])
        result.values.append(told["python_ns"] / 1e6)
        result.detail.setdefault("runs", []).append(told)
        bench_.say(f"python-share: {told['python_ns'] / 1e3:.2f} us of Python in a token, at {told['tok_s']:.0f} tok/s")
    result.verdict = result.target.verdict(result.values, 0.005, last=True)
    return result


# --- watching ---------------------------------------------------------------------------------------------------------


def watching(bench_: Bench, result: Result) -> Result:
    """The share of one core that all probes, the fold of what they say and the verdicts take at 4 Hz (watching.py)."""
    model = bench_.store.ghost(models.TINY if bench_.quick else models.SPEED, "Q8_0")
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "session"
        words = ("--tasks", "speed", "--prompt", "0", "--decode", "256", "-t", str(bench_.threads))
        bench_.quanttui.run(recorded, str(model), *words, "--repetitions", "2" if bench_.quick else "15")
        for _ in range(3 if bench_.quick else 10):
            bench_.machine.wait()
            command = [sys.executable, "-m", f"{__package__}.watching", str(recorded), "20" if bench_.quick else "200"]
            found = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
            if found.returncode:
                raise Failed(f"watching: {(found.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
            told = json.loads(found.stdout.splitlines()[-1])
            result.values.append(4 * (told["probes_s"] + told["fold_s"] + told["verdicts_s"]))
            result.detail.setdefault("runs", []).append(told)
            bench_.say(f"watching: {100 * result.values[-1]:.3f} % of a core at 4 Hz")
    result.verdict = result.target.verdict(result.values, 0.005, last=True)
    return result


LEVEL = Target(0.995, 1.005)

ROWS = {
    row.name: row
    for row in (
        Row("decode-live", "decode tok/s with the live screen ÷ llama-bench", Target(0.99), decode_live),
        Row("decode-headless", "decode tok/s headless ÷ llama-bench", LEVEL, decode_headless),
        Row("prompt-headless", "prompt tok/s headless ÷ llama-bench", LEVEL, prompt_headless),
        Row("perplexity-32k", "perplexity tok/s ÷ llama-perplexity, 32,000 tokens", Target(1.0), perplexity_small),
        Row("perplexity-128k", "perplexity tok/s ÷ llama-perplexity, 128,256 tokens", Target(1.15), perplexity_large),
        Row("digits", "share of quants with llama-perplexity's digits", Target(1.0), digits),
        Row("decisions", "perplexity time to the same decisions ÷ llama-perplexity", Target(None, 0.2), decisions),
        Row("watching", "probes and verdicts at 4 Hz, share of one core", Target(None, 0.005), watching),
        Row("python-share", "Python's share of a token at 1,000 tok/s", Target(None, 0.02), python_share),
    )
}
