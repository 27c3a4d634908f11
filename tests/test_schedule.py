"""The order of the work: every unit once, whatever the schedule; an early call is the one of the whole text."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.decide import paired
from quanttui.diagnosis import drift
from quanttui.state import State
from quanttui.sweep import schedule
from quanttui.sweep.schedule import Step

Rate = Callable[[str, float], float]


class Machine:
    """Takes the steps of a schedule and records what an engine would answer.

    `rate`: decode tok/s of an arm at a time. `nll`: mean nll of an arm's chunk. `steps`: what was done.
    """

    def __init__(
        self,
        settings: e.Settings,
        arms: Mapping[str, int],
        rate: Rate = lambda arm, t: 10.0,
        nll: Callable[[str, int], float] = lambda arm, chunk: 2.0,
        chunks: int = 40,
        together: bool = False,
    ) -> None:
        self.state, self.t, self.steps = State(), 0.0, list[Step]()
        self.rate, self.nll, self.chunks, self.together = rate, nll, chunks, together
        self.counted: dict[str, int] = {}
        self.put(
            e.SessionOpened(
                schema=e.SCHEMA,
                model="m",
                host=e.Host(name="h", os="o", cpu="c", cores=2, threads=2, memory=2**34),
                build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False),
                settings=settings,
                plan=tuple(e.PlannedArm(id=arm, quant=arm, bytes=size) for arm, size in arms.items()),
                wall=1.0,
                origin_ns=0,
                pid=1,
                pid_started=1.0,
            )
        )

    def put(self, event: e.Event) -> None:
        self.state.apply(event.__class__(**{**{f: getattr(event, f) for f in event.__struct_fields__}, "t": self.t}))

    def run(self, most: int = 20_000) -> Machine:
        for _ in range(most):
            step = schedule.following(self.state, self.counted, self.together)
            if step is None:
                return self
            self.steps.append(step)
            self.take(step)
        raise AssertionError("the schedule does not end")

    def take(self, step: Step) -> None:
        if step.phase == "done":
            self.put(e.ArmDone(arm=step.arm, attempt=step.attempt))
            return
        if step.phase == "count":
            self.counted[step.arm] = self.chunks
            return
        span = self.state.span
        if span is None or (span.arm, span.phase, span.attempt) != (step.arm, step.phase, step.attempt):
            self.put(e.PhaseStarted(arm=step.arm, phase=step.phase, attempt=step.attempt))
        if step.phase == "bandwidth":
            self.t += 0.5
            self.put(e.Ceiling(arm=step.arm, how="measured", gb_s=30.0, when="after"))
            self.put(e.PhaseDone(arm=step.arm, phase="bandwidth", attempt=step.attempt))
        if step.phase == "cool":
            self.t += drift.COOL_SECONDS
            self.put(e.PhaseDone(arm=step.arm, phase="cool", attempt=step.attempt))
        for unit in step.units:
            self.unit(unit)

    def unit(self, unit: e.Unit) -> None:
        at = self.t
        self.put(e.UnitStarted(unit=unit, at=at))
        if unit.kind == "perplexity":
            for chunk in unit.places:
                self.score(unit, chunk)
            self.put(e.UnitDone(unit=unit, at=at, tokens=1, ns=1))
            return
        ns = round(unit.tokens * 1e9 / self.rate(unit.arm, at))
        self.t += ns / 1e9
        self.put(e.UnitDone(unit=unit, at=at, tokens=unit.tokens, ns=ns))

    def score(self, unit: e.Unit, chunk: int) -> None:
        base = paired.planned_base(self.state)
        against = None
        if base is not None and base.id != unit.arm and chunk in base.chunks:
            known = base.chunks[chunk]
            against = e.Against(base=base.id, nll=known.nll, nll2=known.nll2, products=0.0)
        nll = 10 * self.nll(unit.arm, chunk)
        self.t += 0.01
        self.put(
            e.Perplexity(
                unit=unit, chunk=chunk, chunks=self.chunks, scored=10, nll=nll, nll2=nll * nll, against=against
            )
        )

    def kinds(self) -> list[str]:
        """Arm and phase of what was done, neighbours joined."""
        told = ("count", "done", "bandwidth")
        names = [f"{step.arm} {step.phase}" for step in self.steps if step.phase not in told]
        return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]

    def units(self) -> list[str]:
        return [unit.id for step in self.steps for unit in step.units]


def settings(**given: object) -> e.Settings:
    return e.Settings(**{"prompt": 8, "decode": 16, "repetitions": 2, "context": 16, "batch": 64, **given})  # type: ignore[arg-type]


ARMS = {"F16": 16, "Q8_0": 8, "Q4_K_M": 5, "Q2_K": 3}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", ["sequential", "round-robin", "abba"])
@pytest.mark.parametrize("depths", [(0,), (0, 64)])
def test_every_schedule_does_the_same_units_each_once(kind: str, together: bool, depths: tuple[int, ...]) -> None:
    made = Machine(settings(schedule=kind, depths=depths), ARMS, together=together).run()
    expected = Machine(settings(depths=depths), ARMS).run()
    assert len(made.units()) == len(set(made.units()))
    assert set(made.units()) == set(expected.units())
    assert {arm.outcome for arm in made.state.arms.values()} == {"ok"}


def test_sequential_finishes_an_arm_before_the_next_and_keeps_to_the_order() -> None:
    made = Machine(settings(order=("F16", "Q2_K", "Q8_0", "Q4_K_M")), ARMS).run()
    assert made.kinds()[:6] == [
        "F16 prompt", "F16 decode", "F16 perplexity", "Q2_K prompt", "Q2_K decode", "Q2_K perplexity",
    ]  # fmt: skip


def test_round_robin_gives_each_arm_a_repetition_in_turn_and_abba_goes_back() -> None:
    one = Machine(settings(schedule="round-robin", chunks=0, prompt=0), {"A": 2, "B": 1}, together=True).run()
    assert [step.arm for step in one.steps if step.phase == "decode"] == ["A", "B", "A", "B"]
    two = Machine(settings(schedule="abba", chunks=0, prompt=0), {"A": 2, "B": 1}, together=True).run()
    assert [step.arm for step in two.steps if step.phase == "decode"] == ["A", "B", "B", "A"]


def test_where_arms_do_not_fit_together_they_take_turns_in_two_blocks() -> None:
    made = Machine(settings(schedule="abba", chunks=0, repetitions=4), {"A": 2, "B": 1}).run()
    there = ["A prompt", "A decode", "B prompt", "B decode"]
    assert made.kinds() == [*there, "B prompt", "B decode", "A prompt", "A decode"]


# --- the anchor -----------------------------------------------------------------------------------------------------


def test_the_anchor_is_measured_before_the_first_arm_after_every_few_and_after_the_last() -> None:
    made = Machine(settings(anchor=2, chunks=0), ARMS).run()
    assert made.kinds() == [
        "Q2_K anchor", "F16 prompt", "F16 decode", "Q8_0 prompt", "Q8_0 decode",
        "Q2_K anchor", "Q4_K_M prompt", "Q4_K_M decode", "Q2_K prompt", "Q2_K decode", "Q2_K anchor",
    ]  # fmt: skip
    assert drift.floor(made.state) == pytest.approx(0.0)
    assert all(one.whole for one in drift.rounds(made.state))


def test_no_anchor_where_none_is_asked_for_or_nothing_decodes() -> None:
    for one in (settings(), settings(anchor=2, decode=0), settings(anchor=2, tasks=("ppl",))):
        assert not any("anchor" in kind for kind in Machine(one, ARMS).run().kinds())


@pytest.mark.parametrize(("start", "end", "waits"), [(8.0, 30.0, False), (50.0, 80.0, True)])
def test_what_was_measured_while_the_machine_drifted_is_measured_again_once_it_is_back(
    start: float, end: float, waits: bool
) -> None:
    made = Machine(
        settings(anchor=1, chunks=0, repetitions=5), ARMS, rate=lambda arm, t: 7.0 if start < t < end else 10.0
    ).run()
    assert any(kind.endswith("cool") for kind in made.kinds()) == waits
    slow = {name for name, arm in made.state.arms.items() if min(r.tok_s for r in arm.attempts[0].decode) < 9}
    again = {name for name, arm in made.state.arms.items() if len(arm.attempts) > 1}
    assert slow and slow <= again
    for name in again:
        assert drift.of(made.state, made.state.arms[name]) is None
        assert all(one.tok_s == pytest.approx(10.0) for one in made.state.arms[name].attempts[1].decode)
    floor = drift.floor(made.state)
    assert floor is not None and floor > 0.3


def test_a_machine_that_never_comes_to_rest_does_not_hold_the_sweep_for_ever() -> None:
    def worse(arm: str, t: float) -> float:
        return 10.0 / (1 + t / 20)

    made = Machine(settings(anchor=1, chunks=0, repetitions=5), ARMS, rate=worse).run()
    assert {arm.outcome for arm in made.state.arms.values()} == {"ok"}
    assert sum(kind.endswith("cool") for kind in made.kinds()) <= len(ARMS) * drift.LONGEST_COOL


# --- deciding -------------------------------------------------------------------------------------------------------


def text(seed: int, differences: Mapping[str, tuple[float, float]]) -> Callable[[str, int], float]:
    """Mean nll of chunks: what the text makes of them, and each arm's difference from it with its spread."""

    def nll(arm: str, chunk: int) -> float:
        mean, spread = differences.get(arm, (0.0, 0.0))
        hard = random.Random(f"{seed} {chunk}").gauss(5.0, 1.0)
        return hard + random.Random(f"{seed} {arm} {chunk}").gauss(mean, spread)

    return nll


