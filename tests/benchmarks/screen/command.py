"""The command line of the monitor's rows: `python -m tests.benchmarks screen --help`.

Exit code 0 if every figure is met, 1 if one is not, 2 (and one line on stderr) where none can be measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import psutil

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.probes import host

from ..machine import Machine
from . import cost, faults, figure, keys, long, start
from .figure import Broken, Figure
from .programs import Bench


@dataclass(frozen=True)
class Row:
    """A row: what it tells, and how it comes by its figures."""

    tells: str
    run: Callable[[Bench], list[Figure]]


ROWS = {
    "paint": Row("command to first paint, warm", start.paint),
    "printed": Row("commands that print", start.printed),
    "keys": Row("key to repaint while every core is loaded", keys.keys),
    "live": Row("CPU and bytes, live, with a core to spare", cost.live),
    "ssh": Row("the same over SSH", cost.remote),
    "quiet": Row("CPU and whole frames in quiet windows", cost.quiet),
    "idle": Row("CPU attached to a session that is over", cost.idle),
    "unfocused": Row("CPU live in a window without the focus", cost.unfocused),
    "open": Row("a session of a million events on the screen", long.opening),
    "seek": Row("anywhere in a session of a million events", long.seeking),
    "day": Row("memory of a viewer after 24 hours of events", long.day),
    "stalled": Row("a terminal that takes nothing", faults.stalled),
    "killed": Row("a terminal that hangs up", faults.killed),
    "resized": Row("fifty sizes a second", faults.resized),
}


def main(words: Sequence[str]) -> int:
    """Measure the rows asked for, and print them."""
    args = _parser().parse_args(words)
    say = _say(args.silent)
    figures = []
    with tempfile.TemporaryDirectory(prefix="screen-", dir=args.folder, ignore_cleanup_errors=True) as folder:
        for name in args.rows or ROWS:
            machine = Machine(1.0 if args.quick else args.patience, say)
            say(f"{name}: {ROWS[name].tells}")
            try:
                found = measure(name, Bench(Path(folder), machine, args.quick, say))
            except KeyboardInterrupt:
                return 130
            figures += [_noted(one, machine, args.quick) for one in found]
    if args.out:
        about = {"wall": time.time(), "quick": args.quick, "host": msgspec.to_builtins(host.host())}
        with open(args.out, "a", encoding="utf-8") as out:
            out.writelines(json.dumps(figure.line(one, about), ensure_ascii=False) + "\n" for one in figures)
    print(figure.table(figures))
    return 0 if all(one.verdict == figure.MET for one in figures) else 1


def measure(name: str, bench: Bench) -> list[Figure]:
    """One row's figures; what keeps it from being measured is a note."""
    try:
        found = ROWS[name].run(bench)
    except (Broken, UserError, OSError, subprocess.SubprocessError, psutil.Error) as error:
        found = [Figure(ROWS[name].tells, "", 0, None, notes=(clean(str(error), 1000),))]
    return [replace(one, row=name) for one in found]


def _noted(one: Figure, machine: Machine, quick: bool) -> Figure:
    notes = list(one.notes)
    if machine.given_up:
        notes.append(f"begun {machine.given_up} times on a busy machine")
    if quick:
        notes.append("quick: too little was measured to tell anything")
    return replace(one, notes=tuple(notes))


def _say(silent: bool) -> Callable[[str], None]:
    """Tell on stderr how far it is."""

    def say(text: str) -> None:
        if not silent:
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks screen", description="The monitor on a terminal: one table."
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[[], *ROWS], help=f"{', '.join(ROWS)} (default: all)")
    parser.add_argument("--patience", type=float, default=300.0, metavar="S", help="wait so long for a quiet machine")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where sessions are made (the system's temporary)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the figures as lines of JSON")
    parser.add_argument("--quick", action="store_true", help="every row in seconds: only to see that it works")
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    return parser
