"""Prompts that every arm answers: read whole or refused, answered the same each time, each answer kept and judged."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import headless, session
from quanttui.engine import protocol, scripted
from quanttui.engine.process import Engine, EngineDied, Interrupted
from quanttui.errors import UserError
from quanttui.measure import tasks
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, TokenArray
from quanttui.measure.tasks import asked, checks, prompts, templates
from quanttui.measure.tasks.generate import Answered, Answering, Ending
from quanttui.measure.tasks.items import digest
from quanttui.measure.tasks.judge import judge
from quanttui.measure.tasks.prefix import Memory
from quanttui.models import pocket
from quanttui.state import SHORT, TEXTS, fold
from quanttui.sweep import answers
from quanttui.sweep.runner import Options, Sweep
from tests import builders
from tests.test_sweep import SETTINGS, Bench

ASKED = msgspec.structs.replace(SETTINGS, tasks=("speed", "ppl", "prompts"), max_tokens=8)


def written(folder: Path, *lines: object) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


class TaskBench(Bench):
    """The bench of a sweep, with a task."""

    task = prompts.read(prompts.SHIPPED)

    def sweep(self) -> Sweep:
        made = super().sweep()
        options = Options(cache=self.cache, cache_bytes=2**30, text="text", tasks=(self.task,))
        return Sweep(made.writer, options, self.start, lambda emit: made._sampler)


# --- the file


def test_the_shipped_prompts_are_some_and_checked() -> None:
    (task,) = tasks.load(e.Settings(tasks=("prompts",)))
    assert 8 <= len(task.items) <= 12
    assert task.sha256 == hashlib.sha256(prompts.SHIPPED.read_bytes()).hexdigest()
    assert tasks.load(e.Settings(tasks=("speed", "ppl"))) == ()


RIGHT = {
    "sum": "85", "siblings": "Three.", "order": " Cleo", "negation": "table", "units": "150 minutes", "choice": "C.",
    "extract": '```json\n{"name": "Maria", "from": "Oslo", "to": "Lima", "year": 2011}\n```', "list": "[8, 14, 20]",
    "reverse": "pmal",
}  # fmt: skip
WRONG = {
    "sum": "185", "siblings": "two", "order": "Ann, not Cleo", "negation": "not red", "units": "1500", "choice": "A",
    "extract": '{"to": "Oslo"}', "list": "8, 14, 20", "reverse": "lamp",
}  # fmt: skip


@pytest.mark.parametrize(
    "item", [item for item in prompts.read(prompts.SHIPPED).items if item.check], ids=lambda item: item.id
)
def test_each_shipped_check_tells_a_right_answer_from_a_wrong_one(item: tasks.Item) -> None:
    assert item.check is not None
    assert checks.holds(item.check, RIGHT[item.id]) and not checks.holds(item.check, WRONG[item.id])


def test_a_prompt_is_known_by_its_id_or_by_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "a"}, "\n", {"id": 7, "prompt": "b"}, {"prompt": "c", "stop": ["."]})
    assert [item.id for item in prompts.read(path).items] == ["1", "7", "4"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: "),
        ("[" * 5000, "line 2: "),
        ('"text"', "line 2: "),
        ({"prompt": "a", "chek": 1}, "chek"),
        ({"prompt": 3}, "prompt"),
        ({"id": "x"}, "either prompt or messages"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "either prompt or messages"),
        ({"prompt": "  "}, "is empty"),
        ({"messages": []}, "is empty"),
        ({"messages": [{"role": "user", "content": ""}]}, "is empty"),
        ({"messages": [{"role": "robot", "content": "b"}]}, "robot"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "the last one must be the user's"),
        ({"id": "first", "prompt": "a"}, "is there already"),
        ({"id": "a\u001b[31m", "prompt": "a"}, "id "),
        ({"id": "i" * 81, "prompt": "a"}, "id "),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "check": {}}, "none"),
        ({"prompt": "a", "check": {"exact": "a", "regex": "b"}}, "exact and regex"),
        ({"prompt": "a", "check": {"regex": "("}}, "regex"),
        ({"prompt": "a", "check": {"choice": "E"}}, "choice"),
        ({"prompt": "a", "check": {"json_path": "$.a"}}, "equals"),
        ({"prompt": "a", "check": {"json_path": "a.b", "equals": 1}}, "json_path"),
        ({"prompt": "a", "check": {"schema": {"type": 3}}}, "schema"),
        ({"prompt": "a", "check": {"schema": [1]}}, "schema"),
        ({"prompt": "a", "check": {"schema": {}, "exact": "a"}}, "exact and schema"),
        ({"prompt": "a", "group": "a\u001b[31m"}, "group "),
    ],
)
def test_a_line_that_is_no_prompt_names_file_and_line_in_one_line(tmp_path: Path, line: object, said: str) -> None:
    path = written(tmp_path, {"id": "first", "prompt": "ok"}, line)
    with pytest.raises(UserError) as failure:
        prompts.read(path)
    told = str(failure.value)
    assert told.startswith(f"{path}: line 2: ") and said in told
    assert "\n" not in told and "\x1b" not in told


def test_no_file_an_empty_one_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", written(tmp_path, "\n \n"), tmp_path):
        with pytest.raises(UserError, match=str(path)):
            prompts.read(path)


@given_settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_prompts_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(data)
    try:
        prompts.read(path)
    except UserError as error:
        assert "\n" not in str(error)


# --- checks


@given(st.text(), st.text(" \n\t", max_size=3))
def test_an_exact_answer_may_have_blanks_around_it_and_nothing_else(text: str, blanks: str) -> None:
    check = checks.Check(exact=text)
    assert checks.holds(check, blanks + text + blanks)
    assert not checks.holds(check, text.strip() + "x")


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [("B", "B"), ("(C) since", "C"), ("Answer: D.", "D"), ("A cat, B", "A"), ("Bad", None), ("", None), ("e", None)],
)
def test_the_choice_is_the_first_letter_that_stands_alone(answer: str, chosen: str | None) -> None:
    assert checks.chosen(answer) == chosen


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, JSON)
def test_a_path_finds_what_lies_there_whatever_is_written_around_it(value: object, other: object) -> None:
    check = checks.Check(json_path="$.x[1].y", equals=value)
    inside = json.dumps({"x": [0, {"y": value}]})
    assert checks.holds(check, f"Sure: ```json\n{inside}\n``` there.")
    different = json.dumps(other, sort_keys=True) != json.dumps(value, sort_keys=True)
    assert checks.holds(check, json.dumps({"x": [0, {"y": other}]})) != different
    assert not checks.holds(check, json.dumps({"x": [value]})) and not checks.holds(check, "no JSON { here")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strng"}, "schema is none"),
        ({"pattern": "("}, "schema is none"),
        ({"$ref": "https://example.org/other.json"}, "refers to 'https://example.org/other.json'"),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}}, "refers to '#/$defs/a'"),
        ({"$ref": "#"}, "to itself without end"),
    ],
)
def test_a_schema_that_cannot_be_asked_is_refused_and_nothing_is_fetched(schema: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as failure:
        checks.validate(checks.Check(schema=schema))
    assert said in str(failure.value)


def test_a_schema_is_met_by_the_first_json_alone_and_nan_is_none() -> None:
    check = checks.Check(schema={"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]})
    checks.validate(check)
    for answer, holds in [
        ('{"a": 1}', True), ('Sure: ```json\n{"a": 1.5}\n```', True), ('{"a": "1"}', False), ('{"b": 1}', False),
        ('{"a": NaN}', False), ('{"b": {"a": 1}', False), ('{"b": [{"a": 1}, {"a', False), ('Use {x}: {"a": 1}', True),
        ('{"b": 1} {"a": 1}', False), ("", False), ("{" * 5000, False), ("[" * 5000, False),
    ]:  # fmt: skip
        assert checks.holds(check, answer) is holds, answer


def test_a_schema_may_refer_to_itself_and_to_its_own_parts() -> None:
    tree = {"type": "object", "properties": {"inner": {"$ref": "#"}, "n": {"$ref": "#/$defs/n"}},
            "additionalProperties": False, "$defs": {"n": {"type": "integer"}}}  # fmt: skip
    checks.validate(checks.Check(schema=tree))
    deep: object = {"n": 1}
    for _ in range(300):
        deep = {"inner": deep}
    assert checks.meets(tree, {"inner": {"inner": {"n": 2}}}) and not checks.meets(tree, {"inner": {"n": "2"}})
    assert not checks.meets(tree, {"inner": {"other": 2}}) and isinstance(checks.meets(tree, deep), bool)


@given(JSON)
def test_json_that_meets_its_schema_and_has_other_content_is_valid_and_wrong(value: object) -> None:
    check = checks.Check(schema={"type": "object", "required": ["x"]}, json_path="$.x", equals="right")
    checks.validate(check)
    item = tasks.Item(id="a", check=check)
    found = judge(item, json.dumps({"x": value}))
    assert (found.parsed, found.valid, found.correct) == (True, True, value == "right")
    broken = judge(item, json.dumps({"y": value}))
    assert (broken.parsed, broken.valid, broken.correct) == (True, False, False)
    assert judge(item, "right").parsed is judge(item, "right").valid is False


def test_a_choice_is_kept_with_its_letter_and_none_is_told() -> None:
    item = tasks.Item(id="a", check=checks.Check(choice="B"))
    right, wrong, none = (judge(item, answer) for answer in ("(B)", "C.", "I do not know"))
    assert (right.chosen, right.correct, right.parsed) == ("B", True, True)
    assert (wrong.chosen, wrong.correct, wrong.expected) == ("C", False, "B")
    assert (none.chosen, none.correct, none.parsed) == ("", False, False)
    assert judge(tasks.Item(id="a"), "B") == judge(tasks.Item(id="a"), "") and judge(item, "B").spans is None


def test_entities_are_right_where_all_are_named_and_nothing_else() -> None:
    check = checks.Check(entities=((0, 1, "PER"), (2, 4, "LOC")), tokens=("Ada", "left", "New", "Alden", "."))
    checks.validate(check)
    item = tasks.Item(id="a", check=check)
    both = [{"entity": "Ada", "type": "PER"}, {"entity": "New Alden", "type": "LOC"}]
    for named, spans in [(both, (2, 0, 0)), (both[:1], (1, 0, 1)), ([*both, both[0]], (2, 1, 0)), ([], (0, 0, 2))]:
        found = judge(item, json.dumps(named))
        assert found.spans == spans and found.correct is (named == both) and found.parsed is True
    assert judge(item, "none").spans == (0, 0, 2) and judge(item, "none").correct is False
    assert judge(item, "").expected == '[["Ada", "PER"], ["New Alden", "LOC"]]'
    for wrong in ((0, 6, "PER"), (2, 2, "PER"), (-1, 1, "PER")):
        with pytest.raises(UserError, match="within the 5 tokens"):
            checks.validate(checks.Check(entities=(wrong,), tokens=check.tokens))


# --- the shipped sets

TRAPS = """\
siblings-girl 1 one
siblings-boy 1 one
siblings-family 7 seven
siblings-sons 6 six
siblings-sister 5 five
siblings-brother 5 five
siblings-total 3 three
siblings-both 6 six
siblings-cousins 6 six
arithmetic-sheep 8 eight
arithmetic-bat 1 one
arithmetic-half 70
arithmetic-lily 29
arithmetic-machines 6 six
arithmetic-fence 9 nine
arithmetic-cuts 6 six
arithmetic-snail 8 eight
arithmetic-percent 96
arithmetic-order 15
arithmetic-bus 13
ordering-overtake 3 third
ordering-queue 8 eight
units-minutes 105
units-weight 700
units-litres 10 ten
units-speed 90
units-metres 307
units-seconds 150
units-area 40000 40,000
units-dozens 42
negation-even 3 three
negation-without 3 three
"""
"""Ids of those whose answer is a number, with it."""

NAMES = {
    "ordering-tallest": "Lea Max", "ordering-middle": "Sven Tilda", "ordering-first": "Zoe Udo",
    "ordering-oldest": "Rita Paul", "ordering-heaviest": "green blue", "ordering-days": "Tuesday Wednesday",
    "ordering-left": "vase lamp", "ordering-larger": "9.9 9.11", "units-feathers": "feathers iron",
    "negation-fruit": "carrot plum", "negation-legs": "spider cow", "negation-double": "open closed",
    "negation-none": "no yes", "negation-all": "no yes", "negation-unless": "yes no", "negation-only": "no yes",
    "negation-except": "Gil Bo",
}  # fmt: skip
"""Ids of the others but one, with the right answer and a wrong one."""

PHRASES = ("{}", "{}.", " {}\n", "**{}**", "The answer is {}.", "It is {}, I think.", "Answer: {}")


@pytest.fixture(scope="module")
def traps() -> dict[str, tasks.Item]:
    (task,) = tasks.load(e.Settings(tasks=("traps",)))
    return {item.id: item for item in task.items}


def test_there_are_forty_traps_and_more_of_five_kinds_and_each_is_checked_here(traps: dict[str, tasks.Item]) -> None:
    assert len(traps) >= 40
    assert Counter(item.group for item in traps.values()).keys() == {
        "siblings", "arithmetic", "ordering", "units", "negation",
    }  # fmt: skip
    assert {line.split()[0] for line in TRAPS.splitlines()} | NAMES.keys() | {"units-clock"} == traps.keys()


@pytest.mark.parametrize("line", TRAPS.splitlines(), ids=lambda line: line.split()[0])
def test_a_trap_takes_its_number_in_ordinary_words_and_no_other_number(traps: dict[str, tasks.Item], line: str) -> None:
    name, *right = line.split()
    number = int(right[0])
    sum_ = f"{number - 1} + 1 = {number}"
    for said in (*right, *(one.capitalize() for one in right), sum_, f"{number} of them"):
        assert all(judge(traps[name], phrase.format(said)).correct for phrase in PHRASES), said
    others = (number + 1, number - 1, number * 10, f"{number}.5", f"1{number}", f"{number}{number}", "eleven", "many")
    for wrong in (*others, f"{number}, no, {number + 1}", f"{number + 2} and not {number}", ""):
        assert not any(judge(traps[name], phrase.format(wrong)).correct for phrase in PHRASES), wrong


@given(st.integers(0, 10**6))
def test_no_number_but_the_right_one_is_right(number: int) -> None:
    (task,) = tasks.load(e.Settings(tasks=("traps",)))
    rights = {line.split()[0]: int(line.split()[1]) for line in TRAPS.splitlines()}
    for item in task.items:
        if item.id in rights:
            assert judge(item, f"There are {number}.").correct is (rights[item.id] == number)


@pytest.mark.parametrize("name", NAMES)
def test_a_trap_takes_the_right_name_in_ordinary_words_and_no_other(traps: dict[str, tasks.Item], name: str) -> None:
    right, wrong = NAMES[name].split()
    for phrase in PHRASES:
        assert judge(traps[name], phrase.format(right)).correct, phrase
        assert judge(traps[name], phrase.format(right.capitalize())).correct, phrase
        assert not judge(traps[name], phrase.format(wrong)).correct, phrase
        assert not judge(traps[name], phrase.format(f"{wrong}, not {right}")).correct, phrase
    assert not judge(traps[name], "").correct and not judge(traps[name], "None of these").correct


def test_a_time_is_one_time(traps: dict[str, tasks.Item]) -> None:
    item = traps["units-clock"]
    assert all(judge(item, said).correct for said in ("00:25", "0:25", "It ends at 00:25."))
    assert not any(judge(item, said).correct for said in ("24:25", "23:25", "10:25", "00:250", "25"))


def test_each_structured_prompt_shows_its_schema_and_tells_right_content_from_wrong() -> None:
    (task,) = tasks.load(e.Settings(tasks=("structured",)))
    assert len(task.items) >= 20 and len({item.group for item in task.items}) >= 3
    for item in task.items:
        check = item.check
        assert check is not None and check.schema is not None and check.json_path == "$"
        assert json.dumps(check.schema) in item.messages[-1].content
        right = judge(item, f"```json\n{json.dumps(check.equals, indent=2)}\n```")
        assert (right.correct, right.valid, right.parsed) == (True, True, True), item.id
        changed = [judge(item, json.dumps(other)) for other in variants(check.equals)]
        assert any(one.valid for one in changed) and not any(one.correct for one in changed), item.id
        cut = judge(item, json.dumps(check.equals)[:-1])
        assert (cut.correct, cut.valid, cut.parsed) == (False, False, False), item.id


def variants(value: object) -> Iterator[object]:
    """The value with one number, text or truth in it changed."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: other} for other in variants(inner))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in variants(inner))
    elif isinstance(value, bool) or value is None:
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif str(value)[-1:].isdigit():
        yield f"{str(value)[:-1]}{9 - int(str(value)[-1])}"
    else:
        yield {"positive": "negative", "supported": "unknown"}.get(str(value), "other")


