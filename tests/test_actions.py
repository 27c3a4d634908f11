"""What any viewer may ask of a running sweep: it is done once, recorded, and never by interrupting a timed unit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session
from quanttui.decide import paired
from quanttui.engine import scripted
from quanttui.state import State, fold, tolerance
from quanttui.sweep import requests
from quanttui.sweep.runner import Sweep
from tests import builders
from tests.test_sweep import SETTINGS, Bench

LIMIT = 10.0
"""Seconds after which a test gives up waiting."""


class Running:
    """A sweep in a thread of its own, and its viewers."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.sweep = bench, bench.sweep()
        self.outcome = ""
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.outcome = self.sweep.run()

    @property
    def state(self) -> State:
        return self.sweep.writer.state

    def held(self) -> scripted.Engine:
        """The engine that waits in its script's `holds`."""
        self.until(lambda: any(engine.held.is_set() for engine in self.bench.engines))
        return next(engine for engine in self.bench.engines if engine.held.is_set())

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not reached():
            assert self.thread.is_alive() and time.monotonic() < end
            time.sleep(0.005)

    def ask(self, act: str, arm: str = "", value: str = "") -> None:
        """Leave a request, and let the sampler's beat have it taken."""
        session.request(self.bench.folder, act, arm, value)
        assert self.bench.sampler is not None
        self.bench.sampler.emit(e.Beat(wall=1.0))

    def ended(self) -> str:
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        return self.outcome


class Gate(scripted.Engine):
    """A scripted engine that stands still before one unit until it is let on; what it then answers is whole."""

    def __init__(self, bench: Bench, unit: str) -> None:
        super().__init__(bench.scripts, bench.clock)
        self.reached, self.on = threading.Event(), threading.Event()
        self._gate = unit

    def _fail(self, script: scripted.Script, where: str) -> None:
        if where == self._gate:
            self.reached.set()
            assert self.on.wait(LIMIT)
        super()._fail(script, where)


def gated(bench: Bench, unit: str) -> list[Gate]:
    """The engines that the bench starts from here on, each with a gate before the unit."""
    gates: list[Gate] = []

    def start(stderr: Path, origin_ns: int) -> scripted.Engine:
        gates.append(Gate(bench, unit))
        bench.engines.append(gates[-1])
        return gates[-1]

    bench.start = start  # type: ignore[method-assign]
    return gates


def at_gate(run: Running, gates: list[Gate]) -> Gate:
    run.until(lambda: any(gate.reached.is_set() for gate in gates))
    return next(gate for gate in gates if gate.reached.is_set())


def notes(bench: Bench) -> list[str]:
    return [note.text for note in session.load(bench.folder).notes]


def controls(bench: Bench) -> list[e.Control]:
    return [event for event in session.Reader(bench.folder).events() if isinstance(event, e.Control)]


