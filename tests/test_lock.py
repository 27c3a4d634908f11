"""The machine's lock: one has it, others learn who, nothing is left behind, and nobody can plant something in its place
that harms or stops anybody. The log's: one process writes it."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanttui import session
from quanttui.errors import UserError
from quanttui.sweep import lock

pytestmark = pytest.mark.skipif(lock.FLOCK is None, reason="a platform without flock")

LIMIT = 30.0
"""Seconds after which a test gives up waiting."""

DEAD = lock.Owner(pid=2**31 - 1, started=1.0, user="ada", what="a sweep", since=0.0)

HOLDER = """
import sys
from pathlib import Path
from quanttui.sweep import lock
held = lock.hold("a sweep", wait=len(sys.argv) > 2, place=Path(sys.argv[1]))
print("inherited" if held.inherited else "held", held.predecessor, held.note, flush=True)
sys.stdin.read()
held.close()
"""


def holding(place: Path, *words: str) -> list[str]:
    """A process that has the lock, says so, and keeps it until its stdin ends."""
    return [sys.executable, "-c", HOLDER, str(place), *words]


def begun(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def said(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def ended(process: subprocess.Popen[bytes]) -> int:
    process.communicate(timeout=LIMIT)
    return process.returncode


def no_flock(file: int, wait: bool) -> bool:
    raise OSError(errno.EOPNOTSUPP, "not here")


KINDS = pytest.mark.parametrize("flock", [lock.FLOCK, None, no_flock], ids=["flock", "records", "no flock there"])


@KINDS
def test_one_has_the_machine_and_the_next_is_told_who_and_the_ways_out(
    tmp_path: Path, flock: lock.Flock | None
) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "mine")
    with closing(lock.hold("a sweep", place=tmp_path, flock=flock)) as held:
        with pytest.raises(lock.Busy) as early:
            lock.hold("a sweep", place=tmp_path, flock=flock)
        held.write(folder)
        with pytest.raises(lock.Busy) as told:
            lock.hold("a sweep", place=tmp_path, flock=flock)
    for words in (f"process {os.getpid()} of", "(a sweep), since", "--wait"):
        assert words in str(early.value) and words in str(told.value)
    assert f"quanttui attach {folder}" in str(told.value) and "attach" not in str(early.value)
    assert "\n" not in str(told.value)
    lock.hold("a sweep", place=tmp_path, flock=flock).close()


@KINDS
def test_who_waits_is_told_for_whom_and_comes_next(tmp_path: Path, flock: lock.Flock | None) -> None:
    lines: list[str] = []
    told, got = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        lines.append(line)
        told.set()

    def wait() -> None:
        with closing(lock.hold("b", True, tell, tmp_path, flock)):
            got.set()

    held = lock.hold("a", place=tmp_path, flock=flock)
    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(LIMIT) and not got.is_set()
    held.close()
    assert got.wait(LIMIT)
    thread.join(LIMIT)
    assert lines == [line for line in lines if f"process {os.getpid()}" in line] and len(lines) == 1


def test_a_lock_whose_owner_was_killed_is_free_at_once(tmp_path: Path) -> None:
    process = begun(holding(tmp_path))
    assert said(process) == "held 0"
    with pytest.raises(lock.Busy, match=f"process {process.pid} of"):
        lock.hold("a sweep", place=tmp_path)
    process.kill()
    ended(process)
    lock.hold("a sweep", place=tmp_path).close()


def test_a_record_of_the_past_names_nobody(tmp_path: Path) -> None:
    """The lock is the kernel's: what a dead process wrote into the file is no reason to name it."""
    place = tmp_path / lock.NAME
    place.write_bytes(msgspec.json.encode(DEAD))
    with open(place, "rb") as file:
        assert lock.FLOCK is not None and lock.FLOCK(file.fileno(), False)
        with pytest.raises(lock.Busy, match=f"somebody holds {place}") as told:
            lock.hold("a sweep", place=tmp_path)
    assert "ada" not in str(told.value)
    lock.hold("a sweep", place=tmp_path).close()


