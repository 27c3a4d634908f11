"""Where things lie: what is shipped, what is the user's. Owns the folders' names, and how what is the user's is made
there: for nobody else to read, whatever the umask.

In a checkout `config.toml`, `themes/` and `sessions/` stand beside the package; a wheel carries the first two inside
it, in `quanttui/shipped/`. What is the user's lies where the platform puts such things (platformdirs).
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from quanttui.errors import UserError
from quanttui.format import clean

PACKAGE = Path(__file__).resolve().parent


def checkout(package: Path = PACKAGE) -> Path | None:
    """The root of the checkout that the package is part of, None where it is installed."""
    root = package.parent
    try:
        project = (root / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return root if 'name = "quanttui"' in project.splitlines() else None


def shipped(package: Path = PACKAGE) -> Path:
    """The folder that holds the shipped `config.toml` and `themes/`."""
    return checkout(package) or package / "shipped"


def shipped_config() -> Path:
    """The file with every key, commented, at its default."""
    return shipped() / "config.toml"


def user_config() -> Path:
    """The user's own config.toml, which need not exist."""
    return platformdirs.user_config_path("quanttui", appauthor=False) / "config.toml"


def themes() -> tuple[Path, ...]:
    """Folders of themes, the shipped one first: a later one's theme replaces an earlier one's of the same name."""
    return shipped() / "themes", user_config().parent / "themes"


def sessions_dir(asked: str = "", package: Path = PACKAGE) -> Path:
    """Where sessions are kept: the folder asked for, else `sessions/` of the checkout, else the user's data folder."""
    if asked:
        return Path(asked).expanduser()
    root = checkout(package)
    return (root or platformdirs.user_data_path("quanttui", appauthor=False)) / "sessions"


def cache_dir(asked: str = "") -> Path:
    """Where quants, texts and digests are cached: the folder asked for, else the user's cache folder."""
    return Path(asked).expanduser() if asked else platformdirs.user_cache_path("quanttui", appauthor=False)


def made(folder: Path) -> Path:
    """The folder, made where it is missing with what is missing above it: 0700 each.

    Raises:
        OSError: it cannot be made.
    """
    for one in reversed((folder, *folder.parents)):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)
    return folder


def private(path: str | os.PathLike[str], flags: int) -> int:
    """The `opener` of open() for a file that is made here: 0600. One that is there already keeps its mode."""
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)


def write(path: Path, content: bytes) -> None:
    """Write a file whole, made 0600.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb", opener=private) as file:
        file.write(content)


def read(path: Path, most: int, which: str) -> bytes:
    """A file that somebody named, all of it.

    Args:
        most: bytes that it may have; `which` says of what, for who gives a larger one.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    name = clean(str(path), 200)
    try:
        with open(path, "rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{name}: is no name of a file") from None
    if len(raw) > most:
        raise UserError(f"{name}: is larger than {most // 2**20} MiB, which {which} is")
    return raw
