"""A session of another machine in a folder here: what ssh does to the bytes changes nothing about them.

`ssh` is a script that runs the remote command on this machine and cuts, stalls or garbles the connection as told.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session
from quanttui.errors import UserError
from quanttui.remote import mirror, relay, target, wire
from quanttui.remote.mirror import CONNECTED, ENDED, RECONNECTING, Mirror
from quanttui.remote.target import Target

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the script stands in for ssh on POSIX")

LONG = 20.0
ROOT = Path(__file__).resolve().parents[1]

SSH = """\
#!{python}
import json, os, subprocess, sys, threading, time

place = {place!r}
with open(place + "/calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
plans = sorted(name for name in os.listdir(place) if name.startswith("plan."))
plan = {{}}
if plans:
    with open(os.path.join(place, plans[0])) as file:
        plan = json.load(file)
    if not plan.get("again"):
        os.unlink(os.path.join(place, plans[0]))
if "fail" in plan:
    sys.stderr.write(plan["say"] + "\\n")
    sys.exit(plan["fail"])
if "prompt" in plan:
    sys.stderr.write(plan["prompt"] + "\\n")
    sys.stderr.flush()
    while not os.path.exists(place + "/answered"):
        time.sleep(0.05)
child = subprocess.Popen(["sh", "-c", sys.argv[-1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def pump():
    while block := os.read(0, 65536):
        child.stdin.write(block)
        child.stdin.flush()
    child.stdin.close()


threading.Thread(target=pump, daemon=True).start()
sys.stdout.buffer.write(plan.get("motd", "").encode())
sent = 0
while block := os.read(child.stdout.fileno(), 4096):
    cut = plan.get("cut", plan.get("stall"))
    if "lose" in plan and plan["lose"].encode() in block:
        child.kill()
        sys.exit(255)
    if cut is not None and sent + len(block) > cut:
        block = block[: cut - sent]
    if "garble" in plan and sent <= plan["garble"] < sent + len(block):
        block = block[: plan["garble"] - sent] + b"\\0\\n?" + block[plan["garble"] - sent + 3 :]
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    sent += len(block)
    if sent == cut:
        if "stall" in plan:
            time.sleep(600)
        child.kill()
        sys.exit(255)
sys.exit(child.wait() if child.poll() is None or child.returncode >= 0 else 255)
"""

QUANTTUI = """\
import sys
from pathlib import Path
from quanttui import session
from quanttui.errors import UserError
from quanttui.remote import relay
try:
    assert sys.argv[1] == "relay"
    relay.run(session.find(Path({sessions!r}), sys.argv[2] if sys.argv[2:] else None))
except UserError as error:
    print(f"quanttui: {{error}}", file=sys.stderr)
    sys.exit(2)
"""


@dataclass
class Far:
    """The other machine: its sessions, the ssh that leads there, and the mirrors that were made of them."""

    place: Path
    plans: int = 0
    opened: list[Mirror] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sessions.mkdir()
        self.ssh.write_text(SSH.format(python=sys.executable, place=str(self.place)))
        self.ssh.chmod(0o755)
        (self.place / "far.py").write_text(QUANTTUI.format(sessions=str(self.sessions)))

    @property
    def sessions(self) -> Path:
        return self.place / "sessions"

    @property
    def ssh(self) -> Path:
        return self.place / "ssh"

    @property
    def quanttui(self) -> str:
        return f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.join([sys.executable, str(self.place / 'far.py')])}"

    def plan(self, **what: object) -> None:
        """What becomes of the next connection that has no plan yet."""
        self.plans += 1
        (self.place / f"plan.{self.plans:02}").write_text(json.dumps(what))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.place / "calls").read_text().splitlines()]

    def attach(self, name: str = "", silence: float = LONG, start: bool = True) -> Mirror:
        made = mirror.connect(
            Target("far", session=name),
            self.place / "cache",
            program=str(self.ssh),
            remote=self.quanttui,
            pauses=(0.05,),
            silence=silence,
        )
        self.opened.append(made)
        if start:
            made.start()
        return made


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    made = Far(tmp_path)
    yield made
    for one in made.opened:
        if one.is_alive():
            one.stop()
        assert not one.is_alive()


def opened(folder: Path, wall: float = 1.7e9) -> session.Writer:
    """A session that this process writes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / session.EVENTS).touch()
    writer = session.Writer(folder)
    me = psutil.Process()
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA, model="m", host=e.Host(name="far", os="o", cpu="c", cores=2, threads=2, memory=2**34),
            build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False),
            settings=e.Settings(threads=2), plan=(e.PlannedArm(id="A", quant="Q8_0"),), wall=wall,
            origin_ns=writer.origin_ns, pid=me.pid, pid_started=me.create_time(),
        )
    )  # fmt: skip
    return writer


