"""A swap file of the lab's own: made, switched on, switched off, removed. Owns the file's format and the two calls.

Linux: the header is the first page, whatever the page size: version, last page and number of bad pages as 32-bit words
of the machine's own order at byte 1024, a mark in the last ten bytes (include/linux/swap.h, union swap_header).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .cgroups import Unusable

PREFIX = "quanttui-faults-"
MARK = b"SWAPSPACE2"
INFO = 1024
BLOCK = 1 << 20

Call = Callable[[str], None]
"""Switches the swap file of a path on or off. Raises OSError."""


def header(size: int, page: int) -> bytes:
    """The first page of a swap file of `size` bytes."""
    info = bytes(INFO) + struct.pack("=3I", 1, size // page - 1, 0)
    return info.ljust(page - len(MARK), b"\0") + MARK


def switch_on(path: str) -> None:
    _call("swapon", os.fsencode(path), 0)


def switch_off(path: str) -> None:
    _call("swapoff", os.fsencode(path))


def _call(name: str, *arguments: bytes | int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(arguments[0]))


def active(text: str) -> list[str]:
    """The files and devices that /proc/swaps lists, as it writes them (a blank is \\040)."""
    return [line.split()[0] for line in text.splitlines()[1:] if line.split()]


class SwapFile:
    """Swap space of `size` bytes, from entering to leaving. Nothing of it is left, whatever happened in between.

    Args:
        on, off: the system's calls, or stand-ins.
    """

    def __init__(self, folder: Path, size: int, on: Call = switch_on, off: Call = switch_off) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._size = size // self._page * self._page
        self.path = folder / f"{PREFIX}{os.getpid()}.swap"
        self._on, self._off = on, off

    def __enter__(self) -> SwapFile:
        try:
            self._write()
            self._on(str(self.path))
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise Unusable(f"no swap file can be switched on in {self.path.parent}: {error.strerror}") from None
        except BaseException:
            self._end()  # told to stop between the two: it may be on already
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._off(str(self.path))
        self.path.unlink(missing_ok=True)

    def _end(self) -> None:
        try:
            self._off(str(self.path))
        except OSError:
            pass
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        """Without holes, which the kernel refuses, and without leaving it in the page cache."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(header(self._size, self._page))
            left = self._size - self._page
            while left:
                left -= file.write(bytes(min(left, BLOCK)))
            file.flush()
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
