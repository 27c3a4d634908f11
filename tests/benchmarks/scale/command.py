"""The command line of the rows at scale: `python -m tests.benchmarks scale --help`.

Exit code 0 if every figure is met, 1 if one is not, 2 (and one line on stderr) where none can be measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.probes import host

from ..machine import Machine
from ..screen import figure
from ..screen.figure import Broken, Figure
from ..screen.programs import Bench
from . import reading, written
from .written import Written

EVENTS = 10_000_000
ROOM = 900
"""Bytes of disk for each event: its line, a copy of it, and key frames of both."""

SHARE, PER_HOUR = 1.0, 12.0
"""Percent of a core; MB."""

SPEEDS, HOURS = (50.0, 500.0), 3.0
"""Tok/s of models whose logs are weighed, the first by the limit, and hours of each."""

MB = 1e6


def writer(week: Written) -> list[Figure]:
    """What the writer costs at the pace at which the events come, over all of it and at its end."""
    each = 1e6 * week.cpu / week.events
    note = (
        f"{each:.1f} µs an event, {100 * week.packed / week.cpu:.0f} % of it key frames; over the last tenth "
        f"{100 * week.last_share:.3f} %; {week.events:,} events in {week.seconds / 3600:.0f} h"
    )
    return [Figure("the writer's CPU", "% of a core", SHARE, 100 * max(week.share, week.last_share), notes=(note,))]


def kept(bench: Bench, week: Written, hours: float) -> list[Figure]:
    """Bytes of log in an hour."""
    found = {}
    for tok_s in SPEEDS:
        with bench.session() as folder:
            found[tok_s] = written.of_speed(folder, tok_s, hours, lambda text: None)
        bench.say(f"{tok_s:.0f} tok/s: {found[tok_s].per_hour / MB:.1f} MB an hour")
    limited, faster = (found[tok_s] for tok_s in SPEEDS)
    notes = (
        f"at {SPEEDS[1]:.0f} tok/s {faster.per_hour / MB:.1f} MB; over the week's mix {week.per_hour / MB:.1f} MB",
        f"{week.events:,} events: log {week.log / MB:.0f} MB, key frames {week.frames / MB:.0f} MB, the largest "
        f"{week.largest / MB:.2f} MB",
    )
    return [Figure(f"log at {SPEEDS[0]:.0f} tok/s", "MB/h", PER_HOUR, limited.per_hour / MB, notes=notes)]


ROWS = {
    "writer": "what the writer costs",
    "bytes": "what an hour takes on the disk",
    "open": "opened on the screen, with its key frames and without",
    "follow": "memory of a viewer that follows all of it",
    "commands": "sessions, report, verify, a resume",
}


def measured(name: str, bench: Bench, week: Written, hours: float) -> list[Figure]:
    """One row's figures; what keeps it from being measured is a note."""
    runs: dict[str, Callable[[], list[Figure]]] = {
        "writer": lambda: writer(week),
        "bytes": lambda: kept(bench, week, hours),
        "open": lambda: reading.opening(bench, week.folder, week.seconds),
        "follow": lambda: reading.following(bench, week.folder, week.events - 1),
        "commands": lambda: reading.commands(bench, week.folder),
    }
    bench.say(f"{name}: {ROWS[name]}")
    try:
        found = runs[name]()
    except (Broken, UserError, OSError, subprocess.SubprocessError, psutil.Error) as error:
        found = [Figure(ROWS[name], "", 0, None, notes=(clean(str(error), 1000),))]
    return [replace(one, row=name) for one in found]


def main(words: Sequence[str]) -> int:
    """Measure the rows asked for, and print them."""
    args = _parser().parse_args(words)
    say = _say(args.silent)
    try:
        _has_room(args.work, args.events)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    figures = []
    with tempfile.TemporaryDirectory(prefix="scale-", dir=args.work, ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), Machine(args.patience, say), args.quick, say)
        try:
            say(f"writing {args.events:,} events")
            week = written.week(bench.place(), args.events, say)
            for name in args.rows or ROWS:
                figures += measured(name, bench, week, 0.2 if args.quick else HOURS)
        except KeyboardInterrupt:
            return 130
    if args.out:
        about = {"wall": time.time(), "events": args.events, "host": msgspec.to_builtins(host.host())}
        with open(args.out, "a", encoding="utf-8") as out:
            out.writelines(json.dumps(figure.line(one, about), ensure_ascii=False) + "\n" for one in figures)
    print(figure.table(figures))
    return 0 if all(one.verdict == figure.MET for one in figures) else 1


def _has_room(work: Path | None, events: int) -> None:
    """Look before a long run.

    Raises:
        UserError: the disk is too small for it.
    """
    place = work or Path(tempfile.gettempdir())
    free, wanted = shutil.disk_usage(place).free, events * ROOM
    if free < wanted:
        raise UserError(
            f"{place}: {wanted / 1e9:.1f} GB are wanted for {events:,} events, {free / 1e9:.1f} GB are free: give "
            "another --work or fewer --events"
        )


def _say(silent: bool) -> Callable[[str], None]:
    """Tell on stderr how far it is."""

    def say(text: str) -> None:
        if not silent:
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks scale", description="A week's sweep, made up: one table."
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[[], *ROWS], help=f"{', '.join(ROWS)} (default: all)")
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help=f"of the session ({EVENTS:,})")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where it is made (the system's temporary folder)")
    parser.add_argument("--patience", type=float, default=60.0, metavar="S", help="wait so long for a quiet machine")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the figures as lines of JSON")
    parser.add_argument("--quick", action="store_true", help="one round of everything")
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    return parser
