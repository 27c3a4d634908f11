"""KL divergence against a base, as llama-perplexity computes it. Owns the base-logits file and the scoring of logits
against its rows; knows no engine.

Source of file and method: llama-perplexity of llama.cpp (tools/perplexity; --kl-divergence-base, --kl-divergence).
The file is little-endian: `_logits_`, int32 n_ctx, n_vocab, n_chunk, int32 tokens[n_chunk * n_ctx], then for every
chunk one row of uint16 for each scored position (n_ctx/2 … n_ctx-2). A row is float32 scale and float32 lowest
log-probability in its first four, then a code for every token of the vocabulary, made even by a 0: log-probability =
scale * code + lowest.
"""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quanttui import paths
from quanttui.errors import UserError, no_room
from quanttui.format import clean
from quanttui.measure import perplexity
from quanttui.measure.perplexity import room
from quanttui.measure.speed import TokenArray
from quanttui.stats.divergence import Rows

BLOCK = 2**18
"""Logits worked on at once by one thread: smaller blocks had threads wait for each other, larger ones for memory."""

DEPTH = 16
"""Logits this far below the highest are told apart no more, and log-probabilities of -16 and less count for nothing."""

Codes = npt.NDArray[np.uint16]
Logits = npt.NDArray[np.float32]

_MAGIC = b"_logits_"
_HEADER = struct.Struct("<8s3i")
_HEAD = 4
_TOP = 65535
_SLACK = 0.01


def width(vocabulary: int) -> int:
    """How many uint16 a row has."""
    return _HEAD + vocabulary + vocabulary % 2


def size(context: int, vocabulary: int, chunks: int) -> int:
    """The bytes of a base-logits file."""
    return _HEADER.size + chunks * _chunk_size(context, vocabulary)


