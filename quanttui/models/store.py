"""Files that are made: a folder of bounded size that processes share, and how a file appears there or elsewhere.

Owns the names of what is half written or in use, what is evicted for what, and the safety of what is written: it gets a
name of its own and is renamed when it is whole, so that a half-written file is never taken for one. Knows no quant.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from quanttui import paths
from quanttui.errors import UserError
from quanttui.format import clean, size
from quanttui.models import header as headers

SPARE_BYTES = 256 << 20
"""Free disk that a quantization leaves."""
ESTIMATE_ERROR = 0.02
"""How far a quant may come out above its estimate: that is exact for the architectures whose rules models.mix has."""
FOREIGN_LEFTOVER_AGE = 7 * 86400
"""Seconds after which a half-written quant of another machine counts as left over."""

_OWNED = re.compile(
    r"^\.(?P<name>.+\.gguf)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)(?:\.[0-9a-f]{8})?\.(?P<kind>use|tmp|tmp\.part)$"
)
"""A file beside a quant that belongs to one process: a mark of use, or a quant being written."""


@dataclass(frozen=True)
class Cached:
    """A quant in the cache: `used` is when it was last asked for, in seconds since the epoch."""

    path: Path
    bytes: int
    used: float
    in_use: bool


def prepare(folder: Path, use: str, private: bool = False) -> None:
    """Make the folder, for its user alone where it is `private`, and remove what dead processes left in it."""
    try:
        if private:
            paths.made(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(folder):
            match = _OWNED.match(entry.name)
            if match and _is_leftover(Path(entry.path), match):
                Path(entry.path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{clean(str(folder), 200)} cannot be used {use}: {error.strerror}") from None


def hold(target: Path) -> None:
    """The file is in use by this process until `release`, also before it is there: nobody evicts it."""
    _mark_of(target).touch(0o600)


def touch(target: Path) -> None:
    """Note the use in the access time; the time of change stays, since digests are remembered by it."""
    status = target.stat()
    os.utime(target, ns=(time.time_ns(), status.st_mtime_ns))


def lock_up(target: Path) -> None:
    """Have a file that was made in the cache for its user alone: its maker goes by the umask."""
    with contextlib.suppress(OSError):
        target.chmod(0o600)


def release(file: Path) -> None:
    """This process needs the cached file no longer: it may be evicted."""
    _mark_of(file).unlink(missing_ok=True)


def is_whole(target: Path) -> bool:
    """Whether the file is there and has a header that fits it; one that has not is removed."""
    try:
        headers.read(target)
    except UserError:
        target.unlink(missing_ok=True)
        return False
    return True


def temporary(target: Path) -> Path:
    """Where a file grows until it is whole: a name of this process's own beside its own."""
    return target.with_name(f".{target.name}.{_me()}.{uuid.uuid4().hex[:8]}.tmp")


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


def free_bytes(folder: Path) -> int:
    """What is free on the folder's disk."""
    return shutil.disk_usage(folder).free


def _host() -> str:
    """This machine and its process numbers' namespace: containers of one machine count pids on their own."""
    namespace = ""
    with contextlib.suppress(OSError, AttributeError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _me() -> str:
    return f"{_host()}-{os.getpid()}-{int(_started(psutil.Process()))}"


def _started(process: psutil.Process) -> float:
    """When a process began, in seconds from a moment that stays where it is when the clock is set: Linux reckons that
    time from the moment of the boot, which moves then."""
    return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)


def _lives(pid: int, started: int) -> bool:
    try:
        return abs(_started(psutil.Process(pid)) - started) < 2
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _mark_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_me()}.use")


def _is_leftover(path: Path, match: re.Match[str]) -> bool:
    if match["host"] == _host():
        return not _lives(int(match["pid"]), int(match["started"]))
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > FOREIGN_LEFTOVER_AGE
    return False
