"""Arms held against one another, of one session or of several: what differs around them, how their speeds, their
perplexities and their answers do, and which of them nothing beats. Pure: states and their summaries in, a Comparison
out; it knows no screen.

The first arm is the one that all others are held against. Only what belongs together is paired: repetitions that took
turns in time, chunks of the same text with the same tokens, answers to the same item.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import msgspec

from quanttui.decide import paired
from quanttui.events import ANSWER, Host
from quanttui.format import ABSENT, clean, size
from quanttui.state import SHORT, Arm, Chunk, Repetition, State
from quanttui.stats import paired as tests
from quanttui.stats import sequential

if TYPE_CHECKING:
    import numpy as np
else:
    from quanttui.stats.late import numpy as np

TUNED_FOR = 8
"""The number of repetitions at which the interval of a ratio of speeds is at its best."""

LONGEST_WORD = 30
"""Characters; within a longer run of letters (a script without blanks) two answers part between characters."""

MATTERS = ("kv", "gpu_layers", "flash_attn", "imatrix", "threads")
"""What an arm ran with, as it came out, where that is another thing than what the session's settings asked for."""


class Speed(Protocol):
    """Tokens per second and the half-width of their 95 % sequence over `n` repetitions, as summary.Speed has them."""

    @property
    def tok_s(self) -> float: ...
    @property
    def radius(self) -> float | None: ...
    @property
    def n(self) -> int: ...


class Judged(Protocol):
    """What is asked of summary.ArmSummary: an arm's figures, and whether its decoding was contaminated."""

    @property
    def id(self) -> str: ...
    @property
    def quant(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def bits_per_weight(self) -> float | None: ...
    @property
    def decode(self) -> Speed | None: ...
    @property
    def tainted(self) -> bool: ...
    @property
    def settings(self) -> Mapping[str, int | str | bool | None]: ...


class Figures(Protocol):
    """What is asked of summary.Summary: its arms, its base ("" without one), and the session's own noise as a share of
    tok/s."""

    @property
    def arms(self) -> Sequence[Judged]: ...
    @property
    def base(self) -> str: ...
    @property
    def floor(self) -> float | None: ...


class Chosen(msgspec.Struct, frozen=True):
    """One arm to compare, by its id or as its summary writes that, of a session that is called `session`."""

    state: State
    summary: Figures
    arm: str
    session: str = ""


class Curve(msgspec.Struct, frozen=True):
    """Values over the token or the chunk, each the mean of `width` of them; None for a break."""

    values: tuple[float | None, ...]
    width: float = 1.0


class Answer(msgspec.Struct, frozen=True):
    """What an arm answered to an item, as it came: not clean. `correct` is None where nothing tells.

    `expected` by the item's check; `prompt` by the SHA-256 of what was asked; `cut`: there may be more of the text.
    `spans`: entities that are right, wrong and missed, where those are asked for.
    """

    text: str
    correct: bool | None = None
    expected: str = ""
    prompt: str = ""
    cut: bool = False
    spans: tuple[int, int, int] | None = None


class Side(msgspec.Struct, frozen=True):
    """One arm of the comparison. Text is clean, and `name` no other side's; a figure that is not known is None.

    `tok_s` ± `radius` (95 % sequence) over `repetitions`; `tainted`: it is not to be believed. `rate` is tok/s over the
    token. `perplexity` over `chunks` of `planned`. `right` of `checked` of its `answers`.
    """

    name: str
    arm: str
    session: str
    quant: str
    outcome: str
    bytes: int | None = None
    bits_per_weight: float | None = None
    tok_s: float | None = None
    radius: float | None = None
    repetitions: int = 0
    tainted: bool = False
    rate: Curve | None = None
    perplexity: float | None = None
    chunks: int = 0
    planned: int | None = None
    right: int = 0
    checked: int = 0
    answers: int = 0


class Ratio(msgspec.Struct, frozen=True):
    """Decode tok/s as a multiple of the first side's (of geometric means), with its 95 % sequence, None where that is
    not known yet.

    Over `n` pairs of repetitions; `paired`: they took turns in time. `floor`: the larger of the sessions' own noise,
    None where none is known.
    call: faster or slower by more than that noise, same within it, contaminated, or "" while it is open.
    """

    ratio: float
    low: float | None
    high: float | None
    paired: bool
    n: int
    floor: float | None
    call: str


class Loss(msgspec.Struct, frozen=True):
    """Perplexity against the first side's in percent, paired over the `chunks` that both have scored.

    `low` and `high`: the 95 % confidence sequence, None where it is not known yet; `of_text`: of all of this text.
    `ours` and `theirs` are the running perplexities after each of these chunks, in the order in which the first side
    scored them; `percent`, `lows`, `highs` how the difference and its sequence came to be what they are.
    """

    percent: float
    low: float | None
    high: float | None
    chunks: int
    of_text: bool
    ours: Curve
    theirs: Curve
    percents: Curve
    lows: Curve
    highs: Curve


class Pair(msgspec.Struct, frozen=True):
    """Both answers to one item. `diverges`: the place of the character where they part, None where they do not.

    change: lost (the first side is right, the other wrong), gained, differs, same.
    """

    item: str
    first: Answer
    other: Answer
    diverges: int | None
    change: str

    @property
    def flipped(self) -> bool:
        return self.change in ("lost", "gained")


class Against(msgspec.Struct, frozen=True):
    """One side against the first: each figure, or why there is none. `answers`: flipped items first, then those that
    differ; `alone`: how many answers have none to the same words on the other side."""

    name: str
    first: str
    speed: Ratio | None
    why_speed: str
    loss: Loss | None
    why_loss: str
    answers: tuple[Pair, ...] = ()
    alone: int = 0

    def count(self, change: str) -> int:
        """How many items changed so."""
        return sum(one.change == change for one in self.answers)


class Difference(msgspec.Struct, frozen=True):
    """Something that is not the same around all: about host, build or settings with a value for each session, or
    about an arm with one for each side. Values are clean."""

    about: str
    name: str
    values: tuple[str, ...]


class Point(msgspec.Struct, frozen=True):
    """An arm by speed (tok/s) and lost quality, with intervals where they are known.

    `front`: no arm that may be believed is as fast and as good, and better in one. A tainted point never is.
    """

    name: str
    tok_s: float
    quality: float
    tok_low: float | None = None
    tok_high: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    tainted: bool = False
    front: bool = False


class Scatter(msgspec.Struct, frozen=True):
    """Points, what their quality is (`Δppl % vs Q8_0`: less is better), and who has no place and why."""

    points: tuple[Point, ...]
    quality: str
    missing: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True):
    """All that is to be said of the chosen arms. `sessions` are their names; where there are several, sides are called
    by letter and arm: A:Q8_0."""

    sessions: tuple[str, ...]
    sides: tuple[Side, ...]
    differences: tuple[Difference, ...]
    against: tuple[Against, ...]
    scatter: Scatter


