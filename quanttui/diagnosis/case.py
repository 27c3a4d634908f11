"""One phase of one arm with all that a rule may ask about it, and what a rule answers with: a verdict.

Owns their form and the evidence that every verdict carries; knows no rule.
"""

from __future__ import annotations

import msgspec

from quanttui.diagnosis.taint import Found
from quanttui.diagnosis.thresholds import Thresholds
from quanttui.diagnosis.windows import Bounds, Reread, Window
from quanttui.format import clean, percent, significant

CODES = (
    "out-of-memory",
    "swap-contaminated",
    "page-in-thrash",
    "edge-of-memory",
    "settling",
    "vram-spill",
    "partial-offload",
    "gpu-contention",
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


class Verdict(msgspec.Struct, frozen=True):
    """A judgement on one phase of one arm, with its evidence.

    `code` is one of CODES; `phase` load, prompt, decode, perplexity, or "" for the whole arm. `kind`: contaminated
    (its numbers are not this quant's, they get a `*`), caution, or explained. `words` fit a table's column. `evidence`
    has readable keys that name the unit. `cost` is about the share of the speed that it takes, 0 to 1, None where that
    cannot be told: verdicts are ranked by it.
    """

    code: str
    phase: str
    kind: str
    words: str
    sentence: str
    advice: str
    evidence: dict[str, float | str]
    cost: float | None = None

    @property
    def glyph(self) -> str:
        """The kind as [!!], [!] or [=]."""
        return GLYPHS[self.kind]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One window, what it is held against, and its tainted stretches."""

    window: Window
    bounds: Bounds
    reread: Reread
    limits: Thresholds
    tainted: Found = Found()

    @property
    def is_short(self) -> bool:
        """Whether too little was timed to call it clean."""
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

    @property
    def of_compute(self) -> float | None:
        """Achieved bandwidth over C, what the arithmetic of the tensor types allows from the cache."""
        return None if self.gb_s is None or not self.bounds.compute else self.gb_s / self.bounds.compute

    @property
    def is_below(self) -> bool:
        """Whether the speed is not explained by the bandwidth, as far as that is known."""
        return self.mbu is None or self.mbu < self.limits.wall

    @property
    def per(self) -> str:
        return "token" if self.window.phase == "decode" else "pass over the weights"

    def share(self, bytes_: float | None) -> float:
        """Bytes as a share of the active bytes of all passes, the one under way counted whole."""
        passes = self.bounds.active * self.window.most_passes
        return 0.0 if bytes_ is None or passes <= 0 else bytes_ / passes

    def seconds(self, code: str) -> float:
        """For how long stretches of that kind lasted, of what was timed."""
        return sum(one.seconds for one in self.tainted.intervals if one.code == code)

    def part(self, code: str) -> float:
        """The share of what was timed that stretches of that kind took."""
        return min(1.0, self.seconds(code) / self.window.seconds) if self.window.seconds > 0 else 1.0

    def verdict(
        self,
        code: str,
        kind: str,
        words: str,
        sentence: str,
        advice: str,
        cost: float | None = None,
        **extra: float | str,
    ) -> Verdict:
        """A verdict on this phase, with all evidence that there is and what the rule adds to it."""
        told = _evidence(self) | {name.replace("_", " "): value for name, value in extra.items()}
        return Verdict(code, self.window.phase, kind, words, sentence, advice, told, cost)


def brief(share: float) -> str:
    """A share in percent for a table's column."""
    return "<0.1" if share < 0.001 else percent(share)


def for_seconds(case: Case, code: str) -> str:
    """`for 4.0 of 25 s`: how long a stretch of that kind lasted."""
    return f"for {significant(case.seconds(code), 2)} of {significant(case.window.seconds, 2)} s"


def _evidence(case: Case) -> dict[str, float | str]:
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
        "C of its tensor types, GB/s": bounds.compute if window.phase == "decode" else None,
        "achieved / C": case.of_compute,
        "predicted tok/s of this split": bounds.split if window.phase == "decode" else None,
    }
    for source, count in (("swap", case.reread.swap), ("file", case.reread.file)):
        if count is not None:
            numbers[f"re-read from {source}, bytes per {per}"] = count / passes
            numbers[f"re-read from {source}, % of active bytes"] = 100 * case.share(count)
    if window.majflt is not None:
        numbers[f"major faults per {per}"] = window.majflt / passes
    numbers["own CPU share of threads x wall"] = window.cpu_share(bounds.threads)
    numbers["cores that others used"] = window.others_cores
    if window.phase == "decode" and bounds.offloaded == 0:
        numbers["bandwidth next to it, GB/s"] = bounds.probed
        numbers["bandwidth in this session, GB/s"] = bounds.usual
        numbers["bandwidth in earlier sessions, GB/s"] = bounds.remembered
    if case.tainted.intervals:
        numbers["contaminated seconds"] = sum(one.seconds for one in case.tainted.intervals)
    if clean_only := case.tainted.clean:
        numbers["clean-only tok/s"] = clean_only.tok_s
        numbers["clean seconds"] = clean_only.seconds
    names = {"slowed": "share of samples slowed down", "clock": "clock / its best", "util": "GPU busy %"}
    names |= {"pcie_rx": "bytes per second over the bus to the GPU"}
    names |= {"dram": "GPU memory busy %", "others": "other processes on the GPU"}
    for name, told_as in names.items():
        numbers[told_as] = window.devices.get(name)
    if window.phase == "prompt" and window.tok_s is not None:
        numbers["achieved GFLOP/s"] = window.tok_s * bounds.flops / 1e9 or None
    numbers |= {
        "threads": bounds.threads,
        "timed seconds": window.seconds,
        "tokens": window.tokens,
        "repetitions": window.repetitions,
    }
    evidence: dict[str, float | str] = {name: value for name, value in numbers.items() if value is not None}
    if ceiling and window.phase == "decode":
        spread = ""
        if len(ceiling.repeats) > 1:
            spread = f", {significant(min(ceiling.repeats))} to {significant(max(ceiling.repeats))} GB/s"
        evidence["ceiling is"] = clean(f"{ceiling.how}, {ceiling.over or ceiling.device}{spread}")
    if unknown:
        evidence["not known"] = clean(unknown)
    return evidence
