"""Files into sessions: whose runs they are, which quant each is of, and what of a session nobody tells.

A session is of one machine, one build, one model and one set of parameters, so files may make several. A perplexity
goes with the speeds of its model where there is one session that it can belong to, else into one of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import msgspec

from quanttui import __version__, paths, quants
from quanttui.errors import UserError
from quanttui.events import Build, Gpu, Host, Settings
from quanttui.format import clean
from quanttui.imports import bench, perplexity
from quanttui.imports.bench import Row
from quanttui.imports.found import Arm, Imported, Source, Test
from quanttui.imports.perplexity import Log
from quanttui.models import label
from quanttui.report.bench import TYPE_NAMES

MOST_BYTES, MOST_FILES, MOST_SESSIONS = 32 * 2**20, 500, 50
"""No output of these tools is larger; nobody has as many runs that they want to look at together."""

UNKNOWN = "not told"
"""What nobody tells of a machine."""

NEAR = 2e-4
"""An unquantized arm's perplexity this near (a share) to that of a KL divergence's base is the base's: 16-bit rows give
it back that well."""

_NOT_A_NAME = ("", "ggml-model", "model", "gguf")
_DEFAULTS = {
    "cpu_mask": '"0x0"', "cpu_strict": "false", "poll": "50", "n_cpu_moe": "0", "main_gpu": "0",
    "no_kv_offload": "false", "devices": '"auto"', "tensor_buft_overrides": '"none"', "lazy_mode": '"auto"',
    "use_direct_io": "false", "embeddings": "false", "no_host": "false", "fit_target": "0", "fit_min_ctx": "0",
}  # fmt: skip
"""llama-bench's own values of what no setting of ours stands for, as JSON."""
_KEPT = ("n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "split_mode", "tensor_split", "flash_attn", "load_mode",
         "use_mmap", "repack", "no_op_offload")  # fmt: skip


def read(paths: Sequence[Path]) -> tuple[Imported, ...]:
    """The sessions that files hold: JSON of llama-bench, logs of llama-perplexity, in any number and order.

    Raises:
        UserError: a file cannot be read, is too large, or is neither; it names the file and what it should be.
    """
    if len(paths) > MOST_FILES:
        raise UserError(f"{len(paths)} files are more than are imported at once: give {MOST_FILES} at most")
    tests: list[_Tests] = []
    runs: list[_Run] = []
    for path in paths:
        source, text = _load(path)
        if source.tool == "llama-bench":
            rows, notes = bench.read(text, source.name)
            tests.append(_Tests(source, rows, notes))
        else:
            runs.append(_run(source, perplexity.read(text, source.name)))
    drafts = [*_by_settings(tests)]
    for run in sorted(runs, key=lambda one: one.log.base is None):
        _home(drafts, run).runs.append(run)
    if len(drafts) > MOST_SESSIONS:
        raise UserError(
            f"{drafts[0].sources[0].name}: makes {len(drafts)} sessions, one for each machine, build, model and set of "
            f"parameters: give fewer at once, {MOST_SESSIONS} at most"
        )
    return tuple(_imported(draft, drafts) for draft in drafts)


class _Tests(msgspec.Struct, frozen=True):
    """A file of llama-bench."""

    source: Source
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


class _Run(msgspec.Struct, frozen=True):
    """A log of llama-perplexity; `model` as files are told into models by, "" where the log does not say."""

    source: Source
    log: Log
    quant: str
    model: str


_Key = tuple[str, str, str, tuple[tuple[str, str], ...]]
"""Build, machine, model, parameters."""


class _Draft(msgspec.Struct):
    """A session that is being put together. `key` is empty in its parts where only logs are in it."""

    key: _Key
    rows: list[Row] = []
    runs: list[_Run] = []
    sources: list[Source] = []
    notes: list[str] = []


# --- files ----------------------------------------------------------------------------------------------------------


def _load(path: Path) -> tuple[Source, str]:
    name = clean(str(path), 200)
    raw = paths.read(path, MOST_BYTES, "no output of these tools")
    text = _text(raw)
    if bench.is_bench(text):
        tool = "llama-bench"
    elif perplexity.is_log(text):
        tool = "llama-perplexity"
    else:
        raise UserError(f"{name}: {_what_it_is(text)}")
    return Source(clean(path.name, 120), tool, hashlib.sha256(raw).hexdigest(), raw), text


