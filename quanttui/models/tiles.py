"""Ghosts of any size, in any quant: the GGUF of a header, tiled with blocks that ggml really quantized.

Owns the tiles, the file that is made of them, and its way into the cache or a folder. Weights are what quantization
leaves of normally distributed ones, in blocks of random order: they decode as fast as any others, and mean nothing.
Must not know what a ghost is measured for; runs nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from quanttui import events, quants
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import files, ghost, mix, outline, store
from quanttui.models import header as headers
from quanttui.models.header import Header, Tensor

MARK = "ghost of "
"""How the name in a ghost's header begins: it has a speed and a memory, and no perplexity that says anything."""

VERSION = 1
"""Of what is put where in the file of a header: another one is another file in the cache."""

BLOCKS = Path(__file__).with_name("tiles.msgpack")
"""WEIGHTS weights in each type that files keep them in, quantized by ggml (tests/tiles.py)."""

WEIGHTS = 8192
SPREAD = 0.02
"""Standard deviation of the weights: initializer_range of the published configs. With norms of one, sums over rows of
64 to 28,672 of them have deviations from 0.2 to 3.4: nothing overflows, nothing vanishes."""

BOLT = 8 << 20
"""Bytes over which a type's tiles are laid in random order: all that is in memory of them."""

PIECE = 2 << 20
"""Bytes that are written at once, from a random place of the bolt: so rows that are alike are far apart."""

STEP = 0.01
"""The share of a file after which progress is told."""

_PHI_3 = re.compile(r"phi-?3", re.IGNORECASE)
"""In a file of such a name llama.cpp looks for tokens that a ghost's vocabulary does not have (llama-vocab.cpp)."""

_TOKEN_BYTES = 22
"""Bytes of metadata for each token: at most five letters and the space, lengths, score and kind."""


def is_ghost(name: str) -> bool:
    """Whether the name in a header is a ghost's."""
    return name.startswith(MARK)


def header_of(argument: str, quant: quants.Quant) -> Header:
    """The header of the ghost that `ghost:NAME` names in that quant, marked as one.

    A GGUF's header in the quant that it has already keeps its own types, whatever rules they were chosen by.

    Raises:
        UserError: its shape is not known, its header cannot be read, or llama.cpp makes no such quant.
    """
    if not quant.writable:
        raise UserError(f"{quant.name}: llama.cpp reads such files and makes none, so there is no ghost of one")
    path = argument[len(outline.PREFIX) :]
    if path.lower().endswith(".gguf") and files.read(Path(path)).quant == quant.name:
        made = _aligned(headers.read(path))
    else:
        made = mix.requantized(outline.named(argument), quant, quant.needs_imatrix)
    return marked(made)


def marked(header: Header) -> Header:
    """The header with a ghost's name, and the size that the file will have, to well under a hundredth."""
    name = clean(str(header.metadata.get("general.name") or header.path.stem), 80).removeprefix(MARK)
    metadata = {**header.metadata, "general.name": f"{MARK}{_PHI_3.sub('Phi 3', name)}"}
    start = sum(56 + len(tensor.name) for tensor in header.tensors) + _TOKEN_BYTES * _tokens(header)
    return replace(header, metadata=metadata, file_bytes=start + outline.data_bytes(header))


def _tokens(header: Header) -> int:
    """The rows of the embedding."""
    return next((tensor.shape[1] for tensor in header.tensors if tensor.name == "token_embd.weight"), 0)


def label_of(argument: str) -> str:
    """The quant that the GGUF which `ghost:PATH` names has already; "" where it names none.

    Raises:
        UserError: the file cannot be read.
    """
    path = argument[len(outline.PREFIX) :]
    if not path.lower().endswith(".gguf"):
        return ""
    found = files.read(Path(path))
    if found.error:
        raise UserError(found.error)
    return found.quant