@pytest.mark.parametrize("reused", [False, True], ids=["gone", "its number is another's by now"])
def test_without_flock_a_dead_processs_record_is_taken_away_by_one_of_all_who_find_it(
    tmp_path: Path, reused: bool
) -> None:
    dead = msgspec.structs.replace(DEAD, pid=os.getpid()) if reused else DEAD
    many, barrier, won = 8, threading.Barrier(8), []
    (tmp_path / lock.RECORD).write_bytes(msgspec.json.encode(dead))

    def run(_: int) -> str:
        barrier.wait(LIMIT)
        try:
            won.append(lock.hold("a sweep", place=tmp_path, flock=None))
        except lock.Busy:
            return "refused"
        return "held"

    with ThreadPoolExecutor(many) as pool:
        outcomes = list(pool.map(run, range(many)))
    assert sorted(outcomes) == ["held"] + ["refused"] * (many - 1)
    won[0].close()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_lock_that_was_removed_is_no_lock_to_who_waited_for_it(tmp_path: Path) -> None:
    """Somebody deletes the file: who then gets the old one's lock looks again, and shares one with all later ones."""
    told, got = threading.Event(), threading.Event()
    held = lock.hold("a", place=tmp_path)
    waiting: list[lock.Machine] = []

    def wait() -> None:
        waiting.append(lock.hold("b", True, lambda _: told.set(), tmp_path))
        got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(LIMIT)
    (tmp_path / lock.NAME).unlink()
    held.close()
    assert got.wait(LIMIT)
    thread.join(LIMIT)
    with pytest.raises(lock.Busy):
        lock.hold("c", place=tmp_path)
    waiting[0].close()


# --- what others may have put there


def symlink(place: Path) -> None:
    (place.parent / "victim").write_text("precious")
    place.symlink_to(place.parent / "victim")


def dangling(place: Path) -> None:
    place.symlink_to(place.parent / "made by nobody")


def fifo(place: Path) -> None:
    os.mkfifo(place)


PLANTED: list[Callable[[Path], object]] = [symlink, dangling, fifo, Path.mkdir]


@pytest.mark.parametrize("plant", PLANTED, ids=["symlink", "dangling", "fifo", "folder"])
def test_what_cannot_be_a_lock_is_told_harmed_by_nothing_and_stops_nobody(
    tmp_path: Path, plant: Callable[[Path], object]
) -> None:
    place = tmp_path / lock.NAME
    plant(place)
    before = sorted((path.name, path.lstat().st_mode) for path in tmp_path.iterdir())
    with closing(lock.hold("a sweep", place=tmp_path)) as held:
        assert str(place) in held.note and lock.FOLDER in held.note and "\n" not in held.note
        lock.hold("a sweep", place=tmp_path).close()
    assert sorted((path.name, path.lstat().st_mode) for path in tmp_path.iterdir()) == before
    if plant is symlink:
        assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_cannot_be_written_to_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with closing(lock.hold("a sweep", place=tmp_path / "file")) as held:
        assert "Not a directory" in held.note or "File exists" in held.note


def test_a_file_with_another_name_is_never_written_to(tmp_path: Path) -> None:
    """A hard link to somebody's own file: to empty it would empty that."""
    (tmp_path / "mine").write_bytes(b"")
    os.link(tmp_path / "mine", tmp_path / lock.NAME)
    with closing(lock.hold("a sweep", place=tmp_path)):
        assert (tmp_path / "mine").read_bytes() == b""
        with pytest.raises(lock.Busy):
            lock.hold("a sweep", place=tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.sampled_from([b'{"pid":-1}', b"[" * 5000, b'{"pid":1e999}', b"\0" * 9000]))
def test_whatever_a_file_holds_it_is_a_lock_and_what_is_no_record_stays(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / lock.NAME
    place.write_bytes(content)
    with closing(lock.hold("a sweep", place=tmp_path)) as held:
        assert not held.note
        with pytest.raises(lock.Busy) as told:
            lock.hold("a sweep", place=tmp_path)
        assert all(char.isprintable() for char in str(told.value))
    assert place.read_bytes() == content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200), st.text(max_size=600), st.floats(allow_nan=False, allow_infinity=False))
def test_what_a_record_says_is_safe_to_print(tmp_path: Path, text: str, folder: str, since: float) -> None:
    started = psutil.Process().create_time()
    try:
        line = json.dumps(
            {"pid": os.getpid(), "started": started, "user": text, "what": text, "since": since, "session": folder}
        ).encode()
    except UnicodeEncodeError:
        return
    place = tmp_path / lock.NAME
    place.write_bytes(line)
    with open(place, "rb") as file:
        assert lock.FLOCK is not None and lock.FLOCK(file.fileno(), False)
        with pytest.raises(lock.Busy) as told:
            lock.hold("a sweep", place=tmp_path)
    assert all(char.isprintable() for char in str(told.value)) and len(str(told.value)) < 2000


def test_every_user_may_lock_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        lock.hold("a sweep", place=tmp_path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / lock.NAME).stat().st_mode) == 0o666


