"""What a quant loses against its base: paired perplexity, KL divergence, token probabilities. Pure: numbers in and out.

Source of every formula: llama-perplexity of llama.cpp (tools/perplexity, --kl-divergence), whose printed figures these
are. Readers of a session need sums only: NumPy is loaded by what takes rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KLD_AT = (1.0, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001, 0.0)
"""The fractions at which llama-perplexity prints the KL divergence: maximum, percentiles, minimum."""

P_DIFF_AT = (1.0, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001, 0.0)
"""The fractions at which it prints the change of a token's probability."""


class Estimate(NamedTuple):
    """A value and its standard error, None where there is none: of one token, of a root of 0, of an infinite mean."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Rows:
    """What is known of each scored token, in the text's order, length n each.

    nll: negative log-likelihood under the quant, in nats, float64.
    nll_base: the same under the base, float64. As its 16-bit rows tell it, it ends at 16 + ln(vocabulary) or before:
        llama-perplexity's ratio of perplexities then comes out too high where a text has tokens less likely than that.
        With the base's own nll in its place it does not.
    kld: KL divergence of the quant from the base, in nats, float64; not renormalised, so slight negatives occur.
    p_diff: probability of the token under the quant less that under the base, float64.
    same_top: whether both hold the same token for the likeliest, bool.
    """

    nll: npt.NDArray[np.float64]
    nll_base: npt.NDArray[np.float64]
    kld: npt.NDArray[np.float64]
    p_diff: npt.NDArray[np.float64]
    same_top: npt.NDArray[np.bool_]

    def stacked(self) -> npt.NDArray[np.float64]:
        """float64 [5, n]: nll, nll_base, kld, p_diff, same_top (0 or 1)."""
        import numpy as np

        return np.stack([self.nll, self.nll_base, self.kld, self.p_diff, self.same_top.astype(np.float64)])

    @staticmethod
    def of(stacked: npt.NDArray[np.float64]) -> Rows:
        """What `stacked` gave."""
        nll, nll_base, kld, p_diff, same_top = stacked
        return Rows(nll, nll_base, kld, p_diff, same_top != 0)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """Several stretches of tokens as one."""
        import numpy as np

        return Rows.of(np.concatenate([part.stacked() for part in parts], axis=1))


@dataclass(frozen=True)
class Sums:
    """Sums over `scored` tokens, from which all but the percentiles follows. Added up, they tell of more tokens."""

    scored: int = 0
    nll: float = 0.0
    nll2: float = 0.0
    nll_base: float = 0.0
    nll_base2: float = 0.0
    nll_nll_base: float = 0.0
    kld: float = 0.0
    kld2: float = 0.0
    p_diff: float = 0.0
    p_diff2: float = 0.0
    p_diff4: float = 0.0
    same_top: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Divergence:
    """A quant against its base over `scored` tokens. Probabilities are shares of one, not percent.

    ppl, ppl_base: perplexities, each with its own error.
    correlation: of the two mean log-likelihoods, None where one of them does not vary.
    ln_ratio, ratio, difference: ln(PPL / PPL base), PPL / PPL base, PPL - PPL base, errors corrected for covariance.
    kld: mean KL divergence in nats; kld_at: its percentiles, by fraction (1 is the maximum, 0 the minimum).
    p_diff, p_diff_at, p_diff_rms: mean, percentiles and root mean square of the change of the token's probability.
    same_top: share of tokens for which both have the same favourite.
    The percentiles are empty where only sums are known.
    """

    scored: int
    ppl: Estimate
    ppl_base: Estimate
    correlation: float | None
    ln_ratio: Estimate
    ratio: Estimate
    difference: Estimate
    kld: Estimate
    p_diff: Estimate
    p_diff_rms: Estimate
    same_top: Estimate
    kld_at: Mapping[float, float] = field(default_factory=dict)
    p_diff_at: Mapping[float, float] = field(default_factory=dict)


def sums(rows: Rows) -> Sums:
    """The sums of these tokens."""
    squared = rows.p_diff * rows.p_diff
    return Sums(
        scored=len(rows.nll),
        nll=float(rows.nll.sum()),
        nll2=float((rows.nll * rows.nll).sum()),
        nll_base=float(rows.nll_base.sum()),
        nll_base2=float((rows.nll_base * rows.nll_base).sum()),
        nll_nll_base=float((rows.nll * rows.nll_base).sum()),
        kld=float(rows.kld.sum()),
        kld2=float((rows.kld * rows.kld).sum()),
        p_diff=float(rows.p_diff.sum()),
        p_diff2=float(squared.sum()),
        p_diff4=float((squared * squared).sum()),
        same_top=int(rows.same_top.sum()),
    )


def from_sums(of: Sums) -> Divergence:
    """All that sums over at least one token tell: what llama-perplexity prints after every chunk, and more."""
    n = of.scored
    log, log_base = _mean(n, of.nll, of.nll2), _mean(n, of.nll_base, of.nll_base2)
    covariance = _covariance(n, of.nll, of.nll_base, of.nll_nll_base)
    ppl, ppl_base = _exp(log), _exp(log_base)
    ln_ratio = Estimate(log.value - log_base.value, _paired(log.error, log_base.error, covariance))
    return Divergence(
        scored=n,
        ppl=ppl,
        ppl_base=ppl_base,
        correlation=covariance / (log.error * log_base.error) if log.error and log_base.error else None,
        ln_ratio=ln_ratio,
        ratio=_exp(ln_ratio),
        difference=Estimate(
            ppl.value - ppl_base.value,
            _paired(ppl.error, ppl_base.error, ppl.value * ppl_base.value * covariance),
        ),
        kld=_mean(n, of.kld, of.kld2),
        p_diff=_mean(n, of.p_diff, of.p_diff2),
        p_diff_rms=_root(_mean(n, of.p_diff2, of.p_diff4)),
        same_top=_share(of.same_top, n),
    )


def from_rows(rows: Rows) -> Divergence:
    """All of it, percentiles included: what llama-perplexity prints at its end. At least one token."""
    kld_at, p_diff_at = percentiles(rows.kld, KLD_AT), percentiles(rows.p_diff, P_DIFF_AT)
    return replace(from_sums(sums(rows)), kld_at=kld_at, p_diff_at=p_diff_at)


def percentiles(values: npt.NDArray[np.float64], fractions: Sequence[float]) -> dict[float, float]:
    """Percentiles by fraction, linear on fraction * (n - 1), in float32 throughout as llama-perplexity has them."""
    import numpy as np

    ordered = np.sort(values.astype(np.float32))
    last = len(ordered) - 1
    one, found = np.float32(1), {}
    for fraction in fractions:
        place = np.float32(fraction) * np.float32(last)
        below = min(int(place), last)
        share, low, high = place - np.float32(below), ordered[below], ordered[min(below + 1, last)]
        found[fraction] = float((one - share) * low + share * high if share else low)
    return found


def _mean(n: int, total: float, squares: float) -> Estimate:
    """Mean and standard error: sqrt((squares / n - mean^2) / (n - 1))."""
    mean = total / n
    if n < 2 or not math.isfinite(mean):
        return Estimate(mean, None)
    return Estimate(mean, math.sqrt(max(0.0, squares / n - mean * mean) / (n - 1)))


def _covariance(n: int, a: float, b: float, products: float) -> float:
    """Covariance of two means."""
    return (products / n - (a / n) * (b / n)) / (n - 1) if n > 1 else 0.0


def _paired(a: float | None, b: float | None, covariance: float) -> float | None:
    """Error of a difference of two correlated values."""
    return None if a is None or b is None else math.sqrt(max(0.0, a * a + b * b - 2 * covariance))


def _exp(log: Estimate) -> Estimate:
    value = math.exp(log.value)
    return Estimate(value, None if log.error is None else value * log.error)


def _root(square: Estimate) -> Estimate:
    root = math.sqrt(square.value)
    return Estimate(root, 0.5 / root * square.error if root and square.error is not None else None)


def _share(count: int, n: int) -> Estimate:
    share = count / n
    return Estimate(share, math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None)
