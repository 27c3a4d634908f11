"""What a session has found, in figures: one row for each arm, and how long the rest will take.

Pure: derived from the fold on every read. The screen and all reports take their figures from here, so that they
cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from quanttui import session
from quanttui.decide import paired
from quanttui.diagnosis import ceilings, drift, taint, thresholds, verdicts, windows
from quanttui.diagnosis.case import Verdict
from quanttui.diagnosis.taint import Clean
from quanttui.events import Build, Host, TensorGroup
from quanttui.format import clean, clock, significant
from quanttui.state import Arm, Attempt, Repetition, Span, State
from quanttui.stats import divergence, sequential
from quanttui.stats.intervals import mean_sd, median, paired_ratio, wilson
from quanttui.stats.sequential import mean_sequence

REPETITIONS = 8
"""The number of repetitions at which the interval of tok/s is at its best."""

PRECISE = 12
"""About so many repetitions bring the interval of tok/s within 1 %, at a spread of 0.5 %."""

AGAIN = "a key was answered, or a suspend"
"""Why a repetition was done again."""

AGREE = 1.25
"""Two runs agree when the faster one's median is at most this many times the slower one's: adjacent clean runs differed
by up to 1.24 (MBU 0.74 to 0.92 over 8 rounds of Q8_0)."""


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second over the repetitions of one kind in one attempt.

    `tok_s` and `sd` are llama-bench's avg_ts and stddev_ts: mean and standard deviation (n - 1) of the rates of the `n`
    repetitions. `radius`: half-width of the 95 % confidence sequence of the mean, None below five repetitions, and
    where it would reach below 0. `gb_s` (1e9 bytes per second) is active bytes x tok_s, `mbu` that over the ceiling: of
    decode only, and None where the cache holds the weights. `breaks`: session times at which the sweep was resumed
    between two of the repetitions. `clean` is the speed outside of re-reading and CPU
    contention, None where there was neither, nothing else, or something else that contaminated all of it.
    """

    tok_s: float
    tok_s_median: float
    sd: float | None
    n: int
    gb_s: float | None = None
    mbu: float | None = None
    radius: float | None = None
    clean: Clean | None = None
    breaks: tuple[float, ...] = ()


class Depth(msgspec.Struct, frozen=True):
    """The speeds at one of the depths after the first; whether either was contaminated."""

    depth: int
    prompt: Speed | None
    decode: Speed | None
    prompt_tainted: bool = False
    decode_tainted: bool = False


class Quality(msgspec.Struct, frozen=True):
    """Perplexity and its standard error over the chunks so far, out of those planned, and what they were scored with:
    n_batch and n_ubatch in tokens, both of which change its last digits."""

    value: float
    se: float | None
    chunks: int
    chunks_planned: int | None
    running: bool
    batch: int | None = None
    ubatch: int | None = None
    flash_attn: bool | None = None


class Delta(msgspec.Struct, frozen=True):
    """Perplexity against the base arm's in percent, 100 (exp(ln ratio) - 1), paired over the common chunks.

    `percent_error` is one standard error, with the chunk as the unit: right for a number of chunks that was fixed
    beforehand. `low` and `high` are the 95 % confidence sequence, which may be watched; None while it is not known.
    `of_text`: it is about all of this text, whose chunks are drawn at random; otherwise about texts like it.
    `tokens`: llama-perplexity's figures over the same tokens, with the base's exact nll: ln ratio, ratio and difference
    of the perplexities, their errors corrected for covariance; None where the base's nll was not at hand.
    """

    base: str
    percent: float
    percent_error: float | None
    chunks: int
    low: float | None = None
    high: float | None = None
    of_text: bool = False
    tokens: divergence.Divergence | None = None


class Kld(msgspec.Struct, frozen=True):
    """KL divergence from the base's logits over `chunks` chunks: all that their sums tell, as llama-perplexity has it.

    `low` and `high`: 95 % confidence sequence of the mean, in nats per token, the chunk as the unit.
    """

    base: str
    chunks: int
    found: divergence.Divergence
    low: float | None
    high: float | None


class Decision(msgspec.Struct, frozen=True):
    """Whether the perplexity lies within the tolerance (a share) of the base's.

    call: within, worse, better, or undecided; `chunks`: after how many. `of`: how many there are. `sure`: the 95 %
    sequence that is shown says so too; where it does not, the call is of a text that is scored to its end, and of that
    text only.
    """

    call: str
    chunks: int
    of: int | None
    tolerance: float
    sure: bool = True


class Energy(msgspec.Struct, frozen=True):
    """Energy of decoding, and the counter that it was read from.

    Both figures are net of `idle_watts`, what the machine took while nothing computed, where that was measured;
    `gross_joules_per_token` is not. `tainted`: the decoding was contaminated, and no ranking may count them.
    """

    joules_per_token: float | None
    tok_s_per_w: float | None
    source: str
    gross_joules_per_token: float | None = None
    idle_watts: float | None = None
    tainted: bool = False


class Placed(msgspec.Struct, frozen=True):
    """Where llama.cpp says that the model lies, and what the driver counts of it.

    `layers` of all `of` are offloaded. `reserved` bytes on devices for weights, KV cache and buffers by llama.cpp's own
    words, `counted` by which the memory in use grew; `gap` is the difference as a share of `reserved`. None where one
    is not known. `doubtful`: the gap is larger than it should be.
    """

    layers: int
    of: int
    reserved: float | None = None
    counted: float | None = None
    gap: float | None = None
    doubtful: bool = False


