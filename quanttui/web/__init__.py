"""`quanttui web`: the app in a browser, over textual-serve's wire and with its page script. Knows no session.

Each tab is a process of its own that runs `quanttui` with the words given, and dies with its tab, but for a sweep of
its own: that goes on without a screen, as it does when a terminal hangs up.

access.py   who may come in: addresses, tokens, headers; pure
tab.py      one tab's process and the packets to and from it
server.py   the pages and the websocket
page/       what is served of ours; script, style and font of the terminal are textual-serve's, none from elsewhere
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from quanttui.errors import UserError
from quanttui.web import access

HOST, PORT = "127.0.0.1", 8017


def serve(words: Sequence[str] = (), host: str = HOST, port: int = PORT, token: str = "") -> int:
    """Serve `quanttui WORDS…` to browsers until ctrl-c or SIGTERM; returns the exit code.

    Args:
        host: an address of this machine; one that others can reach needs a token.
        port: 0 for any that is free.
        token: part of the address that lets in; one is made up where none is given.

    Raises:
        UserError: the extra is not installed, an address that others reach without a token, a port that is taken.
    """
    token = access.token(host, token)
    if find_spec("aiohttp") is None or find_spec("textual_serve") is None:
        raise UserError("quanttui web: needs an extra that is not installed: pip install 'quanttui[web]'")
    from quanttui.web.server import run

    return run(tuple(words), host, port, token)
