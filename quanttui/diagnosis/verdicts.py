"""Verdicts: what may be believed of a speed, and why it is what it is. Pure functions of the log's fold.

Owns the decision tree, its thresholds and its words; knows no screen and no report. The same log gives the same
verdicts, whoever looks and when: there is no memory in here.

Contamination is one-sided: bytes read again so far convict at once, even inside the first token, while their absence
clears a phase only once enough was timed. What was timed too short is called just that. A speed is put down to
memory bandwidth only when the bytes moved say so; what nothing explains is called unexplained.

A prompt is processed in batches that read the weights once for hundreds of tokens, so its speed is compute: it is
never put down to bandwidth, and its re-reads are held against the bytes of one pass over the weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quanttui.diagnosis import drift, windows
from quanttui.diagnosis.windows import Bounds, Reread, Window
from quanttui.format import clean, percent, significant, size
from quanttui.state import Arm, Attempt, State

CODES = (
    "out-of-memory",
    "swap-contaminated",
    "page-in-thrash",
    "edge-of-memory",
    "settling",
    "vram-spill",
    "partial-offload",
    "throttled",
    "cpu-contention",
    "memory-bus-contention",
    "drifting",
    "compute-bound",
    "bandwidth-wall",
    "cache-resident",
    "unexplained",
)
"""Every code that a verdict may carry, in the order of the decision tree."""

GLYPHS = {"contaminated": "[!!]", "caution": "[!]", "explained": "[=]"}
"""A kind as a mark that needs neither colour nor Unicode; it always stands beside a word."""

_PHASES = ("", "decode", "prompt", "perplexity")
_KINDS = tuple(GLYPHS)


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Where the lines are drawn. They were set after seeing the runs named here: a Q8_0 file with 1381 MB of active
    bytes on a 2-core, 24 GiB KVM guest, its memory limited by a cgroup, llama.cpp of llama-cpp-python 0.3.36.

    contaminated: share of the active bytes read again for each token. 2.1 % from swap cost 79 % of the speed, 9.3 %
        from the file 67 %; clean runs re-read nothing.
    edge: from here on a caution. 0.28 % from the file cost 12 %.
    cpu_share: own CPU time of threads x wall. Clean runs had 0.92 to 1.0, runs beside compilers 0.33 to 0.67.
    wall: achieved bandwidth as a share of the ceiling. Clean Q8_0 had 0.57 to 0.92; contended and
        compute-bound runs had 0.38 at most.
    beyond: no model reads faster than its memory; more than the spread of adjacent probes (0.74 to 0.92 around 0.81)
        above 1, the ceiling is what is wrong.
    repetitions, seconds: the least evidence to clear a phase: llama-bench's 5 repetitions, and 3 s, since 128 tokens of
        a tiny model last 0.05 s.
    """

    contaminated: float = 0.01
    edge: float = 0.002
    cpu_share: float = 0.85
    wall: float = 0.55
    beyond: float = 1.15
    repetitions: int = 5
    seconds: float = 3.0


DEFAULTS = Thresholds()


class Verdict(msgspec.Struct, frozen=True):
    """A judgement on one phase of one arm, with its evidence.

    `code` is one of CODES; `phase` load, prompt, decode, perplexity, or "" for the whole arm. `kind`: contaminated
    (its numbers are not this quant's, they get a `*`), caution, or explained. `words` fit a table's column. `evidence`
    has readable keys that name the unit.
    """

    code: str
    phase: str
    kind: str
    words: str
    sentence: str
    advice: str
    evidence: dict[str, float | str]

    @property
    def glyph(self) -> str:
        """The kind as [!!], [!] or [=]."""
        return GLYPHS[self.kind]


def of_arm(state: State, arm: Arm, limits: Thresholds = DEFAULTS) -> tuple[Verdict, ...]:
    """All verdicts on an arm, finished and running phases alike: contaminated first, then decode before prompt.

    A phase is judged in the latest attempt that has repetitions of it, which is the one whose figures count.
    """
    found = list(_out_of_memory(state, arm))
    for kind in ("decode", "prompt", "perplexity"):
        attempt = windows.latest(arm, kind) if kind != "perplexity" else None
        attempt = attempt or windows.under_way(state, arm, kind)
        if attempt is not None:
            found += _phase(state, arm, attempt, kind, limits)
    return ranked([*found, *_drifting(state, arm)])


