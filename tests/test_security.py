"""Nothing foreign acts on the terminal, the page, the shell or the disk: hostile strings through every way in and out.

What comes in from elsewhere: GGUF metadata and tensor names, names of files and folders, chat templates, an engine's
stderr, rows of data sets, tables to audit, runs of llama-bench, configuration and themes, other people's sessions,
another host's names, Ollama's manifests, the Hub's listings, requests to a sweep. What goes out: the screen, plain
lines, reports in all their forms, pictures, errors on stderr, names of files, arguments of ssh. Here are the pairs that
no other file of tests has (test_pty and test_screens: the screen; test_remote: ssh; test_web; test_fetch: the Hub).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import stat
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import audit_dependencies
import builders
import ggufs
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_html import own_markup_only
from test_imports import DECODE

from quanttui import cli, headless, paths, session
from quanttui import events as e
from quanttui import state as fold
from quanttui.doctor import observer
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.measure import corpus, divergence, perplexity
from quanttui.measure.tasks import templates
from quanttui.models import ollama, store
from quanttui.probes import bandwidth, kernels
from quanttui.remote import mirror, target, wire
from quanttui.report import formats, markup
from quanttui.sweep import requests

PACKAGE = Path(session.__file__).parent
posix = pytest.mark.skipif(os.name != "posix", reason="modes and names of POSIX")

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m\x07",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "C1": "\x9b31m\x9d0;owned\x9c\x85x",
    "bidi": "\u202eabc\u2066\u200f\u061cd",
    "zero width": "a\u200bb\ufeff\u200dc",
    "wide": "日本語" * 12,
    "long": "a" * 300,
    "markup": "[bold red]x[/] [@click=app.bell]y[/]",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": "\"'&</title></style>]]>",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1+cmd",
    "minus": "-2+cmd",
    "at": "@SUM(1)",
    "tab": "\t=1+1",
    "return": "\r=1+1\rx",
    "option": "-oProxyCommand=touch owned",
    "up": "../../../../owned",
    "NUL": "a\x00b",
    "lines": "a\nb\u2028c\u2029d\x0be",
    "private": "\ue000\U000e0041z",
    "markdown": "x](javascript:alert) `y` | z\n# t",
}
"""What somebody may name a model, or anything else."""

NO_TEXT = "a\udcff\udc80b"
"""A name on the disk, or an argument, that is no UTF-8, as Python has it."""

UNSAFE = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


def harmless(text: str) -> str:
    """The text, once it is sure that a terminal does nothing on account of it but show it."""
    wrong = {char for char in text if char in UNSAFE or (unicodedata.category(char) in ("Cc", "Cs") and char != "\n")}
    assert not wrong, (sorted(map(ascii, wrong)), [line for line in text.split("\n") if wrong & set(line)][:3])
    return text


# --- a session from elsewhere ---------------------------------------------------------------------------------------

WORDS = frozenset({
    "event", "kind", "phase", "outcome", "schedule", "kld", "until", "tasks", "mmlu_score", "thinking", "split_mode",
    "flash_attn", "load_mode", "form", "stopped", "how", "when", "request", "device", "quant", "role", "text_sha256",
    "sha256",
})  # fmt: skip
"""Fields whose words the program itself knows: the rest is anybody's."""


