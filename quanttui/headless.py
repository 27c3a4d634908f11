"""A session as plain progress lines: the screen's poor cousin, for pipes and logs. Follows the log like any viewer.

On a terminal a bar with the time left stands below the lines; in a pipe there are only lines. Knows no sweep.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from quanttui import events as e
from quanttui import session, summary
from quanttui.diagnosis import drift
from quanttui.format import clean, clock, duration, significant, size
from quanttui.state import Answer, Arm, State, asked
from quanttui.stats import intervals

PERIOD = 1.0
"""Seconds between looks at the log."""

EVERY = 20
"""A line on the perplexity for every so many chunks."""


class Lines:
    """Prints what happens in a session until `done` is set and the log is read to its end.

    Args:
        terminal: draw a bar with the time left below the lines.
        since: the sequence number of the first event that is news; those before it are known.
    """

    def __init__(self, folder: Path, out: TextIO, terminal: bool, since: int = 0) -> None:
        self._folder = folder
        self._since = since
        self._out = out
        self._terminal = terminal
        self._bar = ""
        self.state = State()

    def follow(self, done: threading.Event) -> State:
        reader = session.Reader(self._folder)
        ended = False
        while not ended:
            ended = done.wait(PERIOD)
            for event in reader.events():
                self.state.apply(event)
                for line in lines(event, self.state) if event.n >= self._since else ():
                    self._print(line)
            self._draw()
        self._erase()
        reader.close()
        return self.state

    def _print(self, line: str) -> None:
        self._erase()
        self._write(line + "\n")

    def _draw(self) -> None:
        if not self._terminal or not self.state.opened or self.state.closed:
            return
        width = shutil.get_terminal_size().columns - 1
        text = bar(self.state)[:width]
        if text != self._bar:
            self._erase()
            self._write(text)
            self._bar = text

    def _erase(self) -> None:
        if self._bar:
            self._write("\r" + " " * len(self._bar) + "\r")
            self._bar = ""

    def _write(self, text: str) -> None:
        """A reader that has gone away (a closed pipe, a terminal that hung up) does not end the sweep."""
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):
            pass


def bar(state: State) -> str:
    """One line: how far the sweep is, and what is left of it."""
    arms = list(state.arms.values())
    over = sum(arm.outcome not in ("planned", "running") for arm in arms)
    fraction, _ = summary.phase_left(state)
    share = min(1.0, (over + 0.9 * (fraction or 0.0)) / max(1, len(arms)))
    filled = round(20 * share)
    left = summary.eta(state)
    bound = "at most " if summary.at_most(state) else ""
    eta = f"{bound}{duration(left)} left" if left is not None else "time left not known yet"
    return f"[{'#' * filled}{'.' * (20 - filled)}] {over}/{len(arms)} {clean(state.arm)} {state.phase}  {eta}"


def lines(event: e.Event | e.Unknown, state: State) -> Iterator[str]:
    """What is worth a line of an event, given the state after it."""
    for text in _texts(event, state):
        yield f"{clock(event.t)}  {text}"


def _texts(event: e.Event | e.Unknown, state: State) -> Iterator[str]:
    if isinstance(event, e.SessionOpened):
        yield from _opening(event, state)
    elif isinstance(event, e.SessionResumed):
        yield f"resumed: {_count(state)} of {len(state.arms)} arms are recorded"
        for line in event.changed:
            yield f"all the same, {clean(line)}"
    elif isinstance(event, e.ProbeLost):
        yield f"no {clean(event.probe)}: {clean(event.why)}"
    elif isinstance(event, e.ArmStarted):
        again = f", attempt {event.attempt} in a fresh process" if event.attempt > 1 else ""
        yield f"{_place(event.arm, state)}  {size(event.bytes)}, {event.bits_per_weight:.2f} bits per weight{again}"
        if event.label_note:
            yield f"{_place(event.arm, state)}  {clean(event.label_note)}"
    elif isinstance(event, e.ArmLoaded):
        if not _was_measured(state.arms[event.arm]):
            offload = f", {event.gpu_layers}/{event.layers} layers on the GPU" if event.gpu_layers else ""
            place = _place(event.arm, state)
            yield f"{place}  loaded in {event.load_ns / 1e9:.2f} s, {event.threads} threads{offload}"
    elif isinstance(event, e.Ceiling):
        yield f"{_place(event.arm, state)}  {_ceiling(event)}" if event.arm else _remembered(event)
    elif isinstance(event, e.KernelRate):
        yield f"{_place(event.arm, state)}  {_kernel(event)}"
    elif isinstance(event, e.BaseChosen):
        yield from [clean(event.why)] if event.why else []
    elif isinstance(event, e.PhaseDone) and event.phase == "anchor":
        yield from _anchor(event.arm, state)
    elif isinstance(event, e.PhaseDone) and event.phase in ("prompt", "decode"):
        yield f"{_place(event.arm, state)}  {_phase(event.phase, state.arms[event.arm], state)}"
    elif isinstance(event, e.PhaseDone) and event.phase == "perplexity":
        if state.settings.until != "decided":  # there arms come back to it, and each ends with its call
            yield f"{_place(event.arm, state)}  {_phase(event.phase, state.arms[event.arm], state)}"
    elif isinstance(event, e.Item):
        arm, task = state.arms[event.unit.arm], event.unit.task
        answers = _answers(arm, task)
        if len(answers) == event.items and f"{task}/{event.unit.item}" == next(reversed(arm.items)):
            yield f"{_place(arm.id, state)}  {_task(task, answers, event.items)}"
    elif isinstance(event, e.UnitDisturbed):
        why = clean(event.why)
        yield f"{_place(event.unit.arm, state)}  {clean(event.unit.kind)} #{event.unit.index} is done again: {why}"
    elif isinstance(event, e.Perplexity):
        yield from _scored(event, state)
    elif isinstance(event, e.ArmDone):
        if state.settings.until == "decided" and event.attempt == 1 and state.arms[event.arm].chunks:
            yield f"{_place(event.arm, state)}  {_phase('perplexity', state.arms[event.arm], state)}"
        yield from _verdicts(event.arm, state)
    elif isinstance(event, e.ArmFailed):
        yield f"{_place(event.arm, state)}  {clean(event.outcome)}: {clean(event.error)}"
        arm = state.arms[event.arm]
        for task, planned in arm.items_planned.items():
            if len(answers := _answers(arm, task)) < planned:
                yield f"{_place(event.arm, state)}  {_task(task, answers, planned)}"
        for line in event.stderr[-3:]:
            yield f"{_place(event.arm, state)}    | {clean(line)}"
    elif isinstance(event, e.Control):
        refused = f": refused: {clean(event.refused)}" if event.refused else ""
        yield f"asked to {clean(asked(event))}{refused}"
    elif isinstance(event, e.PhaseStarted) and event.phase == "paused":
        yield "paused: no new unit begins until somebody asks to resume, or the sweep is stopped"
    elif isinstance(event, e.SessionClosed):
        text = state.notes[-1].text if state.notes else event.outcome
        yield f"{clean(text)}: {_count(state)} of {len(state.arms)} arms recorded"


def _was_measured(arm: Arm) -> bool:
    """Whether an arm that is loaded only goes on: with its next chunks, or with another round as the anchor."""
    attempt = arm.attempt
    return bool(arm.chunks or arm.anchor or (attempt and (attempt.prompt or attempt.decode)))


def _scored(event: e.Perplexity, state: State) -> Iterator[str]:
    """A line for every twentieth chunk that was scored, whichever of the text it is."""
    arm = state.arms[event.unit.arm]
    found = arm.perplexity()
    if found and len(arm.chunks) % EVERY == 0 and next(reversed(arm.chunks)) == event.chunk:
        count = f"{len(arm.chunks)}/{event.chunks} chunks"
        yield f"{_place(arm.id, state)}  perplexity {_error(found)} so far, {count}"


def _anchor(name: str, state: State) -> Iterator[str]:
    """The anchor's latest round, and how far it is from the one before."""
    rounds = drift.rounds(state)
    if not rounds:
        return
    change = ""
    if len(rounds) > 1:
        since = 100 * drift.change(rounds[-2], rounds[-1])
        mark = ": drift" if drift.drifted(state, rounds[-2], rounds[-1]) else ""
        change = f", {since:+.1f} % since the last round{mark}"
    yield f"anchor {clean(name)} {significant(rounds[-1].tok_s)} tok/s{change}"


