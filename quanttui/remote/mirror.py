"""The near end: a folder that follows a session of another machine, for screens that know nothing of it.

A thread of its own starts ssh, appends what the relay sends to the folder's log, carries the requests that viewers left
there, and begins again where the connection is lost. What it writes is whole lines from where the folder ends: nothing
twice, nothing torn. The screen reads files and `link`, and waits for neither.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from quanttui import paths, session
from quanttui.errors import UserError
from quanttui.format import clean, duration
from quanttui.remote import wire
from quanttui.remote.target import Target, command

CONNECTED, RECONNECTING, ENDED = "connected", "reconnecting", "ended"

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before each further attempt to connect; the last one again and again."""

SILENCE = 30.0
"""Seconds without a byte after which a connection counts as lost: a relay has a word a second."""

POLL = 0.25
"""Seconds between looks for requests."""

LAGS = 5.0
"""Seconds behind that are worth a word."""

_LEAVING = 1.0
_BLOCK = 1 << 16
_PIECE = 1 << 26
_NO_PASSWORD = (
    "ssh may not ask under the screen: an agent (ssh-add), or ControlMaster auto with ControlPersist in ~/.ssh/config, "
    "lets it connect again"
)


class Link(msgspec.Struct, frozen=True):
    """How things stand with the other machine.

    status: connected, reconnecting, ended. why: what became of the connection, or nothing. seconds: in this status.
    alive: whether the writer ran there at its last word. behind: seconds since the mirror held all that was there, None
    before it ever did. share: of the log that is here, while it is first fetched.
    """

    host: str
    status: str
    why: str
    seconds: float
    alive: bool | None
    behind: float | None
    share: float

    @property
    def words(self) -> str:
        """For a status line."""
        if self.status == RECONNECTING:
            return f"{self.host}: reconnecting for {duration(self.seconds)}: {self.why}"
        if self.status == ENDED:
            return f"{self.host}: {self.why}"
        if self.behind is None:
            return f"{self.host}: fetching, {self.share:.0%} here"
        return f"{self.host}: {duration(self.behind)} behind" if self.behind >= LAGS else f"{self.host}: connected"


class Broken(Exception):
    """The connection came to an end. `again`: another one may do better."""

    def __init__(self, why: str, again: bool = True) -> None:
        super().__init__(why)
        self.why, self.again = why, again


