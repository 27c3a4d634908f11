"""`quanttui verify`: what was recorded comes out again of the raw lines, and whatever was changed since is found."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session, verify
from quanttui import state as fold
from quanttui.decide.study import study
from quanttui.engine import protocol
from quanttui.errors import UserError
from quanttui.measure.tasks import Item
from quanttui.measure.tasks.checks import Check
from quanttui.summary import summarize
from quanttui.sweep import answers
from quanttui.verify.figure import Figure, close, numbers, texts

POCKET = Path(__file__).resolve().parent.parent / "sessions" / "pocket"


def checked(folder: Path, **how: Any) -> dict[tuple[str, str], Figure]:
    return {(one.about, one.what): one for one in verify.verify(folder, **how)}


def not_same(folder: Path, **how: Any) -> dict[str, str]:
    """What is not the same, about and what, with its verdict."""
    return {f"{one.about} {one.what}": one.verdict for one in verify.verify(folder, **how) if one.verdict != "same"}


KEPT = ("F16", "Q8_0", "Q2_K")


@pytest.fixture(scope="module")
def fewer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped session with three of its quants alone."""
    folder = tmp_path_factory.mktemp("fewer")
    (folder / "raw").mkdir()
    for name in KEPT:
        for path in (POCKET / "raw").glob(f"{name}.*"):
            shutil.copy(path, folder / "raw")
    log = [e.decode(line) for line in (POCKET / "events.jsonl").read_bytes().splitlines()]
    others = {arm.id for arm in log[0].plan} - {*KEPT}  # type: ignore[union-attr]
    mine = [one for one in log if getattr(getattr(one, "unit", one), "arm", "") not in others]
    mine[0] = msgspec.structs.replace(mine[0], plan=tuple(one for one in mine[0].plan if one.id in KEPT))  # type: ignore
    written(folder, [msgspec.structs.replace(one, n=n) for n, one in enumerate(mine)])  # type: ignore[misc]
    return folder


@pytest.fixture
def pocket(fewer: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(fewer, tmp_path / "pocket"))


def line_with(folder: Path, *words: str) -> tuple[list[bytes], int]:
    """A log's lines, and the place of the first that has all of these words."""
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    return lines, next(at for at, line in enumerate(lines) if all(word.encode() in line for word in words))


def change(folder: Path, event: str, also: str, **values: Any) -> None:
    """Change fields of the first such event of a log."""
    lines, at = line_with(folder, f'"event":"{event}"', also)
    lines[at] = json.dumps(json.loads(lines[at]) | values).encode() + b"\n"
    (folder / "events.jsonl").write_bytes(b"".join(lines))


def poke(path: Path, place: int, by: float) -> None:
    """Add to one float64 of a file."""
    values = np.fromfile(path, "<f8")
    values[place] += by
    values.tofile(path)


# --- perplexity and speed -------------------------------------------------------------------------------------------


def test_every_figure_of_the_shipped_session_comes_out_again() -> None:
    found = checked(POCKET)
    assert {one.verdict for one in found.values()} == {"same"}
    for arm in ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K"):
        for what in ("perplexity", "decode tok/s and repetitions", "prompt tok/s, sd", "ns of each repetition", "file"):
            assert (arm, what) in found
    assert ("Q2_K", "KL divergence, percentiles") in found and ("Q2_K", "Δppl % against F16, 95 % sequence") in found
    assert verify.code(list(found.values()), strict=True) == 0


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda at: poke(at / "raw" / "Q8_0.nll", 300, 1e-3), "Q8_0 sums of nll of each chunk"),
        (lambda at: poke(at / "raw" / "F16.nll", 300, 1e-3), "Q2_K Δppl % against F16"),
        (lambda at: poke(at / "raw" / "Q2_K.kld", 300, 1e-3), "Q2_K sums against the base's rows of each chunk"),
        (lambda at: change(at, "perplexity", '"chunk":3,', nll=99.0), "F16 perplexity"),
        (lambda at: change(at, "perplexity", '"chunk":3,', offset=16), "F16 places in raw/"),
        (lambda at: change(at, "unit.done", '"kind":"decode"', ns=1), "F16 ns of each repetition"),
        (lambda at: change(at, "unit.done", '"kind":"prompt"', tokens=511), None),
        (lambda at: change(at, "tokens", '"kind":"decode"', ns=[1] * 128), "F16 decode tok/s and repetitions"),
        (lambda at: change(at, "arm.started", '"arm":"Q8_0"', sha256="00"), "Q8_0 file"),
        (lambda at: change(at, "arm.started", '"arm":"Q8_0"', bits_per_weight=8.4), "Q8_0 bits per weight"),
        (lambda at: change(at, "session.opened", "", model="another"), "session model"),
    ],
)
def test_what_was_changed_is_named(pocket: Path, spoil: Callable[[Path], None], named: str | None) -> None:
    spoil(pocket)
    found = list(verify.verify(pocket))
    differing = [f"{one.about} {one.what}" for one in found if one.verdict == "differs"]
    if named is not None:
        assert named in differing
        assert verify.code(found) == 1
    else:  # figures rest on it on both sides alike: a prompt's tokens stand nowhere else
        assert not differing


