"""measure.perplexity: scoring against exact arithmetic, and how a group is decoded, on a context that keeps count."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quanttui import events as e
from quanttui.errors import UserError
from quanttui.measure import perplexity
from quanttui.measure.counters import Meter
from quanttui.measure.perplexity import Frame, Raw
from quanttui.measure.speed import Clock

VOCABULARY = 11
BOS = 1

logits_and_targets = st.integers(1, 6).flatmap(
    lambda rows: st.integers(1, 300).flatmap(
        lambda width: st.tuples(
            hnp.arrays(np.float32, (rows, width), elements=st.floats(-60, 60, width=32)),
            hnp.arrays(np.int32, rows, elements=st.integers(0, width - 1)),
        )
    )
)


def exact(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The same in float64 throughout."""
    wide = logits.astype(np.float64)
    peak = wide.max(axis=1, keepdims=True)
    total = np.log(np.exp(wide - peak).sum(axis=1)) + peak[:, 0]
    return np.asarray(total - wide[np.arange(len(targets)), targets])


@given(logits_and_targets)
def test_nll_is_the_log_softmax_to_single_precision(
    pair: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]],
) -> None:
    logits, targets = pair
    assert perplexity.nll(logits, targets) == pytest.approx(exact(logits, targets), rel=1e-5, abs=2e-5)


@given(logits_and_targets, st.integers(-8, 8))
def test_nll_does_not_change_when_all_logits_shift(
    pair: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]], shift: int
) -> None:
    logits, targets = np.round(pair[0]), pair[1]
    moved = logits + np.float32(shift)
    assert (perplexity.nll(logits, targets) == perplexity.nll(moved, targets)).all()


@given(logits_and_targets)
def test_nll_leaves_the_logits_as_they_were(pair: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]) -> None:
    logits, targets = pair
    before = logits.copy()
    perplexity.nll(logits, targets)
    assert (logits == before).all()


def test_equal_logits_are_as_uncertain_as_the_vocabulary_is_large() -> None:
    assert perplexity.nll(np.zeros((3, 32000), np.float32), np.arange(3)) == pytest.approx([math.log(32000)] * 3)


