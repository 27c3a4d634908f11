"""Makes quants of an F32, F16 or BF16 GGUF and keeps them in a folder of bounded size.

Owns the cache's file names, its eviction and its safety: a quant is written under a name of its own and renamed when
it is whole, so that a half-written one is never taken for a quant; several processes may share the folder. The work is
done by an engine process that is asked for it; llama.cpp itself must not be known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from quanttui import events, quants
from quanttui.engine.protocol import Quantize
from quanttui.errors import UserError
from quanttui.format import clean, size
from quanttui.models import header as headers
from quanttui.models import label
from quanttui.models.header import Header, Tensor

SPARE_BYTES = 256 << 20
"""Free disk that a quantization leaves."""
ESTIMATE_ERROR = 0.15
"""How far a quant may come out above its estimate. Held against llama.cpp's dry runs: 7 % for models of the llama and
expert kinds, 13 % at most where attention is one fused tensor (phi-2's Q3_K_L): more bits are chosen for those."""
FOREIGN_LEFTOVER_AGE = 7 * 86400
"""Seconds after which a half-written quant of another machine counts as left over."""

_FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q2_0": "Q4_0",
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
}
"""What llama.cpp (llama-quant.cpp, tensor_type_fallback) puts where a row does not divide into the type's blocks."""


class Asks(Protocol):
    """An engine process that answers one request with a stream of events and raises when it fails."""

    def ask(self, request: Any) -> Iterator[events.Event]:
        """Send the request; yield what comes back until it is done."""
        ...


@dataclass(frozen=True)
class Cached:
    """A quant in the cache: `used` is when it was last asked for, in seconds since the epoch."""

    path: Path
    bytes: int
    used: float
    in_use: bool


def estimate_bytes(header: Header, quant: quants.Quant) -> int:
    """The size of the file that quantizing `header`'s model to `quant` makes, in bytes, within ESTIMATE_ERROR.

    Blocks at the quant's nominal bits, embedding and output at their types, small tensors as they are; rows that do
    not divide into blocks at the type that llama.cpp falls back to.
    """
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    data = sum(_estimated(tensor, quant, tied) for tensor in header.tensors)
    return header.data_offset + round(data) + header.alignment * len(header.tensors) // 2


def _estimated(tensor: Tensor, quant: quants.Quant, tied: bool) -> float:
    if not _is_quantized(tensor):
        return tensor.bytes
    if quant.family == "float":
        return tensor.elements * quants.BY_TYPE_NAME[quant.tensor_type].bits / 8
    part = headers.role(tensor.name)
    if part == "output" or (part == "embedding" and tied):
        return _sized(tensor, quant.output if tensor.shape[0] % quant.block == 0 else "Q8_0")
    if part == "embedding":
        return _sized(tensor, quant.embedding)
    if quant.name == "MXFP4_MOE" and part != "experts":
        return _sized(tensor, "Q8_0")
    return _sized(tensor, quant.tensor_type) * quant.block_bits / quants.BY_TYPE_NAME[quant.tensor_type].bits


def _sized(tensor: Tensor, kind: str) -> float:
    """Bytes of the tensor in that type, or in what llama.cpp falls back to."""
    for candidate in (kind, _FALLBACKS.get(kind, "F16"), "F16"):
        if tensor.shape[0] % quants.BY_TYPE_NAME[candidate].block == 0:
            return tensor.elements * quants.BY_TYPE_NAME[candidate].bits / 8
    return tensor.bytes


def _is_quantized(tensor: Tensor) -> bool:
    small = "_norm." in tensor.name or "ffn_gate_inp" in tensor.name
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and not small