def spoiled(value: Any, words: Iterator[str], kept: frozenset[str], arms: dict[str, str]) -> Any:
    """An event's plain content with every string of it replaced by hostile ones, arms by the same ones everywhere."""
    if isinstance(value, dict):
        named = {"readings", "buffers", "tensor_types"} & value.keys()
        return {
            name: {next(words): number for number in one.values()} if name in named and name != "readings"
            else one if name in kept
            else arms.setdefault(one, f"{next(words)} {len(arms)}") if name in ("arm", "id") and one
            else spoiled(one, words, kept, arms)
            for name, one in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [spoiled(one, words, kept, arms) for one in value]
    return next(words) if isinstance(value, str) else value


def hostile_log(kept: frozenset[str] = WORDS) -> list[bytes]:
    """A session in which all that comes from elsewhere is hostile, as lines of its log."""
    answers = {f"q{place}": ("an answer", place % 2 > 0) for place in range(4)}
    arms = (
        builders.Arm("F16", chunks=6, answers=answers, error="x", label_note="x", imatrix="x", watts=40.0),
        builders.Arm("Q8_0", chunks=6, answers=answers, kld=0.01, label_note="x", page_in=0.2, cpu=0.3),
        builders.Arm("Q4_K_M", chunks=6, answers=answers, kld=0.02, gpu={"power": 200.0, "util": 90.0}),
        builders.Arm("Q2_K", fails="crashed", error="x", stderr=("x", "y", "z")),
        builders.Arm("Q3_K_S", fails="oom", fails_in="load", error="x", stderr=("x",)),
        builders.Arm("Q3_K_M", planned_only=True),
    )
    asked = builders.settings(
        tasks=("speed", "ppl", "kld", "prompts"), text="x", order=("F16", "Q8_0"), digests=(("x", "y"),),
        thresholds=(("x", 1.0),), bandwidth=(("x", 1.0),), base="x", prompts="x", kld_base="x",
    )  # fmt: skip
    about = builders.host(name="x", cpu="x", os="x", boot_id="x", gpus=(e.Gpu(name="x", driver="y"),))
    told = builders.events(*arms, settings=asked, host=about, notes=("x", "y"), build=builders.build(devices=("x",)))
    last = told.pop()
    for event in (
        e.ProbeFound(probe="x", detail="x", cost_us=1.0), e.ProbeLost(probe="x", why="x"),
        e.Control(request="skip", offset=9, arm="F16", value="x", refused="x"),
        e.Control(request="x", offset=19, refused="x"),
        e.PhaseStarted(arm="F16", phase="cool", why="x"), e.PhaseFailed(arm="F16", phase="cool", error="x"),
    ):  # fmt: skip
        told.append(msgspec.structs.replace(event, n=len(told), t=told[-1].t))
    told.append(msgspec.structs.replace(last, n=len(told), t=told[-1].t))
    words, names = cycle(HOSTILE.values()), {}
    plain = [spoiled(msgspec.json.decode(e.encode(event)), words, kept, names) for event in told]
    return [json.dumps(one).encode() + b"\n" for one in plain]


@pytest.fixture(scope="module", params=["names", "all words"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's session, its folder named by them as well."""
    kept = WORDS if request.param == "names" else frozenset({"event"})
    above = tmp_path_factory.mktemp("sessions")
    folder = session.create(above, "m", above / "2026 \x1b]0;owned\x07\u202e<b>")
    (folder / session.EVENTS).write_bytes(b"".join(hostile_log(kept)))
    reader = session.Reader(folder)
    assert len(list(reader.events())) > 200 and reader.dropped == 0
    return folder


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "config.toml"
    path.write_text(f'sessions_dir = "{tmp_path / "sessions"}"\ncache_dir = "{tmp_path / "cache"}"\n')
    return ["--config", str(path)]


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What was printed, harmless all of it; lines of CSV end as they do."""
    out, err = capsys.readouterr()
    return harmless(out.replace("\r\n", "\n")), harmless(err)


REPORTS = [["report", "--format", form] for form in (*formats.NAMES[:6], "llama-bench-jsonl")]


@pytest.mark.parametrize("words", [
    *REPORTS, ["report", "--json"], ["advise"], ["advise", "--json"], ["compare"],
    ["compare", "--json"], ["verify"], ["verify", "--json"], ["sessions", "--dry-run", "--repair"],
    ["sessions", "--json", "--dry-run", "--repair"],
], ids=" ".join)  # fmt: skip
def test_no_command_prints_what_acts_on_a_terminal(
    foreign: Path, config: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main([*config, *words, str(foreign)])
    out, err = said(capsys)
    assert code in (0, 1, 2) and "unexpected" not in err and "Traceback" not in err
    assert out or err.count("\n") == 1 or "llama-bench-jsonl" in words  # no lines where nothing was timed


def test_the_list_of_sessions_is_harmless(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'sessions_dir = "{foreign.parent}"\n')
    for more in ([], ["--json"]):
        assert cli.main(["--config", str(path), "sessions", *more]) == 0
        assert said(capsys)[0]


def test_plain_lines_are_harmless(foreign: Path) -> None:
    for terminal in (True, False):
        out = io.StringIO()
        over = threading.Event()
        over.set()
        headless.Lines(foreign, out, terminal).follow(over)
        assert harmless(out.getvalue().replace("\r", "")).count("\n") > 5


def test_a_picture_is_harmless_and_made_of_its_own_elements(foreign: Path, tmp_path: Path) -> None:
    from quanttui.tui.app import picture

    made = picture(foreign, None, (120, 40), note=HOSTILE["title"])
    for text in made:
        harmless(text)
    root = ElementTree.fromstring(made[0])
    names = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()}
    assert names <= {"svg", "style", "defs", "clipPath", "rect", "g", "text", "circle"}
    used = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in used if name.startswith("on") or "href" in name or name == "src"}
    json.loads(made[2])


# --- forms ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state(foreign: Path) -> fold.State:
    return session.load(foreign)


def test_a_page_has_no_elements_but_its_own_and_its_policy(foreign: Path, state: fold.State) -> None:
    page = formats.write("html", state, True, foreign)
    parsed = own_markup_only(page)
    policies = [one for one in parsed.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and "default-src 'none'" in str(policies[0]["content"])
    assert "script" not in {tag for tag, _ in parsed.found} and "&lt;script&gt;" in page


def test_cells_that_begin_a_formula_are_defused(foreign: Path, state: fold.State) -> None:
    rows = list(csv.reader(io.StringIO(formats.write("csv", state, True, foreign), newline="")))
    cells = [cell for row in rows for cell in row]
    assert len(rows) > 3 and any(cell.startswith("'") for cell in cells)
    for cell in cells:
        assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")), cell
        assert not cell.startswith("-") or re.fullmatch(r"-[0-9.e+-]+", cell), cell


def test_markdown_has_no_markup_but_its_own(foreign: Path, state: fold.State) -> None:
    told = formats.write("md", state, True, foreign)
    plain = told.replace("@<!-- -->", "")
    assert not re.search(r"<(?!br>)", plain) and not re.search(r"(?<!\\)\]\(", plain)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_what_becomes_part_of_a_page_stays_text(name: str) -> None:
    element = markup.element("p", HOSTILE[name], title=HOSTILE[name])
    root = ElementTree.fromstring(element)
    assert list(root) == [] and set(root.keys()) == {"title"}
    assert harmless(str(element)) and root.text == (clean(HOSTILE[name], markup.LIMIT) or None)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_clean_text_is_one_harmless_line(text: str) -> None:
    assert "\n" not in harmless(clean(text)) and len(clean(text, 40)) <= 40


# --- other ways in --------------------------------------------------------------------------------------------------


NAMES = {
    "controls": HOSTILE["colour"] + HOSTILE["title"] + HOSTILE["clipboard"] + HOSTILE["C1"],
    "directions": HOSTILE["bidi"] + HOSTILE["zero width"] + HOSTILE["private"] + HOSTILE["lines"],
    "markup": "[bold red]x[@click=app.bell]y\"'&<b>`$(x)`|*_# z",
    "formula": "=1+1\t@SUM\r+2",
    "option": HOSTILE["option"],
    "no text": NO_TEXT,
}
"""What a file may be called: some of HOSTILE at once."""


@posix
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_file_of_any_name_and_metadata_is_told_of_harmlessly(
    name: str, tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = NAMES[name]
    folder = tmp_path / f"f{text}"
    folder.mkdir()
    inside = text.replace("\udcff", "?").replace("\udc80", "?")
    keys = ("general.name", "general.basename", "tokenizer.chat_template", "quantize.imatrix.file")
    path = ggufs.write(folder / f"m{text}-Q8_0.gguf", ggufs.SMALL, **dict.fromkeys(keys, inside))
    broken = folder / f"broken{text}.gguf"
    broken.write_bytes(b"GGUF\x1b[2J")
    for words in (
        ["models", str(folder)], ["models", "--json", str(folder)], ["plan", "--json", str(path)],
        ["plan", str(broken)], ["quantize", str(path), "--to", "Q4_K_M", "--dry-run"],
        ["run", str(folder), "--headless"], ["audit", str(path)], ["import", str(path)], ["report", str(folder)],
        ["imatrix", str(path), "--text", str(path), "--out", str(folder)], ["ghost", str(folder), "--out", str(folder)],
        ["compare", str(folder)], ["verify", str(folder)], ["snapshot", str(folder)], ["run", "--resume", str(folder)],
    ):  # fmt: skip
        code = cli.main([*config, *words])
        out, err = said(capsys)
        assert "unexpected" not in err and (code == 0 or err.count("\n") == 1), (words[0], err)
        assert out or err


@pytest.mark.parametrize("turn", range(4))
def test_an_argument_of_any_kind_is_refused_in_one_harmless_line(
    turn: int, config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text in a fourth of the commands, each command with a fourth of the texts."""
    monkeypatch.chdir(tmp_path)
    texts = [text for name, text in HOSTILE.items() if name != "NUL"] + [NO_TEXT]
    for place, text in enumerate(texts):
        commands = (
            [text], ["report", "--format", text], ["--config", text, "sessions"], ["run", f"ollama:{text}"],
            ["plan", f"ghost:{text}"], ["run", "x.gguf", "--kv", text], ["run", "x.gguf", "--quants", text],
            ["run", "x.gguf", "--tasks", text], ["report", f"./{text}"], ["replay", f"./{text}", "--at", text],
            ["snapshot", "x", "--size", text], ["sessions", "--repair", f"./{text}"], ["advise", "--memory", text],
            ["compare", f"./{text}:{text}"], ["quantize", "x.gguf", "--to", text], ["web", "--token", f"{text}!"],
            ["doctor", "--pairs", text], ["fetch", text], ["attach", f"{text}@{text}"],
        )  # fmt: skip
        for words in commands[(place + turn) % 4 :: 4]:
            assert cli.main([*config, *words]) == 2, words
            out, err = said(capsys)
            assert out == "" and err.startswith("quanttui: ") and err.count("\n") == 1, (words, err)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_table_to_audit_is_told_of_harmlessly(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    columns = ["source", "device", "model", "quant", "size_gb", "tok_s", "ppl", "note"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for text in (text for name, text in HOSTILE.items() if name != "NUL"):
            writer.writerow([text, text, text, "Q8_0", "8.5", "900", "3.1", text])
            writer.writerow([text, text, f"{text} 8B", "Q4_K_M", "4.9", "20", "7.1", text])
    for more in ([], ["--json"]):
        assert cli.main([*config, "audit", str(path), *more]) in (0, 1)
        assert said(capsys)[0]
    for text in HOSTILE.values():
        path.write_text(f"model,quant,tok_s\nm,Q8_0,{json.dumps(text)}\n", encoding="utf-8")
        assert cli.main([*config, "audit", str(path)]) in (0, 2)
        said(capsys)


def test_a_configuration_and_a_theme_are_refused_harmlessly(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from quanttui.tui import theming

    path = tmp_path / "other.toml"
    for turn, text in enumerate(HOSTILE.values()):
        said_so = json.dumps(text)
        contents = (f"{said_so} = 1", f"theme = {said_so}", f"schedule = {said_so}", f"text {text}")
        path.write_text(contents[turn % 4], encoding="utf-8")
        assert cli.main(["--config", str(path), "sessions"]) in (0, 2)
        assert said(capsys)
        for content in (f"{said_so} = 1", f"name = {said_so}", f'[colours]\n{said_so} = "red"', text):
            (tmp_path / "themes").mkdir(exist_ok=True)
            (tmp_path / "themes" / "x.toml").write_text(content, encoding="utf-8")
            named, wrong = theming.load((tmp_path / "themes",))
            assert all(harmless(name) for name in (*named, *wrong))


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_ollamas_manifests_name_nothing_outside_its_store(name: str, tmp_path: Path) -> None:
    text = HOSTILE[name]
    manifest = tmp_path / "manifests" / ollama.HOST / "library" / "m" / "latest"
    manifest.parent.mkdir(parents=True)
    whole = "a" * 64
    for digest in (text, f"sha256:{text}", "sha256:../../../etc/passwd", f"sha256:{whole}/../x", f"sha256-{whole}"):
        manifest.write_text(json.dumps({"layers": [{"mediaType": ollama.LAYER, "digest": digest}]}))
        for found in ollama.models(tmp_path):
            assert found.error and harmless(found.error)
    try:
        harmless(str(ollama.resolve(f"ollama:{text}", (tmp_path,))))
    except UserError as error:
        harmless(str(error))


# --- names and requests ---------------------------------------------------------------------------------------------

ODD = (NO_TEXT, "..", ".", "", "/", "a/b", "C:\\x", "nul.txt")
ANY = st.text(max_size=200) | st.sampled_from([*HOSTILE.values(), *ODD])


@settings(deadline=None)
@given(ANY, st.sampled_from(["raw", "stderr", "snapshots"]))
def test_no_name_leaves_its_folder(name: str, kind: str) -> None:
    folder = Path("/sessions/one")
    path = session.part(folder, kind, f"{name}.nll")
    assert path.parent == folder / kind and harmless(path.name)
    assert re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", path.name) and len(path.name) <= session.LONGEST_NAME + 40


@settings(deadline=None)
@given(ANY, ANY)
def test_no_two_names_share_a_file(one: str, other: str) -> None:
    folder = Path("/sessions/one")
    same = session.part(folder, "raw", f"{one}.nll") == session.part(folder, "raw", f"{other}.nll")
    assert same == (one == other)


@settings(max_examples=50, deadline=None)
@given(ANY)
def test_a_session_is_named_below_its_folder(tmp_path_factory: pytest.TempPathFactory, model: str) -> None:
    above = tmp_path_factory.mktemp("sessions")
    made = session.create(above, model)
    assert made.parent == above and re.fullmatch(r"[a-z0-9-]+", made.name) and len(made.name) < 90


@settings(deadline=None)
@given(ANY, ANY, ANY)
def test_nothing_named_becomes_an_option_of_ssh_or_a_word_of_a_shell(user: str, host: str, name: str) -> None:
    for text in (f"{user}@{host}:{name}", f"{host}:{name}", f"ssh://{user}@{host}/{name}", f"{user}@{host}"):
        try:
            found = target.parse(text)
        except UserError as error:
            assert "\n" not in harmless(str(error))
            continue
        if found is None:
            continue
        words = target.command(found)
        at = words.index("--")
        assert words[at + 1] == found.destination and not found.destination.startswith("-") and len(words) == at + 3
        assert all(word in ("-T", "-o", "-p") for word in words[1:at] if word.startswith("-"))
        assert re.fullmatch(r"[A-Za-z0-9_.+\\@:%-]+", found.destination)


OF_A_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        name: ANY | st.integers() | st.floats(allow_nan=False) | st.none() | st.lists(st.integers(), max_size=3)
        for name in ("request", "arm", "value", "wall", "via", "more")
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=80) | OF_A_REQUEST.map(lambda one: json.dumps(one).encode()), max_size=8), st.data())
def test_any_request_is_taken_once_cleanly_and_refused_where_it_makes_no_sense(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("control")
    content = b"\n".join([*lines, b""])
    (folder / session.CONTROL).write_bytes(content)
    state = builders.state(builders.Arm("Q8_0"), closed=None)
    taken = [requests.judged(one, state) for one in session.requests(folder, 0)]
    for one in taken:
        harmless("".join((one.request, one.arm, one.value, one.refused)))
        assert max(map(len, (one.request, one.arm, one.value))) <= 80
        assert one.refused or one.request in requests.KNOWN
        assert one.refused or one.request not in requests.OF_AN_ARM or one.arm in state.arms
    offsets = [one.offset for one in taken]
    assert offsets == [
        place + 1 for place, byte in enumerate(content) if byte == 10 and content[:place].rpartition(b"\n")[2]
    ]
    after = data.draw(st.sampled_from([0, *offsets]))
    assert [one.offset for one in session.requests(folder, after)] == [one for one in offsets if one > after]


def test_a_giant_request_is_refused_and_what_follows_it_is_taken(tmp_path: Path) -> None:
    giant = json.dumps({"request": "skip", "arm": "a" * (3 << 20)}).encode() + b"\n"
    (tmp_path / session.CONTROL).write_bytes(giant + b'{"request":"pause"}\n')
    offset, seen = 0, []
    for _ in range(10):
        for one in session.requests(tmp_path, offset):
            seen.append(one)
            offset = one.offset
    assert offset == len(giant) + 20 and [one.request for one in seen if not one.refused] == ["pause"]
    assert all(len(one.arm) <= 80 for one in seen)


# --- templates ------------------------------------------------------------------------------------------------------

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['__builtins__'] }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].system('touch owned') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set x = messages.append({'role': 'system'}) %}{{ x }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ '%s'.__mod__ | attr('__globals__') }}",
    "{{ ('{0.__class__}').format(messages) }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_reaches_nothing_but_its_messages(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made, form = templates.rendered(template, [("user", "the question")], "<s>", "</s>")
    assert not re.search(r"<class|<function|module|root:|_subclass|TemplateReference|uid=", made), made
    assert form == "chat" or made == "the question"
    assert list(tmp_path.iterdir()) == []


