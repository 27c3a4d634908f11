"""How much of one text lies in another: what was seen before is no test. Pure: texts in, a share out.

The measure is a run of WINDOW characters that both have, letter case and blanks aside. It asks for no words, so that it
holds for languages that are written without blanks, and for program text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 80
"""Characters in a row: some 13 words of English, the run by which the data of GPT-3 was searched for its own tests
(Brown et al. 2020, arXiv 2005.14165, appendix C)."""

NOTABLE = 0.01
"""From this share on the texts overlap."""

_MULTIPLIER = 0x9E3779B97F4A7C15
"""Of the rolling hash, modulo 2^64: odd, with bits all over (2^64 over the golden ratio)."""

Numbers = npt.NDArray[np.uint64]


def overlap(text: str, other: str, window: int = WINDOW) -> float:
    """The share of the characters of `text` that lie in a run of `window` characters which `other` has too, 0 to 1.

    0 where one of them is shorter than that.
    """
    ours, theirs = _hashes(text, window), _hashes(other, window)
    if not len(ours) or not len(theirs):
        return 0.0
    shared = np.isin(ours, theirs)
    edges = np.zeros(len(ours) + window, dtype=np.int64)
    edges[: len(ours)] += shared
    edges[window:] -= shared
    return float((np.cumsum(edges)[:-1] > 0).mean())


def _hashes(text: str, window: int) -> Numbers:
    """One number for each run of that length."""
    plain = " ".join(text.casefold().split())
    letters: npt.NDArray[Any] = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    count = len(letters) - window + 1
    found = np.zeros(max(0, count), np.uint64)
    for at in range(window if count > 0 else 0):
        found = found * np.uint64(_MULTIPLIER) + letters[at : at + count]
    return found