def _text(raw: bytes) -> str:
    """A shell of Windows writes UTF-16 where output is sent to a file."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    return raw.decode("utf-8-sig", "replace")


def _what_it_is(text: str) -> str:
    """What is wrong with a file that is neither, with the way out."""
    wanted = "give what `llama-bench -o json` or `-o jsonl` wrote, or a log of llama-perplexity"
    for mark, form in (("build_commit,build_number", "CSV"), ("INTO llama_bench", "SQL"), ("| model ", "Markdown")):
        if mark in text:
            return f"is llama-bench's {form}, which leaves out single repetitions: run it with -o json"
    if "\0" in text:
        return f"is no text: {wanted}"
    return f"holds neither tests of llama-bench nor a perplexity: {wanted}" if text.strip() else f"is empty: {wanted}"


# --- whose run is it ------------------------------------------------------------------------------------------------


def _by_settings(files: Iterable[_Tests]) -> Iterable[_Draft]:
    """The tests of one machine, build, model and set of parameters together, in the order in which they come."""
    drafts: dict[_Key, _Draft] = {}
    for file in files:
        for row in file.rows:
            draft = drafts.setdefault(_key(row), _Draft(_key(row)))
            draft.rows.append(row)
            if file.source not in draft.sources:
                draft.sources.append(file.source)
                draft.notes += file.notes
    return drafts.values()


def _key(row: Row) -> _Key:
    machine = f"{row.cpu_info}\n{row.gpu_info}\n{row.backends}"
    model = label.without_quant(row.model_filename)
    return _build_name(row), machine, model if model not in _NOT_A_NAME else _described(row)[0], row.config


def _build_name(row: Row) -> str:
    return f"{row.build_number} ({clean(row.build_commit, 60) or 'unknown'})"


def _run(source: Source, log: Log) -> _Run:
    quant = label.from_name(log.file) or _of_type(log.type) or label.from_name(source.name) or "unknown"
    model = label.without_quant(log.file) or label.without_quant(log.model)
    return _Run(source, log, quant, "" if model in _NOT_A_NAME else model)


def _home(drafts: list[_Draft], run: _Run) -> _Draft:
    """The session that a log belongs to: the one that its model's speeds make, or one of logs alike, or a new one."""
    timed = [one for one in drafts if one.rows and _may_be_of(one, run)]
    if len(timed) == 1 and _fits(timed[0], run):
        home = timed[0]
    else:
        key: _Key = (run.log.build, "\n".join(run.log.gpus), run.model, ())
        same = [one for one in drafts if not one.rows and one.key == key and _fits(one, run)]
        home = same[0] if same else _Draft(key)
        if not same:
            drafts.append(home)
    home.sources.append(run.source)
    home.notes += run.log.notes
    return home


def _may_be_of(draft: _Draft, run: _Run) -> bool:
    """Whether model and build agree, as far as the log tells them."""
    number = run.log.build.partition(" ")[0]
    return run.model in ("", draft.key[2]) and number in ("", str(draft.rows[0].build_number))


def _fits(draft: _Draft, run: _Run) -> bool:
    """Whether its chunks are those of the logs that are there: as many, of one length."""
    scored = run.log.scored
    return all(
        (one.log.scored.context, one.log.scored.planned) == (scored.context, scored.planned) for one in draft.runs
    )


# --- a session ------------------------------------------------------------------------------------------------------


def _imported(draft: _Draft, drafts: Sequence[_Draft]) -> Imported:
    arms, notes = _arms(draft)
    named = _named(draft)
    apart = ", ".join(_apart(draft, drafts))
    walls = [test.wall for arm in arms for test in arm.tests if test.wall is not None]
    return Imported(
        model=f"{named} (imported{f', {apart}' if apart else ''})",
        host=_host(draft),
        build=_build(draft),
        settings=_settings(draft),
        arms=arms,
        notes=(*_origin(draft), *dict.fromkeys([*draft.notes, *notes])),
        sources=tuple(draft.sources),
        wall=min(walls, default=0.0),
    )


