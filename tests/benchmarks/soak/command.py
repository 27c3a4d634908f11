"""The command line of the soak: `python -m tests.benchmarks soak --help`.

Exit code 0 if every figure is met, 1 if one is not, 2 (and one line on stderr) where none can be measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil

from quanttui import events as e
from quanttui import session
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.probes import host
from quanttui.sweep import lock

from ..figures import median
from ..machine import Machine
from ..screen import figure
from ..screen.figure import Broken, Figure, quantile
from ..screen.programs import CHECKOUT, Bench
from ..screen.terminal import python
from .viewers import LOOK, Look, Viewers, Visits, look

GROWTH = 5.0
"""Percent by which the median of the last third may exceed that of the first."""

HASTE, PATIENCE = 1.5, 2.0
"""The clock's speed over that which the minutes ask for, as it stands still while the sweep computes; and how many
times the minutes it may take at last."""

QUIET = 0.1
"""The share of the looks that may have seen fewer descriptors or threads than are told: before all was begun."""

SETTLED = 0.25
"""The share of the hours after which the viewer that stays has opened every page and unpacked as much as it keeps:
three of the twelve quants are over then. Of what grows for ever the rest tells as well."""

BEGINNING = 600.0
"""Seconds in which the first quant has to be through."""

ENDING = 60.0
"""Seconds in which a sweep that was asked to finish has to be over; ten times as many where it is traced."""

ASKING = 0.9
"""The share of the time in which viewers ask for something: all of it is to be taken before the end."""

FILES = {session.EVENTS, session.FRAMES, session.CONTROL, session.MANIFEST}
FOLDERS = {"raw", "stderr", "snapshots"}
"""What a session's folder holds, and nothing else."""

MB = 1e6


@dataclass
class Soaked:
    """What was seen: looks at the sweep's process and at viewers, and what the log and the disk say afterwards.

    `lost`: events missing from the log and lines of it that are none; `twice`: units recorded more than once;
    `untaken`: requests that were taken never or twice. `strange`: files in the session's folder that are none of its;
    `temporary` files and `processes` that were left. `hours` of session time, of those
    that were `asked` for; `sizes` of the session's parts in bytes.
    """

    swept: list[Look]
    visits: Visits
    code: int | None = None
    asked: float = 0.0
    hours: float = 0.0
    events: int = 0
    lost: int = 0
    twice: int = 0
    requests: int = 0
    untaken: int = 0
    strange: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    trace: str = ""


def soak(bench: Bench, folder: Path, hours: float, minutes: float, trace: bool = False) -> Soaked:
    """A sweep of so many hours in so many minutes, in a folder that is not there yet.

    Raises:
        Broken: it does not begin, or ends before its time.
    """
    temporary = bench.folder / "tmp"
    temporary.mkdir()
    own = {"TMPDIR": str(temporary), lock.FOLDER: str(bench.folder)}
    environment = bench.environment(**own)
    speed = HASTE * hours * 60 / minutes
    package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
    line = python("-m", f"{package}.sweep", str(folder), "--speed", str(speed), "--hours", str(hours))
    said = bench.folder / "said.txt"
    with open(said, "wb") as out:
        process = subprocess.Popen(
            [*line, *(["--trace"] if trace else [])], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=environment, cwd=CHECKOUT,
        )  # fmt: skip
    found = Soaked([], Visits(), asked=hours)
    viewers = Viewers(bench, folder, found.visits, own, SETTLED * 3600 * hours)
    try:
        _begun(folder, process, said)
        viewers.start()
        _watch(bench, folder, process, found, viewers, 3600 * hours, 60 * PATIENCE * minutes, trace)
        session.request(folder, "finish")
        with suppress(subprocess.TimeoutExpired):
            found.code = process.wait(ENDING * (10 if trace else 1))
    finally:
        viewers.join()
        if process.poll() is None:
            process.kill()
            process.wait()
    _audit(found, folder, temporary, environment["QUANTTUI_CACHE_DIR"])
    if found.code is None:
        raise Broken(f"the sweep is not over {ENDING:.0f} s after it was asked to finish: {_last(said)}")
    return found


