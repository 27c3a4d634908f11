"""Tasks: prompts that every arm answers, and what tells a right answer. Owns no engine and no statistics."""

from quanttui.measure.tasks.asked import load
from quanttui.measure.tasks.items import Item, Message, Task

__all__ = ["Item", "Message", "Task", "load"]
