"""Items of tasks from a prompt to a record: what is shared changes nothing, what is recorded can be judged again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session
from quanttui.engine import protocol, scripted
from quanttui.engine.process import Engine
from quanttui.errors import UserError
from quanttui.measure import counters, tasks, thought
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, TokenArray
from quanttui.measure.tasks import Item, Message, Task, checks, choose, templates
from quanttui.measure.tasks.choose import Choosing, Weighed, question
from quanttui.measure.tasks.generate import Answered, Answering, Ending
from quanttui.measure.tasks.judge import judge
from quanttui.measure.tasks.prefix import Memory, common
from quanttui.models import pocket
from quanttui.state import fold
from quanttui.sweep import answers, launch
from quanttui.sweep.runner import Options, Sweep
from tests import builders
from tests.test_sweep import SETTINGS, Quiet
from tests.test_tasks import Parrot, with_template

FIXTURES = Path(__file__).parent / "fixtures"
MMLU = e.Settings(tasks=("mmlu",), mmlu=str(FIXTURES / "mmlu"), mmlu_items=6, threads=1)
LOGITS = msgspec.structs.replace(MMLU, mmlu_score="logits")
UNIT = e.Unit(arm="A", kind="task", index=0, task="t", item="x")


# --- a memory that prompts share

Piece = tuple[int, int, int]
"""A token, and the first and last position of what it was decoded with."""


class Remembering:
    """A context that knows of every token in its memory with which others it was decoded: that is what a value may
    depend on. It cannot drop a tail when it holds more than `window` tokens."""

    n_batch = 3

    def __init__(self, window: int) -> None:
        self.window, self.held, self.decoded = window, list[Piece](), 0

    def clear(self) -> None:
        self.held = []

    def keep(self, length: int) -> bool:
        fits = len(self.held) <= self.window
        del self.held[length:]
        return fits

    def prompt(self, tokens: TokenArray, position: int) -> None:
        assert position == len(self.held) and 0 < len(tokens) <= self.n_batch
        self.held += [(int(token), position, position + len(tokens)) for token in tokens]
        self.decoded += len(tokens)

    def synchronize(self) -> None: ...


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=10).map(lambda each: np.array(each, np.int32))


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=8), st.integers(0, 12))
def test_what_a_memory_holds_of_a_prompt_depends_on_it_and_its_prefix_alone(
    asked: list[tuple[TokenArray, TokenArray]], window: int
) -> None:
    context = Remembering(window)
    memory = Memory(context)
    for prompt, prefix in asked:
        there = memory.put(prompt, prefix)
        alone = Remembering(window)
        assert Memory(alone).put(prompt, prefix) == 0
        assert context.held == alone.held and [token for token, *_ in context.held] == prompt.tolist()
        assert there in (0, common(prefix, prompt[:-1]))
        context.prompt(np.array([1], np.int32), len(context.held))


def test_neighbours_decode_their_prefix_once() -> None:
    context = Remembering(100)
    memory, prefix = Memory(context), np.arange(8, dtype=np.int32)
    shared = [memory.put(np.append(prefix, [20 + k, 30]).astype(np.int32), prefix) for k in range(4)]
    assert shared == [0, 8, 8, 8] and context.decoded == 8 + 4 * 2


# --- the end of an answer


def said(parrot: Parrot, ending: Ending) -> Answered:
    answering = Answering(parrot, parrot, Clock(), Meter(), 0, Memory(parrot))
    told = list(answering.answer(UNIT, np.zeros(3, np.int32), ending))
    (found,) = [one for one in told if isinstance(one, Answered)]
    return found


@given(st.text("AB c.é_1", max_size=12))
def test_an_answer_ends_after_its_first_letter_that_stands_alone(text: str) -> None:
    found = said(Parrot(text.encode()), Ending(200, until="AB"))
    letter = checks.chosen(text, "AB")
    assert checks.chosen(found.text, "AB") == letter and text.startswith(found.text)
    if found.stopped == "stop":
        assert letter is not None and found.text.endswith(letter)
        assert found.tokens == len(text[: len(found.text) + 1].encode())
    else:
        assert found.text == text and (letter is None or text.endswith(letter))


THOUGHTS = [
    (b"", "<think>", "</think>"),
    (b"", "\n[THINK]", "[/THINK]"),
    (b"", "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    (b"<think>", "", "</think>"),
]


@pytest.mark.parametrize(("opened", "begin", "end"), THOUGHTS)
def test_thinking_is_split_from_the_answer_and_ends_nothing(opened: bytes, begin: str, end: str) -> None:
    text = f"{begin}so A or stop B{end}\n\nIt is C. Or D"
    found = said(Parrot(text.encode()), Ending(200, ("stop",), "ABCD", opened=opened))
    assert (found.text, found.stopped) == ("\n\nIt is C", "stop")
    assert "so A or stop B" in found.thinking and found.thought == len(found.thinking)


@pytest.mark.parametrize(("opened", "begin", "end"), THOUGHTS)
def test_an_answer_that_ends_amid_thinking_is_none(opened: bytes, begin: str, end: str) -> None:
    found = said(Parrot(f"{begin}{'A. ' * 99}".encode()), Ending(50, until="A", opened=opened))
    assert (found.text, found.stopped, found.tokens) == ("", "length", 50) and "A. A" in found.thinking
    assert found.thought is not None and 50 - len(begin) - 1 <= found.thought <= 50


def test_thinking_has_room_of_its_own_and_an_answer_without_it_has_none() -> None:
    text = b"<think>twelve bytes</think>after"
    assert said(Parrot(text), Ending(8)).text == ""
    assert said(Parrot(text), Ending(8, thinking=24)).text == "after"
    assert said(Parrot(b"x" * 99), Ending(8, thinking=24)).tokens == 8


@pytest.mark.parametrize(
    ("text", "answer", "count"),
    [("plain", "plain", None), ("a <think>b</think>", "a <think>b</think>", None), ("</think>\nB", "\nB", 0),
     ("<think>\n\n</think>\n\nB", "\n\nB", 0), ("<think>x</think>B", "B", 1)],
)  # fmt: skip
def test_only_what_is_thought_before_an_answer_counts(text: str, answer: str, count: int | None) -> None:
    found = said(Parrot(text.encode()), Ending(200))
    assert (found.text, found.thought) == (answer, count)


@given(st.binary(max_size=30), st.sampled_from([b"", b"<think>"]))
def test_any_bytes_are_thinking_and_answer_in_their_order(text: bytes, opened: bytes) -> None:
    found = thought.find(text, opened)
    if found is not None:
        assert 0 <= found.begin <= found.end <= (len(text) if found.answer is None else found.answer) <= len(text)


# --- the template's switch

QWEN = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


@pytest.mark.parametrize(("thinking", "closed"), [(None, False), (True, False), (False, True)])
def test_the_switch_is_given_to_a_template_that_has_it(thinking: bool | None, closed: bool) -> None:
    text, form = templates.rendered(QWEN, [("user", "Hi")], "", "", thinking)
    assert form == "chat" and text.endswith("</think>\n\n") == closed
    strict = "{% if enable_thinking is defined %}given{% endif %}"
    assert templates.rendered(strict, [("user", "Hi")], "", "", thinking)[0] == ("" if thinking is None else "given")
    assert not templates.has_switch("{{ messages }}") and templates.has_switch(QWEN)


def test_a_prompt_that_opens_the_thinking_is_known_by_its_end() -> None:
    assert thought.opened("[assistant]\n<think>\n") == b"<think>"
    assert thought.opened("[assistant]\n<think>\n\n</think>\n\n") == b"" == thought.opened("[assistant]\n")


def test_a_template_without_the_switch_is_told_once() -> None:
    state = builders.state(builders.Arm(), settings=builders.settings(tasks=("prompts",), thinking="off"))
    arm = next(iter(state.arms))

    def item(number: int, switched: bool | None) -> e.Item:
        unit = e.Unit(arm=arm, kind="task", index=number, task="prompts", item=str(number))
        return e.Item(
            unit=unit, items=9, prompt="p", form="chat", answer="a", stopped="eos", tokens=1, prompt_tokens=1, at=0.0,
            ns=1, switched=switched,
        )  # fmt: skip

    def notes() -> int:
        return sum("no switch" in note.text for note in state.notes)

    fold([item(0, None), item(1, None)], state)
    assert notes() == 1
    state.arms[arm].open_items().clear()
    fold([item(0, False)], state)
    assert notes() == 1


# --- choices


class Loaded:
    """A context over a made-up vocabulary of 5, whose logits depend on all that a sequence holds. Of all its sequences
    together it holds n_ctx tokens, those that several have once."""

    n_ctx, n_batch = 64, 4

    def __init__(self, n_seq: int = 8) -> None:
        self.n_seq = n_seq
        self.sequences: dict[int, list[tuple[int, int]]] = {}
        self.decoded, self.most = 0, 0
        self.logits: list[Any] = []

    def clear(self) -> None:
        self.sequences = {}

    def keep(self, length: int) -> bool:
        self.sequences = {0: self.sequences.get(0, [])[:length]}
        return True

    def fork(self, source: int, target: int) -> None:
        assert target not in self.sequences and 0 <= target < self.n_seq
        self.sequences[target] = list(self.sequences[source])

    def forget(self, sequence: int) -> None:
        del self.sequences[sequence]

    def prompt(self, tokens: TokenArray, position: int) -> None:
        count = len(tokens)
        places = np.arange(position, position + count, dtype=np.int32)
        self.decode_each(tokens, places, np.zeros(count, np.int32), np.zeros(count, np.bool_))

    def decode_each(self, tokens: TokenArray, positions: TokenArray, sequences: TokenArray, outputs: Any) -> None:
        assert 0 < len(tokens) <= self.n_batch and sequences.max() < self.n_seq
        self.logits = []
        for token, position, sequence, output in zip(tokens, positions, sequences, outputs, strict=True):
            held = self.sequences.setdefault(int(sequence), [])
            assert position == len(held)
            self.decoded += 1
            held.append((int(token), self.decoded))
            known = [each for each, _ in held]
            self.logits.append(np.random.default_rng(known).normal(size=5).astype(np.float32) if output else None)
        cells = {cell for held in self.sequences.values() for cell in held}
        self.most = max(self.most, len(cells))
        assert self.most <= self.n_ctx

    def logits_of(self, index: int) -> Any:
        return self.logits[index]

    def synchronize(self) -> None: ...


Asked = tuple[Sequence[int], Sequence[Sequence[int]]]
"""A prompt's tokens, and those of it with each choice behind it."""


