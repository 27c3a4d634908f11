"""Faults of room: a disk that fills up under the sweep at some byte, a limit on the length of files, a full disk under
the cache and under what is printed into files.

The disk is a small tmpfs that is mounted for the fault, and filled by a balloon to the page; where the log is to end at
an exact byte, the process may write no longer files (RLIMIT_FSIZE).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui.errors import UserError
from quanttui.models import store

from . import bench as benches
from . import judge
from .bench import Bench, also
from .ground import SOON, Broken, Fault, Ground, Missed, Outcome, Site, Unusable

PAGE = 4096
DISK = 64 << 20
"""Bytes of the disk that sessions lie on: three times what one of SWEEP takes."""

CACHE_DISK = store.SPARE_BYTES + (64 << 20)
"""Bytes of the cache's disk: a quantization leaves SPARE_BYTES of it free."""


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes at an empty folder. Whoever writes to it must have ended before it is left.

    Raises:
        Unusable: nothing can be mounted here.
    """
    folder.mkdir(exist_ok=True)
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unusable("only root mounts a small disk, on Linux")
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    made = subprocess.run(words, capture_output=True, text=True)
    if made.returncode:
        raise Unusable(f"no small disk can be mounted: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", str(folder)], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def fill(disk: Path, rest: int) -> Path:
    """Leave `rest` bytes of a disk free, whoever else writes to it; the balloon that takes the others."""
    balloon = disk / "balloon"
    with open(balloon, "wb") as file:
        while True:
            there = os.statvfs(disk)
            free, held = there.f_bavail * there.f_frsize, file.seek(0, os.SEEK_END)
            if free <= rest:
                return balloon
            with suppress(OSError):  # somebody took of it meanwhile
                os.posix_fallocate(file.fileno(), held, free - rest)


# --- under a scripted sweep -----------------------------------------------------------------------------------------


def full_disk_scripted(ground: Ground, rng: random.Random) -> Outcome:
    """The disk is full from some answer of an engine on, to within some pages: log, rows, logits or answers meet it."""
    whole = benches.whole(ground)
    with benches.bench(ground) as outer, mounted(outer.place / "disk", DISK) as disk:
        made = Bench(disk, ground.cache)
        answer, rest = rng.randrange(1, whole.answers), PAGE * rng.choice((0, 0, 1, 2, 3, rng.randrange(4, 12)))

        def strike(running: Bench) -> None:
            if running.answers == answer:
                fill(disk, rest)

        made.open()
        try:
            made.run(strike)
        except UserError as error:
            ended = str(error)
        else:
            raise Missed
        before = judge.recorded(made.folder)
        (disk / "balloon").unlink()
        outcome = made.resumed(before, whole.qualities)
        return also(outcome, "" if "room" in ended else f"it says no more than {ended!r}; ")


# --- under a real one -----------------------------------------------------------------------------------------------


@contextmanager
def _on_a_disk(ground: Ground, *more: str) -> Iterator[tuple[Site, Path]]:
    """A site whose sessions lie on a disk of their own."""
    ground.whole(*more)
    with ground.site(*more) as site, mounted(site.session.parent, DISK) as disk:
        try:
            yield site, disk
        finally:
            site.close()
            if site.amiss and ground.keep is not None:
                shutil.copytree(disk, site.folder / "disk", ignore=shutil.ignore_patterns("balloon"))


def said(site: Site) -> list[str]:
    """What quanttui itself said on stderr."""
    lines = site.output().decode(errors="replace").splitlines()
    return [line for line in lines if line.startswith("quanttui: ")]


def _ends(site: Site, process: subprocess.Popen[bytes]) -> str:
    """What is amiss where a sweep has no room: it has to end in time, with exit code 2 and one line that says so.

    Raises:
        Missed: there was room enough.
    """
    code = site.ended(process)
    if code == 0:
        raise Missed
    lines = said(site)
    if code == 2 and len(lines) == 1 and "--resume" in lines[0]:
        return ""
    return f"without room it ends with exit code {code}, and says {' | '.join(lines) or site.last_words()}; "


def full_disk(ground: Ground, rng: random.Random) -> Outcome:
    """The disk is full from some line of the log on. While it is, the session can be read, and a second resume ends as
    the sweep did."""
    lines = len(ground.whole().recorded.lines)
    with _on_a_disk(ground) as (site, disk):
        process = site.sweep()
        site.reached(rng.randrange(2, lines), process)
        fill(disk, PAGE * rng.choice((0, 0, 1, 2, rng.randrange(3, 40))))
        at = site.recorded()
        told = _ends(site, process)
        before = site.recorded()
        told += "" if before.log.startswith(at.log) else "the log was cut; "
        if rng.random() < 0.25:
            told += _readable(site, disk)
        (disk / "balloon").unlink()
        return also(site.resumed(before), told)


def _readable(site: Site, disk: Path) -> str:
    """What is amiss with a report of a session, and with another resume, where nothing can be written."""
    fill(disk, 0)
    report = site.ended(site.start("report", str(site.session)))
    again = site.ended(site.resume())
    told = "" if report == 0 else f"a report of it ends with exit code {report}: {site.last_words()}; "
    return told + ("" if again == 2 else f"a resume on the full disk ends with exit code {again}; ")


def full_at_opening(ground: Ground, rng: random.Random) -> Outcome:
    """There is no room, or hardly any, when the sweep is begun; then there is."""
    with _on_a_disk(ground) as (site, disk):
        fill(disk, PAGE * rng.randrange(0, 6))
        told = _ends(site, site.sweep())
        lines = said(site)
        told = "" if len(lines) == 1 and "No space left" in lines[0] else told
        before = site.recorded()
        (disk / "balloon").unlink()
        return also(site.resumed(before), told)


TASKS = ("--tasks", "speed,ppl,prompts")
"""Without the base's logits the log is the longest file of a session."""


