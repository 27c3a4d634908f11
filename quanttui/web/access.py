"""Who may come in: the address served at, the token in it, Host and Origin of a request, headers of an answer. Pure.

The token is the first part of every path and no cookie: browsers send cookies to every port of a host, and on a shared
machine another port is somebody else. It is made up on loopback too, for the same reason.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from urllib.parse import urlsplit

from quanttui.errors import UserError
from quanttui.format import clean

LEAST = 16
"""Characters of a token that somebody gives: 2 ** 80 and more of them, where they are drawn at random."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer. The terminal's script writes style sheets of its own, so inline style has to be let through."""


def token(host: str, given: str) -> str:
    """The token to serve with.

    Raises:
        UserError: it is too weak, or missing where others can reach the address.
    """
    if given and not (_TOKEN.fullmatch(given) and len(given) >= LEAST):
        raise UserError(f"--token: must be {LEAST} or more of A-Z a-z 0-9 - and _: leave it out to have one made")
    if not given and not is_loopback(host):
        raise UserError(
            f"--host {clean(host, 60)}: others can reach that: give --token as well, or leave --host out and come "
            "through `ssh -L 8017:127.0.0.1:8017 …`"
        )
    return given or secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own and nobody else's."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name(host: str) -> str:
    """The name in a Host header, without its port; "" where it is none."""
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]{1,255}", host):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def admits(bound: str, host: str, origin: str | None) -> bool:
    """Whether a request may be answered: by its Host and, where a browser tells one, its Origin.

    A server on loopback is asked for by a name of loopback alone, of whatever port (it may have come through a tunnel):
    any other name was bent to here by its owner (DNS rebinding). Pages of other sites may not speak to any.

    Args:
        bound: the address served at.
    """
    asked = name(host)
    if not asked or (is_loopback(bound) and not is_loopback(asked)):
        return False
    if origin is None:
        return True
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()


def knows(token: str, given: str) -> bool:
    """Whether the token given is the right one, in a time that does not tell how much of it is."""
    return hmac.compare_digest(token.encode(), given.encode("utf-8", "replace"))


def url(host: str, port: int, token: str) -> str:
    """The address to open. One that means all of the machine's addresses is written as loopback."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/{token}/"