# --- the code itself ------------------------------------------------------------------------------------------------

TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

FORBIDDEN = {
    "eval", "exec", "__import__", "builtins.eval", "builtins.exec", "code.interact", "ctypes.pythonapi",
    "os.system", "os.popen", "os.startfile", "pty.spawn", "asyncio.create_subprocess_shell",
    "os.execl", "os.execlp", "os.execv", "os.execvp", "os.spawnl", "os.spawnv",
    "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp",
    "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
    "numpy.load", "np.load", "torch.load", "joblib.load", "dill.loads", "cloudpickle.loads",
}  # fmt: skip


def dotted(node: ast.expr) -> str:
    """A name as it is written: `os.path.join`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(PACKAGE)), dotted(node.func), node


def test_no_shell_no_evaluation_and_no_unpickling_anywhere() -> None:
    assert len(TREES) > 150
    for place, name, call in calls():
        assert name not in FORBIDDEN, f"{place}:{call.lineno}: {name}"
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        assert "shell" not in given, f"{place}:{call.lineno}: shell="
        assert "executable" not in given or not name.startswith("subprocess"), f"{place}:{call.lineno}"


def test_a_process_is_started_by_a_list_of_words() -> None:
    """A string would be a shell's on one platform and a file's name on another."""
    by = ("subprocess.Popen", "subprocess.run", "subprocess.check_output", "subprocess.call")
    started = [one for one in calls() if one[1] in by]
    assert len(started) > 5
    for place, _, call in started:
        assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp), f"{place}:{call.lineno}"


def imported() -> Iterator[tuple[str, str]]:
    """Every module that is imported, with the names that are taken of it."""
    for path, tree in TREES.items():
        place = str(path.relative_to(PACKAGE))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((place, one.name) for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((place, f"{node.module}.{one.name}") for one in node.names)


def test_jinja_is_used_in_its_immutable_sandbox_alone() -> None:
    used = {(place, name) for place, name in imported() if name.startswith("jinja2")}
    assert {name for _, name in used} == {
        "jinja2.Template", "jinja2.TemplateError", "jinja2.sandbox.ImmutableSandboxedEnvironment",
    }  # fmt: skip
    assert not [call.lineno for _, name, call in calls() if name in ("Template", "jinja2.Template", "Environment")]


def test_only_what_has_to_speaks_to_a_network() -> None:
    """The Hub, data sets, the browser's server, and ssh, which is a program of its own."""
    speaking = re.compile(
        r"(socket|ssl|http|urllib\.request|requests|httpx|aiohttp|huggingface_hub|datasets|ftplib|smtplib)(\.|$)"
    )
    assert {place for place, name in imported() if speaking.match(name)} <= {
        "measure/hub.py", "measure/corpus.py", "models/fetch/hub.py", "models/fetch/transfer.py",
        "web/__init__.py", "web/server.py",
    }  # fmt: skip


