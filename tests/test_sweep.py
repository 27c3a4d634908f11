"""The sweep over a scripted engine: every unit once, failures are facts, resuming does what is missing and no more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session
from quanttui.engine import protocol, scripted
from quanttui.engine.process import EngineDied, EngineFailure
from quanttui.models import pocket
from quanttui.summary import summarize
from quanttui.sweep import runner
from quanttui.sweep.runner import Options, Sweep

SETTINGS = e.Settings(threads=2, prompt=8, decode=16, repetitions=5, context=16, batch=32, text="text")


class Quiet:
    """A sampler that samples nothing."""

    def __init__(self, emit: Callable[[e.Event], None], energy: float | None = None) -> None:
        self.emit = emit
        self.energy = energy
        self.watched: list[int | None] = []
        self.rates: list[float] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def rate(self, hz: float) -> None:
        self.rates.append(hz)

    def watch(self, pid: int | None) -> None:
        self.watched.append(pid)

    def sample_now(self) -> e.Sample:
        """Ten joules more each time, where there is a counter."""
        readings = {}
        if self.energy is not None:
            readings["package.energy"] = self.energy = self.energy + 10
        self.emit(e.Sample(readings=readings))
        return e.Sample(readings=readings)


class Bench:
    """A session over the pocket model's file under several names, and the engines that were started for it."""

    def __init__(
        self,
        folder: Path,
        scripts: Mapping[str, scripted.Script],
        arms: str = "ABC",
        settings: e.Settings | None = None,
        energy: float | None = None,
    ) -> None:
        self.energy = energy
        self.folder = session.create(folder, "m", folder / "session")
        self.scripts = {arm: scripted.Script(gb_s=None) for arm in arms} | dict(scripts)
        self.engines: list[scripted.Engine] = []
        self.clock = scripted.Clock()
        self.sampler: Quiet | None = None
        self.cache = folder / "cache"
        writer = session.Writer(self.folder)
        writer.append(
            e.SessionOpened(
                schema=e.SCHEMA,
                model="m",
                host=e.Host(name="h", os="o", cpu="c", cores=2, threads=2, memory=2**34),
                build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False),
                settings=settings or SETTINGS,
                plan=tuple(e.PlannedArm(id=arm, quant="F16", file=str(pocket.MODEL)) for arm in arms),
                wall=1.0,
                origin_ns=writer.origin_ns,
                pid=os.getpid(),
                pid_started=1.0,
            )
        )
        writer.close()

    def start(self, stderr: Path, origin_ns: int) -> scripted.Engine:
        self.engines.append(scripted.Engine(self.scripts, self.clock))
        return self.engines[-1]

    def sweep(self) -> Sweep:
        def sampler(emit: Callable[[e.Event], None]) -> Quiet:
            self.sampler = Quiet(emit, self.energy)
            return self.sampler

        writer = session.Writer(self.folder)
        return Sweep(writer, Options(cache=self.cache, cache_bytes=2**30, text="text"), self.start, sampler)

    def units(self) -> list[str]:
        events = session.Reader(self.folder).events()
        return [event.unit.id for event in events if isinstance(event, e.UnitDone)]

    def outcomes(self) -> dict[str, str]:
        return {name: arm.outcome for name, arm in session.load(self.folder).arms.items()}


def killed(outcome: str = "crashed") -> EngineFailure:
    return EngineDied(outcome, "the engine was killed by signal 9 (SIGKILL)", 9, None, ("last words",))


def test_every_unit_is_done_once_in_llama_benchs_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    assert bench.sweep().run() == "ok"
    units = bench.units()
    assert len(units) == len(set(units))
    kinds = [unit.split()[1] for unit in units if unit.startswith("A ")]
    assert kinds == ["prompt"] * 5 + ["decode"] * 5 + ["perplexity"] * 4
    assert len(bench.engines) == 2 and all(engine.closed for engine in bench.engines)
    assert bench.sampler is not None and bench.sampler.watched == [1, None, 1, None]
    assert session.load(bench.folder).closed == "ok"