def of(chosen: Sequence[Chosen], among: Sequence[Chosen] = ()) -> Comparison:
    """The first of the chosen arms and the others held against it. One that was chosen twice counts once.

    Args:
        among: of all these sessions letters are given and differences told, though no arm of some is chosen.

    Raises:
        ValueError: nothing chosen, or a session has no such arm.
    """
    known: dict[tuple[int, str], _Known] = {}
    for one in chosen:
        found = _known(one)
        known.setdefault((id(one.state), found.arm.id), found)
    if not known:
        raise ValueError("nothing was chosen to compare")
    sessions = {id(one.state): one for one in reversed((*among, *chosen))}
    folds = list(dict.fromkeys(id(one.state) for one in (*among, *chosen)))
    arms = [_named(one, folds.index(place), len(folds)) for (place, _), one in known.items()]
    sides = tuple(_side(one) for one in arms)
    against = tuple(_against(arms[0], one) for one in arms[1:])
    return Comparison(
        sessions=tuple(clean(sessions[place].session, 80) for place in folds),
        sides=sides,
        differences=_differences([sessions[place].state for place in folds], arms),
        against=against,
        scatter=_scatter(sides, against),
    )


# --- which arms -----------------------------------------------------------------------------------------------------


def pick(sessions: Sequence[Chosen], base: str = "") -> list[list[Chosen]]:
    """What is to be held against what: lists of which each is one comparison, its first arm the one that the others
    are held against.

    Of a session by itself all arms are held against its base. Of several, the same quants against one another, each a
    list of its own. Where the first of `sessions` is one arm, or `base` names one, all others are held against that.

    Args:
        sessions: those with an `arm` stand for that one, the others for all arms of their session.
        base: an arm's id or quant, of the first session that has it.

    Raises:
        ValueError: nothing to pick from, no such base, or a session without arms.
    """
    if not sessions:
        raise ValueError("nothing was chosen to compare")
    every = [one for session in sessions for one in _all(session)]
    first = _base(every, base) if base else sessions[0] if sessions[0].arm else None
    if first is None and len({id(one.state) for one in every}) == 1:
        first = next((one for one in every if one.arm == one.summary.base), every[0])
    if first is not None:
        return [[first, *(one for one in every if one.state is not first.state or one.arm != first.arm)]]
    groups: list[list[Chosen]] = []
    for one in every:
        mine = next((group for group in groups if _belongs(one, group)), None)
        if mine is None:
            groups.append([one])
        else:
            mine.append(one)
    return groups