PLAIN = {"Q8_0": (0.0005, 0.004), "Q4_K_M": (0.03, 0.02), "Q2_K": (0.3, 0.1)}


def decided(made: Machine) -> dict[str, tuple[str, int]]:
    base = made.state.arms["F16"]
    return {
        name: (paired.call(made.state, arm, base).call, len(arm.chunks))
        for name, arm in made.state.arms.items()
        if arm is not base
    }


@pytest.mark.parametrize("together", [False, True])
def test_a_deciding_sweep_makes_the_whole_texts_calls_with_a_part_of_its_chunks(together: bool) -> None:
    nll = text(1, PLAIN)
    made = Machine(settings(until="decided", tasks=("ppl",)), ARMS, nll=nll, chunks=400, together=together).run()
    full = Machine(settings(tasks=("ppl",)), ARMS, nll=nll, chunks=400).run()
    base = full.state.arms["F16"]
    for name, (call, chunks) in decided(made).items():
        ours, theirs = full.state.arms[name].perplexity(), base.perplexity()
        assert ours is not None and theirs is not None
        ratio = ours[0] / theirs[0]
        assert call == ("within" if 0.99 <= ratio <= 1.01 else "worse" if ratio > 1 else "better")
        assert chunks < 100
    assert sum(len(arm.chunks) for arm in made.state.arms.values()) < 400
    assert {arm.outcome for arm in made.state.arms.values()} == {"ok"}