def live(state: State, limits: Thresholds = DEFAULTS) -> tuple[Verdict, ...]:
    """The verdicts on the unit under way and the repetitions of its phase before it; none between units."""
    if state.running is None:
        return ()
    unit = state.running.unit
    arm = state.arms.get(unit.arm) if unit.kind in _PHASES else None
    attempt = windows.under_way(state, arm, unit.kind) if arm is not None else None
    if arm is None or attempt is None:
        return ()
    return ranked(_phase(state, arm, attempt, unit.kind, limits))


def ranked(found: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Contaminated before all else; then by phase (the whole arm, decode, prompt, perplexity), kind and tree order."""

    def rank(one: Verdict) -> tuple[bool, int, int, int]:
        phase = _PHASES.index(one.phase) if one.phase in _PHASES else len(_PHASES)
        return one.kind != "contaminated", phase, _KINDS.index(one.kind), CODES.index(one.code)

    return tuple(sorted(found, key=rank))


def judge(window: Window, bounds: Bounds, limits: Thresholds = DEFAULTS) -> tuple[Verdict, ...]:
    """The decision tree on one window: what contaminates it, else what explains it.

    Perplexity is judged by its re-reads alone, and they are a caution there: they cost time, never the value; and the
    CPU share of scoring, which uses fewer threads than decoding, says nothing.
    """
    case = _Case(window=window, bounds=bounds, reread=windows.reread(window, bounds.resident), limits=limits)
    found = _reread(case)
    if window.phase == "perplexity":
        return ranked(found)
    contaminated = any(one.kind == "contaminated" for one in found)
    if not contaminated and (contention := _contention(case)):
        found.append(contention)
        contaminated = True
    if not contaminated and window.phase == "decode" and bounds.cache is not None:
        found.append(_cache_resident(case, bounds.cache))
    if not contaminated and case.short:
        found.append(_too_short(case))
    elif not contaminated and window.phase == "decode" and bounds.cache is None:
        found.append(_explanation(case))
    return ranked(found)


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """One window with all that a rule may ask about it."""

    window: Window
    bounds: Bounds
    reread: Reread
    limits: Thresholds

    @property
    def short(self) -> bool:
        return self.window.repetitions < self.limits.repetitions or self.window.seconds < self.limits.seconds

    @property
    def gb_s(self) -> float | None:
        """Achieved bandwidth of decoding, 1e9 bytes per second."""
        rate = self.window.tok_s
        return None if rate is None or self.window.phase != "decode" else self.bounds.active * rate / 1e9

    @property
    def mbu(self) -> float | None:
        """Model bandwidth utilization: achieved bandwidth over the ceiling."""
        ceiling = self.bounds.ceiling.gb_s if self.bounds.ceiling else None
        return None if self.gb_s is None or not ceiling else self.gb_s / ceiling

    def share(self, bytes_: float | None) -> float:
        """Bytes as a share of the active bytes of all passes, the one under way counted whole."""
        passes = self.bounds.active * self.window.most_passes
        return 0.0 if bytes_ is None or passes <= 0 else bytes_ / passes

    @property
    def per(self) -> str:
        return "token" if self.window.phase == "decode" else "pass over the weights"

    def verdict(
        self, code: str, kind: str, words: str, sentence: str, advice: str, **extra: float | str
    ) -> Verdict:
        evidence = _evidence(self) | {name.replace("_", " "): value for name, value in extra.items()}
        return Verdict(code, self.window.phase, kind, words, sentence, advice, evidence)


def _evidence(case: _Case) -> dict[str, float | str]:
    """The numbers behind a verdict. What is not known has no key; why not is said under "not known"."""
    window, bounds, per = case.window, case.bounds, case.per
    passes = max(1, window.most_passes)
    ceiling = bounds.ceiling
    unknown = "; ".join(filter(None, (case.reread.note, bounds.why if window.phase == "decode" else "")))
    numbers: dict[str, float | None] = {
        f"active bytes per {per}": bounds.active,
        "tok/s": window.tok_s,
        "achieved GB/s": case.gb_s,
        "ceiling GB/s": ceiling.gb_s if ceiling and window.phase == "decode" else None,
        "MBU": case.mbu,
    }
    for source, count in (("swap", case.reread.swap), ("file", case.reread.file)):
        if count is not None:
            numbers[f"re-read from {source}, bytes per {per}"] = count / passes
            numbers[f"re-read from {source}, % of active bytes"] = 100 * case.share(count)
    if window.majflt is not None:
        numbers[f"major faults per {per}"] = window.majflt / passes
    numbers["own CPU share of threads x wall"] = window.cpu_share(bounds.threads)
    numbers |= {
        "threads": bounds.threads,
        "timed seconds": window.seconds,
        "tokens": window.tokens,
        "repetitions": window.repetitions,
    }
    evidence: dict[str, float | str] = {name: value for name, value in numbers.items() if value is not None}
    if ceiling and window.phase == "decode":
        evidence["ceiling is"] = clean(f"{ceiling.how}, {ceiling.over or ceiling.device}")
    if unknown:
        evidence["not known"] = clean(unknown)
    return evidence


def _phase(state: State, arm: Arm, attempt: Attempt, kind: str, limits: Thresholds) -> tuple[Verdict, ...]:
    window = windows.window(state, arm, attempt, kind)
    bounds = windows.bounds(state, arm, attempt, kind)
    if window is None or bounds is None or bounds.active <= 0:
        return ()
    return judge(window, bounds, limits)


def _out_of_memory(state: State, arm: Arm) -> list[Verdict]:
    failed = arm.attempt.failed if arm.attempt else None
    if failed is None or failed.outcome != "oom":
        return []
    evidence: dict[str, float | str] = {"error": clean(failed.error)}
    if failed.signal is not None:
        evidence["signal"] = float(failed.signal)
    needed = arm.file.bytes if arm.file else arm.plan.bytes
    if needed is not None:
        evidence["bytes of the file"] = float(needed)
    limit = (state.host.memory_limit or state.host.memory) if state.host else None
    if limit is not None:
        evidence["bytes of memory"] = float(limit)
    place = f" in the {clean(failed.phase)} phase" if failed.phase else ""
    return [
        Verdict(
            code="out-of-memory",
            phase="",
            kind="contaminated",
            words="oom",
            sentence=f"It ran out of memory{place}: weights of {size(needed)} against {size(limit)} of memory.",
            advice="Take a smaller quant or a shorter context, or free memory and run it again.",
            evidence=evidence,
        )
    ]


def _drifting(state: State, arm: Arm) -> list[Verdict]:
    """The machine changed between the anchor's rounds before and after the arm's decode."""
    change, attempt = drift.of(state, arm), windows.latest(arm, "decode")
    anchor, around = drift.anchor(state), drift.bracket(state, arm)
    if change is None or attempt is None or anchor is None or around is None:
        return []
    before, after = around
    how = "changed by" if drift.drifted(state, before, after) else "was off its usual speed by"
    name = clean(anchor.id, 40)
    again = attempt.number > 1
    return [
        Verdict(
            code="drifting",
            phase="decode",
            kind="caution",
            words=f"drifting {100 * change:+.0f}%",
            sentence=f"{name}, the anchor, {how} {100 * change:+.1f} % while this was "
            f"{'measured again' if again else 'measured'}: its speed is not comparable with the others'.",
            advice="Let the machine cool down and hold its clock, or take turns: --schedule abba."
            if again
            else "It is measured once more when the others are done; a sweep that was ended before: --resume.",
            evidence={
                "anchor": name,
                "anchor's tok/s before": before.tok_s,
                "anchor's tok/s after": after.tok_s,
                "change, %": 100 * change,
                "change that counts as drift, %": 100 * state.settings.drift,
                "seconds between the two rounds": after.start - before.end,
            },
        )
    ]


def _reread(case: _Case) -> list[Verdict]:
    swap, file = case.share(case.reread.swap), case.share(case.reread.file)
    limits = case.limits
    found = []
    if swap >= limits.contaminated:
        found.append(_swap(case, swap))
    if file >= limits.contaminated:
        found.append(_page_in(case, file))
    if not found and max(swap, file) >= limits.edge and not case.short:
        found.append(_edge(case, swap, file))
    return found


def _short(share: float) -> str:
    """A share in percent for a table's column."""
    return "<0.1" if share < 0.001 else percent(share)


def _kind(case: _Case) -> str:
    return "caution" if case.window.phase == "perplexity" else "contaminated"


def _means(case: _Case) -> str:
    """What re-reading means for the figure of the phase."""
    if case.window.phase == "perplexity":
        return "it takes longer, and its value is what it would be anyway"
    return "this speed is the storage's, not the quant's"


def _amount(case: _Case, share: float, count: float | None) -> str:
    each = (count or 0.0) / max(1, case.window.most_passes)
    return f"{percent(share)} % of the bytes that a {case.per} needs ({size(each)} of {size(case.bounds.active)})"


def _swap(case: _Case, share: float) -> Verdict:
    whose = " Part of it may be a neighbour's: compressed memory cannot be attributed." if case.reread.note else ""
    return case.verdict(
        "swap-contaminated",
        _kind(case),
        f"swap {_short(share)}%",
        f"{_amount(case, share, case.reread.swap)} came back from swap each time: {_means(case)}.{whose}",
        "Take a smaller quant; leave mmap on and repacking off, so that weights need no swap; or free memory.",
    )


def _page_in(case: _Case, share: float) -> Verdict:
    apart = f" ({case.reread.note})" if case.reread.swap is None else ""
    return case.verdict(
        "page-in-thrash",
        _kind(case),
        f"page-in {_short(share)}%",
        f"{_amount(case, share, case.reread.file)} had to be fetched from the file again each time{apart}: "
        f"{_means(case)}.",
        "Free memory or take a smaller quant; if it just fits, lock it in memory (mlock).",
    )


def _edge(case: _Case, swap: float, file: float) -> Verdict:
    source, share = ("swap", swap) if swap > file else ("the file", file)
    count = case.reread.swap if swap > file else case.reread.file
    return case.verdict(
        "edge-of-memory",
        "caution",
        f"edge {_short(share)}%",
        f"{_amount(case, share, count)} came from {source} again each time: it barely fits, and a little less memory "
        "would be thrashing.",
        "Free some memory before trusting small differences, or take a smaller quant.",
    )


def _contention(case: _Case) -> Verdict | None:
    window, bounds = case.window, case.bounds
    share = window.cpu_share(bounds.threads)
    if bounds.offloaded != 0 or share is None or share >= case.limits.cpu_share:
        return None
    if window.cpu_seconds < case.limits.seconds:
        return None
    return case.verdict(
        "cpu-contention",
        "contaminated",
        f"cpu {significant(share, 2)}",
        f"Its {bounds.threads} threads got {percent(share)} % of the CPU time that they could have used, and nothing "
        "was re-read: something else ran on these cores.",
        "Stop what runs beside it, or use fewer threads, and run it again.",
    )


def _cache_resident(case: _Case, cache: float) -> Verdict:
    return case.verdict(
        "cache-resident",
        "explained",
        "cache",
        f"All of its weights ({size(case.bounds.resident)} with the embedding) fit in the last-level cache "
        f"({size(cache)}): memory bandwidth has no part in this speed.",
        "Do not carry this speed over to models that are larger than the cache.",
        last_level_cache_bytes=cache,
    )


def _too_short(case: _Case) -> Verdict:
    window, limits = case.window, case.limits
    so_far = " so far" if window.under_way else ""
    return case.verdict(
        "unexplained",
        "caution",
        "too short",
        f"Too short to judge{so_far}: {window.repetitions} repetitions and {significant(window.seconds, 2)} s timed, "
        f"where {limits.repetitions} and {significant(limits.seconds, 2)} s are needed to call a speed clean.",
        "Wait until the phase is done." if window.under_way else "Give it more repetitions or more tokens.",
    )


def _explanation(case: _Case) -> Verdict:
    mbu, gb_s, ceiling = case.mbu, case.gb_s, case.bounds.ceiling
    if mbu is None or gb_s is None or ceiling is None:
        why = clean(case.bounds.why) or "the ceiling is not known"
        return case.verdict(
            "unexplained",
            "caution",
            "unexplained",
            f"There is nothing to hold this speed against: {why}.",
            "Let the bandwidth be measured next to this quant (memory free, nothing else running).",
        )
    moved = (
        f"It moved {significant(gb_s)} of {significant(ceiling.gb_s)} GB/s, {percent(mbu)} % of the "
        f"{clean(ceiling.how)} ceiling"
    )
    if case.limits.wall <= mbu <= case.limits.beyond:
        return case.verdict(
            "bandwidth-wall",
            "explained",
            "wall",
            f"{moved}: memory bandwidth sets this speed.",
            "Only fewer bytes per token make it faster: a smaller quant, or faster memory.",
        )
    words = f"unexplained {_short(mbu)}%"
    if mbu > case.limits.beyond:
        return case.verdict(
            "unexplained",
            "caution",
            words,
            f"{moved}, more than memory can give: the ceiling was measured in a slower moment, or a cache helps.",
            "Run it again: the ceiling is measured anew next to it.",
        )
    unseen = " Whether bytes were re-read cannot be told on this host." if case.reread.file is None else ""
    return case.verdict(
        "unexplained",
        "caution",
        words,
        f"{moved}: this is not the memory bandwidth's limit, and nothing that was measured says what is.{unseen}",
        _unexplained_advice(case),
    )


def _unexplained_advice(case: _Case) -> str:
    if case.reread.file is None:
        return "Look for page-ins (weights that do not stay in memory) first, then run it again with more memory free."
    return "Run it again with nothing else running; what stays may be the quant's own arithmetic (IQ types)."