# --- which are asked


def test_tasks_are_asked_in_one_order_with_the_thinking_that_is_wanted() -> None:
    def names(thinking: str, **changed: object) -> list[tuple[str, bool | None]]:
        wanted = e.Settings(tasks=("prompts", "speed", "traps"), thinking=thinking, **changed)  # type: ignore[arg-type]
        return [(task.name, task.thinking) for task in tasks.load(wanted)]

    assert names("") == names("auto") == [("traps", None), ("prompts", None)]
    assert names("off") == [("traps", False), ("prompts", False)]
    assert names("on") == [("traps", True), ("prompts", True)]
    assert names("both") == [
        ("traps", False), ("traps-thinking", True), ("prompts", False), ("prompts-thinking", True),
    ]  # fmt: skip


def test_thoughts_have_room_beside_the_answer_and_change_what_is_asked() -> None:
    off, on = tasks.load(e.Settings(tasks=("prompts",), thinking="both", max_tokens=100))
    for plain, thoughtful in zip(off.items, on.items, strict=True):
        assert thoughtful.max_tokens == asked.THOUGHT + (plain.max_tokens or 100)
        assert msgspec.structs.replace(thoughtful, max_tokens=plain.max_tokens) == plain
    assert off.sha256 != on.sha256


def test_plain_prompts_see_no_template_and_are_asked_once(tmp_path: Path) -> None:
    path = str(written(tmp_path, {"prompt": "a"}))
    for chat, times in ((False, 1), (True, 2)):
        assert len(tasks.load(e.Settings(tasks=("prompts",), thinking="both", prompts=path, chat=chat))) == times


