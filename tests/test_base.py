"""measure.base through the engine: a base that leaves its logits, arms held against them, and the real tool."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import test_divergence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.engine import protocol, scripted
from quanttui.engine.process import Engine, EngineDied, Refused
from quanttui.errors import UserError
from quanttui.measure import divergence
from quanttui.measure.base import Asked, Comparing, Exact, Slots
from quanttui.measure.divergence import BaseFile
from quanttui.stats import divergence as figures
from quanttui.stats.divergence import Rows, Sums

SETTINGS = e.Settings(threads=1, context=128, batch=512, ubatch=128)
SCORED, CHUNKS = 63, 8
SHUFFLED = (5, 2, 7, 0, 3, 6, 1, 4)


class Bench:
    """An engine, the base as F16 and a Q4_K_M of it, and a text."""

    def __init__(self, engine: Engine, f16: Path, q4: Path, text: Path) -> None:
        self.engine, self.files, self.text = engine, {"F16": f16, "Q4": q4}, text

    def load(self, arm: str, how: e.Settings = SETTINGS) -> None:
        request = protocol.Load(arm=arm, file=str(self.files[arm]), settings=how)
        list(self.engine.ask(request, 120))

    def score(
        self, arm: str, raw: Path, units: Sequence[Sequence[int]], base: protocol.Base | None = None
    ) -> dict[int, e.Perplexity]:
        """The loaded arm's chunks, a unit for each group of places."""
        asked = units_of(arm, units)
        request = protocol.Score(units=asked, text=str(self.text), chunks=CHUNKS, raw=str(raw), base=base)
        found = list(self.engine.ask(request, 300))
        return {event.chunk: event for event in found if isinstance(event, e.Perplexity)}


def units_of(arm: str, groups: Sequence[Sequence[int]]) -> tuple[e.Unit, ...]:
    """Perplexity units that score these places."""
    begins = np.cumsum([0, *map(len, groups)]).tolist()
    return tuple(
        e.Unit(arm=arm, kind="perplexity", index=begin, count=len(places), chunks=tuple(places))
        for begin, places in zip(begins, groups, strict=False)
    )


def of_four(places: Sequence[int]) -> list[Sequence[int]]:
    """Groups as large as a batch holds: llama.cpp's last bits depend on how many chunks go together."""
    return [places[at : at + 4] for at in range(0, len(places), 4)]


def writing(path: Path, places: tuple[int, ...]) -> protocol.Base:
    slots = {chunk: slot for slot, chunk in enumerate(places)}
    return protocol.Base(name="F16", arm="F16", logits=str(path), places=places, slots=slots, write=True)


def reading(path: Path, places: tuple[int, ...], raw: Path, sums: Path) -> protocol.Base:
    told = msgspec.structs.replace(writing(path, places), write=False, raw=str(raw), known=places)
    return msgspec.structs.replace(told, sums=str(sums), file="raw/Q4.kld")