class Score(msgspec.Struct, frozen=True):
    """Answers to the items of a task: how many there are, how many of those that have a check are right, and how many
    were cut off because they became too long. `low` and `high`: 95 % interval of the share right (Wilson)."""

    task: str
    answers: int
    planned: int
    right: int
    checked: int
    cut: int
    low: float | None = None
    high: float | None = None


class ArmSummary(msgspec.Struct, frozen=True):
    """One arm. Text in it is clean; a figure that is not known is None.

    `outcome` is planned, running, or one of events.OUTCOMES; `attempt` the latest one's number, 0 before the first.
    `bytes` is an estimate while the file is to be made. `tainted`: the decode figures are contaminated. `pinned`: the
    arm is running, whatever the rows are sorted by. `ghost`: its weights are random, it has no quality.
    """

    id: str
    quant: str
    outcome: str
    error: str
    attempt: int
    bytes: int | None
    bits_per_weight: float | None
    tensor_types: dict[str, int]
    label_note: str
    settings: dict[str, int | str | bool | None]
    prompt: Speed | None
    decode: Speed | None
    perplexity: Quality | None
    delta: Delta | None
    peak_memory: dict[str, dict[str, float | None]]
    energy: Energy | None
    reproduced: str
    verdicts: tuple[Verdict, ...]
    tainted: bool
    pinned: bool
    kv: str = ""
    kld: Kld | None = None
    decision: Decision | None = None
    deeper: tuple[Depth, ...] = ()
    disturbed: int = 0
    drift: float | None = None
    placed: Placed | None = None
    scores: tuple[Score, ...] = ()
    ghost: bool = False


class Summary(msgspec.Struct, frozen=True):
    """A session, its arms in the plan's order. `base` is the arm that perplexities are held against, "" without one.

    `floor`: the A/A floor, the session's own noise as a share of tok/s (diagnosis.drift), None where it is not known.
    `thriftiest`: the arm with the most tok/s per watt of those whose figure may be believed, "" without any.
    """

    model: str
    host: Host | None
    build: Build | None
    notes: tuple[str, ...]
    base: str
    arms: tuple[ArmSummary, ...]
    floor: float | None = None
    thriftiest: str = ""


class Known:
    """What was found of the arms of one session that do not run: it stays so until an event concerns them.

    With it a summary costs as much as the arms that changed. It holds for every state of the session's log, whichever
    way it came about, for it goes by the numbers of events.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[tuple[object, ...], ArmSummary]] = {}
        self._alone: dict[str, tuple[tuple[object, ...], ArmSummary]] = {}
        self._parts: dict[str, tuple[tuple[object, ...], verdicts.Parts]] = {}
        self._shared: tuple[State, int, tuple[object, ...]] | None = None

    def arm(self, state: State, arm: Arm, base: Arm | None, over: bool) -> ArmSummary:
        """The arm's summary."""
        if arm.outcome == "running":
            return _judged(state, arm, _alone(state, arm, base, over))
        if self._shared is None or self._shared[0] is not state or self._shared[1] != state.n:
            self._shared = state, state.n, _shared(state)
        key = arm.changed, base.changed if base is not None else None, over, self._shared[2]
        kept = self._found.get(arm.id)
        if kept is None or kept[0] != key:
            alone = self._alone_of(state, arm, base, over)
            kept = self._found[arm.id] = key, _judged(state, arm, alone, self._parts_of(state, arm))
        return kept[1]

    def _alone_of(self, state: State, arm: Arm, base: Arm | None, over: bool) -> ArmSummary:
        """What is known of the arm whatever became of others meanwhile: seeking finds it again."""
        key = arm.changed, base.changed if base is not None else None, over, state.settings, len(state.resumed)
        kept = self._alone.get(arm.id)
        if kept is None or kept[0] != key:
            kept = key, _alone(state, arm, base, over)
            if arm.attempts:
                self._alone[arm.id] = kept
        return kept[1]

    def _parts_of(self, state: State, arm: Arm) -> verdicts.Parts:
        """What is known of the arm's phases, by the same rule."""
        key = arm.changed, state.settings, state.host, len(state.resumed)
        kept = self._parts.get(arm.id)
        if kept is None or kept[0] != key:
            kept = key, {}
            if arm.attempts:
                self._parts[arm.id] = kept
        return kept[1]


def _shared(state: State) -> tuple[object, ...]:
    """What the summary of one arm takes from the others and from the session: bandwidth measured next to any quant, the
    anchor's rounds, the idle machine, what was asked for. Of what only grows, how much there is."""
    attempts = [attempt for arm in state.arms.values() for attempt in arm.attempts]
    return (
        state.settings,
        state.closed,
        len(state.resumed),
        state.remembered,
        (state.idle.joules, state.idle.seconds) if state.idle is not None else None,
        sum(len(attempt.ceilings) for attempt in attempts),
        sum(len(arm.anchor) for arm in state.arms.values()),
        windows.best_clock(state) if state.host is not None and state.host.gpus else None,
    )