def test_an_arm_that_has_not_begun_is_skipped_and_the_one_under_way_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "ABC")
    gates = gated(bench, "A decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("skip", "C")
    gate.on.set()
    assert run.ended() == "ok"
    assert bench.outcomes() == {"A": "ok", "B": "ok", "C": "skipped"}
    units = bench.units()
    assert sum(unit.startswith("A ") for unit in units) == 14 and not any(unit.startswith("C ") for unit in units)
    assert len(bench.engines) == 2
    decode = [span for span in session.load(bench.folder).spans if (span.arm, span.phase) == ("A", "decode")]
    assert len(decode) == 1 and not decode[0].error


@pytest.mark.parametrize("named", ["A", ""])
def test_the_arm_under_way_is_skipped_amid_its_unit_by_name_or_without(tmp_path: Path, named: str) -> None:
    bench = Bench(tmp_path, {"A": scripted.Script(gb_s=None, holds="A decode 16@0 #0")}, "AB")
    run = Running(bench)
    run.held()
    run.ask("skip", named)
    assert run.ended() == "ok"
    assert bench.outcomes() == {"A": "skipped", "B": "ok"}
    assert [one.arm for one in controls(bench)] == ["A"]


def test_a_skip_that_was_asked_for_while_nothing_ran_holds_for_the_sweep_that_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    session.request(bench.folder, "skip", "B")
    assert bench.sweep().run() == "ok"
    assert bench.outcomes() == {"A": "ok", "B": "skipped"}


def test_a_base_that_is_skipped_leaves_the_others_to_be_scored_to_the_end(tmp_path: Path) -> None:
    asked = msgspec.structs.replace(SETTINGS, until="decided", base="A", tolerance=0.0001)
    scripts = {arm: scripted.Script(gb_s=None, chunks=40) for arm in "AB"}
    bench = Bench(tmp_path, scripts, "AB", settings=asked)
    gates = gated(bench, "B perplexity 0-1")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("skip", "A")
    gate.on.set()
    assert run.ended() == "ok"
    assert bench.outcomes() == {"A": "skipped", "B": "ok"}


@pytest.mark.parametrize("act", ["finish", "leave"])
def test_finishing_does_the_unit_under_way_and_resuming_the_rest(tmp_path: Path, act: str) -> None:
    bench = Bench(tmp_path, {}, "AB")
    gates = gated(bench, "A decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask(act)
    assert run.state.ending == act
    gate.on.set()
    assert run.ended() == "interrupted"
    assert bench.units()[-1] == "A decode 16@0 #2"
    gates.clear()
    del bench.start
    assert bench.sweep().run() == "ok"
    assert len(bench.units()) == len(set(bench.units())) == 2 * 14
    assert session.load(bench.folder).ending == ""


def test_a_pause_lets_the_unit_under_way_end_and_no_other_begin_until_somebody_resumes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    gates = gated(bench, "A decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("pause")
    assert run.state.paused
    gate.on.set()
    run.until(lambda: run.state.phase == "paused")
    done = bench.units()
    assert done[-1] == "A decode 16@0 #2"
    assert not gate.closed and run.state.span is not None and run.state.span.arm == "A"
    assert bench.sampler is not None and bench.sampler.rates[-1] == 4.0
    run.ask("resume")
    assert run.ended() == "ok"
    assert not run.state.paused and bench.units()[: len(done)] == done
    assert len(bench.units()) == len(set(bench.units())) == 2 * 14
    assert len(bench.engines) == 2
    assert [span.phase for span in session.load(bench.folder).spans].count("paused") == 1


def test_a_pause_before_anything_was_measured_holds_the_first_unit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "A")
    gates = gated(bench, "load")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("pause")
    gate.on.set()
    run.until(lambda: run.state.phase == "paused")
    assert bench.units() == [] and not gate.closed
    run.ask("resume")
    assert run.ended() == "ok" and len(bench.engines) == 1


@pytest.mark.parametrize("act", ["stop", "finish", "leave"])
def test_a_paused_sweep_can_be_ended_and_is_not_paused_when_it_is_gone_on_with(tmp_path: Path, act: str) -> None:
    bench = Bench(tmp_path, {}, "A")
    gates = gated(bench, "A decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("pause")
    gate.on.set()
    run.until(lambda: run.state.phase == "paused")
    run.ask(act)
    assert run.ended() == "interrupted"
    del bench.start
    assert bench.sweep().run() == "ok"
    assert len(bench.units()) == 14


def test_a_paused_sweep_takes_other_requests_without_going_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "ABC")
    gates = gated(bench, "A decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("pause")
    gate.on.set()
    run.until(lambda: run.state.phase == "paused")
    done = bench.units()
    run.ask("skip", "B")
    run.ask("tolerance", value="2.5 %")
    run.until(lambda: run.state.arms["B"].outcome == "skipped" and run.state.phase == "paused")
    assert bench.units() == done and run.state.settings.tolerance == pytest.approx(0.025)
    run.ask("resume")
    assert run.ended() == "ok"
    assert bench.outcomes() == {"A": "ok", "B": "skipped", "C": "ok"}


def test_a_pause_is_taken_even_where_no_beat_comes(tmp_path: Path) -> None:
    """The sweep looks for itself: a request to resume is seen though no sampler runs."""
    bench = Bench(tmp_path, {}, "A")
    gates = gated(bench, "A decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    run.ask("pause")
    gate.on.set()
    run.until(lambda: run.state.phase == "paused")
    session.request(bench.folder, "resume")
    assert run.ended() == "ok"


def test_a_wider_tolerance_decides_sooner(tmp_path: Path) -> None:
    """Asked for while the arm is scored: later scheduling goes by it, and so does the call that is shown."""
    asked = msgspec.structs.replace(SETTINGS, until="decided", base="A", tolerance=0.0001)
    scripts = {arm: scripted.Script(gb_s=None, chunks=200, noise=0.01) for arm in "AB"}

    def scored(folder: Path, wider: str) -> tuple[int, str]:
        bench = Bench(folder, scripts, "AB", settings=asked)
        gates = gated(bench, "B perplexity 0-1")
        run = Running(bench)
        gate = at_gate(run, gates)
        if wider:
            run.ask("tolerance", value=wider)
        gate.on.set()
        assert run.ended() == "ok"
        state = session.load(bench.folder)
        return len(state.arms["B"].chunks), paired.call(state, state.arms["B"], state.arms["A"]).call

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    all_of_it, _ = scored(tmp_path / "a", "")
    fewer, call = scored(tmp_path / "b", "5")
    assert all_of_it > 150 and fewer < 100 and call == "within"


def test_a_tolerance_holds_for_the_sweep_that_goes_on_and_is_kept_with_its_value(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "A")
    session.request(bench.folder, "tolerance", value="3")
    assert bench.sweep().run() == "ok"
    assert session.load(bench.folder).settings.tolerance == pytest.approx(0.03)
    assert [(one.request, one.value, one.refused) for one in controls(bench)] == [("tolerance", "3", "")]


@given(st.one_of(st.floats().map(str), st.text(max_size=12), st.integers().map(str)))
def test_a_tolerance_is_a_number_of_percent_between_0_and_100_or_nothing(text: str) -> None:
    found = tolerance(text)
    assert found is None or 0 < found < 1
    asked = requests.judged(e.Control(request="tolerance", value=text, offset=1), State())
    assert bool(asked.refused) == (found is None)
    before = builders.state(builders.Arm(), closed=None)
    after = fold([e.Control(request="tolerance", value=text, offset=1)], before)
    assert after.settings.tolerance == (0.01 if found is None else found)


def test_requests_that_make_no_sense_are_refused_once_with_a_reason_and_change_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    gates = gated(bench, "B decode 16@0 #2")
    run = Running(bench)
    gate = at_gate(run, gates)
    wrong = [("skip", "A", ""), ("skip", "Q9", ""), ("resume", "", ""), ("tolerance", "", "-1"), ("tolerance", "", "")]
    for act, arm, value in (*wrong, ("dance", "", ""), ("paus", "", "")):
        run.ask(act, arm, value)
    with open(bench.folder / session.CONTROL, "ab") as file:
        file.write(b'{"request": 3}\n\xff\xfe\n\n{"request": "stop", "arm": []}\n')
    run.ask("rerun", "Q9")
    gate.on.set()
    assert run.ended() == "ok"
    taken = controls(bench)
    assert len(taken) == len(wrong) + 6 and all(one.refused for one in taken)
    refused = [text for text in notes(bench) if text.startswith("refused: ")]
    assert len(refused) == len(taken)
    assert any("did you mean pause" in text for text in refused)
    assert bench.outcomes() == {"A": "ok", "B": "ok"}
    assert bench.sweep().run() == "ok" and controls(bench) == taken


@pytest.mark.parametrize("act", sorted(requests.OF_NOW))
def test_a_request_to_a_sweep_that_had_ended_does_not_end_the_next_one(tmp_path: Path, act: str) -> None:
    bench = Bench(tmp_path, {}, "A")
    session.request(bench.folder, act)
    assert bench.sweep().run() == "ok"
    (taken,) = controls(bench)
    assert taken.refused and not session.load(bench.folder).paused


def test_a_paused_session_is_so_for_every_viewer_and_since_when() -> None:
    log = builders.Log((builders.Arm(),))
    log.open()
    log.t = 7.0
    log.put(e.Control(request="pause", offset=1))
    log.t = 9.0
    log.put(e.Control(request="pause", offset=2))
    assert fold(log.events).paused_at == 7.0
    log.put(e.Control(request="resume", offset=3))
    assert not fold(log.events).paused
    log.put(e.Control(request="pause", offset=4))
    log.close("interrupted")
    assert not fold(log.events).paused


def test_a_log_whose_request_names_nothing_known_is_folded(tmp_path: Path) -> None:
    """Whoever wrote it: a viewer never fails of a request."""
    for act in ("skip", "rerun", "tolerance", "x"):
        assert fold([e.Control(request=act, arm="none", value="none", offset=5)]).control_offset == 5


def test_an_engine_beside_that_was_given_up_is_not_asked_again(tmp_path: Path) -> None:
    """The arm is skipped while the base is decoded for it; the next arm gets its KL divergence."""
    asked = msgspec.structs.replace(SETTINGS, tasks=("ppl", "kld"), kld="beside", base="A")
    bench = Bench(tmp_path, {}, "ABC", settings=asked)
    beside: list[scripted.Engine] = []

    def start(stderr: Path, origin_ns: int) -> scripted.Engine:
        scripts = bench.scripts
        if stderr.name == "A.beside.txt" and not beside:
            scripts = scripts | {"A": scripted.Script(gb_s=None, holds="A perplexity 2-3")}
        bench.engines.append(scripted.Engine(scripts, bench.clock))
        if stderr.name == "A.beside.txt":
            beside.append(bench.engines[-1])
        return bench.engines[-1]

    bench.start = start  # type: ignore[method-assign]
    sweep: Sweep = bench.sweep()
    for arm in sweep.writer.state.arms.values():
        arm.plan = msgspec.structs.replace(arm.plan, bytes=1)
    sweep._free = {"mem.total": 2.0**40, "mem.available": 2.0**40}
    thread = threading.Thread(target=sweep.run)
    thread.start()
    end = time.monotonic() + LIMIT
    while not any(engine.held.is_set() for engine in bench.engines):
        assert thread.is_alive() and time.monotonic() < end
        time.sleep(0.005)
    session.request(bench.folder, "skip", "B")
    assert bench.sampler is not None
    bench.sampler.emit(e.Beat(wall=1.0))
    thread.join(LIMIT)
    assert bench.outcomes() == {"A": "ok", "B": "skipped", "C": "ok"}
    assert len(beside) == 2 and beside[0].closed
    assert session.load(bench.folder).arms["C"].rows.chunks.n == 8