def _begun(folder: Path, process: subprocess.Popen[bytes], said: Path) -> None:
    """Wait until the first quant is through: all that is opened once is open then."""
    log, end = folder / session.EVENTS, time.monotonic() + BEGINNING
    while not log.exists() or b'"event":"arm.done"' not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            raise Broken(f"the sweep does not begin: {_last(said)}")
        time.sleep(0.05)


def _watch(
    bench: Bench, folder: Path, process: subprocess.Popen[bytes], found: Soaked, viewers: Viewers, seconds: float,
    patience: float, trace: bool,
) -> None:  # fmt: skip
    """Look at the sweep until so many seconds of session time are over, or `patience`, in seconds of this clock, is."""
    swept, told, marks = psutil.Process(process.pid), 0.0, [0.2, 0.95] if trace else []
    end = time.monotonic() + patience
    while found.visits.now < seconds and time.monotonic() < end:
        if process.poll() is not None:
            raise Broken(f"the sweep ended with {process.returncode} after {found.visits.now / 3600:.2f} h")
        found.visits.now = session.end(folder)
        found.swept.append(look(swept, found.visits.now))
        share = found.visits.now / seconds
        if share >= ASKING:
            viewers.quiet.set()
        if marks and share >= marks[0]:
            marks.pop(0)
            process.send_signal(signal.SIGUSR1)
        if share - told >= 0.1:
            told, now = share, found.swept[-1]
            bench.say(
                f"{now.t / 3600:.1f} h: sweep {now.memory / MB:.1f} MB, {now.descriptors} descriptors, {now.threads} "
                f"threads; {len(found.visits.left)} viewers came and left"
            )
        time.sleep(LOOK)


def _audit(found: Soaked, folder: Path, temporary: Path, cache: str) -> None:
    """What the log says, and what was left behind."""
    reader = session.Reader(folder)
    events = [event for event in reader.events() if isinstance(event, e.Event)]
    reader.close()
    units = [event.unit.id for event in events if isinstance(event, e.UnitDone) and event.unit.kind != "anchor"]
    taken = [event.offset for event in events if isinstance(event, e.Control)]
    control = (folder / session.CONTROL).read_bytes() if (folder / session.CONTROL).exists() else b""
    ends = [at + 1 for at, byte in enumerate(control) if byte == 0x0A]
    found.events, found.hours = len(events), events[-1].t / 3600 if events else 0.0
    found.lost = sum(after.n - before.n != 1 for before, after in pairwise(events)) + reader.dropped
    found.twice, found.requests = len(units) - len(set(units)), len(ends)
    found.untaken = len(set(ends) ^ set(taken)) + len(taken) - len(set(taken))
    found.strange = sorted(path.name for path in folder.iterdir() if path.name not in FILES | FOLDERS)
    found.strange += sorted(path.name for path in folder.parent.iterdir() if path.name not in (folder.name, "cache"))
    found.temporary = sorted(path.name for path in temporary.iterdir())
    found.processes = list(_left(cache))
    found.sizes = {path.name: _bytes(path) for path in folder.iterdir()}
    trace = folder.with_suffix(".trace")
    if trace.exists():
        found.trace = trace.read_text(encoding="utf-8")
        found.strange.remove(trace.name)


