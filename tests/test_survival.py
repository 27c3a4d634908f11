"""Real faults on real processes: an engine killed, an app killed, a terminal gone, a stop. Nothing recorded is lost."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from quanttui import events as e
from quanttui import session
from quanttui.state import State

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX"),
]

SMALL = ["--quants", "F16,Q8_0,Q4_K_M", "--chunks", "8", "-p", "64", "-n", "16", "-r", "4", "--precision", "0"]
LONG = 120.0


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "quanttui", *words]


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    out = open(folder.parent / "out.txt", "ab")  # noqa: SIM115 (the child's)
    environment = {**os.environ, "QUANTTUI_CACHE_DIR": str(folder.parent / "cache")}
    with out:
        return subprocess.Popen(command(*words), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)


def follow(folder: Path, process: subprocess.Popen[bytes] | None, wanted: Callable[[e.Event, State], bool]) -> State:
    """Fold the log as it grows until an event is the wanted one."""
    state, pause, begun = State(), threading.Event(), time.monotonic()
    while not (folder / session.EVENTS).exists():
        assert time.monotonic() - begun < LONG
        pause.wait(0.02)
    reader = session.Reader(folder)
    while time.monotonic() - begun < LONG:
        ended = process is not None and process.poll() is not None
        for event in reader.events():
            state.apply(event)
            if isinstance(event, e.Event) and wanted(event, state):
                return state
        assert not ended, "it ended before what was waited for"
        pause.wait(0.02)
    raise AssertionError(f"not seen within {LONG} s")


def decoding(arm: str) -> Callable[[e.Event, State], bool]:
    return lambda event, state: isinstance(event, e.UnitDone) and event.unit.arm == arm and event.unit.kind == "decode"


def scoring(arm: str) -> Callable[[e.Event, State], bool]:
    return lambda event, state: isinstance(event, e.Perplexity) and event.unit.arm == arm


def engines(folder: Path) -> list[psutil.Process]:
    """The engine processes that ever wrote to this session and still live."""
    found = []
    for event in session.Reader(folder).events():
        if isinstance(event, e.ArmLoaded):
            try:
                process = psutil.Process(event.pid)
                if "quanttui.engine.child" in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
    return found


def qualities(folder: Path) -> dict[str, object]:
    state = session.load(folder)
    return {arm.id: arm.perplexity() for arm in state.arms.values()} | {
        path.name: path.read_bytes() for path in (folder / "raw").iterdir() if path.suffix != ".tokens"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The qualities of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "session"
    assert start(folder, "demo", "--headless", "--session", str(folder), *SMALL).wait(LONG) == 0
    return qualities(folder)


def test_an_engine_killed_amid_a_quant_fails_that_arm_with_the_reason_and_the_others_finish(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    # All of the text: what is killed after the decode and before the perplexity, in a probe, costs the arm nothing.
    process = start(folder, "demo", "--headless", "--session", str(folder), *SMALL, "--chunks", "72")
    state = follow(folder, process, scoring("Q8_0"))
    attempt = state.arms["Q8_0"].attempt
    assert attempt is not None and attempt.loaded is not None
    os.kill(attempt.loaded.pid, signal.SIGKILL)
    assert process.wait(LONG) == 1
    state = session.load(folder)
    assert {arm.id: arm.outcome for arm in state.arms.values()} == {"F16": "ok", "Q8_0": "crashed", "Q4_K_M": "ok"}
    failed = state.arms["Q8_0"].attempts[-1].failed
    assert failed is not None and failed.signal == signal.SIGKILL and "SIGKILL" in failed.error
    assert engines(folder) == []


def test_an_app_killed_leaves_no_engine_and_resuming_gives_the_same_digits(
    tmp_path: Path, whole: dict[str, object]
) -> None:
    folder = tmp_path / "session"
    process = start(folder, "demo", "--headless", "--session", str(folder), *SMALL)
    follow(folder, process, decoding("Q8_0"))
    process.kill()
    process.wait()
    psutil.wait_procs(engines(folder), timeout=5)
    assert engines(folder) == []
    before = [event.unit.id for event in session.Reader(folder).events() if isinstance(event, e.UnitDone)]
    assert start(folder, "run", "--resume", str(folder), "--headless").wait(LONG) == 0
    after = [event.unit.id for event in session.Reader(folder).events() if isinstance(event, e.UnitDone)]
    assert after[: len(before)] == before and len(after) == len(set(after))
    assert qualities(folder) == whole


def test_ctrl_c_stops_within_seconds_and_says_so(tmp_path: Path, whole: dict[str, object]) -> None:
    folder = tmp_path / "session"
    process = start(folder, "demo", "--headless", "--session", str(folder), *SMALL)
    follow(folder, process, decoding("F16"))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert session.load(folder).closed == "interrupted"
    assert engines(folder) == []
    assert start(folder, "run", "--resume", str(folder), "--headless").wait(LONG) == 0
    assert qualities(folder) == whole


class Terminal:
    """A program on a terminal of its own, whose output somebody reads until the terminal hangs up."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", QUANTTUI_CACHE_DIR=str(folder.parent / "cache"))
            os.execv(sys.executable, command(*words))
        self.process = psutil.Process(self.pid)
        self._open = True
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        poll = select.poll()  # select() takes no descriptor beyond 1023, and a long run of tests has many
        poll.register(self._master, select.POLLIN)
        while self._open:
            with self._lock:
                if not self._open or not poll.poll(50):
                    continue
                try:
                    os.read(self._master, 1 << 16)
                except OSError:
                    return

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def hang_up(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._master)

    def wait(self) -> int:
        code: int = self.process.wait(LONG)
        return code


