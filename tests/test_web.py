"""The app in a browser: who is let in, what a tab's process is given, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import web
from quanttui.errors import UserError
from quanttui.web import access

TOKEN = "t" * access.LEAST
HOSTS = st.sampled_from(["127.0.0.1", "localhost", "[::1]", "LOCALHOST", "127.1.2.3"])
PORT = st.integers(1, 65535)


# --- who is let in --------------------------------------------------------------------------------------------------


@given(HOSTS, PORT, HOSTS, PORT)
def test_a_page_may_speak_to_the_server_it_came_from_and_to_no_other(
    host: str, port: int, other: str, other_port: int
) -> None:
    asked, from_page = f"{host}:{port}", f"{other}:{other_port}"
    assert access.admits("127.0.0.1", asked, None)
    assert access.admits("127.0.0.1", asked, f"http://{from_page}") == (asked.lower() == from_page.lower())


@given(st.text(max_size=40))
def test_any_host_header_is_judged_and_on_loopback_only_loopbacks_names_pass(header: str) -> None:
    if access.admits("127.0.0.1", header, None):
        assert access.is_loopback(access.name(header))


@pytest.mark.parametrize(
    "origin", ["null", "", "file://localhost:80", "http://evil.example", "http://localhost:80.evil"]
)
def test_a_page_from_elsewhere_is_refused(origin: str) -> None:
    assert not access.admits("0.0.0.0", "localhost:80", origin)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5:8017", "", "a b", "[::1"])
def test_a_name_bent_to_loopback_is_refused(host: str) -> None:
    assert not access.admits("127.0.0.1", host, None)


def test_a_server_for_others_answers_by_any_name() -> None:
    assert access.admits("0.0.0.0", "box.lan:8017", "http://box.lan:8017")


def test_every_token_made_is_another_and_long_enough_to_be_given() -> None:
    made = {access.token("127.0.0.1", "") for _ in range(50)}
    assert len(made) == 50
    assert all(access.token("0.0.0.0", one) == one for one in made)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.lan"])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    with pytest.raises(UserError, match=r"--host .*--token"):
        web.serve((), host)


@pytest.mark.parametrize("weak", ["short", "with a blank in it, long", "a/b" * 10, "é" * 20, "\x1b[31m" * 5])
def test_a_weak_token_is_refused_and_not_repeated(weak: str) -> None:
    with pytest.raises(UserError, match="--token: must be 16 or more") as told:
        web.serve((), "127.0.0.1", 0, weak)
    assert weak not in str(told.value)


@given(st.text())
def test_only_the_token_itself_is_known(given_one: str) -> None:
    assert access.knows(TOKEN, given_one) == (given_one == TOKEN)


def test_a_missing_extra_is_one_line_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    with pytest.raises(UserError, match=r"pip install 'quanttui\[web\]'"):
        web.serve()


# --- the server -----------------------------------------------------------------------------------------------------

pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError  # noqa: E402
from aiohttp import web as http  # noqa: E402

from quanttui.web import server as serving  # noqa: E402
from quanttui.web.tab import WIDEST, Tab  # noqa: E402

SPEAKS = """
import json, os, sys, time
def say(kind, content):
    os.write(1, kind + len(content).to_bytes(4, "big") + content)
os.write(1, b"__GANGLION__\\n")
say(b"D", f"pid {os.getpid()} {os.environ['COLUMNS']}x{os.environ['ROWS']}".encode())
"""
"""A stand-in for the app: it says who it is and how large."""

ECHOES = (
    SPEAKS
    + """
while len(head := sys.stdin.buffer.read(5)) == 5:
    content = sys.stdin.buffer.read(int.from_bytes(head[1:], "big"))
    if head[:1] == b"M" and json.loads(content)["type"] == "quit":
        say(b"M", b'{"type": "exit", "sweeping": false}')
        sys.exit()
    say(b"D", b"<" + content + b">")
"""
)
"""It repeats what it is told, and ends when it is told to, or when nobody is there any more."""

GRACE = 0.5


class Served:
    """A server on a free port of loopback, and a browser's part in it."""

    def __init__(self, script: str) -> None:
        self.said: list[str] = []
        command = (sys.executable, "-c", script)
        self.server = serving.Server(command, "127.0.0.1", TOKEN, self.said.append, GRACE)
        self.runner = http.AppRunner(self.server.application(), shutdown_timeout=2)

    async def __aenter__(self) -> Served:
        await self.runner.setup()
        await http.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = access.url("127.0.0.1", self.runner.addresses[0][1], TOKEN)
        self.client = ClientSession()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()
        await self.close()

    async def close(self) -> None:
        await self.runner.cleanup()
        await self.server.ended()

    async def tab(self, query: str = "?width=100&height=30", **options: dict[str, str]) -> ClientWebSocketResponse:
        return await self.client.ws_connect(f"{self.url}ws{query}", **options)  # type: ignore[arg-type]


async def heard(tab: ClientWebSocketResponse, wanted: str) -> str:
    """What the terminal got, once it holds this."""
    got = ""
    while wanted not in got:
        message = await tab.receive(10)
        assert message.type is WSMsgType.BINARY, (message, got)
        got += message.data.decode("utf-8", "replace")
    return got


