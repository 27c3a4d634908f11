"""Who and what `attach` names on another machine, and the ssh command that reaches it. Pure: starts nothing.

Nothing that a person or the other machine said becomes an option of ssh or a word of a shell: names are checked
against what hosts and users are made of, and the remote command is quoted whole.
"""

from __future__ import annotations

import re
import shlex

import msgspec

from quanttui.errors import UserError
from quanttui.format import clean

OPTIONS = (
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ConnectTimeout=15",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
)
"""A dead link is noticed within 20 s, and whatever the user's configuration does for logins is left out."""

_USER = r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+\\@-]*)"
_HOST = r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
_PLAIN = re.compile(rf"(?:{_USER}@)?{_HOST}(?::(?P<session>.*))?", re.DOTALL)
_URL = re.compile(rf"ssh://(?:{_USER}@)?{_HOST}(?::(?P<port>\d{{1,5}}))?(?:/(?P<session>.*))?", re.DOTALL)

_SCRIPT = """\
PATH="$PATH:$HOME/.local/bin"
if command -v quanttui >/dev/null 2>&1; then exec quanttui "$@"; fi
if python3 -c "import quanttui" >/dev/null 2>&1; then exec python3 -m quanttui "$@"; fi
echo "quanttui: not found" >&2
exit 127"""
"""A login that runs one command often has a shorter PATH than one at a terminal."""


class Target(msgspec.Struct, frozen=True):
    """A session on another machine: `session` a name or a folder there, "" for the latest; `port` 0 for ssh's own."""

    host: str
    user: str = ""
    port: int = 0
    session: str = ""

    @property
    def destination(self) -> str:
        """As ssh takes it."""
        host = self.host.strip("[]")
        return f"{self.user}@{host}" if self.user else host


def parse(text: str) -> Target | None:
    """What `user@host`, `host:session` or `ssh://user@host:port/session` names; None for a name on this machine.

    Raises:
        UserError: it names another machine in a way that no host has.
    """
    if "@" not in text and ":" not in text:
        return None
    found = (_URL if text.startswith("ssh://") else _PLAIN).fullmatch(text)
    named = found.groupdict() if found else {}
    session, port = named.get("session") or "", int(named.get("port") or 0)
    if found is None or port > 65535 or session.startswith("-") or clean(session) != session:
        raise UserError(f"{clean(text, 80)}: is no session of another machine: write user@host or user@host:session")
    return Target(named["host"], named.get("user") or "", port, "" if session == "latest" else session)


def command(target: Target, program: str = "ssh", remote: str = "", ask: bool = False) -> list[str]:
    """The words that start a relay on the other machine.

    Args:
        program: ssh, or what stands in for it.
        remote: what quanttui is called there, as its shell reads it; "" looks for it.
        ask: ssh may ask for a password at the terminal.
    """
    words = ["relay", *([target.session] if target.session else [])]
    there = f"{remote} {shlex.join(words)}" if remote else shlex.join(["sh", "-c", _SCRIPT, "quanttui", *words])
    options = [*OPTIONS, *([] if ask else ["BatchMode=yes"])]
    port = ["-p", str(target.port)] if target.port else []
    return [program, "-T", *(part for one in options for part in ("-o", one)), *port, "--", target.destination, there]
