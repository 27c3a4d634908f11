"""The campaign's command line: `python -m tests.badinput --help`.

Exit code 0 where nothing failed, 1 where something did, 2 (and one line on stderr) where it cannot be run.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from . import commandline
from .target import Target
from .targets import TARGETS
from .ways import WAYS
from .workers import KINDS, Tally, limit, outcome, run, scratch

CASES, SHORT = 210_000, 2_200
COMMANDS, FEW = 390, 13
"""Cases through the real command line, in the long form and in CI's."""

Row = tuple[str, str, Tally]


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign, and print what came of it."""
    args = _parser().parse_args(words)
    unknown = [name for name in args.targets if name not in {*TARGETS, commandline.NAME}]
    if unknown:
        print(f"badinput: {', '.join(unknown)}: there are {', '.join([*TARGETS, commandline.NAME])}", file=sys.stderr)
        return 2
    if args.input:
        return _again(TARGETS[args.targets[0]], args.input.read_bytes())
    begun, rows = time.monotonic(), []
    for row in _rows(args):
        rows.append(row)
        if not args.short:
            print(line(row), flush=True)
        for said in _failures(row, args.keep):
            print(said, flush=True)
    print(table(sorted(rows, key=_place)))
    whole = Tally()
    for _, _, tally in rows:
        whole.add(tally)
    print(f"{whole.cases} cases, {whole.failures} failures, {time.monotonic() - begun:.0f} s")
    return 1 if whole.failures else 0


def _rows(args: argparse.Namespace) -> Iterator[Row]:
    cases = args.cases or (SHORT if args.short else CASES)
    until = time.monotonic() + 60 * args.minutes
    chosen = [target for name, target in TARGETS.items() if not args.targets or name in args.targets]
    shares = sum(target.share for target in chosen)
    jobs = [
        (target, name, max(8, round(cases * target.share / shares * share)))
        for target in chosen
        for name, (_, share) in WAYS.items()
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = {
            pool.submit(run, target, WAYS[name][0], count, args.seed, until): (target.name, name)
            for target, name, count in jobs
        }
        for done in as_completed(found):
            yield *found[done], done.result()
    if not args.targets or commandline.NAME in args.targets:
        count = FEW if args.short else max(FEW, COMMANDS * cases // CASES)
        yield commandline.NAME, "processes", commandline.run(count, args.seed)


HEADINGS = ("target", "how", "cases", "refused", "read", "tracebacks", "hangs > 5 s", "> 500 MB", "wrong")


def line(row: Row) -> str:
    """One target in one way."""
    name, way, tally = row
    counts = (tally.cases, tally.refused, tally.read, *(tally.failed[kind] for kind in KINDS))
    return f"{name:<16}  {way:<10}" + "".join(f"  {count:>11,}" for count in counts)


def table(rows: Sequence[Row]) -> str:
    """All targets, and their sum."""
    whole = Tally()
    for _, _, tally in rows:
        whole.add(tally)
    head = f"{HEADINGS[0]:<16}  {HEADINGS[1]:<10}" + "".join(f"  {each:>11}" for each in HEADINGS[2:])
    return "\n".join((head, *map(line, rows), line(("all", "", whole))))


def _place(row: Row) -> tuple[int, int]:
    """Where a row stands: in the order of the targets, then of the ways."""
    name, way, _ = row
    return [*TARGETS, commandline.NAME].index(name), [*WAYS, "processes"].index(way)


def _failures(row: Row, folder: Path | None) -> Iterator[str]:
    """Each failure once, in a line."""
    name, way, tally = row
    for (kind, said), data in tally.told.items():
        yield f"{kind}: {name}, {way}: {said}{_kept(folder, name, data)}"


def _kept(folder: Path | None, name: str, data: bytes) -> str:
    """Keep an input that failed, and say where."""
    if folder is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return f" ({path})"


def _again(target: Target, data: bytes) -> int:
    """One input once more; its traceback, where it has one, is shown."""
    with scratch() as folder:
        limit()
        kind, said = outcome(target, data, folder)
        print(kind, said)
        if kind not in ("read", "refused", "hang", "memory"):
            target.run(data, folder)
    return 0 if kind in ("read", "refused") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.badinput", description="Bad input for all that reads.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join([*TARGETS, commandline.NAME])}")
    parser.add_argument("--cases", type=int, default=0, metavar="N", help=f"in all (default {CASES:,})")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="other inputs by another (default 1)")
    parser.add_argument("--minutes", type=float, default=120, metavar="N", help="no case begins later")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at once (default 1)")
    parser.add_argument("--short", action="store_true", help=f"the form for CI: {SHORT:,} cases")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep inputs that fail there")
    parser.add_argument("--input", type=Path, metavar="FILE", help="this input alone, with its traceback")
    return parser


if __name__ == "__main__":
    sys.exit(main())
