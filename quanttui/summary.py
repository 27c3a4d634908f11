"""What a session has found, in figures: one row for each arm, and how long the rest will take.

Pure: derived from the fold on every read. The screen and all reports take their figures from here, so that they
cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from quanttui.diagnosis import verdicts, windows
from quanttui.diagnosis.verdicts import Verdict
from quanttui.events import Build, Host, TensorGroup
from quanttui.format import clean, significant
from quanttui.state import Arm, Attempt, Repetition, State
from quanttui.stats.intervals import mean_sd, median, paired_ratio

UNQUANTIZED = ("F32", "F16", "BF16")
"""Quants that others are measured against where they are among the arms."""

AGREE = 1.25
"""Two runs agree when the faster one's median is at most this many times the slower one's: adjacent clean runs differed
by up to 1.24 (MBU 0.74 to 0.92 over 8 rounds of Q8_0)."""


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second over the repetitions of one kind in one attempt.

    `tok_s` and `sd` are llama-bench's avg_ts and stddev_ts: mean and standard deviation (n - 1) of the rates of the `n`
    repetitions. `gb_s` (1e9 bytes per second) is active bytes x tok_s, `mbu` that over the ceiling: of decode only, and
    None where the cache holds the weights.
    """

    tok_s: float
    tok_s_median: float
    sd: float | None
    n: int
    gb_s: float | None = None
    mbu: float | None = None


class Quality(msgspec.Struct, frozen=True):
    """Perplexity and its standard error over the chunks so far, out of those planned."""

    value: float
    se: float | None
    chunks: int
    chunks_planned: int | None
    running: bool


class Delta(msgspec.Struct, frozen=True):
    """Perplexity against the base arm's in percent, 100 (exp(ln ratio) - 1), paired over the common chunks.

    `percent_error` is one standard error, with the chunk as the unit.
    """

    base: str
    percent: float
    percent_error: float | None
    chunks: int


class Energy(msgspec.Struct, frozen=True):
    """Energy of decoding, and the counter that it was read from."""

    joules_per_token: float | None
    tok_s_per_w: float | None
    source: str


class ArmSummary(msgspec.Struct, frozen=True):
    """One arm. Text in it is clean; a figure that is not known is None.

    `outcome` is planned, running, or one of events.OUTCOMES; `attempt` the latest one's number, 0 before the first.
    `bytes` is an estimate while the file is to be made. `tainted`: the decode figures are contaminated. `pinned`: the
    arm is running, whatever the rows are sorted by.
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


class Summary(msgspec.Struct, frozen=True):
    """A session, its arms in the plan's order. `base` is the arm that perplexities are held against, "" without one."""

    model: str
    host: Host | None
    build: Build | None
    notes: tuple[str, ...]
    base: str
    arms: tuple[ArmSummary, ...]