def summarize(state: State, over: bool = False, known: Known | None = None) -> Summary:
    """The session so far.

    Args:
        over: nobody goes on with it, though it was never closed (session.status says interrupted): an arm that was
            running is interrupted, one that was only planned skipped.
        known: what was found before, of the same session.
    """
    base = paired.base_of(state)
    over = over or bool(state.closed)
    made = known.arm if known is not None else Known().arm
    arms = tuple(made(state, arm, base, over) for arm in state.arms.values())
    return Summary(
        model=clean(state.model),
        host=state.host,
        build=state.build,
        notes=_notes(state),
        base=base.id if base else "",
        arms=arms,
        floor=drift.floor(state),
        thriftiest=_thriftiest(arms),
    )


def _notes(state: State) -> tuple[str, ...]:
    """What is to be known of the session as a whole: first whether all of it could be read."""
    newer = session.newer(state)
    told = (*map(clean, state.opened.notes), *differs(state), *ghosts(state), *twins(state)) if state.opened else ()
    return (newer, *told) if newer else told


def _thriftiest(arms: Sequence[ArmSummary]) -> str:
    """The arm with the most tok/s per watt. A tainted figure never wins, nor a ghost beside a model."""
    able = [arm for arm in arms if not arm.ghost] or arms
    known = [(arm.energy.tok_s_per_w, arm.id) for arm in able if _counts(arm) and arm.energy and arm.energy.tok_s_per_w]
    return max(known, key=lambda one: one[0] or 0.0)[1] if len(known) > 1 else ""


def _counts(arm: ArmSummary) -> bool:
    return arm.outcome == "ok" and arm.energy is not None and not arm.energy.tainted


def differs(state: State) -> tuple[str, ...]:
    """A line about each thing that was another one when the sweep was gone on with all the same."""
    return tuple(f"resumed at {clock(t)} with a change: {clean(line)}" for t, line in state.differs)


def broken(speed: Speed | None) -> str:
    """That a speed's repetitions lie on both sides of a break, "" where they do not."""
    if speed is None or not speed.breaks:
        return ""
    when = f"a break at {clock(speed.breaks[0])}"
    if len(speed.breaks) > 1:
        when = f"{len(speed.breaks)} breaks, at {', '.join(map(clock, speed.breaks))}"
    return f"measured across {when}: resumed between its repetitions"


def ghosts(state: State) -> tuple[str, ...]:
    """A line about the arms whose weights are random, where there are any."""
    found = [arm.plan for arm in state.arms.values() if arm.plan.ghost]
    if not found:
        return ()
    own = {(plan.prompt, plan.decode) for plan in found} - {(0, 0)}
    shorter = "; ".join(f"repetitions of {prompt} prompt and {decode} decode tokens" for prompt, decode in sorted(own))
    return (
        f"{', '.join(clean(plan.id, 40) for plan in found)}: ghosts, real shapes with random weights: a speed and a "
        f"memory, never a perplexity{f' ({shorter})' if shorter else ''}",
    )


def twins(state: State) -> tuple[str, ...]:
    """A line for each group of arms that came out as the same tensors: different labels for one quantization."""
    groups: dict[tuple[TensorGroup, ...], list[str]] = {}
    for arm in state.arms.values():
        if arm.file is not None and arm.file.shape.tensors:
            groups.setdefault(arm.file.shape.tensors, []).append(clean(arm.id))
    return tuple(
        f"{', '.join(names[:-1])} and {names[-1]} are the same tensors under other labels: what differs between them "
        "is noise"
        for names in groups.values()
        if len(names) > 1
    )


def peak(arm: ArmSummary) -> float | None:
    """The most memory that the arm ever held, on the host and on devices together, in bytes.

    A mapped file's pages count as held, though they can be dropped; a device's memory is everybody's there.
    """
    each = [(memory["rss"] or 0.0) + (memory["device"] or 0.0) for memory in arm.peak_memory.values()]
    return max(each, default=None) or None


def _alone(state: State, arm: Arm, base: Arm | None, over: bool) -> ArmSummary:
    """What a quant's own results come to, beside the base's: without a verdict, or anything that takes one."""
    outcome, error = _outcome(arm, over)
    file = arm.file
    return ArmSummary(
        id=clean(arm.id, 80),
        quant=clean(paired.quant(arm), 80),
        outcome=outcome,
        error=error,
        attempt=arm.attempt.number if arm.attempt else 0,
        bytes=_bytes(arm),
        bits_per_weight=file.bits_per_weight if file else None,
        tensor_types={clean(name, 40): count for name, count in file.tensor_types.items()} if file else {},
        label_note=clean(file.label_note) if file else "",
        settings=_settings(state, arm),
        prompt=_timed(state, arm, "prompt"),
        decode=_timed(state, arm, "decode"),
        perplexity=_quality(state, arm, outcome),
        delta=_delta(state, arm, base),
        peak_memory=_peaks(arm),
        energy=None,
        reproduced="",
        verdicts=(),
        tainted=False,
        pinned=outcome == "running",
        kv=clean(arm.plan.kv, 20),
        kld=_kld(state, arm),
        decision=_decision(state, arm, base),
        deeper=(),
        disturbed=arm.attempt.disturbed if arm.attempt else 0,
        placed=_placed(state, arm),
        scores=_scores(arm),
        ghost=arm.plan.ghost,
    )


def _judged(state: State, arm: Arm, alone: ArmSummary, known: verdicts.Parts | None = None) -> ArmSummary:
    """The same with its verdicts, which take what was measured next to any quant."""
    judged = verdicts.of_arm(state, arm, known=known)
    is_tainted = tainted(judged, "decode")
    return msgspec.structs.replace(
        alone,
        decode=_decode(state, arm, alone.decode, judged),
        energy=_energy(state, arm, alone.decode, is_tainted),
        reproduced=_reproduced(arm, is_tainted),
        verdicts=judged,
        tainted=is_tainted,
        deeper=_deeper(state, arm),
        drift=drift.of(state, arm),
    )


