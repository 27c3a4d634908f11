"""A ghost's decode against that of the file whose header it has: `python -m tests.benchmarks.ghost --help`.

Of each row a real file, and a ghost of its very tensors and types. Rounds of ghost, file, file and back
(rounds.compare), each in a process of its own, since one differs from the next in where its memory lies, by a per cent
or more. The padded stories model has numbers in place of its padding (Store.stories_filled).
Exit code 0 if every row reaches 1 ± LIMIT, 1 if one does not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quanttui import events as e
from quanttui import paths, quants
from quanttui.engine import protocol
from quanttui.models import files, tiles

from . import figures, table
from .figures import Target, median
from .machine import Machine
from .models import Store, engine
from .rounds import Contestant, Limits, Result, compare

LIMIT = 0.02
"""How far a ghost's tok/s may lie from the file's."""

QUANTS = ("Q8_0", "Q4_K_M", "Q2_K")

REPETITIONS = 3
"""Of each process, after one that only warms up; their median counts."""


def row(file: Path, tokens: int, settings: e.Settings, limits: Limits, machine: Machine, folder: Path) -> Result:
    """One file against its ghost, which is made in the folder."""
    quant = quants.BY_NAME[files.read(file).quant]
    header = tiles.header_of(f"ghost:{file}", quant)
    ghost = folder / f"{tiles.file_name(header, quant.name)}.gguf"
    for _ in tiles.write(header, ghost):
        pass
    ours, its = (_decoding(each, tokens, settings, folder) for each in (ghost, file))
    result = Result(file.stem, Target(1 - LIMIT, 1 + LIMIT))
    compare(result, ours, its, limits, machine, lambda said: print(said, file=sys.stderr, flush=True))
    ghost.unlink()
    return result


def _decoding(file: Path, tokens: int, settings: e.Settings, folder: Path) -> Contestant:
    """Tokens per second of a process that loads the file and decodes."""

    def once() -> float:
        with engine(folder) as started:
            list(started.ask(protocol.Load(arm="x", file=str(file), settings=settings)))
            units = [e.Unit(arm="x", kind="decode", index=index, tokens=tokens) for index in range(REPETITIONS)]
            list(started.ask(protocol.Warm(unit=units[0])))
            told = [one for unit in units for one in started.ask(protocol.Speed(unit=unit))]
        return median([1e9 * one.tokens / one.ns for one in told if isinstance(one, e.UnitDone)])

    return once


def main(words: Sequence[str] | None = None) -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ghost", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="GGUF", help="instead of pocket's and stories' quants")
    parser.add_argument("--threads", "-t", type=int, default=2, metavar="N")
    parser.add_argument("--tokens", "-n", type=int, default=512, metavar="N", help="of a repetition (512)")
    parser.add_argument("--cap", type=int, default=60, metavar="N", help="rounds at most (60)")
    parser.add_argument("--patience", type=float, default=300.0, metavar="S", help="wait so long for a quiet machine")
    args = parser.parse_args(words)
    settings, machine = e.Settings(threads=args.threads, gpu_layers=0), Machine(args.patience, print)
    store = Store(paths.cache_dir() / "benchmarks" / "models", args.threads)
    known = [] if args.files else [store.pocket(QUANTS), store.stories_filled(QUANTS)]
    every = args.files or [file for family in known for file in (family.base, *family.quants)]
    limits = Limits(width=LIMIT, cap=args.cap, again=args.cap)
    with tempfile.TemporaryDirectory() as folder:
        results = [row(file, args.tokens, settings, limits, machine, Path(folder)) for file in every]
    print(table.table(results))
    return 0 if all(result.verdict == figures.REACHED for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