def test_the_chunk_that_differs_is_told(pocket: Path) -> None:
    poke(pocket / "raw" / "Q8_0.nll", 3 * 255 + 7, 0.5)
    one = checked(pocket)["Q8_0", "sums of nll of each chunk"]
    assert one.recorded.startswith("chunk 3: ") and one.recomputed.startswith("chunk 3: ")
    assert one.recorded != one.recomputed


def test_the_manifest_is_held_against_the_log(pocket: Path) -> None:
    path = pocket / "manifest.json"
    told = json.loads(path.read_text())
    told["files"][2]["sha256"], told["settings"]["threads"], told["host"]["cpu"] = "00", 64, "another"
    path.write_text(json.dumps(told))
    assert set(not_same(pocket)) == {"session host", "session settings", f"{told['files'][2]['arm']} file"}
    path.write_text("{")
    assert not_same(pocket) == {"session manifest.json": "unreadable"}
    path.unlink()
    assert not_same(pocket) == {"session manifest.json": "missing"}


def test_what_is_missing_is_named_and_no_error_unless_one_is_strict(pocket: Path) -> None:
    shutil.rmtree(pocket / "raw")
    found = list(verify.verify(pocket))
    missing = [one for one in found if one.verdict == "missing"]
    assert {one.about for one in missing} == {*KEPT}
    assert all(f"raw/{one.about}.nll is missing" in one.source for one in missing)
    assert {one.verdict for one in found} == {"same", "missing"}
    assert (verify.code(found), verify.code(found, strict=True)) == (0, 2)


@pytest.mark.parametrize(("name", "about"), [("Q8_0.nll", "Q8_0 perplexity"), ("Q8_0.kld", "Q8_0 KL divergence")])
def test_a_torn_raw_file_is_named_and_unreadable(pocket: Path, name: str, about: str) -> None:
    path = pocket / "raw" / name
    path.write_bytes(path.read_bytes()[:-9])
    found = {f"{one.about} {one.what}": one for one in verify.verify(pocket)}
    assert found[about].verdict == "unreadable" and f"raw/{name} is cut off: chunk 71" in found[about].source
    assert verify.code(list(found.values())) == 2


def test_a_base_that_is_missing_takes_only_what_rests_on_it(pocket: Path) -> None:
    (pocket / "raw" / "F16.nll").unlink()
    lost = not_same(pocket)
    assert lost["F16 perplexity"] == lost["Q2_K Δppl % against F16"] == "missing"
    assert "Q2_K perplexity" not in lost and "Q2_K KL divergence, nats" not in lost


def test_a_log_never_names_a_file_outside(pocket: Path) -> None:
    change(pocket, "perplexity", '"chunk":3,', file="../../../etc/passwd")
    assert not_same(pocket)["F16 perplexity"] == "unreadable"


# --- the log --------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_told_and_a_line_that_is_gone_differs(pocket: Path) -> None:
    path = pocket / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"beat"')
    assert not_same(pocket) == {"session last line": "missing"}
    lines, at = line_with(pocket, '"event":"beat"')
    path.write_bytes(b"".join(lines[:at] + lines[at + 1 : -1]))
    assert not_same(pocket) == {"session lines of the log": "differs"}
    path.write_bytes(b"".join([*lines[:at], b"no event\n", *lines[at + 1 : -1]]))
    assert not_same(pocket) == {"session lines of the log": "differs", "session damaged lines": "unreadable"}


def test_a_byte_count_is_the_same_whole_or_not_in_a_key_frame(tmp_path: Path) -> None:
    """A writer's own state has it as its probe gave it, a fresh fold as JSON has it."""
    log = builders.events(builders.Arm("Q8_0", tok_s=18.0, tokens=16))
    folder = session.create(tmp_path, "m", tmp_path / "s")
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, log)))
    state = fold.fold(log)
    peak = state.arms["Q8_0"].attempts[0].peaks["decode"]
    assert peak.rss is not None and peak.rss == int(peak.rss)
    size = (folder / session.EVENTS).stat().st_size
    for as_it_came in (int, float):
        peak.rss = as_it_came(peak.rss)
        (folder / session.FRAMES).unlink(missing_ok=True)
        session.append_frame(folder / session.FRAMES, size, state)
        assert checked(folder)["session", "key frames"].verdict == "same"