def _opening(event: e.SessionOpened, state: State) -> Iterator[str]:
    build = event.build
    made = clean(build.llama_cpp), clean(build.llama_cpp_python)
    yield f"quanttui {clean(build.quanttui)}, llama.cpp {made[0]} (llama-cpp-python {made[1]})"
    yield f"{clean(event.model)}: {len(event.plan)} arms on {clean(event.host.cpu)}, {event.settings.threads} threads"
    for note in event.notes:
        yield f"note: {clean(note)}"


def _count(state: State) -> int:
    return sum(arm.outcome not in ("planned", "running") for arm in state.arms.values())


def _place(arm: str, state: State) -> str:
    ids = list(state.arms)
    return f"{ids.index(arm) + 1}/{len(ids)} {clean(arm):<9}"


def _ceiling(event: e.Ceiling) -> str:
    if event.gb_s is None:
        return f"read bandwidth absent: {clean(event.why)}"
    rate = significant(event.gb_s)
    where = f" over {clean(event.over)}" if event.over else ""
    threads = f", {event.threads} threads" if event.how == "measured" and event.device == "cpu" else ""
    after = ", again after it" if event.when == "after" else ""
    device = "" if event.device == "cpu" else f" of {clean(event.device)}"
    return f"read bandwidth{device} {rate} GB/s, {clean(event.how)}{where}{threads}{after}"


