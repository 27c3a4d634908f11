"""From figures to a decision: which quant to take, why, and unless what. Pure: a state, its summary and its study in,
an Advice out; it knows no screen, and no sum of what fits but the one that it is handed.

The rule: of the arms that finished and meet what is asked of memory and speed, the smallest one whose loss of quality
stays below the tolerance, by the upper end of its 95 % interval and not by its estimate; then the longest context that
fits. What lies across a line is open, and is said with what more it would take. Every sentence names the findings that
it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from quanttui.decide.candidates import (
    NEEDS,
    Candidate,
    Case,
    Evidence,
    Figures,
    Loss,
    Needs,
    Room,
    more,
    need_of,
    p_value,
    rate,
    rounded_up,
    signed,
)
from quanttui.decide.study import Study
from quanttui.format import significant, size
from quanttui.quants import UNQUANTIZED
from quanttui.state import State


class Sentence(msgspec.Struct, frozen=True):
    """A sentence and the keys of the evidence that it rests on."""

    text: str
    evidence: tuple[str, ...] = ()


class Advice(msgspec.Struct, frozen=True):
    """What to do, and what it rests on. `pick` is an arm, "" where none is to be named.

    `by`: what quality was held against: perplexity, tasks, or "" where none was measured. `base`: the arm that losses
    are against. `context`: the longest one that fits with the pick into `memory` bytes, None where either is unknown.
    `why`: the pick in one sentence, then what belongs to it. `smaller`: when to take less. `bigger`: when to take more.
    `avoid`: what not to take, and how it fails. `open`: what is undecided, and what more it would take.
    """

    needs: Needs
    pick: str
    by: str
    base: str
    memory: int | None
    context: int | None
    why: tuple[Sentence, ...]
    smaller: tuple[Sentence, ...]
    bigger: tuple[Sentence, ...]
    avoid: tuple[Sentence, ...]
    open: tuple[Sentence, ...]
    notes: tuple[Sentence, ...]
    evidence: tuple[Evidence, ...]
    candidates: tuple[Candidate, ...]

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """All of them, in the order in which they are read."""
        return (*self.why, *self.smaller, *self.bigger, *self.avoid, *self.open, *self.notes)


def advise(state: State, summary: Figures, study: Study | None, needs: Needs, room: Room | None = None) -> Advice:
    """The advice on a session, finished or not.

    Args:
        summary: of the same state.
        study: of its tasks' answers, None where it has none.
        room: what an arm needs; without it nothing is known of what fits.
    """
    case = Case(state, summary, study, needs, room)
    pick = _smallest(case) if case.by else _largest(case)
    bigger, smaller = list(_bigger(case, pick)), list(_smaller(case, pick))
    others = sorted((*bigger, *smaller), key=lambda one: one.rank)
    why = (_first(case, pick, others[0] if others else None), *_belonging(case, pick), *_relaxed(case, pick))
    parts = (
        why,
        (*(one.sentence for one in smaller), *_less(case, pick)),
        tuple(one.sentence for one in bigger),
        tuple(_avoid(case)),
        tuple(_open(case, pick)),
        tuple(_notes(case, pick)),
    )
    used = dict.fromkeys(key for part in parts for one in part for key in one.evidence)
    return Advice(
        needs,
        pick.arm if pick else "",
        case.by,
        case.base,
        case.memory,
        pick.longest if pick else None,
        *parts,
        evidence=tuple(case.evidence[key] for key in used),
        candidates=case.candidates,
    )


# --- the pick ---------------------------------------------------------------------------------------------------------


def _smallest(case: Case, but: str = "") -> Candidate | None:
    """The smallest of those that are able and good; of one size the one with the longest context."""
    found = [one for one in case.candidates if one.able(but) and one.good]
    return min(found, key=lambda one: (one.size, -(one.longest or 0)), default=None)


def _largest(case: Case) -> Candidate | None:
    """Where no quality is known: the largest that is able, if anything is asked that it could be able to."""
    if case.limit is None and case.needs.tok_s is None:
        return None
    return max((one for one in case.candidates if one.able()), key=lambda one: one.bytes or 0, default=None)


class _Other(NamedTuple):
    """Another arm than the pick, and on which condition; the lowest `rank` is said with the pick."""

    arm: str
    condition: str
    rank: int
    sentence: Sentence


def _first(case: Case, pick: Candidate | None, other: _Other | None) -> Sentence:
    """The pick in one sentence: why, and unless what."""
    if pick is None:
        return _none(case)
    unless = f", unless {other.condition} (then {other.arm})" if other else ""
    lack = f"; nothing was measured of {_and(case.missing)}" if case.missing else ""
    keys = [loss.key for loss in pick.losses]
    keys += [f"{pick.arm} memory"] if pick.room == "fits" else []
    keys += [f"{pick.arm} speed"] if pick.pace == "enough" else []
    measured = "perplexity tells" if case.by == "perplexity" else "other tasks tell"
    told = f"as far as {measured}, " if len(case.missing) == len(case.needs.tasks) > 0 else ""
    if not case.by:
        because = f"{_of(case)} it is the largest that {_and(_met(case, pick))}"
        return Sentence(f"Take {pick.arm} by memory and speed alone, because {because}; nothing was measured of "
                        "quality.", tuple(keys))  # fmt: skip
    if pick.quality == "base":
        because, rests_on = _kept(case, pick)
        keys += rests_on
    else:
        because = f"{_of(case)} it is the smallest that {_and(_met(case, pick))}"
    keys += other.sentence.evidence if other else ()
    return Sentence(f"Take {pick.arm}, because {told}{because}{unless}{lack}.", tuple(dict.fromkeys(keys)))


def _of(case: Case) -> str:
    ran = sum(one.outcome == "ok" for one in case.candidates)
    return f"of the {ran} quants that finished" if ran > 1 else "of one quant that finished"


def _met(case: Case, pick: Candidate) -> list[str]:
    """What an arm meets of what is asked."""
    found = []
    if pick.room == "fits":
        found.append(f"fits into {size(case.limit)} with {case.ctx} tokens of context")
    if pick.pace == "enough" and case.needs.tok_s is not None:
        found.append(f"generates at least {case.needs.tok_s:g} tok/s ({rate(pick.tok_s, pick.radius)})")
    return [*found, *(f"stays within {_line(case, loss)} of {loss.base}: {_told(loss)}" for loss in pick.losses)]


def _kept(case: Case, pick: Candidate) -> tuple[str, list[str]]:
    """Why it has to be the base: what holds of all that are smaller, and the findings."""
    smaller = [one for one in case.candidates if one.outcome == "ok" and one.size < pick.size]
    keys = [loss.key for one in smaller for loss in one.losses if not one.good]
    met = _met(case, pick)
    meets = f"it {_and(met)}, and " if met else ""
    if not smaller:
        return f"{meets}no smaller quant finished", keys
    count = f"the {len(smaller)} smaller ones" if len(smaller) > 1 else "the smaller one"
    if all(one.quality == "unknown" for one in smaller):
        return f"{meets}nothing was measured of what {count} would lose", keys
    if any(one.good for one in smaller):
        return f"{meets}none of {count} meets all that is asked", keys
    share = f"{100 * case.needs.tolerance:g} {'points of its right answers' if case.deciding else '% of perplexity'}"
    return f"{meets}none of {count} is sure to lose at most {share}", keys


def _none(case: Case) -> Sentence:
    """Why no arm is picked."""
    ran = [one for one in case.candidates if one.outcome == "ok"]
    asked = [f"memory ({size(case.limit)} with {case.ctx} tokens)"] if case.limit is not None else []
    asked += [f"speed ({case.needs.tok_s:g} tok/s)"] if case.needs.tok_s is not None else []
    unit = "points" if case.deciding else "% of perplexity"
    asked += [f"quality (at most {100 * case.needs.tolerance:g} {unit} lost)"] if case.by else []
    if not ran:
        return Sentence("No pick: no quant has finished.")
    if not asked:
        return Sentence("No pick: nothing was measured of quality, and neither memory, context nor speed is asked for.")
    surely = "" if all(_refuted(one) for one in ran) else "surely "
    return Sentence(f"No pick: {_of(case)} none {surely}meets what is asked of {_and(asked)}.")


def _refuted(one: Candidate) -> bool:
    return one.room == "no" or one.pace == "slow" or one.quality == "beyond" or one.overfull != ""


def _belonging(case: Case, pick: Candidate | None) -> Iterator[Sentence]:
    """The longest context of the pick, and its speed."""
    if pick is None:
        return
    if pick.longest and case.room is not None:
        need = case.room(pick.arm, pick.longest)
        text = f"needs {size(need)} with a context of {pick.longest} tokens"
        value = None if need is None else float(need)
        key = case.find(pick.arm, "context", "memory", text, unit="bytes", value=value)
        whose = "" if case.needs.memory is not None else " (this session's machine)"
        all_ = ", all that it was trained on" if pick.longest == case.trained else ""
        yield Sentence(
            f"The longest context that fits into {size(case.memory)}{whose} is {pick.longest} tokens{all_}.", (key,)
        )
    if pick.tok_s is not None and not pick.tainted and pick.pace == "":
        yield Sentence(f"It generates {rate(pick.tok_s, pick.radius)} here.", (f"{pick.arm} speed",))


def _relaxed(case: Case, pick: Candidate | None) -> Iterator[Sentence]:
    """Where there is no pick: what would be one if less was asked."""
    if pick is not None or not case.by:
        return
    slower, fuller = _smallest(case, "pace"), _smallest(case, "room")
    if slower is not None:
        known = slower.tok_s is not None
        speed = f"at {rate(slower.tok_s, slower.radius)}" if known else "whose speed is not known"
        star = ", contaminated" if slower.tainted else ""
        keys = [f"{slower.arm} speed"] if known else []
        yield Sentence(f"Without the speed that is asked it would be {slower.arm}, {speed}{star}.", tuple(keys))
    if fuller is not None:
        keys = [f"{fuller.arm} memory"] if fuller.need is not None else []
        keys += [f"{fuller.arm} {fuller.overfull}"] if fuller.overfull else []
        need = f", which needs {size(fuller.need)}" if fuller.need is not None else ""
        yield Sentence(f"With more memory it would be {fuller.arm}{need}.", tuple(keys))
    ends = [(one.most, one) for one in case.candidates if one.able() and one.most is not None]
    if ends:
        most, best = min(ends, key=lambda one: (one[0], one[1].size))
        keys = [loss.key for loss in best.losses]
        yield Sentence(f"With a tolerance of {_amount(case, most)} it would be {best.arm}.", tuple(keys))


def _bigger(case: Case, pick: Candidate | None) -> Iterator[_Other]:
    """When to stay with more."""
    if pick is None or not case.by:
        return
    above = sorted((one for one in case.candidates if one.able() and one.size > pick.size), key=attrgetter("size"))
    for loss in pick.others:
        fine = [one for one in above if loss.call == "worse" and one.good and loss.task not in _worse(one)]
        if fine:
            need = need_of(loss.task)
            text = f"Stay with {fine[0].arm} if you need {need}: {pick.arm} is worse there, {_told(loss)}."
            yield _Other(fine[0].arm, f"you need {need}, where it is worse", 0, Sentence(text, (loss.key,)))
    most = pick.most or 0.0
    less = [one for one in above if one.good and one.most is not None and one.most < most]
    if less:
        other, keys = less[0], tuple(loss.key for loss in (*pick.losses, *less[0].losses))
        own = f"its own is at most {_amount(case, other.most)}" if other.most else "losses are against it"
        condition = f"a loss of up to {_amount(case, most)} is too much"
        apart = f"{_apart(other, pick)} larger{_speeds(case, other, pick)}"
        text = f"Stay with {other.arm} ({apart}) if {condition}: {own}."
        yield _Other(other.arm, condition, 1, Sentence(text, keys))


def _smaller(case: Case, pick: Candidate | None) -> Iterator[_Other]:
    """When to take less: the next smaller one, if more may be lost."""
    if pick is None or not case.by:
        return
    below = [one for one in case.candidates if one.able() and one.size < pick.size and one.most is not None]
    other = max(below, key=attrgetter("size"), default=None)
    if other is None:
        return
    condition = f"a loss of up to {_amount(case, other.most)} is acceptable"
    text = (
        f"Take {other.arm} ({_apart(pick, other)} smaller{_speeds(case, other, pick)}) only if {condition}: "
        f"{_and([_told(loss) for loss in other.losses])}."
    )
    yield _Other(other.arm, condition, 2, Sentence(text, tuple(loss.key for loss in other.losses)))


def _less(case: Case, pick: Candidate | None) -> Iterator[Sentence]:
    """From where on memory asks for a smaller one."""
    if pick is not None and pick.room == "fits" and pick.need is not None:
        yield Sentence(
            f"With less than {size(pick.need)} free, shorten the context of {case.ctx} tokens or take a smaller quant.",
            (f"{pick.arm} memory",),
        )


# --- what speaks against ----------------------------------------------------------------------------------------------


def _avoid(case: Case) -> Iterator[Sentence]:
    """A sentence for each arm that is refuted: how it fails, and by what."""
    for one in case.candidates:
        reasons = list(_fails(case, one))
        if reasons:
            yield Sentence(f"Avoid {one.arm}: {'; '.join(text for text, _ in reasons)}.",
                           tuple(key for _, keys in reasons for key in keys))  # fmt: skip


def _fails(case: Case, one: Candidate) -> Iterator[tuple[str, tuple[str, ...]]]:
    if one.outcome not in ("ok", "planned", "running", "skipped", "interrupted"):
        word = "it ran out of memory" if one.outcome == "oom" else f"it ended as {one.outcome}"
        yield word, (f"{one.arm} outcome", *([f"{one.arm} {one.overfull}"] if one.overfull else []))
    if one.overfull and one.outcome != "oom":
        yield f"{one.overfull} on this machine ({one.crowded})", (f"{one.arm} {one.overfull}",)
    if one.room == "no":
        yield f"it needs {size(one.need)} with {case.ctx} tokens, of {size(case.limit)}", (f"{one.arm} memory",)
    if one.pace == "slow":
        yield f"it generates {rate(one.tok_s, one.radius)} only", (f"{one.arm} speed",)
    for loss in one.losses:
        if loss.judged(case.needs.tolerance) == "beyond":
            yield f"it loses more than {_line(case, loss)}, {_told(loss)}", (loss.key,)


def _open(case: Case, pick: Candidate | None) -> Iterator[Sentence]:
    """What is undecided that could change the pick, and what would decide it."""
    for word in case.missing:
        tasks = ",".join(NEEDS.get(word, (word,)))
        yield Sentence(f"Of {word} nothing was measured: sweep with --tasks {tasks}.")
    for one in case.candidates:
        if pick is not None and one.size >= pick.size:
            continue
        if one.outcome in ("planned", "running", "interrupted", "skipped"):
            yield Sentence(f"{one.arm} has not finished: {one.outcome}.")
            continue
        if not one.able("pace") or one.quality == "beyond" or one.pace == "slow":
            continue
        if one.pace == "open":
            yield _pace_open(case, one)
        for loss in one.losses:
            if loss.judged(case.needs.tolerance) == "open":
                yield _loss_open(case, one, loss)
        if case.by and one.quality == "unknown":
            yield Sentence(f"{one.arm}: nothing was measured of its quality{' (a ghost)' if one.ghost else ''}.")


def _pace_open(case: Case, one: Candidate) -> Sentence:
    """A speed that does not tell, and why."""
    if one.tok_s is None:
        return Sentence(f"{one.arm} may be too slow: no speed was measured.")
    key, wanted = (f"{one.arm} speed",), case.needs.tok_s or 0.0
    if one.tainted:
        return Sentence(f"{one.arm}'s speed is contaminated and decides nothing: run it again.", key)
    if one.radius is None:
        return Sentence(f"{one.arm}'s speed, {significant(one.tok_s)} tok/s, has no interval: it takes more "
                        "repetitions.", key)  # fmt: skip
    speed = case.evidence[key[0]]
    count = rounded_up((speed.n or 1) * (one.radius / max(1e-9, abs(one.tok_s - wanted))) ** 2)
    much = f"about {count} repetitions would tell" if count else "it lies too near to be told"
    return Sentence(f"{one.arm}'s {rate(one.tok_s, one.radius)} lie across {wanted:g} tok/s: {much}.", key)


def _loss_open(case: Case, one: Candidate, loss: Loss) -> Sentence:
    """A loss that lies across the tolerance, and about how much more would tell."""
    unit = "items" if loss.task else "chunks"
    if loss.low is None:
        return Sentence(f"{one.arm} is undecided: {loss.n} {unit} are too few for an interval.", (loss.key,))
    count = more(loss, case.needs.tolerance)
    much = f"about {count} {unit} would tell, {loss.n} are done" if count else "it lies too near to be told"
    if count and loss.of and count > loss.of:
        much += f" and the text has {loss.of}: take a longer one"
    return Sentence(f"{one.arm} is undecided, {_told(loss)} lies across {_line(case, loss)}: {much}.", (loss.key,))


def _notes(case: Case, pick: Candidate | None) -> Iterator[Sentence]:
    """What has to be known beside that."""
    base = next((one for one in case.candidates if one.arm == case.base), None)
    if base is not None and base.quant not in UNQUANTIZED:
        yield Sentence(f"Losses are against {base.arm}, itself a quant: what it lost before is not in them.")
    if not case.by:
        ghosts = [one for one in case.candidates if one.ghost]
        if ghosts and len(ghosts) == len(case.candidates):
            yield Sentence("All of these are ghosts, real shapes with random weights: they have no quality.")
        else:
            yield Sentence("Nothing was measured of quality: sweep with --tasks ppl, or with the tasks of your work.")
    if case.by == "perplexity" and not case.findings:
        yield Sentence("Perplexity alone decides: it tells how text is predicted, not how questions are answered.")
    if case.by == "tasks" and pick is not None:
        for loss in pick.others:
            if not loss.task and loss.judged(case.needs.tolerance) == "beyond":
                text = f"The tasks decide; by perplexity {pick.arm} would lose too much: {_told(loss)}."
                yield Sentence(text, (loss.key,))
    tainted = [one for one in case.candidates if one.tainted and one.tok_s is not None]
    if tainted:
        speeds = "The speed" if len(tainted) == 1 else "The speeds"
        are = "is" if len(tainted) == 1 else "are"
        text = f"{speeds} of {_and([one.arm for one in tainted])} {are} contaminated and decided nothing."
        yield Sentence(text, tuple(f"{one.arm} speed" for one in tainted))
    if case.trained and case.needs.ctx is not None and case.needs.ctx > case.trained:
        yield Sentence(f"{case.needs.ctx} tokens are more than the {case.trained} that the model was trained on.")


# --- words ------------------------------------------------------------------------------------------------------------


def _worse(one: Candidate) -> set[str]:
    """The tasks in which an arm is worse than the base."""
    return {loss.task for loss in (*one.losses, *one.others) if loss.call == "worse"}


def _line(case: Case, loss: Loss) -> str:
    return f"{100 * case.needs.tolerance:g} {'points' if loss.task else '%'}"


def _amount(case: Case, share: float | None) -> str:
    """The most that may be lost, rounded up: a tolerance of just that would do."""
    percents = 100 * (share or 0.0)
    step = 10.0 ** (math.floor(math.log10(percents)) - 2) if percents > 0 else 1.0
    return f"{significant(math.ceil(percents / step - 1e-9) * step)} {'points' if case.deciding else '%'}"


def _told(loss: Loss) -> str:
    """A loss as its finding has it: `perplexity +1.33 % (95 % +0.85 to +1.81, p <0.001)`."""
    times, unit = (-100, "points") if loss.task else (100, "%")
    span = "no interval"
    if loss.low is not None and loss.high is not None:
        low, high = sorted((times * loss.low, times * loss.high))
        span = f"95 % {signed(low)} to {signed(high)}"
    p = f", p {p_value(loss.p)}" if loss.p is not None else ""
    return f"{loss.measure} {signed(times * loss.value)} {unit} ({span}{p})"


def _apart(one: Candidate, other: Candidate) -> str:
    return size(one.size - other.size) if one.bytes and other.bytes else "some"


def _speeds(case: Case, one: Candidate, pick: Candidate) -> str:
    """How an arm's speed compares with the pick's, where both are to be believed and they are not the same."""
    if one.tainted or pick.tainted or None in (one.tok_s, pick.tok_s, one.radius, pick.radius):
        return ""
    ours, theirs = one.tok_s or 0.0, pick.tok_s or 1.0
    apart = abs(ours - theirs) > (one.radius or 0.0) + (pick.radius or 0.0)
    beyond = max(ours, theirs) > (1 + (case.summary.floor or 0.0)) * min(ours, theirs)
    return f", {significant(ours / theirs)} times as fast" if apart and beyond else ""


def _and(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
