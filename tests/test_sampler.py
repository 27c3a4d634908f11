"""The sampler: when it reads, what it emits, and that no probe can end it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from quanttui import events
from quanttui.events import Beat, Event, ProbeFound, ProbeLost, Sample
from quanttui.probes import Absent, Probe, sampler
from quanttui.probes.sampler import Sampler, everything, survey


class Counter(Probe):
    """A source that counts its reads, and does as it is told by `act`."""

    def __init__(self, name: str = "counter", act: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.act = act
        self.opened = self.closed = self.reads = 0
        self.pids: list[int | None] = []

    def open(self) -> str:
        self.opened += 1
        self.act()
        return f"detail of \x1b{self.name}"

    def read(self) -> dict[str, float]:
        self.act()
        self.reads += 1
        return {self.name: self.reads}

    def watch(self, pid: int | None) -> None:
        self.pids.append(pid)

    def close(self) -> None:
        self.closed += 1


class Clock:
    """Time that passes only by waiting; runs `sampler` until `end`, calling `at` a time what `then` says."""

    def __init__(self, *probes: Probe, hz: float = 4.0) -> None:
        self.now = 0.0
        self.end = 1.0
        self.events: list[Event] = []
        self.times: list[tuple[float, str]] = []
        self.then: dict[float, Callable[[], object]] = {}
        self.sampler = Sampler(self.take, hz, probes, lambda: self.now, self.wait)

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.times.append((round(self.now, 6), type(event).__name__))

    def wait(self, wake: threading.Event, seconds: float) -> None:
        if not wake.is_set():
            self.now += seconds
        for at in [at for at in self.then if at <= self.now]:
            self.then.pop(at)()
        if self.now >= self.end:
            self.sampler.stop()

    def run(self, end: float) -> None:
        self.end = end
        self.sampler.run()

    def of(self, kind: str) -> list[float]:
        return [at for at, name in self.times if name == kind]

    def samples(self) -> list[Sample]:
        return [event for event in self.events if isinstance(event, Sample)]


def lost(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.probe, event.why) for event in events if isinstance(event, ProbeLost)]


def found(events: list[Event]) -> list[str]:
    return [event.probe for event in events if isinstance(event, ProbeFound)]


def test_samples_come_at_their_rate_and_beats_once_a_second() -> None:
    clock = Clock(Counter())
    clock.run(end=3.0)
    assert clock.of("Sample") == [n / 4 for n in range(12)]
    assert clock.of("Beat") == [0, 1, 2]


def test_a_lower_rate_keeps_the_beat() -> None:
    clock = Clock(Counter(), hz=0.25)
    clock.run(end=8.5)
    assert clock.of("Sample") == [0, 4, 8]
    assert clock.of("Beat") == list(range(9))


def test_the_rate_can_be_changed_to_nothing_and_back_under_way() -> None:
    clock = Clock(Counter())
    clock.then = {1.0: lambda: clock.sampler.rate(0), 3.0: lambda: clock.sampler.rate(2)}
    clock.run(end=4.2)
    assert clock.of("Sample") == [0, 0.25, 0.5, 0.75, 3, 3.5, 4]
    assert clock.of("Beat") == [0, 1, 2, 3, 4]


def test_a_suspended_machine_is_not_made_up_for() -> None:
    """After a gap of an hour one sample and one beat follow, then the rate goes on."""
    clock = Clock(Counter())

    def suspend() -> None:
        clock.now += 3600

    clock.then = {1.0: suspend}
    clock.run(end=3602)
    assert len([at for at in clock.of("Sample") if at > 3600]) == 4
    assert len([at for at in clock.of("Beat") if at > 3600]) == 1


def test_a_slow_probe_lowers_the_rate_instead_of_piling_up() -> None:
    clock = Clock()
    slow = Counter(act=lambda: setattr(clock, "now", clock.now + 0.6))
    clock.sampler = Sampler(clock.take, 4.0, [slow], lambda: clock.now, clock.wait)
    clock.run(end=20)
    gaps = [after - before for before, after in zip(clock.of("Sample"), clock.of("Sample")[1:], strict=False)]
    assert gaps and min(gaps) == pytest.approx(0.6)


def test_found_probes_come_with_cost_and_clean_detail_before_the_first_sample() -> None:
    clock = Clock(Counter())
    clock.run(end=0.1)
    first = clock.events[0]
    assert isinstance(first, ProbeFound)
    assert first.probe == "counter" and first.cost_us is not None and "\x1b" not in first.detail


def test_an_absent_probe_is_reported_once_and_the_others_go_on() -> None:
    def refuse() -> None:
        raise Absent("no such thing: plug it in")

    clock = Clock(Counter("absent", refuse), Counter("there"))
    clock.run(end=3)
    assert lost(clock.events) == [("absent", "no such thing: plug it in")]
    assert all("there" in sample.readings and "absent" not in sample.readings for sample in clock.samples())


@pytest.mark.parametrize("error", [Absent("gone"), OSError(5, "I/O error"), ZeroDivisionError("bug"), KeyError("x")])
def test_whatever_a_probe_raises_it_is_lost_once_with_the_reason_and_closed(error: Exception) -> None:
    broken, other = Counter("broken"), Counter("other")

    def fail() -> None:
        raise error

    clock = Clock(broken, other)
    clock.then = {1.0: lambda: setattr(broken, "act", fail)}
    clock.run(end=3)
    ((name, why),) = lost(clock.events)
    assert name == "broken" and str(error.args[-1]) in why
    assert broken.closed >= 1
    assert [("broken" in s.readings, "other" in s.readings) for s in clock.samples()[-3:]] == [(False, True)] * 3


def test_a_lost_probe_is_tried_again_with_the_next_engine() -> None:
    flaky = Counter("flaky")

    def fail() -> None:
        raise Absent("gone")

    clock = Clock(flaky)
    clock.then = {
        1.0: lambda: setattr(flaky, "act", fail),
        1.5: lambda: clock.sampler.watch(11),
        2.0: lambda: setattr(flaky, "act", lambda: None),
        2.5: lambda: clock.sampler.watch(12),
    }
    clock.run(end=4)
    assert lost(clock.events) == [("flaky", "gone")]
    assert found(clock.events) == ["flaky", "flaky"]
    assert "flaky" in clock.samples()[-1].readings


def test_the_watched_pid_reaches_probes_and_samples() -> None:
    probe = Counter()
    clock = Clock(probe)
    clock.sampler.watch(7)
    clock.then = {1.0: lambda: clock.sampler.watch(None)}
    clock.run(end=2)
    assert probe.pids == [7, None]
    assert {sample.pid for sample in clock.samples()} == {7, None}


def test_a_sample_at_once_is_emitted_and_returned() -> None:
    clock = Clock(Counter())
    sample = clock.sampler.sample_now()
    assert clock.events[-1] is sample and "counter" in sample.readings


def test_what_probing_costs_only_grows() -> None:
    def work() -> None:
        sum(range(2000))

    clock = Clock(Counter(act=work))
    clock.run(end=3)
    costs = [sample.readings["self.probes"] for sample in clock.samples()]
    assert costs == sorted(costs) and costs[-1] > costs[0] > 0


def test_an_emit_that_fails_ends_the_thread_and_is_kept() -> None:
    def full(event: Event) -> None:
        raise OSError(28, "No space left on device")

    failing = Sampler(full, probes=[Counter()])
    failing.run()
    assert isinstance(failing.failure, OSError)


def test_stopping_closes_every_probe() -> None:
    probes = [Counter("a"), Counter("b")]
    Clock(*probes).run(end=0.5)
    assert all(probe.closed for probe in probes)


def test_threads_never_see_counters_run_backwards() -> None:
    """Samples of the thread and of a caller come to `emit` one at a time, in the order in which they were read."""
    values: list[float] = []
    enough = threading.Event()

    def take(event: Event) -> None:
        if isinstance(event, Sample):
            values.append(event.readings["counter"])
            if len(values) > 200:
                enough.set()

    busy = Sampler(take, hz=2000, probes=[Counter()])
    busy.start()
    while not enough.is_set():
        busy.sample_now()
    busy.stop()
    assert values == sorted(values)


def test_real_probes_in_a_real_thread_give_known_names_and_stop_at_once() -> None:
    """At one sample in 1000 s, `stop` does not wait for the next."""
    taken: list[Event] = []
    sampled = threading.Event()

    def take(event: Event) -> None:
        taken.append(event)
        if isinstance(event, Beat):
            sampled.set()

    real = Sampler(take, hz=0.001)
    real.start()
    assert sampled.wait(60)
    last = real.sample_now()
    real.stop()
    assert real.failure is None
    names = {"gpuN" + name[name.index(".") :] if name.startswith("gpu") else name for name in last.readings}
    assert names <= set(events.READINGS)
    assert last.readings["mem.available"] <= last.readings["mem.total"]
    assert {"mem.used", "cpu.busy", "self.cpu", "self.rss", "self.probes"} <= names
    assert set(found(taken)).isdisjoint(name for name, _ in lost(taken))


def test_counters_of_this_host_never_run_backwards() -> None:
    """Real probes, read a few times in a row."""
    real = Sampler(lambda event: None, probes=everything())
    readings = [real.sample_now().readings for _ in range(4)]
    real.stop()
    counters = ("swap.", "zswap.", "psi.", "cpu.", "self.cpu", "self.probes", "package.")
    for name in readings[0]:
        if name.startswith(counters) and name not in ("swap.total", "swap.used"):
            values = [reading[name] for reading in readings if name in reading]
            assert values == sorted(values), name


def test_a_survey_answers_for_every_probe() -> None:
    answers = survey()
    assert [answer.probe for answer in answers] == [probe.name for probe in everything()]
    assert all(answer.why for answer in answers if isinstance(answer, ProbeLost))


def test_without_proc_every_source_of_the_platform_is_still_there() -> None:
    """The fallbacks answer wherever psutil does."""
    elsewhere = Sampler(lambda event: None, probes=everything(platform="freebsd14"))
    elsewhere.watch(None)
    names = set(elsewhere.sample_now().readings)
    elsewhere.stop()
    assert {"mem.total", "mem.available", "swap.total", "cpu.busy", "self.cpu", "self.rss"} <= names
    assert names.isdisjoint({"swap.in", "swap.out", "engine.read"})


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32", "freebsd14"])
def test_every_platform_has_one_source_of_each_kind_and_one_that_is_not_here_says_why(platform: str) -> None:
    probes = everything(platform=platform)
    names = [probe.name for probe in probes]
    assert len(names) == len(set(names)) and {"memory", "swap", "cpu", "engine", "self"} <= set(names)
    for probe in probes:
        answer = sampler.try_open(probe)
        probe.close()
        assert isinstance(answer, ProbeFound) or (answer.why and "Error" not in answer.why), answer


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no such clock apart")
def test_a_beat_tells_both_clocks() -> None:
    clock = Clock(Counter())
    clock.run(end=0.1)
    (beat,) = [event for event in clock.events if isinstance(event, Beat)]
    assert beat.wall > 1e9 and beat.boottime is not None and beat.boottime > 0
    assert sampler.boottime() is not None