def test_a_key_frame_must_be_what_the_log_comes_to(pocket: Path) -> None:
    lines, at = line_with(pocket, '"event":"perplexity"')
    events = [e.decode(line) for line in lines[:at]]
    now, place = fold.fold(events), sum(map(len, lines[:at]))
    session.append_frame(pocket / "frames.idx", place, now)
    assert checked(pocket)["session", "key frames"].verdict == "same"
    now.apply(e.decode(lines[at]))
    now.apply(e.decode(lines[at]))
    now.arms["F16"].attempts[0].decode.pop()
    session.append_frame(pocket / "frames.idx", place + len(lines[at]), now)
    found = not_same(pocket)
    assert found["session key frames"] == "differs"
    assert found["F16 decode tok/s and repetitions"] == "differs", "the report goes by key frames"


def test_no_session_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no session"):
        list(verify.verify(tmp_path))


def test_files_are_read_only_where_that_is_asked_and_what_is_gone_is_named(pocket: Path, tmp_path: Path) -> None:
    here, gone = tmp_path / "here.gguf", tmp_path / "gone.gguf"
    here.write_bytes(b"not what it was")
    change(pocket, "arm.started", '"arm":"F16"', file=str(here))
    change(pocket, "arm.started", '"arm":"Q8_0"', file=str(gone))
    assert not any("SHA-256" in what for what in not_same(pocket))
    found = not_same(pocket, files=True)
    assert (found["F16 SHA-256 of its file"], found["Q8_0 SHA-256 of its file"]) == ("differs", "missing")


LOGS = (
    (builders.Arm("F16", ppl=8.0, watts=35.0, again=(9.0, 12.0)), builders.Arm("Q8_0", ppl=8.1, watts=30.0, chunks=5)),
    (builders.Arm("Q8_0", disturbed=2, repetitions=7), builders.Arm("Q4_K_M", fails="oom", fails_in="load")),
    (builders.Arm("Q8_0", fails="crashed", fails_in="decode"), builders.Arm("Q2_K", planned_only=True)),
    (builders.Arm("Q8_0", swap=0.03, gpu={"mem_used": 3e9, "power": 90.0, "energy": 5.0}, gpu_layers=23),),
)


@pytest.mark.parametrize("arms", LOGS)
def test_speeds_peaks_and_energy_come_out_of_any_log_as_the_fold_has_them(
    arms: tuple[builders.Arm, ...], tmp_path: Path
) -> None:
    now = written(tmp_path, exact(builders.events(*arms)))
    found = checked(tmp_path)
    assert {one.verdict for one in found.values()} <= {"same", "missing"}
    for arm in summarize(now).arms:
        if arm.energy and arm.energy.joules_per_token:
            assert (arm.id, "joules per token, net and gross") in found
        seen = [phase for phase, held in arm.peak_memory.items() if any(held.values())]
        assert all((arm.id, f"peak memory in {phase}, bytes") in found for phase in seen)


def exact(log: list[e.Event]) -> list[e.Event]:
    """The log with repetitions that took just as long as their tokens, as an engine tells them."""
    made: list[e.Event] = []
    ns = 0
    for one in log:
        ns = 0 if isinstance(one, e.UnitStarted) else ns + sum(one.ns) if isinstance(one, e.Tokens) else ns
        if isinstance(one, e.UnitDone) and one.unit.kind == "decode":
            one = msgspec.structs.replace(one, ns=ns)
        made.append(one)
    return made


def written(folder: Path, log: list[e.Event]) -> fold.State:
    """A session's folder with this log and the manifest of it."""
    (folder / "events.jsonl").write_bytes(b"".join(map(e.encode, log)))
    now = fold.fold(log)
    session.write_manifest(folder, session.manifest(now))
    return now


def test_a_deciding_sweep_in_turns_agrees_where_nothing_is_raw(tmp_path: Path) -> None:
    written(tmp_path, exact(builders.deciding(levels=(16,), anchored=True)))
    found = checked(tmp_path)
    assert found["F16", "perplexity"].verdict == "missing"
    assert {one.verdict for one in found.values()} == {"same", "missing"}


# --- answers --------------------------------------------------------------------------------------------------------

