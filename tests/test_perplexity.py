"""measure.perplexity: scoring against exact arithmetic, and how a group is decoded, on a context that keeps count."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quanttui import events as e
from quanttui import quants
from quanttui.engine import protocol
from quanttui.engine.process import Engine
from quanttui.errors import UserError
from quanttui.measure import perplexity
from quanttui.measure.counters import Meter
from quanttui.measure.perplexity import Frame, Raw, Scorer, Workers
from quanttui.measure.speed import Clock
from quanttui.models import pocket
from quanttui.stats import intervals

VOCABULARY = 11
BOS = 1
METER = Meter()
WORKERS = Workers(2)

ordinary, extreme = st.floats(-60, 60, width=32), st.floats(-(2.0**100), 2.0**100, width=32)
logits_and_targets = st.integers(1, 6).flatmap(
    lambda rows: st.integers(1, 300).flatmap(
        lambda width: st.tuples(
            hnp.arrays(np.float32, (rows, width), elements=ordinary | extreme),
            hnp.arrays(np.int32, rows, elements=st.integers(0, width - 1)),
        )
    )
)


def exact(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The same in float64 throughout."""
    wide = logits.astype(np.float64)
    peak = wide.max(axis=1, keepdims=True)
    above = wide[np.arange(len(targets)), targets] - peak[:, 0]
    return np.asarray(np.log(np.exp(wide - peak).sum(axis=1)) - above)


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
    logits, targets = np.round(np.clip(pair[0], -60, 60)), pair[1]
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
    """A context whose logits depend on the token and its position, and nothing else. It keeps what it was given."""

    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        self.vocabulary = vocabulary
        self.wiped = 0
        self.submitted: list[tuple[npt.NDArray[np.int32], int, npt.NDArray[np.bool_]]] = []

    def wipe(self) -> None:
        self.wiped += 1

    def decode(self, tokens: npt.NDArray[np.int32], position: int, outputs: npt.NDArray[np.bool_]) -> None:
        self.submitted.append((tokens.copy(), position, outputs.copy()))

    def logits(self, sequence: int, start: int, stop: int) -> list[npt.NDArray[np.float32]]:
        tokens, position, outputs = self.submitted[-1]
        assert outputs[start:stop].all() and stop <= tokens.shape[1]
        found = [row(int(tokens[sequence, at]), position + at, self.vocabulary) for at in range(start, stop)]
        return [np.stack(found[:2]), *(np.stack(found[cut : cut + 5]) for cut in range(2, len(found), 5))]


def row(token: int, position: int, vocabulary: int = VOCABULARY) -> npt.NDArray[np.float32]:
    return np.random.default_rng((token, position)).normal(size=vocabulary).astype(np.float32)


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


def scorer(context: perplexity.Context, frame: Frame, tokens: npt.NDArray[np.int32], raw: Raw, **how: Any) -> Scorer:
    plain: dict[str, Any] = {"chunks": 99, "clock": Clock(), "meter": METER, "workers": WORKERS}
    return Scorer(context=context, frame=frame, tokens=tokens, raw=raw, **{**plain, **how})


def scored(
    folder: Path, tokens: npt.NDArray[np.int32], frame: Frame, *units: e.Unit, **how: Any
) -> tuple[Echo, list[e.Event]]:
    context, raw = Echo(), Raw(folder / "raw" / "A.nll", "raw/A.nll")
    ticks = iter(range(1_000, 10**9, 1_000))
    clock = Clock(origin_ns=0, read=lambda: next(ticks))
    events = list(scorer(context, frame, tokens, raw, clock=clock, **how).score(units))
    raw.close()
    return context, events


def unit(first: int, count: int = 1, places: tuple[int, ...] = ()) -> e.Unit:
    return e.Unit(arm="A", kind="perplexity", index=first, count=count, chunks=places)