def test_readings_are_seldom_while_a_unit_is_timed_on_all_cores_and_only_then(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    bench.sweep().run()
    assert bench.sampler is not None and bench.sampler.rates == [1.0, 4.0, 1.0, 4.0]


@pytest.mark.parametrize(("threads", "times"), [(2, 12), (1, 0)])
def test_a_screen_may_paint_before_each_repetition_on_all_cores_and_after_a_phases_last(
    tmp_path: Path, threads: int, times: int
) -> None:
    bench = Bench(tmp_path, {}, "A", msgspec.structs.replace(SETTINGS, threads=threads))
    sweep, under_way = bench.sweep(), []
    sweep.between = lambda: under_way.append(sweep.writer.state.running)
    assert sweep.run() == "ok"
    assert under_way == [None] * times


def test_a_failure_is_recorded_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"B": scripted.Script(fails={"B decode 16@0 #2": killed()})})
    assert bench.sweep().run() == "failed"
    assert bench.outcomes() == {"A": "ok", "B": "crashed", "C": "ok"}
    failed = session.load(bench.folder).arms["B"].attempts[-1].failed
    assert failed is not None
    assert (failed.phase, failed.signal, failed.stderr) == ("decode", 9, ("last words",))
    assert "B decode 16@0 #1" in bench.units()


@pytest.mark.parametrize("where", ["load", "bandwidth", "A prompt 8@0 #0", "A perplexity 2-3"])
def test_a_failure_anywhere_is_a_fact(tmp_path: Path, where: str) -> None:
    bench = Bench(tmp_path, {"A": scripted.Script(fails={where: killed("oom")})}, "AB")
    assert bench.sweep().run() == "failed"
    assert bench.outcomes() == {"A": "oom", "B": "ok"}


def test_a_file_that_is_no_model_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF, or is it")
    log = bench.folder / session.EVENTS
    log.write_bytes(log.read_bytes().replace(str(pocket.MODEL).encode(), str(bad).encode(), 1))
    assert bench.sweep().run() == "failed"
    assert bench.outcomes() == {"A": "refused", "B": "ok"}
    failed = session.load(bench.folder).arms["A"].attempts[-1].failed
    assert failed is not None and "bad.gguf" in failed.error


def perplexities(bench: Bench) -> dict[str, object]:
    state = session.load(bench.folder)
    return {name: arm.perplexity() for name, arm in state.arms.items()} | {
        path.name: path.read_bytes() for path in sorted((bench.folder / "raw").iterdir())
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1))
def test_a_log_cut_anywhere_is_resumed_without_repeating_and_to_the_same_digits(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    whole = Bench(tmp_path_factory.mktemp("whole"), {}, "AB")
    whole.sweep().run()
    cut = Bench(tmp_path_factory.mktemp("cut"), {}, "AB")
    cut.sweep().run()
    log = cut.folder / session.EVENTS
    content = log.read_bytes()
    first = content.index(b"\n") + 1
    log.write_bytes(content[: first + round(share * (len(content) - first))])
    recorded = cut.units()
    assert cut.sweep().run() == "ok"
    again = cut.units()
    assert again[: len(recorded)] == recorded
    assert len(again) == len(set(again)) and set(again) == set(whole.units())
    assert perplexities(cut) == perplexities(whole)


def test_stopping_gives_up_the_unit_under_way_and_resuming_does_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"B": scripted.Script(holds="B decode 16@0 #3", gb_s=None)})
    sweep = bench.sweep()
    outcome: list[str] = []
    thread = threading.Thread(target=lambda: outcome.append(sweep.run()))
    thread.start()
    while not any(engine.held.wait(0.05) for engine in bench.engines):
        assert thread.is_alive()
    sweep.stop()
    thread.join(10)
    assert outcome == ["interrupted"]
    assert bench.outcomes() == {"A": "ok", "B": "running", "C": "planned"}
    bench.scripts["B"] = scripted.Script(gb_s=None)
    assert bench.sweep().run() == "ok"
    assert len(bench.units()) == len(set(bench.units())) == 3 * 14


def test_a_request_to_skip_ends_the_arm_under_way_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"A": scripted.Script(holds="A decode 16@0 #0")}, "AB")
    sweep = bench.sweep()
    thread = threading.Thread(target=sweep.run)
    thread.start()
    while not any(engine.held.wait(0.05) for engine in bench.engines):
        assert thread.is_alive()
    session.request(bench.folder, "skip", "A")
    assert bench.sampler is not None
    bench.sampler.emit(e.Beat(wall=1.0))
    thread.join(10)
    assert bench.outcomes() == {"A": "skipped", "B": "ok"}


def test_leaving_finishes_the_unit_under_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {})
    sweep = bench.sweep()
    sweep.leave()
    assert sweep.run() == "interrupted"
    assert bench.units() == []
    assert bench.sweep().run() == "ok"