async def pid(tab: ClientWebSocketResponse) -> int:
    return int((await heard(tab, "pid ")).split()[1])


async def gone(number: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while psutil.pid_exists(number) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return not psutil.pid_exists(number)


@pytest.fixture
async def echoing() -> AsyncIterator[Served]:
    async with Served(ECHOES) as served:
        yield served


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "textual.js", "xterm.css", "mono.ttf"])
async def test_the_page_and_all_its_parts_are_served_from_here(echoing: Served, path: str) -> None:
    async with echoing.client.get(echoing.url + path) as answer:
        body = await answer.read()
    assert answer.status == 200 and body
    if path in ("", "page.css", "page.js"):
        assert b"http://" not in body and b"https://" not in body


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("{token}/", None, 200),
        ("", None, 404),
        ("{token}", None, 404),
        ("wrong/", None, 404),
        ("{token}/../{token}/", None, 200),
        ("{token}/server.py", None, 404),
        ("{token}/..%2f..%2fserver.py", None, 404),
        ("{token}/", "evil.example", 403),
        ("{token}/ws", None, 400),
    ],
)
async def test_every_answer_carries_the_headers_and_only_those_with_the_token_get_in(
    echoing: Served, path: str, host: str | None, status: int
) -> None:
    root = echoing.url.removesuffix(f"{TOKEN}/")
    headers = {"Host": host} if host else {}
    async with echoing.client.get(root + path.replace("{token}", TOKEN), headers=headers) as answer:
        assert answer.status == status
        assert {key: answer.headers[key] for key in access.HEADERS} == access.HEADERS
        assert status == 200 or TOKEN not in await answer.text()


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}])
async def test_no_other_site_gets_a_tab(echoing: Served, headers: dict[str, str]) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await echoing.tab(headers=headers)
    assert refused.value.status == 403


async def test_a_tab_shows_what_its_app_paints_at_the_browsers_size_and_passes_on_what_is_typed(
    echoing: Served,
) -> None:
    tab = await echoing.tab()
    assert "100x30" in await heard(tab, "100x30")
    await tab.send_json(["stdin", "è\x1b[A"])
    await heard(tab, "<è\x1b[A>")
    await tab.send_json(["resize", {"width": 80, "height": 24}])
    assert json.loads((await heard(tab, ">")).strip("<>")) == {"type": "resize", "width": 80, "height": 24}
    await tab.send_json(["focus"])
    await heard(tab, '"focus"')


async def test_what_is_pasted_arrives_whole(echoing: Served) -> None:
    tab = await echoing.tab()
    await pid(tab)
    pasted = "0123456789" * 300
    await tab.send_json(["stdin", pasted])
    got = ""
    while got.count("9") < 300:
        got += (await tab.receive(10)).data.decode()
    assert got.replace("<", "").replace(">", "") == pasted


@pytest.mark.parametrize(
    "message", ["", "[", "{}", "[]", '["stdin"]', '["stdin", 3]', '["resize", {"width": "a", "height": 2}]',
                '["quit"]', '["resize", [1, 2]]', "[" * 100_000]
)  # fmt: skip
async def test_a_message_that_makes_no_sense_is_left_out(echoing: Served, message: str) -> None:
    tab = await echoing.tab()
    await tab.send_str(message)
    await tab.send_bytes(b"\x00")
    await tab.send_json(["stdin", "still there"])
    got = await heard(tab, "<still there>")
    assert got.count("<") == 1


@pytest.mark.parametrize("query", ["", "?width=x&height=-1", "?width=99999999999&height=0"])
async def test_an_absurd_size_is_brought_within_bounds(echoing: Served, query: str) -> None:
    width, height = (await heard(await echoing.tab(query), "x")).split()[-1].split("x")
    assert 1 <= int(width) <= WIDEST and int(height or 1) >= 1


async def test_a_tab_that_closes_ends_its_app_and_no_other(echoing: Served) -> None:
    first, second = await echoing.tab(), await echoing.tab()
    ended, stays = await pid(first), await pid(second)
    await first.close()
    assert await gone(ended)
    await second.send_json(["stdin", "here"])
    await heard(second, "<here>")
    assert psutil.pid_exists(stays) and echoing.said == []


async def test_there_are_no_more_tabs_than_allowed_and_one_that_closes_makes_room(echoing: Served) -> None:
    tabs = [await echoing.tab() for _ in range(serving.TABS)]
    with pytest.raises(WSServerHandshakeError) as refused:
        await echoing.tab()
    assert refused.value.status == 503
    number = await pid(tabs[0])
    await tabs[0].close()
    assert await gone(number)
    await pid(await echoing.tab())


async def test_a_server_that_ends_leaves_no_app_behind(echoing: Served) -> None:
    numbers = [await pid(await echoing.tab()) for _ in range(3)]
    await echoing.close()
    assert all([await gone(number, 1) for number in numbers])


