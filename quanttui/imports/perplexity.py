"""Logs of llama-perplexity: the running values, the final estimate, the KL divergence.

A log prints means over all tokens so far, rounded; a session keeps sums for each chunk. A chunk's sum of nll (and of KL
divergence) is the difference of two running means times their tokens, so what is derived from them over all chunks is
what the log says, and a single chunk carries the rounding of both. Sums of squares and products follow from the errors
that the log prints at its end, the same for each chunk beyond what its mean explains: they are right over all chunks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from quanttui.errors import UserError
from quanttui.events import Diverged
from quanttui.format import clean
from quanttui.imports.found import Chunk, Scored

CONTEXT = 512
"""llama-perplexity's own n_ctx, where a log does not tell it."""

MOST_CHUNKS = 1_000_000

_NUMBER = r"(-?(?:\d{1,20}(?:\.\d{1,20})?|nan|inf))"
_RUNNING = re.compile(r"\[(\d{1,7})\]" + _NUMBER + ",")
_FINAL = re.compile(r"Final estimate: PPL = " + _NUMBER + r" \+/- " + _NUMBER)
_HEAD = re.compile(
    r"(?:calculating perplexity|computing) over (\d{1,9}) chunks"
    r"(?:, n_ctx=(\d{1,9}))?(?:, batch_size=(\d{1,9}))?(?:, n_seq=(\d{1,6}))?"
)
_PASS = re.compile(r"(\d{1,9}\.\d{2}) seconds per pass")
_FILE = re.compile(r"loaded meta data with \d+ key-value pairs and \d+ tensors from (.{1,1000}?) \(version")
_TYPE = re.compile(r"(?:file type|model ftype)\s{0,20}= (.{1,80})")
_NAME = re.compile(r"general\.name\s{0,20}(?:str\s{0,20})?= (.{1,120})")
_BUILD = re.compile(r"build(?::| =) (\d{1,6}) \(([0-9a-f]{6,40})\)")
_GPU = re.compile(r"using device \w{1,40} \((.{1,120}?)\)(?: -|\s|$)")
_THREADS = re.compile(r"system_info: n_threads = (\d{1,5})[^/\n]{0,60}/ (\d{1,5})")
_UBATCH = re.compile(r"n_ubatch\s{0,20}= (\d{1,9})")
_AT = re.compile(r"(Maximum|Median|Minimum|\d{1,2}\.\d%)\s{1,10}(KLD|\S{1,4}p):\s{0,10}(-?\d{1,10}\.\d{1,10})")

_STATISTICS = {
    "ppl": r"Mean PPL\(Q\)\s{0,30}:\s{0,10}",
    "base": r"Mean PPL\(base\)\s{0,30}:\s{0,10}",
    "ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)\s{0,30}:\s{0,10}",
    "kld": r"Mean\s{1,10}KLD:\s{0,10}",
    "p_diff": r"Mean\s{1,10}[^K\s]{1,4}p:\s{0,10}",
    "rms": r"RMS \S{1,4}p\s{0,10}:\s{0,10}",
    "top": r"Same top p:\s{0,10}",
}
"""The figures of a KL divergence that are printed with their error, by what stands before them."""


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One run. What it does not tell is "", 0 or None.

    `file` is the model's, `type` llama.cpp's name of its quant, `model` its general.name; `build` is number and commit,
    as 5163 (8cf427ff); `threads` of the host's `host_threads`. `ppl` is its last value, `base` that of the logits that
    it was held against.
    """

    scored: Scored
    ppl: float
    base: float | None = None
    file: str = ""
    type: str = ""
    model: str = ""
    build: str = ""
    gpus: tuple[str, ...] = ()
    threads: int = 0
    host_threads: int = 0
    batch: int = 0
    ubatch: int = 0
    notes: tuple[str, ...] = ()


class _Means(msgspec.Struct, frozen=True):
    """What is known after each chunk: means over all tokens so far, in nats; `ratio` and `kld` only beside a base."""

    nll: tuple[float, ...]
    ratio: tuple[float, ...] = ()
    kld: tuple[float, ...] = ()


def is_log(text: str) -> bool:
    """Whether a text has something of llama-perplexity's output in it."""
    return bool(_FINAL.search(text) or _RUNNING.search(text) or "KL divergence statistics" in text)