def make(
    arm: events.PlannedArm,
    cache: Path,
    max_bytes: int,
    *,
    free: Callable[[Path], int] | None = None,
) -> Generator[events.Event, None, Path]:
    """The file of the ghost that the arm is, in the cache: written now, if it is not there.

    Yields PhaseProgress of the phase quantize. As with quants that are made (quantize.make) the file counts as in use
    until `store.release`, and nobody ever sees half of one.

    Raises:
        UserError: there is no such ghost, or no room for it.
    """
    header = _header_of(arm)
    target = _place(header, arm.quant, cache)
    folder = target.parent
    store.prepare(folder, "as the cache of quants", private=True)
    store.hold(target)
    try:
        if not store.is_whole(target):
            store.make_room(folder, _less(header.file_bytes), max_bytes, free or store.free_bytes)
            for fraction in write(header, target):
                yield events.PhaseProgress(arm=arm.id, phase="quantize", fraction=fraction)
            store.lock_up(target)
        store.touch(target)
    except BaseException:
        store.release(target)
        raise
    return target


@dataclass(frozen=True)
class Wanted:
    """A ghost that is to be written into a file; `is_there`: the same one lies there already."""

    quant: str
    header: Header
    path: Path
    is_there: bool

    @property
    def bytes(self) -> int:
        """What it takes, to well under a hundredth."""
        return self.header.file_bytes


def wanted(name: str, spec: str, folder: Path, free: Callable[[Path], int] | None = None) -> tuple[Wanted, ...]:
    """The files that `quanttui ghost NAME --quants SPEC --out FOLDER` writes, largest first; none is written yet.

    `spec` may be empty where NAME is a GGUF's path: the quant that it is.

    Raises:
        UserError: there is no such ghost, another file is in its place, or the disk has no room for all of them.
    """
    argument = outline.spelled(name)
    spec = spec or label_of(argument)
    if not spec:
        raise UserError(f"{clean(name, 120)}: say which quants with --quants, for example Q8_0,Q4_K_M")
    found = []
    for quant in quants.parse(spec):
        header = header_of(argument, quant)
        path = folder / f"{file_name(header, quant.name)}.gguf"
        found.append(Wanted(quant.name, header, path, _is_there(path, header)))
    store.prepare(folder, "to write to")
    missing = sum(one.bytes for one in found if not one.is_there)
    store.fitting(folder, _less(missing), free or store.free_bytes)
    return tuple(sorted(found, key=lambda one: -one.bytes))


def _is_there(path: Path, header: Header) -> bool:
    """Whether that very ghost lies there, whole.

    Raises:
        UserError: something else does.
    """
    if not path.exists():
        return False
    with suppress(UserError):
        there = headers.read(path)
        if headers.name(there) == headers.name(header) and headers.tensor_types(there) == headers.tensor_types(header):
            return True
    raise UserError(f"{clean(str(path), 200)}: is there, and no such ghost: move it, or name another folder with --out")


def _less(exact: int) -> int:
    """An estimate from whose excess room is made for `exact` bytes, no more."""
    return int(exact / (1 + store.ESTIMATE_ERROR))


def missing_bytes(arms: Iterable[events.PlannedArm], cache: Path) -> int:
    """Bytes of those of the ghosts that are not in the cache yet.

    Raises:
        UserError: there is no such ghost.
    """
    each = ((header, _place(header, arm.quant, cache)) for arm in arms for header in (_header_of(arm),))
    return sum(header.file_bytes for header, place in each if not place.is_file())


def fits(needed: int, cache: Path, max_bytes: int, free: Callable[[Path], int] | None = None) -> bool:
    """Whether so many bytes have room in the cache, be it that others have to go."""
    folder = cache / "quants"
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    available = (free or store.free_bytes)(there)
    return store.evictions(store.cached(folder), needed, max_bytes, available) is not None


def _header_of(arm: events.PlannedArm) -> Header:
    quant = quants.named(arm.quant)
    if quant is None:
        raise UserError(f"{clean(arm.quant, 40)!r} is no quant of llama.cpp's")
    return header_of(arm.source, quant)


def _place(header: Header, quant: str, cache: Path) -> Path:
    return cache / "quants" / f"{file_name(header, quant)}-{_identity(header)}.gguf"


def file_name(header: Header, quant: str) -> str:
    """What a ghost's file is called, without its ending: `ghost-llama-3.2-1b-Q4_K_M`."""
    name = str(header.metadata.get("general.name", "")).removeprefix(MARK).lower()
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return f"ghost-{kept.strip('-.')[:60] or 'model'}-{quant}"