class Connection:
    """One run of ssh. One thread reads from it; `send`, `finish`, `give_up` and `kill` may be called from another.

    `heard`: when the last byte came, on the monotonic clock. `begun`: the relay listens. `sent`, `owed`: up to where in
    the mirror's control.jsonl requests were looked at, and where the last one ends that is to be confirmed.

    Args:
        words: the command.
        ask: it may use this terminal, and what it says while it waits goes to `tell`.

    Raises:
        Broken: there is no such program.
    """

    def __init__(self, words: Sequence[str], ask: bool = False, tell: Callable[[str], object] | None = None) -> None:
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=not ask
            )
        except OSError as error:
            raise Broken(
                f"{clean(words[0])} cannot be started ({error.strerror}): install the OpenSSH client", again=False
            ) from None
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self._err: IO[bytes] = self._process.stderr
        self._buffer = bytearray()
        self._asks, self._silent = ask, False
        self.heard = time.monotonic()
        self.begun = False
        self.sent = self.owed = 0
        self._said: deque[str] = deque(maxlen=20)
        self._settled = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(tell,), name="ssh stderr", daemon=True)
        self._listener.start()

    def _listen(self, tell: Callable[[str], object] | None) -> None:
        """Keep what ssh says; tell it to the person where ssh then waits for something."""
        with suppress(OSError, ValueError):
            for line in self._err:
                said = clean(line.decode("utf-8", "replace"), 200)
                if said:
                    self._said.append(said)
                if said and tell is not None and not self._settled.wait(_LEAVING):
                    tell(said)

    def hello(self) -> wire.Hello:
        """The relay's first word. What a login prints before it is left out.

        Raises:
            Broken: the connection ended first, or it is another version's.
        """
        while True:
            line = self.line()
            if line.startswith(wire.MARK):
                break
        self._settled.set()
        try:
            said = wire.of_relay(line)
        except ValueError:
            said = None
        if not isinstance(said, wire.Hello) or said.protocol != wire.PROTOCOL:
            raise Broken("quanttui is of another version there: install the same one on both machines", again=False)
        return said

    def messages(self) -> Iterator[tuple[wire.RelaySays, bytes]]:
        """What the relay says, each piece with its bytes.

        Raises:
            Broken: the connection ended, or holds what no relay says.
        """
        while True:
            line = self.line()
            try:
                said = wire.of_relay(line)
            except ValueError:
                raise Broken("the connection is garbled") from None
            if isinstance(said, wire.Piece) and not 0 < said.size <= _PIECE:
                raise Broken("the connection is garbled")
            yield said, self._take(said.size) if isinstance(said, wire.Piece) else b""

    def line(self) -> bytes:
        """The next line, without its end."""
        begin = 0
        while (end := self._buffer.find(b"\n", begin)) < 0:
            begin = len(self._buffer)
            if begin > wire.LINE:
                raise Broken("the connection is garbled")
            self._more()
        line = self._take(end + 1)
        return line[:-1]

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> None:
        try:
            block = os.read(self._out.fileno(), _BLOCK)
        except (OSError, ValueError):
            block = b""
        if not block:
            raise self._ended()
        self.heard = time.monotonic()
        self._buffer += block

    def _ended(self) -> Broken:
        self._settled.set()
        with suppress(OSError):
            self._in.close()
        try:
            code = self._process.wait(timeout=_LEAVING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        # A master connection that ssh left behind holds stderr open for as long as it likes.
        self._listener.join(timeout=_LEAVING / 2)
        if self._silent:
            return Broken("no word comes any more")
        return Broken(*reason(code, tuple(self._said), self._asks))

    def send(self, message: wire.FromMirror) -> None:
        """What cannot be sent is no error here: whoever reads is told that the connection ended."""
        with suppress(OSError, ValueError):
            self._in.write(wire.encode(message))
            self._in.flush()

    def begin(self, asked: int) -> None:
        """The relay listens, and has confirmed requests up to `asked`."""
        self.sent = self.owed = asked
        self.begun = True

    def finish(self) -> None:
        """Say no more: the relay ends."""
        with suppress(OSError, ValueError):
            self._in.close()

    def give_up(self) -> None:
        """End it because it has been silent for too long."""
        self._silent = True
        self.kill()

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Leave no zombie."""
        self.finish()
        self.kill()
        self._process.wait()
        self._out.close()
        self._listener.join(timeout=_LEAVING / 2)
        if not self._listener.is_alive():
            self._err.close()


def reason(code: int, said: Sequence[str], asked: bool = False) -> tuple[str, bool]:
    """Why a connection ended, in one line, and whether to try again.

    Args:
        code: ssh's exit code: 255 is its own failure, anything else the remote command's.
        said: the last lines of its stderr.
        asked: it could ask for a password.
    """
    last = said[-1] if said else ""
    ours = next((line[len("quanttui: ") :] for line in reversed(said) if line.startswith("quanttui: ")), "")
    if code == 127 or ours == "not found":
        return "quanttui was not found there: install it there, or say what it is called with --remote-command", False
    if "relay" in ours and "no command" in ours:
        return "quanttui is too old there: install this version on both machines", False
    if code == 2 and ours:
        return ours, False
    if code == 255 and "Permission denied" in last:
        return last if asked else f"{last}: {_NO_PASSWORD}", False
    if code == 255 and ("Host key verification failed" in last or "HOST IDENTIFICATION HAS CHANGED" in " ".join(said)):
        return f"{last}: `ssh` to it once by hand says more", False
    return last or ("the connection was lost" if code else "the relay ended"), True


class Store:
    """The folder of a mirror: a log that grows by whole lines, and where it comes from. One process writes to it.

    Args:
        folder: made where it is missing.
        host: as `attach` names it.
        hello: the session's.

    Raises:
        BlockingIOError: another process writes to it.
        ValueError: it mirrors another session.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, host: str, hello: wire.Hello) -> None:
        paths.made(folder)
        self.folder = folder
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _hold(self._lock)
            known = session.origin(folder)
            self._file = os.open(folder / session.EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self.size = _whole(self._file)
            if (known and known.key != hello.key) or (not known and self.size) or self.size > hello.size:
                os.close(self._file)
                raise ValueError(folder)
        except (OSError, ValueError):
            os.close(self._lock)
            raise
        # What a viewer of another day asked for, and could not deliver, is not asked any more.
        self.asked = _size(folder / session.CONTROL)
        self.origin = session.Origin(host, hello.session, hello.folder, hello.key, hello.alive, hello.wall, self.asked)
        self.note(hello.alive, hello.wall)

    def append(self, lines: bytes) -> None:
        """Add whole lines to the log.

        Raises:
            OSError: there is no room; the log is left as it was.
        """
        written = os.write(self._file, lines)
        if written != len(lines):
            os.ftruncate(self._file, self.size)
            raise OSError(28, os.strerror(28))
        self.size += written

    def note(self, alive: bool, wall: float) -> None:
        """Have remote.json say what holds now."""
        self.origin = msgspec.structs.replace(self.origin, alive=alive, wall=wall, asked=self.asked)
        new = self.folder / (session.REMOTE + ".new")
        paths.write(new, msgspec.json.encode(self.origin) + b"\n")
        os.replace(new, self.folder / session.REMOTE)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)