def fill(writer: session.Writer, count: int, width: int = 40) -> None:
    for index in range(count):
        writer.append(e.Sample(readings={f"r{index}": 1.5, "x" * width: 2.0}))


def until(true: Callable[[], object], what: str = "") -> None:
    """Wait for something that another thread or process is to do."""
    pause, end = threading.Event(), time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end, what or "not seen in time"
        pause.wait(0.01)


def log(folder: Path) -> bytes:
    return (folder / session.EVENTS).read_bytes()


# --- following ------------------------------------------------------------------------------------------------------


def test_a_mirror_holds_the_same_bytes_from_the_first_line_to_the_end_of_the_session(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 3000, width=200)
    made = far.attach()
    assert made.fetched.wait(LONG)
    fill(writer, 5)
    until(lambda: log(made.folder) == log(writer.folder))
    assert made.link.status == CONNECTED and made.link.alive
    writer.append(e.SessionClosed(outcome="ok"))
    writer.close()
    until(lambda: made.link.status == ENDED)
    assert log(made.folder) == log(writer.folder)
    assert session.status(session.load(made.folder), made.folder) == "done"


@pytest.mark.parametrize("cut", [1, 40, 400, 66_000])
def test_a_connection_killed_amid_a_line_neither_tears_nor_doubles_one(far: Far, cut: int) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 2000)
    begin = len(wire.encode(relay.hello(writer.folder, relay.Log(writer.folder))))
    far.plan(cut=begin + cut)
    far.plan(cut=begin + cut + 150)
    far.plan(fail=255, say="ssh: connect to host far port 22: No route to host")
    made = far.attach()
    fill(writer, 10)
    writer.append(e.SessionClosed(outcome="ok"))
    writer.close()
    until(lambda: made.link.status == ENDED)
    assert log(made.folder) == log(writer.folder)


def test_a_later_connection_sends_only_what_is_missing(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 2000)
    made = far.attach()
    assert made.fetched.wait(LONG)
    made.stop()
    fill(writer, 3)
    far.plan(stall=4000)  # a hundredth of the log
    again = far.attach()
    assert again.folder == made.folder
    until(lambda: log(again.folder) == log(writer.folder))


def test_a_garbled_connection_is_given_up_and_what_it_said_is_not_kept(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 50)
    begin = len(wire.encode(relay.hello(writer.folder, relay.Log(writer.folder))))
    for at in (begin + 5, begin + 12, begin + 200, begin + 3000):
        far.plan(garble=at)
    made = far.attach()
    writer.append(e.SessionClosed(outcome="ok"))
    until(lambda: made.link.status == ENDED)
    assert log(made.folder) == log(writer.folder)
    assert len(far.calls()) == 5


def test_what_a_login_prints_before_the_relay_is_left_out(far: Far) -> None:
    writer = opened(far.sessions / "one")
    far.plan(motd="Welcome!\n{not json\n" * 50)
    made = far.attach()
    assert made.fetched.wait(LONG)
    assert log(made.folder) == log(writer.folder)


def test_a_connection_that_falls_silent_is_replaced(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 500)
    far.plan(stall=9000)
    made = far.attach(silence=1.5)
    until(lambda: log(made.folder) == log(writer.folder))
    assert len(far.calls()) >= 2