def write(header: Header, target: Path) -> Iterator[float]:
    """Write the GGUF under a name of this process's own, and give it its name when it is whole and on the disk.

    The same header gives the same bytes. Yields the share that is written, now and then.

    Raises:
        UserError: it cannot be written, or has tensors of a type without tiles.
    """
    rows = _tokens(header)
    if rows < ghost.LEAST_TOKENS:
        raise UserError(
            f"{clean(str(header.path), 200)}: {rows} tokens are too few for a ghost: it takes {ghost.LEAST_TOKENS}"
        )
    part = store.temporary(target)
    try:
        outline.begin(header, part, lambda writer: ghost.vocabulary(writer, rows))
        with open(part, "ab") as file:
            yield from _data(header, file)
        store.settle(part, target)
    except OSError as error:
        raise UserError(f"{clean(str(target), 200)}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _data(header: Header, file: BinaryIO) -> Iterator[float]:
    """All tensors' data, each padded."""
    whole, done, told = max(1, outline.data_bytes(header)), 0, 0.0
    for index, tensor in enumerate(header.tensors):
        for piece in _pieces(tensor, index):
            file.write(piece)
            done += piece.nbytes
            if done / whole >= told + STEP:
                told = done / whole
                yield told
        done += file.write(bytes(-tensor.bytes % headers.DEFAULT_ALIGNMENT))


def _pieces(tensor: Tensor, index: int) -> Iterator[memoryview]:
    """A tensor's data, piece after piece."""
    constant = _constant(tensor)
    if constant is not None:
        yield _view(_floats(np.full(tensor.elements, constant, "<f4"), tensor.type))
        return
    kind = quants.BY_TYPE_NAME[tensor.type]
    bolt = _bolt(tensor.type)
    most = PIECE // kind.bytes * kind.bytes
    places = (bolt.nbytes - most) // kind.bytes
    random, left = np.random.default_rng((VERSION, index)), tensor.bytes
    while left:
        start, length = int(random.integers(places)) * kind.bytes, min(most, left)
        yield _view(bolt[start : start + length])
        left -= length


def _view(data: NDArray[np.uint8]) -> memoryview:
    return data.data


def _constant(tensor: Tensor) -> float | None:
    """What all weights of a small tensor are: norms and scales one, biases and sinks nothing, a state's decay a decay;
    None of a matrix."""
    if tensor.name.endswith((".bias", "attn_sinks.weight")):
        return 0.0
    if tensor.name.endswith("ssm_a"):
        return -1.0
    return 1.0 if tensor.elements == tensor.shape[0] else None


@lru_cache(maxsize=8)
def _bolt(kind: str) -> NDArray[np.uint8]:
    """BOLT bytes of a type, about: its tiles in random order; of what is no block, as many random numbers."""
    random, known = np.random.default_rng(VERSION), quants.BY_TYPE_NAME[kind]
    if known.block == 1:
        return _floats(random.standard_normal(BOLT // known.bytes, dtype=np.float32) * np.float32(SPREAD), kind)
    raw = _tiles().get(kind)
    if raw is None:
        raise UserError(f"no ghost can be made with tensors of type {kind}: nothing keeps weights in them")
    tiles = np.frombuffer(raw, np.uint8).reshape(-1, known.bytes)
    return tiles[random.integers(len(tiles), size=BOLT // known.bytes)].reshape(-1)


@lru_cache(maxsize=1)
def _tiles() -> dict[str, bytes]:
    return msgspec.msgpack.decode(BLOCKS.read_bytes(), type=dict[str, bytes])


def _floats(values: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """Numbers as the bytes of a type that is no block."""
    if kind == "F16":
        return values.astype("<f2").view(np.uint8)
    if kind == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    if kind == "F32":
        return values.astype("<f4").view(np.uint8)
    raise UserError(f"no ghost can be made with tensors of type {kind}: nothing keeps weights in them")


def _aligned(header: Header) -> Header:
    """The header with its tensors where they lie at the default alignment."""
    at, tensors = 0, []
    for tensor in header.tensors:
        tensors.append(replace(tensor, offset=at))
        at += tensor.bytes + -tensor.bytes % headers.DEFAULT_ALIGNMENT
    return replace(header, tensors=tuple(tensors), alignment=headers.DEFAULT_ALIGNMENT)


def _identity(header: Header) -> str:
    """What goes into the file, hashed."""
    tensors = [(tensor.name, tensor.type, tensor.shape) for tensor in header.tensors]
    parts = [VERSION, sorted(map(str, header.metadata.items())), tensors]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