def weighed(context: Loaded, each: Sequence[Asked], shared: Sequence[int] = ()) -> list[Weighed]:
    """What is found of questions that are asked at once, and told of each in turn."""
    choosing = Choosing(context, Clock(), Meter(), Memory(context))
    units = [msgspec.structs.replace(UNIT, index=at, item=str(at)) for at in range(len(each))]
    questions = [
        question(unit, np.array(prompt, np.int32), [np.array(one, np.int32) for one in wholes])
        for unit, (prompt, wholes) in zip(units, each, strict=True)
    ]
    told = list(choosing.choose(questions, np.array(shared, np.int32)))
    assert [type(one) for one in told] == [e.UnitStarted, Weighed, e.UnitDone] * len(each)
    assert [one.unit for one in told if isinstance(one, (e.UnitStarted, Weighed, e.UnitDone))] == [
        unit for unit in units for _ in range(3)
    ]
    done, found = told[2::3], [one for one in told if isinstance(one, Weighed)]
    for one, end in zip(found, done, strict=True):
        assert isinstance(end, e.UnitDone) and (end.tokens, end.ns, end.at) == (0, one.ns, one.at)
    return found


def likelihood(prompt: Sequence[int], whole: Sequence[int]) -> float:
    """By the definition: the product of each token's probability after all before it."""
    total = 0.0
    for at in range(len(prompt), len(whole)):
        odds = np.exp(np.random.default_rng(list(whole[:at])).normal(size=5).astype(np.float32).astype(float))
        total += float(np.log(odds[whole[at]] / odds.sum()))
    return total