def _scores(arm: Arm) -> tuple[Score, ...]:
    found = []
    for task, planned in arm.items_planned.items():
        answers = [one for one in arm.items.values() if one.unit.task == task]
        checked = [one.correct for one in answers if one.correct is not None]
        low, high = wilson(sum(checked), len(checked)) if checked else (None, None)
        cut = sum(one.stopped in ("length", "context") for one in answers)
        found.append(Score(clean(task, 40), len(answers), planned, sum(checked), len(checked), cut, low, high))
    return tuple(found)


def tainted(judged: Iterable[Verdict], phase: str) -> bool:
    """Whether the figures of a phase are contaminated, by a verdict on it or on the whole arm."""
    return any(one.kind == "contaminated" and one.phase in (phase, "") for one in judged)


def _bytes(arm: Arm) -> int | None:
    return arm.file.bytes if arm.file else arm.plan.bytes


def _outcome(arm: Arm, over: bool) -> tuple[str, str]:
    outcome = clean(arm.outcome, 20)
    if over and outcome == "running":
        return "interrupted", "the sweep ended before this arm did: go on with quanttui run --resume"
    if over and outcome == "planned":
        return "skipped", "the sweep ended before this arm began: go on with quanttui run --resume"
    failed = next((one.failed for one in reversed(arm.attempts) if one.failed), None)
    return outcome, clean(failed.error) if failed and outcome not in ("ok", "running") else ""


def _settings(state: State, arm: Arm) -> dict[str, int | str | bool | None]:
    """What the arm ran with: as asked, and as it came out where the engine said."""
    asked, attempt = state.settings, arm.attempt
    loaded = attempt.loaded if attempt else None
    contexts = attempt.contexts if attempt else {}
    context = next((contexts[phase] for phase in ("decode", "prompt", "perplexity") if phase in contexts), None)
    resolved = context.flash_attn if context else None
    return {
        "depth": asked.depths[0],
        "kv": clean(arm.plan.kv or asked.kv, 40),
        "gpu_layers_asked": asked.gpu_layers,
        "gpu_layers": loaded.gpu_layers if loaded else None,
        "batch": asked.batch,
        "ubatch": asked.ubatch,
        "flash_attn": clean(asked.flash_attn, 40) if resolved is None else resolved,
        "imatrix": clean((arm.file.imatrix if arm.file else "") or arm.plan.imatrix) or None,
        "threads": (loaded.threads if loaded else 0) or asked.threads,
    }


def _speed(done: list[Repetition], resumed: Sequence[float] = ()) -> Speed:
    """The speed over these repetitions; `resumed`: when the sweep was gone on with."""
    rates = [one.tok_s for one in done]
    mean, sd = mean_sd(rates)
    radius = mean_sequence(rates, tuned_for=REPETITIONS).radius
    known = radius is not None and radius < mean
    begun = [one.at for one in done]
    breaks = tuple(t for t in resumed if min(begun) < t <= max(begun))
    return Speed(mean, median(rates), sd, len(rates), radius=radius if known else None, breaks=breaks)


def _deeper(state: State, arm: Arm) -> tuple[Depth, ...]:
    if len(state.settings.depths) < 2:
        return ()
    attempt = next((one for one in reversed(arm.attempts) if one.deeper), None)
    if attempt is None:
        return ()
    found = []
    for depth in state.settings.depths[1:]:
        prompt, decode = attempt.at_depth("prompt", depth), attempt.at_depth("decode", depth)
        if prompt or decode:
            found.append(
                Depth(
                    depth,
                    _speed(prompt, state.resumed) if prompt else None,
                    _speed(decode, state.resumed) if decode else None,
                    _is_tainted_at(state, arm, attempt, "prompt", depth),
                    _is_tainted_at(state, arm, attempt, "decode", depth),
                )
            )
    return tuple(found)


def _is_tainted_at(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int) -> bool:
    return any(one.kind == "contaminated" for one in verdicts.at_depth(state, arm, attempt, kind, depth))


def _timed(state: State, arm: Arm, kind: str) -> Speed | None:
    attempt = windows.latest(arm, kind)
    return _speed(attempt.repetitions(kind), state.resumed) if attempt else None


_OUTSIDE = ("swap-contaminated", "page-in-thrash", "cpu-contention", "settling")
"""What a clean-only speed lies outside of. Other contamination has no stretches that could be left out."""


def _decode(state: State, arm: Arm, speed: Speed | None, judged: Iterable[Verdict]) -> Speed | None:
    """The speed of decoding with the share of the bandwidth that it takes, and what it is without contamination."""
    attempt = windows.latest(arm, "decode")
    if attempt is None or speed is None:
        return None
    against = windows.bounds(state, arm, attempt, "decode")
    if against is None or against.active <= 0:
        return speed
    bad = {one.code for one in judged if one.kind == "contaminated" and one.phase in ("decode", "")}
    if bad and bad <= set(_OUTSIDE):
        found = taint.of(state, arm, attempt, "decode", against, thresholds.of(state.settings))
        speed = msgspec.structs.replace(speed, clean=found.clean)
    gb_s = against.active * speed.tok_s / 1e9
    # What the cache holds does not come over the memory bus: it would be a share of nothing, 145 % at times.
    ceiling = against.ceiling.gb_s if against.ceiling and against.cache is None else None
    return msgspec.structs.replace(speed, gb_s=gb_s, mbu=gb_s / ceiling if ceiling else None)


