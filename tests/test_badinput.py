"""Bad input: the short form of the campaign, and what its long form has found, one case each."""

from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest

from quanttui import cli, config, events, imports, session, summary, transport
from quanttui.errors import UserError
from quanttui.measure.tasks import bounded, checks, prompts, templates
from quanttui.models import imatrix, outline
from quanttui.models.fetch import hub, named
from quanttui.remote import relay, wire
from quanttui.repository import Remote
from quanttui.transport import Cursor
from quanttui.tui import view
from quanttui.tui.parts import Own

CHECKOUT = Path(__file__).resolve().parents[1]
DEEP = b"[" * 100_000 + b"]" * 100_000


def test_whatever_is_read_is_read_rightly_or_refused_in_one_line() -> None:
    """The short form of `python -m tests.badinput`: no traceback, no hang, no blow-up, no wrong success."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.badinput", "--short"], cwd=CHECKOUT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path: Path, read: Any) -> str:
    """The line with which reading a file is refused; it names the file."""
    with pytest.raises(UserError) as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable() and path.name in line
    return line


# --- configuration and words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"[" * 5000 + b"]" * 5000, b"9" * 5000, b"0x" + b"f" * 5000, b"{" * 3000])
def test_toml_beyond_what_python_takes_is_refused(tmp_path: Path, value: bytes) -> None:
    path = put(tmp_path, "given.toml", b"chunks = " + value)
    refused(path, lambda path: config.load(file=path, environment={}))


@pytest.mark.parametrize("text", ["wall=nan", "wall=inf", "wall=1e999"])
def test_a_threshold_is_a_number(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="--thresholds"):
        config.load(flags={"thresholds": text}, environment={})
    name, _, value = text.partition("=")
    path = put(tmp_path, "given.toml", f"thresholds = {{ {name} = {value} }}".encode())
    refused(path, lambda path: config.load(file=path, environment={}))


@pytest.mark.parametrize("key", ["text", "quants", "keys"])
def test_bytes_that_are_no_text_are_refused_before_a_session_should_record_them(key: str) -> None:
    with pytest.raises(UserError, match=f"--{key} a"):
        config.load(flags={key: "a\udc90=b"}, environment={})


def test_a_time_of_a_thousand_digits_is_none() -> None:
    assert transport.seconds("9" * 400) is None
    assert transport.seconds("123456789h") == 123456789 * 3600.0


def test_a_word_that_is_too_long_for_a_file_is_no_command() -> None:
    with pytest.raises(UserError, match="is no command"):
        cli.parse(["A" * 5000])


# --- sessions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"beat","wall":1,"more":' + DEEP + b"}",
        b'{"event":"unheard-of","more":' + DEEP + b"}",
        b'{"event":"beat","wall":1,"t":-5}',
        b'{"event":"unheard-of","t":1e300}',
        b'{"event":"beat","wall":1,"t":1e300}',
        b'{"event":"beat","wall":1e300}',
        b'{"event":"beat","wall":1,"n":99999999999999999999999}',
        b'{"event":"sample","readings":{"mem.used":1e300}}',
        b'{"event":"tokens","unit":{"arm":"a","kind":"decode","index":0},"first":0,"ns":[-1]}',
        b'{"event":"perplexity","unit":{"arm":"a","kind":"perplexity","index":0},"chunk":0,"chunks":1,"scored":0,"nll":1,'
        b'"nll2":1}',
    ],
    ids=lambda line: line[:60].decode(),
)
def test_a_line_with_what_cannot_be_is_no_event(line: bytes) -> None:
    """Sums, rates and key frames are made of these numbers: they would not stand them."""
    with pytest.raises(ValueError):
        events.decode(line)


def test_a_phase_that_nobody_knows_is_clean_on_the_screen() -> None:
    """A log from elsewhere may have made one up."""
    hostile = "\x1b[31m\u202e\u200bphase"
    state = builders.state(builders.Arm("F16", tokens=2, repetitions=1, chunks=1), closed=None)
    state.apply(events.PhaseStarted(n=state.n + 1, t=state.t, arm="F16", phase=hostile))
    state.apply(events.PhaseProgress(n=state.n + 1, t=state.t + 1, arm="F16", phase=hostile, fraction=0.5))
    found = summary.summarize(state)
    shown = view.of(state, found, view.charts(state, found, 40), Cursor(), Own())
    assert "phase" in shown.phase_left
    assert all(text.isprintable() for text in (shown.phase, shown.phase_left, *(one.phase for one in shown.lane)))


def test_a_repetition_of_no_tokens_or_no_time_is_none() -> None:
    state = builders.state(builders.Arm("F16", tokens=2, repetitions=1, chunks=1))
    before = len(state.arms["F16"].attempts[0].prompt)
    for tokens, ns in ((0, 5), (5, 0)):
        unit = events.Unit(arm="F16", kind="prompt", index=9, tokens=5)
        state.apply(events.UnitDone(n=state.n + 1, t=state.t, unit=unit, at=0.0, tokens=tokens, ns=ns))
    assert len(state.arms["F16"].attempts[0].prompt) == before


def test_what_does_not_say_when_it_was_is_of_now() -> None:
    """A series has no place before its beginning."""
    state = builders.state(builders.Arm("F16", tokens=2, repetitions=1, chunks=1))
    now = state.t
    for fold in (state, type(state)()):
        fold.apply(events.Sample(readings={"mem.used": 5.0, "engine.rss": 1.0}))
        assert fold.readings_t == fold.t
    assert state.t == now


@pytest.mark.parametrize("change", [{"same_top": 256}, {"nll_base": 1e9}, {"kld": -1e9}, {"nll": 1e6}])
def test_a_chunk_of_which_no_figure_can_be_made_is_left_out_and_told(change: dict[str, float]) -> None:
    state = builders.state(builders.Arm("F16", chunks=3), builders.Arm("Q4_K_M", chunks=3, kld=0.02))
    arm = state.arms["Q4_K_M"]
    before = arm.rows.sums
    rows = builders.diverged(7, 8.0, 0.02, builders.Arm("F16"))
    unit = events.Unit(arm="Q4_K_M", kind="perplexity", index=7)
    told = events.Perplexity(unit=unit, chunk=7, chunks=8, scored=255, nll=change.pop("nll", 500.0), nll2=1500.0)
    told = msgspec.structs.replace(told, diverged=msgspec.structs.replace(rows, **change))
    state.apply(msgspec.structs.replace(told, n=state.n + 1, t=state.t))
    assert arm.rows.sums == before and 7 not in arm.chunks and "chunk 7 is left out" in state.notes[-1].text
    assert summary.summarize(state).arms[1].kld is not None


@pytest.mark.parametrize("offset", [-1, 2**40, 2**62, 2**70])
def test_a_relay_is_told_a_place_beyond_the_log(tmp_path: Path, offset: int) -> None:
    log = b"".join(map(events.encode, builders.events(builders.Arm("F16", tokens=2, repetitions=1, chunks=1))))
    put(tmp_path, session.EVENTS, log)
    asked = b'{"mirror":"from","offset":%d}\n' % offset
    with pytest.raises(UserError, match=r"relay: .* is no place in"):
        relay.serve(tmp_path, io.BytesIO(asked), io.BytesIO())


def test_any_number_may_stand_for_a_process() -> None:
    """A log from elsewhere says who wrote it."""
    assert not any(session.alive(pid, 0.0) for pid in (-5, 2**40, 2**70))


def test_nested_messages_of_a_relay_are_none() -> None:
    for read, name in ((wire.of_relay, b"relay"), (wire.of_mirror, b"mirror")):
        with pytest.raises(ValueError):
            read(b'{"' + name + b'":"hello","more":' + DEEP + b"}")


# --- models ---------------------------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 320, "max_position_embeddings": 2048,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":' + DEEP + b"}",
        json.dumps(LLAMA | {"num_hidden_layers": 1 << 24}).encode(),
        json.dumps(LLAMA | {"hidden_size": 1 << 24, "vocab_size": 1 << 24, "intermediate_size": 1 << 24}).encode(),
    ],
    ids=["nested", "layers", "weights"],
)
def test_a_config_of_no_model_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    refused(put(tmp_path, "config.json", content), lambda path: outline.named(f"ghost:{path}"))


def test_no_more_of_a_head_is_rotated_than_there_is(tmp_path: Path) -> None:
    path = put(tmp_path, "config.json", json.dumps(LLAMA | {"partial_rotary_factor": 1e11}).encode())
    assert outline.named(f"ghost:{path}").metadata["llama.rope.dimension_count"] == 16


class _Sibling:
    """A file as huggingface_hub tells of it."""

    def __init__(self, path: Any, size: Any, blob: Any, sha256: str = "") -> None:
        self.rfilename, self.size, self.blob_id = path, size, blob
        self.lfs = type("Lfs", (), {"sha256": sha256})() if sha256 else None


def test_what_a_hub_says_leads_to_no_other_folder() -> None:
    """A digest becomes a file's name in the cache."""
    good = _Sibling("m.gguf", 5, "0" * 40, "ab" * 32)
    found = hub._remote(good)
    assert found is not None and (found.path, found.bytes, found.blob) == ("m.gguf", 5, "ab" * 32)
    for bad in (
        _Sibling("m.gguf", 5, "../../x"), _Sibling("m.gguf", 5, "", "../../x"), _Sibling("m.gguf", -1, "0" * 40),
        _Sibling("m.gguf", "5", "0" * 40), _Sibling(5, 5, "0" * 40), _Sibling("m.gguf", None, "0" * 40),
    ):  # fmt: skip
        assert hub._remote(bad) is None