def test_a_quant_on_the_edge_gets_the_chunks_that_the_others_save() -> None:
    nll = text(2, {**PLAIN, "Q4_K_M": (0.0115, 0.03)})
    made = Machine(settings(until="decided", tasks=("ppl",)), ARMS, nll=nll, chunks=400).run()
    chunks = {name: known for name, (_, known) in decided(made).items()}
    assert chunks["Q4_K_M"] > 4 * chunks["Q8_0"]
    assert len(made.state.arms["F16"].chunks) < 1.6 * chunks["Q4_K_M"] + 4


def test_a_single_arm_or_one_without_a_base_scores_all_of_the_text() -> None:
    assert len(Machine(settings(until="decided", tasks=("ppl",)), {"Q8_0": 8}).run().state.arms["Q8_0"].chunks) == 40


def test_when_the_base_fails_amid_its_chunks_the_others_end_undecided_or_decided_on_what_there_is() -> None:
    nll = text(3, {**PLAIN, "Q8_0": (0.01, 0.2)})
    made = Machine(settings(until="decided", tasks=("ppl",)), ARMS, nll=nll, chunks=400)
    while len(made.state.arms["F16"].chunks) < 16:
        step = schedule.following(made.state, made.counted)
        assert step is not None
        made.take(step)
    made.put(e.ArmFailed(arm="F16", outcome="crashed", error="x"))
    made.run()
    assert decided(made)["Q8_0"] == ("", 16)
    assert {arm.outcome for arm in made.state.arms.values()} == {"ok", "crashed"}