def limited_length(ground: Ground, rng: random.Random) -> Outcome:
    """No file may grow beyond the byte at which the log then ends."""
    import resource

    whole = ground.whole(*TASKS)
    with ground.site(*TASKS) as site:
        process = site.sweep()
        site.reached(1, process)
        limit = rng.randrange(len(site.recorded().log), len(whole.recorded.log))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        told = _ends(site, process)
        return also(site.resumed(site.recorded()), told)


def full_cache(ground: Ground, rng: random.Random) -> Outcome:
    """The cache's disk is full while a quant is made: that arm fails and says so, the other is done."""
    ground.whole()
    with ground.site(cache=False) as site, mounted(site.cache, CACHE_DISK) as disk:
        try:
            process = site.sweep()
            site.follow(process, _quantizes)
            if rng.random() < 0.7:
                site.until(lambda: bool(list((disk / "quants").glob(".*.tmp*"))), "no quant is being made", SOON)
            fill(disk, PAGE * rng.randrange(0, 40))
            before = site.recorded()
            code = site.ended(process)
            failed = site.recorded().failed
            if not failed:
                raise Missed
            outcome = site.judged(before, code, ("failed", "refused", "crashed"))
            error = "; ".join(event.error for event in failed.values())
            named = any(word in error for word in ("No space left", "no room", " free"))
            left = [path.name for path in (disk / "quants").glob(".*.tmp*")]
            told = "" if named else f"the arm's failure does not tell of room: {error}; "
            return also(outcome, told + (f"left over: {left}; " if left else ""))
        finally:
            site.close()


def _quantizes(event: e.Event) -> bool:
    return isinstance(event, e.PhaseStarted) and event.phase == "quantize"


def full_outputs(ground: Ground, rng: random.Random) -> Outcome:
    """What is asked for on a full disk, a snapshot, a report into a file, a request, fails in one line and harms
    nothing."""
    whole = benches.whole(ground)
    with ground.site() as site, mounted(site.session.parent, DISK) as disk:
        try:
            shutil.copytree(whole.folder, site.session)
            fill(disk, PAGE * rng.randrange(0, 2))
            log = (site.session / session.EVENTS).read_bytes()
            words = rng.choice(
                [
                    ("snapshot", str(site.session)),
                    ("report", str(site.session), "--format", "html", "--out", str(disk / "report.html")),
                    ("report", str(site.session), "--plots", str(disk / "plots")),
                    ("import", str(site.ground.folder / "nothing.json"), "--session", str(disk / "new")),
                ]
            )
            code = site.ended(site.start(*words))
            one = code == 2 and len(said(site)) == 1
            told = "" if one else f"{words[0]}: exit code {code}, {site.last_words()}; "
            told += _asked(site)
            if (site.session / session.EVENTS).read_bytes() != log:
                return Outcome(lost_sweep=True, said=f"{told}the log was changed")
            return Outcome(said=told)
        finally:
            site.close()


def _asked(site: Site) -> str:
    """What is amiss with requests of viewers on a full disk: those left after it has room must be there whole."""
    asked = 0
    try:
        for asked in range(200):  # noqa: B007 (how many had room)
            session.request(site.session, "tolerance", value="1.5")
        raise Broken("the disk is not full")
    except OSError:
        (site.session.parent / "balloon").unlink()
    session.request(site.session, "tolerance", value="2.5")
    found = [one for one in session.requests(site.session, 0) if not one.refused]
    if len(found) == asked + 1 and found[-1].value == "2.5":
        return ""
    return f"of {asked + 1} requests beside a full disk {len(found)} are there; "


GROUP = "disks"

FAULTS = [
    Fault("disk full", GROUP, 40, 1, full_disk, "under a sweep, from some line of its log on"),
    Fault("disk full, scripted", GROUP, 60, 6, full_disk_scripted, "the same under scripted engines"),
    Fault("disk full at first", GROUP, 4, 1, full_at_opening, "when the sweep is begun"),
    Fault("file length limited", GROUP, 30, 1, limited_length, "the log ends at an exact byte"),
    Fault("cache's disk full", GROUP, 4, 0, full_cache, "while a quant is made"),
    Fault("disk full, outputs", GROUP, 8, 0, full_outputs, "snapshots, reports, requests"),
]