def _left(cache: str) -> Iterable[str]:
    """Processes that were started by this soak, known by their environment, and are still there."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("QUANTTUI_CACHE_DIR") == cache and process.status() != psutil.STATUS_ZOMBIE:
                yield " ".join(process.cmdline())[:200]


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _last(said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return clean(lines[-1], 300) if lines else "it says nothing"


def thirds(looks: Sequence[Look]) -> tuple[list[Look], list[Look]]:
    """The looks of the first and of the last third of the session time that they cover."""
    if not looks:
        return [], []
    begin, end = looks[0].t, looks[-1].t
    edge = (end - begin) / 3
    return [one for one in looks if one.t <= begin + edge], [one for one in looks if one.t >= end - edge]


def _descriptors(one: Look) -> int:
    return one.descriptors


def _threads(one: Look) -> int:
    return one.threads


def growth(who: str, looks: Sequence[Look]) -> list[Figure]:
    """Memory, descriptors and threads of the last third against the first: the fewest that were seen (but for QUIET
    of the looks) of what comes and goes with every engine that is started, since a leak stays."""
    first, last = thirds(looks)
    if not first or not last:
        return [Figure(f"{who}: growth", "", 0, None, notes=("too little was seen of it",))]
    before, after = (median([one.memory / MB for one in each]) for each in (first, last))
    note = f"{before:.1f} MB in the first third, {after:.1f} MB in the last, {len(looks)} looks"

    def more(of: Callable[[Look], int]) -> float:
        return max(0, quantile([of(one) for one in last], QUIET) - quantile([of(one) for one in first], QUIET))

    told = [f"{min(map(of, looks))} to {max(map(of, looks))}" for of in (_descriptors, _threads)]
    return [
        Figure(f"{who}: growth of memory", "%", GROWTH, 100 * (after / before - 1), notes=(note,)),
        Figure(f"{who}: more descriptors", "", 0, more(_descriptors), notes=(told[0],)),
        Figure(f"{who}: more threads", "", 0, more(_threads), notes=(told[1],)),
    ]


def figures(found: Soaked) -> list[Figure]:
    """What a soak has told."""
    sizes = ", ".join(f"{name} {size / MB:.1f} MB" for name, size in sorted(found.sizes.items()))
    visited = f"{len(found.visits.left)} visits in {found.hours:.1f} h, {found.events:,} events"
    return [
        *growth("sweep", found.swept),
        *growth("viewer that stays", found.visits.stayed),
        *growth("viewers that leave", found.visits.left),
        Figure("viewers: went wrong", "", 0, len(found.visits.wrong), notes=(visited, *found.visits.wrong[:5])),
        Figure("of the hours asked for, missing", "h", 0, max(0.0, found.asked - found.hours)),
        Figure("events lost", "", 0, found.lost),
        Figure("units recorded twice", "", 0, found.twice),
        Figure("requests not taken once", "", 0, found.untaken, notes=(f"of {found.requests}",)),
        Figure("strange files in the session", "", 0, len(found.strange), notes=(sizes, *found.strange[:5])),
        Figure("temporary files left", "", 0, len(found.temporary), notes=tuple(found.temporary[:5])),
        Figure("processes left", "", 0, len(found.processes), notes=tuple(found.processes[:5])),
    ]


def main(words: Sequence[str]) -> int:
    """Soak, and print the table."""
    args = _parser().parse_args(words)

    def say(text: str) -> None:
        if not args.silent:
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    trace = ""
    with tempfile.TemporaryDirectory(prefix="soak-", dir=args.work, ignore_cleanup_errors=True) as place:
        bench = Bench(Path(place), Machine(0.0, say), False, say)
        try:
            with bench.session() as folder:
                soaked = soak(bench, folder, args.hours, args.minutes, args.trace)
            found, trace = figures(soaked), soaked.trace
        except KeyboardInterrupt:
            return 130
        except (Broken, UserError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            found = [Figure("the soak", "", 0, None, notes=(clean(str(error), 1000),))]
    found = [replace(one, row="soak") for one in found]
    if args.out:
        about = {"wall": time.time(), "hours": args.hours, "minutes": args.minutes}
        about["host"] = msgspec.to_builtins(host.host())
        with open(args.out, "a", encoding="utf-8") as out:
            out.writelines(json.dumps(figure.line(one, about), ensure_ascii=False) + "\n" for one in found)
    print(figure.table(found) + (f"\n\n{trace}" if trace else ""))
    return 0 if all(one.verdict == figure.MET for one in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks soak", description="Hours of a sweep in minutes, with viewers: one table."
    )
    parser.add_argument("--hours", type=float, default=8.0, metavar="H", help="of session time (8)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="M", help="in which they pass on a machine that is free (10)"
    )
    parser.add_argument("--trace", action="store_true", help="tell what the sweep's process has allocated meanwhile")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where it runs (the system's temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the figures as lines of JSON")
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    return parser
