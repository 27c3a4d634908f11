"""Downloading a repository's files into the Hub's cache: what came is kept, and only what is checked gets its name.

Owns the partial files, the digests and the room on the disk. A file is written under a name that nobody takes for it,
by one process at a time (huggingface_hub's own lock for it), and renamed when it has the repository's digest. Whatever
ends this, a cut connection, ctrl-c or a full disk: the same command goes on where it was.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quanttui import repository
from quanttui.errors import UserError
from quanttui.format import clean, size
from quanttui.models import header as headers
from quanttui.models.fetch import cached
from quanttui.models.fetch.hub import BLOCK, Cut, Source, lock
from quanttui.models.fetch.named import Named
from quanttui.repository import Remote, Step

SPARE = 1 << 30
"""Free disk that a download leaves."""

TRIES = 5
"""Connections in a row that bring nothing before it is given up; the wait between them doubles from a second on."""

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

Tell = Callable[[Step], None]


def check_room(hub: Path, missing: int, free: int) -> None:
    """Raises: UserError: so much does not fit on the cache's disk with SPARE left."""
    if missing and missing + SPARE > free:
        raise UserError(
            f"{clean(str(hub), 200)}: {size(missing)} to download and {size(SPARE)} to spare do not fit: its disk has"
            f" {size(free)} free: make room, choose a smaller quant, or name another folder with HF_HUB_CACHE"
        )