def test_a_path_of_a_hundred_thousand_characters_is_no_file() -> None:
    """To take it apart would take longer than anybody waits."""
    remote = [Remote(path=f"{'1-' * 50_000}.gguf", bytes=1), Remote(path="m-Q8_0.gguf", bytes=1)]
    offered, _ = named.offers(remote)
    assert [each.word for each in offered] == ["Q8_0"]
    assert named.choose(offered, ["q8_0"], "hf:a/b") == offered


# --- imports --------------------------------------------------------------------------------------------------------


def test_a_test_of_llama_bench_with_half_a_character_is_refused(tmp_path: Path) -> None:
    row = {"model_filename": "m-Q8_0.gguf", "n_batch": 1, "n_threads": 1, "n_prompt": 5, "n_gen": 0, "samples_ns": [5],
           "build_commit": "8cf427ff", "\ud800": 1, "test_time": "\ud800"}  # fmt: skip
    path = put(tmp_path, "bench.json", json.dumps([row]).encode())
    try:
        assert imports.read([path])
    except UserError as error:
        assert "bench.json" in str(error)


# --- checks and templates -------------------------------------------------------------------------------------------

BOMB = {
    "$defs": {str(k): {"allOf": [{"$ref": f"#/$defs/{k + 1}"}] * 2} for k in range(40)} | {"40": {}},
    "$ref": "#/$defs/0",
}


