"""The program on a real terminal: what it shows there, how it leaves it, and that no terminal holds up a sweep.

Short forms of the rows of tests/benchmarks/screen, whose harness is tested here as well.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

if os.name != "posix":
    pytest.skip("terminals of POSIX", allow_module_level=True)

import builders
import msgspec
import psutil
from benchmarks.machine import Machine
from benchmarks.screen import command, cost, faults, figure, keys, programs, recorded
from benchmarks.screen.figure import Figure
from benchmarks.screen.live import Clocks
from benchmarks.screen.programs import REMOTE, Bench, stands
from benchmarks.screen.terminal import Chunk, Terminal, python

from quanttui import events as e
from quanttui import session

QUIT = 20.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Machine(0.0, lambda _: None, lambda: ""), True, lambda _: None)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session that is over."""
    return recorded.short(tmp_path_factory.mktemp("watched") / "session")


@contextmanager
def attached(bench: Bench, folder: Path, **environment: str) -> Iterator[Terminal]:
    """A viewer whose screen has come to stand at the session's end."""
    with bench.quanttui("attach", str(folder), **environment) as terminal:
        programs.shown(terminal, recorded.MODEL)
        assert terminal.until(stands(faults.last(folder))) is not None
        yield terminal


# --- a viewer -------------------------------------------------------------------------------------------------------


def test_a_viewer_leaves_the_terminal_as_it_was(bench: Bench, watched: Path) -> None:
    """Every mode that it has set it takes back, and it leaves the alternate screen."""
    with attached(bench, watched) as terminal:
        terminal.press("q")
        assert terminal.wait(QUIT) == 0
        set_, reset = (_modes(terminal.output(), end) for end in (b"h", b"l"))
        assert {1000, 1049} <= set_ <= reset | {7, 25}
        assert terminal.output().rfind(b"\x1b[?25h") > terminal.output().rfind(b"\x1b[?25l")


def _modes(output: bytes, end: bytes) -> set[int]:
    """The private modes that are set (h) or reset (l)."""
    parts = output.split(b"\x1b[?")[1:]
    found = (part.partition(end)[0] for part in parts if end in part[:6])
    return {int(number) for word in found for number in word.split(b";") if number.isdigit()}


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_viewer_that_was_stopped_goes_on_and_can_be_left(bench: Bench, watched: Path, stop: signal.Signals) -> None:
    """Its screen is painted anew, keys reach it, and it leaves the terminal as it was."""
    with attached(bench, watched) as terminal:
        process = psutil.Process(terminal.pid)
        for _ in range(3):
            os.kill(terminal.pid, stop)
            while process.status() != psutil.STATUS_STOPPED:
                time.sleep(0.02)
            begin = time.monotonic()
            os.kill(terminal.pid, signal.SIGCONT)
            assert terminal.until(partial(_has, recorded.MODEL.encode(), terminal, begin)) is not None
        terminal.press("q")
        assert terminal.wait(QUIT) == 0 and terminal.echoes


def _has(words: bytes, terminal: Terminal, begin: float, _: object) -> bool:
    """Whether these words were written since then."""
    return words in terminal.output(begin)


def test_over_ssh_no_mouse_is_asked_for(bench: Bench, watched: Path) -> None:
    with attached(bench, watched, **REMOTE) as terminal:
        assert not {1000, 1003, 1006} & _modes(terminal.output(), b"h")


def test_keys_move_the_cursor_and_freeze_it(bench: Bench, watched: Path) -> None:
    end = faults.last(watched)
    with attached(bench, watched) as terminal:
        terminal.press(" ")
        assert terminal.until(lambda picture: "FROZEN" in picture.lines[0]) is not None
        terminal.press("\x1b[H")
        assert terminal.until(stands(0.0)) is not None
        terminal.press("\x1b[C")
        assert terminal.until(stands(5.0)) is not None
        terminal.press("\x1b[F")
        assert terminal.until(stands(end)) is not None


