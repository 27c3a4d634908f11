"""An arm's answers as raw/<arm>.items.jsonl has them, and judged again. Knows no task's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from quanttui import events as e
from quanttui import session
from quanttui.format import clean
from quanttui.measure.tasks.items import Item
from quanttui.measure.tasks.judge import Judged, judge
from quanttui.verify.figure import Lacking
from quanttui.verify.raw import Session, load

F1 = {"micro-F1": (1, 1, 1), "precision": (1, 2, 0), "recall": (1, 0, 2)}
"""What entities right, wrong and missed are multiplied by before they are pooled."""


class Line(msgspec.Struct, frozen=True):
    """What of a line in raw/ is needed: sweep.answers writes it."""

    unit: str = ""
    prompt: str = ""
    prompt_sha256: str = ""
    answer: str = ""
    expected: str = ""
    correct: bool | None = None
    chosen: str = ""
    logs: tuple[float, ...] = ()
    parsed: bool | None = None
    valid: bool | None = None
    spans: tuple[int, int, int] | None = None
    stopped: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    asked: Item | None = None


class Answered(NamedTuple):
    """An answer as the log tells of it, as raw/ has it, and what it is worth. `anew`: that was judged here."""

    told: e.Item
    line: Line
    judged: Judged
    anew: bool

    @property
    def counts(self) -> bool:
        """Whether it is in the measures: there was room for the prompt, and there is a check."""
        return self.told.stopped != "context" and (self.judged.correct is not None or bool(self.judged.expected))

    @property
    def is_right(self) -> bool:
        return self.judged.correct is True


Answers = Mapping[str, Answered]
"""One arm's answers by `task/item`."""


def read(known: Session, arm: str) -> dict[str, Answered]:
    """An arm's answers, each from the place in raw/ that the log names, judged again where the line has the item.

    Raises:
        Lacking: the file is missing, or has no whole line where it should.
    """
    path = session.part(known.folder, "raw", f"{arm}.items.jsonl")
    data = load(known.folder, path)
    found = {}
    for key, told in known.log.items[arm].items():
        end = data.find(b"\n", told.offset) if told.offset >= 0 else -1
        try:
            if end < 0:
                raise ValueError("cut off")
            line = msgspec.json.decode(data[told.offset : end], type=Line)
        except (ValueError, RecursionError):
            place = f"raw/{path.name} at byte {told.offset}"
            raise Lacking(f"{place}: no whole line, and the log has item {key} there", damaged=True) from None
        found[key] = Answered(told, line, *_judged(told, line))
    return found


def _judged(told: e.Item, line: Line) -> tuple[Judged, bool]:
    """What the line's answer is worth; as the line says where it has no item to judge it by."""
    if line.asked is None:
        words: dict[str, Any] = {name: getattr(line, name) for name in Judged.__struct_fields__}
        return Judged(**words), False
    judged = judge(line.asked, line.answer)
    return (Judged(expected=judged.expected) if told.stopped == "context" else judged), True


def of_task(each: Answers, task: str) -> list[tuple[str, Answered]]:
    """Item and answer of a task, by the item's name."""
    mine = [(one.told.unit.item, one) for one in each.values() if clean(one.told.unit.task, 40) == task]
    return sorted(mine, key=lambda pair: pair[0])


def spans(each: Sequence[Answered]) -> npt.NDArray[np.int64]:
    return np.array([one.judged.spans or (0, 0, 0) for one in each], dtype=np.int64).reshape(-1, 3)


def pooled(name: str, each: Sequence[Answered]) -> float:
    right, wrong, missed = (float(total) for total in (spans(each) * np.array(F1[name])).sum(axis=0))
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 0.0