def _placed(state: State, arm: Arm) -> Placed | None:
    """Layers and memory by llama.cpp and by the driver, where layers are on a device."""
    attempt = arm.attempt
    if attempt is None or attempt.loaded is None or not attempt.loaded.gpu_layers:
        return None
    loaded = attempt.loaded
    held = float(sum(size for name, size in loaded.buffers.items() if ceilings.device_of(name) != "cpu"))
    contexts = [(one.kv_bytes or 0) + (one.compute_bytes or 0) for one in attempt.contexts.values()]
    reserved = held + max(contexts, default=0) if held else None
    before = [value for name, value in attempt.before.items() if name.endswith(".mem_used")]
    if state.settings.schedule != "sequential":
        before = []  # other quants are loaded in between, and nobody tells whose memory is whose
    most = max((peak.device for peak in attempt.peaks.values() if peak.device is not None), default=None)
    counted = most - sum(before) if most is not None and before else None
    if reserved is None or counted is None:
        return Placed(loaded.gpu_layers, loaded.layers, reserved, counted)
    gap = abs(counted - reserved) / reserved
    doubtful = gap > thresholds.of(state.settings).unaccounted
    return Placed(loaded.gpu_layers, loaded.layers, reserved, counted, gap, doubtful)


def _quality(state: State, arm: Arm, outcome: str) -> Quality | None:
    found = arm.perplexity()
    if found is None:
        return None
    chunks = len(arm.chunks)
    running = outcome == "running" and arm.chunks_planned is not None and chunks < arm.chunks_planned
    made = next((one.contexts["perplexity"] for one in arm.attempts if "perplexity" in one.contexts), None)
    batch, ubatch, flash_attn = (made.n_batch, made.n_ubatch, made.flash_attn) if made else (None, None, None)
    return Quality(found[0], found[1], chunks, arm.chunks_planned, running, batch, ubatch, flash_attn)


def _delta(state: State, arm: Arm, base: Arm | None) -> Delta | None:
    if base is None or arm is base:
        return None
    common = [
        (ours.scored, ours.nll, theirs.nll)
        for chunk, ours in sorted(arm.chunks.items())
        if (theirs := base.chunks.get(chunk)) is not None and theirs.scored == ours.scored
    ]
    if not common:
        return None
    scored, ours_nll, base_nll = zip(*common, strict=True)
    log_ratio, error = paired_ratio(scored, ours_nll, base_nll)
    ratio = math.exp(log_ratio)
    percent_error = None if error is None else 100 * ratio * error
    watched = paired.difference(state, arm, base)
    exact = arm.exact.sums if arm.exact.base == base.id and arm.exact.sums.scored else None
    return Delta(
        base=clean(base.id, 80),
        percent=100 * (ratio - 1),
        percent_error=percent_error,
        chunks=len(common),
        low=_percent(watched.low) if watched else None,
        high=_percent(watched.high) if watched else None,
        of_text=paired.population(state, arm) is not None,
        tokens=divergence.from_sums(exact) if exact else None,
    )


def _percent(log_ratio: float | None) -> float | None:
    return None if log_ratio is None else 100 * math.expm1(log_ratio)


def _kld(state: State, arm: Arm) -> Kld | None:
    watched = paired.divergence(state, arm)
    if watched is None:
        return None
    found = divergence.from_sums(arm.rows.sums)
    return Kld(clean(arm.rows.base, 80), watched.n, found, watched.low, watched.high)


def _decision(state: State, arm: Arm, base: Arm | None) -> Decision | None:
    """The call on an arm that has chunks in common with the base; none on the base itself."""
    if base is None or arm is base or not arm.chunks:
        return None
    found = paired.call(state, arm, base)
    if not found.chunks:
        return None
    watched, tolerance = paired.difference(state, arm, base), state.settings.tolerance
    sure = watched is not None and sequential.decide(watched.low, watched.high, tolerance) == found.call
    return Decision(found.call or "undecided", found.chunks, arm.chunks_planned, tolerance, sure)


def _peaks(arm: Arm) -> dict[str, dict[str, float | None]]:
    """The most that any attempt held in each phase, in bytes."""
    found: dict[str, dict[str, float | None]] = {}
    for attempt in arm.attempts:
        for phase, one in attempt.peaks.items():
            known = found.setdefault(phase, {"rss": None, "anonymous": None, "device": None})
            for name, value in (("rss", one.rss), ("anonymous", one.anonymous), ("device", one.device)):
                before = known[name]
                known[name] = value if before is None or (value is not None and value > before) else before
    return found


def _energy(state: State, arm: Arm, speed: Speed | None, is_tainted: bool) -> Energy | None:
    attempt = windows.latest(arm, "decode")
    counted = attempt.energy.get("decode") if attempt else None
    if speed is None or counted is None:
        return None
    if counted.seconds <= 0 or counted.joules <= 0:
        return Energy(None, None, clean(counted.source), tainted=is_tainted)
    watts, idle = counted.joules / counted.seconds, state.idle
    rate = speed.tok_s
    resting = idle.joules / idle.seconds if idle and idle.seconds > 0 and idle.source == counted.source else None
    net = watts - (resting or 0.0)
    if net <= 0:  # a machine that rests at more than this was not at rest
        net, resting = watts, None
    return Energy(net / rate, rate / net, clean(counted.source), watts / rate, resting, is_tainted)