def test_a_terminal_that_hangs_up_leaves_the_sweep_running_to_its_end_and_then_nothing(
    tmp_path: Path, whole: dict[str, object]
) -> None:
    folder = tmp_path / "session"
    terminal = Terminal(folder, "demo", "--session", str(folder), *SMALL)
    follow(folder, None, decoding("F16"))
    terminal.hang_up()
    pause = threading.Event()
    while terminal.process.status() != psutil.STATUS_ZOMBIE:  # as it comes: Textual has it bring the screen back
        os.kill(terminal.pid, signal.SIGCONT)
        pause.wait(0.02)
    assert terminal.wait() == 0
    assert session.load(folder).closed == "ok"
    assert qualities(folder) == whole
    assert engines(folder) == [] and not psutil.pid_exists(terminal.pid)


def test_leaving_hands_the_sweep_to_a_process_without_a_terminal(tmp_path: Path, whole: dict[str, object]) -> None:
    folder = tmp_path / "session"
    terminal = Terminal(folder, "demo", "--session", str(folder), *SMALL)
    follow(folder, None, decoding("F16"))
    terminal.press("q")
    terminal.press("l")
    assert terminal.wait() == 0
    state = follow(folder, None, lambda event, _: isinstance(event, e.SessionClosed) and event.outcome == "ok")
    assert len(state.resumed) == 1 and qualities(folder) == whole
    heir, _ = state.writer or (0, 0.0)
    if psutil.pid_exists(heir):
        psutil.wait_procs([psutil.Process(heir)], timeout=30)
    assert engines(folder) == [] and not psutil.pid_exists(heir)


def test_an_interrupted_app_stops_its_sweep_and_says_so(tmp_path: Path) -> None:
    """As kill -INT does, and ctrl-c before the terminal hands keys to the app."""
    folder = tmp_path / "session"
    terminal = Terminal(folder, "demo", "--session", str(folder), *SMALL)
    follow(folder, None, decoding("F16"))
    os.kill(terminal.pid, signal.SIGINT)
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.wait() == 130
    assert session.load(folder).closed == "interrupted"
    assert engines(folder) == []