CHOICES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4)


PROMPT = st.lists(st.integers(0, 4), min_size=1, max_size=9)


@given(PROMPT, CHOICES)
def test_a_choices_weight_is_the_sum_over_its_tokens_and_one_token_takes_no_decoding(
    prompt: list[int], choices: list[list[int]]
) -> None:
    context = Loaded()
    (found,) = weighed(context, [(prompt, [[*prompt, *choice] for choice in choices])])
    assert found.stopped == "choice"
    assert found.logs == pytest.approx([likelihood(prompt, [*prompt, *choice]) for choice in choices])
    assert context.decoded == len(prompt) + sum(len(choice) - 1 for choice in choices)


@given(PROMPT, st.lists(st.tuples(PROMPT, CHOICES), min_size=1, max_size=9), st.integers(3, 12), st.booleans())
def test_questions_asked_at_once_weigh_what_each_weighs_alone_and_read_their_beginning_once(
    shared: list[int], asked: list[tuple[list[int], list[list[int]]]], n_seq: int, beside: bool
) -> None:
    context = Loaded(n_seq)
    each = [([*shared, *prompt], choices) for prompt, choices in asked]
    found = weighed(
        context, [(prompt, [[*prompt, *one] for one in choices]) for prompt, choices in each], shared if beside else ()
    )
    for (prompt, choices), one in zip(each, found, strict=True):
        assert one.logs == pytest.approx([likelihood(prompt, [*prompt, *choice]) for choice in choices])
    alone = sum(len(prompt) + sum(len(one) - 1 for one in choices) for prompt, choices in each)
    assert context.decoded == alone - beside * (len(each) - 1) * len(shared)
    assert [one.shared for one in found] == [0, *[len(shared) * beside] * (len(each) - 1)]
    assert all(one.ns >= 0 and other.at > one.at + one.ns / 1e9 - 1e-6 for one, other in pairwise(found))