def test_a_stalled_connection_holds_up_neither_the_screen_nor_the_writer(far: Far) -> None:
    writer = opened(far.sessions / "one")
    far.plan(stall=300)
    made = far.attach()
    begun = time.monotonic()
    fill(writer, 20_000)  # far more than a pipe holds
    assert made.link.status == CONNECTED and made.link.behind is None
    session.request(made.folder, "stop")
    made.stop()
    assert not made.is_alive() and time.monotonic() - begun < LONG


def test_a_lost_connection_says_why_and_since_when(far: Far) -> None:
    opened(far.sessions / "one")
    far.plan(cut=800)
    far.plan(fail=255, say="ssh: connect to host far port 22: Connection \x1b[31mrefused", again=True)
    made = far.attach()
    until(lambda: "refused" in made.link.words)
    assert made.link.status == RECONNECTING
    assert "\x1b" not in made.link.words and made.link.words.startswith("far: reconnecting")


def test_a_password_is_not_tried_for_again_and_again(far: Far) -> None:
    opened(far.sessions / "one")
    far.plan(cut=800)
    far.plan(fail=255, say="me@far: Permission denied (publickey,password).", again=True)
    made = far.attach()
    until(lambda: not made.is_alive())
    assert made.link.status == ENDED and "ControlMaster" in made.link.why
    assert len(far.calls()) == 2


def test_what_ssh_waits_for_before_the_screen_is_up_is_told_and_an_ordinary_line_is_not(far: Far) -> None:
    opened(far.sessions / "one")
    told: list[str] = []

    def answer(said: str) -> None:
        told.append(said)
        (far.place / "answered").touch()

    def attach() -> Mirror:
        made = mirror.connect(
            Target("far"), far.place / "cache", str(far.ssh), far.quanttui, terminal=True, tell=answer
        )
        far.opened.append(made)
        made.start()
        return made

    far.plan(prompt="Confirm user presence for key \x1b[31mED25519")
    attach()
    assert told == ["Confirm user presence for key [31mED25519"]
    far.plan(prompt="a banner")
    attach()
    assert len(told) == 1
    assert "BatchMode=yes" not in far.calls()[0] and "BatchMode=yes" in target.command(Target("far"))


# --- whose session it is --------------------------------------------------------------------------------------------


def test_another_session_of_the_same_name_has_another_mirror(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 30)
    first = far.attach()
    assert first.fetched.wait(LONG)
    kept = log(first.folder)
    first.stop()
    (far.sessions / "one" / session.EVENTS).unlink()
    writer = opened(far.sessions / "one", wall=1.8e9)
    fill(writer, 90)
    second = far.attach()
    assert second.fetched.wait(LONG)
    assert second.folder != first.folder
    assert log(first.folder) == kept and log(second.folder) == log(writer.folder)


def test_a_session_replaced_amid_the_watching_ends_its_mirror_as_it_was(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 30)
    made = far.attach()
    assert made.fetched.wait(LONG) and made._connection is not None
    kept = log(made.folder)
    (far.sessions / "one" / session.EVENTS).unlink()
    opened(far.sessions / "one", wall=1.8e9)
    made._connection.kill()
    until(lambda: made.link.status == ENDED)
    assert "another session" in made.link.why and log(made.folder) == kept


def test_a_mirror_stays_with_its_session_when_a_newer_one_begins(far: Far) -> None:
    writer = opened(far.sessions / "one")
    far.plan(cut=1000)
    made = far.attach()
    opened(far.sessions / "two")
    fill(writer, 50)
    until(lambda: log(made.folder) == log(writer.folder))
    assert made.folder.name == "one"


def test_two_viewers_of_one_session_have_a_mirror_each(far: Far) -> None:
    writer = opened(far.sessions / "one")
    first, second = far.attach(), far.attach()
    fill(writer, 20)
    until(lambda: log(first.folder) == log(second.folder) == log(writer.folder))
    assert first.folder != second.folder


def test_a_line_torn_when_this_machine_went_down_is_fetched_again(far: Far) -> None:
    writer = opened(far.sessions / "one")
    fill(writer, 20)
    made = far.attach()
    assert made.fetched.wait(LONG)
    made.stop()
    whole = log(made.folder)
    (made.folder / session.EVENTS).write_bytes(whole[:-17])
    again = far.attach()
    until(lambda: log(again.folder) == whole)