@given(
    context=st.integers(4, 24),
    batch=st.integers(1, 60),
    count=st.integers(1, 3),
    first=st.integers(0, 2),
    bos=st.sampled_from([None, BOS]),
    ahead=st.booleans(),
)
def test_any_cut_into_batches_scores_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    context: int,
    batch: int,
    count: int,
    first: int,
    bos: int | None,
    ahead: bool,
) -> None:
    count = min(count, perplexity.group(context, batch))
    tokens = np.random.default_rng(context).integers(0, VOCABULARY, (first + count) * context).astype(np.int32)
    frame = Frame(context=context, batch=batch, bos=bos)
    folder = tmp_path_factory.mktemp("raw")
    echo, events = scored(folder, tokens, frame, unit(first, count), ahead=ahead)

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
    _, events = scored(tmp_path, tokens, Frame(context=8, batch=16, bos=None), unit(0, 2))
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
        scored(tmp_path, tokens, frame, unit(first, 2))
    whole = (tmp_path / "raw" / "A.nll").read_bytes()
    for first in (2, 0, 2):
        scored(tmp_path, tokens, frame, unit(first, 2))
    assert (tmp_path / "raw" / "A.nll").read_bytes() == whole
    assert len(whole) == 4 * 7 * 8


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    class Broken(Echo):
        def logits(self, sequence: int, start: int, stop: int) -> list[npt.NDArray[np.float32]]:
            return [np.full((stop - start, VOCABULARY), np.nan, np.float32)]

    raw = Raw(tmp_path / "nll", "nll")
    tokens = np.zeros(16, np.int32)
    with pytest.raises(UserError, match="A perplexity 0-0: the logits are no numbers"):
        list(scorer(Broken(), Frame(8, 8, None), tokens, raw).score([unit(0)]))
    raw.close()
    assert (tmp_path / "nll").stat().st_size == 0


def test_a_large_vocabulary_is_scored_in_blocks_to_the_same_bits(tmp_path: Path) -> None:
    context, width = 20, 150_000
    assert 9 * width > perplexity.BLOCK
    tokens = np.arange(context, dtype=np.int32)
    raw = Raw(tmp_path / "nll", "nll")
    list(scorer(Echo(width), Frame(context, context, None), tokens, raw).score([unit(0)]))
    raw.close()
    places = range(10, 19)
    logits = np.stack([row(at, at, width) for at in places])
    assert (np.fromfile(tmp_path / "nll", "<f8") == perplexity.nll(logits, tokens[11:20])).all()


def test_only_the_decoding_is_counted(tmp_path: Path) -> None:
    """Of a chunk that goes in pieces, what scoring the first of them takes is not the decoding's."""

    class Ticks(Meter):
        """Every reading and every scored piece takes one tick of CPU time, a decode 100."""

        now = 0

        def read(self) -> int:  # type: ignore[override]
            self.now += 1
            return self.now

        def since(self, before: int) -> e.Counters:  # type: ignore[override]
            return e.Counters(cpu_ns=self.now - before, rss=self.now)

    class Busy(Echo):
        def decode(self, *args: object) -> None:
            super().decode(*args)  # type: ignore[arg-type]
            meter.now += 100

        def logits(self, sequence: int, start: int, stop: int) -> list[npt.NDArray[np.float32]]:
            meter.now += 10_000
            return super().logits(sequence, start, stop)

    meter, raw = Ticks(), Raw(tmp_path / "nll", "nll")
    tokens = np.zeros(16, np.int32)
    *_, done = scorer(Busy(), Frame(16, 4, None), tokens, raw, meter=meter).score([unit(0)])
    raw.close()
    assert isinstance(done, e.UnitDone)
    assert done.counters.cpu_ns == 400 and done.counters.majflt is None
    assert done.counters.rss == meter.now - 10_000


@pytest.mark.parametrize(
    ("asked", "batch"),
    [
        (unit(2), 16),
        (unit(0, 3), 16),
        (unit(0, 2), 8),
        (unit(-1), 16),
        (unit(0, 2, (1, 2)), 16),
        (unit(0, 2, (1,)), 16),
        (unit(0, 0), 16),
    ],
)
def test_chunks_that_do_not_exist_or_do_not_go_together_are_refused_before_anything_is_decoded(
    tmp_path: Path, asked: e.Unit, batch: int
) -> None:
    raw, echo = Raw(tmp_path / "nll", "nll"), Echo()
    with pytest.raises(UserError, match=r"A perplexity .*: there are no such chunks"):
        list(scorer(echo, Frame(8, batch, None), np.zeros(20, np.int32), raw).score([unit(0), asked]))
    raw.close()
    assert not echo.submitted


# -- several units, one scored while the next is decoded


def told_of(events: list[e.Event]) -> dict[int, tuple[float, float]]:
    return {event.chunk: (event.nll, event.nll2) for event in events if isinstance(event, e.Perplexity)}


