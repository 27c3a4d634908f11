"""What several test files need. Nothing here imports llama_cpp, or of Textual more than one small module.

Tests run on several cores at once, file by file (pytest-xdist); those marked `alone` have the machine to themselves.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PLACE = tempfile.TemporaryDirectory(prefix="quanttui-lock-")
NUMBERS = itertools.count()
"""Every test has the machine's lock for sweeps in a folder of its own: others are those of other tests, of other
workers, and of who sits here."""
LOCKS = CHECKOUT / ".pytest_cache" / "machine"

LONGEST = (
    "test_tiles", "test_imatrix", "test_paired_sweep", "test_app", "test_fetch", "test_pocket", "test_remote",
    "test_quantize", "test_base", "test_badinput", "test_scale", "test_keys", "test_fit", "test_perplexity",
)  # fmt: skip
"""Files that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that none is left over at the end; last those that want the machine alone, one
    behind the other: each that comes between others has all workers wait until they have finished theirs."""
    alone = {item.path for item in items if item.get_closest_marker("alone")}
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path in alone, place.get(item.path.stem, len(place))))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fixtures of any scope are made within: they measure, too."""
    os.environ["QUANTTUI_LOCK_DIR"] = os.path.join(PLACE.name, str(next(NUMBERS)))
    with _colours(), _machine(item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _colours() -> Iterator[None]:
    """A command that opens a screen tells Textual by the environment how many colours there are: the next test's screen
    is not to have them."""
    before = {name: os.environ.get(name) for name in ("NO_COLOR", "TEXTUAL_COLOR_SYSTEM")}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _machine(alone: bool) -> Iterator[None]:
    """Hold the machine, beside other processes of this run or alone. Who wants it alone waits at the door, and those
    who come after wait behind."""
    if "PYTEST_XDIST_WORKER" not in os.environ or os.name != "posix":
        yield
        return
    import fcntl

    LOCKS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        door, room = (held.enter_context(open(LOCKS / name, "wb")) for name in ("door", "room"))
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger inputs, which are no part of the project: $QUANTTUI_SHARED, else ../shared."""
    folder = Path(os.environ.get("QUANTTUI_SHARED") or CHECKOUT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no larger inputs in {folder}: QUANTTUI_SHARED names another folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def brisk() -> None:
    """Textual's pilot looks oftener whether the app is idle after a key: half of the suite was that wait."""
    from textual import _wait

    _wait.SLEEP_GRANULARITY, _wait.SLEEP_IDLE = 1 / 250, 1 / 2500