def test_the_writer_of_a_mirror_lives_where_it_was_said_to_whatever_runs_here(far: Far) -> None:
    writer = opened(far.sessions / "one")
    made = far.attach()
    assert made.fetched.wait(LONG)
    state = session.load(made.folder)
    assert session.status(state, made.folder) == "running"
    state.writer = (2**22 + 1, 0.0)  # a number that no process has here
    assert session.status(state) == "interrupted"
    assert session.status(state, made.folder) == "running"
    writer.append(e.SessionClosed(outcome="interrupted"))
    until(lambda: made.link.alive is False)
    assert session.status(state, made.folder) == "interrupted"
    assert made.link.status == CONNECTED


def test_a_writer_lives_on_where_the_clock_was_set(far: Far) -> None:
    """Linux reckons a process's beginning from the clock: that is another time then, and the log goes on growing."""
    writer = opened(far.sessions / "one")
    first, me = writer.state.opened, psutil.Process()
    assert first is not None
    writer.append(
        e.SessionResumed(
            host=first.host, build=first.build, settings=first.settings, plan=first.plan, wall=1.71e9,
            origin_ns=0, pid=me.pid, pid_started=me.create_time() + 3600.0,
        )
    )  # fmt: skip
    assert far.attach().link.alive is True


def test_a_session_handed_over_to_another_process_is_followed_on(far: Far) -> None:
    writer = opened(far.sessions / "one")
    made = far.attach()
    writer.append(e.SessionClosed(outcome="interrupted"))
    until(lambda: made.link.alive is False)
    me, first = psutil.Process(), writer.state.opened
    assert first is not None
    writer.append(
        e.SessionResumed(
            host=first.host, build=first.build, settings=first.settings, plan=first.plan, wall=1.71e9,
            origin_ns=0, pid=me.pid, pid_started=me.create_time(),
        )
    )  # fmt: skip
    until(lambda: made.link.alive is True)
    again = far.attach()
    assert again.link.alive is True


# --- requests -------------------------------------------------------------------------------------------------------


def asked(folder: Path) -> list[tuple[str, str, str]]:
    return [(one.request, one.arm, one.value) for one in session.requests(folder, 0)]


def test_a_request_is_carried_over_once_though_its_answer_was_lost(far: Far) -> None:
    writer = opened(far.sessions / "one")
    far.plan(lose='"relay":"took"')
    made = far.attach()
    assert made.fetched.wait(LONG)
    session.request(made.folder, "tolerance", "A", "2.5")
    until(lambda: made._kept.asked == os.path.getsize(made.folder / session.CONTROL))
    assert len(far.calls()) == 2
    assert asked(writer.folder) == [("tolerance", "A", "2.5")]
    session.request(made.folder, "tolerance", "A", "2.5")
    until(lambda: len(asked(writer.folder)) == 2)


def test_a_request_left_in_the_last_moment_or_after_the_end_goes_out(far: Far) -> None:
    writer = opened(far.sessions / "one")
    made = far.attach()
    assert made.fetched.wait(LONG)
    session.request(made.folder, "skip", "A")
    made.stop()
    assert asked(writer.folder) == [("skip", "A", "")]
    made = far.attach()
    writer.append(e.SessionClosed(outcome="ok"))
    until(lambda: made.link.status == ENDED and made._connection is None)
    session.request(made.folder, "rerun", "A")
    until(lambda: len(asked(writer.folder)) == 2)
    assert made.link.status == ENDED


def test_a_request_that_another_day_could_not_deliver_is_not_delivered_today(far: Far) -> None:
    writer = opened(far.sessions / "one")
    made = far.attach()
    made.stop()
    session.request(made.folder, "stop")
    made = far.attach()
    session.request(made.folder, "skip", "A")
    until(lambda: asked(writer.folder))
    assert asked(writer.folder) == [("skip", "A", "")]