@given(
    order=st.permutations(range(9)), cuts=st.lists(st.integers(1, 4), min_size=9), batch=st.sampled_from([5, 16, 64])
)
def test_neither_order_nor_grouping_nor_scoring_beside_the_next_decode_changes_a_bit(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int], batch: int
) -> None:
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, 9 * 16).astype(np.int32)
    frame = Frame(context=16, batch=batch, bos=BOS)
    plain = tmp_path_factory.mktemp("plain")
    _, events = scored(plain, tokens, frame, *(unit(chunk) for chunk in range(9)))
    units: list[e.Unit] = []
    left = list(order)
    while left:
        taken = left[: min(cuts[len(units)], perplexity.group(16, batch))]
        left = left[len(taken) :]
        units.append(unit(9 - len(left) - len(taken), len(taken), tuple(taken)))
    for ahead in (False, True):
        other = tmp_path_factory.mktemp("other")
        _, again = scored(other, tokens, frame, *units, ahead=ahead)
        assert told_of(again) == told_of(events)
        assert (other / "raw" / "A.nll").read_bytes() == (plain / "raw" / "A.nll").read_bytes()
        kinds = [type(event) for event in again]
        each = [[e.UnitStarted, *[e.Perplexity] * one.count, e.UnitDone] for one in units]
        assert kinds == [kind for kinds in each for kind in kinds]
        told = [event.unit for event in again if isinstance(event, e.UnitStarted | e.Perplexity | e.UnitDone)]
        assert told == [one for one in units for _ in range(one.count + 2)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_is_scored_is_told_before_the_next_units_decode_is_found_to_have_failed(
    tmp_path: Path, failing: int
) -> None:
    class Aborted(Exception):
        pass

    class Stopping(Echo):
        def decode(self, *args: Any) -> None:
            super().decode(*args)
            if len(self.submitted) > failing:
                raise Aborted

    raw, events = Raw(tmp_path / "nll", "nll"), []
    scoring = scorer(Stopping(), Frame(8, 8, None), np.arange(24, dtype=np.int32) % VOCABULARY, raw, ahead=True)
    with pytest.raises(Aborted):
        for event in scoring.score([unit(0), unit(1), unit(2)]):
            events.append(event)
    raw.close()
    assert [type(event) for event in events] == [e.UnitStarted, e.Perplexity, e.UnitDone] * failing + [e.UnitStarted]


def test_the_next_unit_is_decoded_while_one_is_scored_and_at_most_one_is_kept(tmp_path: Path) -> None:
    """A judge that waits for the next decode to begin comes to its end only where the two go side by side."""
    decoding = [threading.Event() for _ in range(4)]

    class Told(Echo):
        def decode(self, *args: Any) -> None:
            decoding[len(self.submitted)].set()
            super().decode(*args)

    class Waiting(perplexity.Alone):
        def rows(self, chunk: int, *args: Any) -> npt.NDArray[np.float64]:
            assert decoding[chunk + 1].wait(30) and not any(later.is_set() for later in decoding[chunk + 2 :])
            return super().rows(chunk, *args)

    decoding[3].clear()
    raw, tokens = Raw(tmp_path / "nll", "nll"), np.arange(24, dtype=np.int32) % VOCABULARY
    scoring = scorer(Told(), Frame(8, 8, None), tokens, raw, ahead=True, judge=Waiting())
    found = []
    for event in scoring.score([unit(0), unit(1), unit(2)]):
        found.append(event)
        if isinstance(event, e.UnitDone) and event.unit.index == 1:
            decoding[3].set()
    raw.close()
    assert len(told_of(found)) == 3


def test_of_a_decode_beside_a_scoring_no_counter_is_told_that_holds_both(tmp_path: Path) -> None:
    tokens = np.arange(24, dtype=np.int32) % VOCABULARY
    _, events = scored(tmp_path, tokens, Frame(8, 8, None), unit(0), unit(1), ahead=True)
    first, second = (event.counters for event in events if isinstance(event, e.UnitDone))
    assert first.cpu_ns is not None and second.cpu_ns is None and second.read is None and second.nvcsw is None
    assert second.rss == pytest.approx(first.rss, rel=0.5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_is_told_with_the_files_name() -> None:
    raw = Raw(Path("/dev/full"), "raw/A.nll")
    with pytest.raises(OSError, match="No space left") as full:
        raw.put(3, np.zeros(4))
    raw.close()
    assert full.value.filename == "/dev/full"


def test_a_raw_file_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "raw").touch()
    with pytest.raises(UserError, match=r"raw/A\.nll: cannot be written"):
        Raw(tmp_path / "raw" / "A.nll", "raw/A.nll")


# -- with the real llama.cpp


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.start(tmp_path_factory.mktemp("engine") / "stderr.txt", time.monotonic_ns()) as running:
        yield running


def decoded(engine: Engine, raw: Path, model: Path, text: Path, settings: e.Settings) -> list[protocol.Answer]:
    """What an engine answers while it scores the first `settings.chunks` chunks of the text, group by group."""
    list(engine.ask(protocol.Load(arm="A", file=str(model), settings=settings)))
    together, chunks = perplexity.group(settings.context, settings.batch), settings.chunks or 0
    answers = []
    for first in range(0, chunks, together):
        unit = e.Unit(arm="A", kind="perplexity", index=first, count=min(together, chunks - first))
        answers += list(engine.ask(protocol.Score(units=(unit,), text=str(text), chunks=chunks, raw=str(raw))))
    return answers


def printed(told: list[e.Perplexity], chunks: int) -> str:
    """The final estimate of the first chunks, as llama-perplexity prints it."""
    first = [event for event in told if event.chunk < chunks]
    assert [event.chunk for event in first] == list(range(chunks))
    sums = sum(event.scored for event in first), sum(event.nll for event in first), sum(event.nll2 for event in first)
    ppl, error = intervals.perplexity(*sums)
    return f"{ppl:.4f} +/- {error:.5f}"


Scores = Callable[[str, int], list[e.Perplexity]]


@pytest.fixture(scope="module")
def scores(engine: Engine, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """Scores chunks of wiki.test.raw on a quant of stories260K-pad256 that our own Quantize made; each quant once."""
    data, folder = shared / "data", tmp_path_factory.mktemp("quants")
    source = data / "stories260K-pad256-F16.gguf"
    known: dict[str, list[e.Perplexity]] = {}

    def scored(name: str, chunks: int) -> list[e.Perplexity]:
        if len(known.get(name, ())) < chunks:
            file, quant = source, quants.named(name)
            assert quant is not None
            if name != "F16":
                file = folder / f"{name}.gguf"
                ftype = quant.ftype
                request = protocol.Quantize(arm="A", source=str(source), target=str(file), quant=name, ftype=ftype)
                list(engine.ask(request))
            settings = e.Settings(threads=1, chunks=chunks)
            answers = decoded(engine, folder / "raw", file, data / "wiki.test.raw", settings)
            known[name] = [answer for answer in answers if isinstance(answer, e.Perplexity)]
        return known[name]

    return scored


@pytest.fixture(scope="module")
def exact_here(engine: Engine) -> bool:
    """Whether this CPU rounds as the one on which llama-perplexity printed what is expected."""
    (described,) = engine.ask(protocol.Describe())
    assert isinstance(described, protocol.Described)
    return "AVX512 = 1" in described.build.system_info


@pytest.mark.parametrize(
    ("name", "chunks", "expected"),
    [
        ("F16", 64, "150.8483 +/- 4.78481"),
        ("F16", 20, "96.8826 +/- 4.80082"),
        ("Q8_0", 20, "97.0459"),
        ("Q6_K", 20, "98.8852"),
        ("Q5_K_M", 20, "97.6630"),
        ("Q4_K_M", 20, "98.9794"),
        ("Q3_K_M", 20, "121.2175"),
        ("Q2_K", 20, "305.2207"),
    ],
)
def test_a_perplexity_is_what_llama_perplexity_prints(
    scores: Scores, exact_here: bool, name: str, chunks: int, expected: str
) -> None:
    """All decimals that it prints, on a CPU with AVX-512; elsewhere sums are rounded in another order."""
    found = printed(scores(name, chunks), chunks)
    if exact_here:
        assert found.startswith(expected)
    else:
        assert float(found.split()[0]) == pytest.approx(float(expected.split()[0]), rel=2e-3)


POCKET = e.Settings(threads=1, context=64, batch=256, chunks=6)


def test_a_shorter_last_group_goes_through_the_context_of_a_whole_one(engine: Engine, tmp_path: Path) -> None:
    answers = decoded(engine, tmp_path / "raw", pocket.MODEL, pocket.TEXT, POCKET)
    (made,) = [answer for answer in answers if isinstance(answer, e.ContextMade)]
    assert (made.n_seq, made.n_batch, made.phase) == (4, 256, "perplexity")
    whole = decoded(engine, tmp_path / "raw", pocket.MODEL, pocket.TEXT, e.Settings(**{**as_dict(POCKET), "chunks": 8}))
    short, long = ([a.nll for a in some if isinstance(a, e.Perplexity)][:6] for some in (answers, whole))
    assert short[:4] == long[:4] and short == pytest.approx(long, rel=1e-3)


def test_a_batch_below_the_context_decodes_a_chunk_in_pieces(engine: Engine, tmp_path: Path) -> None:
    pieces = e.Settings(**{**as_dict(POCKET), "batch": 24, "chunks": 3})
    answers = decoded(engine, tmp_path / "raw", pocket.MODEL, pocket.TEXT, pieces)
    (made,) = [answer for answer in answers if isinstance(answer, e.ContextMade)]
    assert (made.n_seq, made.n_batch) == (1, 24)
    whole = decoded(engine, tmp_path / "raw", pocket.MODEL, pocket.TEXT, POCKET)
    cut, uncut = ([a.nll for a in some if isinstance(a, e.Perplexity)][:3] for some in (answers, whole))
    assert cut == pytest.approx(uncut, rel=1e-3)


def as_dict(settings: e.Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
