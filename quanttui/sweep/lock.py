"""One sweep at a time on a machine, one writer to a session: locks that name their owner. Owns where the machine's lock
lies, what stands in it, and how it goes on to an heir. Knows no sweep.

The machine's lock is a file in a folder that all users share, held by flock: the kernel lets go of it when its owner
ends, however that ends, so none is ever left behind. What stands in the file (`Owner`) is for people only. Anybody may
have put anything in its place: no link is followed, nothing is cut or written that is not such a record, and what
cannot be a lock stops nobody: that is told, and the sweep runs without it. Where a file system or a platform has no
flock (Windows), a record is made that must not exist yet, and one whose process is gone (its number and start time) is
taken away.
"""

from __future__ import annotations

import errno
import getpass
import os
import re
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psutil

from quanttui import session
from quanttui.errors import UserError
from quanttui.format import clean

NAME = "quanttui.lock"
RECORD = "quanttui.owner"
"""The file that stands for the lock where there is no flock."""

FOLDER = "QUANTTUI_LOCK_DIR"
"""The variable that names another folder for the machine's lock: what is held there and elsewhere does not meet."""

HEIR = "QUANTTUI_HEIR"
"""The variable by which a process hands the lock on to the one that it starts: its own number, and the descriptor."""

LONGEST = 1 << 16
"""Bytes: no record is longer, and no first line of a log."""

RENEW_SECONDS = 3600.0
"""A held lock is touched this often: systems clean their folder of temporary files of what nobody touched for days."""

LOOK_SECONDS = 1.0
"""Where there is no flock to wait for, the record is looked at this often."""

CLEARING_SECONDS = 10.0
"""A mark that a dead process's record is being taken away is itself left over after so long."""

_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

Flock = Callable[[int, bool], bool]
"""Takes a descriptor's lock, waiting for it where asked to; False where somebody else has it."""

Tell = Callable[[str], object]