@dataclass
class Transfer:
    """A download of files of one commit into the cache `hub`.

    `digests` is the folder where digests are remembered (models.header), `tell` is told of each step, `pause` waits for
    so many seconds. A file of more than `limit` bytes is left to huggingface_hub.
    """

    source: Source
    named: Named
    commit: str
    hub: Path
    digests: Path
    tell: Tell
    pause: Callable[[float], None] = time.sleep
    limit: int = repository.HTTP_LIMIT
    _of: int = field(default=0, init=False)
    _past: int = field(default=0, init=False)

    def fetch(self, files: Sequence[Remote]) -> tuple[Path, ...]:
        """Have the files, and where they lie: those that are here are checked once, the others downloaded.

        Raises:
            UserError: it cannot be had, or what came is not what the repository says; the cache cannot be written.
        """
        self._of, self._past = sum(file.bytes for file in files), 0
        found = []
        try:
            for file in files:
                found.append(self._one(file))
                self._past += file.bytes
            cached.note(self._place, self.named.revision, self.commit)
        except OSError as error:
            raise UserError(self._said(error)) from None
        if files:
            self._tell("done", files[-1], 0)
        return tuple(found)

    @property
    def _place(self) -> Path:
        return cached.folder(self.hub, self.named.repo)

    def _one(self, file: Remote) -> Path:
        target = cached.blob(self._place, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.bytes > self.limit and not file.whole:
            self.source.whole(self.named, self.commit, file.path, self.hub)
        with self._alone(file):
            file = cached.held(self._place, self.commit, file)
            if not file.whole:
                self._download(file)
                found = cached.link(self._place, self.commit, file)
                if file.sha256:
                    headers.remember_sha256(found, self.digests, file.sha256)
                return found
            found = cached.link(self._place, self.commit, file)
        self._check(file, found)
        return found

    def _check(self, file: Remote, found: Path) -> None:
        """That a file which was here already is what the repository says: read once, then remembered."""
        if not file.sha256:
            return
        reading = headers.hashing(found, self.digests)
        while True:
            try:
                self._tell("checks", file, round(next(reading) * file.bytes))
            except StopIteration as done:
                if done.value != file.sha256:
                    raise UserError(
                        f"{clean(str(found.resolve()), 200)}: does not have the SHA-256 that {self.named.argument}"
                        " says: delete it and fetch it again"
                    ) from None
                return

    def _download(self, file: Remote) -> None:
        """Go on with what is here of the file, or begin it, and give it its name once it has its digest."""
        begun = cached.partial(self._place, file)
        resumed = file.here > 0
        while True:
            with begun.open("r+b" if begun.exists() else "w+b", buffering=0) as out:
                digest = self._filled(file, out)
                os.fsync(out.fileno())
            if digest == file.blob:
                os.replace(begun, cached.blob(self._place, file))
                return
            begun.unlink()
            if not resumed:
                raise UserError(
                    f"{self.named.argument}: what came as {clean(file.path, 120)} has not the digest that the"
                    " repository says, and is thrown away: fetch it again, without a proxy that changes it"
                )
            # What lay here may have been another program's, or torn: once more, from the start.
            resumed = False
            self._tell("retries", file, 0, "what lay here was not the beginning of it")

    def _filled(self, file: Remote, out: Any) -> str:
        """Bring the file's missing bytes into `out`, however often the connection ends; its digest."""
        digest, done = self._resumed(file, out)
        tries = 0
        while done < file.bytes:
            before, why = done, "it ended early"
            try:
                with self.source.body(self.named, self.commit, file.path, done) as body:
                    if body.start != done:
                        digest, done = _digest(file), 0
                        out.truncate(0)
                    out.seek(done)
                    for block in body.blocks:
                        if done + len(block) > file.bytes:
                            raise Cut("it sends more than the file has")
                        _write(out, block)
                        digest.update(block)
                        done += len(block)
                        self._tell("downloads", file, done)
            except Cut as cut:
                why = str(cut)
            if done < file.bytes:
                tries = 0 if done > before else tries + 1
                self._again(file, done, tries, why)
        return str(digest.hexdigest())

    def _again(self, file: Remote, done: int, tries: int, why: str) -> None:
        """Wait before the next try, or give up."""
        if tries >= TRIES:
            raise UserError(
                f"{self.named.argument}: the download of {clean(file.path, 120)} was cut ({why}): {size(done)} of"
                f" {size(file.bytes)} are kept, the same command goes on from there"
            )
        self._tell("retries", file, done, why)
        self.pause(float(2 ** max(0, tries - 1)))

    def _resumed(self, file: Remote, out: Any) -> tuple[Any, int]:
        """The digest and number of the bytes that are here of it."""
        digest, done, there = _digest(file), 0, os.fstat(out.fileno()).st_size
        if there > file.bytes:
            out.truncate(0)
            there = 0
        while done < there and (block := out.read(BLOCK)):
            digest.update(block)
            done += len(block)
            self._tell("checks", file, done)
        return digest, done

    @contextmanager
    def _alone(self, file: Remote) -> Iterator[None]:
        """While no other process downloads the file; the lock is huggingface_hub's own for it."""
        place = self.hub / ".locks" / self._place.name / f"{file.blob}.lock"
        place.parent.mkdir(parents=True, exist_ok=True)
        while True:
            held = lock(place)
            try:
                held.__enter__()
                break
            except TimeoutError:
                self._tell("waits", file, 0, "another process downloads it")
        try:
            yield
        finally:
            _drop_empty(cached.partial(self._place, file))
            held.__exit__(None, None, None)

    def _tell(self, doing: str, file: Remote, done: int, why: str = "") -> None:
        self.tell(Step(doing=doing, file=file.path, done=self._past + done, bytes=self._of, why=why))

    def _said(self, error: OSError) -> str:
        where = clean(str(error.filename or self._place), 200)
        if error.errno in _FULL:
            return (
                f"{clean(str(self._place), 200)}: the disk is full: what came is kept: make room and run the same again"
            )
        return f"{where}: cannot be written: {error.strerror or error}: HF_HUB_CACHE names another folder for the cache"


def _digest(file: Remote) -> Any:
    """What the repository names the file by: its SHA-256, or git's digest of a blob where it is no LFS file."""
    return hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)


def _drop_empty(begun: Path) -> None:
    """What was begun and got nothing is no use to anybody."""
    with suppress(OSError):
        if not begun.stat().st_size:
            begun.unlink()


def _write(out: Any, block: bytes) -> None:
    """All of it: a plain write may take less."""
    rest = memoryview(block)
    while rest:
        rest = rest[out.write(rest) :]