TOKENS = ("Marta", "flew", "to", "Lisbon", ".")
ITEMS: dict[str, list[Item]] = {
    "traps": [
        Item(id=f"t{n}", prompt=f"What is {n} + {n}?", check=Check(exact=str(2 * n)), group="even" if n % 2 else "odd")
        for n in range(12)
    ],
    "structured": [
        Item(
            id=f"s{n}", prompt=f"{n} as JSON", group="small",
            check=Check(json_path="$.n", equals=n, schema={"type": "object", "required": ["n"]}),
        )
        for n in range(6)
    ],
    "ner": [
        Item(
            id=f"n{n}", prompt=f"entities of {n}", group="entities" if n % 3 else "none",
            check=Check(entities=((0, 1, "PER"), (3, 4, "LOC")) if n % 3 else (), tokens=TOKENS),
        )
        for n in range(6)
    ],
    "mmlu": [
        Item(id=f"m{n}", prompt=f"Question {n}", choices=(" A", " B"), check=Check(choice="AB"[n % 2], of="AB"))
        for n in range(6)
    ],
}  # fmt: skip


def said(task: str, n: int, item: Item, good: bool) -> str:
    """A right answer, or one that is wrong in some way."""
    if task == "traps":
        return str(2 * n) if good else "no idea"
    if task == "structured":
        return json.dumps({"n": n}) if good else ('{"n": 99}' if n % 2 else "no JSON")
    entities = [{"entity": TOKENS[start], "type": kind} for start, _, kind in item.check.entities or ()]  # type: ignore[union-attr]
    return json.dumps(entities) if good else json.dumps([{"entity": "Lisbon", "type": "PER"}])


def events(folder: Path, arms: tuple[str, ...] = ("F16", "Q4_K_M", "Q2_K")) -> Iterator[e.Event]:
    """A session of answers, each recorded as a sweep records it; the smaller an arm the less it knows."""
    plan = tuple(e.PlannedArm(id=arm, quant=arm, bytes=1000 - place) for place, arm in enumerate(arms))
    asked = builders.settings(tasks=tuple(ITEMS))
    yield e.SessionOpened(
        schema=1, model="made-up", host=builders.host(), build=builders.build(), settings=asked, plan=plan, wall=1.7e9,
        origin_ns=0, pid=1, pid_started=0.0,
    )  # fmt: skip
    for place, arm in enumerate(arms):
        for task, items in ITEMS.items():
            for n, item in enumerate(items):
                unit = e.Unit(arm=arm, kind="task", index=n, task=task, item=item.id)
                good = place == 0 or (n + place) % (4 - place) != 0
                common: dict[str, Any] = {
                    "unit": unit, "prompt": f"<user>{item.prompt}", "form": "chat", "prompt_tokens": 9, "at": 1.0,
                    "ns": 5,
                }  # fmt: skip
                if task == "mmlu":
                    logs = (-1.0, -2.0) if (n % 2 == 0) == good else (-2.0, -1.0)
                    told: answers.Answer = protocol.Chosen(logs=logs, stopped="choice", **common)
                else:
                    full = n == 5 and task == "traps" and place == 2
                    stopped, text = ("context", "") if full else ("eos", said(task, n, item, good))
                    told = protocol.Generated(text=text, stopped=stopped, tokens=len(text), **common)
                yield e.UnitStarted(unit=unit, at=1.0)
                yield answers.record(folder, unit, item, len(items), told)
                yield e.UnitDone(unit=unit, at=1.0, tokens=3, ns=5)
        yield e.ArmDone(arm=arm)
    yield e.SessionClosed(outcome="ok")


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answered")
    (folder / "raw").mkdir()
    log = [msgspec.structs.replace(one, n=n, t=n / 10) for n, one in enumerate(events(folder))]
    written(folder, log)
    return folder


def test_answers_are_judged_again_and_every_figure_of_the_study_comes_out(answered: Path) -> None:
    found = checked(answered)
    assert {one.verdict for one in found.values()} == {"same"}
    for one in study(session.load(answered)).findings:
        p = f"p ({one.test}), and by Holm"
        for what in ("pairs and excluded", "lost and gained", one.measure, "95 % interval", p, "call"):
            assert (one.arm, f"{one.task}: against {one.base}, {what}") in found
    assert ("Q2_K", "traps: against F16, groups") in found
    for one in study(session.load(answered)).standings:
        told = {what for about, what in found if about == one.arm}
        assert {f"{one.task}: {measure.name}, of n" for measure in one.measures} <= told