def _flock() -> Flock | None:
    try:
        import fcntl
    except ImportError:
        return None

    def take(file: int, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    return take


FLOCK = _flock()


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the machine: a process by number and start time (Unix time), whose, what it does, since when (Unix
    time), and the session that it writes, "" before there is one."""

    pid: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    started: float
    user: str
    what: str
    since: float
    session: str = ""

    @property
    def lives(self) -> bool:
        return session.alive(self.pid, self.started)

    @property
    def words(self) -> str:
        """`process 4711 of ada, since 12:03`."""
        when = time.strftime("%H:%M", time.localtime(min(max(0.0, self.since), 2.0**32)))
        return f"process {self.pid} of {clean(self.user, 40)} ({clean(self.what, 40)}), since {when}"


def me(what: str) -> Owner:
    """The record of this process."""
    started = psutil.Process().create_time()
    return Owner(pid=os.getpid(), started=started, user=_user(), what=what, since=time.time())


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name
        return str(os.getuid()) if hasattr(os, "getuid") else "somebody"


def folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where the machine's lock lies: a folder that every user may write to."""
    environment = os.environ if environment is None else environment
    if named := environment.get(FOLDER):
        return Path(named).expanduser()
    return Path("/tmp") if os.name == "posix" else Path(environment.get("ProgramData") or tempfile.gettempdir())


class Busy(UserError):
    """Somebody else has the machine."""


class Machine:
    """The machine's lock, held from `hold` to `close`, and of one session the right to write its log.

    Attributes:
        predecessor: the process that handed the lock on to this one, 0 for none.
        inherited: without a moment in which somebody else could have had it.
        note: why there is no lock, "" where it is held.
    """

    def __init__(self, owner: Owner, file: int | None, place: Path | None = None, note: str = "") -> None:
        self.predecessor, self.inherited, self.note = 0, False, note
        self._owner, self._file, self._place = owner, file, place
        self._log: int | None = None
        self._given = False
        self._over = threading.Event()
        threading.Thread(target=self._renew, name="lock", daemon=True).start()

    def write(self, folder: Path, fresh: bool = False) -> None:
        """Have a session's log to this process alone, too: see `writer`."""
        self._log = writer(folder, fresh)
        self.told(session=str(folder.resolve()))

    def start(self, command: Sequence[str], **given: Any) -> subprocess.Popen[bytes]:
        """Start a process that has the lock from now on, without a moment in which nobody has it; the log it takes for
        itself. Without flock it waits until this process lets go.

        Args:
            given: more arguments of subprocess.Popen.
        """
        if self._log is not None:
            os.close(self._log)
            self._log = None
        handed = () if self._file is None else (self._file,)
        environment = {**os.environ, HEIR: f"{os.getpid()}:{''.join(map(str, handed))}"}
        process = subprocess.Popen(command, pass_fds=handed, env=environment, **given)
        if self._file is not None:
            self._given = True
            with suppress(psutil.Error):
                started = psutil.Process(process.pid).create_time()
                self.told(pid=process.pid, started=started)
        return process

    def close(self) -> None:
        """Let go. An heir keeps it: only this process's own descriptor is closed, no lock is undone."""
        self._over.set()
        files, self._log, self._file = (self._log, self._file), None, None
        if files[1] is not None and not self._given:
            record(files[1], None)
        for file in files:
            if file is not None:
                os.close(file)
        place, self._place = self._place, None
        if place is not None and _recorded(place) == self._owner:
            place.unlink(missing_ok=True)

    def told(self, **changes: Any) -> None:
        """Say otherwise who has the lock: by fields of Owner."""
        owner = msgspec.structs.replace(self._owner, **changes)
        if self._place is not None and _recorded(self._place) == self._owner:
            with suppress(OSError):
                os.replace(_written(self._place, owner), self._place)
        if self._file is not None:
            record(self._file, owner)
        self._owner = owner

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            with suppress(OSError, TypeError):  # it is closed by now
                os.utime(self._place or self._file)  # type: ignore[arg-type]


def hold(
    what: str,
    wait: bool = False,
    tell: Tell = lambda line: None,
    place: Path | None = None,
    flock: Flock | None = FLOCK,
) -> Machine:
    """Have the machine for measuring.

    Args:
        what: is going to be done, for others to read.
        wait: for whoever has it, instead of being refused.
        tell: is told for whom it waits.
        place: the folder of the lock, `folder()` unless given.

    Raises:
        Busy: somebody else has it; names who, and the ways out.
    """
    file = (place or folder()) / NAME
    owner = me(what)
    if (pid := _predecessor()) is not None:
        given = _inherited(file, owner, pid[1], flock)
        held = given or hold(what, True, tell, place, flock)
        held.predecessor, held.inherited = pid[0], given is not None
        return held
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if flock is not None:
            with suppress(_NoFlock):
                return _begun(Machine(owner, _locked(file, wait, tell, flock)))
        file = file.with_name(RECORD)
        _claim(file, owner, wait, tell)
        return _begun(Machine(owner, None, file))
    except OSError as error:
        linked = error.errno == errno.ELOOP
        said = "is a symbolic link" if linked else f"cannot be used ({error.strerror or error})"
    except _NoLock as error:
        said = str(error)
    note = f"no lock on this machine, for {clean(str(file))} {said}: another sweep at the same time would go unnoticed"
    return Machine(owner, None, note=f"{note}: remove it, or name another folder in {FOLDER}")


def _begun(held: Machine) -> Machine:
    """With the moment from which it is held, which may be long after it was asked for."""
    held.told(since=time.time())
    return held


class _NoLock(Exception):
    """What lies at the lock's place cannot be one; its text says what it is."""


class _NoFlock(Exception):
    """This file system has none."""


def _predecessor() -> tuple[int, str] | None:
    """Who handed the lock on to this process, and by which descriptor; it is said once."""
    pid, _, file = os.environ.pop(HEIR, "").partition(":")
    return (int(pid), file) if re.fullmatch(r"[0-9]{1,9}", pid) else None


def _inherited(file: Path, owner: Owner, number: str, flock: Flock | None) -> Machine | None:
    """The lock by the descriptor that was handed on, None where it is none of it."""
    if flock is None or not re.fullmatch(r"[0-9]{1,9}", number):
        return None
    with suppress(OSError, _NoFlock):
        given = int(number)
        if _same(given, file) and _take(flock, given, False):
            os.set_inheritable(given, False)
            record(given, owner)
            return Machine(owner, given)
    return None


# --- by flock -------------------------------------------------------------------------------------------------------


def _locked(file: Path, wait: bool, tell: Tell, flock: Flock) -> int:
    """A descriptor that has the lock."""
    told = False
    while True:
        opened = _open(file)
        try:
            if not _take(flock, opened, False):
                if not wait:
                    raise Busy(_refusal(file, _named(opened)))
                if not told:
                    tell(_waiting(file, _named(opened)))
                    told = True
                _take(flock, opened, True)
            if _same(opened, file):
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)  # it was removed meanwhile, and another one may be there


def _take(flock: Flock, file: int, wait: bool) -> bool:
    try:
        return flock(file, wait)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            raise _NoFlock from None
        raise


_SAFE = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


def _open(file: Path) -> int:
    """The lock's file, made where it is missing, for everybody to lock and to say that they do.

    Opened without O_CREAT first: fs.protected_regular refuses that for another user's file, though it is there.
    """
    for flags in (os.O_RDWR, os.O_RDONLY):
        with suppress(FileNotFoundError, PermissionError):
            return _regular(file, os.open(file, flags | _SAFE))
    try:
        made = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o666)
    except FileExistsError:
        return _regular(file, os.open(file, os.O_RDONLY | _SAFE))
    with suppress(OSError, AttributeError):
        os.fchmod(made, 0o666)  # whatever the umask
    return made


def _regular(file: Path, opened: int) -> int:
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise _NoLock("is no file")
    return opened