def _hold(file: int) -> None:
    """Lock a file as long as this process has it open.

    Raises:
        BlockingIOError: another one has.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _whole(file: int) -> int:
    """Cut off a line that was torn when this machine went down; returns the size."""
    end = os.fstat(file).st_size
    at = end
    while at > 0:
        begin = max(0, at - _BLOCK)
        found = os.pread(file, at - begin, begin).rfind(b"\n")
        if found >= 0:
            at = begin + found + 1
            break
        at = begin
    if at != end:
        os.ftruncate(file, at)
    return at


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def store(cache: Path, target: Target, hello: wire.Hello) -> Store:
    """The mirror folder of a session, `<cache>/remote/<host>/<session>`, with a number where another viewer or another
    session of that name has it.

    Raises:
        UserError: it cannot be written.
    """
    above = cache / "remote" / _name(target.destination)
    name, number = _name(hello.session), 1
    while True:
        folder = above / (name if number == 1 else f"{name}-{number}")
        try:
            return Store(folder, target.host, hello)
        except (BlockingIOError, ValueError):
            number += 1
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}): cache_dir in config.toml names another place"
            ) from None


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.@+-]", "_", text)[:100].lstrip(".") or "session"


class Mirror(threading.Thread):
    """Keeps `folder` like a session on another machine. Made by `connect`; `start` it, and `stop` it at the end.

    Args:
        target: what was asked for.
        connection: one whose relay has said hello.
        again: makes another connection, without asking anybody.
        pauses, silence: seconds: see PAUSES and SILENCE.
    """

    def __init__(
        self,
        target: Target,
        connection: Connection,
        hello: wire.Hello,
        kept: Store,
        again: Callable[[Target], Connection],
        pauses: Sequence[float] = PAUSES,
        silence: float = SILENCE,
    ) -> None:
        super().__init__(name="mirror", daemon=True)
        # From now on it is this very session that is wanted, whatever becomes the latest there.
        self._target = msgspec.structs.replace(target, session=hello.folder)
        self._connection: Connection | None = connection
        self._kept, self._again = kept, again
        self._pauses, self._silence = pauses, silence
        self._via, self._goal = secrets.token_hex(8), hello.size
        self._status, self._why, self._since = CONNECTED, "", time.monotonic()
        self._alive, self._over = hello.alive, False
        self._failures = 0
        self._complete: float | None = None
        self._leaving, self._wanted = threading.Event(), threading.Event()
        self.fetched = threading.Event()
        """Set once the mirror holds all that was there, or will not come to."""

    @property
    def folder(self) -> Path:
        """The mirror: a session's folder."""
        return self._kept.folder

    @property
    def link(self) -> Link:
        """How things stand."""
        now, complete = time.monotonic(), self._complete
        return Link(
            host=self._target.host,
            status=self._status,
            why=self._why,
            seconds=now - self._since,
            alive=self._alive,
            behind=None if complete is None else now - complete,
            share=min(1.0, self._kept.size / self._goal),
        )

    def stop(self) -> None:
        """End the connection; what was asked for last still goes out, where that is a matter of a moment."""
        self._leaving.set()
        self._wanted.set()
        self.join(timeout=_LEAVING)
        connection = self._connection
        if connection is not None:
            connection.kill()
        self.join(timeout=_LEAVING)

    def run(self) -> None:
        tender = threading.Thread(target=self._tend, name="mirror requests", daemon=True)
        tender.start()
        try:
            self._live()
        except OSError as error:
            self._stand(ENDED, f"{error.filename or self.folder}: {error.strerror}")
        finally:
            self._leaving.set()
            self.fetched.set()
            tender.join()
            if self._connection is not None:
                self._connection.close()
            self._kept.close()

    def _live(self) -> None:
        """Follow, connection after connection, until there is no point in another one."""
        while not self._leaving.is_set():
            try:
                if self._connection is None:
                    self._connection = self._again(self._target)
                    self._greet(self._connection)
                self._follow(self._connection)
            except Broken as broken:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if not broken.again:
                    self._stand(ENDED, broken.why)
                    return
                self._rest(broken.why)

    def _rest(self, why: str) -> None:
        """Wait for the right moment to connect again: of a session that is over, until somebody asks for something."""
        if self._over:
            self._wanted.wait()
        else:
            self._stand(RECONNECTING, why)
        if not self._over or self._failures:
            self._leaving.wait(self._pauses[min(self._failures, len(self._pauses) - 1)])
        self._failures += 1

    def _greet(self, connection: Connection) -> None:
        """Make sure that the other end still has the session that the mirror is of."""
        if self._leaving.is_set():
            connection.kill()
        hello = connection.hello()
        if hello.key != self._kept.origin.key or hello.size < self._kept.size:
            raise Broken("another session has its place there now: attach again to watch that", again=False)

    def _follow(self, connection: Connection) -> None:
        """Take what one connection brings.

        Raises:
            Broken: it ended.
        """
        connection.send(wire.From(offset=self._kept.size))
        connection.begin(self._kept.asked)
        if not self._over:
            self._stand(CONNECTED)
        for said, lines in connection.messages():
            if isinstance(said, wire.Piece):
                if said.offset != self._kept.size or said.crc != zlib.crc32(lines) or lines[-1:] != b"\n":
                    raise Broken("the connection is garbled")
                self._kept.append(lines)
            elif isinstance(said, wire.Beat):
                self._heard(said)
            elif isinstance(said, wire.Took) and said.at > self._kept.asked:
                self._kept.asked = said.at
                self._kept.note(self._alive, time.time())

    def _heard(self, beat: wire.Beat) -> None:
        self._failures = 0
        if beat.alive != self._kept.origin.alive:
            self._kept.note(beat.alive, beat.wall)
        self._alive = beat.alive
        if beat.whole:
            self._complete = time.monotonic()
            self.fetched.set()
        self._over = beat.over
        if beat.over:
            self._stand(ENDED, "the session is over")

    def _stand(self, status: str, why: str = "") -> None:
        if status != self._status:
            self._since = time.monotonic()
        self._status, self._why = status, why
        if status == ENDED:
            self.fetched.set()

    def _tend(self) -> None:
        """Carry requests, notice silence, and say goodbye."""
        while not self._leaving.wait(POLL):
            self._look()
        self._look()
        connection = self._connection
        if connection is not None and connection.begun:
            connection.finish()
        elif connection is not None:
            connection.kill()
        self._wanted.set()

    def _look(self) -> None:
        connection, asked = self._connection, self._kept.asked
        if connection is None:
            if self._over and any(not one.refused for one in session.requests(self.folder, asked)):
                self._wanted.set()
            return
        self._wanted.clear()
        if time.monotonic() - connection.heard > self._silence:
            connection.give_up()
        if connection.begun:
            for one in session.requests(self.folder, connection.sent):
                connection.sent = one.offset
                if not one.refused:
                    connection.owed = one.offset
                    via = f"{self._via}:{one.offset}"
                    connection.send(wire.Ask(at=one.offset, via=via, request=one.request, arm=one.arm, value=one.value))
            if self._over and self._kept.asked >= connection.owed:
                connection.finish()


def connect(
    target: Target,
    cache: Path,
    program: str = "",
    remote: str = "",
    terminal: bool = False,
    tell: Callable[[str], object] | None = None,
    pauses: Sequence[float] = PAUSES,
    silence: float = SILENCE,
) -> Mirror:
    """A mirror of a session on another machine, connected, not started yet. Call it before the screen is up.

    Args:
        cache: mirrors lie in `remote/` there.
        program: what to run for ssh.
        remote: what quanttui is called there.
        terminal: ssh may ask for a password now.
        tell: is given what ssh says where it then waits for the person.

    Raises:
        UserError: no ssh, no such host, no quanttui or no session there, or no place for the mirror.
    """
    program = program or os.environ.get("QUANTTUI_TEST_SSH") or "ssh"
    try:
        connection = Connection(command(target, program, remote, terminal), terminal, tell)
        try:
            hello = connection.hello()
            kept = store(cache, target, hello)
        except BaseException:
            connection.close()
            raise
    except Broken as broken:
        raise UserError(f"{target.destination}: {broken.why}") from None

    def again(there: Target) -> Connection:
        return Connection(command(there, program, remote))

    return Mirror(target, connection, hello, kept, again, pauses, silence)
