"""The fault lab's command line: `python -m tests.faults --help`.

Exit code 0 if every figure is reached and the machine is left as it was found, 1 if not, 2 (and one line on stderr) if
nothing can be measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from quanttui import paths
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.probes import host

from ..benchmarks.machine import Machine
from . import cgroups, conditions, machine, matrix, onset, records
from .cgroups import Parent, Unusable
from .conditions import Condition
from .lab import Failed, Lab
from .onset import Begins
from .records import Record

Job = Condition | Begins


def main(words: Sequence[str] | None = None) -> int:
    """Run the conditions asked for, and print what they amount to."""
    args = _parser().parse_args(words)
    say = _say(args.silent)
    try:
        if args.read:
            found = list(records.read(args.read))
            print(matrix.text(found))
            return 0 if matrix.reached(matrix.figures(found)) else 1
        with machine.ends_in_order():
            return _main(args, say)
    except (Unusable, UserError, OSError) as error:
        print(f"faults: {clean(str(error), 1000)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, machine.Told):
        return 130


def _main(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    threads = args.threads or host.host().cores
    jobs = _jobs(threads)
    unknown = [name for name in args.conditions if name not in jobs]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: there are {', '.join(jobs)}")
    work = args.work.expanduser().resolve()
    parent, why = _parent()
    lab = Lab(
        work=work,
        parent=parent,
        why=why,
        threads=threads,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cache=host.cache_bytes() or 0,
        machine=Machine(args.patience, say),
        say=say,
        again=args.again,
        keep=args.keep.expanduser().resolve() if args.keep else None,
    )
    machine.recover(parent, work, say)
    before = machine.left(parent, work)
    try:
        found = _measure(lab, [jobs[name] for name in args.conditions or jobs], jobs, args.runs, args.out)
    finally:
        beyond = machine.left(parent, work).beyond(before)
        for line in beyond or ["the machine is left as it was found: swap, cgroups, processes, files"]:
            say(line)
    print(matrix.text(found))
    return 0 if not beyond and matrix.reached(matrix.figures(found)) else 1


def _jobs(threads: int) -> dict[str, Job]:
    """All that can be asked for, in the order in which it is run."""
    return {**conditions.table(threads), **onset.table(threads)}


def _parent() -> tuple[Parent | None, str]:
    """Where cgroups can be made, or why nowhere."""
    try:
        return cgroups.find(), ""
    except Unusable as error:
        return None, str(error)


def _measure(
    lab: Lab, asked: Sequence[Job], jobs: dict[str, Job], runs: int, out: Path | None
) -> list[Record]:
    """All that was asked for, in rounds: what drifts falls on all conditions alike. What the host does not allow is
    told once."""
    found: list[Record] = []
    skipped: set[str] = set()
    last = ""
    for _ in range(runs):
        for job in asked:
            before = jobs.get(job.after) if isinstance(job, Condition) else None
            for one in (before, job) if before is not None and before.name != last else (job,):
                if one is None or one.name in skipped:
                    continue
                try:
                    made = _one(lab, one)
                except Unusable as error:
                    skipped.add(one.name)
                    lab.say(f"{one.name}: skipped: {error}")
                    continue
                last = one.name
                found += made
                for record in made:
                    lab.say(_line(record))
                    if out is not None:
                        records.append(out, record)
    return found


def _one(lab: Lab, job: Job) -> list[Record]:
    """One run; that there is no report is what quanttui said."""
    lab.say(f"{job.name}: {job.tells}")
    begun = time.monotonic()
    try:
        return [onset.run(lab, job)] if isinstance(job, Begins) else lab.run(job)
    except Failed as error:
        lab.say(str(error))
        about = lab.about(time.monotonic() - begun)
        nothing = records.Onset(None) if isinstance(job, Begins) else None
        kind = conditions.FAULTY if isinstance(job, Begins) else job.kind
        return [
            Record(
                condition=job.name, kind=kind, right=(), said="no report", error=str(error), onset=nothing, **about
            )
        ]


def _line(record: Record) -> str:
    """A run in one line: what was said, whether it is right, and the kernel's own view."""
    facts = record.facts
    told = [f"{record.tok_s:.2f} tok/s" if record.tok_s else "", f"MBU {record.mbu:.2f}" if record.mbu else ""]
    if facts is not None:
        shares = (("file", facts.file), ("swap", facts.anonymous), ("machine's swap-ins", facts.swapped))
        told += [f"{name} {100 * share:.2f} %" for name, share in shares if share]
        told += [f"{100 * facts.of_clean:.0f} % of the clean speed"] if facts.of_clean else []
        cores = (("hogs", facts.hogs), ("others", facts.others), ("steal", facts.steal))
        told += [f"{name} {count:.2f}" for name, count in cores if count is not None]
    if record.onset is not None:
        seen = record.onset.flagged
        told.append(f"seen after {seen:.2f} s" if seen is not None else "never seen")
        told.append(f"longest token {record.onset.token:.1f} s")
    right = "right" if record.correct else f"WRONG, not {'/'.join(record.right)}"
    right = "counts for nothing" if record.void else right
    codes = " ".join(said.code for said in record.verdicts if said.decodes)
    told = [*filter(None, told), f"{record.seconds:.0f} s"]
    return f"{record.condition}: {record.said} ({right}) [{codes}] {', '.join(told)}"


def _say(silent: bool) -> Callable[[str], None]:
    """Tell on stderr how far it is."""

    def say(text: str) -> None:
        if not silent:
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Real faults on the real engine, and what quanttui says of them: a confusion matrix.",
        epilog="conditions:\n" + "\n".join(f"  {job.name:<15} {job.tells}" for job in _jobs(1).values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("conditions", nargs="*", metavar="CONDITION", help="which (default: all)")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="rounds (1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the runs as lines of JSON")
    parser.add_argument("--from", type=Path, dest="read", metavar="FILE", help="print the matrix of such a file only")
    work = paths.cache_dir() / "faults"
    parser.add_argument("--work", type=Path, default=work, metavar="DIR", help=f"work folder ({work})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the sessions of all runs there")
    parser.add_argument("--threads", "-t", type=int, default=0, metavar="N", help="of the engine (the physical cores)")
    parser.add_argument("--patience", type=float, default=120.0, metavar="S", help="wait so long for a quiet machine")
    again = "how often a run that counts for nothing is done again (2)"
    parser.add_argument("--again", type=int, default=2, metavar="N", help=again)
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
