"""`quanttui verify SESSION`: every figure of a session's report recomputed from its raw lines and its manifest.

What the report says comes from the fold of the log. Here the log is read again without the fold, sums are taken anew of
the per-token values in raw/, answers are judged again, and formulas are written a second time (not the confidence
sequences, the bootstraps and the roofline: those are stats' and diagnosis' own, checked by `doctor --self-check` and
the tests). As data, schema 1:

    {"schema": 1, "session": name, "counts": {"same": n, "differs": n, "missing": n, "unreadable": n},
     "figures": [{"about", "what", "recorded", "recomputed", "verdict", "source"}]}

`about` is a quant's id, or "session". verdict: same; differs; missing: what it rests on is not there; unreadable: that
is damaged. `source` says what it was recomputed from, or why it was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quanttui import format, session
from quanttui.decide.study import study
from quanttui.format import clean
from quanttui.summary import summarize
from quanttui.verify import log as logs
from quanttui.verify import quality, speed, tasks, whole
from quanttui.verify.figure import VERDICTS, Figure
from quanttui.verify.raw import Session

SCHEMA = 1


def verify(folder: Path, files: bool = False) -> Iterator[Figure]:
    """Each figure as it has been recomputed.

    Args:
        files: the GGUFs and the text, too, by their SHA-256, where they are still there: all of them are read.

    Raises:
        UserError: there is no such session, or its log cannot be read.
    """
    known = Session(folder, logs.read(folder), session.load(folder))
    yield from whole.of_log(known.log)
    yield from whole.of_frames(folder)
    yield from whole.of_manifest(known)
    rows = {arm.id: arm for arm in summarize(known.state, over=True).arms}
    by_arm = {arm: row for arm in known.state.arms if (row := rows.get(clean(arm, 80))) is not None}
    for arm, row in by_arm.items():
        yield from speed.of_arm(known.log, row, arm)
        yield from quality.of_arm(known, row, arm)
    if known.log.items:
        yield from tasks.of_all(known, by_arm, study(known.state))
    if files:
        yield from whole.of_files(known.log)


def run(folder: Path, files: bool = False, strict: bool = False, as_json: bool = False) -> int:
    """Verify a session, and print a line for each figure, or JSON; the exit code.

    Args:
        strict: what cannot be recomputed because it is missing counts as unreadable.

    Raises:
        UserError: there is no such session, or its log cannot be read.
    """
    done = []
    for figure in verify(folder, files):
        done.append(figure)
        if not as_json:
            print(line(figure), flush=True)
    if as_json:
        print(format.json_text(data(folder, done)))
    else:
        print(f"\n{last(folder, done)}")
    return code(done, strict)


def code(done: Sequence[Figure], strict: bool = False) -> int:
    """0 where all that was recomputed is the same, 1 where something differs, 2 where something is unreadable."""
    verdicts = {one.verdict for one in done}
    if "differs" in verdicts:
        return 1
    return 2 if "unreadable" in verdicts or (strict and "missing" in verdicts) else 0


def line(one: Figure) -> str:
    """`same        F16       perplexity: 3.79 recorded, 3.79 recomputed (raw/F16.nll)`."""
    found = f", {one.recomputed} recomputed" if one.recomputed else ""
    told = f"{one.recorded} recorded{found}" if one.recorded else ""
    source = f" ({one.source})" if one.verdict in ("same", "differs") else f"{', ' if told else ''}{one.source}"
    return f"{one.verdict:<10}  {one.about:<9}  {one.what}: {told}{source}"


def last(folder: Path, done: Sequence[Figure]) -> str:
    """How it came out, in one line."""
    counts = _counts(done)
    said = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict] or verdict == "same"]
    return f"{clean(folder.name, 80)}: {len(done)} figures, {', '.join(said)}"


def data(folder: Path, done: Sequence[Figure]) -> dict[str, Any]:
    """The figures as the object above."""
    return {
        "schema": SCHEMA,
        "session": clean(folder.name, 80),
        "counts": _counts(done),
        "figures": msgspec.to_builtins(list(done)),
    }


def _counts(done: Sequence[Figure]) -> dict[str, int]:
    counted = Counter(one.verdict for one in done)
    return {verdict: counted[verdict] for verdict in VERDICTS}
