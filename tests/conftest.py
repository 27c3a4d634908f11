"""What several test files need. Nothing here imports llama_cpp, or of Textual more than one small module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


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