# --- a sweep on a machine without a network, and with umask 0 -------------------------------------------------------

TRAP = """\
import os, socket
def caught(*asked, **more):
    with open(os.environ["DIALLED"], "a") as file:
        print(asked, file=file)
    raise OSError(101, "no network here")
def guarded(name):
    inner = getattr(socket.socket, name)
    def outer(self, *asked):
        return caught(*asked) if self.family in (socket.AF_INET, socket.AF_INET6) else inner(self, *asked)
    return outer
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, guarded(name))
socket.getaddrinfo = caught
"""

AFTERWARDS = """\
import os, sys
from pathlib import Path
from quanttui import cli
home, name = Path(sys.argv[1]), sys.argv[2]
folder = home / "sessions" / name
bench = home / "bench.json"
for words in (
    ["sessions"], ["sessions", "--json"], ["report", name], ["report", name, "--format", "html"], ["advise", name],
    ["compare", name], ["verify", name, "--files"], ["snapshot", name], ["models", str(home)], ["plan", sys.argv[3]],
    ["import", str(bench)], ["quantize", sys.argv[3], "--to", "Q4_0"], ["ghost"], ["audit", str(home / "t.csv")],
):
    code = cli.main(words)
    assert code == 0, (words, code)
with open(folder / "events.jsonl", "ab") as log:
    log.write(b"torn")
assert cli.main(["sessions", "--repair", name]) == 0
from quanttui import session
session.request(folder, "skip", "Q8_0")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The home of somebody with umask 0 and no network who swept a model and looked at it in every way, and where it
    would stand if anything had dialled."""
    top = tmp_path_factory.mktemp("machine")
    home, trap, dialled = top / "home", top / "trap", top / "dialled"
    for folder in (home, trap):
        folder.mkdir(mode=0o700)
    (trap / "sitecustomize.py").write_text(TRAP)
    dialled.touch()
    python = os.pathsep.join([str(trap), str(PACKAGE.parent)])
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "HF_", "QUANTTUI_"))}
    environment = kept | {
        "HOME": str(home), "PYTHONPATH": python, "DIALLED": str(dialled), "QUANTTUI_LOCK_DIR": str(top),
        "QUANTTUI_SESSIONS_DIR": str(home / "sessions"),
    }  # fmt: skip
    from quanttui.models import pocket

    (home / "t.csv").write_text("model,quant,tok_s\nLlama-3.1-8B,Q8_0,20\n")
    (home / "bench.json").write_text(json.dumps([DECODE]))
    for path in home.iterdir():
        path.chmod(0o600)

    def done(*words: str) -> None:
        run = subprocess.run(
            [sys.executable, *words], env=environment, cwd=home, umask=0, capture_output=True, text=True, timeout=240
        )
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
        assert "Traceback" not in run.stderr

    small = ["--quants", "F16,Q4_K_M", "--chunks", "2", "--tasks", "ppl,kld,prompts"]
    where = ["--headless", "--no-ghosts", "--session", str(home / "sessions" / "swept")]
    done("-m", "quanttui", "demo", *where, *small)
    done("-c", AFTERWARDS, str(home), "swept", str(pocket.MODEL))
    # The trap itself catches what does dial.
    words = ["-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"]
    proof = environment | {"DIALLED": str(top / "proof")}
    refused = subprocess.run([sys.executable, *words], env=proof, capture_output=True)
    assert refused.returncode and "192.0.2.1" in (top / "proof").read_text()
    return home, dialled


