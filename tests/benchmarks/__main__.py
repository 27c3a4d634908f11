"""The benchmarks' command line: `python -m tests.benchmarks --help`.

Exit code 0 if every row that was asked for is reached, 1 if one is not, 2 (and one line on stderr) if
none can be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quanttui import paths
from quanttui.engine.process import EngineFailure
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import pocket
from quanttui.probes import host

from . import figures, table, tools
from .contestants import Failed, Quanttui
from .machine import Machine
from .models import Store
from .rounds import Limits, Result
from .rows import ROWS, Bench, Row
from .tools import Unusable

SCREEN = "screen"
"""The word before the monitor's rows."""

COVERAGE = "coverage"
"""The word for the table of the statistics, which needs no tool and no model."""

SCALE, SOAK = "scale", "soak"
"""The words for the tables of a week's sweep, and of eight hours with viewers that come and go."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure the rows asked for, and print them. Those of the monitor on a terminal have a table of their own."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] == SCREEN:
        from .screen import command  # here: it needs a terminal, and pyte

        return command.main(words[1:])
    if words and words[0] == COVERAGE:
        from . import coverage

        return coverage.main(words[1:])
    if words and words[0] == SCALE:
        from .scale import command as scale

        return scale.main(words[1:])
    if words and words[0] == SOAK:
        from .soak import command as soak

        return soak.main(words[1:])
    args = _parser().parse_args(words)
    say = _say(args.silent)
    try:
        return _main(args, say)
    except (Unusable, UserError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _main(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    cache = args.cache.expanduser().resolve()
    found = tools.find(args.tools, cache, args.source, say)
    notes = tools.ready(found, pocket.MODEL, pocket.TEXT)
    for note in notes:
        say(note)
    machine = host.host()
    threads = args.threads or machine.cores
    limits = Limits(args.width, 2, 0) if args.quick else Limits(args.width, args.cap, args.cap)
    results = []
    for name in args.rows or ROWS:
        bench = Bench(
            tools=found,
            store=Store(cache / "models", threads),
            quanttui=Quanttui(cache / "quanttui"),
            machine=Machine(1.0 if args.quick else args.patience, say),
            limits=limits,
            threads=threads,
            quick=args.quick,
            say=say,
        )
        result = measure(ROWS[name], bench)
        results.append(result)
        if args.out:
            about = {
                "wall": time.time(),
                "quick": args.quick,
                "threads": threads,
                "host": msgspec.to_builtins(machine),
                "tools": notes,
            }
            _append(args.out, table.line(result, about))
    print(table.table(results))
    return 0 if all(result.verdict == figures.REACHED for result in results) else 1


def measure(row: Row, bench: Bench) -> Result:
    """One row; what keeps it from being measured is a note of it."""
    result = Result(row.name, row.target, verdict="")
    bench.say(f"{row.name}: {row.tells}")
    try:
        result = row.run(bench, result)
    except (Failed, Unusable, UserError, EngineFailure) as error:
        result.verdict = "failed"
        result.notes.append(clean(str(error), 1000))
    if bench.quick:
        result.notes.append("quick: too little was measured to tell anything")
    return result


def _append(file: Path, line: dict[str, Any]) -> None:
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _say(silent: bool) -> Callable[[str], None]:
    """Tell on stderr how far it is."""

    def say(text: str) -> None:
        if not silent:
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="quanttui against llama.cpp's own tools: one table.",
        epilog=f"{SCREEN} [ROW ...]: the monitor on a terminal, a table of its own ({SCREEN} --help); "
        f"{COVERAGE}: how often the statistics keep what they say ({COVERAGE} --help); {SCALE}: a week's sweep, made "
        f"up ({SCALE} --help); {SOAK}: hours of a sweep in minutes, with viewers ({SOAK} --help)",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[[], *ROWS], help=f"{', '.join(ROWS)} (default: all)")
    parser.add_argument("--tools", type=Path, metavar="DIR", help="folder of llama-bench and llama-perplexity")
    parser.add_argument("--source", type=Path, metavar="DIR", help="llama-cpp-python's unpacked source distribution")
    cache = paths.cache_dir() / "benchmarks"
    parser.add_argument("--cache", type=Path, metavar="DIR", default=cache, help=f"work folder ({cache})")
    parser.add_argument("--cap", type=int, default=200, metavar="N", help="rounds at most (200)")
    parser.add_argument("--width", type=float, default=0.01, metavar="W", help="of the interval that is wanted (0.01)")
    parser.add_argument("--threads", "-t", type=int, default=0, metavar="N", help="of both (the physical cores)")
    parser.add_argument("--patience", type=float, default=300.0, metavar="S", help="wait so long for a quiet machine")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the results as lines of JSON")
    parser.add_argument("--quick", action="store_true", help="every row in seconds: only to see that it works")
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
