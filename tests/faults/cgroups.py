"""Limits on real processes, of memory and of a disk's speed, by cgroups of version 1 and 2. Owns where groups are made,
and that they go again.

A group is made as near to this process's own cgroup as the version allows: below it with version 1, so that whatever
limits us limits it as well; with version 2, where only a cgroup without processes may have limited children, below the
nearest one above that hands memory on.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from quanttui.probes import ROOT, contents, memory, number, whole

PREFIX = "quanttui-faults-"

PATIENCE = 10.0
"""Seconds in which processes of a group that were killed must be gone."""

_UNLIMITED = "-1"
_IN = 'echo $$ > "$0" && exec "$@"'


class Unusable(Exception):
    """This host does not allow what a condition needs: one clear line."""


class Parent(NamedTuple):
    """A cgroup in which groups may be made, and the version of its hierarchy.

    `disk` is where the groups are made that limit the speed of disks: with version 1 another hierarchy, with version 2
    the same folder, None where there is no such thing.
    """

    version: int
    folder: Path
    disk: Path | None = None


def candidates(cgroup: bytes, mountinfo: bytes, root: Path = ROOT) -> list[Parent]:
    """Where a process with these /proc/PID/cgroup and /proc/PID/mountinfo may make groups, best first.

    Raises:
        Unusable: it is in no memory cgroup.
    """
    where = memory.place(cgroup, mountinfo)
    if where is None:
        raise Unusable("no memory cgroup is mounted here")
    top = root / where.mount.lstrip("/")
    parts = [part for part in where.path.split("/") if part]
    if where.version == 1:
        return [Parent(1, top.joinpath(*parts), _blkio(cgroup, mountinfo, root))]
    folders = [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [Parent(2, folder, folder if "io" in _handed_on(folder) else None) for folder in folders]


def _blkio(cgroup: bytes, mountinfo: bytes, root: Path) -> Path | None:
    """A process's cgroup of version 1 for disks, None where there is none that can be seen."""
    lines = [line.split(":", 2) for line in cgroup.decode("utf-8", "replace").splitlines()]
    path = next((line[2] for line in lines if len(line) == 3 and "blkio" in line[1].split(",")), None)
    for line in mountinfo.decode("utf-8", "replace").splitlines():
        fields, kind = (part.split(" ") for part in line.partition(" - ")[::2])
        if path is None or len(fields) < 5 or len(kind) < 3 or kind[0] != "cgroup":
            continue
        if "blkio" in kind[2].split(","):
            below = path.removeprefix(fields[3].rstrip("/")).strip("/")
            return root / fields[4].lstrip("/") / below
    return None


def _handed_on(folder: Path) -> list[str]:
    """The controllers of version 2 that a cgroup lets the groups in it have."""
    return contents(folder / "cgroup.subtree_control").decode().split()


def find(root: Path = ROOT) -> Parent:
    """Where this process may make groups that limit memory.

    Raises:
        Unusable: nowhere, and why.
    """
    reasons = []
    for parent in candidates(contents(root / "proc/self/cgroup"), contents(root / "proc/self/mountinfo"), root):
        why = _refusal(parent)
        if not why:
            return parent
        reasons.append(f"{parent.folder}: {why}")
    raise Unusable(f"no cgroup can be made that limits memory: {'; '.join(reasons)}")


def _refusal(parent: Parent) -> str:
    """Why no limited group can be made in a cgroup, "" where one can: told by making one."""
    if parent.version == 2 and "memory" not in _handed_on(parent.folder):
        return "hands no memory on to groups in it"
    trial = parent.folder / f"{PREFIX}{os.getpid()}-try"
    try:
        trial.mkdir()
        try:
            (trial / memory.VERSIONS[parent.version].limit).write_text(str(1 << 30))
        finally:
            trial.rmdir()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def made(parent: Parent) -> list[Path]:
    """The groups of labs that are there now."""
    folders = {parent.folder, *([parent.disk] if parent.disk else [])}
    return sorted(group for folder in folders for group in folder.glob(f"{PREFIX}*"))


def leftover(parent: Parent, alive: Callable[[int], bool]) -> list[Path]:
    """Groups that a lab left behind which does not run any more (it was killed outright)."""
    found = []
    for folder in made(parent):
        pid = whole(folder.name.removeprefix(PREFIX).partition("-")[0].encode())
        if pid is not None and not alive(pid):
            found.append(folder)
    return found


def pids(folder: Path) -> list[int]:
    """The processes in a group."""
    return [int(word) for word in contents(folder / "cgroup.procs").split()]