def read(text: str, name: str) -> Log:
    """A log's run. `name` is what errors call the file.

    Raises:
        UserError: it has no perplexity, several runs, or one over other chunks than quanttui's.
    """
    _refuse(text, name)
    head = _HEAD.search(text)
    context = int(head[2]) if head and head[2] else CONTEXT
    planned = int(head[1]) if head else 0
    if not 4 <= context <= 10**8 or planned > MOST_CHUNKS:
        raise UserError(f"{name}: says {planned} chunks of {context} tokens, which no run of llama-perplexity has")
    statistics = _statistics(text)
    final, (means, failed) = _final(text, statistics), _means(text, name)
    notes = [] if head and head[2] else [f"{name} does not tell its n_ctx: {CONTEXT}, the tool's own, is taken"]
    each, count = context - context // 2 - 1, len(means.nll)
    if not count:
        if final is None or failed or not planned:
            raise UserError(f"{name}: {failed or 'it holds no perplexity: give all of the log (2>&1)'}")
        notes.append(f"{name} has no running values: all of its text is one piece, and no interval follows from it")
        scored = Scored((_in_one(each * planned, *final),), 1, context)
        return _log(text, head, scored, final[0], statistics, notes)
    if count < planned and final is None:
        failed = failed or f"the log ends after {count} of {planned} chunks"
    if final is None:
        if count < 2:
            raise UserError(f"{name}: ends after one chunk: nothing follows from that")
        notes.append(f"{name} has no final estimate: the error is that of its chunks' means")
    chunks = tuple(_chunks(means, each, final, statistics))
    scored = Scored(chunks, max(planned, count), context, _seconds(text, head), failed)
    notes += _percentiles(text, name) if statistics else ()
    return _log(text, head, scored, final[0] if final else math.exp(means.nll[-1]), statistics, notes)


def _refuse(text: str, name: str) -> None:
    if "perplexity_v2:" in text:
        raise UserError(f"{name}: was made with --ppl-stride, whose chunks overlap: run llama-perplexity without it")
    for mark in ("Final estimate: PPL", "KL divergence statistics"):
        if text.count(mark) > 1:
            raise UserError(f"{name}: holds {text.count(mark)} runs of llama-perplexity: give a file for each")


def _log(
    text: str, head: re.Match[str] | None, scored: Scored, ppl: float,
    statistics: dict[str, tuple[float, float]], notes: list[str],
) -> Log:  # fmt: skip
    build, threads = _BUILD.search(text), _THREADS.search(text)
    return Log(
        scored=scored,
        ppl=ppl,
        base=statistics["base"][0] if statistics else None,
        file=_first(_FILE, text),
        type=_first(_TYPE, text).removeprefix("(guessed) "),
        model=_first(_NAME, text),
        build=f"{build[1]} ({build[2]})" if build else "",
        gpus=tuple(dict.fromkeys(clean(one, 120) for one in _GPU.findall(text)[:64])),
        threads=int(threads[1]) if threads else 0,
        host_threads=int(threads[2]) if threads else 0,
        batch=int(head[3]) if head and head[3] else 0,
        ubatch=int(_first(_UBATCH, text) or 0),
        notes=tuple(notes),
    )


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return clean(found[1], 1000) if found else ""


def _seconds(text: str, head: re.Match[str] | None) -> float | None:
    """Seconds that a chunk takes: a pass decodes `n_seq` of them together."""
    found = _PASS.search(text)
    return float(found[1]) / max(1, int(head[4] or 1) if head else 1) if found else None


# --- what is printed ------------------------------------------------------------------------------------------------


def _statistics(text: str) -> dict[str, tuple[float, float]]:
    """The figures and errors of the KL divergence, all of them or none; percent as shares."""
    found: dict[str, tuple[float, float]] = {}
    for name, before in _STATISTICS.items():
        match = re.search(before + _NUMBER + r" \S{1,4}\s{0,10}" + _NUMBER, text)
        if match is None:
            return {}
        scale = 0.01 if name in ("p_diff", "rms", "top") else 1.0
        found[name] = scale * float(match[1]), scale * float(match[2])
    whole = all(math.isfinite(number) for pair in found.values() for number in pair)
    is_share = 0 <= found["top"][0] <= 1
    return found if whole and is_share and found["ppl"][0] > 0 and found["base"][0] > 0 else {}


def _final(text: str, statistics: dict[str, tuple[float, float]]) -> tuple[float, float] | None:
    """Perplexity and its error over all of it, None where the log ends before or they are no numbers."""
    if statistics:
        return statistics["ppl"]
    match = _FINAL.search(text)
    found = (float(match[1]), float(match[2])) if match else None
    return found if found and found[0] > 0 and all(map(math.isfinite, found)) else None


def _means(text: str, name: str) -> tuple[_Means, str]:
    """The running means, and why they end before the log does: a value that is no number."""
    table = list(_table(text))
    printed: list[tuple[float, ...]] = [*table] or [(int(k), float(value)) for k, value in _RUNNING.findall(text)]
    for place, (number, *_) in enumerate(printed, 1):
        if number != place:
            raise UserError(f"{name}: chunk {place - 1} is followed by chunk {number:.0f}: give all of one run's log")
    good = next((at for at, row in enumerate(printed) if not _is_value(row)), len(printed))
    failed = f"its perplexity is no number from chunk {good + 1} on" if good < len(printed) else ""
    nll = tuple(math.log(row[1]) for row in printed[:good])
    return _Means(nll, tuple(row[2] for row in table[:good]), tuple(row[3] for row in table[:good])), failed