def test_hostile_names_write_nothing_but_letters_to_the_terminal(bench: Bench, tmp_path: Path) -> None:
    """A title, a clipboard, a clear screen, a device query: none of them gets there, whoever asked for it."""
    hostile = "\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x1b[2J\x1b[6n\x9b31m[bold]x[/bold]"
    arm = builders.Arm("Q8_0", fails="crashed", error=hostile, stderr=(hostile,), label_note=hostile)
    made = builders.events(arm)
    folder = session.create(tmp_path, "m", tmp_path / "hostile")
    events = [msgspec.structs.replace(made[0], model=hostile + recorded.MODEL), *made[1:]]
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, events)))
    with bench.quanttui("attach", str(folder)) as terminal:
        assert terminal.until(lambda picture: "owned" in picture.lines[0]) is not None
        terminal.press("\t")
        time.sleep(0.5)
        written = terminal.output()
    forbidden = (b"\x1b]0;owned", b"\x1b]52", b"\x1b[6n", b"owned\x07", b"=\x07", "\x9b".encode())
    assert [bad for bad in forbidden if bad in written] == []


@pytest.mark.parametrize(("environment", "limit"), [({}, 20), (REMOTE, 6)], ids=["local", "ssh"])
def test_a_live_screen_sends_few_bytes(bench: Bench, environment: dict[str, str], limit: float) -> None:
    words, _ = faults.plan(30)
    with bench.session() as folder, bench.live(folder, *words, **environment) as terminal:
        programs.shown(terminal)
        time.sleep(1)
        begin, seconds = time.monotonic(), 3.0
        time.sleep(seconds)
        sent = len(terminal.output(begin))
    assert 0 < sent / seconds / 1024 <= limit


# --- a sweep that does not care -------------------------------------------------------------------------------------


def test_a_terminal_that_takes_nothing_holds_up_no_sweep(bench: Bench) -> None:
    """Every event and unit is there, the log never stood still as long as the terminal did, the screen comes back."""
    lost, silence, _ = faults.stalled(bench)
    assert lost.value == 0
    assert silence.value is not None and silence.value < faults.STALLED[True]


def test_a_terminal_that_is_gone_ends_the_screen_and_not_the_sweep(bench: Bench) -> None:
    lost, _, ended = faults.killed(bench)
    assert lost.value == 0 and ended.value is not None


def test_fifty_sizes_a_second_lose_no_event_and_the_screen_comes_back(bench: Bench) -> None:
    lost, _, _ = faults.resized(bench)
    assert lost.value == 0


# --- the harness ----------------------------------------------------------------------------------------------------


def test_what_is_missing_from_a_log_is_counted(tmp_path: Path) -> None:
    def write(events: list[e.Event]) -> Path:
        folder = session.create(tmp_path, "m")
        (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, events)))
        return folder

    whole = builders.events(builders.Arm(repetitions=2, chunks=4))
    units = [event for event in whole if isinstance(event, e.UnitDone)]
    assert faults.swept(write(whole), len(units)).lost == faults.swept(write(whole), len(units)).amiss == 0
    without = [event for event in whole if event is not units[1]]
    found = faults.swept(write(without), len(units))
    assert (found.lost, found.amiss, found.closed) == (1, 1, "ok")
    assert faults.swept(write([*whole, units[0]]), len(units)).amiss == 1


def test_a_terminal_is_read_timed_stalled_and_resized(tmp_path: Path) -> None:
    """A program that tells its size whenever it is told of another, and lines as fast as they are read."""
    told = (
        "import os, signal, sys, time\n"
        "tell = lambda *_: print('size', *os.get_terminal_size(), flush=True)\n"
        "signal.signal(signal.SIGWINCH, tell); tell()\n"
        "for line in sys.stdin: print('got', line.strip(), flush=True)\n"
    )
    with Terminal(python("-c", told), dict(os.environ), tmp_path, (50, 7)) as terminal:
        first = terminal.until(lambda picture: "size 50 7" in "\n".join(picture.lines))
        assert first is not None and first >= terminal.begun
        terminal.stall()
        time.sleep(0.2)
        pressed = terminal.press("one\n")
        assert terminal.until(lambda picture: "got one" in "\n".join(picture.lines), 0.5) is None
        terminal.resume()
        answered = terminal.until(lambda picture: "got one" in "\n".join(picture.lines))
        assert answered is not None and answered >= pressed + 0.5
        terminal.resize(60, 9)
        assert terminal.until(lambda picture: "size 60 9" in "\n".join(picture.lines)) is not None
        terminal.hang_up()
        assert terminal.wait(10) is not None


