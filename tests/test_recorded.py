"""The session that the project recorded itself: README states its figures, and it still reads, folds and shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from quanttui import session
from quanttui import state as fold
from quanttui.stats.intervals import perplexity
from quanttui.summary import summarize
from quanttui.tui.app import picture as picture_of

ROOT = Path(__file__).resolve().parent.parent
SESSION = ROOT / "sessions" / "pocket"


@pytest.fixture(scope="module")
def recorded() -> fold.State:
    return session.load(SESSION)


def test_readmes_table_is_what_the_session_measured(recorded: fold.State) -> None:
    arms = {arm.id: arm for arm in summarize(recorded, over=True).arms}
    rows = re.findall(
        r"^\| (\w+) \| ([\d.]+) \| ([\d.]+ \+/- [\d.]+) \| (.*?) ?\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert [row[0] for row in rows] == list(arms)
    for name, bits, quality, change in rows:
        arm = arms[name]
        assert arm.bits_per_weight is not None and arm.perplexity is not None and arm.perplexity.se is not None
        assert bits == f"{arm.bits_per_weight:.2f}"
        assert quality == f"{arm.perplexity.value:.4f} +/- {arm.perplexity.se:.5f}"
        if arm.delta is not None and arm.delta.percent_error is not None and change:
            assert change == f"{arm.delta.percent:+.2f} % ± {arm.delta.percent_error:.2f}"


def test_every_perplexity_follows_from_the_raw_rows(recorded: fold.State) -> None:
    for name, arm in recorded.arms.items():
        rows = np.fromfile(SESSION / "raw" / f"{name}.nll", dtype="<f8")
        assert len(rows) == 255 * len(arm.chunks)
        value, error = perplexity(len(rows), float(rows.sum()), float((rows * rows).sum()))
        assert arm.perplexity() == (pytest.approx(value, rel=1e-12), pytest.approx(error, rel=1e-9))


def test_it_is_whole_and_its_speeds_are_called_what_they_are(recorded: fold.State) -> None:
    assert recorded.closed == "ok" and recorded.unknown == 0
    for arm in summarize(recorded, over=True).arms:
        assert arm.outcome == "ok"
        assert "cache-resident" in [verdict.code for verdict in arm.verdicts]


def test_readmes_picture_is_a_snapshot_of_it() -> None:
    """Made anew by `quanttui snapshot sessions/pocket --at 29.8s --out sessions/pocket/snapshots/120x40`."""
    picture = (SESSION / "snapshots" / "120x40.svg").read_text()
    assert picture == picture_of(SESSION, "29.8s", (120, 40))[0]