def _all(session: Chosen) -> list[Chosen]:
    """A session's arms, or the one that was named."""
    if session.arm:
        return [session]
    if not session.summary.arms:
        raise ValueError(f"{clean(session.session, 80) or 'the session'}: has no arms to compare")
    return [msgspec.structs.replace(session, arm=row.id) for row in session.summary.arms]


def _quant(one: Chosen) -> str:
    return next((row.quant for row in one.summary.arms if row.id == clean(one.arm, 80)), "")


def _base(every: Sequence[Chosen], name: str) -> Chosen:
    found = [one for one in every if name == one.arm] or [one for one in every if name == _quant(one)]
    if not found:
        there = ", ".join(dict.fromkeys(one.arm for one in every))
        raise ValueError(f"{clean(name, 80)}: no such arm: there are {there}")
    return found[0]


def _belongs(one: Chosen, group: Sequence[Chosen]) -> bool:
    """Whether an arm is the same quant as a group's first, and its session's only one of that: by its id, or where the
    sessions call their arms otherwise, by its quant."""
    if any(other.state is one.state for other in group):
        return False
    first = group[0]
    if one.arm == first.arm:
        return True
    ids = ({row.id for row in other.summary.arms} for other in (one, first))
    unlike = not any(name in known for name, known in zip((first.arm, one.arm), ids, strict=True))
    alone = all(sum(row.quant == _quant(one) for row in other.summary.arms) == 1 for other in (one, first))
    return unlike and alone and _quant(one) == _quant(first) != ""


class _Known(msgspec.Struct, frozen=True):
    """A chosen arm, looked up."""

    state: State
    floor: float | None
    arm: Arm
    judged: Judged
    session: str
    name: str


def _known(one: Chosen) -> _Known:
    arm = next((arm for arm in one.state.arms.values() if one.arm in (arm.id, clean(arm.id, 80))), None)
    judged = next((row for row in one.summary.arms if arm is not None and row.id == clean(arm.id, 80)), None)
    if arm is None or judged is None:
        where = f" in {clean(one.session, 80)}" if one.session else ""
        there = ", ".join(row.id for row in one.summary.arms)
        raise ValueError(f"{clean(one.arm, 80)}: no such arm{where}: there are {there}")
    return _Known(one.state, one.summary.floor, arm, judged, one.session, judged.id)


def _named(one: _Known, place: int, sessions: int) -> _Known:
    return one if sessions < 2 else msgspec.structs.replace(one, name=f"{letter(place)}:{one.name}")


def letter(place: int) -> str:
    """A session's letter: A … Z, then A1, B1, …"""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def _side(one: _Known) -> Side:
    judged, speed, quality = one.judged, one.judged.decode, one.arm.perplexity()
    known = answers(one.arm)
    checked = [answer.correct for answer in known.values() if answer.correct is not None]
    return Side(
        name=one.name,
        arm=judged.id,
        session=clean(one.session, 80),
        quant=judged.quant,
        outcome=judged.outcome,
        bytes=judged.bytes,
        bits_per_weight=judged.bits_per_weight,
        tok_s=speed.tok_s if speed else None,
        radius=speed.radius if speed else None,
        repetitions=speed.n if speed else 0,
        tainted=judged.tainted,
        rate=_rate(one.arm),
        perplexity=quality[0] if quality else None,
        chunks=len(one.arm.chunks),
        planned=one.arm.chunks_planned,
        right=sum(checked),
        checked=len(checked),
        answers=len(known),
    )


