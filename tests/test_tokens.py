"""Times of fast tokens: none is lost, whatever goes to raw/ and what to the log."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.sweep import tokens

UNIT = e.Unit(arm="Q4_K_M", kind="decode", index=0, tokens=128)

times = st.lists(st.integers(1, 2**33), min_size=1, max_size=300).map(tuple)


@given(times)
def test_no_time_is_lost(tmp_path_factory: pytest.TempPathFactory, ns: tuple[int, ...]) -> None:
    """The log's sums are those of the tokens that they stand for, which raw/ has one by one."""
    folder = session.create(tmp_path_factory.mktemp("s"), "m", tmp_path_factory.mktemp("t") / "session")
    tokens.kept(folder, e.Tokens(unit=UNIT, first=0, ns=(10**6,) * 40))
    kept = tokens.kept(folder, e.Tokens(unit=UNIT, first=40, ns=ns))
    assert sum(kept.ns) == sum(ns)
    if not kept.count:
        assert kept.ns == ns
        return
    assert kept.count == len(ns) and len(kept.ns) <= max(1.0, tokens.FAST * sum(ns) / 1e9)
    single = np.fromfile(folder / kept.file, "<u4", kept.count, offset=kept.offset)
    assert single.tolist() == list(ns)
    assert len(kept.each) == len(ns) and sum(kept.each) == sum(ns)
    edges = [part * kept.count // len(kept.ns) for part in range(len(kept.ns) + 1)]
    for begin, end in pairwise(edges):
        assert sum(kept.each[begin:end]) == sum(ns[begin:end])


def test_a_model_of_fifty_tokens_a_second_has_all_of_them_in_the_log(tmp_path: Path) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "session")
    event = e.Tokens(unit=UNIT, first=0, ns=(20_000_000,) * 10)
    assert tokens.kept(folder, event) is event and not list((folder / "raw").iterdir())


def test_what_raw_does_not_take_stays_in_the_log(tmp_path: Path) -> None:
    event = e.Tokens(unit=UNIT, first=0, ns=(1_000_000,) * 200)
    assert tokens.kept(tmp_path / "gone", event) is event


@given(st.integers(51, 400), st.integers(100_000, 15_000_000))
def test_the_state_knows_as_many_tokens_and_the_same_time(count: int, each: int) -> None:
    """Folded from sums, a repetition has the tokens, the seconds and the trace that it has from single times."""
    whole = e.Tokens(n=2, t=1.0, unit=UNIT, first=0, ns=(each,) * count)
    parts = max(1, count // 7)
    edges = [part * count // parts for part in range(parts + 1)]
    sums = tuple(each * (b - a) for a, b in pairwise(edges))
    slim = msgspec.structs.replace(whole, ns=sums, count=count)
    found = []
    for told in (whole, slim):
        begun = e.UnitStarted(n=1, t=0.0, unit=UNIT, at=0.0)
        state = fold.fold([begun, told])
        assert state.running is not None
        attempt = state.arms["Q4_K_M"].attempt
        assert attempt is not None
        found.append((state.running.tokens, state.running.ns, attempt.tokens, attempt.rate.counts, attempt.rate.sums))
    assert found[0] == found[1]


@pytest.mark.parametrize("count", [1, 2, 10**15])
def test_a_count_that_no_engine_tells_is_not_believed(count: int) -> None:
    """A log from elsewhere says anything: its line does not become a mountain of tokens."""
    assert e.Tokens(unit=UNIT, first=0, ns=(5, 6), count=count).each == (5, 6)


@given(times)
def test_of_an_answer_the_log_has_how_many_tokens_came_and_how_long_they_took(ns: tuple[int, ...]) -> None:
    unit = e.Unit(arm="Q4_K_M", kind="task", index=0, task="mmlu", item="1")
    kept = tokens.kept(Path("nowhere"), e.Tokens(unit=unit, first=0, ns=ns))
    assert kept.ns == (sum(ns),) and len(kept.each) == len(ns) and sum(kept.each) == sum(ns)
