"""Which tasks a sweep asks, each in the ways that it is asked. Owns their order; knows no file's form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from quanttui.events import Settings
from quanttui.measure.tasks import mmlu, ner, prompts
from quanttui.measure.tasks.items import Item, Task, digest

SOURCES: dict[str, Callable[[Settings], Task]] = {
    "mmlu": mmlu.load,
    "ner": ner.load,
    "traps": lambda settings: prompts.read(prompts.TRAPS, "traps"),
    "structured": lambda settings: prompts.read(prompts.STRUCTURED, "structured"),
    "prompts": lambda settings: prompts.read(Path(settings.prompts) if settings.prompts else prompts.SHIPPED),
}
"""Where each task's items come from, in the order in which the tasks are asked."""

THINKING = "-thinking"
"""Ends the name of a task that is asked a second time, with the template's switch on."""

THOUGHT = 2048
"""Tokens that an item may be thought about, beside those of its answer."""


def load(settings: Settings) -> tuple[Task, ...]:
    """The tasks that the settings ask for, their files read and checked whole.

    Raises:
        UserError: a source cannot be had, or holds what is no item; names file and line.
    """
    asked = (source(settings) for name, source in SOURCES.items() if name in settings.tasks)
    return tuple(way for task in asked for way in _ways(task, settings))


def _ways(task: Task, settings: Settings) -> Iterator[Task]:
    """The task with the template's switch off, on, or both; as it is where nobody asks, or no item sees a template."""
    templated = any(item.messages or (settings.chat and not item.choices) for item in task.items)
    switch = settings.thinking if templated else ""
    if switch not in ("on", "off", "both"):
        yield task
    if switch in ("off", "both"):
        yield msgspec.structs.replace(task, thinking=False)
    if switch in ("on", "both"):
        items = tuple(_thoughtful(item, settings) for item in task.items)
        name = task.name + THINKING * (switch == "both")
        yield msgspec.structs.replace(task, name=name, items=items, sha256=digest(items), thinking=True)


def _thoughtful(item: Item, settings: Settings) -> Item:
    """The item with room for thoughts before its answer."""
    if item.choices:
        return item
    return msgspec.structs.replace(item, max_tokens=(item.max_tokens or settings.max_tokens) + THOUGHT)