def summarize(state: State, over: bool = False) -> Summary:
    """The session so far.

    Args:
        over: nobody goes on with it, though it was never closed (session.status says interrupted): an arm that was
            running is interrupted, one that was only planned skipped.
    """
    base = base_arm(state)
    over = over or bool(state.closed)
    return Summary(
        model=clean(state.model),
        host=state.host,
        build=state.build,
        notes=(*(clean(note) for note in state.opened.notes), *twins(state)) if state.opened else (),
        base=base.id if base else "",
        arms=tuple(_arm(state, arm, base, over) for arm in state.arms.values()),
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


def base_arm(state: State) -> Arm | None:
    """The arm that perplexities are held against: an unquantized one, else the largest, of those that have chunks."""
    scored = [arm for arm in state.arms.values() if arm.chunks]
    whole = [arm for arm in scored if _quant(arm) in UNQUANTIZED]
    return max(whole or scored, key=lambda arm: _bytes(arm) or 0, default=None)


def peak(arm: ArmSummary) -> float | None:
    """The most memory that the arm ever held, on the host and on devices together, in bytes.

    A mapped file's pages count as held, though they can be dropped; a device's memory is everybody's there.
    """
    each = [(memory["rss"] or 0.0) + (memory["device"] or 0.0) for memory in arm.peak_memory.values()]
    return max(each, default=None) or None


def _arm(state: State, arm: Arm, base: Arm | None, over: bool) -> ArmSummary:
    outcome, error = _outcome(arm, over)
    judged = verdicts.of_arm(state, arm)
    file = arm.file
    return ArmSummary(
        id=clean(arm.id, 80),
        quant=clean(_quant(arm), 80),
        outcome=outcome,
        error=error,
        attempt=arm.attempt.number if arm.attempt else 0,
        bytes=_bytes(arm),
        bits_per_weight=file.bits_per_weight if file else None,
        tensor_types={clean(name, 40): count for name, count in file.tensor_types.items()} if file else {},
        label_note=clean(file.label_note) if file else "",
        settings=_settings(state, arm),
        prompt=_prompt(arm),
        decode=_decode(state, arm),
        perplexity=_quality(state, arm, outcome),
        delta=_delta(arm, base),
        peak_memory=_peaks(arm),
        energy=_energy(arm),
        reproduced=_reproduced(arm),
        verdicts=judged,
        tainted=tainted(judged, "decode"),
        pinned=outcome == "running",
    )


def tainted(judged: Iterable[Verdict], phase: str) -> bool:
    """Whether the figures of a phase are contaminated, by a verdict on it or on the whole arm."""
    return any(one.kind == "contaminated" and one.phase in (phase, "") for one in judged)


def _quant(arm: Arm) -> str:
    return arm.file.quant if arm.file else arm.plan.quant


def _bytes(arm: Arm) -> int | None:
    return arm.file.bytes if arm.file else arm.plan.bytes


def _outcome(arm: Arm, over: bool) -> tuple[str, str]:
    outcome = arm.outcome
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


def _speed(done: list[Repetition]) -> Speed:
    rates = [one.tok_s for one in done]
    mean, sd = mean_sd(rates)
    return Speed(tok_s=mean, tok_s_median=median(rates), sd=sd, n=len(rates))


def _prompt(arm: Arm) -> Speed | None:
    attempt = windows.latest(arm, "prompt")
    return _speed(attempt.prompt) if attempt else None


def _decode(state: State, arm: Arm) -> Speed | None:
    attempt = windows.latest(arm, "decode")
    if attempt is None:
        return None
    speed = _speed(attempt.decode)
    against = windows.bounds(state, arm, attempt, "decode")
    if against is None or against.active <= 0:
        return speed
    gb_s = against.active * speed.tok_s / 1e9
    # What the cache holds does not come over the memory bus: it would be a share of nothing, 145 % at times.
    ceiling = against.ceiling.gb_s if against.ceiling and against.cache is None else None
    return msgspec.structs.replace(speed, gb_s=gb_s, mbu=gb_s / ceiling if ceiling else None)


def _quality(state: State, arm: Arm, outcome: str) -> Quality | None:
    found = arm.perplexity()
    if found is None:
        return None
    chunks = len(arm.chunks)
    running = outcome == "running" and arm.chunks_planned is not None and chunks < arm.chunks_planned
    return Quality(found[0], found[1], chunks, arm.chunks_planned, running)


def _delta(arm: Arm, base: Arm | None) -> Delta | None:
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
    return Delta(clean(base.id, 80), 100 * (ratio - 1), percent_error, len(common))


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


def _energy(arm: Arm) -> Energy | None:
    attempt = windows.latest(arm, "decode")
    counted = attempt.energy.get("decode") if attempt else None
    if attempt is None or counted is None:
        return None
    if counted.seconds <= 0 or counted.joules <= 0:
        return Energy(None, None, clean(counted.source))
    watts = counted.joules / counted.seconds
    rate = _speed(attempt.decode).tok_s
    return Energy(watts / rate, rate / watts, clean(counted.source))


def _reproduced(arm: Arm) -> str:
    """Whether running the arm again in a fresh process gave the same decode speed: "" where it was run once."""
    over = [one for one in arm.attempts if one.done or one.failed]
    if len(over) < 2:
        return ""
    medians = [median([r.tok_s for r in one.decode]) if one.decode else None for one in over]
    known = [one for one in medians if one is not None]
    if not known:
        return ""
    if len(known) == len(over) and max(known) <= AGREE * min(known):
        return f"reproduced {len(over)}/{len(over)}"
    if len(known) == len(over):
        return f"1/{len(over)}: {' then '.join(significant(rate) for rate in known)} tok/s"
    each = [_attempt_words(one, rate) for one, rate in zip(over, medians, strict=True)]
    return f"1/{len(over)}: {' then '.join(each)}"


def _attempt_words(attempt: Attempt, rate: float | None) -> str:
    if rate is not None:
        return f"{significant(rate)} tok/s"
    return attempt.failed.outcome if attempt.failed else "no decode"


# How long the rest will take.

_PER_BYTE = ("quantize", "load", "decode")
"""Phases whose time goes with the file's size. A prompt and a perplexity are compute: they go with their units only."""

_Key = tuple[str, str, int]


class _Stretch(msgspec.Struct):
    """One phase of one attempt of an arm, however often a pause cut it.

    `done` is the share of it, 0 to 1, that took all but the last `since` of its `seconds`: a unit tells of itself at
    its end only, save for the tokens of a decode.
    """

    arm: Arm
    phase: str
    attempt: int
    start: float
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
    """
    if state.closed or not state.arms:
        return None
    stretches = _stretches(state)
    paces = _paces(stretches.values())
    if any(phase not in paces for phase in _asked(state)):
        return None
    left = 0.0
    for arm in state.arms.values():
        if arm.outcome == "planned":
            left += sum(
                pace * _work(arm, phase) for phase, pace in paces.items() if phase != "quantize" or not arm.plan.file
            )
        elif arm.outcome == "running":
            left += sum(paces[phase] * _work(arm, phase) for phase in paces if _comes(arm, phase, stretches))
    return left + (phase_left(state)[1] or 0.0)


def phase_left(state: State) -> tuple[float, float | None]:
    """How far the phase under way is, 0 to 1, and the seconds that it still takes, None until that is known.

    A pause to cool counts as part of the phase that it interrupts, but not its time.
    """
    stretches = _stretches(state)
    key = _under_way(state)
    if key is None:
        return 0.0, None
    now = stretches[key]
    if now.done > 0:
        return now.done, max(0.0, now.whole - now.seconds)
    pace = _paces(stretches.values()).get(now.phase)
    return 0.0, None if pace is None else max(0.0, pace * _work(now.arm, now.phase) - now.seconds)


def _asked(state: State) -> list[str]:
    """The phases that every arm goes through by the settings."""
    settings = state.settings
    speed = "speed" in settings.tasks and settings.repetitions > 0
    asked = {
        "load": True,
        "prompt": speed and settings.prompt > 0,
        "decode": speed and settings.decode > 0,
        "perplexity": "ppl" in settings.tasks and settings.chunks != 0,
    }
    return [phase for phase, wanted in asked.items() if wanted]


def _under_way(state: State) -> _Key | None:
    """The phase that is under way, or that a pause interrupts."""
    if state.span is None:
        return None
    span = next((span for span in reversed(state.spans) if span.phase != "cool" and span.arm in state.arms), None)
    return (span.arm, span.phase, span.attempt) if span else None


def _stretches(state: State) -> dict[_Key, _Stretch]:
    found: dict[_Key, _Stretch] = {}
    for span in state.spans:
        arm = state.arms.get(span.arm)
        if span.phase == "cool" or arm is None:
            continue
        key = span.arm, span.phase, span.attempt
        one = found.setdefault(key, _Stretch(arm, span.phase, span.attempt, span.start))
        one.seconds += (state.t if span.end is None else span.end) - span.start
        one.units = one.units or span.units
        one.failed = bool(span.error)
    key_now = _under_way(state)
    if key_now is not None:
        now = found[key_now]
        now.done = _share_done(state, now)
        end = state.t if state.phase == now.phase else state.spans[-1].start
        now.since = min(now.seconds, max(0.0, end - _told(state, now, end)))
    return found


def _told(state: State, now: _Stretch, end: float) -> float:
    """When the share done was told last, in session time: the end of the last unit, `end` where tokens tell."""
    if state.running is not None and state.running.tokens:
        return end
    if now.phase == "perplexity":
        latest = max((chunk.at for chunk in now.arm.chunks.values()), default=end)
        return latest + sum(chunk.ns for chunk in now.arm.chunks.values() if chunk.at == latest) / 1e9
    attempt = next((one for one in now.arm.attempts if one.number == now.attempt), None)
    done = attempt.repetitions(now.phase) if attempt and now.phase in ("prompt", "decode") else []
    return done[-1].at + done[-1].ns / 1e9 if done else end


def _share_done(state: State, now: _Stretch) -> float:
    """The share of the phase under way that is done, by its units; 0 where nothing tells."""
    if now.phase in ("quantize", "load"):
        return min(1.0, max(0.0, state.progress or 0.0))
    if now.phase == "perplexity":
        new = sum(chunk.at >= now.start for chunk in now.arm.chunks.values())
        wanted = (now.arm.chunks_planned or 0) - (len(now.arm.chunks) - new)
        return min(1.0, new / wanted) if wanted > 0 else 0.0
    attempt = next((one for one in now.arm.attempts if one.number == now.attempt), None)
    if now.phase not in ("prompt", "decode") or attempt is None or not now.units:
        return 0.0
    done = attempt.repetitions(now.phase)
    units, running = float(len(done)), state.running
    if running and (running.unit.arm, running.unit.kind) == (now.arm.id, now.phase) and running.unit.tokens:
        units += running.tokens / running.unit.tokens
    share = min(1.0, units / now.units)
    if now.phase == "decode" and now.units >= verdicts.DEFAULTS.repetitions:
        share = min(share, sum(one.ns for one in done) / 1e9 / verdicts.DEFAULTS.seconds)
    return share


def _paces(stretches: Iterable[_Stretch]) -> dict[str, float]:
    """Seconds that each phase takes for a unit of work, over all arms, the phase under way by its part that is done."""
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for one in stretches:
        if one.failed or one.done <= 0:
            continue
        seconds[one.phase] = seconds.get(one.phase, 0.0) + one.seconds - one.since
        work[one.phase] = work.get(one.phase, 0.0) + one.done * _work(one.arm, one.phase)
    return {phase: seconds[phase] / work[phase] for phase in work}


def _work(arm: Arm, phase: str) -> float:
    return float(_bytes(arm) or 1) if phase in _PER_BYTE else 1.0


def _comes(arm: Arm, phase: str, stretches: dict[_Key, _Stretch]) -> bool:
    """Whether a running arm still has all of a phase before it."""
    number = arm.attempt.number if arm.attempt else 1
    if (arm.id, phase, number) in stretches or phase == "quantize":
        return False
    return phase != "perplexity" or number == 1