def test_a_regex_that_backtracks_for_ever_does_not_hold_and_the_next_has_its_own_answer() -> None:
    assert not checks.holds(checks.Check(regex="(a+)+$"), "a" * 40 + "!")
    assert [checks.holds(checks.Check(regex="(a+)+$"), text) for text in ("a" * 40, "x", "a")] == [True, False, True]


def test_a_schema_that_takes_for_ever_is_refused_or_not_met() -> None:
    with pytest.raises(UserError, match="takes more than 2 s"):
        checks.validate(checks.Check(schema=BOMB))
    assert not checks.meets({"items": {"pattern": "(a+)+$"}}, ["a" * 40 + "!"])
    assert checks.meets({"items": {"pattern": "(a+)+$"}}, ["a" * 40])


@pytest.mark.parametrize(
    "check",
    [
        b'{"schema":{"const":' + b"[" * 700 + b"]" * 700 + b"}}",
        b'{"json_path":"$","equals":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"regex":"' + b"(a|b)?" * 400_000 + b'"}',
    ],
    ids=["schema", "equals", "regex"],
)
def test_a_check_that_could_not_be_asked_is_refused_when_it_is_read(tmp_path: Path, check: bytes) -> None:
    path = put(tmp_path, "prompts.jsonl", b'{"prompt":"x","check":' + check + b"}")
    assert "line 1: check: " in refused(path, prompts.read)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 30000000 }}",
    ],
    ids=["loop", "memory", "doubled", "output"],
)
def test_a_template_that_takes_for_ever_or_all_memory_leaves_the_prompt_plain(template: str) -> None:
    text, form = templates.rendered(template, [("system", "one"), ("user", "two")], "", "")
    assert text == "one\n\ntwo" and ("takes more than 2 s" in form or "fails" in form)


@pytest.mark.parametrize("given", ["\ud800", "a\nb\0", "é" * 1000, math.inf, [1, None, {"a": 10**30}]])
def test_what_goes_to_a_bounded_call_comes_back(given: object) -> None:
    assert bounded.call(json.dumps, given) == json.dumps(given)


def test_an_importance_matrix_of_no_numbers_is_refused_without_a_warning(tmp_path: Path) -> None:
    entry = struct.pack("<ii1sii2f", 1, 1, b"w", 3, 2, math.nan, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(put(tmp_path, "m.dat", entry), imatrix.read)