def _is_value(row: Sequence[float]) -> bool:
    return all(map(math.isfinite, row)) and row[1] > 0


def _table(text: str) -> Iterator[tuple[int, float, float, float]]:
    """Of each line of the table beside a base: chunk, perplexity, ln of the ratio, KL divergence."""
    for line in text.splitlines():
        cells = line.split()
        whole = len(cells) == 18 and cells[13] == cells[17] == "%" and re.fullmatch(r"\d{1,7}", cells[0])
        if whole and all(re.fullmatch(_NUMBER, cells[at]) for at in (1, 4, 7)):
            yield int(cells[0]), float(cells[1]), float(cells[4]), float(cells[7])


def _percentiles(text: str, log: str) -> Iterator[str]:
    """The percentiles that the log prints: they follow from no sum, so they are kept in words."""
    found = _AT.findall(text)
    for name, is_kld in (("KLD", True), ("Δp, %", False)):
        told = ", ".join(f"{at} {value}" for at, what, value in found if (what == "KLD") is is_kld)
        if told:
            yield f"{clean(log, 60)}: {name}: {told}"


# --- sums -----------------------------------------------------------------------------------------------------------


def _in_one(scored: int, ppl: float, error: float) -> Chunk:
    mean = math.log(ppl)
    return Chunk(0, scored, scored * mean, _squares(scored, mean, error / ppl))


def _chunks(
    means: _Means, each: int, final: tuple[float, float] | None, statistics: dict[str, tuple[float, float]]
) -> Iterator[Chunk]:
    """The chunks' sums, `each` tokens scored in a chunk."""
    count, n = len(means.nll), each * len(means.nll)
    nll = _by_chunk(means.nll, math.log(final[0]) if final else means.nll[-1], each)
    of_chunks = [total / each for total in nll]
    mean = math.fsum(of_chunks) / count
    error = final[1] / final[0] if final else _error_of(of_chunks)
    within = _squares(n, mean, error) / n - math.fsum(one * one for one in of_chunks) / count
    diverged = _diverged(means, nll, each, statistics) if statistics and len(means.kld) == count else [None] * count
    for index, one in enumerate(of_chunks):
        square = one * one + within if within >= 0 else mean * mean + (n - 1) * error * error
        yield Chunk(index, each, nll[index], each * square, diverged[index])


def _by_chunk(running: Sequence[float], final: float, each: int) -> list[float]:
    """Sums over each chunk from running means, the last of which is printed with more digits as `final`."""
    sums = [0.0, *(each * k * mean for k, mean in enumerate(running[:-1], 1)), each * len(running) * final]
    return [after - before for before, after in pairwise(sums)]


def _squares(n: int, mean: float, error: float) -> float:
    """The sum of squares of n values with this mean and its standard error: stats.divergence the other way round."""
    return n * ((n - 1) * error * error + mean * mean)


def _error_of(means: Sequence[float]) -> float:
    """The standard error of a mean of chunks' means."""
    mean = math.fsum(means) / len(means)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in means) / (len(means) - 1) / len(means))


def _diverged(
    means: _Means, nll: Sequence[float], each: int, statistics: dict[str, tuple[float, float]]
) -> list[Diverged | None]:
    """What each chunk adds to the sums beside the base: ratio and KL divergence by chunk, the rest in equal parts."""
    count, n = len(nll), each * len(nll)
    (ppl, ppl_error), (base, base_error) = statistics["ppl"], statistics["base"]
    ours, theirs = ppl_error / ppl, base_error / base
    (_, ratio_error), (kld, kld_error) = statistics["ratio"], statistics["kld"]
    (p_diff, _), (rms, rms_error), (top, _) = statistics["p_diff"], statistics["rms"], statistics["top"]
    # Of the correlation two digits are printed: the ratio's error tells the covariance better.
    covariance = (ours * ours + theirs * theirs - ratio_error * ratio_error) / 2
    log, log_base = math.log(ppl), math.log(base)
    ratios, klds = _by_chunk(means.ratio, log - log_base, each), _by_chunk(means.kld, kld, each)
    same = [round(top * each * k) for k in range(count + 1)]
    name = f"logits of PPL {base:.4f}"
    return [
        Diverged(
            base=name,
            nll_base=nll[at] - ratios[at],
            nll_base2=_squares(n, log_base, theirs) / count,
            nll_nll_base=n * ((n - 1) * covariance + log * log_base) / count,
            kld=klds[at],
            kld2=_squares(n, kld, kld_error) / count,
            p_diff=each * p_diff,
            p_diff2=each * rms * rms,
            p_diff4=_squares(n, rms * rms, 2 * rms * rms_error) / count,
            same_top=same[at + 1] - same[at],
        )
        for at in range(count)
    ]