def remove(
    folder: Path,
    rmdir: Callable[[Path], object] = os.rmdir,
    kill: Callable[[int, int], object] = os.kill,
    patience: float = PATIENCE,
) -> None:
    """Kill what runs in a group, and remove it.

    Raises:
        OSError: the kernel does not let it go.
    """
    end = time.monotonic() + patience
    while True:
        for pid in pids(folder):
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        try:
            rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.02)


class Group:
    """A cgroup that limits memory, from entering to leaving; what still runs in it then is killed.

    Args:
        rmdir, kill: the system's, or a stand-in.
    """

    def __init__(
        self,
        parent: Parent,
        name: str,
        rmdir: Callable[[Path], object] = os.rmdir,
        kill: Callable[[int, int], object] = os.kill,
    ) -> None:
        self.version = parent.version
        self.folder = parent.folder / f"{PREFIX}{os.getpid()}-{name}"
        self._disk = parent.disk / self.folder.name if parent.disk else None
        self._folders: list[Path] = []
        self._rmdir, self._kill = rmdir, kill
        self._page = os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Group:
        self._make(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as last:
            for folder in self._folders:
                last.callback(remove, folder, self._rmdir, self._kill)

    def limit(self, most: int, swap: bool = False) -> None:
        """Allow `most` bytes of memory from now on, and swap beside it or none.

        The kernel gives up what is too much before this returns.
        """
        if self.version == 2:
            self._write("memory.swap.max", "max" if swap else "0", needed=swap)
            self._write("memory.max", str(most))
            return
        # Version 1 limits memory, and memory and swap together: the second is never below the first.
        self._write("memory.swappiness", "60" if swap else "0", needed=False)
        self._write("memory.memsw.limit_in_bytes", _UNLIMITED, needed=False)
        self._write("memory.limit_in_bytes", str(most))
        if not swap:
            self._write("memory.memsw.limit_in_bytes", str(most), needed=False)

    def limits_disks(self) -> None:
        """What is started in the group from now on can be slowed down (`disk`).

        Raises:
            Unusable: the host has nothing for it.
        """
        if self._disk is None:
            raise Unusable("no cgroup limits the speed of disks here")
        if self._disk != self.folder:
            self._make(self._disk)

    def disk(self, file: Path, rate: int) -> None:
        """From now on let so many bytes a second be read from the disk that a file lies on."""
        assert self._disk is not None
        if self.version == 2:
            self._write("io.max", f"{_device(file)} rbps={rate}")
        else:
            self._write("blkio.throttle.read_bps_device", f"{_device(file)} {rate}", folder=self._disk)

    def inside(self, words: list[str]) -> list[str]:
        """The command line of a program that runs in the group from its first instruction on."""
        for folder in self._folders:
            words = ["/bin/sh", "-c", _IN, str(folder / "cgroup.procs"), *words]
        return words

    def pids(self) -> list[int]:
        """The processes in it."""
        return pids(self.folder)

    def usage(self) -> int:
        """Bytes charged to it, page cache included."""
        return whole(contents(self.folder / memory.VERSIONS[self.version].usage)) or 0

    def page_cache(self) -> int:
        """Bytes of it that are files' and can be dropped."""
        stat, names = contents(self.folder / "memory.stat"), memory.VERSIONS[self.version]
        return (number(stat, names.inactive) or 0) + (number(stat, names.active) or 0)

    def refaulted(self) -> tuple[int | None, int | None]:
        """Bytes that were evicted and had to be fetched again since it was made: of files, and of anonymous memory."""
        stat = contents(self.folder / "memory.stat")
        counts = (number(stat, b"workingset_refault_file "), number(stat, b"workingset_refault_anon "))
        file, anonymous = (None if count is None else count * self._page for count in counts)
        return file, anonymous

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir()
        except OSError as error:
            raise Unusable(f"{folder}: cannot be made: {error.strerror}") from None
        self._folders.append(folder)

    def _write(self, name: str, value: str, needed: bool = True, folder: Path | None = None) -> None:
        """A file that the kernel lacks (no swap accounting) is left out where it is not needed."""
        path = (folder or self.folder) / name
        for last in _tries():
            try:
                path.write_text(value)
                return
            except OSError as error:
                if error.errno == errno.EBUSY and not last:
                    continue
                if not needed:
                    return
                raise Unusable(f"{path}: {error.strerror}") from None


def _device(file: Path) -> str:
    """The number of the whole disk that a file lies on, as the kernel writes it: 253:0."""
    number = file.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    node = Path("/sys/dev/block") / name
    if not node.exists():
        raise Unusable(f"{file}: lies on no disk whose speed could be limited")
    return (node.resolve().parent / "dev").read_text().strip() if (node / "partition").exists() else name


def _tries() -> Iterator[bool]:
    """A limit below what is in use is refused while nothing can be given up: often only for a moment."""
    for _ in range(20):
        yield False
        time.sleep(0.05)
    yield True