@given(st.integers(0, 5000), st.integers(2, 600), st.one_of(st.none(), st.integers(0, 20)))
def test_a_text_gives_whole_chunks_only_and_is_refused_under_two(tokens: int, context: int, limit: int | None) -> None:
    if tokens < 2 * context:
        with pytest.raises(UserError, match=r"the\.txt: \d+ tokens .* \(--text\)"):
            perplexity.chunks(tokens, context, limit, "the.txt")
        return
    found = perplexity.chunks(tokens, context, limit, "the.txt")
    assert found == min(tokens // context, tokens if limit is None else limit)


@pytest.mark.parametrize(
    ("context", "batch", "expected"), [(512, 2048, 4), (512, 512, 1), (2048, 512, 1), (300, 2048, 6)]
)
def test_as_many_chunks_go_together_as_fit_into_a_batch(context: int, batch: int, expected: int) -> None:
    assert perplexity.group(context, batch) == expected


class Echo:
    """A context whose logits for a token depend on its sequence's last chunk token and position, and nothing else.

    It keeps what it was given, and holds llama.cpp to account: outputs lie in the order of submission.
    """

    def __init__(self) -> None:
        self.wiped = 0
        self.submitted: list[tuple[npt.NDArray[np.int32], int, npt.NDArray[np.bool_]]] = []

    def wipe(self) -> None:
        self.wiped += 1

    def decode(self, tokens: npt.NDArray[np.int32], position: int, outputs: npt.NDArray[np.bool_]) -> None:
        self.submitted.append((tokens.copy(), position, outputs.copy()))

    def logits(self, index: int, rows: int) -> npt.NDArray[np.float32]:
        tokens, position, outputs = self.submitted[-1]
        flat, wanted = tokens.reshape(-1), np.tile(outputs, len(tokens))
        assert wanted[index]
        chosen = [at for at in range(index, len(flat)) if wanted[at]][:rows]
        width = tokens.shape[1]
        return np.stack([row(int(flat[at]), position + at % width) for at in chosen])


def row(token: int, position: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng((token, position)).normal(size=VOCABULARY).astype(np.float32)


def expected_rows(tokens: npt.NDArray[np.int32], context: int, bos: int | None) -> npt.NDArray[np.float64]:
    """The definition, token by token: positions context/2 … context-2 score the next, BOS replaces the first."""
    rows = []
    for chunk in tokens[: len(tokens) // context * context].reshape(-1, context):
        seen = chunk.copy()
        if bos is not None:
            seen[0] = bos
        places = range(context // 2, context - 1)
        logits = np.stack([row(int(seen[at]), at) for at in places])
        rows.append(perplexity.nll(logits, np.array([chunk[at + 1] for at in places])))
    return np.array(rows)


def scored(
    folder: Path, tokens: npt.NDArray[np.int32], frame: Frame, first: int, count: int
) -> tuple[Echo, list[e.Event]]:
    context, unit = Echo(), e.Unit(arm="A", kind="perplexity", index=first, count=count)
    raw = Raw(folder / "raw" / "A.nll", "raw/A.nll")
    ticks = iter(range(1_000, 10**9, 1_000))
    clock = Clock(origin_ns=0, read=lambda: next(ticks))
    events = list(perplexity.score(context, frame, tokens, unit, 99, raw, clock, Meter()))
    raw.close()
    return context, events


@given(
    context=st.integers(4, 24),
    batch=st.integers(1, 60),
    count=st.integers(1, 3),
    first=st.integers(0, 2),
    bos=st.sampled_from([None, BOS]),
    threads=st.integers(1, 3),
)
def test_any_cut_into_batches_scores_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    context: int,
    batch: int,
    count: int,
    first: int,
    bos: int | None,
    threads: int,
) -> None:
    count = min(count, perplexity.group(context, batch))
    tokens = np.random.default_rng(context).integers(0, VOCABULARY, (first + count) * context).astype(np.int32)
    frame = Frame(context=context, batch=batch, bos=bos, threads=threads)
    folder = tmp_path_factory.mktemp("raw")
    echo, events = scored(folder, tokens, frame, first, count)

    expected = expected_rows(tokens, context, bos)[first:]
    told = [event for event in events if isinstance(event, e.Perplexity)]
    assert [event.chunk for event in told] == list(range(first, first + count))
    assert [event.nll for event in told] == pytest.approx(expected.sum(axis=1))
    assert [event.nll2 for event in told] == pytest.approx((expected**2).sum(axis=1))
    assert {event.scored for event in told} == {context - 1 - context // 2}
    assert {event.chunks for event in told} == {99}
    raw = np.fromfile(folder / "raw" / "A.nll", "<f8").reshape(-1, context - 1 - context // 2)
    assert (raw[first:] == expected).all()
    assert all(event.offset == event.chunk * raw.shape[1] * 8 and event.file == "raw/A.nll" for event in told)
    assert echo.wiped == 1


def test_a_unit_begins_and_ends_with_its_events_and_times_the_decoding(tmp_path: Path) -> None:
    tokens = np.arange(32, dtype=np.int32) % VOCABULARY
    _, events = scored(tmp_path, tokens, Frame(context=8, batch=16, bos=None), 0, 2)
    assert [type(event) for event in events] == [e.UnitStarted, e.Perplexity, e.Perplexity, e.UnitDone]
    started, one, two, done = events
    assert isinstance(started, e.UnitStarted) and isinstance(done, e.UnitDone)
    assert isinstance(one, e.Perplexity) and isinstance(two, e.Perplexity)
    assert (done.tokens, done.ns) == (16, 1_000) and one.ns == two.ns == 500
    assert done.at == started.at == one.at == 1e-6


def test_scoring_a_unit_again_leaves_the_same_raw_file(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 64).astype(np.int32)
    frame = Frame(context=16, batch=32, bos=BOS)
    for first in (0, 2):
        scored(tmp_path, tokens, frame, first, 2)
    whole = (tmp_path / "raw" / "A.nll").read_bytes()
    for first in (2, 0, 2):
        scored(tmp_path, tokens, frame, first, 2)
    assert (tmp_path / "raw" / "A.nll").read_bytes() == whole
    assert len(whole) == 4 * 7 * 8


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    class Broken(Echo):
        def logits(self, index: int, rows: int) -> npt.NDArray[np.float32]:
            return np.full((rows, VOCABULARY), np.nan, np.float32)

    unit = e.Unit(arm="A", kind="perplexity", index=0)
    raw = Raw(tmp_path / "nll", "nll")
    tokens = np.zeros(16, np.int32)
    with pytest.raises(UserError, match="A perplexity 0-0: the logits are no numbers"):
        list(perplexity.score(Broken(), Frame(8, 8, None), tokens, unit, 1, raw, Clock(), Meter()))
    raw.close()
    assert (tmp_path / "nll").stat().st_size == 0