@posix
@pytest.mark.alone
def test_a_sweep_and_all_that_looks_at_it_dial_nobody(home: tuple[Path, Path]) -> None:
    assert home[1].read_text() == ""


@posix
@pytest.mark.alone
def test_all_that_is_made_is_its_users_alone_whatever_the_umask(home: tuple[Path, Path]) -> None:
    made = [path for path in home[0].rglob("*") if not path.is_symlink()]
    names = {str(path.relative_to(home[0])) for path in made}
    for expected in (
        "events.jsonl", "manifest.json", "control.jsonl", "raw/F16.nll", "raw/Q4_K_M.kld", "raw/Q4_K_M.items.jsonl",
        "stderr/F16.txt", session.BEFORE_REPAIR,
    ):  # fmt: skip
        assert f"sessions/swept/{expected}" in names
    assert any(name.startswith(".cache/quanttui/quants/") and name.endswith(".gguf") for name in names)
    assert any("snapshots/" in name and name.endswith(".svg") for name in names)
    modes = {str(path.relative_to(home[0])): stat.S_IMODE(path.stat().st_mode) for path in made}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def observed(cache: Path) -> None:
    kept = e.Observer(live=0.0, headless=0.0, pairs=1)
    observer.store(cache, builders.build(), 2, kept, [])