def _rate(arm: Arm) -> Curve | None:
    """Tok/s over the token of the latest attempt that has decoded any."""
    attempt = next((one for one in reversed(arm.attempts) if one.tokens), None)
    if attempt is None:
        return None
    bins = zip(attempt.rate.sums, attempt.rate.counts, strict=True)
    return Curve(tuple(total / count if count else None for total, count in bins), attempt.rate.width)


def _against(first: _Known, other: _Known) -> Against:
    speed, why_speed = _speed(first, other)
    loss, why_loss = _loss(first, other)
    pairs, alone = _answered(answers(first.arm), answers(other.arm))
    return Against(other.name, first.name, speed, why_speed, loss, why_loss, pairs, alone)


# --- speed ----------------------------------------------------------------------------------------------------------


def _speed(first: _Known, other: _Known) -> tuple[Ratio | None, str]:
    """The ratio of the decode speeds, or why there is none."""
    theirs, ours = _repetitions(first.arm), _repetitions(other.arm)
    for one, done in ((first, theirs), (other, ours)):
        if not done:
            return None, f"{one.name} has not decoded"
    turns = in_turns(ours, theirs) if first.state is other.state else []
    found = sequential.mean_sequence(turns or apart(ours, theirs), tuned_for=TUNED_FOR)
    low, high = (math.exp(end) if end is not None else None for end in (found.low, found.high))
    floor = max((one.floor for one in (first, other) if one.floor is not None), default=None)
    tainted = first.judged.tainted or other.judged.tainted
    call = "contaminated" if tainted else _call(low, high, floor)
    return Ratio(math.exp(found.mean), low, high, bool(turns), found.n, floor, call), ""


def _repetitions(arm: Arm) -> list[Repetition]:
    """The decode repetitions whose figures count: of the latest attempt that has any, one that failed only where there
    is no other (as diagnosis.windows.latest has it)."""
    timed = [one for one in arm.attempts if one.decode]
    latest = next((one for one in reversed(timed) if one.failed is None), timed[-1] if timed else None)
    return latest.decode if latest is not None else []


def in_turns(ours: Sequence[Repetition], theirs: Sequence[Repetition]) -> list[float]:
    """ln of the ratio of tok/s for each two repetitions of one number, none unless all such two followed one another,
    as round-robin and abba have them: what the machine did in that moment, it did to both."""
    by_number = {one.unit.index: one for one in theirs}
    pairs = [(one, by_number[one.unit.index]) for one in ours if one.unit.index in by_number]
    order = sorted((one.at, place) for place, pair in enumerate(pairs) for one in pair)
    neighbours = all(a[1] == b[1] for a, b in zip(order[::2], order[1::2], strict=True))
    return [math.log(a.tok_s / b.tok_s) for a, b in pairs] if len(pairs) > 1 and neighbours else []


def apart(ours: Sequence[Repetition], theirs: Sequence[Repetition]) -> list[float]:
    """The same for repetitions that came at other times: as many values as the fewer of the two, each of neighbours'
    means. Of independent values any two may be held against one another: their difference has the spread of both."""
    count = min(len(ours), len(theirs))
    return [a - b for a, b in zip(_grouped(ours, count), _grouped(theirs, count), strict=True)]


