"""The fault campaign's command line: `python -m tests.campaign --help`.

Exit code 0 if nothing is lost or wrong in any fault, 1 if something is, 2 (and one line on stderr) if nothing can be
run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from quanttui.errors import UserError
from quanttui.format import clean

from . import rounds, table
from .ground import Broken, Fault, Ground

MODULES = ("processes", "files")
"""Where faults are, each a list FAULTS."""


def main(words: Sequence[str] | None = None) -> int:
    """Do the faults asked for, and print what they amount to."""
    args = _parser().parse_args(words)
    say = _say(args.silent)
    try:
        if os.name != "posix":
            raise UserError("signals and terminals of POSIX are what most faults are made of: there are none here")
        return _main(args, say)
    except (UserError, Broken, OSError) as error:
        print(f"campaign: {clean(str(error), 1000)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _main(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    faults = gathered(say)
    known = {name for fault in faults for name in (fault.name, fault.group)}
    if unknown := [name for name in args.names if name not in known]:
        raise UserError(f"{', '.join(unknown)}: there are {', '.join(fault.name for fault in faults)}")
    chosen = [fault for fault in faults if not args.names or {fault.name, fault.group} & set(args.names)]
    if args.list:
        print("\n".join(f"{fault.name:<40} {fault.times:>4} {fault.short:>3}  {fault.tells}" for fault in chosen))
        return 0
    asked = [(fault, args.count or (fault.short if args.short else fault.times)) for fault in chosen]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as folder:
        ground = Ground(Path(folder), args.keep)
        ground.whole()
        found = rounds.rows(ground, [(fault, count) for fault, count in asked if count], args.seed, args.jobs, say)
    print(table.text(found))
    print(f"seed {args.seed}, {time.monotonic() - begun:.0f} s")
    return 0 if table.sound(found) else 1


def gathered(say: Callable[[str], None]) -> list[Fault]:
    """All faults there are. A module that is not there is told, and its faults are left out."""
    found: list[Fault] = []
    for name in MODULES:
        try:
            found += importlib.import_module(f".{name}", __package__).FAULTS
        except ModuleNotFoundError as error:
            say(f"without the faults of {name}: {error}")
    return found


def _say(silent: bool) -> Callable[[str], None]:
    """Tell on stderr how far it is."""

    def say(line: str) -> None:
        if not silent:
            print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description="Whatever breaks under a sweep: what was recorded stays, and what is missing is resumed.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults or groups of them (default: all)")
    parser.add_argument("--short", action="store_true", help="the few of each that run in CI")
    parser.add_argument("--count", type=int, metavar="N", help="each so many times")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the moments (1)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time (2)")
    keep = "where something is amiss, keep there what the fault left"
    parser.add_argument("--keep", type=Path, metavar="DIR", help=keep)
    parser.add_argument("--list", action="store_true", help="say what there is, how often in the long and short form")
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
