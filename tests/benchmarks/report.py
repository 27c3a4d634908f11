"""The HTML report of a session with tasks: `python -m tests.benchmarks.report --help`.

Eleven quants, each with speeds, perplexity, 500 four-way questions weighed and the entities of 300 sentences, answered
by the scripted engine. Every report is made by a process of its own, as a user makes it. Exit code 0 if the fastest
takes no more than SECONDS and the page no more than BYTES, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from quanttui import events as e
from quanttui import session
from quanttui.engine import scripted
from quanttui.measure.tasks import Item, Message, Task, checks
from quanttui.models import pocket
from quanttui.sweep.runner import Options, Sweep
from tests import builders

SECONDS, BYTES = 2.0, 2_000_000

QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M", "Q3_K_S", "Q2_K")
SUBJECTS = tuple(f"subject {k}" for k in range(10))
NAMES = {
    "PER": ("Ada", "Bruno", "Chen", "Dora"), "LOC": ("Oslo", "Lima", "Kyoto"), "ORG": ("Acme", "Globex"),
    "MISC": ("Latin", "Easter"),
}  # fmt: skip
BETWEEN = ("met", "near", "and", "left", "with", "for")


def questions(count: int = 500) -> Task:
    """Four-way questions, as many of each subject."""
    letters = checks.LETTERS
    items = []
    for number in range(count):
        subject = SUBJECTS[number * len(SUBJECTS) // count]
        header = f"Questions about {subject}.\n\n" + "An example with its answer.\n" * 5
        check = checks.Check(choice=letters[Random(f"right {number}").randrange(4)])
        items.append(
            Item(id=f"{subject}/{number}", prompt=f"{header}Question {number}?\nAnswer:", prefix=header, group=subject,
                 choices=tuple(f" {letter}" for letter in letters), check=check)
        )  # fmt: skip
    return Task(name="mmlu", items=tuple(items), sha256="")


def sentences(count: int = 300) -> Task:
    """Sentences with up to six entities, every sixth without any."""
    items = []
    for number in range(count):
        chance = Random(f"sentence {number}")
        tokens, entities = ["They"], []
        for _ in range(chance.randrange(1, 7) if number % 6 else 0):
            kind = chance.choice(sorted(NAMES))
            entities.append((len(tokens), len(tokens) + 1, kind))
            tokens += [chance.choice(NAMES[kind]), chance.choice(BETWEEN)]
        check = checks.Check(entities=tuple(entities), tokens=(*tokens, "."))
        asked = Message(role="user", content=f"List the entities of: {' '.join(tokens)} .")
        group = "entities" if entities else "none"
        items.append(Item(id=str(number), messages=(asked,), check=check, group=group, max_tokens=256))
    return Task(name="ner", items=tuple(items), sha256="")


def said(place: int, task: Task) -> dict[str, str]:
    """What the `place`-th quant answers: the more of it is wrong the smaller the quant."""
    answers = {}
    for item in task.items:
        check, chance = item.check, Random(f"{place} {item.id}")
        assert check is not None
        if check.entities is None:
            wrong = [letter for letter in checks.LETTERS if letter != check.choice]
            answers[item.id] = str(check.choice) if chance.random() > 0.3 + place / 50 else chance.choice(wrong)
        else:
            kinds = sorted(NAMES)
            named = [
                {"entity": check.tokens[begin], "type": kind if chance.random() > 0.1 else chance.choice(kinds)}
                for begin, _, kind in check.entities
                if chance.random() > 0.1 + place / 100
            ]
            answers[item.id] = json.dumps(named) if chance.random() > place / 200 else "None"
    return answers


def answered(folder: Path, sampler: Callable[[Any], Any]) -> Path:
    """The session, which the scripted engine sweeps here."""
    tasks = (questions(), sentences())
    scripts = {
        name: scripted.Script(
            gb_s=None, decode=20.0 + 2 * place, nll=2.0 + place / 100, chunks=40, spread=1.0,
            answers={item: text for task in tasks for item, text in said(place, task).items()},
        )
        for place, name in enumerate(QUANTS)
    }  # fmt: skip
    writer, clock = session.Writer(session.create(folder, "m", folder / "session")), scripted.Clock()
    plan = tuple(e.PlannedArm(id=name, quant=name, file=str(pocket.MODEL), bytes=2**20) for name in QUANTS)
    asked = builders.settings(
        tasks=("speed", "ppl", "mmlu", "ner"), prompt=64, context=64, batch=64, mmlu_score="logits", depths=(0,)
    )
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA, model="made-up", build=builders.build(), host=builders.host(), settings=asked, plan=plan,
            wall=1.7e9, origin_ns=writer.origin_ns, pid=os.getpid(), pid_started=1.0,
        )
    )  # fmt: skip
    options = Options(cache=folder / "cache", cache_bytes=2**30, text="text", tasks=tasks)
    try:
        Sweep(writer, options, lambda *_: scripted.Engine(scripts, clock), sampler).run()
    finally:
        writer.close()
    return writer.folder


class Silent:
    """A sampler that samples nothing."""

    def __init__(self, emit: Any) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def rate(self, hz: float) -> None: ...

    def watch(self, pid: int | None) -> None: ...

    def sample_now(self) -> e.Sample:
        return e.Sample(readings={})


def main(words: Sequence[str] | None = None) -> int:
    """Make the session, time its page, print both."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.report", description=__doc__)
    parser.add_argument("--times", type=int, default=5, metavar="N", help="how often the page is made (5)")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = answered(Path(name), Silent)
        page, taken = Path(name) / "page.html", []
        command = [sys.executable, "-m", "quanttui", "report", str(folder), "--format", "html", "--out", str(page)]
        for _ in range(args.times):
            page.unlink(missing_ok=True)
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - began)
        size = page.stat().st_size
    each = " ".join(f"{seconds:.2f}" for seconds in taken)
    print(f"{len(QUANTS)} quants, 500 + 300 items each: {size:,} bytes in {min(taken):.2f} s (each: {each})")
    return 0 if min(taken) <= SECONDS and size <= BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
