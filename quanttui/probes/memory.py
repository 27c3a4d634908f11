"""Memory that may be used: the container's limit first, else the machine's. Owns cgroup v1 and v2.

Free memory of a container is limit - (current - inactive_file - active_file): page cache counts as usage, yet it is
given up before anything fails (ollama#15474).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from quanttui.probes import ROOT, Absent, Kept, Probe, close_all, contents, number, whole


class Files(NamedTuple):
    """How one cgroup version names the same three things."""

    limit: str
    usage: str
    inactive: bytes
    active: bytes


VERSIONS = {
    1: Files("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file ", b"total_active_file "),
    2: Files("memory.max", "memory.current", b"inactive_file ", b"active_file "),
}


class Place(NamedTuple):
    """Where a process's memory is accounted: cgroup version, mount point, and path below it ("" at its top)."""

    version: int
    mount: str
    path: str


def place(cgroup: bytes, mountinfo: bytes) -> Place | None:
    """The memory cgroup of a process, from its /proc/PID/cgroup and /proc/PID/mountinfo; None where there is none.

    In a container the cgroup's path may be the host's, while the mount shows only the container's part of the
    tree: the mount's root says which, so it is cut off the path.
    """
    version, path = 0, ""
    for line in cgroup.decode("utf-8", "replace").splitlines():
        number_, _, rest = line.partition(":")
        controllers, _, where = rest.partition(":")
        if "memory" in controllers.split(","):
            version, path = 1, where
            break
        if number_ == "0" and not controllers and where:
            version, path = 2, where
    if not version:
        return None
    for line in mountinfo.decode("utf-8", "replace").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        mine = kind[0] == "cgroup2" if version == 2 else kind[0] == "cgroup" and "memory" in kind[2].split(",")
        if mine:
            return Place(version, fields[4], _below(path, fields[3]))
    return None


def _below(path: str, root: str) -> str:
    """`path` as seen from `root`; the root itself where it lies outside."""
    root = root.rstrip("/")
    inside = path == root or path.startswith(root + "/")
    parts = [part for part in path[len(root) :].split("/") if part] if inside else []
    return "" if ".." in parts else "/".join(parts)


class Account(NamedTuple):
    """One cgroup with a limit: bytes allowed, and bytes used that cannot simply be dropped."""

    limit: int
    used: int

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)


def account(version: int, limit: bytes, usage: bytes, stat: bytes) -> Account | None:
    """What the three files of a cgroup say; None where it sets no limit ("max") or they make no sense."""
    names = VERSIONS[version]
    allowed, current = whole(limit), whole(usage)
    if allowed is None or current is None:
        return None
    dropped = (number(stat, names.inactive) or 0) + (number(stat, names.active) or 0)
    return Account(allowed, max(0, current - dropped))


class Level:
    """One cgroup on the way from the process up to the mount."""

    def __init__(self, version: int, directory: Path) -> None:
        names = VERSIONS[version]
        self.version = version
        self.files = limit, usage, stat = [Kept(directory / n) for n in (names.limit, names.usage, "memory.stat")]
        self.limit, self.usage, self.stat = limit, usage, stat

    def read(self, most: int) -> Account | None:
        """The account, if the limit is below `most` bytes: v1 writes "no limit" as a number near 2**63."""
        limit = self.limit.read()
        allowed = whole(limit)
        if allowed is None or allowed >= most:
            return None
        return account(self.version, limit, self.usage.read(), self.stat.read())


def levels(root: Path, process: str = "self") -> list[Level]:
    """The cgroups that may limit a process, innermost first. Any of them may gain or lose its limit later."""
    proc = root / "proc" / process
    where = place(contents(proc / "cgroup"), contents(proc / "mountinfo"))
    if where is None:
        return []
    top = root / where.mount.lstrip("/")
    parts = where.path.split("/") if where.path else []
    paths = [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    # The top of cgroup v2 has no memory.max; a path may have been removed or lie outside our view.
    return [Level(where.version, path) for path in paths if (path / VERSIONS[where.version].limit).is_file()]


class Memory(Probe):
    """mem.total, mem.used, mem.available."""

    name = "memory"

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self._meminfo = Kept(root / "proc/meminfo")
        self._levels: list[Level] = []

    def open(self) -> str:
        try:
            machine = number(self._meminfo.read(), b"MemTotal:")
        except OSError:
            raise Absent(f"{self._meminfo.path} cannot be read, so free memory is unknown") from None
        if machine is None:
            raise Absent(f"{self._meminfo.path} has no MemTotal")
        self._levels = levels(self.root)
        limits = [account.limit for account in self._accounts(machine)]
        version = self._levels[0].version if self._levels else 0
        return f"container limit, cgroup v{version}" if limits else "the machine's memory, no container limit"

    def read(self) -> dict[str, float]:
        text = self._meminfo.read()
        total, available = number(text, b"MemTotal:"), number(text, b"MemAvailable:")
        if total is None or available is None:
            raise Absent(f"{self._meminfo.path} has no MemTotal or no MemAvailable (Linux 3.14 has both)")
        accounts = self._accounts(total)
        if not accounts:
            return {"mem.total": total, "mem.used": max(0, total - available), "mem.available": available}
        tightest = min(accounts)
        free = min(available, *(account.free for account in accounts))
        return {"mem.total": tightest.limit, "mem.used": tightest.used, "mem.available": free}

    def _accounts(self, machine: int) -> list[Account]:
        found = []
        for level in self._levels:
            try:
                account = level.read(machine)
            except OSError:  # this cgroup was removed; the others still bind
                continue
            if account is not None:
                found.append(account)
        return found

    def close(self) -> None:
        close_all([self._meminfo, *(file for level in self._levels for file in level.files)])
        self._levels = []


class MemoryElsewhere(Probe):
    """The same where there is no /proc: the operating system's own figures, by psutil."""

    name = "memory"

    def open(self) -> str:
        self.read()
        return "the machine's memory"

    def read(self) -> dict[str, float]:
        import psutil

        now = psutil.virtual_memory()
        return {"mem.total": now.total, "mem.used": now.total - now.available, "mem.available": now.available}


def limits(root: Path = ROOT) -> tuple[int | None, int | None, int | None]:
    """Bytes of: the machine's memory, the container's limit (None without one), memory available. None if unknown."""
    probe = Memory(root) if (root / "proc/meminfo").exists() else MemoryElsewhere()
    try:
        probe.open()
        now = probe.read()
    except (Absent, OSError):
        return None, None, None
    finally:
        probe.close()
    total, available = int(now["mem.total"]), int(now["mem.available"])
    machine = number(contents(root / "proc/meminfo"), b"MemTotal:") or total
    return machine, (total if total < machine else None), available
