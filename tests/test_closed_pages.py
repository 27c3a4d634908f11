"""Pages and boxes that were closed are gone: a viewer that is looked at for days grows by none of them."""

from __future__ import annotations

import gc
from pathlib import Path

import builders
import pytest
from textual._styles_cache import StylesCache

from quanttui import events as e
from quanttui import session
from quanttui.tui.app import Monitor


def kept() -> int:
    """Widgets whose drawn lines are in memory."""
    gc.collect()
    return sum(isinstance(each, StylesCache) for each in gc.get_objects())


@pytest.mark.parametrize("key", ["enter", "question_mark", "ctrl+p", "c"])
async def test_a_page_that_was_closed_leaves_no_lines_behind(key: str, tmp_path: Path) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "session")
    log = builders.events(builders.Arm("Q8_0"), builders.Arm("Q4_K_M"))
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, log)))
    app, counts = Monitor(folder, "attach"), []
    async with app.run_test(size=(120, 40)) as pilot:
        for _ in range(1000):
            if app.settled:
                break
            await pilot.pause(0.01)
        for _ in range(4):
            await pilot.press(key)
            assert len(app.screen_stack) > 1, "nothing was opened"
            await pilot.pause()
            while len(app.screen_stack) > 1:
                await pilot.press("escape")
            await pilot.pause()
            counts.append(kept())
    assert counts[-1] <= counts[0]