def make(
    arm: events.PlannedArm,
    engine: Asks,
    cache: Path,
    max_bytes: int,
    threads: int,
    *,
    build: str,
    free: Callable[[Path], int] | None = None,
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
    key = yield from _key(arm, header, quant, cache, build)
    folder = cache / "quants"
    target = folder / f"{label.without_quant(source.name)[:60] or 'model'}-{quant.name}-{key}.gguf"
    _prepare(folder)
    _mark(target)
    try:
        if not _is_whole(target):
            yield from _make(arm, quant, header, engine, target, max_bytes, threads, free or _free)
        _touch(target)
    except BaseException:
        release(target)
        raise
    return target


def release(file: Path) -> None:
    """This process needs the cached file no longer: it may be evicted."""
    _mark_of(file).unlink(missing_ok=True)


def cached(folder: Path) -> tuple[Cached, ...]:
    """The quants in the folder, least recently used first, and what is being written there now."""
    found, marked = [], set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            match = _OWNED.match(entry.name)
            if match and match["kind"] == "use":
                marked.add(match["name"])
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(".gguf") or (match and match["kind"] != "use"):
                    found.append(Cached(Path(entry.path), status.st_size, status.st_atime, match is not None))
    every = (Cached(each.path, each.bytes, each.used, each.in_use or each.path.name in marked) for each in found)
    return tuple(sorted(every, key=lambda each: (each.used, each.path.name)))


def evictions(entries: Iterable[Cached], needed: int, max_bytes: int, free: int) -> tuple[Cached, ...] | None:
    """What has to go so that `needed` bytes fit under `max_bytes` and onto a disk with `free` bytes left.

    Least recently used first, never one in use, no more than needed; None where even all of them are not enough.
    """
    entries = sorted(entries, key=lambda each: each.used)
    held, gone = sum(each.bytes for each in entries), []
    room = min(max_bytes - held - needed, free - needed - SPARE_BYTES)
    for entry in entries:
        if room >= 0:
            break
        if not entry.in_use:
            gone.append(entry)
            room += entry.bytes
    return tuple(gone) if room >= 0 else None


def make_room(folder: Path, estimate: int, max_bytes: int, free: Callable[[Path], int]) -> None:
    """Evict until a file of about `estimate` bytes fits.

    Raises:
        UserError: it cannot fit, naming the folder and the bytes.
    """
    needed = round(estimate * (1 + ESTIMATE_ERROR))
    available = free(folder)
    gone = evictions(cached(folder), needed, max_bytes, available)
    where = clean(str(folder), 200)
    if gone is None and needed > max_bytes:
        raise UserError(
            f"{where}: a quant of {size(needed)} is larger than its limit, {size(max_bytes)}: raise cache_gib"
        )
    if gone is None:
        raise UserError(
            f"{where} has no room for a quant of {size(needed)} ({needed} bytes): its disk has {size(available)} free,"
            f" its limit (cache_gib) is {size(max_bytes)}, and what it holds is in use"
        )
    for entry in gone:
        entry.path.unlink(missing_ok=True)


def _make(
    arm: events.PlannedArm,
    quant: quants.Quant,
    header: Header,
    engine: Asks,
    target: Path,
    max_bytes: int,
    threads: int,
    free: Callable[[Path], int],
) -> Generator[events.Event, None, None]:
    """Quantize under a name of this process's own, check the result, and only then give it its name."""
    make_room(target.parent, estimate_bytes(header, quant), max_bytes, free)
    temporary = target.with_name(f".{target.name}.{_me()}.{uuid.uuid4().hex[:8]}.tmp")
    request = Quantize(
        arm=arm.id,
        source=str(header.files[0]),
        target=str(temporary),
        quant=quant.name,
        ftype=quant.ftype,
        imatrix=arm.imatrix,
        threads=threads,
    )
    try:
        yield from engine.ask(request)
        headers.read(temporary)
        _settle(temporary, target)
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
    arm: events.PlannedArm, header: Header, quant: quants.Quant, cache: Path, build: str
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
    return hashlib.sha256("\0".join([quant.name, build, *digests]).encode()).hexdigest()[:16]


_OWNED = re.compile(
    r"^\.(?P<name>.+\.gguf)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)(?:\.[0-9a-f]{8})?\.(?P<kind>use|tmp|tmp\.part)$"
)
"""A file beside a quant that belongs to one process: a mark of use, or a quant being written."""


def _host() -> str:
    """This machine and its process numbers' namespace: containers of one machine count pids on their own."""
    namespace = ""
    with contextlib.suppress(OSError, AttributeError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _me() -> str:
    return f"{_host()}-{os.getpid()}-{int(psutil.Process().create_time())}"


def _lives(pid: int, started: int) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started) < 2
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _mark_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_me()}.use")


def _mark(target: Path) -> None:
    _mark_of(target).touch()


def _touch(target: Path) -> None:
    """Note the use in the access time; the time of change stays, since digests are remembered by it."""
    status = target.stat()
    os.utime(target, ns=(time.time_ns(), status.st_mtime_ns))


def _prepare(folder: Path) -> None:
    """Make the folder, and remove what dead processes left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(folder):
            match = _OWNED.match(entry.name)
            if match and _is_leftover(Path(entry.path), match):
                Path(entry.path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{clean(str(folder), 200)} cannot be used as the cache of quants: {error.strerror}") from None


def _is_leftover(path: Path, match: re.Match[str]) -> bool:
    if match["host"] == _host():
        return not _lives(int(match["pid"]), int(match["started"]))
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > FOREIGN_LEFTOVER_AGE
    return False


def _is_whole(target: Path) -> bool:
    try:
        headers.read(target)
    except UserError:
        target.unlink(missing_ok=True)
        return False
    return True


def _settle(temporary: Path, target: Path) -> None:
    """Onto the disk, then under its name: a crash leaves the whole quant or none."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    with contextlib.suppress(OSError):
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
