"""What a probe is: one source of readings, and how a kernel file is read cheaply. Knows no events and no session.

A probe opens once, or says why it cannot (`Absent`); then each read gives what it can, under the names of
`events.READINGS`. A value that cannot be had is left out, never 0. Parsers are pure: bytes in, numbers out, and
bytes that make no sense give None.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/")
CHUNK = 65536


class Absent(Exception):
    """A source does not answer: its text is the reason, and what would mend it where something would."""


class Probe(ABC):
    """One source of readings. Not thread-safe: whoever reads it takes turns."""

    name: str

    @abstractmethod
    def open(self) -> str:
        """Find the source and return a detail worth showing.

        Raises:
            Absent: the source is not there, or may not be read.
        """

    @abstractmethod
    def read(self) -> dict[str, float]:
        """The readings that the source gives now.

        Raises:
            Absent, OSError: the source as a whole has gone.
        """

    def watch(self, pid: int | None) -> None:  # noqa: B027 (most sources are not a process's)
        """The engine's process is now `pid`, or there is none."""

    def close(self) -> None:  # noqa: B027 (some sources hold nothing)
        """Let go of what is held; a later `open` begins anew."""


class Kept:
    """A small kernel file kept open and read again from its start: a read costs microseconds, an open more.

    The descriptor belongs to what was opened: files of a process that died raise, even if its number is reused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def read(self) -> bytes:
        """All of the file as it is now. Raises OSError where it cannot be opened or has vanished."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        # seq_file hands out a page or so at a time, so only an empty read is the end.
        chunks: list[bytes] = []
        offset = 0
        while chunk := os.pread(self._descriptor, CHUNK, offset):
            chunks.append(chunk)
            offset += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Close the descriptor; the next read opens the path again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def close_all(files: Iterable[Kept]) -> None:
    """Close several kept files."""
    for file in files:
        file.close()


def whole(text: bytes) -> int | None:
    """A non-negative whole number in ASCII digits, of at most 20 of them (the kernel's are 64 bits), else None."""
    text = text.strip()
    return int(text) if len(text) <= 20 and text.isdigit() else None


def number(text: bytes, key: bytes) -> int | None:
    """The number on the line that begins with `key`, separator included (b"pswpin ", b"VmRSS:").

    A following `kB` is taken for what the kernel means by it, 1024 bytes. None where the line is missing or is
    not a number.
    """
    start = 0 if text.startswith(key) else text.find(b"\n" + key) + 1
    if start == 0 and not text.startswith(key):
        return None
    end = text.find(b"\n", start)
    words = text[start + len(key) : end if end >= 0 else len(text)].split()
    value = whole(words[0]) if words else None
    return value * 1024 if value is not None and words[1:2] == [b"kB"] else value


def contents(path: Path) -> bytes:
    """A file read once, empty where it is not there or may not be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
