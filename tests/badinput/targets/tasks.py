"""What quants are asked: questions, sentences, prompts with their checks, chat templates; and what they may answer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.measure.tasks import checks, mmlu, ner, prompts, templates
from quanttui.measure.tasks.judge import judge

from ..structures import JSON, TOKENS, WORDS, encoded, keyed, lines
from ..target import Target, check, printable, put

# --- MMLU -----------------------------------------------------------------------------------------------------------

QUESTIONS = (
    b'"What is 2 + 2?",3,4,5,6,B\nWhich is a colour?,red,up,ten,slow,A\n'
    + b"".join(b'"Question, %d",a,b,c,d,%c\n' % (number, b"ABCD"[number % 4]) for number in range(6)),
    b'question,choice0,choice1,choice2,choice3,answer\nOne?,1,2,3,4,0\nTwo?,1,2,3,4,1\n"Th\nree?",1,2,3,4,2\n'
    + b"Four?,1,2,3,4,3\n" * 3,
    b"question,subject,A,B,C,D,answer\r\nOne?,x,1,2,3,4,A\r\n" + b"Two?,x,1,2,3,4,D\r\n" * 5,
)


def _mmlu(data: bytes, folder: Path) -> None:
    """Questions have four choices and an answer among them, and those of a plain file are its rows."""
    put(folder, "case_test.csv", data)
    put(folder, "case_dev.csv", data)
    logits = len(data) % 2 == 0
    asked = Settings(tasks=("mmlu",), mmlu=str(folder), mmlu_score="logits" if logits else "generate")
    task = mmlu.load(asked)
    check(task.items, "no item")
    for item in task.items:
        check(item.check is not None and item.check.choice in tuple("ABCD"), "an answer out of range")
        check(len(item.choices) == (4 if logits else 0) and item.group == "case", "an item")
        judge(item, "A")
    again = mmlu.load(asked)
    check(again == task, "another time something else")
    if b'"' not in data and b"\r" not in data and not data.lower().startswith((b"question", b"\xef\xbb\xbfquestion")):
        rows = [line.split(",") for line in data.removeprefix(b"\xef\xbb\xbf").decode().split("\n") if line]
        letters = [row[5].strip() for row in rows]
        answers = {item.id: item.check.choice for item in task.items if item.check}
        for number, letter in enumerate(letters, 1):
            wanted = "ABCD"[int(letter)] if letter in "0123" else letter
            check(answers.get(f"case/{number}", wanted) == wanted, f"row {number} has another answer")


_ROW = st.lists(TOKENS, min_size=5, max_size=5).flatmap(
    lambda cells: st.sampled_from([*"ABCD0123E4", ""]).map(lambda answer: _csv([*cells, answer]))
)
QUIZZES = st.lists(_ROW, max_size=8).map(b"".join) | lines(
    TOKENS | st.sampled_from(["question", "answer", "A", "choice0"]), ","
)


def _csv(cells: list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode("utf-8", "surrogatepass")


# --- CoNLL ----------------------------------------------------------------------------------------------------------

SENTENCES = (
    b"-DOCSTART- -X- -X- O\n\nMarta NNP B-NP B-PER\nOliveira NNP I-NP I-PER\nsold VBD B-VP O\nHalden NNP B-NP B-ORG\n\n"
    b"Lisbon NNP B-NP I-LOC\nPorto NNP B-NP B-LOC\n. . O O\n",
    b"a O\nb B-X\r\nc I-X\r\n\r\nd I-Y\n",
)


def _ner(data: bytes, folder: Path) -> None:
    """Sentences have a tag for each token, and are those that another reading finds."""
    path = put(folder, "case.txt", data)
    found = ner.read(path)
    check(all(len(one.tokens) == len(one.tags) > 0 for one in found), "tokens and tags")
    tokens = [
        line.split()[0].decode()
        for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if line.split() and line.split()[0] != b"-DOCSTART-"
    ]
    check([token for one in found for token in one.tokens] == tokens, "other tokens than there are")
    for one in found:
        for start, end, kind in ner.spans(one.tags):
            check(0 <= start < end <= len(one.tags) and kind, "a span")
    task = ner.load(Settings(tasks=("ner",), ner=str(path), ner_items=5))
    for item in task.items:
        assert item.check is not None
        checks.validate(item.check)
        for answer in ("[]", '[{"entity": "Marta", "type": "PER"}]', data.decode("utf-8", "replace")[:500]):
            judged = judge(item, answer)
            check(judged.spans is not None and min(judged.spans) >= 0, "a score")


COLUMNS = lines(st.sampled_from(["Marta", "O", "B-PER", "I-PER", "B-", "-DOCSTART-", "NNP", ""]) | WORDS, " ")


# --- prompts --------------------------------------------------------------------------------------------------------

ITEMS: tuple[dict[str, Any], ...] = (
    {"id": "a", "prompt": "The capital of France is", "check": {"regex": "Paris"}, "max_tokens": 8, "stop": ["\n"]},
    {"messages": [{"role": "user", "content": "17 + 25?"}], "check": {"exact": "42"}, "group": "sums"},
    {"prompt": "Which?", "check": {"choice": "B", "of": "AB"}},
    {"prompt": "JSON", "check": {"json_path": "$.a[0].b", "equals": {"x": [1, None]}}},
    {
        "prompt": "JSON",
        "check": {
            "schema": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/n"}},
                "$defs": {"n": {"type": "number"}},
            },
            "json_path": "$.a",
            "equals": 1,
        },
    },
    {"prompt": "NER", "check": {"entities": [[0, 1, "PER"]], "tokens": ["Marta", "ran"]}},
)
PROMPTS = (b"\n".join(json.dumps(one).encode() for one in ITEMS) + b"\n", *(json.dumps(one).encode() for one in ITEMS))
ANSWERS = (
    "",
    "Paris",
    "a" * 40 + "!",
    " a" * 40,
    '{"a": [{"b": {"x": [1, null]}}]}',
    '{"a": 1}',
    "[" * 3000,
    '{"a":' * 3000,
    '"' + "a" * 3000,
    "B",
    "1 " * 200 + "=" * 200,
    '["' + "a" * 40 + '!"]',
    "{" * 50 + '"a"',
    "[[1]]",
    "0" * 5000,
    '{"a": 1' + "0" * 5000 + "}",
    "\ud800",
)


def _prompts(data: bytes, folder: Path) -> None:
    """A file is refused whole, or each of its prompts is one, and any answer to it is judged."""
    task = prompts.read(put(folder, "case.jsonl", data))
    ids = [item.id for item in task.items]
    check(ids and len(ids) == len(set(ids)), "ids")
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    check(len(ids) == len(lines), "items are lost")
    answers = (*ANSWERS, data.decode("utf-8", "replace")[:2000])
    for item in task.items[:4]:
        printable(item.id + item.group, "an id", "")
        # A check that takes too long does so with each answer: a few of them are enough.
        for answer in Random(len(data)).sample(answers, 3) if item.check and _is_program(item.check) else answers:
            judged = judge(item, answer)
            check(item.check is None or judged.correct in (True, False), "no verdict")
            check(isinstance(judged.expected, str), "what is expected")


def _is_program(check: checks.Check) -> bool:
    return check.regex is not None or check.schema is not None


BOMBS = (
    "(a+)+$",
    "(a|a)*b",
    "(.*=)?(.*=)?(.*=)?(.*=)?x",
    "(?:a?){40}a{40}",
    "^(\\w+\\s?)*$",
    "(x+x+)+y",
    "a{1,60000}b",
    "(",
    "(?P<a>",
    "[",
    "(?R)",
    "\\1",
    "(a)(?(1)b|c)",
    "(?i)(?s).",
    "(?<=a+)b",
    "()" * 200,
    "(?:" * 200,
    "a" * 9000,
)
SCHEMAS: tuple[Any, ...] = (
    {},
    True,
    {"type": "object"},
    {"pattern": "(a+)+$"},
    {"$ref": "#"},
    {"$ref": "https://example.invalid/x"},
    {"type": 3},
    {"items": {"pattern": "(a+)+$"}},
    {"patternProperties": {"(a+)+$": {}}},
    {"const": 10**400},
    {"multipleOf": 1e-300},
    {
        "$defs": {str(k): {"allOf": [{"$ref": f"#/$defs/{k + 1}"}] * 2} for k in range(40)} | {"40": {}},
        "$ref": "#/$defs/0",
    },
    {"anyOf": [{"anyOf": [{"$dynamicRef": "#x"}]}], "$dynamicAnchor": "x"},
    {"enum": []},
    {"uniqueItems": True},
    {"minLength": 2**70},
)
_CHECK = keyed(
    {
        "exact": WORDS,
        "regex": st.sampled_from(BOMBS) | WORDS,
        "choice": WORDS | st.sampled_from("ABCD"),
        "of": WORDS,
        "json_path": st.sampled_from(["$", "$.a", "$.a[0].b", "$[999999999]", "a", "$..", "$[-1]"]) | WORDS,
        "equals": JSON,
        "schema": st.sampled_from(SCHEMAS) | JSON,
        "entities": st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3), WORDS), max_size=3),
        "tokens": st.lists(WORDS, max_size=3),
    }
)
_ONE = st.one_of(
    st.sampled_from(BOMBS).map(lambda one: {"regex": one}),
    st.sampled_from(SCHEMAS).map(lambda one: {"schema": one}),
    _CHECK,
)
ASKED = st.lists(
    keyed(
        {
            "prompt": WORDS | st.just("x"),
            "check": _ONE,
            "id": WORDS | st.integers(),
            "max_tokens": st.integers(-1, 40_000),
            "stop": st.lists(WORDS, max_size=2),
            "group": WORDS,
            "messages": JSON,
        },
        ["prompt"],
    ),
    min_size=1,
    max_size=3,
).map(lambda each: b"\n".join(map(encoded, each)))


# --- chat templates -------------------------------------------------------------------------------------------------

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = tuple(
    text.encode()
    for text in (
        CHATML,
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{{ messages[0].content | trim }}{%- endif -%}"
        "{%- for m in messages -%}{%- if loop.index0 > 3 -%}{%- break -%}{%- endif -%}[INST] "
        "{{ m.content | tojson }} [/INST]{%- endfor -%}{{ strftime_now('%d %B %Y') }}",
        "{%- macro f(x) -%}{{ x.split('</think>')[-1].lstrip('\\n') }}{%- endmacro -%}{%- set ns = namespace(n=0) -%}"
        "{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}{{ f(m.content) }}{%- endfor -%}"
        "{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}{{ ns.n }}",
        "{{ raise_exception('only users') }}",
    )
)
ATTACKS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ 10 ** 10 ** 9 }}",
    "{{ range(10**12) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ [0] * 10**9 }}",
    "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ lipsum(n=10**6) }}",
    "{{ joiner.__init__ }}",
    "{{ messages.append({}) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ ''.join(messages) }}",
    "{{ undefined.x.y }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ dict(a=1).__class__ }}",
    "{{ strftime_now('%' * 10**6) }}",
    "{{ strftime_now(1) }}",
    "{{ raise_exception(messages) }}",
    "{{ 1 // 0 }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ messages | sort(attribute='x') }}",
    "{{ ('a' * 30) | urlize }}",
    "{% set x = [] %}{{ x.append(x) }}{{ x | tojson }}",
    "{{ range(99999) | list | tojson | length }}",
    "{{ messages | pprint }}",
    "{{ 'a' | attr('__class__') }}",
    "{{ 'é' * 3 }}",
    "{{ '\\ud800' }}",
    "{% raw %}",
    "{%",
    "{{",
    "{#",
    "{% for %}",
)


def _template(data: bytes, folder: Path) -> None:
    """Whatever a template is, there is a text, and either it is the template's or it is said why not; no Python is
    reached by it."""
    source = data.decode("utf-8", "surrogateescape")
    messages = [("system", "Be brief."), ("user", "Hi <b>")]
    text, form = templates.rendered(source, messages, "<s>", "</s>", thinking=False if len(source) % 2 else None)
    check(isinstance(text, str) and form, "a text and its form")
    printable(form, "the form", "")
    reached = next(
        (mark for mark in ("<built-in", "<module", "<function", "'os.", "uid=") if mark in text and mark not in source),
        None,
    )
    check(reached is None, f"Python is reached: {reached}")
    if form != "chat":
        check(text == "Be brief.\n\nHi <b>", "neither the template's text nor the plain one")
        raise UserError(f"case: {form}")


_EXPRESSION = st.recursive(
    st.sampled_from(
        ["messages", "messages[0]", "'x'", "1", "10**9", "range(99999)", "bos_token", "namespace(a=1)", "cycler", "[]"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "**", "%", "~", "//", "in", "=="]), inner).map(
            lambda of: f"({of[0]} {of[1]} {of[2]})"
        ),
        st.tuples(
            inner,
            st.sampled_from(
                [
                    "trim",
                    "tojson",
                    "list",
                    "length",
                    "join",
                    "upper",
                    "items",
                    "string",
                    "first",
                    "center(10**9)",
                    "map('upper')",
                    "attr('__class__')",
                    "format(1)",
                    "indent(10**9)",
                    "sum",
                    "sort",
                    "groupby(0)",
                ]
            ),
        ).map(lambda of: f"({of[0]} | {of[1]})"),
        st.tuples(
            inner, st.sampled_from([".content", ".__class__", "['role']", ".format(1)", ".split('x')", "[::-1]", ".a"])
        ).map("".join),
    ),
    max_leaves=5,
)
MADE = st.lists(
    _EXPRESSION.map(lambda one: "{{ " + one + " }}")
    | _EXPRESSION.map(lambda one: "{% for a in " + one + " %}")
    | st.sampled_from(["{% endfor %}", "{% if messages %}", "{% endif %}", "{% break %}", "x", *ATTACKS]),
    max_size=4,
).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))

TARGETS = (
    Target(
        "mmlu",
        lambda: QUESTIONS,
        _mmlu,
        "text",
        QUIZZES,
        ("quanttui.measure.tasks.mmlu",),
        (b"question", b",answer", b"\n,,,,,\n"),
        names=("case_", str(Path("/dev/shm"))),
        share=1.5,
    ),
    Target(
        "conll",
        lambda: SENTENCES,
        _ner,
        "text",
        COLUMNS,
        ("quanttui.measure.tasks.ner",),
        (b" B-PER\n", b"-DOCSTART-", b" I-", b"\n\n"),
        names=("case.txt",),
        share=1.5,
    ),
    Target(
        "prompts",
        lambda: PROMPTS,
        _prompts,
        "lines",
        ASKED,
        ("quanttui.measure.tasks.prompts", "quanttui.measure.tasks.checks", "quanttui.measure.tasks.judge"),
        tuple(one.encode() for one in BOMBS),
        names=("case.jsonl",),
        share=1.0,
    ),
    Target(
        "chat-template",
        lambda: TEMPLATES,
        _template,
        "text",
        MADE,
        ("quanttui.measure.tasks.templates",),
        tuple(one.encode("utf-8", "surrogatepass") for one in ATTACKS),
        names=("chat template",),
        share=0.5,
    ),
)