def mirrored(cache: Path) -> None:
    hello = wire.Hello(protocol=1, session="s", folder="/s", key="k", size=0, alive=False, wall=1.0)
    mirror.Store(cache / "remote" / "far", "far", hello).close()


def framed(cache: Path) -> None:
    folder = session.create(cache, "m")
    session.append_frame(folder / session.FRAMES, 0, fold.State())


def scored(cache: Path) -> None:
    paths.made(cache / "raw")
    perplexity.Raw(cache / "raw" / "A.nll", "raw/A.nll").close()
    divergence.BaseFile.create(cache / "raw" / "base.logits", 8, 4, 1, np.zeros(8, np.int32)).close()


def ghosted(cache: Path) -> None:
    store.prepare(cache / "quants", "as the cache of quants", private=True)
    target = cache / "quants" / "ghost.gguf"
    store.hold(target)
    target.touch()
    store.lock_up(target)


WRITERS: dict[str, Callable[[Path], object]] = {
    "observer": observed,
    "bandwidths": lambda cache: bandwidth.remember(cache / "bandwidth.json", builders.host(), 2, [30.0]),
    "rates": lambda cache: kernels._remember(cache / "kernels.json", {}),
    "a mirror": mirrored,
    "key frames": framed,
    "rows": scored,
    "quants": ghosted,
    "a text": lambda cache: corpus._keep(cache / "texts" / "t.txt", b"text"),
}
"""What is written below the cache or a session in ways that the sweep above does not take."""


