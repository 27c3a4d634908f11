"""Makes quants of an F32, F16 or BF16 GGUF: into the cache (models.store), or where they are wanted.

The work is done by an engine process that is asked for it; llama.cpp itself must not be known here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from quanttui import events, quants
from quanttui.engine.protocol import Quantize
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models import label, mix, store
from quanttui.models.header import Header
from quanttui.models.mix import Overrides

TYPES = frozenset(quant.tensor_type for quant in quants.QUANTS if quant.writable)
"""Tensor types that llama.cpp can make."""

_WANT_MATRIX = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
_SPARED = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "output.weight"})
"""Which tensor types llama.cpp makes only with an importance matrix, but for these tensors (llama-quant.cpp,
tensor_requires_imatrix)."""


class Asks(Protocol):
    """An engine process that answers one request with a stream of events and raises when it fails."""

    def ask(self, request: Any) -> Iterator[events.Event]:
        """Send the request; yield what comes back until it is done."""
        ...


def estimate_bytes(header: Header, quant: quants.Quant, imatrix: bool = False, overrides: Overrides = ()) -> int:
    """The size of the file that quantizing `header`'s model to `quant` makes, in bytes, within store.ESTIMATE_ERROR.

    Exact but for the keys that quantizing adds, some hundred bytes, for the architectures that models.mix knows.
    """
    return mix.requantized(header, quant, imatrix, overrides).file_bytes


def wanting(header: Header, quant: quants.Quant, matrix: Container[str] | None, overrides: Overrides = ()) -> str:
    """The tensor for which llama.cpp will ask for an importance matrix, "" where it makes the quant.

    `matrix` are the names that the matrix has, None where there is none.
    """
    kinds = mix.types(header, quant, matrix is not None, overrides)
    for tensor in sorted(header.tensors, key=mix.order):
        kind = kinds[tensor.name]
        wants = kind in _WANT_MATRIX or (kind == "Q2_K" and quant.name == "Q2_K_S")
        if wants and tensor.name not in _SPARED and not (matrix is not None and tensor.name in matrix):
            return tensor.name
    return ""


def overridden(words: Iterable[str], header: Header) -> tuple[tuple[str, str], ...]:
    """The overrides that words such as `attn_v=q8_0` mean: as of llama-quantize, which knows patterns in lower case.

    Raises:
        UserError: one is none, has no such type, or fits no tensor that is quantized.
    """
    found = []
    names = [tensor.name for tensor in header.tensors if mix.allowed(tensor)]
    for word in words:
        pattern, _, kind = word.partition("=")
        flag, pattern, kind = f"--tensor-type {clean(word, 80)}", pattern.lower(), kind.strip().upper()
        if not pattern or not kind:
            raise UserError(f"{flag}: is no PATTERN=TYPE, such as attn_v=q8_0")
        if kind not in TYPES:
            raise UserError(f"{flag}: llama.cpp makes no such type; there are {', '.join(sorted(TYPES))}")
        try:
            fits = any(map(re.compile(pattern).search, names))
        except re.error as error:
            raise UserError(f"{flag}: is no regular expression ({clean(str(error), 80)})") from None
        if not fits:
            raise UserError(f"{flag}: no tensor that is quantized has it in its name")
        found.append((pattern, kind))
    return tuple(found)


def make(
    arm: events.PlannedArm,
    engine: Asks,
    cache: Path,
    max_bytes: int,
    threads: int,
    *,
    build: str,
    free: Callable[[Path], int] | None = None,
    overrides: Overrides = (),
) -> Generator[events.Event, None, Path]:
    """Have `arm.source` quantized to `arm.quant`, or find it in the cache: `file = yield from make(…)`.

    Yields PhaseProgress of the phase quantize. The file is marked as in use by this process until `release`; what
    others use is never evicted. `build` is llama.cpp's build, part of the key: another one may quantize otherwise.
    `free` tells the free bytes of a folder's disk.

    Raises:
        UserError: the source cannot be quantized to that, or the cache or its disk has no room for it.
        Exception: what the engine raises.
    """
    source = Path(arm.source)
    header = headers.read(source)
    quant = _wanted(arm, header)
    if not label.is_unquantized(header):
        return _as_it_is(header, quant)
    key = yield from _key(arm, header, quant, cache, build, overrides)
    folder = cache / "quants"
    target = folder / f"{label.without_quant(source.name)[:60] or 'model'}-{quant.name}-{key}.gguf"
    store.prepare(folder, "as the cache of quants", private=True)
    store.hold(target)
    try:
        if not store.is_whole(target):
            estimate = estimate_bytes(header, quant, bool(arm.imatrix), overrides)
            store.make_room(folder, estimate, max_bytes, free or store.free_bytes)
            yield from _make(arm, quant, header, engine, target, threads, overrides)
            store.lock_up(target)
        store.touch(target)
    except BaseException:
        store.release(target)
        raise
    return target


def make_at(
    arm: events.PlannedArm,
    engine: Asks,
    target: Path,
    threads: int,
    *,
    free: Callable[[Path], int] | None = None,
    overrides: Overrides = (),
) -> Generator[events.Event, None, Path]:
    """Have `arm.source` quantized to `arm.quant` into the file `target`: it appears whole or not at all.

    What was there is replaced. Yields as `make` does.

    Raises:
        UserError: the source cannot be quantized to that, or the disk has no room for it.
        Exception: what the engine raises.
    """
    header = headers.read(Path(arm.source))
    quant = _wanted(arm, header)
    if not label.is_unquantized(header):
        _as_it_is(header, quant)
    if target.exists() and any(target.samefile(file) for file in header.files):
        raise UserError(f"{clean(str(target), 200)} is the source itself: name another folder with --out")
    store.prepare(target.parent, "to write to")
    store.fitting(target.parent, estimate_bytes(header, quant, bool(arm.imatrix), overrides), free or store.free_bytes)
    yield from _make(arm, quant, header, engine, target, threads, overrides)
    return target


def _make(
    arm: events.PlannedArm,
    quant: quants.Quant,
    header: Header,
    engine: Asks,
    target: Path,
    threads: int,
    overrides: Overrides,
) -> Generator[events.Event, None, None]:
    """Quantize under a name of this process's own, check the result, and only then give it its name."""
    temporary = store.temporary(target)
    request = Quantize(
        arm=arm.id,
        source=str(header.files[0]),
        target=str(temporary),
        quant=quant.name,
        ftype=quant.ftype,
        imatrix=arm.imatrix,
        threads=threads,
        tensor_types=tuple(overrides),
    )
    try:
        yield from engine.ask(request)
        headers.read(temporary)
        store.settle(temporary, target)
    except Exception as error:
        if quant.needs_imatrix and not arm.imatrix and getattr(error, "outcome", "") == "refused":
            raise UserError(
                f"{quant.name} of {clean(header.path.name, 120)} was refused: llama.cpp makes it only with an"
                " importance matrix; give one with --imatrix FILE"
            ) from error
        raise
    finally:
        for leftover in (temporary, Path(request.partial)):
            leftover.unlink(missing_ok=True)