def test_what_is_no_request_is_not_carried(far: Far) -> None:
    writer = opened(far.sessions / "one")
    made = far.attach()
    assert made.fetched.wait(LONG)
    with open(made.folder / session.CONTROL, "ab") as file:
        file.write(b'rm -rf /\n{"request": 7}\n\xff\xfe\n')
    session.request(made.folder, "sk\x1bip", "A\nB")
    until(lambda: asked(writer.folder))
    assert asked(writer.folder) == [("sk ip", "A B", "")]


# --- what goes wrong at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (255, "ssh: Could not resolve hostname far: Name or service not known", "Could not resolve"),
        (127, "quanttui: not found", "not found there"),
        (127, "bash: line 1: nonsuch: command not found", "not found there"),
        (2, "quanttui: relay: is no command: did you mean replay?", "too old there"),
        (2, "quanttui: nosuch: is no session: `quanttui sessions` lists those in /x", "is no session"),
        (1, "Traceback ...\nImportError: no", "ImportError"),
    ],
)
def test_what_cannot_be_attached_to_is_said_in_one_line(far: Far, code: int, said: str, told: str) -> None:
    far.plan(fail=code, say=said)
    with pytest.raises(UserError, match=told) as failed:
        far.attach(start=False)
    assert "\n" not in str(failed.value) and str(failed.value).startswith("far: ")


def test_a_missing_ssh_or_session_and_another_version_are_said_in_one_line(far: Far, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="OpenSSH client"):
        mirror.connect(Target("far"), tmp_path, program=str(tmp_path / "none"))
    with pytest.raises(UserError, match="holds no session yet"):
        far.attach()
    (far.sessions / "empty").mkdir()
    (far.sessions / "empty" / session.EVENTS).touch()
    with pytest.raises(UserError, match="nothing is recorded there yet"):
        far.attach()
    hello = wire.Hello(protocol=99, session="s", folder="/s", key="k", size=1, alive=True, wall=0.0)
    with pytest.raises(UserError, match="another version"):
        mirror.connect(
            Target("far"), tmp_path, str(far.ssh), remote=f"echo {shlex.quote(wire.encode(hello).decode())};:"
        )


def test_the_command_finds_quanttui_without_a_login_shell(tmp_path: Path) -> None:
    """As a program in ~/.local/bin, else as a module of python3; its words arrive as they are."""
    words = target.command(Target("far", session='it\'s $HOME; `x` "y" \\ *'))
    tools = tmp_path / ".local" / "bin"
    tools.mkdir(parents=True)
    (tools / "quanttui").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tools / "quanttui").chmod(0o755)
    bare = {"HOME": str(tmp_path), "PATH": "/nowhere"}
    shell = ["/bin/sh", "-c", f"PATH=/bin:/usr/bin; {words[-1]}"]
    found = subprocess.run(shell, env=bare, capture_output=True, text=True)
    assert found.stdout == 'relay|it\'s $HOME; `x` "y" \\ *|'
    (tools / "quanttui").unlink()
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    gone = subprocess.run(["/bin/sh", "-c", words[-1]], env={**bare, "PATH": f"{tools}:/bin"}, capture_output=True)
    assert gone.returncode == 127 and b"quanttui: not found" in gone.stderr


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("me@far", Target("far", "me")),
        ("far:", Target("far")),
        ("far:latest", Target("far")),
        ("me@far:2026-01-02-m", Target("far", "me", 0, "2026-01-02-m")),
        ("me@far:/data/with blank/s", Target("far", "me", 0, "/data/with blank/s")),
        ("me@[fe80::1%eth0]:s", Target("[fe80::1%eth0]", "me", 0, "s")),
        ("ssh://me@far:2222/s", Target("far", "me", 2222, "s")),
        ("ssh://far", Target("far")),
        ("latest", None),
        ("2026-01-02-m", None),
        ("/data/sessions/s", None),
    ],
)
def test_a_target_is_read_as_ssh_and_scp_write_it(text: str, wanted: Target | None) -> None:
    assert target.parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=sh@far", "me@-oProxyCommand=sh", "-oProxyCommand=sh:s", "a b@far", "me@far host", "me@fa\x1br",
        "me@", "@far", ":s", "me@far:-x", "me@far:a\nb", "me@$(x)", "me@far;x:s", "ssh://me@far:99999/s", "ssh://-x/s",
        "me@far\u202e", "me@`x`", "me@far:a\x9b31m",
    ],
)  # fmt: skip
def test_a_hostile_target_is_refused_in_one_clean_line(text: str) -> None:
    with pytest.raises(UserError) as failed:
        target.parse(text)
    assert str(failed.value).isprintable()