def _origin(draft: _Draft) -> Iterator[str]:
    """Where it all comes from, and what there is not."""
    for source in draft.sources[:20]:
        yield f"imported from {source.name} ({source.tool}, sha256 {source.sha256})"
    if len(draft.sources) > 20:
        yield f"imported from {len(draft.sources) - 20} more files, all in the session's raw folder"
    yield (
        "imported: memory, pressure, power and bandwidth were not recorded, so nothing tells whether a figure is "
        "contaminated or why it is what it is: there is no verdict on any"
    )
    if draft.rows:
        yield "imported: repetitions are put one after another from their test's time on; when each began is not told"
        yield from _run_with(draft.rows[0])
    if any(len(run.log.scored.chunks) > 1 for run in draft.runs):
        yield (
            "imported: each chunk's perplexity is the difference of two rounded running values; over all chunks it is "
            "what the log says"
        )


def _run_with(row: Row) -> Iterator[str]:
    """What it was run with beyond what a session's settings tell, where that is not what llama-bench does by itself."""
    odd = [f"{name} {value}" for name, value in row.config if name not in _KEPT and _DEFAULTS.get(name, value) != value]
    if odd:
        yield f"run with {', '.join(odd)}"


def _apart(draft: _Draft, drafts: Sequence[_Draft]) -> Iterator[str]:
    """The parameters that tell this session from others of the same model, build and machine."""
    alike = [one for one in drafts if one.rows and one.key[:3] == draft.key[:3]]
    mine = dict(draft.key[3])
    for name in dict.fromkeys(name for one in alike for name, _ in one.key[3]):
        if len({dict(one.key[3]).get(name) for one in alike}) > 1:
            yield f"{name} {mine.get(name, UNKNOWN)}"


def _named(draft: _Draft) -> str:
    """The model's name: its file's without the quant, else what llama.cpp calls it."""
    file = draft.rows[0].model_filename if draft.rows else draft.runs[0].log.file
    stem = re.sub(r"(?:-\d{5}-of-\d{5})?\.gguf$", "", re.split(r"[/\\]", file)[-1], flags=re.IGNORECASE)
    quant = label.from_name(stem)
    name = re.sub(re.escape(quant), "", stem, flags=re.IGNORECASE).strip("-_. ") if quant else stem
    if name.lower() not in _NOT_A_NAME:
        return clean(name, 80)
    return (_described(draft.rows[0])[0] if draft.rows else clean(draft.runs[0].log.model, 80)) or "unknown model"


def _settings(draft: _Draft) -> Settings:
    """What it was run with; of logs what they tell, else llama-perplexity's own."""
    tasks = ["speed"] if draft.rows else []
    tasks += ["ppl"] if draft.runs else []
    tasks += ["kld"] if any(run.log.base is not None for run in draft.runs) else []
    context = draft.runs[0].log.scored.context if draft.runs else perplexity.CONTEXT
    if not draft.rows:
        log = draft.runs[0].log
        return Settings(
            tasks=tuple(tasks), prompt=0, decode=0, repetitions=0, threads=log.threads or 1, batch=log.batch or 2048,
            ubatch=log.ubatch or 512, context=context, kv=UNKNOWN,
        )  # fmt: skip
    row = draft.rows[0]
    prompts, decodes = _lengths(draft.rows)
    return Settings(
        tasks=tuple(tasks),
        prompt=next(iter(prompts), 0),
        decode=next(iter(decodes), 0),
        depths=tuple(sorted({one.n_depth for one in draft.rows})),
        repetitions=max(len(one.samples_ns) for one in draft.rows),
        threads=row.n_threads,
        gpu_layers=row.n_gpu_layers,
        split_mode=clean(row.split_mode, 20),
        tensor_split=_shares(row.tensor_split),
        batch=row.n_batch,
        ubatch=row.n_ubatch or row.n_batch,
        flash_attn="auto" if row.flash_attn < 0 else "on" if row.flash_attn else "off",
        kv=clean(row.kv, 40),
        context=context,
        load_mode=clean(row.load_mode, 20) or {True: "mmap", False: "none", None: "auto"}[row.use_mmap],
        repack=row.repack,
    )


