"""What an arm is held against while it is scored: the base's rows of logits, and its exact nll. Owns which chunk of the
text lies where in those files, and what is told of a chunk; knows no engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quanttui.errors import UserError
from quanttui.events import Against, Diverged
from quanttui.format import clean
from quanttui.measure import divergence, perplexity
from quanttui.measure.divergence import BaseFile
from quanttui.measure.perplexity import Logits, Raw, Rows
from quanttui.measure.speed import TokenArray
from quanttui.stats import divergence as figures

_APART = ("scored", "nll", "nll2")
"""Sums that an event has by itself."""


@dataclass(frozen=True)
class Asked:
    """Which file of base logits: for the text's chunks `places` (its beginning where empty), or a ring of slots."""

    path: Path
    places: tuple[int, ...] = ()
    ring: int = 0
    write: bool = False


class Slots:
    """A file of base logits that is open, as long as the same is asked for.

    To be written it is made, or gone on with, and has its name as soon as no chunk is missing; one that has it already
    is left alone. A ring is written again and again and never has it. To be read it may still grow.

    Args:
        tokens: the whole text's.

    Raises:
        UserError: it cannot be written or read, or is for another vocabulary, context or text.
    """

    def __init__(self, asked: Asked, context: int, vocabulary: int, tokens: TokenArray) -> None:
        self.asked = asked
        self._missing: set[int] = set()
        self._file = (
            self._written(context, vocabulary, tokens) if asked.write else _read(asked, context, vocabulary, tokens)
        )

    def _written(self, context: int, vocabulary: int, tokens: TokenArray) -> BaseFile | None:
        asked = self.asked
        if asked.ring:
            none = np.zeros(asked.ring * context, np.int32)
            return BaseFile.create(asked.path, context, vocabulary, asked.ring, none)
        theirs = _tokens_of(tokens, asked.places, context)
        if _is_whole(asked, context, vocabulary, theirs):
            return None
        file = BaseFile.create(asked.path, context, vocabulary, len(asked.places), theirs)
        self._missing = {slot for slot in range(file.chunks) if not file.whole(slot)}
        if self._missing:
            return file
        file.finish()
        return None

    def put(self, slot: int, logits: Logits, first: int) -> None:
        """Write rows of a chunk, from its scored position `first` on. Called by threads at once."""
        if self._file is not None:
            self._file.put(slot, logits, first)

    def done(self, slot: int) -> None:
        """All rows of a chunk are written."""
        if self._file is None or slot not in self._missing:
            return
        self._missing.remove(slot)
        if not self._missing:
            self._file.finish()
            self._file = None

    def codes(self, slot: int, first: int, last: int) -> divergence.Codes:
        """Rows of a chunk, as they are in the file. Called by threads at once."""
        assert self._file is not None, "only a file that is written is closed before the end"
        return self._file.codes(slot, first, last)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def _tokens_of(tokens: TokenArray, places: tuple[int, ...], context: int) -> TokenArray:
    """The tokens of chunks of the text, one after the other."""
    whole = len(tokens) // context
    if not all(0 <= place < whole for place in places):
        raise UserError(f"the base's chunks go up to {max(places)}, and the text makes {whole}: take the same text")
    return tokens[: whole * context].reshape(whole, context)[list(places)].reshape(-1)


def _is_whole(asked: Asked, context: int, vocabulary: int, tokens: TokenArray) -> bool:
    """Whether the file is there under its own name, and for just these chunks."""
    with suppress(UserError):
        file = BaseFile.open(asked.path)
        try:
            return file.usable(context, vocabulary, tokens) == file.chunks == len(asked.places)
        finally:
            file.close()
    return False


def _read(asked: Asked, context: int, vocabulary: int, tokens: TokenArray) -> BaseFile:
    """The file under its name, or while it grows."""
    grows = asked.ring or (not asked.path.exists() and divergence.partial(asked.path).exists())
    file = BaseFile.open(divergence.partial(asked.path) if grows else asked.path)
    try:
        if asked.ring:
            file.suits(context, vocabulary)
        else:
            file.usable(context, vocabulary, _tokens_of(tokens, asked.places, context) if asked.places else tokens)
    except UserError:
        file.close()
        raise
    return file


class Exact:
    """The base arm's own file of per-token nll, for the chunks `known`.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, arm: str, path: Path, known: tuple[int, ...]) -> None:
        self._arm, self._path, self._known = arm, path, frozenset(known)

    def against(self, chunk: int, nll: Rows) -> Against | None:
        """Sums of its nll of a chunk, and of the products with these; None where it has not scored that."""
        if chunk not in self._known:
            return None
        base = self._row(chunk, len(nll))
        return Against(
            base=self._arm, nll=float(base.sum()), nll2=float((base * base).sum()), products=float((base * nll).sum())
        )

    def _row(self, chunk: int, scored: int) -> Rows:
        name = clean(str(self._path))
        try:
            row = np.fromfile(self._path, "<f8", scored, offset=chunk * scored * 8).astype(np.float64)
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror}): measure {clean(self._arm)} again") from None
        if len(row) < scored or not np.isfinite(row).all():
            raise UserError(f"{name}: chunk {chunk} is damaged or missing: measure {clean(self._arm)} again")
        return row


class Writing:
    """Judges the base itself: its nll, and its rows into the file."""

    values = 1

    def __init__(self, file: Slots, slots: Mapping[int, int]) -> None:
        self._file, self._slots = file, slots

    def rows(self, chunk: int, first: int, logits: Logits, targets: npt.NDArray[np.integer]) -> Rows:
        found = perplexity.nll(logits, targets)
        if chunk in self._slots and np.isfinite(found).all():
            self._file.put(self._slots[chunk], logits, first)
        return found[None]

    def told(self, chunk: int, rows: Rows) -> tuple[Against | None, Diverged | None]:
        if chunk in self._slots:
            self._file.done(self._slots[chunk])
        return None, None


class Comparing:
    """Judges an arm by its nll, against the base's exact nll, and against the base's rows.

    Args:
        name: whose rows they are.
        sums: where the tokens' values against the rows go.
    """

    def __init__(
        self, name: str, exact: Exact | None, file: Slots | None, slots: Mapping[int, int], sums: Raw | None
    ) -> None:
        self._name, self._exact, self._file, self._sums = name, exact, file, sums
        self._slots = slots if file is not None else {}

    @property
    def values(self) -> int:
        return 5 if self._slots else 1

    def rows(self, chunk: int, first: int, logits: Logits, targets: npt.NDArray[np.integer]) -> Rows:
        slot = self._slots.get(chunk)
        if slot is None or self._file is None:
            return perplexity.nll(logits, targets)[None]
        codes = self._file.codes(slot, first, first + len(logits))
        return divergence.diverge(codes, logits, targets).stacked()

    def told(self, chunk: int, rows: Rows) -> tuple[Against | None, Diverged | None]:
        against = self._exact.against(chunk, rows[0]) if self._exact else None
        return against, self._diverged(chunk, rows) if chunk in self._slots else None

    def _diverged(self, chunk: int, rows: Rows) -> Diverged:
        of = asdict(figures.sums(figures.Rows.of(rows)))
        if not all(math.isfinite(value) for value in of.values()):
            raise UserError(
                f"chunk {chunk}: a token that {clean(self._name)} holds for possible is impossible here, so that the "
                "KL divergence has no bounds: leave kld out of --tasks"
            )
        offset = self._sums.put(chunk, rows[1:].reshape(-1)) if self._sums else 0
        for name in _APART:
            del of[name]
        return Diverged(base=self._name, **of, file=self._sums.name if self._sums else "", offset=offset)