@posix
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_each_writer_alone_writes_for_its_user_alone(name: str, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        WRITERS[name](tmp_path / "above" / "cache")
    finally:
        os.umask(before)
    made = list(tmp_path.rglob("*"))
    assert any(path.is_file() for path in made)
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []


# --- dependencies ---------------------------------------------------------------------------------------------------


def test_what_is_audited_is_what_is_installed() -> None:
    known = audit_dependencies.installed()
    assert {"msgspec", "numpy", "textual", "jinja2", "markupsafe", "llama-cpp-python", "rich", "pytest"} <= known.keys()
    assert "quanttui" not in known and all(known.values())
    assert audit_dependencies.installed(["web"]).keys() < known.keys()


FOUND = '{"dependencies": [{"name": "a\\u001b", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}'


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ((0, '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}'), 0, " 0 known vulnerabilities"),
        (
            (1, FOUND), 1, "a 1: X-1: mended in 2\n",
        ),
        ((2, "pip-audit is not installed: pip install pip-audit"), 2, "audit: pip-audit is not installed"),
        (
            (0, '{"dependencies": [{"name": "a", "skip_reason": "not found"}]}'), 2,
            "could not be asked about: not found",
        ),
    ],
)  # fmt: skip
def test_the_audit_tells_in_lines_and_by_its_exit_code(
    answer: tuple[int, str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_dependencies.main([], lambda known: answer) == code
    assert says in "".join(said(capsys))