def _same(opened: int, file: Path) -> bool:
    """Whether a descriptor is of the file that lies there."""
    try:
        there, mine = os.stat(file, follow_symlinks=False), os.fstat(opened)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def record(file: int, owner: Owner | None) -> None:
    """Write who holds the lock into its file, None for nobody. What is no such record stays as it is."""
    line = msgspec.json.encode(owner) + b"\n" if owner is not None else b""
    with suppress(OSError):
        if _is_ours(file):
            os.pwrite(file, line, 0)
            os.ftruncate(file, len(line))


def _is_ours(file: int) -> bool:
    """Whether a file holds such a record, or nothing, and has no other name by which it is something else."""
    status = os.fstat(file)
    return status.st_nlink == 1 and (status.st_size == 0 or _owner_in(file) is not None)


def _owner_in(file: int) -> Owner | None:
    try:
        return _decoded(os.pread(file, LONGEST, 0))
    except OSError:
        return None


def _decoded(content: bytes) -> Owner | None:
    try:
        return msgspec.json.decode(content.partition(b"\n")[0], type=Owner)
    except (ValueError, RecursionError):
        return None


def _named(file: int) -> Owner | None:
    """Who has the lock, as far as its file says so: a record of the past names nobody."""
    owner = _owner_in(file)
    return owner if owner is not None and owner.lives else None


def _waiting(place: Path, owner: Owner | None) -> str:
    who = f"somebody who holds {clean(str(place))}" if owner is None else owner.words
    return f"waiting for {who} to end: two sweeps would measure each other"


def _refusal(place: Path, owner: Owner | None) -> str:
    """Why the machine cannot be had, and the ways out."""
    what = "this machine is being measured already, and two sweeps would measure each other:"
    if owner is None:
        return f"{what} somebody holds {clean(str(place))}: --wait waits for its end"
    if not owner.session:
        return f"{what} {owner.words}: --wait waits for its end"
    folder = clean(owner.session, 400)
    return f"{what} {owner.words}, in {folder}: `quanttui attach {folder}` watches it, --wait waits for its end"


# --- without flock --------------------------------------------------------------------------------------------------


def _claim(file: Path, owner: Owner, wait: bool, tell: Tell) -> None:
    """Make the record, once there is none of a process that lives."""
    told = False
    while not _made(file, owner):
        held = _recorded(file)
        if held is None and file.exists():
            raise _NoLock("is no record of a process")
        if held is None:
            continue
        if not held.lives:
            _clear(file, held)
            continue
        if not wait:
            raise Busy(_refusal(file, held))
        if not told:
            tell(_waiting(file, held))
            told = True
        threading.Event().wait(LOOK_SECONDS)


def _made(file: Path, owner: Owner) -> bool:
    """Whether the record could be made where none was: it appears whole."""
    temporary = _written(file, owner)
    try:
        os.link(temporary, file)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _written(file: Path, owner: Owner) -> Path:
    handle, name = tempfile.mkstemp(prefix=f"{RECORD}.", dir=file.parent)
    with open(handle, "wb") as out:
        out.write(msgspec.json.encode(owner) + b"\n")
    os.chmod(name, 0o644)
    return Path(name)


def _recorded(file: Path) -> Owner | None:
    try:
        with open(os.open(file, os.O_RDONLY | _SAFE), "rb") as there:
            return _decoded(there.read(LONGEST))
    except OSError:
        return None


def _clear(file: Path, dead: Owner) -> None:
    """Take a dead process's record away. Only who has made the mark beside it may, so that nobody takes away what
    another one has put there meanwhile."""
    mark = file.with_name(f"{RECORD}.clearing")
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600))
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - mark.lstat().st_mtime > CLEARING_SECONDS:
                mark.unlink()
        threading.Event().wait(CLEARING_SECONDS / 1000)
        return
    try:
        if _recorded(file) == dead:
            file.unlink(missing_ok=True)
    finally:
        mark.unlink(missing_ok=True)


# --- a session's log ------------------------------------------------------------------------------------------------


def writer(folder: Path, fresh: bool = False, flock: Flock | None = FLOCK) -> int:
    """A descriptor that keeps a session's log to this process until it is closed. Where there is no flock it keeps
    nothing: there the log alone says whether its writer lives.

    Args:
        fresh: nothing may stand in the log yet, as of a session that was just made.

    Raises:
        UserError: another process has it, it holds something, or there is no log to write.
    """
    where = clean(str(folder))
    try:
        file = os.open(folder / session.EVENTS, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise UserError(f"{where}: its log cannot be written ({error.strerror})") from None
    try:
        with suppress(_NoFlock):
            if flock is not None and not _take(flock, file, False):
                raise UserError(f"{where}: another process is writing it: `quanttui attach {where}` watches it")
        if fresh and b"\n" in os.read(file, LONGEST):
            raise UserError(f"{where}: holds a session already: give another --session")
        return file
    except BaseException:
        os.close(file)
        raise