def affordable(cap: int, context: int, vocabulary: int) -> int:
    """How many chunks a base-logits file of at most `cap` bytes holds."""
    return max(0, (cap - _HEADER.size) // _chunk_size(context, vocabulary))


def _chunk_size(context: int, vocabulary: int) -> int:
    return 4 * context + 2 * _scored(context) * width(vocabulary)


def _scored(context: int) -> int:
    return context - 1 - context // 2


def blocks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Rows of logits, cut so that a block has at most BLOCK of them, or one row."""
    return perplexity.blocks(rows, vocabulary, BLOCK)


def encode(logits: Logits) -> Codes:
    """Rows of the file for logits, float32 [n, vocabulary] → uint16 [n, width]. Not for more than a block at once.

    Logits that are no numbers give a head that is none.
    """
    count, vocabulary = logits.shape
    codes = np.zeros((count, width(vocabulary)), "<u2")
    with np.errstate(invalid="ignore"):
        peak = logits.max(axis=1, keepdims=True)
        low = np.maximum(logits.min(axis=1, keepdims=True), peak - np.float32(DEPTH))
        work = np.subtract(logits, peak, out=room.floats("work", logits.shape))
        np.exp(work, out=work)
        log_sum = np.log(perplexity.sums(work)).astype(np.float32)[:, None]
        scale = (peak - low) / np.float32(_TOP)
        steps = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale >= np.finfo(np.float32).tiny)
        np.maximum(logits, low, out=work)
        work -= low
        work *= steps
        np.rint(work, out=work)
        np.copyto(codes[:, _HEAD : _HEAD + vocabulary], work, casting="unsafe")
        codes[:, :_HEAD] = np.hstack([scale, low - peak - log_sum]).astype("<f4").view("<u2")
    return codes


def heads(codes: Codes) -> npt.NDArray[np.float32]:
    """Scale and lowest log-probability of each row, float32 [n, 2]."""
    return np.ascontiguousarray(codes[:, :_HEAD]).view("<f4")


def log_probs(codes: Codes, vocabulary: int, out: Logits | None = None) -> Logits:
    """The log-probabilities that rows stand for, float32 [n, vocabulary], put into `out` where that is given."""
    head = heads(codes)
    values = np.empty((len(codes), vocabulary), np.float32) if out is None else out
    values[:] = codes[:, _HEAD : _HEAD + vocabulary]
    values *= head[:, :1]
    values += head[:, 1:]
    return values


def diverge(base: Codes, logits: Logits, targets: npt.NDArray[np.integer]) -> Rows:
    """Score logits against the base's rows for the same tokens.

    The terms are float32 and their sums float64, as llama-perplexity has them. A token's values depend on its own row
    only, so that threads may share the rows among them; nll is measure.perplexity's to the last bit.

    Args:
        base: uint16 [n, width], as in the file.
        logits: float32 [n, vocabulary].
        targets: the tokens that came, integer [n].
    """
    count, vocabulary = logits.shape
    rows = Rows(np.empty(count), np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.bool_))
    for block in blocks(count, vocabulary):
        _diverge(base[block], logits[block], targets[block], rows, block)
    return rows


def _diverge(base: Codes, logits: Logits, targets: npt.NDArray[np.integer], rows: Rows, block: slice) -> None:
    each = np.arange(len(targets))
    nll = perplexity.nll(logits, targets)
    top = logits.argmax(axis=1)
    peak, target = logits[each, top], logits[each, targets]
    log_sum = (nll + (target - peak)).astype(np.float32)
    normalizer = peak + log_sum
    log_base = log_probs(base, logits.shape[1], room.floats("base", logits.shape))
    target_base = log_base[each, targets]
    rows.nll[block] = nll
    rows.nll_base[block] = -target_base
    rows.p_diff[block] = np.exp(target - normalizer) - np.exp(target_base)
    rows.same_top[block] = top == log_base.argmax(axis=1)
    rows.kld[block] = _kld(log_base, logits, normalizer)


def _kld(log_base: Logits, logits: Logits, normalizer: Logits) -> npt.NDArray[np.float64]:
    """Σ p_base * (log p_base - log p) of each row, over what the base holds for likelier than exp(-16)."""
    counted = log_base > -DEPTH
    weights = np.exp(log_base, out=room.floats("work", log_base.shape))
    weights *= counted
    terms = np.subtract(log_base, logits, out=log_base)
    terms += normalizer[:, None]
    with np.errstate(invalid="ignore"):
        terms *= weights
        result = perplexity.sums(terms)
    if np.isnan(result).any():  # a logit of -inf that does not count: an infinite term times 0. Ten times slower.
        terms[~counted] = 0
        result = perplexity.sums(terms)
    return result


class BaseFile:
    """A file of base logits, to be read, or to be written chunk by chunk. Its methods may be called by threads at once.

    While it is written its name ends in `.part`, which has its full size from the start and may be opened and read
    like a whole one: what is not there yet has 0 for a lowest log-probability, which no row has, and is refused. So
    whatever was put before a crash counts after it.
    """

    def __init__(self, path: Path, file: FileIO, context: int, vocabulary: int, chunks: int) -> None:
        self.path, self.context, self.vocabulary, self.chunks = path, context, vocabulary, chunks
        self.scored = _scored(context)
        self._file = file
        self._lock = threading.Lock()
        self._row = 2 * width(vocabulary)
        self._begin = _HEADER.size + 4 * context * chunks

    @classmethod
    def create(cls, path: Path, context: int, vocabulary: int, chunks: int, tokens: TokenArray) -> BaseFile:
        """Begin a file for the first `chunks` chunks of `tokens`, or go on with its `.part` if that is for the same.

        Raises:
            OSError: a full disk, with the file's name.
            UserError: it cannot be written.
            ValueError: there are not that many tokens.
        """
        if len(tokens) < chunks * context:
            raise ValueError(f"{len(tokens)} tokens make no {chunks} chunks of {context}")
        part = partial(path)
        head = _HEADER.pack(_MAGIC, context, vocabulary, chunks) + tokens[: chunks * context].astype("<i4").tobytes()
        try:
            file = FileIO(part, "r+" if part.exists() else "w+", opener=paths.private)
            if file.seek(0, os.SEEK_END) != size(context, vocabulary, chunks) or _read(file, 0, len(head)) != head:
                file.truncate(0)
                _write(file, 0, head)
                file.truncate(size(context, vocabulary, chunks))
        except OSError as error:
            if no_room(error):
                raise OSError(error.errno, error.strerror, str(part)) from None
            raise UserError(f"{clean(str(part))}: cannot be written: {error.strerror}") from None
        return cls(path, file, context, vocabulary, chunks)

    @classmethod
    def open(cls, path: Path) -> BaseFile:
        """Open a file for reading.

        Raises:
            UserError: it cannot be read, is none of this kind, or is cut off.
        """
        name = clean(str(path))
        try:
            file = FileIO(path, "r")
            found, head = file.seek(0, os.SEEK_END), _read(file, 0, _HEADER.size)
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror}): give another base with --kld-base") from None
        try:
            return cls(path, file, *_header(name, head, found))
        except UserError:
            file.close()
            raise

    def usable(self, context: int, vocabulary: int, tokens: TokenArray) -> int:
        """How many of the first chunks of a text, as these tokens, have their base here.

        Raises:
            UserError: the file is for another n_ctx, another vocabulary or other tokens.
        """
        self.suits(context, vocabulary)
        chunks = min(self.chunks, len(tokens) // context)
        ours = tokens[: chunks * context].astype("<i4")
        if self._get(_HEADER.size, ours.nbytes) != ours.tobytes():
            raise UserError(
                f"{clean(str(self.path))}: was made from other tokens: give the text that it was made from (--text), "
                "or make it anew"
            )
        return chunks

    def suits(self, context: int, vocabulary: int) -> None:
        """Refuse the file for another model's logits.

        Raises:
            UserError: the file is for another n_ctx or another vocabulary.
        """
        name = clean(str(self.path))
        if self.vocabulary != vocabulary:
            raise UserError(
                f"{name}: is for a vocabulary of {self.vocabulary} tokens and the model has {vocabulary}: "
                "KL divergence needs a base of the same vocabulary (--kld-base)"
            )
        if self.context != context:
            raise UserError(
                f"{name}: was made with a context of {self.context} and not {context}: "
                f"measure with --context {self.context}, or make it anew"
            )

    def put(self, chunk: int, logits: Logits, first: int = 0) -> None:
        """Write the rows of a chunk's scored positions from the `first` on: logits float32 [n, vocabulary].

        Raises:
            UserError: the logits are no numbers.
            OSError: a full disk, with the file's name.
        """
        for block in blocks(len(logits), self.vocabulary):
            codes = encode(logits[block])
            if not _sound(heads(codes), self.vocabulary).all():
                raise UserError(
                    f"{clean(str(self.path))}: chunk {chunk} of the base has logits that are no numbers: "
                    "its model file or this llama.cpp build is broken"
                )
            self._put(self._offset(chunk, first + block.start), codes)

    def _put(self, offset: int, codes: Codes) -> None:
        """A block's first head goes last: a block of which only a part was written before a crash lacks it."""
        head = codes[0, :_HEAD].tobytes()
        codes[0, :_HEAD] = 0
        try:
            with self._lock:
                _write(self._file, offset, codes.data.cast("B"))
                _write(self._file, offset, head)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def codes(self, chunk: int, first: int = 0, last: int | None = None) -> Codes:
        """The rows of a chunk's scored positions `first` … `last` - 1 as they are in the file, uint16 [n, width].

        Raises:
            UserError: they are damaged, or not written yet.
        """
        last = self.scored if last is None else last
        codes = np.empty((last - first, width(self.vocabulary)), "<u2")
        self._fill(self._offset(chunk, first), codes.data.cast("B"))
        if not _sound(heads(codes), self.vocabulary).all():
            raise UserError(f"{clean(str(self.path))}: chunk {chunk} is damaged or was never written: make it anew")
        return codes

    def rows(self, chunk: int, first: int = 0, last: int | None = None) -> Logits:
        """The same as log-probabilities, float32 [n, vocabulary]."""
        return log_probs(self.codes(chunk, first, last), self.vocabulary)

    def whole(self, chunk: int) -> bool:
        """Whether all rows of a chunk are written."""
        places = [self._offset(chunk, row) for row in range(self.scored)]
        found = b"".join(self._get(place, 2 * _HEAD) for place in places)
        return bool(_sound(np.frombuffer(found, "<f4").reshape(-1, 2), self.vocabulary).all())

    def finish(self) -> None:
        """Give the file that was written its name, and let go of it.

        Raises:
            UserError: chunks are missing, or it cannot be renamed.
        """
        missing = sum(not self.whole(chunk) for chunk in range(self.chunks))
        self.close()
        if missing:
            raise UserError(f"{clean(str(self.path))}: {missing} of {self.chunks} chunks of the base are missing in it")
        try:
            os.replace(partial(self.path), self.path)
        except OSError as error:
            raise UserError(f"{clean(str(self.path))}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _offset(self, chunk: int, row: int) -> int:
        if not (0 <= chunk < self.chunks and 0 <= row < self.scored):
            raise IndexError(f"row {row} of chunk {chunk}: there are {self.scored} in each of {self.chunks}")
        return self._begin + (chunk * self.scored + row) * self._row

    def _get(self, offset: int, count: int) -> bytes:
        into = bytearray(count)
        self._fill(offset, memoryview(into))
        return bytes(into)

    def _fill(self, offset: int, into: memoryview) -> None:
        try:
            with self._lock:
                filled = _read_into(self._file, offset, into)
        except OSError as error:
            raise UserError(f"{clean(str(self.path))}: cannot be read ({error.strerror})") from None
        if filled < len(into):
            raise UserError(f"{clean(str(self.path))}: was cut off while it was read: make it anew")


def partial(path: Path) -> Path:
    """Where a file grows until it is whole."""
    return path.with_name(f"{path.name}.part")


def _header(name: str, head: bytes, found: int) -> tuple[int, int, int]:
    """n_ctx, n_vocab and n_chunk from the first bytes of a file of `found` bytes.

    Raises:
        UserError: it is no such file, or not all of it.
    """
    if not head.startswith(_MAGIC):
        raise UserError(
            f"{name}: holds no base logits: give a file that llama-perplexity --kl-divergence-base or --kld-base wrote"
        )
    if len(head) < _HEADER.size:
        raise UserError(f"{name}: is cut off in its header: make it anew")
    _, context, vocabulary, chunks = _HEADER.unpack(head)
    if _scored(context) < 1 or vocabulary < 2 or chunks < 1:
        raise UserError(
            f"{name}: is damaged: its header tells of {chunks} chunks of {context} tokens and a vocabulary of "
            f"{vocabulary}: make it anew"
        )
    expected = size(context, vocabulary, chunks)
    if found != expected:
        what = "is cut off" if found < expected else "is damaged"
        raise UserError(f"{name}: {what}: it has {found} bytes, its header tells of {expected}: make it anew")
    return context, vocabulary, chunks


def _sound(head: npt.NDArray[np.float32], vocabulary: int) -> npt.NDArray[np.bool_]:
    """Whether these can be heads of rows: the likeliest token has a probability between 1 / vocabulary and 1."""
    with np.errstate(invalid="ignore"):  # what is no number is not sound, and needs no warning beside that
        scale, low = head[:, 0].astype(np.float64), head[:, 1].astype(np.float64)
    high = low + scale * _TOP
    possible: npt.NDArray[np.bool_] = (scale >= 0) & (low < 0) & (scale * _TOP < DEPTH + 1)
    return possible & (high > -math.log(vocabulary) - _SLACK) & (high < _SLACK)


def _read(file: FileIO, offset: int, count: int) -> bytes:
    into = bytearray(count)
    return bytes(into[: _read_into(file, offset, memoryview(into))])


def _read_into(file: FileIO, offset: int, into: memoryview) -> int:
    """Fill `into` from `offset` on; how many bytes there were."""
    file.seek(offset)
    filled = 0
    while filled < len(into):
        count = file.readinto(into[filled:])
        if not count:
            break
        filled += count
    return filled


def _write(file: FileIO, offset: int, data: bytes | memoryview) -> None:
    file.seek(offset)
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