def _reproduced(arm: Arm, is_tainted: bool) -> str:
    """Whether running the arm again in a fresh process gave the same decode speed: "" where it was run once. A
    contaminated speed that comes again is still none of the quant's."""
    over = [one for one in arm.attempts if one.done or one.failed]
    if len(over) < 2:
        return ""
    medians = [median([r.tok_s for r in one.decode]) if one.decode else None for one in over]
    known = [one for one in medians if one is not None]
    if not known:
        return ""
    if len(known) == len(over) and max(known) <= AGREE * min(known):
        return f"reproduced {len(over)}/{len(over)}{'*' if is_tainted else ''}"
    if len(known) == len(over):
        return f"1/{len(over)}: {' then '.join(significant(rate) for rate in known)} tok/s"
    each = [_attempt_words(one, rate) for one, rate in zip(over, medians, strict=True)]
    return f"1/{len(over)}: {' then '.join(each)}"


def _attempt_words(attempt: Attempt, rate: float | None) -> str:
    if rate is not None:
        return f"{significant(rate)} tok/s"
    return clean(attempt.failed.outcome, 20) if attempt.failed else "no decode"


# How long the rest will take.

_PER_BYTE = ("quantize", "load", "decode")
"""Phases whose time goes with the file's size. A prompt and a perplexity are compute: they go with their units only."""

_GONE_ON_WITH = ("prompt", "decode", "perplexity", "task")
"""Phases of units, which a turn of another arm or a pause may cut into many spans. Others are whole in each span."""

_WAITS = ("cool", "paused")
"""Phases in which nothing is done."""

_OF_AN_ARM = ("quantize", "hash", "load", "bandwidth", "warm", *_GONE_ON_WITH)
"""Phases that each arm goes through: rounds of the anchor and pauses belong to the sweep."""

_Key = tuple[str, str, int, int]
"""Arm, phase, attempt, and which span it is where each is whole (0 otherwise)."""


class _Stretch(msgspec.Struct):
    """One phase of one attempt of an arm, however often a pause or another arm's turn cut it.

    `done` is the share of it, 0 to 1, that took all but the last `since` of its `seconds`: a unit tells of itself at
    its end only, save for the tokens of a decode. `latest` is when its last span began.
    """

    arm: Arm
    phase: str
    attempt: int
    latest: float
    seconds: float = 0.0
    units: int | None = None
    failed: bool = False
    done: float = 1.0
    since: float = 0.0

    @property
    def whole(self) -> float:
        """Seconds that all of it takes, going by the share that is done."""
        return (self.seconds - self.since) / self.done


def eta(state: State) -> float | None:
    """Seconds that the rest of the sweep takes, going by what phases took so far, by units and bytes.

    None until every phase that the settings ask for was seen, if only in part, and once the session is closed.
    Where `at_most` says so, it is the longest that it may take.
    """
    if state.closed or not state.arms:
        return None
    stretches = _stretches(state)
    paces = _paces(stretches.values())
    if any((phase, None) not in paces for phase in _asked(state)):
        return None
    now = _under_way(state)
    left = _rounds_left(state) * paces.get(("anchor", None), 0.0)
    for arm in state.arms.values():
        for phase in _OF_AN_ARM:
            left += (_takes(arm, phase, paces) or 0.0) * _left(state, arm, phase, stretches, now)
    return left + (_phase_left(state, stretches)[1] or 0.0)


def at_most(state: State) -> bool:
    """Whether what is left may turn out less: arms whose perplexity is undecided may be decided before all chunks."""
    return state.settings.until == "decided" and "perplexity" in _asked(state) and any(
        arm.outcome in ("planned", "running") and _chunks_left(state, arm) for arm in state.arms.values()
    )


def phase_left(state: State) -> tuple[float, float | None]:
    """How far the phase under way is, 0 to 1, and the seconds that it still takes, None until that is known.

    A pause to cool counts as part of the phase that it interrupts, but not its time.
    """
    return _phase_left(state, _stretches(state))


def share_done(state: State, arm: Arm, phase: str) -> float:
    """How much of a phase of an arm's latest attempt is done, 0 to 1: under way, over, or waiting for its turn."""
    now = _under_way(state)
    if now is not None and now[:2] == (arm.id, phase):
        return phase_left(state)[0]
    attempt = arm.attempt
    if attempt is None:
        return 0.0
    if phase == "perplexity":
        planned = arm.chunks_planned or 0
        over = bool(arm.chunks) and (arm.outcome not in ("planned", "running") or not _chunks_left(state, arm))
        return 1.0 if over else min(1.0, len(arm.chunks) / planned) if planned else 0.0
    if phase == "task":
        return _answered(arm)
    if phase in ("prompt", "decode"):
        return _timed_share(state, attempt, phase, here=False)
    return 1.0 if attempt.loaded is not None else 0.0


def _phase_left(state: State, stretches: dict[_Key, _Stretch]) -> tuple[float, float | None]:
    key = _under_way(state)
    if key is None:
        return 0.0, None
    now = stretches[key]
    if now.done > 0:
        return now.done, max(0.0, now.whole - now.seconds)
    whole = _takes(now.arm, now.phase, _paces(stretches.values()))
    return 0.0, None if whole is None else max(0.0, whole - now.seconds)


