"""Going on with a session: what changed since is named and stops it, unless told to go on; a break and a suspend are in
no speed without being said; of several who go on at once one does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from quanttui import cli, session, summary
from quanttui import events as e
from quanttui import state as fold
from quanttui.engine import scripted
from quanttui.errors import UserError
from quanttui.models import pocket
from quanttui.report import html as html_report
from quanttui.report import json as json_report
from quanttui.report import text as text_report
from quanttui.sweep import changed, lock, suspend
from quanttui.sweep.runner import Options, Sweep
from quanttui.tui.start import Choice
from tests import builders
from tests.test_sweep import SETTINGS, Bench, Quiet, perplexities

LONG = 120.0
"""Seconds after which a test gives up waiting."""

# --- a suspended machine


class Sleepy(Bench):
    """A bench whose machine is suspended for `seconds` while a unit is under way, whichever has `at` in its name."""

    def __init__(self, folder: Path, at: str, seconds: float, arms: str = "A", **given: Any) -> None:
        super().__init__(folder, {}, arms, **given)
        self.at, self.seconds, self.slept = at, seconds, 1000.0

    def start(self, stderr: Path, origin_ns: int) -> scripted.Engine:
        self.engines.append(Dozing(self))
        return self.engines[-1]

    def sweep(self) -> Sweep:
        options = Options(cache=self.cache, cache_bytes=2**30, text="text")
        return Sweep(session.Writer(self.folder), options, self.start, Quiet, asleep=lambda: self.slept)


class Dozing(scripted.Engine):
    """The engine of such a machine."""

    def __init__(self, bench: Sleepy) -> None:
        super().__init__(bench.scripts, bench.clock)
        self._bench = bench

    def ask(self, request: Any, patience: float = 600.0) -> Iterator[Any]:
        for answer in super().ask(request, patience):
            unit = getattr(answer, "unit", None)
            if isinstance(answer, (e.Perplexity, e.UnitDone)) and unit is not None and self._bench.at in unit.id:
                self._bench.slept += self._bench.seconds
            yield answer


def recorded(bench: Bench, kind: type) -> list[Any]:
    return [event for event in session.Reader(bench.folder).events() if isinstance(event, kind)]


@pytest.mark.parametrize("kind", ["prompt", "decode"])
def test_a_timed_unit_in_which_the_machine_was_suspended_counts_for_nothing_and_is_done_again(
    tmp_path: Path, kind: str
) -> None:
    tokens = {"prompt": 8, "decode": 16}[kind]
    bench = Sleepy(tmp_path, f"A {kind} {tokens}@0 #2", 90.0)
    assert bench.sweep().run() == "ok"
    (told,) = recorded(bench, e.UnitDisturbed)
    assert (told.unit.kind, told.unit.index, told.why) == (kind, 2, "the machine was suspended for 1m30s")
    attempt = session.load(bench.folder).arms["A"].attempts[-1]
    assert [one.unit.index for one in attempt.repetitions(kind)] == [0, 1, 3, 4, 5]
    assert attempt.disturbed == 1 and len(bench.units()) == len(set(bench.units()))


def test_a_round_of_the_anchor_in_which_the_machine_was_suspended_is_done_again(tmp_path: Path) -> None:
    asked = msgspec.structs.replace(SETTINGS, anchor=1, chunks=0)
    bench = Sleepy(tmp_path, "anchor 16@0 #1", 5.0, "AB", settings=asked)
    log = bench.folder / session.EVENTS
    log.write_bytes(log.read_bytes().replace(b'"quant":"F16"', b'"quant":"F16","bytes":1000'))
    assert bench.sweep().run() == "ok"
    anchored = [one for arm in session.load(bench.folder).arms.values() for one in arm.anchor]
    assert anchored and all(one.unit.index != 1 for one in anchored)


def test_clocks_that_part_by_less_than_half_a_second_are_no_suspend(tmp_path: Path) -> None:
    bench = Sleepy(tmp_path, "A decode", suspend.LEAST)
    assert bench.sweep().run() == "ok"
    assert recorded(bench, e.UnitDisturbed) == []


def test_a_perplexity_is_the_same_on_a_suspended_machine_and_only_its_time_is_not_told(tmp_path: Path) -> None:
    awake, bench = Bench(tmp_path / "awake", {}, "A"), Sleepy(tmp_path / "asleep", "A perplexity 2-3", 60.0)
    assert awake.sweep().run() == bench.sweep().run() == "ok"
    assert perplexities(awake) == perplexities(bench) and awake.units() == bench.units()
    assert recorded(bench, e.UnitDisturbed) == []
    without = {event.chunk for event in recorded(bench, e.Perplexity) if event.ns == 0}
    assert without == {2, 3} and all(event.ns for event in recorded(awake, e.Perplexity))


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        ({"CLOCK_BOOTTIME": 7, "CLOCK_MONOTONIC": 1, "CLOCK_MONOTONIC_RAW": 4}, (7, 1)),
        ({"CLOCK_MONOTONIC": 6, "CLOCK_MONOTONIC_RAW": 4, "CLOCK_UPTIME_RAW": 8}, (4, 8)),
    ],
    ids=["Linux", "macOS"],
)
def test_a_suspend_is_told_by_the_clock_that_goes_on_and_the_one_that_stops(
    names: dict[str, int], pair: tuple[int, int]
) -> None:
    here = SimpleNamespace(**names, clock_gettime=lambda clock: {pair[0]: 130.0, pair[1]: 100.0}[clock])
    assert suspend.parted(*suspend.clocks(here)) == 30.0


def test_windows_and_what_has_no_such_clocks_are_asked_otherwise() -> None:
    def unbiased(count: Any) -> None:
        count._obj.value = 5_000_000_000

    kernel32 = SimpleNamespace(GetTickCount64=lambda: 512_000, QueryUnbiasedInterruptTime=unbiased)
    kernel32.GetTickCount64.restype = None
    bare = SimpleNamespace(time=lambda: 1040.0, monotonic=lambda: 1000.0)
    assert suspend.parted(*suspend.clocks(bare, SimpleNamespace(kernel32=kernel32))) == 12.0
    assert suspend.parted(*suspend.clocks(bare)) == 40.0


def test_clocks_between_whose_readings_too_much_came_are_read_again() -> None:
    """A process that was stopped between the two of them was not on a suspended machine."""
    now, reads = [100.0], [0]

    def stops() -> float:
        reads[0] += 1
        now[0] += 20.0 if reads[0] == 2 else 0.001
        return now[0]

    assert abs(suspend.parted(lambda: now[0] + 3.0, stops) - 3.0) < suspend.APART


def test_this_machine_was_not_suspended_meanwhile() -> None:
    assert abs(suspend.asleep() - suspend.asleep()) < suspend.LEAST


# --- a break between repetitions


def broken(kind: str, after: int, times: int = 1, differs: tuple[str, ...] = ()) -> fold.State:
    """A sweep that ended and was resumed right after some repetition of one kind, as often."""
    log = builders.events(builders.Arm("Q8_0"), builders.Arm("Q4_K_M"))
    state, done = fold.State(), 0
    for event in log:
        state.apply(event)
        if isinstance(event, e.UnitDone) and event.unit.arm == "Q8_0" and event.unit.kind == kind:
            done += 1
            if after <= done < after + times:
                state.apply(
                    e.SessionResumed(
                        n=event.n, t=event.t, host=builders.host(), build=builders.build(), settings=state.settings,
                        plan=tuple(arm.plan for arm in state.arms.values()), wall=0.0, origin_ns=0, pid=1,
                        pid_started=1.0, changed=differs,
                    )
                )  # fmt: skip
    return state


@pytest.mark.parametrize(("kind", "word"), [("prompt", "prompt"), ("decode", "gen")])
def test_a_speed_that_was_measured_across_a_break_says_so(kind: str, word: str) -> None:
    state = broken(kind, 2)
    first, other = summary.summarize(state).arms
    speed = first.prompt if kind == "prompt" else first.decode
    assert speed is not None and speed.breaks == tuple(state.resumed)
    assert not (first.decode if kind == "prompt" else first.prompt).breaks  # type: ignore[union-attr]
    assert other.prompt is not None and other.decode is not None and not (other.prompt.breaks or other.decode.breaks)
    said = summary.broken(speed)
    assert said.startswith("measured across a break at 00:")
    assert f"  {word}: {said}" in text_report.report(state) and said in html_report.report(state)
    found = json_report.report(state)["arms"]
    assert found[0][kind]["breaks"] == state.resumed and found[1][kind]["breaks"] == []


def test_several_breaks_are_all_told() -> None:
    said = summary.broken(summary.summarize(broken("decode", 1, times=3)).arms[0].decode)
    assert said.startswith("measured across 3 breaks, at 00:") and said.count(":0") + said.count(":") >= 6


@pytest.mark.parametrize("after", [5, 0])
def test_a_break_before_or_after_all_repetitions_is_none_of_a_speed(after: int) -> None:
    state = broken("decode", after)
    (speed, _) = (arm.decode for arm in summary.summarize(state).arms)
    assert speed is not None and speed.breaks == () and summary.broken(speed) == ""


def test_what_had_changed_is_a_note_of_every_report_and_safe_to_print() -> None:
    state = broken("decode", 2, differs=("llama.cpp: was b1, is \x1b[31mb2",))
    assert state.differs == [(state.resumed[0], "llama.cpp: was b1, is \x1b[31mb2")]
    for report in (text_report.report(state), html_report.report(state), json.dumps(json_report.report(state))):
        assert "with a change: llama.cpp: was b1, is" in report and "\x1b" not in report
    assert fold.decode(fold.encode(state)).differs == state.differs


# --- what changed


def test_the_same_machine_and_programs_are_no_change_and_neither_are_a_boot_and_an_update() -> None:
    host, build = builders.host(), builders.build()
    later = msgspec.structs.replace(host, boot_id="another", os="a newer one", memory=round(host.memory * 1.001))
    assert list(changed.host(host, later)) == [] and list(changed.host(None, later)) == []
    newer = msgspec.structs.replace(build, quanttui="99")
    assert list(changed.build(build, newer)) == [] and list(changed.build(None, newer)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "elsewhere"}, "the machine: was "),
        ({"cpu": "a faster one"}, "is a faster one"),
        ({"cores": 64}, "is 64 of "),
        ({"memory": 2**40}, "its memory: was "),
        ({"gpus": (e.Gpu(name="card", memory=1, driver="555"),)}, "its GPUs: was none, is card (driver 555)"),
    ],
)
def test_another_machine_is_named_by_what_it_was_and_is(change: dict[str, Any], said: str) -> None:
    host = builders.host()
    (line,) = changed.host(host, msgspec.structs.replace(host, **change))
    assert said in line and ": was " in line and ", is " in line


def test_another_build_is_named_and_of_its_backends_only_what_differs() -> None:
    old = builders.build(llama_cpp="b1", llama_cpp_python="0.3.36", system_info="CPU : AVX2 = 1 | FMA = 1 | AMX = 0")
    new = builders.build(llama_cpp="b2", llama_cpp_python="0.3.37", system_info="CPU : AVX2 = 1 | FMA = 1 | AMX = 1")
    assert list(changed.build(old, new)) == [
        "llama.cpp: was b1, is b2",
        "llama-cpp-python: was 0.3.36, is 0.3.37",
        "llama.cpp's backends: was AMX = 0, is AMX = 1",
    ]


def test_a_log_of_a_newer_schema_is_named() -> None:
    state = builders.state(builders.Arm("Q8_0"))
    assert list(changed.log(state)) == []
    assert state.opened is not None
    state.opened = msgspec.structs.replace(state.opened, schema=e.SCHEMA + 1)
    (line,) = changed.log(state)
    assert f"was {e.SCHEMA + 1}, of a newer quanttui" in line


def test_an_arm_goes_on_with_no_other_file_unless_told_to(tmp_path: Path) -> None:
    """Also where nobody looked before: a quant that was made again and came out otherwise."""
    model = tmp_path / "m.gguf"
    shutil.copyfile(pocket.MODEL, model)
    bench = Bench(tmp_path, {}, "AB")
    log = bench.folder / session.EVENTS
    log.write_bytes(log.read_bytes().replace(str(pocket.MODEL).encode(), str(model).encode()))
    assert bench.sweep().run() == "ok"
    content = log.read_bytes()
    begun = content[: content.index(b'{"event":"perplexity"')]
    log.write_bytes(begun)
    flip(model)
    sweep = bench.sweep()
    assert sweep.run() == "failed"
    failed = session.load(bench.folder).arms["A"].attempts[-1].failed
    assert failed is not None and failed.outcome == "refused"
    assert "the content of" in failed.error and "--anyway" in failed.error
    log.write_bytes(begun)
    sweep = bench.sweep()
    sweep.options = msgspec.structs.replace(sweep.options, anyway=True)
    assert sweep.run() == "ok"


def flip(file: Path) -> None:
    """Another content of the same size: the last byte of its weights."""
    with open(file, "r+b") as out:
        out.seek(-1, os.SEEK_END)
        last = out.read(1)
        out.seek(-1, os.SEEK_END)
        out.write(bytes([last[0] ^ 1]))


# --- real sessions

SMALL = ["--quants", "F16,Q4_K_M", "--text", "pocket", "--chunks", "4", "--tasks", "ppl"]


class Ground:
    """A session over a model of its own, and the cache with what was made of it."""

    def __init__(self, folder: Path) -> None:
        self.model, self.cache, self.whole = folder / "m.gguf", folder / "cache", folder / "whole"
        self.config = folder / "config.toml"
        self.config.touch()
        shutil.copyfile(pocket.MODEL, self.model)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "QUANTTUI_CACHE_DIR": str(self.cache), "QUANTTUI_CONFIG": str(self.config)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quanttui", *words]
        return subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=LONG)
        return process.returncode, out, err

    def cut(self, folder: Path) -> Path:
        """A copy of the session, whose writer died amid the second quant's perplexity."""
        shutil.copytree(self.whole, folder)
        content = (folder / session.EVENTS).read_bytes()
        at = [line for line in content.splitlines(keepends=True) if b'"perplexity"' in line and b'"Q4_K_M"' in line]
        where = content.index(next(line for line in at if line.startswith(b'{"event":"perplexity"')))
        (folder / session.EVENTS).write_bytes(content[:where])
        (folder / session.FRAMES).unlink(missing_ok=True)
        return folder

    def qualities(self, folder: Path) -> dict[str, object]:
        raw = {path.name: path.read_bytes() for path in (folder / "raw").iterdir()}
        return {arm.id: arm.perplexity() for arm in session.load(folder).arms.values()} | raw


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    made = Ground(tmp_path_factory.mktemp("ground"))
    words = ("run", str(made.model), "--headless", "--session", str(made.whole), *SMALL)
    code, _, err = made.run(*words)
    assert code == 0, err
    return made


