"""The pocket model's vocabulary: how its pieces are learnt, and how text becomes the ids that llama.cpp would give.

A SentencePiece-style vocabulary in llama.cpp's sense (`tokenizer.ggml.model` "llama"): `<unk>`, `<s>`, `</s>`, 256 byte
tokens, then pieces with scores. A piece may begin with U+2581 in place of a space and has none further on, so merging
never crosses a space and each word can be cut on its own. Must not know what the text says.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

SPACE = "\u2581"
UNK, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3
FIRST_PIECE = FIRST_BYTE + 256
_LEARN = re.compile(f"{SPACE}?(?:[A-Za-z]+|[^A-Za-z{SPACE}\n]+)|{SPACE}")
_CUT = re.compile(f"{SPACE}[^{SPACE}\n]*|[^{SPACE}\n]+|\n")


@dataclass(frozen=True)
class Vocabulary:
    """Pieces in the order of their ids from `FIRST_PIECE` on; an earlier piece merges first."""

    pieces: tuple[str, ...]
    _id: dict[str, int] = field(init=False, repr=False, compare=False)
    _cut: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_id", {piece: FIRST_PIECE + i for i, piece in enumerate(self.pieces)})

    def __len__(self) -> int:
        return FIRST_PIECE + len(self.pieces)

    def tokens(self) -> tuple[list[str], list[float], list[int]]:
        """Texts, scores and types of all ids, as GGUF metadata wants them (2 unknown, 3 control, 6 byte, 1 normal)."""
        texts = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *self.pieces]
        scores = [0.0] * FIRST_PIECE + [-float(i) for i in range(len(self.pieces))]
        return texts, scores, [2, 3, 3] + [6] * 256 + [1] * len(self.pieces)

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        """Ids without BOS. `start`: the text stands at the start, where llama.cpp puts a space before it."""
        marked = ((" " if start and text else "") + text).replace(" ", SPACE)
        ids: list[int] = []
        for word in _CUT.findall(marked):
            cut = self._cut.get(word)
            if cut is None:
                cut = self._cut[word] = tuple(self._merge(word))
            ids += cut
        return ids

    def _merge(self, word: str) -> Iterable[int]:
        """Join the neighbours with the best score, leftmost first, until none make a piece; the rest becomes bytes."""
        parts = list(word)
        while len(parts) > 1:
            ranks = [self._id.get(a + b, len(self)) for a, b in pairwise(parts)]
            best = min(ranks)
            if best == len(self):
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        for part in parts:
            if part in self._id:
                yield self._id[part]
            else:
                yield from (FIRST_BYTE + b for b in part.encode())


def learn(texts: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of `size` ids learnt from the texts: byte-pair merges, most frequent first, then all characters."""
    words = Counter(word for text in texts for word in _LEARN.findall(text.replace(" ", SPACE)))
    letters = sorted({c for word in words for c in word})
    splits = [list(word) for word in sorted(words)]
    counts = [words["".join(parts)] for parts in splits]
    pairs: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], dict[int, None]] = defaultdict(dict)

    def count(at: int, sign: int) -> None:
        for pair in pairwise(splits[at]):
            pairs[pair] += sign * counts[at]
            holders[pair][at] = None

    for at in range(len(splits)):
        count(at, 1)
    merges: dict[str, None] = {}
    while pairs and len(merges) < size - FIRST_PIECE - len(letters):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if not pairs[best]:
            break
        merges["".join(best)] = None
        for at in holders.pop(best):
            count(at, -1)
            _join(splits[at], *best)
            count(at, 1)
        pairs += Counter()
    return Vocabulary((*merges, *letters))


def _join(parts: list[str], a: str, b: str) -> None:
    at = 0
    while at < len(parts) - 1:
        if parts[at] == a and parts[at + 1] == b:
            parts[at : at + 2] = [a + b]
        at += 1