def _shares(text: str) -> tuple[float, ...]:
    """`1.00/3.00`; () for none, and for what is none."""
    parts = text.split("/")
    numbers = tuple(float(one) for one in parts if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", one))
    return numbers if len(numbers) == len(parts) and any(numbers) else ()


def _host(draft: _Draft) -> Host:
    gpus = draft.rows[0].gpu_info.split(", ") if draft.rows else [gpu for run in draft.runs for gpu in run.log.gpus]
    threads = max((run.log.host_threads for run in draft.runs), default=0)
    return Host(
        name=UNKNOWN,
        os=UNKNOWN,
        cpu=(clean(draft.rows[0].cpu_info, 200) if draft.rows else "") or UNKNOWN,
        cores=0,
        threads=threads,
        memory=0,
        gpus=tuple(Gpu(name=clean(name, 200)) for name in dict.fromkeys(gpus) if name),
    )


def _build(draft: _Draft) -> Build:
    if not draft.rows:
        log = draft.runs[0].log
        return _built(log.build or UNKNOWN, "", (), bool(log.gpus))
    row = draft.rows[0]
    backend = clean(row.backends, 60)
    devices = [f"CPU: {clean(row.cpu_info, 200)}"] if row.cpu_info else []
    devices += [f"{backend}: {clean(name, 200)}" for name in row.gpu_info.split(", ") if name]
    return _built(_build_name(row), backend, tuple(devices), bool(row.gpu_info))


def _built(llama_cpp: str, backend: str, devices: tuple[str, ...], offload: bool) -> Build:
    return Build(
        quanttui=f"{__version__} (imported)", llama_cpp_python="none", llama_cpp=llama_cpp, gpu_offload=offload,
        system_info=backend, devices=devices,
    )  # fmt: skip


# --- its arms -------------------------------------------------------------------------------------------------------


def _arms(draft: _Draft) -> tuple[tuple[Arm, ...], list[str]]:
    """The quants: first those that were timed, then those that only have a perplexity; and notes."""
    arms: dict[str, Arm] = {}
    notes: list[str] = []
    for arm in _timed(draft.rows):
        name = _free(arm.id, arms)
        arms[name] = msgspec.structs.replace(arm, id=name)
    both = sum(row.n_prompt > 0 and row.n_gen > 0 for row in draft.rows)
    if both:
        notes.append(f"{both} tests of prompt and generation together (-pg) are left out: their parts are not told")
    known: list[tuple[str, _Run]] = []
    for run in draft.runs:
        twin = next((name for name, one in known if _says_the_same(one, run)), "")
        if twin:
            notes.append(f"{run.source.name} says what another file of {twin} says, and adds nothing")
            continue
        arm = _for(run, arms)
        arms[arm.id] = msgspec.structs.replace(arm, scored=run.log.scored)
        known.append((arm.id, run))
        if run.log.scored.failed:
            notes.append(f"{run.source.name}: {run.log.scored.failed}")
    return tuple(_with_base(arm, known) for arm in arms.values()), notes


def _timed(rows: Sequence[Row]) -> Iterator[Arm]:
    """A quant for each file and type of KV cache, and one more for each further length of its prompt or generation."""
    if not rows:
        return
    first, groups = rows[0], dict[tuple[str, str, str], list[Row]]()
    for row in rows:
        groups.setdefault((row.model_filename, row.model_type, row.kv), []).append(row)
    wanted = tuple(next(iter(lengths), 0) for lengths in _lengths(rows))
    for (file, _, kv), members in groups.items():
        quant = label.from_name(file) or _described(members[0])[1] or "unknown"
        own = "" if kv == first.kv else clean(kv, 40)
        for place, (prompt, decode) in enumerate(zip_longest(*_lengths(members), fillvalue=0)):
            name = clean(quant, 40) + (f"-kv-{own.replace('/', '-')}" if own else "")
            if place:
                name += (f"-pp{prompt}" if prompt else "") + (f"-tg{decode}" if decode else "")
            yield Arm(
                id=name,
                quant=clean(quant, 40),
                file=clean(file, 1000),
                bytes=members[0].model_size or None,
                kv=own,
                prompt=prompt if prompt != wanted[0] else 0,
                decode=decode if decode != wanted[1] else 0,
                tests=tuple(_tests(members, prompt, decode)),
            )


def _lengths(rows: Iterable[Row]) -> tuple[list[int], list[int]]:
    """The lengths of prompts and generations that were timed by themselves, in the order in which they come."""
    alone = [row for row in rows if not (row.n_prompt and row.n_gen)]
    prompts = dict.fromkeys(row.n_prompt for row in alone if row.n_prompt)
    return list(prompts), list(dict.fromkeys(row.n_gen for row in alone if row.n_gen))


def _tests(rows: Sequence[Row], prompt: int, decode: int) -> Iterator[Test]:
    """The tests of these lengths as they came; one that comes again is another attempt."""
    seen: dict[tuple[str, int], int] = {}
    for row in rows:
        kind, tokens = ("decode", row.n_gen) if row.n_gen else ("prompt", row.n_prompt)
        if (row.n_prompt and row.n_gen) or tokens != (decode if kind == "decode" else prompt):
            continue
        seen[kind, row.n_depth] = attempt = seen.get((kind, row.n_depth), 0) + 1
        yield Test(kind, tokens, row.n_depth, row.samples_ns, row.wall, attempt)


def _described(row: Row) -> tuple[str, str]:
    """`qwen2 7B Q4_K - Medium` as model and quant; the quant "" where it is none of llama.cpp's."""
    told = clean(row.model_type, 120).replace("(guessed) ", "")
    kind = max((name for name in _TYPES if told == name or told.endswith(f" {name}")), key=len, default="")
    return told.removesuffix(kind).strip(), _TYPES.get(kind, "")


_TYPES = {TYPE_NAMES.get(name, name): name for name in quants.BY_NAME}
"""Quants by llama.cpp's name for them."""


def _of_type(told: str) -> str:
    return _TYPES.get(told.strip(), "")


def _free(name: str, taken: Iterable[str]) -> str:
    """A name that no other arm has."""
    used, again = set(taken), 1
    made = name
    while made in used:
        again += 1
        made = f"{name}-{again}"
    return made


def _for(run: _Run, arms: dict[str, Arm]) -> Arm:
    """The arm that a log is about, of those without a perplexity; else a new one."""
    file = re.split(r"[/\\]", run.log.file)[-1]
    for arm in arms.values():
        same = not file or re.split(r"[/\\]", arm.file)[-1] == file
        if same and arm.quant == run.quant and arm.scored is None and not (arm.kv or arm.prompt or arm.decode):
            return arm
    return Arm(id=_free(clean(run.quant, 40), arms), quant=clean(run.quant, 40), file=clean(run.log.file, 1000))


def _says_the_same(one: _Run, other: _Run) -> bool:
    """Whether a log without KL divergence repeats what a longer one of the same file says."""
    same = one.quant == other.quant and one.log.file == other.log.file and other.log.base is None
    return same and not other.log.scored.failed and abs(one.log.ppl - other.log.ppl) <= 1e-3 * one.log.ppl


def _with_base(arm: Arm, known: Sequence[tuple[str, _Run]]) -> Arm:
    """The arm with its KL divergence's base under the name of the arm that it is, where one is unquantized and has the
    base's perplexity."""
    base = next((run.log.base for name, run in known if name == arm.id), None)
    names = (
        name
        for name, run in known
        if base is not None and run.quant in quants.UNQUANTIZED and abs(run.log.ppl - base) <= NEAR * base
    )
    name = next(names, "")
    if arm.scored is None or not name or name == arm.id:
        return arm
    chunks = tuple(
        msgspec.structs.replace(one, diverged=msgspec.structs.replace(one.diverged, base=name)) if one.diverged else one
        for one in arm.scored.chunks
    )
    return msgspec.structs.replace(arm, scored=msgspec.structs.replace(arm.scored, chunks=chunks))