def _asked(state: State) -> list[str]:
    """The phases that every arm goes through by the settings: those of a quality only where not all are ghosts."""
    settings, scored = state.settings, bool(paired.scored(state))
    speed = "speed" in settings.tasks and settings.repetitions > 0
    asked = {
        "load": True,
        "prompt": speed and settings.prompt > 0,
        "decode": speed and settings.decode > 0,
        "perplexity": scored and bool({"ppl", "kld"} & set(settings.tasks)) and settings.chunks != 0,
        "task": scored and "prompts" in settings.tasks,
    }
    return [phase for phase, wanted in asked.items() if wanted]


def _under_way(state: State) -> _Key | None:
    """The phase that is under way, or that a pause interrupts: one after a round of the anchor interrupts none."""
    if state.span is None:
        return None
    for place in range(len(state.spans) - 1, -1, -1):
        span = state.spans[place]
        if span.phase not in _WAITS and span.arm in state.arms:
            return None if span.phase == "anchor" and span.end is not None else _key(span, place)
    return None


def _key(span: Span, place: int) -> _Key:
    return span.arm, span.phase, span.attempt, 0 if span.phase in _GONE_ON_WITH else place + 1


def _stretches(state: State) -> dict[_Key, _Stretch]:
    found: dict[_Key, _Stretch] = {}
    for place, span in enumerate(state.spans):
        arm = state.arms.get(span.arm)
        if span.phase in _WAITS or arm is None:
            continue
        key = _key(span, place)
        one = found.get(key)
        if one is None:
            one = found[key] = _Stretch(arm, span.phase, span.attempt, span.start)
        one.latest = span.start
        one.seconds += (state.t if span.end is None else span.end) - span.start
        one.units = one.units or span.units
        one.failed = bool(span.error)
    key_now = _under_way(state)
    for key, one in found.items():
        if key != key_now and one.phase in _GONE_ON_WITH and not one.failed:
            one.done = _share_over(state, one)
    if key_now is not None:
        now = found[key_now]
        now.done = _share_done(state, now)
        end = state.t if state.phase == now.phase else state.spans[-1].start
        now.since = min(now.seconds, max(0.0, end - max(now.latest, _told(state, now, end))))
    return found


def _told(state: State, now: _Stretch, end: float) -> float:
    """When the share done was told last, in session time: the end of the last unit, `end` where tokens tell."""
    if state.running is not None and state.running.tokens:
        return end
    if now.phase == "perplexity":
        latest = max((chunk.at for chunk in now.arm.chunks.values()), default=end)
        return latest + sum(chunk.ns for chunk in now.arm.chunks.values() if chunk.at == latest) / 1e9
    if now.phase == "task":
        return max((one.until for one in now.arm.items.values()), default=end)
    attempt = _numbered(now)
    done = [*attempt.repetitions(now.phase), *attempt.deeper] if attempt and now.phase in ("prompt", "decode") else []
    if now.phase == "anchor":
        done = [one for one in now.arm.anchor if one.at >= now.latest]
    return max((one.at + one.ns / 1e9 for one in done), default=end)


def _numbered(now: _Stretch) -> Attempt | None:
    return next((one for one in now.arm.attempts if one.number == now.attempt), None)


def _share_done(state: State, now: _Stretch) -> float:
    """The share of the phase under way that is done, by its units; 0 where nothing tells."""
    if now.phase in ("quantize", "hash", "load"):
        return min(1.0, max(0.0, state.progress or 0.0))
    if now.phase == "perplexity":
        planned = now.arm.chunks_planned or 0
        return min(1.0, len(now.arm.chunks) / planned) if planned > 0 else 0.0
    if now.phase == "task":
        return _answered(now.arm)
    if now.phase == "anchor":
        done = [one for one in now.arm.anchor if one.at >= now.latest]
        seconds = sum(one.ns for one in done) / 1e9
        return min(1.0, len(done) / drift.ROUND_REPETITIONS, seconds / drift.ROUND_SECONDS)
    attempt = _numbered(now)
    if now.phase not in ("prompt", "decode") or attempt is None or not now.units:
        return 0.0
    return _timed_share(state, attempt, now.phase, here=True, units=now.units)


def _share_over(state: State, one: _Stretch) -> float:
    """The share of a phase of units that is not under way now: it may be gone on with, or begin again deeper."""
    attempt = _numbered(one)
    if one.phase == "perplexity":
        planned = one.arm.chunks_planned or 0
        return min(1.0, len(one.arm.chunks) / planned) if planned else 1.0
    if one.phase == "task":
        return _answered(one.arm)
    return _timed_share(state, attempt, one.phase, here=False) if attempt else 1.0


def _answered(arm: Arm) -> float:
    """The share of the tasks' items that an arm has answered; 0 while it is not known how many there are."""
    planned = sum(arm.items_planned.values())
    return min(1.0, len(arm.items) / planned) if planned else 0.0