def test_a_speed_far_below_its_roofline_is_measured_again_in_a_fresh_process(tmp_path: Path) -> None:
    slow = scripted.Script(decode=20.0, gb_s=30.0)
    bench = Bench(tmp_path, {"A": slow, "B": scripted.Script(decode=4000.0, gb_s=30.0)}, "AB")
    assert bench.sweep().run() == "ok"
    arms = {arm.id: arm for arm in summarize(session.load(bench.folder), over=True).arms}
    assert arms["A"].reproduced == "reproduced 2/2" and arms["B"].reproduced == ""
    assert [type(request) for request in bench.engines[1].asked].count(protocol.Load) == 1
    assert sum(unit.endswith("again 2") for unit in bench.units()) == 10


def test_a_log_that_cannot_be_written_ends_the_sweep_with_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this host has no /dev/full")
    bench = Bench(tmp_path, {})
    sweep = bench.sweep()
    os.dup2(os.open("/dev/full", os.O_WRONLY), sweep.writer.log)
    with pytest.raises(session.UserError, match="No space left"):
        sweep.run()
    assert bench.units() == []


def ceilings(bench: Bench, arm: str) -> list[tuple[str, str, float | None]]:
    attempt = session.load(bench.folder).arms[arm].attempts[-1]
    return [(one.how, one.when, one.gb_s) for one in attempt.ceilings]


def test_the_bandwidth_is_measured_before_and_after_and_the_arithmetic_once(tmp_path: Path) -> None:
    script = scripted.Script(gb_s=30.0, kernels={"F16": 120.0})
    bench = Bench(tmp_path, {"A": script, "B": script}, "AB")
    assert bench.sweep().run() == "ok"
    for name in "AB":
        assert ceilings(bench, name) == [("measured", "before", 30.0), ("measured", "after", 30.0)]
        attempt = session.load(bench.folder).arms[name].attempts[-1]
        assert {one.type: one.gb_s for one in attempt.kernels.values()} == {"F16": 120.0}


def test_a_configured_bandwidth_is_told_as_that(tmp_path: Path) -> None:
    asked = msgspec.structs.replace(SETTINGS, bandwidth=(("cpu", 51.2),))
    bench = Bench(tmp_path, {}, "A", settings=asked)
    bench.sweep().run()
    assert ("configured", "before", 51.2) in ceilings(bench, "A")


def test_the_machine_at_rest_is_measured_first_where_a_counter_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "REST_SECONDS", 0.01)
    bench = Bench(tmp_path, {}, "A", energy=100.0)
    assert bench.sweep().run() == "ok"
    state = session.load(bench.folder)
    assert state.spans[0].phase == "idle" and set(state.arms) == {"A"}
    assert state.idle is not None and state.idle.joules == 10.0
    silent = Bench(tmp_path / "silent", {}, "A")
    silent.sweep().run()
    assert session.load(silent.folder).idle is None


def test_what_was_asked_for_before_a_sweep_is_resumed_is_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, "AB")
    assert bench.sweep().run() == "ok"
    before = bench.units()
    session.request(bench.folder, "rerun", "B")
    assert bench.sweep().run() == "ok"
    again = bench.units()[len(before):]
    assert again and all(unit.startswith("B ") and unit.endswith("again 2") for unit in again)
    assert bench.sweep().run() == "ok"
    assert len(bench.units()) == len(before) + len(again)


@pytest.mark.parametrize("where", ["kernels", "bandwidth after"])
def test_a_ceiling_that_ends_the_engine_costs_the_arm_nothing(tmp_path: Path, where: str) -> None:
    """What is missing is said, the model loaded anew, and every unit done once."""
    bench = Bench(tmp_path, {"A": scripted.Script(gb_s=None, fails={where: killed()})}, "AB")
    assert bench.sweep().run() == "ok"
    assert bench.outcomes() == {"A": "ok", "B": "ok"}
    units = bench.units()
    assert len(units) == len(set(units)) and len([unit for unit in units if unit.startswith("A ")]) == 14
    assert len(bench.engines) == 3 and all(engine.closed for engine in bench.engines)
    (attempt,) = session.load(bench.folder).arms["A"].attempts
    absent = [one.why for one in (*attempt.ceilings, *attempt.kernels.values()) if one.how == "absent"]
    assert any("signal 9" in why for why in absent)