@given_settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_a_sweep_that_is_cut_off_anywhere_goes_on_to_the_same_units(seed: int, cut: int) -> None:
    """What is recorded decides what comes: one that forgets all but the record does what an undisturbed one does."""
    nll = text(seed, PLAIN)
    chosen = settings(until="decided", anchor=2)
    whole = Machine(chosen, ARMS, nll=nll, chunks=60).run()
    part = Machine(chosen, ARMS, nll=nll, chunks=60)
    for _ in range(cut):
        step = schedule.following(part.state, part.counted)
        if step is not None:
            part.steps.append(step)
            part.take(step)
    part.counted = {}
    part.run()
    assert sorted(part.units()) == sorted(whole.units())


def test_the_bandwidth_is_measured_again_right_after_each_decode_and_once() -> None:
    made = Machine(settings(), ARMS).run()
    probes = [at for at, step in enumerate(made.steps) if step.phase == "bandwidth"]
    assert [made.steps[at].arm for at in probes] == list(ARMS)
    assert all(made.steps[at - 1].phase == "decode" and made.steps[at - 1].arm == made.steps[at].arm for at in probes)


@pytest.mark.parametrize("changes", [{"schedule": "round-robin"}, {"decode": 0}])
def test_without_a_moment_after_a_decode_it_is_not(changes: dict[str, object]) -> None:
    made = Machine(settings(**changes), ARMS, together=True).run()
    assert not any(step.phase == "bandwidth" for step in made.steps)


def test_an_arm_that_somebody_asks_for_runs_again_after_the_one_under_way() -> None:
    """Its speed only: what its text gave is what it would give again."""
    made = Machine(settings(), ARMS)
    while not any(step.arm == "Q8_0" and step.phase == "perplexity" for step in made.steps):
        step = schedule.following(made.state, made.counted)
        assert step is not None
        made.steps.append(step)
        made.take(step)
    made.put(e.Control(request="rerun", arm="F16", offset=1))
    made.run()
    again = [at for at, step in enumerate(made.steps) if step.attempt == 2]
    assert {made.steps[at].arm for at in again} == {"F16"}
    assert {made.steps[at].phase for at in again} == {"prompt", "decode", "bandwidth", "done"}
    done = next(at for at, step in enumerate(made.steps) if step.arm == "Q8_0" and step.phase == "done")
    begun = next(at for at, step in enumerate(made.steps) if step.arm == "Q4_K_M")
    assert done < again[0] and again[-1] < begun
    assert made.state.arms["F16"].outcome == "ok"


def test_asking_for_an_arm_that_has_not_begun_changes_nothing() -> None:
    made = Machine(settings(), ARMS)
    made.put(e.Control(request="rerun", arm="Q2_K", offset=1))
    assert all(step.attempt == 1 for step in made.run().steps)