def _wanted(arm: events.PlannedArm, header: Header) -> quants.Quant:
    quant = quants.named(arm.quant)
    if quant is None or not quant.writable:
        raise UserError(f"{clean(arm.quant, 40)!r} is no quant that llama.cpp can make of {clean(arm.source, 200)}")
    if not header.tensors:
        raise UserError(f"{clean(arm.source, 200)} holds no tensors: it is a vocabulary, not a model")
    return quant


def _as_it_is(header: Header, quant: quants.Quant) -> Path:
    """A source that is quantized already serves only as what it is."""
    if label.label_note(header, quant.name) == "":
        return header.path
    raise UserError(
        f"{clean(str(header.path), 200)} is quantized already ({label.actual(header)}): {quant.name} has to be made"
        " from an F32, F16 or BF16 GGUF of the same model"
    )


def _key(
    arm: events.PlannedArm, header: Header, quant: quants.Quant, cache: Path, build: str, overrides: Overrides
) -> Generator[events.Event, None, str]:
    """The cache's key: what went into the quant, hashed. Large sources take a while: nothing is quantized yet."""
    digests = []
    for file in (*header.files, *([Path(arm.imatrix)] if arm.imatrix else [])):
        hashing = headers.hashing(file, cache)
        while True:
            try:
                next(hashing)
            except StopIteration as done:
                digests.append(done.value)
                break
            yield events.PhaseProgress(arm=arm.id, phase="quantize", fraction=0.0)
    named = [f"{pattern}={kind}" for pattern, kind in overrides]
    return hashlib.sha256("\0".join([quant.name, build, *digests, *named]).encode()).hexdigest()[:16]