@given(st.text(max_size=60))
def test_no_target_becomes_an_option_or_another_word(text: str) -> None:
    try:
        named = target.parse(text)
    except UserError:
        return
    if named is not None:
        words = target.command(named)
        assert words[-3] == "--" and words[-2] == named.destination and not words[-2].startswith("-")
        assert not set(words[-2]) & set(" \t\n'\"`$;&|<>(){}*?!#")
        assert shlex.split(words[-1])[4:] == ["relay", *([named.session] if named.session else [])]


@pytest.mark.parametrize("name", ["../../up", "..", "a/b", "\x1b[31mred", "x" * 400, "", ".hidden", "שלום"])
def test_a_session_cannot_lay_its_mirror_elsewhere(tmp_path: Path, name: str) -> None:
    hello = wire.Hello(protocol=1, session=name, folder=f"/{name}", key="k", size=0, alive=True, wall=1.0)
    made = mirror.store(tmp_path, Target("far", "me"), hello)
    made.close()
    assert made.folder.parent == tmp_path / "remote" / "me@far"
    assert made.folder.name.isprintable() and made.folder.name.isascii() and len(made.folder.name) <= 100


# --- the relay ------------------------------------------------------------------------------------------------------


def conversation(folder: Path, *said: wire.FromMirror) -> list[tuple[wire.RelaySays, bytes]]:
    """What a relay answers to somebody who says all this at once, and then no more."""
    sink = io.BytesIO()
    relay.serve(folder, io.BytesIO(b"".join(map(wire.encode, said))), sink, poll=0.01)
    sink.seek(0)
    heard = []
    while line := sink.readline():
        message = wire.of_relay(line)
        heard.append((message, sink.read(message.size) if isinstance(message, wire.Piece) else b""))
    return heard


def test_a_relay_begins_only_where_a_line_does(tmp_path: Path) -> None:
    writer = opened(tmp_path / "s")
    for offset in (-1, 5, os.path.getsize(writer.folder / session.EVENTS) + 1):
        with pytest.raises(UserError, match="no place"):
            conversation(writer.folder, wire.From(offset=offset))


def test_a_relay_leaves_the_same_request_once(tmp_path: Path) -> None:
    writer = opened(tmp_path / "s")
    ask = wire.Ask(at=10, via="v:10", request="skip", arm='A"}\n')
    heard = conversation(writer.folder, wire.From(offset=0), ask, ask, msgspec.structs.replace(ask, via="v:1"))
    assert [said.at for said, _ in heard if isinstance(said, wire.Took)] == [10, 10, 10]
    assert asked(writer.folder) == [("skip", 'A"}', "")] * 2


def test_a_relay_never_sends_a_line_that_is_not_whole_yet(tmp_path: Path) -> None:
    writer = opened(tmp_path / "s")
    whole = log(writer.folder)
    os.write(writer.log, b'{"event":"arm.done","n":1')
    found = relay.Log(writer.folder)
    assert found.lines() == whole and found.lines() == b""
    os.write(writer.log, b',"t":1.0,"arm":"A"}\n')
    assert found.lines() == log(writer.folder)[len(whole) :]
    os.write(writer.log, b"x" * 300_000)
    assert found.lines() == b""
    os.write(writer.log, b"\n")
    assert len(found.lines()) == 300_001
    found.close()


def test_a_relay_knows_the_writer_of_the_last_run_however_far_back_it_began(tmp_path: Path) -> None:
    writer = opened(tmp_path / "s")
    fill(writer, 3000)
    found = relay.Log(writer.folder)
    while found.lines():
        pass
    assert found.alive and not found.over
    found.read = 0
    found.lines()
    writer.append(e.SessionClosed(outcome="failed"))
    while found.lines():
        pass
    assert found.over and not found.alive
    found.close()