def test_choices_that_change_the_prompts_end_are_all_weighed_from_there() -> None:
    (found,) = weighed(Loaded(), [([1, 2, 3], [[1, 2, 4, 0], [1, 2, 3, 1]])])
    assert found.logs == pytest.approx([likelihood([1, 2], [1, 2, 4, 0]), likelihood([1, 2], [1, 2, 3, 1])])
    with pytest.raises(UserError, match="nothing of its prompt"):
        weighed(Loaded(), [([1], [[2, 3]])])


def test_choices_beyond_the_context_are_told_and_not_weighed_and_their_neighbours_are() -> None:
    prompt = [1] * (Loaded.n_ctx - 1)
    assert weighed(Loaded(), [(prompt, [[*prompt, 1]])])[0].stopped == "choice"
    long, short = (prompt, [[*prompt, 1], [*prompt, 1, 1]]), ([1, 2], [[1, 2, 3]])
    found = weighed(Loaded(), [short, long, short])
    assert [one.stopped for one in found] == ["choice", "context", "choice"] and found[1].logs == ()
    assert found[0].logs == found[2].logs == weighed(Loaded(), [short])[0].logs


COUNTS = st.none() | st.integers(0, 10**12)


@given(COUNTS, COUNTS, st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_the_shares_of_what_was_counted_add_up_to_all_of_it(
    cpu: int | None, faults: int | None, tokens: list[int]
) -> None:
    whole, cuts = e.Counters(cpu_ns=cpu, majflt=faults, rss=7), [sum(tokens[:at]) for at in range(len(tokens) + 1)]
    parts = [choose._part(whole, begin, end, cuts[-1]) for begin, end in pairwise(cuts)]
    assert counters.total(parts) == whole and all(part.rss == 7 for part in parts)


# --- which items are asked at once

WORDS = st.text("ab é", max_size=40)
ASKABLE = st.builds(
    lambda at, prefix, text, is_question: Item(
        id=str(at), prompt=f"{prefix}{text}x", prefix=prefix, choices=(" A", " B") if is_question else ()
    ),
    st.integers(), st.sampled_from(["", "Subject one. ", "Subject two. "]), WORDS | st.just("long " * 500),
    st.booleans(),
)  # fmt: skip


@given(st.lists(ASKABLE, max_size=30))
def test_only_neighbours_that_begin_alike_are_asked_at_once_and_no_more_than_is_read_well(items: list[Item]) -> None:
    groups = answers.together(items)
    assert [item for group in groups for item in group] == items
    for group in groups:
        own = sum(len(item.prompt.encode()) - len(item.prefix.encode()) for item in group)
        assert len(group) == 1 or (len(group) <= answers.TOGETHER and own <= answers.READ)
        assert len(group) == 1 or all(item.choices and item.prefix == group[0].prefix for item in group)
    for one, other in pairwise(groups):
        if one[-1].choices and other[0].choices and one[0].prefix == other[0].prefix:
            own = sum(len(item.prompt.encode()) - len(item.prefix.encode()) for item in (*one, other[0]))
            assert len(one) == answers.TOGETHER or own > answers.READ


def test_a_context_holds_what_is_asked_at_once_with_its_beginning_once() -> None:
    items = [Item(id=str(k), prompt=f"Header. {k}?", prefix="Header. ", choices=(" A", " B")) for k in range(3)]
    rendered = protocol.Rendered(tokens=(700, 800, 650), shared=(600, 600, 600), most=0)
    assert answers.context(items, rendered, 128) == 1024
    assert answers.context(items, msgspec.structs.replace(rendered, most=800), 128) == 800
    assert answers.context(items[:1], protocol.Rendered(tokens=(700,), shared=(600,)), 128) == 768


# --- the engine


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def started(file: Path = pocket.MODEL, kv: str = "f16") -> Engine:
        engines.append(Engine.start(tmp_path / f"{len(engines)}.txt", time.monotonic_ns()))
        list(engines[-1].ask(protocol.Load(arm="A", file=str(file), settings=e.Settings(threads=1, kv=kv)), 120))
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


STORIES = (
    "Once upon a time there was a small boat that went over a wide and quiet sea. ",
    "The kitten sat on the old wall in the garden and looked at the birds. It was warm. ",
)
ITEMS = (
    *(
        Item(id=f"{k}{end}", prompt=f"{story}{end}", prefix=story, choices=(" and", " but she", " the house", "."))
        for k, story in enumerate(STORIES)
        for end in ("One day", "In the evening the mother came", "Then")
    ),
    *(Item(id=f"say {k}", prompt=f"{story}Then", prefix=story, max_tokens=12) for k, story in enumerate(STORIES)),
    Item(id="alone", prompt="Far away", max_tokens=12),
    Item(id="weighed alone", prompt="Far away", choices=(" there", " from")),
)


Found = dict[str, Any]


def asked(
    engine: Engine, groups: Sequence[Sequence[Item]], context: int = 256
) -> dict[str, protocol.Generated | protocol.Chosen]:
    """What is answered to items, those of a group asked at once."""
    found: dict[str, protocol.Generated | protocol.Chosen] = {}
    for group in groups:
        units = [(msgspec.structs.replace(UNIT, item=item.id), item) for item in group]
        told = list(engine.ask(answers.request(units, e.Settings(), context), 120))
        each = [one for one in told if isinstance(one, (protocol.Generated, protocol.Chosen))]
        assert [one.unit.item for one in each] == [item.id for item in group]
        found |= {one.unit.item: one for one in each}
    return found


def alone(items: Sequence[Item]) -> list[tuple[Item]]:
    """Items that are asked one after the other."""
    return [(item,) for item in items]


def values(found: Mapping[str, protocol.Generated | protocol.Chosen]) -> Found:
    """What was answered, to the last bit."""
    return {
        name: (one.text, one.tokens, one.stopped) if isinstance(one, protocol.Generated) else one.logs
        for name, one in found.items()
    }


def test_answers_and_weights_are_the_same_to_the_bit_in_any_order_and_in_a_fresh_engine(
    start: Callable[..., Engine],
) -> None:
    engine, source = start(), random.Random(1)
    together = answers.together(ITEMS)
    assert [len(group) for group in together] == [3, 3, 1, 1, 1, 1]
    for groups in (together, alone(ITEMS)):
        first = asked(engine, groups)
        assert [name for name, one in first.items() if one.shared] == [ITEMS[k].id for k in (1, 2, 4, 5)]
        for _ in range(3):
            assert values(asked(engine, source.sample(groups, len(groups)))) == values(first)
        assert values(asked(start(), source.sample(groups, len(groups)))) == values(first)


@pytest.mark.parametrize(("kv", "within"), [("f32", 1e-3), ("f16", 2e-2)])
def test_sharing_changes_no_choice_and_weights_by_rounding_only(
    start: Callable[..., Engine], kv: str, within: float
) -> None:
    engine = start(kv=kv)
    weighing = [item for item in ITEMS if item.choices]
    bare = asked(engine, alone([msgspec.structs.replace(item, prefix="") for item in weighing]))
    assert not any(one.shared for one in bare.values())
    for groups in (answers.together(weighing), alone(weighing)):
        shared = asked(engine, groups)
        assert any(one.shared for one in shared.values())
        for one, other in zip(values(shared).values(), values(bare).values(), strict=True):
            assert int(np.argmax(one)) == int(np.argmax(other)) and np.abs(np.subtract(one, other)).max() <= within


def test_the_likeliest_next_token_is_the_one_that_is_said(start: Callable[..., Engine]) -> None:
    engine = start()
    begun = Item(id="x", prompt=STORIES[0], max_tokens=1)
    generated = asked(engine, alone([begun]))["x"]
    assert isinstance(generated, protocol.Generated)
    others = (" zebra", "!", " if")
    found = asked(engine, alone([msgspec.structs.replace(begun, choices=(*others, generated.text))]))["x"]
    assert isinstance(found, protocol.Chosen) and max(found.logs) == found.logs[-1] < 0
    assert sum(np.exp(found.logs)) <= 1


def test_what_is_too_long_for_the_context_is_told(start: Callable[..., Engine]) -> None:
    item = Item(id="x", prompt="kitten " * 300, choices=(" A", " B"))
    fits = Item(id="y", prompt="kitten ", choices=(" A", " B"))
    found, other = asked(start(), [(item, fits)]).values()
    assert isinstance(found, protocol.Chosen) and isinstance(other, protocol.Chosen)
    assert (found.logs, found.stopped) == ((), "context") and found.prompt_tokens > 256
    assert other.stopped == "choice" and len(other.logs) == 2


def test_a_real_template_gets_its_switch_and_shares_what_its_prompts_begin_with(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = start(with_template(tmp_path, QWEN))
    each = [
        Item(id=end, messages=(Message(role="user", content=f"{STORIES[0]}{end}"),), prefix=STORIES[0], max_tokens=4)
        for end in ("What then?", "Who came?")
    ]
    for thinking in (None, True, False):
        prompts = [answers.given(item, thinking) for item in each]
        requests = [
            protocol.Generate(unit=UNIT, prompt=prompt, max_tokens=4, context=256) for prompt in prompts
        ]
        found = [one for request in requests for one in engine.ask(request) if isinstance(one, protocol.Generated)]
        assert [one.switched for one in found] == [thinking, thinking] and [one.thought for one in found] == [0, 0]
        assert all(one.form == "chat" and ("</think>" in one.prompt) == (thinking is False) for one in found)
        assert found[1].shared > 0
    plain = [one for one in engine.ask(answers.request([(UNIT, ITEMS[-2])], e.Settings(), 256))]
    assert any(isinstance(one, protocol.Generated) and one.switched is None for one in plain)


# --- the sweep


class Study:
    """A session over the pocket model's file under several names that fit into memory together, with tasks."""

    def __init__(
        self,
        folder: Path,
        asked: Sequence[Task],
        arms: str = "ABC",
        scripts: Mapping[str, scripted.Script] | None = None,
        **settings: Any,
    ) -> None:
        self.folder, self.asked = folder / "session", tuple(asked)
        self.scripts = {arm: scripted.Script(gb_s=None, answers={}) for arm in arms} | dict(scripts or {})
        self.cache, self.clock = folder / "cache", scripted.Clock()
        names = tuple(dict.fromkeys(task.name.partition("-")[0] for task in asked))
        if self.folder.exists():
            return
        writer = session.Writer(session.create(folder, "m", self.folder))
        plan = tuple(e.PlannedArm(id=arm, quant="F16", file=str(pocket.MODEL), bytes=2**20) for arm in arms)
        settings = {"threads": 1, "tasks": names, "schedule": "sequential"} | settings
        writer.append(
            e.SessionOpened(
                schema=e.SCHEMA, model="m", build=builders.build(gpu_offload=False),
                host=e.Host(name="h", os="o", cpu="c", cores=2, threads=2, memory=2**34),
                settings=msgspec.structs.replace(SETTINGS, **settings), plan=plan, wall=1.0,
                origin_ns=writer.origin_ns, pid=os.getpid(), pid_started=1.0,
            )
        )  # fmt: skip
        writer.close()

    def start(self, stderr: Path, origin_ns: int) -> Any:
        return scripted.Engine(self.scripts, self.clock)

    def run(self) -> str:
        options = Options(cache=self.cache, cache_bytes=2**30, text="text", tasks=self.asked)
        memory = {"mem.total": 2.0**40, "mem.available": 2.0**40}
        writer = session.Writer(self.folder)
        try:
            return Sweep(writer, options, self.start, Quiet, memory=lambda: memory).run()
        finally:
            writer.close()

    def units(self) -> list[str]:
        done = (event for event in session.Reader(self.folder).events() if isinstance(event, e.UnitDone))
        return [event.unit.id for event in done]

    def lines(self, arm: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "raw" / f"{arm}.items.jsonl").read_bytes().splitlines()]

    def answered(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """All that does not depend on when it was answered, and what lay in memory."""
        state = session.load(self.folder)
        return {
            (arm.id, name): (
                one.text, one.correct, one.chosen, one.logs, one.parsed, one.valid, one.spans, one.thought, one.prompt,
                one.stopped, one.tokens,
            )
            for arm in state.arms.values()
            for name, one in arm.items.items()
        }  # fmt: skip


@pytest.fixture(scope="module")
def both() -> tuple[Task, ...]:
    """MMLU's fixtures by log-likelihood, and structured output."""
    (weighed,), (structured,) = tasks.load(LOGITS), tasks.load(e.Settings(tasks=("structured",)))
    return weighed, msgspec.structs.replace(structured, items=structured.items[:5])


@pytest.mark.parametrize("schedule", ["round-robin", "abba"])
def test_arms_that_are_loaded_together_answer_each_item_in_turn(
    tmp_path: Path, both: tuple[Task, ...], schedule: str
) -> None:
    study = Study(tmp_path, both, schedule=schedule)
    assert study.run() == "ok"
    groups = [
        [f"{task.name} item {item.id}" for item in group] for task in both for group in answers.together(task.items)
    ]
    assert len(groups) < sum(map(len, groups))
    arms = [list("CBA") if schedule == "abba" and at % 2 else list("ABC") for at in range(len(groups))]
    wanted = [f"{arm} {name}" for group, each in zip(groups, arms, strict=True) for arm in each for name in group]
    assert [unit for unit in study.units() if " item " in unit] == wanted
    state = session.load(study.folder)
    phases = [e_.phase for e_ in session.Reader(study.folder).events() if isinstance(e_, e.PhaseDone)]
    assert phases.count("task") == 3 and {arm.outcome for arm in state.arms.values()} == {"ok"}


def test_items_in_turn_come_after_all_perplexity(tmp_path: Path, both: tuple[Task, ...]) -> None:
    study = Study(tmp_path, both, "AB", schedule="round-robin", tasks=("ppl", "mmlu", "structured"))
    assert study.run() == "ok"
    kinds = ["item" if " item " in unit else "perplexity" for unit in study.units()]
    assert kinds == sorted(kinds, reverse=True) and "perplexity" in kinds


@given_settings(max_examples=12, deadline=None)
@given(st.floats(0, 1), st.sampled_from(["sequential", "abba"]))
def test_a_log_cut_anywhere_is_resumed_to_identical_answers_and_weights(
    tmp_path_factory: pytest.TempPathFactory, both: tuple[Task, ...], share: float, schedule: str
) -> None:
    whole = Study(tmp_path_factory.mktemp("whole"), both, "AB", schedule=schedule)
    whole.run()
    cut = Study(tmp_path_factory.mktemp("cut"), both, "AB", schedule=schedule)
    cut.run()
    log = cut.folder / session.EVENTS
    content = log.read_bytes()
    first = content.index(b"\n") + 1
    log.write_bytes(content[: first + round(share * (len(content) - first))])
    assert cut.run() == "ok"
    assert cut.answered() == whole.answered() and len(cut.units()) == len(set(cut.units())) == len(whole.units())


def test_a_choice_is_recorded_with_its_weights_and_its_letter(tmp_path: Path, both: tuple[Task, ...]) -> None:
    weighed = both[0]
    right = {item.id: str(item.check.choice) for item in weighed.items[:3] if item.check}
    study = Study(tmp_path, [weighed], "A", {"A": scripted.Script(gb_s=None, answers=right)})
    assert study.run() == "ok"
    for event in session.Reader(study.folder).events():
        if isinstance(event, e.Item):
            best = weighed.items[event.unit.index].choices[int(np.argmax(event.logs))].strip()
            assert event.chosen == event.answer == best and len(event.logs) == 4 and event.tokens == 0
            assert event.stopped == "choice" and event.parsed and event.group == event.unit.item.partition("/")[0]
            assert event.correct is (best == event.expected)
            assert event.correct or event.unit.item not in right


def test_every_line_can_be_judged_again_from_itself(tmp_path: Path, both: tuple[Task, ...]) -> None:
    ner = tasks.load(e.Settings(tasks=("ner",), ner=str(FIXTURES / "conll" / "iob2.txt")))
    firsts = {item.id: item.check.tokens[0] for item in ner[0].items[:3] if item.check}
    told = {name: json.dumps([{"entity": first, "type": "PER"}]) for name, first in firsts.items()}
    told |= {both[1].items[0].id: '{"a": 1}', both[1].items[1].id: "no JSON"}
    shipped, generated = tasks.load(e.Settings(tasks=("traps",))), tasks.load(MMLU)
    study = Study(tmp_path, (both[1], *ner, *shipped, *generated), "A", {"A": scripted.Script(gb_s=None, answers=told)})
    assert study.run() == "ok"
    kept = {event.unit.id: event for event in session.Reader(study.folder).events() if isinstance(event, e.Item)}
    lines = study.lines("A")
    assert len(lines) == len(kept) > 30
    for line in lines:
        item, event = msgspec.convert(line["asked"], Item), kept[line["unit"]]
        again = judge(item, line["answer"])
        assert again.correct is line["correct"] is event.correct and again.expected == line["expected"]
        assert (again.parsed, again.valid, again.chosen) == (event.parsed, event.valid, event.chosen)
        assert again.spans == event.spans == (tuple(line["spans"]) if line["spans"] else None)
    assert any(event.spans for event in kept.values())
    assert {event.parsed for event in kept.values()} == {None, True, False}


def test_an_item_too_long_for_the_context_is_counted_and_judged_by_nobody(tmp_path: Path) -> None:
    check = checks.Check(choice="A")
    long = Item(id="long", prompt="word " * 2000, choices=(" A", " B"), check=check)
    task = Task(name="mmlu", items=(long, Item(id="short", prompt="word", check=check)), sha256="")
    study = Study(tmp_path, [task], "A", {"A": scripted.Script(gb_s=None, trained=256)})
    assert study.run() == "ok"
    first = session.load(study.folder).arms["A"].items["mmlu/long"]
    assert (first.stopped, first.correct, first.chosen, first.logs, first.parsed) == ("context", None, "", (), None)
    assert first.expected == "A" and session.load(study.folder).arms["A"].items["mmlu/short"].correct is False


def test_an_answer_cut_off_amid_its_thinking_is_wrong_and_keeps_what_was_thought(tmp_path: Path) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "s")
    generated = protocol.Generated(
        unit=UNIT, prompt="p", form="chat", text="", stopped="length", tokens=9, prompt_tokens=1, at=0.0, ns=5,
        thinking="it could be A", thought=8, switched=False, shared=4,
    )  # fmt: skip
    item = Item(id="x", messages=(Message(role="user", content="q"),), check=checks.Check(choice="A"), group="g")
    told = answers.record(folder, UNIT, item, 1, generated)
    assert (told.correct, told.chosen, told.parsed, told.thought, told.switched) == (False, "", False, 8, False)
    assert (told.group, told.shared, told.answer) == ("g", 4, "")
    line = json.loads((folder / told.file).read_bytes())
    assert line["thinking"] == "it could be A" and line["asked"]["messages"] == [{"role": "user", "content": "q"}]


# --- a sweep that is killed, with the real engine


class Asking:
    """An engine of which no bandwidth is asked; it never gives its `last` answer."""

    def __init__(self, engine: Engine, last: int) -> None:
        self.pid, self.interrupt, self.close = engine.pid, engine.interrupt, engine.close
        self._engine, self._left = engine, last

    def ask(self, request: protocol.Request, patience: float = 600.0) -> Iterator[protocol.Answer]:
        if isinstance(request, (protocol.Bandwidth, protocol.Kernels)):
            return
        for told in self._engine.ask(request, patience):
            if isinstance(told, (protocol.Generated, protocol.Chosen)):
                self._left -= 1
                if self._left == 0:
                    threading.Event().wait()
            yield told


class RealStudy(Study):
    """With engines that load the pocket model: two tasks, and amid items that are asked at once one that is never
    answered."""

    def __init__(self, folder: Path, last: int = 0) -> None:
        (weighed,) = tasks.load(LOGITS)
        saying = tuple(item for item in ITEMS if not item.choices)
        super().__init__(folder, (weighed, Task(name="prompts", items=saying, sha256="")), "A")
        self.last = last

    def start(self, stderr: Path, origin_ns: int) -> Asking:
        return Asking(Engine.start(stderr, origin_ns), self.last)


KILLED = "import sys; from pathlib import Path; from tests.test_task_sweep import RealStudy; "


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
def test_a_sweep_killed_amid_its_items_goes_on_to_identical_answers_and_weights(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = RealStudy(tmp_path / "whole"), RealStudy(tmp_path / "killed")
    script = f"{KILLED}RealStudy(Path({str(tmp_path / 'killed')!r}), 5).run()"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
    assert whole.run() == "ok"
    began, pause = time.monotonic(), threading.Event()
    while len(killed.units()) < 4 and time.monotonic() - began < 120:
        assert process.poll() is None
        pause.wait(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    before = killed.units()
    assert len(before) == 4 and session.load(killed.folder).closed == ""
    assert [len(group) for group in answers.together(killed.asked[0].items)] == [3, 3]
    assert killed.run() == "ok"
    assert killed.answered() == whole.answered() and killed.units()[:4] == before
    assert killed.units() == whole.units() == list(dict.fromkeys(killed.units()))
    with_weights = [one for one in killed.answered().values() if one[3]]
    assert len(with_weights) == 6 and len({one[3] for one in with_weights}) == 6


# --- items that changed since


def test_a_session_knows_its_items_by_their_digests_and_refuses_others_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu"
    folder.mkdir()
    for path in (FIXTURES / "mmlu").glob("*.csv"):
        (folder / path.name).write_bytes(path.read_bytes())
    asking = launch.Request(
        settings=msgspec.structs.replace(MMLU, tasks=("mmlu", "traps"), mmlu=str(folder)), sessions_dir=tmp_path,
        cache_dir=tmp_path, cache_bytes=0,
    )  # fmt: skip
    settings = launch._settings(asking, (e.PlannedArm(id="A", quant="F16"),))
    assert dict(settings.digests) == {task.name: task.sha256 for task in tasks.load(settings)}
    launch._same_items(tmp_path, settings)
    changed = next(folder.glob("*_test.csv"))
    changed.write_text(changed.read_text().replace("a", "o"))
    with pytest.raises(UserError, match=rf"{folder}: the items of mmlu changed since {tmp_path} was begun"):
        launch._same_items(tmp_path, settings)


def test_a_session_that_knows_only_its_prompts_digest_is_resumed_by_that(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a"}\n')
    (task,) = tasks.load(e.Settings(tasks=("prompts",), prompts=str(path)))
    old = e.Settings(tasks=("prompts",), prompts=str(path), prompts_sha256=task.sha256)
    launch._same_items(tmp_path, old)
    path.write_text('{"prompt": "b"}\n')
    with pytest.raises(UserError, match=r"mine\.jsonl: the items of prompts changed"):
        launch._same_items(tmp_path, old)