@pytest.fixture(scope="module")
def bench(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder, data = tmp_path_factory.mktemp("bench"), shared / "data"
    f16, q4 = data / "stories260K-pad256-F16.gguf", folder / "q4.gguf"
    with Engine.start(folder / "stderr.txt", time.monotonic_ns()) as engine:
        request = protocol.Quantize(arm="Q4", source=str(f16), target=str(q4), quant="Q4_K_M", ftype=15, threads=1)
        list(engine.ask(request, 300))
        yield Bench(engine, f16, q4, data / "wiki.test.raw")


@pytest.fixture(scope="module")
def kept(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base's logits of all chunks in a shuffled order, and its nll."""
    folder = tmp_path_factory.mktemp("kept")
    bench.load("F16")
    bench.score("F16", folder / "F16.nll", of_four(SHUFFLED), writing(folder / "base", SHUFFLED))
    return folder


def rows_of(file: Path, chunk: int, values: int) -> npt.NDArray[np.float64]:
    return np.fromfile(file, "<f8", values * SCORED, offset=chunk * values * SCORED * 8).reshape(values, SCORED)


# -- the base's own logits


def test_the_base_leaves_a_whole_file_of_its_logits_in_the_order_that_was_asked_for(kept: Path) -> None:
    file = BaseFile.open(kept / "base")
    assert not divergence.partial(kept / "base").exists()
    assert (file.context, file.chunks) == (128, CHUNKS)
    for slot, chunk in enumerate(SHUFFLED):
        log_probs = file.rows(slot)
        exact = rows_of(kept / "F16.nll", chunk, 1)[0]
        closest = np.abs(-log_probs - exact[:, None]).min(axis=1)
        assert (closest[exact < 15] < 2e-4).all()
    file.close()


def test_the_file_is_to_the_byte_what_the_measure_writes_without_an_engine(bench: Bench, tmp_path: Path) -> None:
    count, f16 = test_divergence.REAL_CHUNKS, bench.files["F16"]
    command = [sys.executable, test_divergence.__file__, "write", str(f16), str(bench.text), str(tmp_path / "own"), ""]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    bench.load("F16", e.Settings(threads=test_divergence.THREADS))
    places = tuple(range(count))
    bench.score("F16", tmp_path / "nll", of_four(places), writing(tmp_path / "base", places))
    assert (tmp_path / "base").read_bytes() == (tmp_path / "own").read_bytes()


@pytest.mark.parametrize("first", [[], [0], [0, 1]], ids=str)
def test_a_base_file_that_was_left_off_is_gone_on_with_to_the_same_bytes(
    bench: Bench, kept: Path, tmp_path: Path, first: list[int]
) -> None:
    """However far an engine came before it was ended: groups that it wrote, and one of which only a part is there."""
    told, groups = writing(tmp_path / "base", SHUFFLED), of_four(SHUFFLED)
    for number in first:
        bench.load("F16")
        bench.score("F16", tmp_path / "F16.nll", [groups[number]], told)
    part = divergence.partial(tmp_path / "base")
    if part.exists():
        whole = part.read_bytes()
        part.write_bytes(whole[: -len(whole) // 5] + bytes(len(whole) - len(whole[: -len(whole) // 5])))
    bench.load("F16")
    bench.score("F16", tmp_path / "F16.nll", groups, told)
    assert (tmp_path / "base").read_bytes() == (kept / "base").read_bytes()
    assert (tmp_path / "F16.nll").read_bytes() == (kept / "F16.nll").read_bytes()
    assert not part.exists()


def test_an_engine_killed_while_it_writes_leaves_a_part_that_another_finishes(
    bench: Bench, kept: Path, tmp_path: Path
) -> None:
    told, groups = writing(tmp_path / "base", SHUFFLED), of_four(SHUFFLED)
    with Engine.start(tmp_path / "stderr.txt", time.monotonic_ns()) as killed:
        list(killed.ask(protocol.Load(arm="F16", file=str(bench.files["F16"]), settings=SETTINGS), 120))
        again_and_again = units_of("F16", groups[:1] * 200)
        request = protocol.Score(
            units=again_and_again, text=str(bench.text), chunks=CHUNKS, raw=str(tmp_path / "F16.nll"), base=told
        )
        answers = killed.ask(request, 120)
        assert any(isinstance(event, e.Perplexity) for event in answers)
        os.kill(killed.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            list(answers)
    assert not (tmp_path / "base").exists() and divergence.partial(tmp_path / "base").exists()
    bench.load("F16")
    bench.score("F16", tmp_path / "F16.nll", groups, told)
    assert (tmp_path / "base").read_bytes() == (kept / "base").read_bytes()


def test_a_file_that_is_whole_is_not_written_again(bench: Bench, kept: Path) -> None:
    before = (kept / "base").stat()
    bench.load("F16")
    found = bench.score("F16", kept / "F16.nll", of_four(SHUFFLED), writing(kept / "base", SHUFFLED))
    assert len(found) == CHUNKS
    after = (kept / "base").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not divergence.partial(kept / "base").exists()


def test_chunks_without_a_slot_are_scored_and_not_kept(bench: Bench, kept: Path, tmp_path: Path) -> None:
    bench.load("F16")
    found = bench.score("F16", tmp_path / "F16.nll", of_four(SHUFFLED), writing(tmp_path / "base", SHUFFLED[:3]))
    assert sorted(found) == sorted(SHUFFLED)
    few, all_ = BaseFile.open(tmp_path / "base"), BaseFile.open(kept / "base")
    assert few.chunks == 3
    assert all((few.codes(slot) == all_.codes(slot)).all() for slot in range(3))
    few.close()
    all_.close()


# -- an arm against it


def test_an_arm_is_told_against_the_bases_rows_and_its_exact_nll(bench: Bench, kept: Path, tmp_path: Path) -> None:
    bench.load("Q4")
    told = reading(kept / "base", SHUFFLED, kept / "F16.nll", tmp_path / "Q4.kld")
    found = bench.score("Q4", tmp_path / "Q4.nll", of_four(SHUFFLED), told)
    plain = bench.score("Q4", tmp_path / "plain.nll", of_four(SHUFFLED))
    assert (tmp_path / "Q4.nll").read_bytes() == (tmp_path / "plain.nll").read_bytes()
    total = Sums()
    for chunk, event in found.items():
        assert (event.nll, event.nll2) == (plain[chunk].nll, plain[chunk].nll2)
        nll, base = rows_of(tmp_path / "Q4.nll", chunk, 1)[0], rows_of(kept / "F16.nll", chunk, 1)[0]
        assert event.against == e.Against(
            base="F16",
            nll=float(base.sum()),
            nll2=float((base * base).sum()),
            products=float((base * nll).sum()),
        )
        assert event.diverged is not None and event.diverged.file == "raw/Q4.kld"
        assert event.diverged.offset == chunk * 4 * SCORED * 8
        stacked = np.concatenate([nll[None], rows_of(tmp_path / "Q4.kld", chunk, 4)])
        sums = figures.sums(Rows.of(stacked))
        assert all(getattr(event.diverged, name) == getattr(sums, name) for name in ("kld", "p_diff4", "same_top"))
        assert event.diverged.nll_nll_base == sums.nll_nll_base
        total += sums
    known = figures.from_sums(total)
    assert 0 < known.kld.value < 0.5 and known.same_top.value > 0.5


def test_an_arm_against_its_own_rows_does_not_diverge(bench: Bench, kept: Path, tmp_path: Path) -> None:
    bench.load("F16")
    told = reading(kept / "base", SHUFFLED, kept / "F16.nll", tmp_path / "kld")
    for event in bench.score("F16", tmp_path / "nll", of_four(SHUFFLED), told).values():
        assert event.diverged is not None and event.against is not None
        assert abs(event.diverged.kld) / SCORED < 2e-4 and event.diverged.same_top >= SCORED - 1
        assert event.against.products == pytest.approx(event.nll2)


@given(order=st.permutations(range(8)), cut=st.integers(1, 2))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scattered_chunks_in_any_order_and_any_number_of_requests_come_out_bit_for_bit(
    bench: Bench, kept: Path, tmp_path: Path, order: list[int], cut: int
) -> None:
    """As long as as many chunks go together: an ubatch of fewer sequences has another shape, and other last bits."""
    folder = tmp_path / f"{order}{cut}"
    bench.load("Q4")
    told = reading(kept / "base", SHUFFLED, kept / "F16.nll", folder / "kld")
    plain = reading(kept / "base", SHUFFLED, kept / "F16.nll", folder / "plain.kld")
    expected = bench.score("Q4", folder / "plain.nll", of_four(range(8)), plain)
    groups, found = of_four(order), dict[int, e.Perplexity]()
    for at in range(0, 2, cut):
        found |= bench.score("Q4", folder / "nll", groups[at : at + cut], told)
    assert (folder / "nll").read_bytes() == (folder / "plain.nll").read_bytes()
    assert (folder / "kld").read_bytes() == (folder / "plain.kld").read_bytes()
    for chunk, event in expected.items():
        assert (found[chunk].against, found[chunk].diverged) == (event.against, event.diverged)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="nothing overlaps on one core")
def test_scoring_beside_the_next_decode_gives_the_same_bytes(bench: Bench, kept: Path, tmp_path: Path) -> None:
    """One thread of several cores leaves cores idle: with all of them busy nothing is scored beside."""
    busy = msgspec.structs.replace(SETTINGS, threads=os.cpu_count() or 1)
    for name, how in (("beside", SETTINGS), ("after", busy)):
        told = reading(kept / "base", SHUFFLED, kept / "F16.nll", tmp_path / f"{name}.kld")
        bench.load("Q4", how)
        bench.score("Q4", tmp_path / f"{name}.nll", of_four(SHUFFLED), told)
    for kind in ("nll", "kld"):
        assert (tmp_path / f"beside.{kind}").read_bytes() == (tmp_path / f"after.{kind}").read_bytes()


def test_a_ring_is_used_again_and_again_and_is_never_a_file_of_its_own(
    bench: Bench, kept: Path, tmp_path: Path
) -> None:
    ring, groups, found = tmp_path / "ring", of_four(SHUFFLED), dict[int, e.Perplexity]()
    for group in groups:
        slots = {chunk: slot for slot, chunk in enumerate(group)}
        told = protocol.Base(name="F16", logits=str(ring), slots=slots, ring=4, write=True)
        bench.load("F16")
        bench.score("F16", tmp_path / "F16.nll", [group], told)
        assert divergence.partial(ring).exists() and not ring.exists()
        bench.load("Q4")
        other = msgspec.structs.replace(told, write=False, sums=str(tmp_path / "ring.kld"))
        found |= bench.score("Q4", tmp_path / "Q4.nll", [group], other)
    whole = reading(kept / "base", SHUFFLED, kept / "F16.nll", tmp_path / "file.kld")
    bench.score("Q4", tmp_path / "Q4.nll", groups, whole)
    assert (tmp_path / "ring.kld").read_bytes() == (tmp_path / "file.kld").read_bytes()
    assert all(event.diverged is not None and event.against is None for event in found.values())


# -- what is refused


def refused(bench: Bench, base: protocol.Base, folder: Path) -> str:
    with pytest.raises(Refused) as refusal:
        bench.score("Q4", folder / "nll", [[0]], base)
    assert refusal.value.outcome == "refused" and "\n" not in refusal.value.error
    bench.score("Q4", folder / "nll", [[0]])
    return refusal.value.error


def test_a_base_of_another_vocabulary_context_or_text_is_refused_and_the_engine_lives_on(
    bench: Bench, kept: Path, tmp_path: Path
) -> None:
    bench.load("Q4")
    for name, context, vocabulary, said in (("v", 128, 77, "vocabulary of 77"), ("c", 130, 512, "context of 130")):
        file = BaseFile.create(tmp_path / name, context, vocabulary, 1, np.zeros(context, np.int32))
        file.put(0, np.random.default_rng(1).normal(size=(file.scored, vocabulary)).astype(np.float32))
        file.finish()
        for ring in (0, 1):
            if ring:
                (tmp_path / name).rename(divergence.partial(tmp_path / name))
            told = protocol.Base(name="it", logits=str(tmp_path / name), slots={0: 0}, ring=ring)
            assert said in refused(bench, told, tmp_path)
    ordered = protocol.Base(name="F16", logits=str(kept / "base"), slots={0: 0})
    assert "other tokens" in refused(bench, ordered, tmp_path)
    assert "go up to 99999" in refused(
        bench, msgspec.structs.replace(ordered, places=(0, 99999)), tmp_path
    )
    assert "holds no base logits" in refused(
        bench, msgspec.structs.replace(ordered, logits=str(kept / "F16.nll")), tmp_path
    )


def test_a_chunk_that_the_base_has_not_written_yet_is_refused_and_one_that_it_has_is_read(
    bench: Bench, tmp_path: Path
) -> None:
    bench.load("F16")
    bench.score("F16", tmp_path / "F16.nll", [SHUFFLED[:2]], writing(tmp_path / "base", SHUFFLED))
    bench.load("Q4")
    told = reading(tmp_path / "base", SHUFFLED, tmp_path / "F16.nll", tmp_path / "kld")
    with pytest.raises(Refused, match="chunk 2 is damaged or was never written"):
        bench.score("Q4", tmp_path / "nll", [[SHUFFLED[2]]], told)
    assert all(event.diverged for event in bench.score("Q4", tmp_path / "nll", [SHUFFLED[:2]], told).values())


def test_an_exact_row_that_is_missing_or_no_number_is_refused_by_its_file(tmp_path: Path) -> None:
    np.array([1.0, 2.0, np.nan]).astype("<f8").tofile(tmp_path / "F16.nll")
    exact = Exact("F16", tmp_path / "F16.nll", (0, 1, 3))
    one = np.ones(1)
    assert exact.against(1, one) == e.Against(base="F16", nll=2.0, nll2=4.0, products=2.0)
    assert exact.against(2, one) is None
    for chunk, scored in ((3, 1), (0, 3)):
        with pytest.raises(UserError, match=r"F16\.nll: chunk \d is damaged or missing: measure F16 again"):
            exact.against(chunk, np.ones(scored))
    with pytest.raises(UserError, match=r"none: cannot be read"):
        Exact("F16", tmp_path / "none", (0,)).against(0, one)


def test_a_divergence_without_bounds_is_refused(tmp_path: Path) -> None:
    tokens = np.zeros(8, np.int32)
    logits = np.random.default_rng(1).normal(size=(3, 9)).astype(np.float32)
    written = Slots(Asked(tmp_path / "base", (0,), write=True), 8, 9, tokens)
    written.put(0, logits, 0)
    written.done(0)
    judge = Comparing("F16", None, Slots(Asked(tmp_path / "base", (0,)), 8, 9, tokens), {0: 0}, None)
    assert judge.told(0, judge.rows(0, 0, logits, np.zeros(3, int)))[1] is not None
    logits[1, 4] = -np.inf
    with pytest.raises(UserError, match="chunk 0: a token that F16 holds for possible is impossible here"):
        judge.told(0, judge.rows(0, 0, logits, np.zeros(3, int)))


# -- the scripted engine does the same with its files


def scripted_score(
    folder: Path, scripts: dict[str, scripted.Script], arm: str, base: protocol.Base | None, places: Sequence[int]
) -> dict[int, e.Perplexity]:
    engine = scripted.Engine(scripts, scripted.Clock())
    list(engine.ask(protocol.Load(arm=arm, file="x", settings=SETTINGS)))
    request = protocol.Score(
        units=units_of(arm, of_four(places)), text="x", chunks=CHUNKS, raw=str(folder / f"{arm}.nll"), base=base
    )
    return {event.chunk: event for event in engine.ask(request) if isinstance(event, e.Perplexity)}


def test_a_scripted_arm_differs_from_the_base_by_its_script_and_not_by_the_text(tmp_path: Path) -> None:
    scripts = {"F16": scripted.Script(noise=0.0), "Q4": scripted.Script(nll=2.05, noise=0.0, kld=0.03)}
    base = scripted_score(tmp_path, scripts, "F16", writing(tmp_path / "base", SHUFFLED), SHUFFLED)
    told = reading(tmp_path / "base", SHUFFLED, tmp_path / "F16.nll", tmp_path / "Q4.kld")
    found = scripted_score(tmp_path, scripts, "Q4", told, SHUFFLED[::-1])
    assert len({event.nll for event in base.values()}) == CHUNKS
    for chunk, event in found.items():
        assert (event.nll - base[chunk].nll) / SCORED == pytest.approx(0.05)
        assert event.against is not None and event.against.nll == base[chunk].nll
        assert event.diverged is not None and event.diverged.nll_base == base[chunk].nll
    assert sum(event.diverged.kld for event in found.values() if event.diverged) / SCORED / CHUNKS == pytest.approx(
        0.03, rel=0.3
    )


def test_scripted_noise_is_the_spread_of_an_arms_own_deviations_by_chunk(tmp_path: Path) -> None:
    scripts = {"F16": scripted.Script(noise=0.0), "Q4": scripted.Script(noise=0.1)}
    base, found = (scripted_score(tmp_path, scripts, arm, None, range(200)) for arm in ("F16", "Q4"))
    apart = [(found[chunk].nll - base[chunk].nll) / SCORED for chunk in range(200)]
    assert np.std(apart) == pytest.approx(0.1, rel=0.2) and abs(np.mean(apart)) < 0.03


def test_a_scripted_arm_is_refused_where_the_base_has_left_no_rows(tmp_path: Path) -> None:
    scripted_score(tmp_path, {}, "F16", writing(tmp_path / "base", SHUFFLED), SHUFFLED[:4])
    told = reading(tmp_path / "base", SHUFFLED, tmp_path / "F16.nll", tmp_path / "Q4.kld")
    with pytest.raises(Refused, match="never written"):
        scripted_score(tmp_path, {}, "Q4", told, SHUFFLED)


# -- the real tool


@pytest.fixture(scope="module")
def tool() -> Callable[..., str]:
    name = os.environ.get("QUANTTUI_TEST_LLAMA_PERPLEXITY")
    if not name:
        pytest.skip("QUANTTUI_TEST_LLAMA_PERPLEXITY names no llama-perplexity to exchange files with")

    def run(*flags: str) -> str:
        command = [name, "-t", "2", "-ngl", "0", "-c", "128", "-b", "512", "-ub", "128", "--chunks", str(CHUNKS)]
        for _ in range(20):
            done = subprocess.run([*command, *flags], capture_output=True, text=True, errors="replace", timeout=600)
            assert done.returncode == 0, done.stderr[-2000:]
            if "--kl-divergence" not in flags or "Same top p:" in done.stdout:
                return done.stdout
        raise AssertionError("llama-perplexity never comes to its end")

    return run


def printed(text: str, label: str) -> float:
    match = re.search(rf"^{label}\s*:\s*(-?[\d.]+)", text, re.M)
    assert match, f"{label} is not in {text[-3000:]}"
    return float(match[1])


def test_what_the_engine_writes_the_tool_reads_and_what_the_tool_writes_the_engine_reads(
    bench: Bench, tool: Callable[..., str], tmp_path: Path
) -> None:
    ours, theirs, places = tmp_path / "ours", tmp_path / "theirs", tuple(range(CHUNKS))
    bench.load("F16")
    bench.score("F16", tmp_path / "F16.nll", of_four(places), writing(ours, places))
    tool("-m", str(bench.files["F16"]), "-f", str(bench.text), "--kl-divergence-base", str(theirs))
    texts = [
        tool("-m", str(bench.files["Q4"]), "--kl-divergence-base", str(file), "--kl-divergence")
        for file in (ours, theirs)
    ]
    bench.load("Q4")
    for file, text in zip((ours, theirs), texts, strict=True):
        told = protocol.Base(name="theirs", logits=str(file), slots={chunk: chunk for chunk in places})
        total = Sums()
        for event in bench.score("Q4", tmp_path / "Q4.nll", of_four(places), told).values():
            assert event.diverged is not None
            values = {name: getattr(event.diverged, name) for name in Sums.__dataclass_fields__ if "kld" in name}
            total += Sums(scored=event.scored, nll=event.nll, same_top=event.diverged.same_top, **values)
        found = figures.from_sums(total)
        assert printed(text, r"Mean\s+KLD") == pytest.approx(found.kld.value, rel=5e-5, abs=2e-6)
        assert printed(text, r"Mean PPL\(Q\)") == pytest.approx(found.ppl.value, rel=1e-5)
        assert printed(text, r"Same top p") == pytest.approx(100 * found.same_top.value, abs=6e-4)