def test_the_lock_lies_in_a_folder_of_all_users_or_where_the_environment_says(tmp_path: Path) -> None:
    assert lock.folder({}) == Path("/tmp")
    assert lock.folder({lock.FOLDER: str(tmp_path)}) == tmp_path


# --- handing it on


@pytest.fixture
def heir(tmp_path: Path) -> Iterator[Callable[[lock.Machine], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(machine: lock.Machine) -> subprocess.Popen[bytes]:
        process = machine.start(holding(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        ended(process)


def test_an_heir_has_the_lock_before_its_predecessor_lets_go_and_the_log_is_free(
    tmp_path: Path, heir: Callable[[lock.Machine], subprocess.Popen[bytes]]
) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "mine")
    held = lock.hold("a sweep", place=tmp_path)
    held.write(folder)
    process = heir(held)
    os.close(lock.writer(folder))
    with pytest.raises(lock.Busy, match=f"process {process.pid} of .*{folder}"):
        lock.hold("another", place=tmp_path)
    held.close()
    with pytest.raises(lock.Busy, match=f"process {process.pid} of"):
        lock.hold("another", place=tmp_path)
    assert said(process) == f"inherited {os.getpid()}"
    assert ended(process) == 0
    lock.hold("another", place=tmp_path).close()


def test_an_heir_that_dies_at_once_leaves_the_lock_to_its_predecessor_and_then_to_all(tmp_path: Path) -> None:
    held = lock.hold("a sweep", place=tmp_path)
    assert ended(held.start([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.DEVNULL)) == 3
    with pytest.raises(lock.Busy):
        lock.hold("another", place=tmp_path)
    held.close()
    lock.hold("another", place=tmp_path).close()


@pytest.mark.parametrize("given_", ["1:77", "1:0", "x:y", "1:", "-1:3", "9" * 40])
def test_an_inheritance_that_is_none_makes_nobody_an_heir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_: str
) -> None:
    monkeypatch.setenv(lock.HEIR, given_)
    with closing(lock.hold("a sweep", place=tmp_path)) as held:
        assert not held.inherited and not held.note
    assert lock.HEIR not in os.environ


def test_without_flock_an_heir_waits_until_its_predecessor_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, told = lock.hold("a sweep", place=tmp_path, flock=None), threading.Event()
    monkeypatch.setenv(lock.HEIR, f"{os.getpid()}:")
    found: list[lock.Machine] = []

    def inherit() -> None:
        found.append(lock.hold("a sweep", tell=lambda _: told.set(), place=tmp_path, flock=None))

    thread = threading.Thread(target=inherit)
    thread.start()
    assert told.wait(LIMIT)
    first.close()
    thread.join(LIMIT)
    assert (found[0].predecessor, found[0].inherited) == (os.getpid(), False)
    found[0].close()


# --- a session's log


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "mine")
    file = lock.writer(folder)
    with pytest.raises(UserError, match="another process is writing it: `quanttui attach"):
        lock.writer(folder)
    os.close(file)
    os.close(lock.writer(folder))
    with pytest.raises(UserError, match="cannot be written"):
        lock.writer(tmp_path)
    for flock in (None, no_flock):
        os.close(lock.writer(folder, flock=flock))


def test_what_was_just_made_is_not_written_to_where_another_process_was_first(tmp_path: Path) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "mine")
    os.close(lock.writer(folder, fresh=True))
    (folder / session.EVENTS).write_bytes(b"{}\n")
    with pytest.raises(UserError, match="holds a session already"):
        lock.writer(folder, fresh=True)


def test_sessions_that_are_made_at_the_same_moment_have_folders_of_their_own(tmp_path: Path) -> None:
    many, barrier = 8, threading.Barrier(8)

    def make(_: int) -> Path:
        barrier.wait(LIMIT)
        return session.create(tmp_path, "m")

    with ThreadPoolExecutor(many) as pool:
        assert len(set(pool.map(make, range(many)))) == many


def test_of_those_who_make_a_session_in_one_folder_at_the_same_moment_one_writes_it(tmp_path: Path) -> None:
    many, barrier = 8, threading.Barrier(8)
    files: list[int] = []

    def make(_: int) -> None:
        barrier.wait(LIMIT)
        try:
            folder = session.create(tmp_path, "m", tmp_path / "s")
            files.append(lock.writer(folder, fresh=True))
        except UserError as error:
            assert "holds a session already" in str(error) or "another process is writing it" in str(error)

    with ThreadPoolExecutor(many) as pool:
        list(pool.map(make, range(many)))
    assert len(files) == 1
    os.close(files[0])
