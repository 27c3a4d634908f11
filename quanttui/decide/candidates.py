"""What a session's arms are worth under what is asked: each as a candidate, with what it loses, needs and generates,
and every finding that speaks for or against it. Pure; names no pick and writes no advice.

Loss is held against the base: perplexity by its confidence sequence, or the tasks that are needed by their findings. A
contaminated speed decides nothing, neither for nor against.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from quanttui.decide.compare import Speed
from quanttui.decide.study import Finding, Study
from quanttui.errors import UserError
from quanttui.format import clean, significant, size
from quanttui.state import Arm, State
from quanttui.state import tolerance as percents
from quanttui.stats.paired import holm
from quanttui.stats.sequential import Moments

NEEDS: dict[str, tuple[str, ...]] = {
    "extraction": ("ner",),
    "reasoning": ("mmlu", "traps"),
    "structured": ("structured",),
}
"""What people need, and the tasks that tell of it: the one with the most pairs decides, the others speak against."""

THINKING = "-thinking"
"""What the names of tasks end in whose answers are thought about first."""

USUAL = 4096
"""Tokens of context that have to fit where memory is asked for and no context is."""

BLOCK = 256
"""Tokens; llama.cpp rounds contexts up to this."""

OVERFULL = ("out-of-memory", "swap-contaminated", "page-in-thrash", "vram-spill")
"""Verdicts that say of an arm that memory was too small for it, as long as no larger one did without them."""

HOPELESS = 1e6
"""More chunks or items than this are not worth being told."""


class Delta(Protocol):
    """Perplexity against the base's in percent with its 95 % sequence, as summary.Delta has it."""

    @property
    def percent(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def chunks(self) -> int: ...
    @property
    def of_text(self) -> bool: ...


class Verdict(Protocol):
    """What is asked of diagnosis.case.Verdict."""

    @property
    def code(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def words(self) -> str: ...
    @property
    def sentence(self) -> str: ...


class Judged(Protocol):
    """What is asked of summary.ArmSummary."""

    @property
    def id(self) -> str: ...
    @property
    def quant(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def decode(self) -> Speed | None: ...
    @property
    def tainted(self) -> bool: ...
    @property
    def delta(self) -> Delta | None: ...
    @property
    def verdicts(self) -> Sequence[Verdict]: ...
    @property
    def ghost(self) -> bool: ...


class Figures(Protocol):
    """What is asked of summary.Summary: the arms, the one that perplexities are held against, the session's noise."""

    @property
    def arms(self) -> Sequence[Judged]: ...
    @property
    def base(self) -> str: ...
    @property
    def floor(self) -> float | None: ...


Room = Callable[[str, int], "int | None"]
"""Bytes that an arm needs, by its summary's id, in one memory with a context of so many tokens; None if unknown."""


class Needs(msgspec.Struct, frozen=True):
    """What is asked for. `memory` in bytes, all of it free; `ctx` in tokens; `tok_s` of generating at least.

    `tolerance`: the most that may be lost, a share: of the base's perplexity, and of a task's items (0.02: two
    percentage points). `tasks`: what it is for: words of NEEDS, or tasks by name.
    """

    memory: int | None = None
    ctx: int | None = None
    tolerance: float = 0.02
    tok_s: float | None = None
    tasks: tuple[str, ...] = ()


class Evidence(msgspec.Struct, frozen=True):
    """A finding that sentences rest on. `text` says it whole; `p` is corrected by Holm, None where nothing was tested.

    about: perplexity, task, speed, memory, verdict, outcome. `value`, `low` and `high` are in `unit`, None where there
    is no such figure; over `n` chunks, pairs or repetitions.
    """

    key: str
    about: str
    arm: str
    text: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    p: float | None = None


class Loss(msgspec.Struct, frozen=True):
    """What an arm loses against `base` by one measure, as a share; above 0 is worse. `key` is its evidence's.

    `task` is "" for perplexity. `low`, `high`: 95 % interval, None where it is not known yet. Over `n` chunks or pairs;
    `of`: how many chunks the text has, None for tasks. `p` of no difference, corrected by Holm. call: the finding's, ""
    for perplexity.
    """

    key: str
    task: str
    measure: str
    base: str
    value: float
    low: float | None
    high: float | None
    n: int
    of: int | None = None
    p: float | None = None
    call: str = ""

    def judged(self, tolerance: float) -> str:
        """within, beyond, or open where the interval lies across the tolerance or is not known."""
        if self.low is None or self.high is None:
            return "open"
        return "within" if self.high <= tolerance else "beyond" if self.low > tolerance else "open"


class Candidate(msgspec.Struct, frozen=True):
    """One arm held against what is asked.

    quality: base, within, beyond, open, unknown; by `losses`, those that decide. `others`: what else is known.
    pace: "" where no speed is asked, enough, slow, open. room: "" where no memory is, fits, no, unknown; `need` bytes
    with the context that is asked, `longest` the longest context that fits. `overfull`: the verdict that memory was too
    small for it here, and `crowded` its few words; "" where there is none.
    """

    arm: str
    quant: str
    outcome: str
    ghost: bool
    bytes: int | None
    quality: str
    pace: str
    room: str
    losses: tuple[Loss, ...] = ()
    others: tuple[Loss, ...] = ()
    tok_s: float | None = None
    radius: float | None = None
    tainted: bool = False
    need: int | None = None
    longest: int | None = None
    overfull: str = ""
    crowded: str = ""

    def able(self, but: str = "") -> bool:
        """Whether it finished and meets what is asked of memory and speed, `but` (pace or room) left out."""
        room = self.room in ("", "fits") and not self.overfull
        return self.outcome == "ok" and (room or but == "room") and (self.pace in ("", "enough") or but == "pace")

    @property
    def size(self) -> float:
        """Bytes; what has none that is known is not small."""
        return math.inf if self.bytes is None else float(self.bytes)

    @property
    def good(self) -> bool:
        """Whether its quality is surely good enough."""
        return self.quality in ("base", "within")

    @property
    def most(self) -> float | None:
        """The most that it may lose, of all that decides: 0 for the base, None where that is not known."""
        if self.quality == "base":
            return 0.0
        ends = [loss.high for loss in self.losses]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None


def asked(memories: Sequence[int], contexts: Sequence[int], tolerance: str, tok_s: str, needs: str) -> Needs:
    """Needs as a command line gives them: memories and contexts as they were read, the rest as text, "" for what is not
    asked. `tolerance` in percent; `needs`: "extraction,reasoning", words of NEEDS or tasks by name.

    Raises:
        UserError: several memories or contexts, or what is no tolerance, speed or need; names the flag.
    """
    for flag, values in (("--memory", memories), ("--ctx", contexts)):
        if len(values) > 1:
            raise UserError(f"{flag}: advice is for one at a time: `quanttui plan` shows several")
    share = percents(tolerance) if tolerance else Needs().tolerance
    if share is None:
        raise UserError(f"--tolerance {clean(tolerance, 40)}: must be a percentage above 0 and below 100")
    try:
        rate = float(tok_s) if tok_s else None
    except ValueError:
        rate = math.nan
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"--min-tok-s {clean(tok_s, 40)}: must be tokens per second above 0")
    words = tuple(dict.fromkeys(word.strip().lower() for word in needs.split(",") if word.strip()))
    known = [*NEEDS, *(task for each in NEEDS.values() for task in each if task not in NEEDS), "prompts"]
    if wrong := next((word for word in words if word not in known), None):
        raise UserError(f"--needs: {clean(wrong, 40)!r} is not known: give {', '.join(known)}")
    return Needs(next(iter(memories), None), next(iter(contexts), None), share, rate, words)


def more(loss: Loss, tolerance: float) -> int | None:
    """About how many chunks or pairs would tell on which side of the tolerance a loss lies, None where no number worth
    the time would, or nothing is known yet.

    An interval narrows with the root of what it rests on: n (half-width / distance from the tolerance)².
    """
    if loss.low is None or loss.high is None:
        return None
    apart = abs(tolerance - loss.value)
    half = loss.high - loss.value if loss.value < tolerance else loss.value - loss.low
    if apart <= 0 or half <= 0:
        return None
    return rounded_up(loss.n * (half / apart) ** 2)


def rounded_up(count: float) -> int | None:
    """To two digits: no more is known."""
    if not 1 <= count < HOPELESS:
        return None
    step = int(10 ** max(0, int(math.log10(count)) - 1))
    return math.ceil(count / step - 1e-9) * step


def chance(moments: Moments, population: int | None = None) -> float | None:
    """The chance of a sequence that lies so far from 0 if the mean is 0: the smallest alpha at which it leaves 0 out.

    Always valid, as the sequence itself: whoever looks, and stops when it pleases, is misled with a chance of alpha at
    most (Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 2021). 1 where it is a half or more, never below
    1e-9; None without an interval, and where all of the text leaves nothing to chance.
    """
    found = moments.interval(population=population)
    if found is None or found.radius is None or moments.n == population:
        return None

    def leaves_out(exponent: float) -> bool:
        now = moments.interval(10**exponent, population=population)
        return now is not None and now.radius is not None and abs(now.mean) > now.radius

    low, high = -9.0, math.log10(0.5)
    if not leaves_out(high):
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if leaves_out(middle) else (middle, high)
    return float(10**high)


# --- what is known ----------------------------------------------------------------------------------------------------


class Case:
    """One session under one set of needs: its arms as candidates, and all that was found of them as evidence."""

    def __init__(self, state: State, summary: Figures, study: Study | None, needs: Needs, room: Room | None) -> None:
        self.state, self.summary, self.needs, self.room = state, summary, needs, room
        self.known = {clean(arm.id, 80): arm for arm in state.arms.values()}
        self.evidence: dict[str, Evidence] = {}
        self.trained = max((arm.file.shape.context for arm in state.arms.values() if arm.file is not None), default=0)
        self.ctx = needs.ctx or min(USUAL, self.trained or USUAL)
        self.memory = needs.memory if needs.memory is not None else memory_of(state)
        self.limit = self.memory if needs.memory is not None or needs.ctx is not None else None
        self.findings = _headlines(study)
        self.bases = {task: base for task, base, _ in self.findings}
        self.deciding, self.missing = self._deciding()
        self.reference = clean(summary.base, 80)
        self.perplexities = dict(self._perplexities())
        self.candidates = tuple(self._candidate(arm) for arm in summary.arms)
        measured = any(one.quality != "unknown" for one in self.candidates)
        self.by = "" if not measured else "tasks" if self.deciding else "perplexity"
        held = self.bases[self.deciding[0][0]] if self.deciding else self.reference
        self.base = held if self.by else ""

    def _deciding(self) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
        """The tasks of each need, the one with the most pairs first; and the needs that nothing was measured of. Where
        none is asked for that was measured, and no perplexity was, all tasks decide."""
        found = {word: _tasks_of(word, self.findings) for word in self.needs.tasks}
        missing = tuple(word for word, tasks in found.items() if not tasks)
        if not any(found.values()) and not any(arm.delta for arm in self.summary.arms):
            words = dict.fromkeys(need_of(task) for task in self.bases)
            found = {word: _tasks_of(word, self.findings) for word in words}
        return tuple(tasks for tasks in found.values() if tasks), missing

    def find(self, arm: str, name: str, about: str, text: str, **figures: Any) -> str:
        """Keep a finding; its key."""
        key = f"{arm} {name}"
        self.evidence[key] = Evidence(key, about, arm, f"{arm}: {text}", **figures)
        return key

    def _perplexities(self) -> Iterator[tuple[str, Loss]]:
        """What each arm loses in perplexity, with its p-value corrected over all arms."""
        base = self.known.get(self.reference)
        arms = [arm for arm in self.summary.arms if arm.delta is not None]
        if base is None:
            return
        until = self.state.settings.until
        chances = []
        for arm in arms:
            ours = self.known[arm.id]
            chances.append(chance(_differences(ours, base), ours.chunks_planned if until == "decided" else None))
        corrected = iter(holm([one for one in chances if one is not None]))
        for arm, raw in zip(arms, chances, strict=True):
            yield arm.id, self._perplexity(arm, None if raw is None else next(corrected))

    def _perplexity(self, arm: Judged, p: float | None) -> Loss:
        delta, of = arm.delta, self.known[arm.id].chunks_planned
        assert delta is not None
        span, low, high = "no interval yet", None, None
        if delta.low is not None and delta.high is not None:
            low, high = delta.low / 100, delta.high / 100
            span = f"95 % sequence {signed(delta.low)} to {signed(delta.high)} %"
        test = f", p {p_value(p)} (always valid; Holm)" if p is not None else ""
        text = (
            f"perplexity {signed(delta.percent)} % against {self.reference}, {span}, {delta.chunks}"
            f"{f' of {of}' if of else ''} chunks, of {'this text' if delta.of_text else 'texts like it'}{test}"
        )
        ends = {"value": delta.percent, "low": delta.low, "high": delta.high}
        key = self.find(arm.id, "perplexity", "perplexity", text, unit="%", n=delta.chunks, p=p, **ends)
        return Loss(key, "", "perplexity", self.reference, delta.percent / 100, low, high, delta.chunks, of, p)

    def _task(self, one: Finding) -> Loss:
        arm, base, task = clean(one.arm, 80), clean(one.base, 80), clean(one.task, 40)
        measure = f"{task} {clean(one.measure, 40)}"
        pairs = f"{one.n} pairs{f' ({one.excluded} items left out)' if one.excluded else ''}"
        text = (
            f"{measure} {signed(100 * one.delta)} points against {base}, 95 % {signed(100 * one.low)} to "
            f"{signed(100 * one.high)}, {pairs}, {one.lost} lost and {one.gained} gained, p {p_value(one.p_holm)} "
            f"({clean(one.test, 60)}; Holm): {clean(one.call, 40)}; so many pairs would show "
            f"{significant(100 * one.detectable, 2)} points"
        )
        ends = {"value": 100 * one.delta, "low": 100 * one.low, "high": 100 * one.high}
        key = self.find(arm, measure, "task", text, unit="points", n=one.n, p=one.p_holm, **ends)
        return Loss(key, task, measure, base, -one.delta, -one.high, -one.low, one.n, None, one.p_holm, one.call)

    def _candidate(self, arm: Judged) -> Candidate:
        losses, others, quality = self._quality(arm)
        overfull = self._overfull(arm)
        need = self.room(arm.id, self.ctx) if self.room is not None else None
        speed = arm.decode
        if speed is not None:
            self._speed(arm, speed)
        if need is not None:
            text = f"needs {size(need)} with a context of {self.ctx} tokens: weights, KV cache, buffers"
            self.find(arm.id, "memory", "memory", text, unit="bytes", value=float(need))
        if arm.outcome not in ("ok", "planned", "running"):
            self.find(arm.id, "outcome", "outcome", f"{arm.outcome}: {arm.error}".removesuffix(": "))
        return Candidate(
            arm=arm.id,
            quant=arm.quant,
            outcome=arm.outcome,
            ghost=arm.ghost,
            bytes=arm.bytes,
            quality=quality,
            pace=self._pace(arm),
            room="" if self.limit is None else "unknown" if need is None else "fits" if need <= self.limit else "no",
            losses=losses,
            others=others,
            tok_s=speed.tok_s if speed else None,
            radius=speed.radius if speed else None,
            tainted=arm.tainted,
            need=need,
            longest=self._longest(arm.id),
            overfull=overfull.code if overfull else "",
            crowded=clean(overfull.words, 40) if overfull else "",
        )

    def _quality(self, arm: Judged) -> tuple[tuple[Loss, ...], tuple[Loss, ...], str]:
        """The losses that decide, all others, and what the first come to."""
        tasks = {task: self._task(one) for task, _, one in self.findings if clean(one.arm, 80) == arm.id}
        perplexity = self.perplexities.get(arm.id)
        if not self.deciding:
            others = tuple(tasks.values())
            if perplexity is None:
                return (), others, "base" if arm.id == self.reference else "unknown"
            return (perplexity,), others, perplexity.judged(self.needs.tolerance)
        first = [names[0] for names in self.deciding if self.bases[names[0]] != arm.id]
        against = [task for names in self.deciding for task in names[1:] if task in tasks]
        against = [task for task in against if tasks[task].judged(self.needs.tolerance) == "beyond"]
        losses = tuple(tasks[task] for task in dict.fromkeys((*first, *against)) if task in tasks)
        rest = [loss for loss in tasks.values() if loss not in losses]
        others = (*rest, perplexity) if perplexity is not None else tuple(rest)
        if not first:
            return losses, others, "base"
        calls = [loss.judged(self.needs.tolerance) for loss in losses]
        known = all(task in tasks for task in first)
        return losses, others, next((call for call in _CALLS if call in calls), "unknown") if known else "unknown"

    def _pace(self, arm: Judged) -> str:
        wanted, speed = self.needs.tok_s, arm.decode
        if wanted is None:
            return ""
        if speed is None or speed.radius is None or arm.tainted:
            return "open"
        slow = speed.tok_s + speed.radius < wanted
        return "enough" if speed.tok_s - speed.radius >= wanted else "slow" if slow else "open"

    def _speed(self, arm: Judged, speed: Speed) -> None:
        text, ends = f"generates {significant(speed.tok_s)} tok/s ({speed.n} repetitions, no interval)", {}
        if speed.radius is not None:
            text = f"generates {rate(speed.tok_s, speed.radius)} (95 % sequence, {speed.n} repetitions)"
            ends = {"low": speed.tok_s - speed.radius, "high": speed.tok_s + speed.radius}
        if arm.tainted:
            bad = [one.words for one in arm.verdicts if one.kind == "contaminated" and one.phase in ("decode", "")]
            text += f", contaminated ({clean(', '.join(bad))}): it decides nothing"
        self.find(arm.id, "speed", "speed", text, unit="tok/s", value=speed.tok_s, n=speed.n, **ends)

    def _overfull(self, arm: Judged) -> Verdict | None:
        """The verdict that memory was too small for it; none where more memory is asked about than the host has, or
        where a larger arm did without such a verdict: then something else took the memory."""
        worst, host = _crowded(arm), memory_of(self.state)
        if worst is None or (self.needs.memory is not None and host is not None and self.needs.memory > host):
            return None
        clear = [one for one in self.summary.arms if one.outcome == "ok" and _crowded(one) is None]
        if any((one.bytes or 0) > (arm.bytes or 0) for one in clear):
            return None
        self.find(arm.id, worst.code, "verdict", f"{worst.code}: {clean(worst.sentence)}")
        return worst

    def _longest(self, arm: str) -> int | None:
        """The longest context that fits, in whole blocks up to what the model was trained on; 0 for none."""
        memory, room, file = self.memory, self.room, self.known[arm].file
        most = file.shape.context if file is not None else 0
        if memory is None or room is None or not most or room(arm, min(most, BLOCK)) is None:
            return None
        need = room

        def taken(blocks: int) -> int:
            return need(arm, min(most, blocks * BLOCK)) or 0

        return min(most, BLOCK * bisect.bisect_right(range(1, -(-most // BLOCK) + 1), memory, key=taken))


_CALLS = ("beyond", "open", "within")
"""What several losses come to: the first of these that one of them is."""


def memory_of(state: State) -> int | None:
    """Bytes of memory that the session's machine has for a model: its limit, or its GPUs' where all layers are on them;
    None where a part is."""
    host = state.host
    loaded = [arm.attempt.loaded for arm in state.arms.values() if arm.attempt and arm.attempt.loaded]
    if host is None:
        return None
    if not any(one.gpu_layers for one in loaded):
        return host.memory_limit or host.memory
    each = [gpu.memory for gpu in host.gpus]
    known = [one for one in each if one is not None]
    whole = all(one.gpu_layers >= one.layers for one in loaded)
    return sum(known) if whole and known and len(known) == len(each) else None


def _headlines(study: Study | None) -> tuple[tuple[str, str, Finding], ...]:
    """Task and base of each arm's finding of a task: the headline's, which comes first."""
    found: dict[tuple[str, str], tuple[str, str, Finding]] = {}
    for one in study.findings if study is not None else ():
        task = clean(one.task, 40)
        found.setdefault((task, one.arm), (task, clean(one.base, 80), one))
    return tuple(found.values())


def _tasks_of(word: str, findings: Sequence[tuple[str, str, Finding]]) -> tuple[str, ...]:
    """The tasks that tell of a need, the one with the most pairs first."""
    pairs: dict[str, int] = {}
    for task, _, one in findings:
        if task.removesuffix(THINKING) in NEEDS.get(word, (word,)):
            pairs[task] = max(pairs.get(task, 0), one.n)
    return tuple(sorted(pairs, key=lambda task: (-pairs[task], task)))


def need_of(task: str) -> str:
    """The need that a task tells of, or the task itself."""
    plain = task.removesuffix(THINKING)
    return next((word for word, tasks in NEEDS.items() if plain in tasks), plain)


def _differences(arm: Arm, base: Arm) -> Moments:
    """Of the mean nll of the chunks that both have scored."""
    if arm.exact.base == base.id and arm.exact.chunks.n:
        return arm.exact.chunks
    found = Moments()
    for chunk, ours in arm.chunks.items():
        theirs = base.chunks.get(chunk)
        if theirs is not None and theirs.scored == ours.scored:
            found.add((ours.nll - theirs.nll) / ours.scored)
    return found


def _crowded(arm: Judged) -> Verdict | None:
    """The verdict that memory was too small."""
    return next((one for one in arm.verdicts if one.kind == "contaminated" and one.code in OVERFULL), None)


# --- words ------------------------------------------------------------------------------------------------------------


def signed(value: float) -> str:
    """A figure with its sign: +1.33."""
    return f"{'-' if value < 0 else '+'}{significant(abs(value))}"


def p_value(p: float) -> str:
    """A p-value with no more digits than it has: 0.031, <0.001."""
    return "<0.001" if p < 0.001 else significant(p, 2)


def rate(tok_s: float | None, radius: float | None) -> str:
    """`25.0 ±0.31 tok/s`."""
    spread = f" ±{significant(radius, 2)}" if radius is not None else ""
    return f"{significant(tok_s)}{spread} tok/s"