async def test_an_app_that_ends_closes_its_tab() -> None:
    async with Served(SPEAKS + "say(b'M', b'{\"type\": \"exit\"}')") as served:
        tab = await served.tab()
        await pid(tab)
        assert (await tab.receive(10)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)


async def test_an_app_that_fails_says_why_in_its_tab() -> None:
    script = "import sys; print('first', file=sys.stderr); sys.exit('quanttui: \\x1b[31mno such session')"
    async with Served(script) as served:
        got = await heard(await served.tab(), "no such session")
    assert "\x1b" not in got and "first" not in got


async def test_an_app_that_does_not_listen_is_ended() -> None:
    async with Served(SPEAKS + "time.sleep(60)") as served:
        tab = await served.tab()
        number = await pid(tab)
        await tab.close()
        assert await gone(number)


SWEEPS = (
    SPEAKS
    + """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdin.buffer.read()
say(b"M", b'{"type": "exit", "sweeping": true}')
time.sleep(60)
"""
)


async def test_a_sweep_of_a_tab_outlives_tab_and_server_and_is_told_of() -> None:
    async with Served(SWEEPS) as served:
        tab = await served.tab()
        number = await pid(tab)
        await tab.close()
        await served.close()
    try:
        assert psutil.Process(number).status() != psutil.STATUS_ZOMBIE
        assert len(served.said) == 1 and str(number) in served.said[0] and "quanttui attach" in served.said[0]
    finally:
        os.kill(number, signal.SIGKILL)
        with suppress(ChildProcessError):  # the event loop's own watcher may have been there first
            os.waitpid(number, 0)


async def test_an_app_that_floods_is_held_back_by_a_browser_that_does_not_read() -> None:
    """It blocks in its write: nothing piles up in the server."""
    async with Served(SPEAKS + "while True: say(b'D', b'x' * 65536)") as served:
        tab = await served.tab()
        number = await pid(tab)
        before = psutil.Process().memory_info().rss
        await asyncio.sleep(1.0)
        assert psutil.Process().memory_info().rss - before < 64 * 2**20
        await tab.close()
        assert await gone(number)


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be served at"):
            web.serve((), "127.0.0.1", port)


# --- the app's end of the wire --------------------------------------------------------------------------------------

APP = """
import os, signal, sys
from textual.app import App
from textual.widgets import Static
from quanttui.tui import browser

class Small(App[str]):
    sweeping = False
    def on_mount(self):
        signal.signal(signal.SIGTERM, lambda *_: None)
    def compose(self):
        yield Static("first frame", markup=False)
    def on_key(self, event):
        self.query_one(Static).update(f"key {event.key}")
    def on_app_focus(self):
        self.query_one(Static).update("looked at")
    def hung_up(self):
        self.exit("hung up")

app = Small()
app.driver_class = browser.driver_class(app.hung_up)
result = app.run(mouse=MOUSE)
os.kill(os.getpid(), signal.SIGTERM)  # its own way with it outlives the screen
open(sys.argv[1], "w").write(str(result))
"""


def small_app(folder: Path, mouse: bool = False) -> tuple[str, ...]:
    file = folder / "app.py"
    file.write_text(textwrap.dedent(APP).replace("MOUSE", str(mouse)))
    return (sys.executable, str(file), str(folder / "result"))


async def until(tab: Tab, painted: AsyncIterator[bytes], wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        got += await asyncio.wait_for(anext(painted), 20)
    return got


@pytest.mark.parametrize("mouse", [False, True])
async def test_a_real_app_paints_answers_keys_and_hangs_up_with_its_tab(tmp_path: Path, mouse: bool) -> None:
    tab = await Tab.open(small_app(tmp_path, mouse), os.environ, (60, 12))
    tab.focus(True)  # before there is anybody to hear it
    painted = tab.painted()
    got = await until(tab, painted, b"looked at")
    assert (got.rfind(b"\x1b[?1003h") > got.rfind(b"\x1b[?1003l")) == mouse
    tab.type("x")
    await until(tab, painted, b"key")
    tab.hang_up()
    async for _ in painted:
        pass
    assert tab.sweeping is False
    assert await tab.gone()
    assert (tmp_path / "result").read_text() == "hung up"


async def test_an_app_whose_server_was_killed_hangs_up(tmp_path: Path) -> None:
    """All it sees is that nobody writes and reads its pipes any more."""
    tab = await Tab.open(small_app(tmp_path), os.environ, (60, 12))
    await until(tab, tab.painted(), b"first frame")
    assert tab.process.stdin is not None and tab.process.stdout is not None
    tab.process.stdin.close()
    assert await tab.gone(10)
    assert (tmp_path / "result").read_text() == "hung up"


async def test_an_app_is_not_held_up_by_a_server_that_reads_nothing(tmp_path: Path) -> None:
    tab = await Tab.open(small_app(tmp_path), os.environ, (200, 100))
    await until(tab, tab.painted(), b"first frame")
    for width in range(100, 200):
        tab.resize(width, 50 + width % 50)
    tab.hang_up()
    assert await tab.gone(10)
    assert (tmp_path / "result").read_text() == "hung up"
