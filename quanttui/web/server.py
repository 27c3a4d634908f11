"""The pages and the websocket of `quanttui web`. Effects only: what is let in is access.py's, what runs is tab.py's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import textual_serve
from aiohttp import WSCloseCode, WSMessage, WSMsgType
from aiohttp import web as http

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.web import access
from quanttui.web.tab import GRACE, Tab

TABS = 8
"""Tabs at a time: each is a process of its own."""

_LARGEST = 2**20
"""Bytes of one message from a browser: room for what is pasted."""

_HEARTBEAT = 15.0
"""Seconds between pings: a browser that answers none is gone."""

_OURS, _THEIRS = Path(__file__).parent / "page", Path(textual_serve.__file__).parent / "static"

FILES = {
    "": _OURS / "page.html",
    "page.css": _OURS / "page.css",
    "page.js": _OURS / "page.js",
    "textual.js": _THEIRS / "js" / "textual.js",
    "xterm.css": _THEIRS / "css" / "xterm.css",
    "mono.ttf": _THEIRS / "fonts" / "RobotoMono-VariableFont_wght.ttf",
}
"""All that is served, by its name below the token."""

_Handler = Callable[[http.Request], Awaitable[http.StreamResponse]]


class Server:
    """Tabs that run a command.

    Args:
        command: what runs in each tab.
        host, token: of the address served at.
        say: told of what the person at the server's terminal should know.
        grace: seconds that an app has to end, once its tab is closed.
    """

    def __init__(
        self,
        command: Sequence[str],
        host: str,
        token: str,
        say: Callable[[str], object] = print,
        grace: float = GRACE,
    ) -> None:
        self._command, self._host, self._token, self._say = command, host, token, say
        self._grace = grace
        self._open: dict[http.WebSocketResponse, Tab] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def application(self) -> http.Application:
        """The routes, all of them behind `guard`."""

        async def guarded(request: http.Request, handler: _Handler) -> http.StreamResponse:
            return await self.guard(request, handler)

        app = http.Application(middlewares=[http.middleware(guarded)])
        app.router.add_get("/{token}/ws", self.socket)
        app.router.add_get("/{token}/{file}", self.file)
        app.router.add_get("/{token}/", self.file)
        app.on_shutdown.append(self.close)
        return app

    async def guard(self, request: http.Request, handler: _Handler) -> http.StreamResponse:
        """Answer only what may come in; what may not learns nothing of what is here."""
        token = request.match_info.get("token", "")
        if not access.admits(self._host, request.host, request.headers.get("Origin")):
            answer: http.StreamResponse = http.Response(status=403, text="not by this name, or not from that page\n")
        elif not access.knows(self._token, token):
            answer = http.Response(status=404, text="open the address that `quanttui web` has printed\n")
        else:
            try:
                answer = await handler(request)
            except http.HTTPException as refused:
                answer = http.Response(status=refused.status, text=f"{refused.reason}\n")
        if not answer.prepared:
            answer.headers.update(access.HEADERS)
        return answer

    async def file(self, request: http.Request) -> http.StreamResponse:
        """The page and its parts."""
        path = FILES.get(request.match_info.get("file", ""))
        return http.FileResponse(path) if path is not None else http.Response(status=404, text="no such file\n")

    async def socket(self, request: http.Request) -> http.StreamResponse:
        """A tab: its process lives as long as the websocket."""
        if len(self._open) >= TABS:
            return http.Response(status=503, text=f"{TABS} tabs are open: close one\n")
        socket = http.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_LARGEST)
        await socket.prepare(request)
        tab = await Tab.open(self._command, os.environ, (_cells(request, "width", 80), _cells(request, "height", 24)))
        self._open[socket] = tab
        painter = asyncio.create_task(self._paint(tab, socket))
        try:
            async for message in socket:
                _pass_on(message, tab)
        finally:
            del self._open[socket]
            tab.hang_up()
            ending = asyncio.create_task(self._end(tab, painter))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return socket

    async def _paint(self, tab: Tab, socket: http.WebSocketResponse) -> None:
        """What the app writes goes to the browser, at the pace at which the browser takes it."""
        async for painted in tab.painted():
            with suppress(ConnectionError):  # the app is heard to its end, the browser gone or not
                await socket.send_bytes(painted)
        with suppress(ConnectionError):
            await socket.close()

    async def _end(self, tab: Tab, painter: asyncio.Task[None]) -> None:
        await asyncio.wait({painter}, timeout=self._grace)
        painter.cancel()
        if not await tab.gone(self._grace):
            self._say(f"a sweep goes on without its tab, in process {tab.process.pid}: `quanttui attach` watches it")

    async def close(self, app: http.Application) -> None:
        """Close every tab, and wait until their screens have ended."""
        for socket in list(self._open):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def ended(self) -> None:
        """Wait until the processes of closed tabs have ended or are known to go on."""
        while self._ending:
            await asyncio.wait(set(self._ending))


def _cells(request: http.Request, key: str, default: int) -> int:
    text = request.query.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else default


def _pass_on(message: WSMessage, tab: Tab) -> None:
    """Give the app what the browser's script sent; what is none of its messages is left out."""
    if message.type is not WSMsgType.TEXT:
        return
    try:
        said = json.loads(message.data)
    except (ValueError, RecursionError):
        return
    match said:
        case ["stdin", str(text)]:
            tab.type(text)
        case ["resize", {"width": int(width), "height": int(height)}]:
            tab.resize(width, height)
        case ["focus" | "blur" as seen, *_]:
            tab.focus(seen == "focus")


def run(words: Sequence[str], host: str, port: int, token: str) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; returns the exit code.

    Raises:
        UserError: the address cannot be had.
    """
    say = partial(print, flush=True)
    command = (sys.executable, "-m", "quanttui", *words)
    return asyncio.run(_serve(Server(command, host, token, say), host, port, token, say))


async def _serve(server: Server, host: str, port: int, token: str, say: Callable[[str], object]) -> int:
    runner = http.AppRunner(server.application(), access_log=None, shutdown_timeout=GRACE)
    await runner.setup()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    try:
        await _listen(runner, host, port)
        say(access.url(host, runner.addresses[0][1], token))
        say("whoever has this address has the app; ctrl-c ends it" + _open_to_all(host))
        await over.wait()
    finally:
        await runner.cleanup()
        await server.ended()
    return 0


def _open_to_all(host: str) -> str:
    return "" if access.is_loopback(host) else "\nnot encrypted: on a network that is not yours, come through ssh -L"


async def _listen(runner: http.AppRunner, host: str, port: int) -> None:
    try:
        await http.TCPSite(runner, host, port).start()
    except OSError as error:
        why = clean(error.strerror or str(error))
        raise UserError(f"--host {host} --port {port}: cannot be served at ({why}): give another") from None