@pytest.fixture
def kept(ground: Ground) -> Iterator[Ground]:
    """The ground as it was, whatever a test makes of its files."""
    yield ground
    shutil.copyfile(pocket.MODEL, ground.model)


def refused(ground: Ground, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Why a session is not gone on with: one line, exit code 2, and nothing done to it."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, value in ground.environment.items():
        if name.startswith("QUANTTUI_"):
            monkeypatch.setenv(name, value)
    assert cli.main(["run", "--resume", str(folder), "--headless"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert err and "--anyway goes on all the same" in err[-1]
    return err[-1]


real = pytest.mark.alone
"""They start processes that measure."""


@real
def test_a_file_that_was_only_touched_and_quants_that_left_the_cache_are_no_change(
    kept: Ground, tmp_path: Path
) -> None:
    folder = kept.cut(tmp_path / "s")
    os.utime(kept.model, ns=(1, 1))
    for quant in (kept.cache / "quants").iterdir():
        quant.unlink()
    code, _, err = kept.run("run", "--resume", str(folder), "--headless")
    assert code == 0, err
    state = session.load(folder)
    assert state.differs == [] and len(state.resumed) == 1
    assert kept.qualities(folder) == kept.qualities(kept.whole)
    known = session.load(kept.whole).arms["Q4_K_M"].file
    assert known is not None and known == msgspec.structs.replace(
        state.arms["Q4_K_M"].file, n=known.n, t=known.t  # type: ignore[type-var]
    )


@real
def test_a_replaced_model_is_named_and_stops_the_resume_unless_told_to_go_on(
    kept: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = kept.cut(tmp_path / "s")
    flip(kept.model)
    line = refused(kept, folder, monkeypatch, capsys)
    assert str(kept.model) in line and "its content: was sha256" in line
    code, out, err = kept.run("run", "--resume", str(folder), "--headless", "--anyway")
    assert code == 0, err
    state = session.load(folder)
    assert any(str(kept.model) in text for _, text in state.differs)
    assert "all the same, F16" in out and "with a change: F16" in text_report.report(state)


@real
@pytest.mark.parametrize("what", ["gone", "cut off"])
def test_a_model_that_is_gone_or_has_another_size_is_named(
    kept: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    folder = kept.cut(tmp_path / "s")
    if what == "gone":
        kept.model.unlink()
    else:
        os.truncate(kept.model, kept.model.stat().st_size - 1)
    line = refused(kept, folder, monkeypatch, capsys)
    assert str(kept.model) in line and ("is gone" if what == "gone" else "bytes, is") in line


@real
def test_another_machine_and_another_llama_cpp_are_named_together(
    kept: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = kept.cut(tmp_path / "s")
    log = folder / session.EVENTS
    opened, _, rest = log.read_bytes().partition(b"\n")
    event = e.decode(opened)
    assert isinstance(event, e.SessionOpened)
    host = msgspec.structs.replace(event.host, name="elsewhere", cpu="another")
    build = msgspec.structs.replace(event.build, llama_cpp="b0")
    log.write_bytes(e.encode(msgspec.structs.replace(event, host=host, build=build)) + rest)
    line = refused(kept, folder, monkeypatch, capsys)
    for words in ("3 things changed", "the machine: was elsewhere, is ", "its processor: was another", "was b0, is"):
        assert words in line


def gone_on_with_once(ground: Ground, folder: Path) -> None:
    """Nothing of a session was measured twice, no event of it was lost, and it says what the whole one says."""
    events = list(session.Reader(folder).events())
    units = [event.unit.id for event in events if isinstance(event, e.UnitDone)]
    assert len(units) == len(set(units))
    assert [event.n for event in events] == list(range(session.load(folder).n + 1))
    assert ground.qualities(folder) == ground.qualities(ground.whole)


@real
def test_of_two_that_resume_one_session_at_once_one_does_and_the_other_is_refused(
    kept: Ground, tmp_path: Path
) -> None:
    folder = kept.cut(tmp_path / "s")
    each = [kept.start("run", "--resume", str(folder), "--headless") for _ in range(2)]
    said = [process.communicate(timeout=LONG) for process in each]
    assert sorted(process.returncode for process in each) == [0, 2], said
    assert sum("measured already" in err for _, err in said) == 1
    gone_on_with_once(kept, folder)


@real
def test_of_two_that_wait_to_resume_one_session_one_does_and_the_other_finds_it_done(
    kept: Ground, tmp_path: Path
) -> None:
    folder = kept.cut(tmp_path / "s")
    with closing(lock.hold("a test", wait=True)):
        each = [kept.start("run", "--resume", str(folder), "--headless", "--wait") for _ in range(2)]
        for process in each:
            assert process.stderr is not None
            assert f"waiting for process {os.getpid()}" in process.stderr.readline()
    said = [process.communicate(timeout=LONG) for process in each]
    assert [process.returncode for process in each] == [0, 0], said
    gone_on_with_once(kept, folder)


@real
def test_a_detached_heir_goes_on_with_the_lock_and_is_not_stopped_by_what_its_predecessor_let_pass(
    kept: Ground, tmp_path: Path
) -> None:
    folder = kept.cut(tmp_path / "s")
    flip(kept.model)
    place = tmp_path / "lock"
    code, out, err = kept.run("run", "--resume", str(folder), "--detach", "--anyway")
    assert code == 0 and "runs on without this terminal" in out, err
    assert not place.exists()
    lock.hold("a test", wait=True).close()  # until the heir ends
    state = session.load(folder)
    assert state.closed == "ok" and len(state.resumed) == 2
    assert (folder / "stderr" / "headless.txt").read_text().count("Traceback") == 0


def test_a_second_sweep_is_refused_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTTUI_SESSIONS_DIR", str(tmp_path / "sessions"))
    held = lock.hold("a sweep")
    try:
        assert cli.main(["demo", "--headless"]) == 2
        assert cli.main(["doctor", "--observer"]) == 2
    finally:
        held.close()
    for line in capsys.readouterr().err.splitlines():
        assert f"process {os.getpid()} of" in line and "--wait" in line
    assert not (tmp_path / "sessions").exists()


def test_a_start_screen_shows_the_refusal_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quanttui.sweep import choose

    notices: list[str] = []

    def chosen(*given: Any) -> Choice | None:
        notices.append(given[-1])
        return Choice("sweep", (), "F16", ("ppl",)) if len(notices) == 1 else None

    monkeypatch.setattr(choose, "choose", chosen)
    monkeypatch.setattr(cli, "_has_terminal", lambda: True)
    monkeypatch.setenv("QUANTTUI_SESSIONS_DIR", str(tmp_path))
    held = lock.hold("a sweep")
    try:
        assert cli.main([]) == 0
    finally:
        held.close()
    assert notices[0] == "" and "this machine is being measured already" in notices[1]


@pytest.mark.parametrize("words", ["demo --anyway --headless", "run m.gguf --anyway --headless", "doctor --wait"])
def test_flags_that_mean_nothing_there_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    assert "belongs to" in capsys.readouterr().err


@pytest.mark.parametrize("key", sorted(cli.MEASURED))
def test_every_flag_that_would_change_what_is_measured_is_refused_beside_resume(key: str) -> None:
    args = cli.parse(["run", "--resume", "x", "--headless"])
    setattr(args, key, "1")
    with pytest.raises(UserError, match="a resumed session keeps its own plan and settings"):
        cli._refuse_plan(args, ())