@given(st.text(max_size=8), st.integers(1, 9))
def test_a_digest_is_of_the_items_and_not_of_how_they_were_made(text: str, most: int) -> None:
    one = tasks.Item(id="a", prompt=text, max_tokens=most, group="")
    assert digest([one]) == digest([msgspec.json.decode(msgspec.json.encode(one), type=tasks.Item)])
    assert digest([one]) != digest([msgspec.structs.replace(one, max_tokens=most + 1)]) != digest([one, one])


# --- chat templates

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_messages_are_put_into_the_models_template_open_for_the_answer() -> None:
    text, form = templates.rendered(CHATML, [("system", "Be brief."), ("user", "Hi <b>")], "<s>", "</s>")
    system, user = "system\nBe brief.", "user\nHi <b>"
    told = f"<s><|im_start|>{system}<|im_end|>\n<|im_start|>{user}<|im_end|>\n<|im_start|>assistant\n"
    assert (text, form) == (told, "chat")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{% if %}", "fails"),
        ("{{ nothing.at.all }}", "fails"),
        ("{{ 1 / 0 }}", "fails"),
        ("{% for i in range(10**9) %}x{% endfor %}", "fails"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails"),
        ("{{ messages.append(1) }}", "fails"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_and_the_prompt_is_plain(template: str, said: str) -> None:
    text, form = templates.rendered(template, [("system", "one"), ("user", "two")], "", "")
    assert text == "one\n\ntwo" and said in form and "\n" not in form


def test_a_template_is_told_the_same_day_always() -> None:
    template = "{{ strftime_now('%d %B %Y') }} {{ {'a': '<'} | tojson }}"
    assert templates.rendered(template, [("user", "x")], "", "") == ('26 July 2024 {"a": "<"}', "chat")


# --- the loop


class Parrot:
    """A context and vocabulary of bytes that says one text, whatever it is asked."""

    def __init__(self, says: bytes, n_ctx: int = 4096) -> None:
        self.says, self.n_ctx, self.n_batch, self.held, self.said = says, n_ctx, 4, 0, 0

    def clear(self) -> None:
        self.held = self.said = 0

    def prompt(self, tokens: TokenArray, position: int) -> None:
        assert position == self.held and len(tokens) <= self.n_batch
        self.held += len(tokens)

    def step(self, token: int, position: int) -> None:
        assert position == self.held < self.n_ctx
        self.held, self.said = self.held + 1, self.said + 1

    def synchronize(self) -> None: ...

    def likeliest(self) -> int:
        return self.says[self.said] if self.said < len(self.says) else 256

    def ends(self, token: int) -> bool:
        return token == 256

    def piece(self, token: int) -> bytes:
        return bytes([token])


def said(parrot: Parrot, prompt: int, max_tokens: int, stop: tuple[str, ...] = ()) -> Answered:
    answering = Answering(parrot, parrot, Clock(), Meter(), 0, Memory(parrot))
    unit = e.Unit(arm="A", kind="task", index=0, task="prompts", item="x")
    told = list(answering.answer(unit, np.zeros(prompt, np.int32), Ending(max_tokens, stop)))
    (found,) = [one for one in told if isinstance(one, Answered)]
    assert isinstance(told[0], e.UnitStarted) and isinstance(told[-1], e.UnitDone)
    assert sum(len(one.ns) for one in told if isinstance(one, e.Tokens)) in (found.tokens, found.tokens + 1)
    return found


STOPS = st.sampled_from([(), ("b.",), (".", "ba")])


@given(st.text("ab.é", max_size=20), st.integers(1, 30), st.integers(1, 12), STOPS)
def test_an_answer_ends_where_the_first_reason_lies(text: str, prompt: int, most: int, stop: tuple[str, ...]) -> None:
    whole = text.encode()
    found = said(Parrot(whole), prompt, most, stop)
    cuts = [at for one in stop if (at := whole.find(one.encode())) >= 0 and at + len(one) <= most]
    ends = [whole.find(one.encode()) + len(one) for one in stop if one.encode() in whole]
    if ends and min(ends) <= most:
        assert found.stopped == "stop" and found.text == whole[: min(cuts)].decode("utf-8", "replace")
    elif len(whole) < most:
        assert (found.stopped, found.text, found.tokens) == ("eos", text, len(whole))
    else:
        assert found.stopped == "length" and found.tokens == most


def test_a_prompt_as_long_as_the_context_is_told_and_one_shorter_is_answered() -> None:
    assert said(Parrot(b"abc", n_ctx=8), 8, 5).stopped == "context"
    short = said(Parrot(b"abc", n_ctx=8), 7, 5)
    assert (short.stopped, short.text) == ("length", "ab")


# --- the engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.start(tmp_path / "stderr.txt", time.monotonic_ns()) as started:
        yield started


def load(engine: Engine, file: Path = pocket.MODEL) -> None:
    list(engine.ask(protocol.Load(arm="A", file=str(file), settings=e.Settings(threads=1)), 120))


def ask(engine: Engine, text: str = "", most: int = 24, context: int = 256, **given: object) -> protocol.Generated:
    unit = e.Unit(arm="A", kind="task", index=0, task="prompts", item="x")
    prompt = protocol.Given(text=text, messages=given.pop("messages", ()))  # type: ignore[arg-type]
    request = protocol.Generate(unit=unit, prompt=prompt, max_tokens=most, context=context, **given)  # type: ignore[arg-type]
    told = list(engine.ask(request, 120))
    assert isinstance(told[-1], e.UnitDone) and told[-1].unit == unit
    (found,) = [one for one in told if isinstance(one, protocol.Generated)]
    return found


def with_template(folder: Path, template: str) -> Path:
    """The pocket model with a chat template in its header."""
    reader, target = gguf.GGUFReader(pocket.MODEL), folder / "templated.gguf"
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, one in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, inner = one.types[0], one.types[-1] if len(one.types) > 1 else None
            writer.add_key_value(name, one.contents(), kind, inner)
    writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_the_same_prompt_gets_the_same_answer_whatever_was_asked_before(engine: Engine) -> None:
    load(engine)
    first = ask(engine, "Once there was a kitten.")
    ask(engine, "Now something else entirely, and longer than that.")
    again = ask(engine, "Once there was a kitten.")
    assert (again.text, again.tokens, again.stopped) == (first.text, first.tokens, first.stopped)
    assert first.tokens == 24 and first.text.strip() and first.form == "plain"
    assert first.prompt == "Once there was a kitten." and first.ns > 0


def test_an_answer_is_a_beginning_of_the_longer_one_and_ends_before_its_stop(engine: Engine) -> None:
    load(engine)
    long = ask(engine, "Once there was a kitten.", 48)
    assert long.text.startswith(ask(engine, "Once there was a kitten.", 10).text)
    word = long.text.split()[3]
    stopped = ask(engine, "Once there was a kitten.", 48, stop=(word,))
    assert stopped.stopped == "stop" and long.text.startswith(stopped.text) and word not in stopped.text


def test_what_does_not_fit_the_context_is_told_and_not_cut(engine: Engine) -> None:
    load(engine)
    found = ask(engine, "kitten " * 400)
    assert (found.stopped, found.text, found.tokens) == ("context", "", 0) and found.prompt_tokens > 256
    (counts,) = engine.ask(protocol.Render(arm="A", prompts=(protocol.Given(text="kitten " * 400),)), 60)
    assert isinstance(counts, protocol.Rendered) and counts.tokens == (found.prompt_tokens,) and counts.most == 2048


def test_messages_go_through_the_template_of_the_file_and_plain_text_where_it_is_asked(
    engine: Engine, tmp_path: Path
) -> None:
    load(engine, with_template(tmp_path, "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"))
    messages = (("user", "Hello"),)
    chat = ask(engine, messages=messages)
    assert (chat.form, chat.prompt) == ("chat", "[user] Hello\n")
    assert (plain := ask(engine, "Hello")).prompt == "Hello" and plain.form == "plain"
    assert ask(engine, "Hello", chat=True).prompt == "[user] Hello\n"


def test_messages_without_a_template_are_plain_text_and_that_is_told(engine: Engine) -> None:
    load(engine)
    found = ask(engine, messages=(("system", "Be brief."), ("user", "Hello")))
    assert found.prompt == "Be brief.\n\nHello" and "no chat template" in found.form


def test_speed_after_answers_is_measured_in_a_context_of_its_own(engine: Engine) -> None:
    load(engine)
    ask(engine, "Hello")
    unit = e.Unit(arm="A", kind="decode", index=0, tokens=8)
    told = list(engine.ask(protocol.Speed(unit=unit), 120))
    assert any(isinstance(one, e.ContextMade) and one.phase == "decode" for one in told)
    assert ask(engine, "Hello").tokens == 24


def test_an_interrupt_ends_an_answer_and_spares_the_engine(engine: Engine) -> None:
    load(engine)
    unit = e.Unit(arm="A", kind="task", index=0, task="prompts", item="x")
    request = protocol.Generate(unit=unit, prompt=protocol.Given(text="Once"), max_tokens=32_000, context=2**15)
    with pytest.raises(Interrupted):
        for told in engine.ask(request, 120):
            if isinstance(told, e.Tokens):
                engine.interrupt()
    engine.close()
    assert engine._process.returncode is not None and engine._process.returncode >= 0


def test_real_models_of_other_vocabularies_answer(engine: Engine, shared: Path) -> None:
    load(engine, shared / "data" / "stories260K.gguf")
    found = ask(engine, "Once upon a time", 32)
    assert found.tokens == 32 and "\ufffd" not in found.text


# --- the sweep


def raw(bench: Bench, arm: str) -> list[dict[str, object]]:
    path = bench.folder / "raw" / f"{arm}.items.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_item_is_answered_once_by_every_arm_after_its_perplexity(tmp_path: Path) -> None:
    bench = TaskBench(tmp_path, {}, "AB", settings=ASKED)
    assert bench.sweep().run() == "ok"
    names = [item.id for item in bench.task.items]
    state = session.load(bench.folder)
    for arm in "AB":
        mine = [unit for unit in bench.units() if unit.startswith(f"{arm} ")]
        assert mine[-len(names) :] == [f"{arm} prompts item {name}" for name in names]
        assert list(state.arms[arm].items) == [f"prompts/{name}" for name in names]
        assert state.arms[arm].items_planned == {"prompts": len(names)}
        spans = [span for span in state.spans if (span.arm, span.phase) == (arm, "task")]
        assert len(spans) == 1 and spans[0].units == len(names)
    digests = {arm: [one.prompt for one in state.arms[arm].items.values()] for arm in "AB"}
    assert digests["A"] == digests["B"] and len(set(digests["A"])) == len(names)


def test_each_answer_lies_whole_in_raw_where_its_event_says(tmp_path: Path) -> None:
    long = "word " * 1000
    bench = TaskBench(tmp_path, {"A": scripted.Script(gb_s=None, answers={"story": long, "sum": "85"})}, "A",
                      settings=msgspec.structs.replace(ASKED, max_tokens=5000))  # fmt: skip
    story = next(item for item in bench.task.items if item.id == "story")
    items = [msgspec.structs.replace(item, max_tokens=None) if item is story else item for item in bench.task.items]
    bench.task = msgspec.structs.replace(bench.task, items=tuple(items))
    assert bench.sweep().run() == "ok"
    for event in session.Reader(bench.folder).events():
        if isinstance(event, e.Item):
            with open(bench.folder / event.file, "rb") as file:
                file.seek(event.offset)
                line = json.loads(file.readline())
            assert event.answer == line["answer"][: e.ANSWER] and line["item"] == event.unit.item
            assert hashlib.sha256(line["prompt"].encode()).hexdigest() == event.prompt == line["prompt_sha256"]
    answers = session.load(bench.folder).arms["A"].items
    assert raw(bench, "A")[-1]["answer"] == long and len(answers["prompts/story"].text) == e.ANSWER
    assert answers["prompts/sum"].correct is True and answers["prompts/order"].correct is False
    assert answers["prompts/story"].correct is None


def test_arms_differ_in_as_many_answers_as_their_scripts_say(tmp_path: Path) -> None:
    scripts = {"A": scripted.Script(differs=0.0, gb_s=None), "B": scripted.Script(differs=0.0, gb_s=None),
               "C": scripted.Script(differs=1.0, gb_s=None)}  # fmt: skip
    bench = TaskBench(tmp_path, scripts, settings=msgspec.structs.replace(ASKED, tasks=("prompts",), max_tokens=24))
    items = tuple(msgspec.structs.replace(item, max_tokens=None) for item in bench.task.items)
    bench.task = msgspec.structs.replace(bench.task, items=items)
    assert bench.sweep().run() == "ok"
    said = {arm: [one.text for one in a.items.values()] for arm, a in session.load(bench.folder).arms.items()}
    assert said["A"] == said["B"]
    assert all(a != c for a, c in zip(said["A"], said["C"], strict=True))


@given_settings(max_examples=25, deadline=None)
@given(st.floats(0, 1))
def test_a_log_cut_anywhere_is_resumed_to_the_same_answers_without_repeating_one(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    asked = msgspec.structs.replace(ASKED, tasks=("prompts",))
    whole = TaskBench(tmp_path_factory.mktemp("whole"), {}, "AB", settings=asked)
    whole.sweep().run()
    cut = TaskBench(tmp_path_factory.mktemp("cut"), {}, "AB", settings=asked)
    cut.sweep().run()
    log = cut.folder / session.EVENTS
    content = log.read_bytes()
    first = content.index(b"\n") + 1
    log.write_bytes(content[: first + round(share * (len(content) - first))])
    recorded = cut.units()
    assert cut.sweep().run() == "ok"
    assert cut.units()[: len(recorded)] == recorded and len(cut.units()) == len(set(cut.units()))
    assert set(cut.units()) == set(whole.units())

    def answered(bench: Bench) -> dict[tuple[str, str], tuple[object, ...]]:
        arms = session.load(bench.folder).arms.values()
        return {(a.id, k): (one.text, one.correct, one.prompt) for a in arms for k, one in a.items.items()}

    assert answered(cut) == answered(whole)


def test_a_line_that_a_crash_tore_is_left_behind_and_the_next_is_whole(tmp_path: Path) -> None:
    folder = session.create(tmp_path, "m", tmp_path / "s")
    unit = e.Unit(arm="A", kind="task", index=0, task="prompts", item="x")
    answer = protocol.Generated(
        unit=unit, prompt="p\ud800", form="plain", text="t", stopped="eos", tokens=1, prompt_tokens=1, at=0.0, ns=5
    )
    item = tasks.Item(id="x", prompt="p")
    answers.record(folder, unit, item, 1, msgspec.structs.replace(answer, prompt="p"))
    with open(folder / "raw" / "A.items.jsonl", "ab") as file:
        file.write(b'{"torn')
    told = answers.record(folder, unit, item, 1, msgspec.structs.replace(answer, prompt="p"))
    lines = (folder / "raw" / "A.items.jsonl").read_bytes().split(b"\n")
    assert lines[1] == b'{"torn' and json.loads(lines[2])["answer"] == "t"
    assert told.offset == len(lines[0]) + len(lines[1]) + 2


def test_an_engine_that_dies_over_an_item_costs_that_arm_alone(tmp_path: Path) -> None:
    died = EngineDied("crashed", "the engine was killed by signal 9 (SIGKILL)", 9)
    script = scripted.Script(gb_s=None, fails={"A prompts item order": died})
    bench = TaskBench(tmp_path, {"A": script}, "AB", settings=ASKED)
    assert bench.sweep().run() == "failed"
    assert bench.outcomes() == {"A": "crashed", "B": "ok"}
    state = session.load(bench.folder)
    assert state.arms["A"].attempts[-1].failed is not None and state.arms["A"].attempts[-1].failed.phase == "task"
    assert len(state.arms["A"].items) == 2


def test_a_deciding_sweep_has_every_arm_answer(tmp_path: Path) -> None:
    asked = msgspec.structs.replace(ASKED, until="decided", base="A")
    bench = TaskBench(tmp_path, {}, "ABC", settings=asked)
    assert bench.sweep().run() == "ok"
    assert all(len(arm.items) == len(bench.task.items) for arm in session.load(bench.folder).arms.values())
    assert len(bench.units()) == len(set(bench.units()))


def test_a_context_holds_every_item_and_no_more_than_the_model_was_trained_for() -> None:
    items = (tasks.Item(id="a", prompt="a"), tasks.Item(id="b", prompt="b", max_tokens=600))
    assert answers.context(items, protocol.Rendered(tokens=(500, 10), most=0), 128) == 768
    assert answers.context(items, protocol.Rendered(tokens=(500, 10), most=512), 128) == 512


def test_answers_kept_in_a_state_are_bounded_and_do_not_depend_on_how_often_one_came() -> None:
    arm = builders.Arm(answers={str(k): ("x" * e.ANSWER, None) for k in range(TEXTS // e.ANSWER + 50)})
    log = builders.Log((arm,), settings=builders.settings(tasks=("prompts",)))
    log.open()
    log.tasks(arm)
    kept = fold(log.events).arms[arm.name]
    assert kept.texts == sum(len(one.text) for one in kept.items.values()) <= TEXTS + 50 * SHORT
    assert {len(one.text) for one in kept.items.values()} == {e.ANSWER, SHORT}
    last = next(event for event in reversed(log.events) if isinstance(event, e.Item))
    assert fold([*log.events, last]).arms[arm.name].texts == kept.texts


def test_an_answer_draws_no_decode_speed() -> None:
    found = builders.state(builders.Arm(answers={"a": ("one", True)}))
    before = msgspec.json.encode(found.series["decode.tok_s"])
    unit = e.Unit(arm="Q8_0", kind="task", index=0, task="prompts", item="b")
    fold([e.UnitStarted(unit=unit, at=found.t), e.Tokens(unit=unit, first=0, ns=(10, 10))], found)
    assert msgspec.json.encode(found.series["decode.tok_s"]) == before and found.running is not None
    assert found.running.tokens == 2


def test_plain_lines_tell_how_an_arm_answered() -> None:
    said = {"a": ("one", True), "b": ("two", False), "c": ("three", None)}
    log = builders.events(builders.Arm(answers=said), settings=builders.settings(tasks=("prompts",)))
    state = fold([])
    lines = []
    for event in log:
        state.apply(event)
        lines += headless.lines(event, state)
    assert any("prompts: 3 of 3 answered, 1 of 2 right: 50.0 % (95 %: 9.5 to 90.5)" in line for line in lines)