def _timed_share(state: State, attempt: Attempt, kind: str, here: bool, units: int | None = None) -> float:
    """The share of an attempt's repetitions of one kind, all depths alike.

    In a sequential sweep a test that is not under way is over as soon as it has repetitions.
    """
    depths, wanted = state.settings.depths, units or state.settings.repetitions
    counts = [attempt.count(kind, depth) for depth in depths]
    begun = max((place for place, count in enumerate(counts) if count), default=-1)
    running = state.running.unit if state.running else None
    if here and running is not None and running.kind == kind and running.depth in depths:
        begun = max(begun, depths.index(running.depth))
    shares = []
    for place, depth in enumerate(depths):
        over = state.settings.schedule == "sequential" and (place < begun or not here)
        shares.append(float(counts[place] > 0) if over else _test_share(state, attempt, kind, depth, wanted))
    return sum(shares) / len(shares) if shares else 1.0


def _test_share(state: State, attempt: Attempt, kind: str, depth: int, wanted: int) -> float:
    """The share of one test: of its repetitions, of the evidence that a decode needs, of the precision asked for.

    An interval narrows with the root of the repetitions; its time is bounded.
    """
    settings, done = state.settings, attempt.at_depth(kind, depth)
    units, running = float(len(done)), state.running
    if running and running.unit.tokens and (running.unit.kind, running.unit.depth) == (kind, depth):
        arm = state.arms.get(running.unit.arm)
        mine = arm is not None and any(one is attempt and one.number == running.unit.attempt for one in arm.attempts)
        units += running.tokens / running.unit.tokens if mine else 0.0
    share = min(1.0, units / wanted) if wanted > 0 else 1.0
    if kind != "decode" or wanted < thresholds.of(state.settings).repetitions:
        return share
    seconds = sum(one.ns for one in done) / 1e9
    share = min(share, seconds / thresholds.of(state.settings).seconds)
    if settings.precision <= 0:
        return share
    speed = _speed(done) if done else None
    if speed is None or speed.radius is None:
        near = len(done) / PRECISE
    else:
        near = (settings.precision * speed.tok_s / speed.radius) ** 2 if speed.radius else 1.0
    spent = seconds / settings.speed_seconds if settings.speed_seconds > 0 else 1.0
    return min(share, max(near, spent))


_Pace = tuple[str, "bool | None"]
"""A phase, and of which arms: ghosts, models, or (None) whichever."""


def _paces(stretches: Iterable[_Stretch]) -> dict[_Pace, float]:
    """Seconds that each phase takes for a unit of work, the phase under way by its part that is done: over ghosts and
    over what is none, which may be of quite another size; and for an arm, whichever it is."""
    seconds: dict[_Pace, float] = {}
    work: dict[_Pace, float] = {}
    for one in stretches:
        if one.failed or one.done <= 0:
            continue
        for key, each in (((one.phase, one.arm.plan.ghost), _work(one.arm, one.phase)), ((one.phase, None), 1.0)):
            seconds[key] = seconds.get(key, 0.0) + one.seconds - one.since
            work[key] = work.get(key, 0.0) + one.done * each
    return {key: seconds[key] / work[key] for key in work}


def _takes(arm: Arm, phase: str, paces: dict[_Pace, float]) -> float | None:
    """Seconds that a phase takes of an arm, by others of its kind, without any by all; None where none was seen."""
    pace = paces.get((phase, arm.plan.ghost))
    return pace * _work(arm, phase) if pace is not None else paces.get((phase, None))


def _work(arm: Arm, phase: str) -> float:
    return float(_bytes(arm) or 1) if phase in _PER_BYTE else 1.0


def _left(state: State, arm: Arm, phase: str, stretches: dict[_Key, _Stretch], now: _Key | None) -> float:
    """The share of an arm's phase that is still to come, what is under way left out."""
    if arm.plan.ghost and phase in ("perplexity", "task"):
        return 0.0
    if arm.outcome == "planned":
        return _chunks_left(state, arm) if phase == "perplexity" else float(phase != "quantize" or not arm.plan.file)
    if arm.outcome != "running":
        return 0.0
    number = arm.attempt.number if arm.attempt else 1
    if now is not None and now[:3] == (arm.id, phase, number):
        return 0.0
    if phase == "perplexity":
        return _chunks_left(state, arm) if number == 1 else 0.0
    if phase == "task":
        return 1.0 - _answered(arm) if number == 1 else 0.0
    if phase in _GONE_ON_WITH:
        known = stretches.get((arm.id, phase, number, 0))
        return 1.0 - known.done if known else 1.0
    return float(phase != "quantize" and not any(key[:3] == (arm.id, phase, number) for key in stretches))


def _chunks_left(state: State, arm: Arm) -> float:
    """The share of the text's chunks that an arm may still have to score: all that are missing, none once decided.

    A deciding sweep scores the base as long as any other arm is undecided.
    """
    if arm.plan.ghost:
        return 0.0
    planned = arm.chunks_planned
    left = 1.0 if not planned else max(0.0, 1 - len(arm.chunks) / planned)
    base = paired.planned_base(state) if state.settings.until == "decided" else None
    if base is None or len(paired.scored(state)) < 2:
        return left
    if arm is not base:
        return 0.0 if paired.call(state, arm, base).call else left
    others = [one for one in paired.scored(state) if one is not base and one.outcome in ("planned", "running")]
    return left if any(not paired.call(state, one, base).call for one in others) else 0.0


def _rounds_left(state: State) -> int:
    """How many rounds of the anchor are still to come: one after every few arms, one at the end."""
    if drift.anchor(state) is None or not drift.rounds(state):
        return 0
    unmeasured = sum(
        arm.outcome in ("planned", "running") and not (arm.attempt and arm.attempt.decode)
        for arm in state.arms.values()
    )
    return -(-unmeasured // state.settings.anchor)