def test_a_program_that_is_killed_or_hangs_is_reaped(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    with Terminal(python("-c", stubborn), dict(os.environ), tmp_path) as terminal:
        assert terminal.until(lambda picture: "up" in picture.lines[0]) is not None
    assert terminal.code == -9


def test_an_answer_is_what_follows_a_key_and_changes_what_it_is_about() -> None:
    """A status line that changes by itself is none, nor is a number while the screen is live."""
    chunks = [
        Chunk(0.0, b"\x1b[1;1Hm  LIVE 00:00:01\x1b[2;1Hbody\x1b[9;1Hcost 1\x1b[10;1Hkeys"),
        Chunk(1.01, b"\x1b[2;1HBODY"),
        Chunk(1.03, b"\x1b[1;1Hm  FROZEN 00:00:01"),
        Chunk(2.02, b"\x1b[9;1Hcost 2"),
        Chunk(2.07, b"\x1b[1;11H00:00:00\x1b[2;1Hpast"),
        Chunk(2.09, b"\x1b[2;1Hlast"),
    ]
    found = keys.answers(chunks, [("space", 1.0), ("left", 2.0), ("tab", 3.0)], (40, 10))
    assert [name for name, _ in found] == ["space", "left", "tab"]
    assert found[0][1] == pytest.approx(0.03) and found[1][1] == pytest.approx(0.07) and math.isinf(found[2][1])


def test_a_cost_is_the_difference_of_two_looks() -> None:
    before = Clocks(10.0, 1.0, {"screen": 0.5}, [(9.0, "whole")])
    after = Clocks(14.0, 1.2, {"screen": 0.6, "sweep": 0.04}, [(9.0, "whole"), (11.0, "few"), (12.5, "whole")])
    found = cost.between(before, after, 4096)
    assert (found.process, found.sent) == pytest.approx((0.05, 1024))
    assert found.parts == pytest.approx({"screen": 0.025, "sweep": 0.01})
    assert found.silence == pytest.approx(2.5) and "few 0.25 Hz" in found.told


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    found = figure.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values) + 1e-9


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=6), st.floats(0, 100))
def test_a_figure_is_one_line_and_met_up_to_its_limit(values: list[float | None], limit: float) -> None:
    figures = [Figure("what", "s", limit, value, row="row") for value in values]
    lines = figure.table(figures).splitlines()
    assert len(lines) == 2 + len(figures)
    for line, value in zip(lines[2:], values, strict=True):
        verdict = figure.FAILED if value is None else figure.MET if value <= limit else figure.MISSED
        assert line.startswith("row") and line.endswith(verdict)


def test_a_long_session_is_one_that_a_viewer_folds(tmp_path: Path) -> None:
    """Numbered without a gap, four samples and a beat in each second, key frames that lead to the same state."""
    *_, recording = recorded.hours(tmp_path / "session", 1)
    events = [event for event in session.Reader(recording.folder).events() if isinstance(event, e.Event)]
    assert [event.n for event in events] == list(range(recording.count))
    assert sum(isinstance(event, e.Sample) for event in events) >= 0.9 * 4 * recording.t
    assert sum(isinstance(event, e.Beat) for event in events) >= 0.9 * recording.t
    assert all(after.t >= before.t for before, after in pairwise(events))
    frames = session.frames(recording.folder)
    assert len(frames) == recording.count // session.FRAME_EVERY > 0
    assert session.load(recording.folder).closed == "ok"


def test_the_rows_are_named_in_the_help() -> None:
    words = python("-m", "tests.benchmarks", "screen", "--help")
    done = subprocess.run(words, cwd=programs.CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert all(name in done.stdout.replace("\n", " ") for name in command.ROWS)


def test_a_row_that_cannot_be_measured_fails_and_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Bench) -> list[Figure]:
        raise figure.Broken("no screen")

    monkeypatch.setitem(command.ROWS, "keys", command.Row("keys", broken))
    (found,) = command.measure("keys", bench)
    assert (found.verdict, found.notes, found.row) == (figure.FAILED, ("no screen",), "keys")
