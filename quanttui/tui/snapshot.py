"""Pictures of a screen: as SVG without anything from the network, as text that pastes anywhere, as JSON."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import msgspec
from textual.app import App

from quanttui import paths
from quanttui.format import clean
from quanttui.state import State
from quanttui.tui.parts import View

KINDS = ("svg", "txt", "json")

_CELL = 12.2
"""Width of a cell in Rich's SVGs."""

_INDENTED = re.compile(r'x="([\d.]+)"( y="[\d.]+") textLength="([\d.]+)"([^>]*)>((?:&#160;)+)')
_FONTS = re.compile(r"@font-face\s*\{[^}]*\}")


class Caption(msgspec.Struct, frozen=True):
    """What a picture is of: the session, the moment in it, when that was, the versions, somebody's note."""

    session: str
    t: float
    clock: str
    when: str
    quanttui: str
    llama_cpp: str
    note: str = ""

    @property
    def line(self) -> str:
        """All of it in a line."""
        engine = f", llama.cpp {self.llama_cpp}" if self.llama_cpp else ""
        said = f": {self.note}" if self.note else ""
        return f"{self.session} at {self.clock} ({self.when}), quanttui {self.quanttui}{engine}{said}"


def caption(folder: Path, view: View, state: State, note: str = "") -> Caption:
    """The caption of a view of a session."""
    from quanttui import __version__

    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state.wall + view.t)) if state.wall else "no time"
    return Caption(
        session=clean(folder.name, 80),
        t=view.t,
        clock=view.clock,
        when=moment,
        quanttui=__version__,
        llama_cpp=clean(state.build.llama_cpp, 40) if state.build else "",
        note=clean(note, 400),
    )


def screen_text(app: App[Any]) -> str:
    """The screen as lines of text, blanks at their ends left out."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def taken(app: App[Any], said: Caption, view: View) -> tuple[str, str, str]:
    """The screen now as SVG, as text, and its view as JSON, each with its caption."""
    svg = _FONTS.sub("", app.export_screenshot(title=said.line))
    text = f"{screen_text(app)}{said.line}\n"
    return _INDENTED.sub(_unindented, svg), text, as_json({"caption": said, "view": view})


def _unindented(found: re.Match[str]) -> str:
    """A run of text begins at its first visible character: not every viewer keeps blanks in front of one."""
    by = found[5].count("&") * _CELL
    return f'x="{float(found[1]) + by:.1f}"{found[2]} textLength="{float(found[3]) - by:.1f}"{found[4]}>'


def as_json(content: object) -> str:
    """As JSON; numbers that JSON has no way to write are null."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"


def save(stem: Path, contents: tuple[str, str, str], private: bool = True) -> list[Path]:
    """Write a picture's three files, for their user alone where they are `private`; returns their paths.

    Raises:
        OSError: they cannot be written.
    """
    if private:
        paths.made(stem.parent)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = [stem.with_name(f"{stem.name}.{kind}") for kind in KINDS]
    for path, content in zip(written, contents, strict=True):
        with open(path, "w", encoding="utf-8", opener=paths.private if private else None) as file:
            file.write(content)
    return written


def stem(folder: Path, view: View) -> Path:
    """Where a picture of this moment of the session goes, without its ending."""
    return folder / "snapshots" / f"{view.clock.replace(':', '')}-{view.t % 1 * 1000:03.0f}"
