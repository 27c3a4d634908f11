"""Makes quants of an F32, F16 or BF16 GGUF: into a cache, a folder of bounded size, or where they are wanted.

Owns the cache's file names, its eviction and the safety of what is written: a quant gets a name of its own and is
renamed when it is whole, so that a half-written one is never taken for a quant; several processes may share the folder.
The work is done by an engine process that is asked for it; llama.cpp itself must not be known here.
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
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from quanttui import events, quants
from quanttui.engine.protocol import Quantize
from quanttui.errors import UserError
from quanttui.format import clean, size
from quanttui.models import header as headers
from quanttui.models import label, mix
from quanttui.models.header import Header
from quanttui.models.mix import Overrides

SPARE_BYTES = 256 << 20
"""Free disk that a quantization leaves."""
ESTIMATE_ERROR = 0.02
"""How far a quant may come out above its estimate: that is exact for the architectures whose rules models.mix has."""
FOREIGN_LEFTOVER_AGE = 7 * 86400
"""Seconds after which a half-written quant of another machine counts as left over."""

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


@dataclass(frozen=True)
class Cached:
    """A quant in the cache: `used` is when it was last asked for, in seconds since the epoch."""

    path: Path
    bytes: int
    used: float
    in_use: bool


def estimate_bytes(header: Header, quant: quants.Quant, imatrix: bool = False, overrides: Overrides = ()) -> int:
    """The size of the file that quantizing `header`'s model to `quant` makes, in bytes, within ESTIMATE_ERROR.

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
    prepare(folder, "as the cache of quants")
    _mark(target)
    try:
        if not _is_whole(target):
            estimate = estimate_bytes(header, quant, bool(arm.imatrix), overrides)
            make_room(folder, estimate, max_bytes, free or free_bytes)
            yield from _make(arm, quant, header, engine, target, threads, overrides)
        _touch(target)
    except BaseException:
        release(target)
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
    prepare(target.parent, "to write to")
    fitting(target.parent, estimate_bytes(header, quant, bool(arm.imatrix), overrides), free or free_bytes)
    yield from _make(arm, quant, header, engine, target, threads, overrides)
    return target


def fitting(folder: Path, estimate: int, free: Callable[[Path], int]) -> None:
    """That files of about `estimate` bytes together fit onto the folder's disk.

    Raises:
        UserError: they do not, in bytes.
    """
    needed, available = round(estimate * (1 + ESTIMATE_ERROR)), free(folder)
    if needed > available - SPARE_BYTES:
        raise UserError(
            f"{clean(str(folder), 200)} has no room for {size(needed)} ({needed} bytes): its disk has {size(available)}"
            f" free, of which {size(SPARE_BYTES)} are left: name another folder, or fewer quants"
        )


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
    threads: int,
    overrides: Overrides,
) -> Generator[events.Event, None, None]:
    """Quantize under a name of this process's own, check the result, and only then give it its name."""
    temporary = target.with_name(f".{target.name}.{_me()}.{uuid.uuid4().hex[:8]}.tmp")
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
        settle(temporary, target)
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


def prepare(folder: Path, use: str) -> None:
    """Make the folder, and remove what dead processes left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(folder):
            match = _OWNED.match(entry.name)
            if match and _is_leftover(Path(entry.path), match):
                Path(entry.path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{clean(str(folder), 200)} cannot be used {use}: {error.strerror}") from None


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


def settle(temporary: Path, target: Path) -> None:
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


def free_bytes(folder: Path) -> int:
    """What is free on the folder's disk."""
    return shutil.disk_usage(folder).free