def _remembered(event: e.Ceiling) -> str:
    count = len(event.repeats)
    return f"earlier sessions measured {significant(event.gb_s)} GB/s with {event.threads} threads (median of {count})"


def _kernel(event: e.KernelRate) -> str:
    """What the arithmetic of one tensor type allows."""
    if event.gb_s is None:
        return f"{clean(event.type)} arithmetic absent: {clean(event.why)}"
    when = "" if event.wall is None else " in an earlier session"
    return (
        f"{clean(event.type)} arithmetic {significant(event.gb_s)} GB/s out of the cache, {clean(event.how)}{when}, "
        f"{event.threads} threads"
    )


def _phase(phase: str, arm: Arm, state: State) -> str:
    if phase == "perplexity":
        found = arm.perplexity()
        return f"perplexity {_error(found)}, {len(arm.chunks)} chunks" if found else "perplexity: no chunk"
    one = next((one for one in summary.summarize(state).arms if one.id == clean(arm.id, 80)), None)
    speed = None if one is None else one.prompt if phase == "prompt" else one.decode
    if one is None or speed is None:
        return f"{phase}: nothing timed"
    star = "*" if summary.tainted(one.verdicts, phase) else ""
    spread = f" ±{significant(speed.sd, 2)}" if speed.sd is not None else ""
    near = f", mean within ±{significant(speed.radius, 2)} (95 %)" if speed.radius is not None else ""
    return f"{phase} {significant(speed.tok_s, 4)}{star}{spread} tok/s (sd over {speed.n} repetitions){near}"


def _answers(arm: Arm, task: str) -> list[Answer]:
    return [one for one in arm.items.values() if one.unit.task == task]


def _task(task: str, answers: list[Answer], planned: int) -> str:
    """How an arm did in a task: what was right with its Wilson interval, and what was not answered to its end."""
    judged = [one.correct for one in answers if one.correct is not None]
    cut = sum(one.stopped == "length" for one in answers)
    without = sum(one.stopped == "context" for one in answers)
    parts = [f"{clean(task)}: {len(answers)} of {planned} answered"]
    parts += [_right(sum(judged), len(judged))] if judged else []
    parts += [_entities([one.spans for one in answers if one.spans is not None])]
    parts += [f"{cut} cut off at their length"] if cut else []
    parts += [f"{without} too long for the context"] if without else []
    return ", ".join(filter(None, parts))


def _right(right: int, judged: int) -> str:
    low, high = intervals.wilson(right, judged)
    return f"{right} of {judged} right: {100 * right / judged:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"


def _entities(spans: list[tuple[int, int, int]]) -> str:
    """F1 over the entities of all answers: 2 tp / (2 tp + fp + fn)."""
    tp, fp, fn = (sum(one[k] for one in spans) for k in range(3))
    return f"F1 of its entities {100 * 2 * tp / (2 * tp + fp + fn):.1f} %" if tp + fp + fn else ""


def _error(found: tuple[float, float | None]) -> str:
    value, error = found
    return f"{value:.4f}" + (f" +/- {error:.5f}" if error is not None else "")


def _verdicts(arm: str, state: State) -> Iterator[str]:
    for one in summary.summarize(state).arms:
        if one.id == arm:
            yield from (f"{_place(arm, state)}  {line}" for line in _decision(one, state))
            for verdict in one.verdicts:
                yield f"{_place(arm, state)}  {verdict.phase or 'arm'}: {clean(verdict.sentence)}"
            if one.reproduced:
                yield f"{_place(arm, state)}  {clean(one.reproduced)}"


def _decision(one: summary.ArmSummary, state: State) -> Iterator[str]:
    """The call on an arm's perplexity, with what it rests on."""
    found, delta = one.decision, one.delta
    if found is None or delta is None or one.attempt > 1:
        return
    word = f"within {100 * found.tolerance:g} % of" if found.call == "within" else f"{found.call} than"
    word = "undecided against" if found.call == "undecided" else word
    how = "decided after" if state.settings.until == "decided" and found.call != "undecided" else "after"
    total = f" of {found.of}" if found.of else ""
    span = "not known yet"
    if delta.low is not None and delta.high is not None:
        span = f"{delta.low:+.2f} to {delta.high:+.2f} %"
    kld = f", KLD {significant(one.kld.found.kld.value)}" if one.kld else ""
    yield (
        f"perplexity {word} {clean(delta.base)}, {how} {found.chunks}{total} chunks: {delta.percent:+.2f} %, "
        f"95 % sequence {span}{'' if found.sure else ', of this text only'}{kld}"
    )