def _grouped(done: Sequence[Repetition], count: int) -> list[float]:
    """Mean ln tok/s of `count` groups of neighbours."""
    logs = [math.log(one.tok_s) for one in done]
    edges = [len(logs) * index // count for index in range(count + 1)]
    return [math.fsum(logs[start:end]) / (end - start) for start, end in pairwise(edges)]


def _call(low: float | None, high: float | None, floor: float | None) -> str:
    """What the ratio's interval says beyond the noise: 0.02 for 1/1.02 to 1.02."""
    most = 1 + (floor or 0.0)
    if low is not None and low > most:
        return "faster"
    if high is not None and high < 1 / most:
        return "slower"
    inside = low is not None and high is not None and 1 / most <= low and high <= most
    return "same" if inside else ""


# --- perplexity -----------------------------------------------------------------------------------------------------


def _loss(first: _Known, other: _Known) -> tuple[Loss | None, str]:
    """The difference in perplexity over the common chunks, or why there is none."""
    for one in (first, other):
        if not one.arm.chunks:
            return None, f"{one.name} has scored nothing"
    if why := unlike(first.state, first.arm, other.state, other.arm):
        return None, f"not paired: {why}"
    common = common_chunks(first.arm, other.arm)
    if not common:
        return None, "not paired: no chunk that both have scored"
    theirs, ours = ([arm.chunks[chunk] for chunk in common] for arm in (first.arm, other.arm))
    differences = [(a.nll - b.nll) / a.scored for a, b in zip(ours, theirs, strict=True)]
    population = _population(first, other)
    after = sequential.running(differences, population=population)
    ends = ([one.mean for one in after], [one.low for one in after], [one.high for one in after])
    percents, lows, highs = (tuple(map(_percent, each)) for each in ends)
    found = Loss(
        percent=percents[-1] if percents[-1] is not None else math.inf,
        low=lows[-1],
        high=highs[-1],
        chunks=len(common),
        of_text=population is not None,
        ours=_running(ours),
        theirs=_running(theirs),
        percents=Curve(percents),
        lows=Curve(lows),
        highs=Curve(highs),
    )
    return found, ""


def unlike(a: State, one: Arm, b: State, other: Arm) -> str:
    """Why chunks of one number are not the same tokens in both sessions, "" where they are.

    Two tokenizers of one size are told apart by how many chunks all of the text makes, unless the models' names agree.
    """
    if a is b:
        return ""
    if a.settings.text_sha256 != b.settings.text_sha256 or not a.settings.text_sha256:
        return "the texts differ"
    if a.settings.context != b.settings.context:
        return f"the contexts differ ({a.settings.context} and {b.settings.context} tokens)"
    vocabularies = {arm.file.shape.vocabulary for arm in (one, other) if arm.file is not None}
    whole = one.chunks_planned == other.chunks_planned and a.settings.chunks is None and b.settings.chunks is None
    if len(vocabularies) > 1 or not (a.model == b.model or whole):
        return "the models' tokens differ"
    return ""


def common_chunks(first: Arm, other: Arm) -> list[int]:
    """The chunks that both have scored, as many tokens of each, in the order in which the first scored them."""
    theirs = other.chunks
    return [k for k, one in first.chunks.items() if k in theirs and theirs[k].scored == one.scored]


def _population(first: _Known, other: _Known) -> int | None:
    """How many chunks the common ones were drawn from at random, None where they come in the text's order."""
    known = {paired.population(one.state, one.arm) for one in (first, other)}
    seeds = {one.state.settings.seed for one in (first, other)}
    return known.pop() if len(known) == len(seeds) == 1 else None


def _running(chunks: Sequence[Chunk]) -> Curve:
    """The perplexity after each chunk."""
    scored = np.cumsum([one.scored for one in chunks], dtype=np.float64)
    with np.errstate(over="ignore"):
        values = np.exp(np.cumsum([one.nll for one in chunks]) / scored)
    return Curve(tuple(float(value) for value in values))


def _percent(log_ratio: float | None) -> float | None:
    """ln of a ratio as its difference from one in percent, None for nothing, NaN or beyond what a float holds."""
    return 100 * math.expm1(log_ratio) if log_ratio is not None and log_ratio < 700 else None


# --- answers --------------------------------------------------------------------------------------------------------

CHANGES = ("lost", "gained", "differs", "same")
"""What may become of an item, in the order in which items are listed."""


def answers(arm: Arm) -> dict[str, Answer]:
    """What an arm answered, by `task/item`."""
    return {
        item: Answer(one.text, one.correct, one.expected, one.prompt, len(one.text) in (SHORT, ANSWER), one.spans)
        for item, one in arm.items.items()
    }


def _answered(first: Mapping[str, Answer], other: Mapping[str, Answer]) -> tuple[tuple[Pair, ...], int]:
    """Both answers to each item that both were asked in the same words, those that tell most first; and how many
    answers are left over."""
    common = [item for item in first if item in other and first[item].prompt == other[item].prompt]
    pairs = sorted((pair(item, first[item], other[item]) for item in common), key=lambda one: CHANGES.index(one.change))
    return tuple(pairs), len(first) + len(other) - 2 * len(pairs)


def pair(item: str, first: Answer, other: Answer) -> Pair:
    """Two answers to one item. Where one of them is cut, they part only within what is known of both."""
    known = min(len(first.text), len(other.text)) if first.cut or other.cut else None
    diverges = divergence(first.text[:known], other.text[:known])
    change = "same" if diverges is None else "differs"
    if first.correct is not None and other.correct is not None and first.correct != other.correct:
        change = "lost" if first.correct else "gained"
    return Pair(clean(item, 80), first, other, diverges, change)


def divergence(a: str, b: str) -> int | None:
    """Where two texts part: the place of the first character of the first word that is not the same in both, None
    where the texts are equal.

    What is read as one sign (a letter and its accents, a joined emoji, a flag) is never cut. In a run of letters longer
    than LONGEST_WORD the place is the first character that differs.
    """
    if a == b:
        return None
    place = _common(a, b)
    while place > 0 and (_joins(a, place) or _joins(b, place)):
        place -= 1
    start = place
    while start > 0 and a[start - 1].isalnum():
        start -= 1
    within = a[place : place + 1].isalnum() or b[place : place + 1].isalnum()
    return start if within and place - start <= LONGEST_WORD else place


def _common(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning, by halving."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a.startswith(b[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


_ZWJ = "\u200d"


def _joins(text: str, place: int) -> bool:
    """Whether the character at `place` goes on with the sign before it: most of Unicode's rules for grapheme clusters
    (UAX 29), without Hangul's single letters."""
    if not 0 < place < len(text):
        return False
    char, before = text[place], text[place - 1]
    if before == "\r" and char == "\n":
        return True
    if char == _ZWJ or before == _ZWJ or unicodedata.category(char) in ("Mn", "Me", "Mc"):
        return True
    if "\U0001f3fb" <= char <= "\U0001f3ff":  # skin tones
        return True
    flags = 0
    while flags < place and _is_indicator(text[place - 1 - flags]):
        flags += 1
    return _is_indicator(char) and flags % 2 == 1


def _is_indicator(char: str) -> bool:
    """Whether the character is half a flag."""
    return "\U0001f1e6" <= char <= "\U0001f1ff"


class Shift(msgspec.Struct, frozen=True):
    """A side's answers to a task against the first side's, over the `n` items that both were asked in the same words
    and that can be right or wrong. Shares of one.

    measure: right, or micro-F1 where entities are asked for; `first` and `other` its values over these items. `delta`
    is the other's less the first's, with the 95 % interval that `how` names, for a number of items fixed beforehand.
    lost, gained: items that the first side alone has right, and the other alone; `p` by `test`, `p_holm` corrected
    over all sides of the comparison in this task.
    """

    name: str
    task: str
    measure: str
    n: int
    first: float
    other: float
    delta: float
    low: float
    high: float
    how: str
    lost: int
    gained: int
    p: float
    test: str
    p_holm: float


def shifts(found: Comparison) -> tuple[Shift, ...]:
    """What became of the answers, by task and side. Draws 10,000 resamples for each: for reports, not for a screen that
    follows."""
    made = [_shift(one, task, pairs) for one in found.against for task, pairs in _by_task(one).items()]
    tasks = dict.fromkeys(one.task for one in made)
    corrected: dict[tuple[str, str], float] = {}
    for task in tasks:
        family = [one for one in made if one.task == task]
        ps = tests.holm([one.p for one in family])
        corrected |= {(one.name, task): p for one, p in zip(family, ps, strict=True)}
    return tuple(
        msgspec.structs.replace(one, p_holm=corrected[one.name, task])
        for task in tasks
        for one in made
        if one.task == task
    )


def _by_task(against: Against) -> dict[str, list[Pair]]:
    """The pairs that can be right or wrong, by task, sorted by item: a comparison gives the same figures each time."""
    known: dict[str, list[Pair]] = {}
    for one in sorted(against.answers, key=lambda pair: pair.item):
        if one.first.correct is not None and one.other.correct is not None:
            known.setdefault(one.item.partition("/")[0], []).append(one)
    return known


def _shift(against: Against, task: str, pairs: Sequence[Pair]) -> Shift:
    theirs, ours = (np.array([bool(each.correct) for each in side]) for side in _sides(pairs))
    held = tests.mcnemar(ours, theirs)
    counted = all(one.first.spans is not None and one.other.spans is not None for one in pairs)
    base, other = ([each.spans or (0, 0, 0) for each in side] for side in _sides(pairs))
    found = tests.f1_bootstrap(other, base) if counted else tests.paired_bootstrap(ours, theirs)
    return Shift(
        name=against.name,
        task=task,
        measure="micro-F1" if counted else "right",
        n=len(pairs),
        first=tests.pooled_f1(base) if counted else float(theirs.mean()),
        other=tests.pooled_f1(other) if counted else float(ours.mean()),
        delta=found.delta,
        low=found.low,
        high=found.high,
        how=found.how,
        lost=held.lost,
        gained=held.gained,
        p=tests.f1_p(other, base) if counted else held.p,
        test="bootstrap" if counted else held.test,
        p_holm=1.0,
    )


def _sides(pairs: Sequence[Pair]) -> tuple[list[Answer], list[Answer]]:
    return [one.first for one in pairs], [one.other for one in pairs]


# --- what differs ---------------------------------------------------------------------------------------------------


def _differences(states: Sequence[State], arms: Sequence[_Known]) -> tuple[Difference, ...]:
    """Host, build, model and settings of the sessions, and what the arms themselves ran with, as it came out: each
    where it is not all the same. What all arms of a session have from its settings is said once."""
    found = [
        *_differing("host", [_host(state.host) for state in states]),
        *_differing("build", [_fields(state.build) for state in states]),
        *_differing("settings", [_settings(state) for state in states]),
    ]
    said = {one.name for one in found if one.about == "settings"}
    each = [{name: word(one.judged.settings.get(name)) for name in MATTERS} for one in arms]
    for row in _differing("arm", each):
        own = {(id(one.state), value) for one, value in zip(arms, row.values, strict=True)}
        if row.name not in said or len(own) > len(states):
            found.append(row)
    return tuple(found)


def _differing(about: str, each: Sequence[Mapping[str, str]]) -> list[Difference]:
    names = dict.fromkeys(name for facts in each for name in facts)
    rows = [Difference(about, name, tuple(facts.get(name, ABSENT) for facts in each)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _settings(state: State) -> dict[str, str]:
    """The settings in words, with the model's name, and the digest of each task's items by itself."""
    words = {"model": clean(state.model, 80), **_fields(state.settings)}
    words.pop("digests")
    return words | {f"items of {clean(task, 40)}": clean(digest, 16) for task, digest in state.settings.digests}


def _host(host: Host | None) -> dict[str, str]:
    if host is None:
        return {}
    words = _fields(host)
    words.pop("boot_id")
    for name in ("memory", "memory_limit", "cache"):
        words[name] = size(getattr(host, name))
    words["gpus"] = word(tuple(f"{one.name} {one.driver}".strip() for one in host.gpus))
    return words


def _fields(one: msgspec.Struct | None) -> dict[str, str]:
    """A struct's fields in words."""
    if one is None:
        return {}
    return {name: word(getattr(one, name)) for name in one.__struct_fields__}


def word(value: object, most: int = 120) -> str:
    """A setting as it is shown, in at most so many characters."""
    if value is None or value == () or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return clean(", ".join(word(part, most) for part in value), most)
    return clean(str(value), most)


# --- speed and quality together -------------------------------------------------------------------------------------


def _scatter(sides: Sequence[Side], against: Sequence[Against]) -> Scatter:
    """The sides by tok/s and by perplexity against the first side's."""
    first, points, missing = sides[0], [], []
    for side in sides:
        loss = next((one.loss for one in against if one.name == side.name), None)
        lost = 0.0 if side is first and side.perplexity is not None else loss.percent if loss else None
        if side.tok_s is None or lost is None:
            missing.append(f"{side.name}: no {'speed' if side.tok_s is None else 'common perplexity'}")
            continue
        low, high = (side.tok_s - side.radius, side.tok_s + side.radius) if side.radius is not None else (None, None)
        ends = (loss.low, loss.high) if loss else (None, None)
        points.append(Point(side.name, side.tok_s, lost, low, high, *ends, tainted=side.tainted))
    return Scatter(front(points), f"Δppl % vs {first.name}", tuple(missing))


def front(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points that are numbers, each told whether it is on the front: by what was estimated, not by how sure."""
    known = [one for one in points if math.isfinite(one.tok_s) and math.isfinite(one.quality)]
    believed = [one for one in known if not one.tainted]
    return tuple(
        msgspec.structs.replace(one, front=not one.tainted and not any(beats(other, one) for other in believed))
        for one in known
    )


def beats(a: Point, b: Point) -> bool:
    """Whether `a` is as fast as `b` and loses no more, and is better in one of them."""
    return a.tok_s >= b.tok_s and a.quality <= b.quality and (a.tok_s, a.quality) != (b.tok_s, b.quality)