@pytest.mark.parametrize(
    ("event", "values", "named"),
    [
        ("traps", {"correct": False}, "F16 judgements, judged again"),
        ("structured", {"valid": False}, "F16 judgements, judged again"),
        ("ner", {"spans": [9, 0, 0]}, "F16 judgements, judged again"),
        ("ner", {"spans": [9, 0, 9]}, "F16 ner: micro-F1, of n"),
        ("traps", {"correct": False}, "Q2_K traps: against F16, lost and gained"),
        ("mmlu", {"answer": "B"}, "F16 likeliest choices"),
        ("traps", {"prompt": "00"}, "F16 SHA-256 of prompts"),
        ("traps", {"stopped": "length"}, "F16 how answers ended, and tokens"),
    ],
)
def test_an_answer_that_was_changed_in_the_log_is_found(
    answered: Path, tmp_path: Path, event: str, values: dict[str, Any], named: str
) -> None:
    folder = Path(shutil.copytree(answered, tmp_path / "session"))
    change(folder, "item", f'"task":"{event}"', **values)
    found = not_same(folder)
    assert found[named] == "differs"


def test_a_raw_line_that_was_changed_is_found(answered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(answered, tmp_path / "session"))
    path = folder / "raw" / "F16.items.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b'"answer":"0"', b'"answer":"1"') + b"".join(lines[1:]))
    assert {"F16 answers", "F16 judgements, judged again"} <= not_same(folder).keys()
    path.write_bytes(b"".join(lines)[:-5])
    found = not_same(folder)
    assert found["F16 answers"] == "unreadable" and found["Q2_K traps: against F16"] == "missing"


def test_a_line_without_its_item_is_judged_by_nobody_and_that_is_said(answered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(answered, tmp_path / "session"))
    path = folder / "raw" / "Q2_K.items.jsonl"
    lines, offset, offsets = [], 0, []
    for line in path.read_bytes().splitlines():
        told = json.loads(line)
        del told["asked"]
        lines.append(json.dumps(told).encode() + b"\n")
        offsets.append(offset)
        offset += len(lines[-1])
    path.write_bytes(b"".join(lines))
    log = [e.decode(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]
    left = iter(offsets)
    moved = [
        msgspec.structs.replace(one, offset=next(left)) if isinstance(one, e.Item) and one.unit.arm == "Q2_K" else one
        for one in log
    ]
    (folder / "events.jsonl").write_bytes(b"".join(map(e.encode, moved)))  # type: ignore[arg-type]
    assert not_same(folder) == {"Q2_K judgements": "missing"}


# --- the form -------------------------------------------------------------------------------------------------------


@given(st.floats(-1e300, 1e300), st.floats(-1e-10, 1e-10))
@example(-1.0, 0.0)
def test_values_are_the_same_within_rounding_and_not_beyond(value: float, share: float) -> None:
    assert close(value, value * (1 + share))
    assert not close(value, value * 1.001 + math.copysign(1e-3, value))
    assert not close(value, None) and close(None, None) and close(float("nan"), float("nan"))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.data())
def test_the_first_that_differs_is_shown(values: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    changed = [value + (n == at) for n, value in enumerate(values)]
    one = numbers("Q8_0", "some", values, changed, "raw", [f"chunk {n}" for n in range(len(values))])
    assert one.verdict == "differs" and one.recorded.startswith(f"chunk {at}: ")
    assert numbers("Q8_0", "some", values, values, "raw").verdict == "same"
    assert numbers("Q8_0", "some", values, values[:-1], "raw").verdict == "differs"


def test_foreign_names_are_clean() -> None:
    one = texts("\x1b[31mred", "what", ["a\x00"], ["\u202eb"], "raw/\x1b")
    assert all(char.isprintable() for char in verify.line(one))


def test_the_command_prints_a_line_each_or_one_object(pocket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poke(pocket / "raw" / "Q8_0.nll", 300, 1e-3)
    assert verify.run(pocket) == 1
    out = capsys.readouterr().out
    assert "differs     Q8_0       sums of nll of each chunk: chunk 1: " in out
    assert out.splitlines()[-1].startswith("pocket: ") and " differs" in out.splitlines()[-1]
    assert verify.run(pocket, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1 and told["counts"]["differs"] == sum(
        one["verdict"] == "differs" for one in told["figures"]
    )
    assert all(
        one.keys() == {"about", "what", "recorded", "recomputed", "verdict", "source"} for one in told["figures"]
    )


def test_it_loads_no_engine_and_no_screen() -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom quanttui import verify\n"
        "assert all(one.verdict == 'same' for one in verify.verify(Path(sys.argv[1])))\n"
        "assert not {'textual', 'rich', 'llama_cpp', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(POCKET)], check=True)
