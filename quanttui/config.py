"""The configuration: every key with its type, range and default, read with the precedence
flag > environment (QUANTTUI_KEY) > file > default. Knows no command line and nothing of sweeps.

The file is the one that is named, else $QUANTTUI_CONFIG, else the user's (quanttui.paths). The shipped config.toml
lists every key at its default; a test holds the two together.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from quanttui import paths, quants
from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.format import clean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "QUANTTUI_"
TEST_PREFIX = "QUANTTUI_TEST_"
"""Variables for the tests alone."""
NOT_KEYS = frozenset({"QUANTTUI_CONFIG", "QUANTTUI_SHARED", "QUANTTUI_LOCK_DIR", "QUANTTUI_HEIR"})
"""Variables with our prefix that set no key: the file to read, where the tests find their inputs, where the machine's
lock lies and who handed it on (sweep.lock)."""

PERCENTAGES = ("precision", "drift", "tolerance", "margin")
"""Keys that take a percentage, with or without its sign."""

ANSWERED = frozenset({"mmlu", "ner", "traps", "structured", "prompts"})
"""Tasks whose items every quant answers."""

Count = Annotated[int, Meta(ge=0, le=2**24, description="a whole number, 0 or more")]
Positive = Annotated[int, Meta(ge=1, le=2**24, description="a whole number, 1 or more")]
Kv = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every key. `description` of a key is what it allows, in the words of its error message."""

    quants: Annotated[tuple[str, ...], Meta(description="quants by name, or common, or all")] = ()
    tasks: Annotated[
        tuple[Literal["speed", "ppl", "kld", "mmlu", "ner", "traps", "structured", "prompts"], ...],
        Meta(min_length=1, description="one or more of speed, ppl, kld, mmlu, ner, traps, structured and prompts"),
    ] = ("speed", "ppl", "kld")
    text: Annotated[str, Meta(min_length=1, description="a text file, or pocket, or wikitext-2")] = "wikitext-2"
    chunks: Annotated[int, Meta(ge=-1, le=2**24, description="a whole number, -1 for all of the text, 0 for none")] = -1
    prompts: Annotated[str, Meta(description="a file with a prompt a line, as JSON")] = ""
    max_tokens: Annotated[int, Meta(ge=1, le=32_768, description="a whole number from 1 to 32768")] = 128
    chat: Annotated[bool, Meta(description="true or false")] = False
    mmlu: Annotated[str, Meta(description="a folder of MMLU's files")] = ""
    mmlu_subjects: Annotated[tuple[str, ...], Meta(max_length=64, description="subjects of MMLU by name")] = ()
    mmlu_items: Positive = 500
    mmlu_score: Annotated[Literal["generate", "logits"], Meta(description="generate or logits")] = "generate"
    ner: Annotated[str, Meta(description="a file in CoNLL's columns")] = ""
    ner_items: Positive = 300
    items_seed: Annotated[int, Meta(ge=0, le=2**32 - 1, description="a whole number from 0 to 4294967295")] = 42
    thinking: Annotated[Literal["auto", "on", "off", "both"], Meta(description="auto, on, off or both")] = "auto"
    margin: Annotated[float, Meta(gt=0, lt=100, description="a percentage above 0 and below 100")] = 1.0
    prompt: Count = 512
    decode: Count = 128
    depth: Annotated[
        tuple[Count, ...], Meta(min_length=1, max_length=16, description="up to 16 whole numbers, such as 0,4096,16384")
    ] = (0,)
    repetitions: Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")] = 5
    precision: Annotated[float, Meta(ge=0, le=100, description="a percentage, 0 for no more repetitions")] = 1.0
    speed_seconds: Annotated[float, Meta(ge=0, le=1e6, description="seconds")] = 20.0
    schedule: Annotated[
        Literal["auto", "sequential", "round-robin", "abba"],
        Meta(description="auto, sequential, round-robin or abba"),
    ] = "sequential"
    order: Annotated[Literal["random", "given"], Meta(description="random or given")] = "random"
    anchor: Annotated[int, Meta(ge=0, le=1000, description="a whole number of quants, 0 for no anchor")] = 3
    drift: Annotated[float, Meta(gt=0, le=1000, description="a percentage above 0")] = 5.0
    base: Annotated[str, Meta(description="a quant's name")] = ""
    kld: Annotated[Literal["auto", "file", "beside"], Meta(description="auto, file or beside")] = "auto"
    kld_gib: Annotated[float, Meta(gt=0, le=1e6, description="a size in GiB, above 0")] = 1.0
    kld_base: Annotated[str, Meta(description="a base-logits file of llama-perplexity's kind")] = ""
    tolerance: Annotated[float, Meta(gt=0, lt=100, description="a percentage above 0 and below 100")] = 1.0
    until: Annotated[Literal["full", "decided"], Meta(description="full or decided")] = "full"
    threads: Annotated[int, Meta(ge=0, le=512, description="a whole number to 512, 0 for one per physical core")] = 0
    gpu_layers: Annotated[int, Meta(ge=-1, le=10_000, description="a whole number, -1 for all layers")] = -1
    split_mode: Annotated[Literal["none", "layer", "row", "tensor"], Meta(description="none, layer, row or tensor")] = (
        "layer"
    )
    tensor_split: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1e9)], ...],
        Meta(max_length=16, description="up to 16 shares, one for each GPU, such as 3,1"),
    ] = ()
    batch: Positive = 2048
    ubatch: Positive = 512
    flash_attn: Annotated[Literal["auto", "on", "off"], Meta(description="auto, on or off")] = "auto"
    kv: Annotated[
        tuple[Kv, ...],
        Meta(
            min_length=1,
            max_length=9,
            description="one or more of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl",
        ),
    ] = ("f16",)
    ctx: Annotated[int, Meta(ge=16, le=2**24, description="a whole number, 16 or more")] = 512
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1, description="a whole number from 0 to 4294967295")] = 1
    polite: Annotated[bool, Meta(description="true or false")] = False
    load_mode: Annotated[
        Literal["auto", "none", "mmap", "mlock", "mmap+mlock"],
        Meta(description="auto, none, mmap, mlock or mmap+mlock"),
    ] = "auto"
    repack: Annotated[bool, Meta(description="true or false")] = True
    thresholds: Annotated[
        dict[str, float], Meta(max_length=64, description="names with numbers, such as wall=0.6,cpu_share=0.8")
    ] = {}
    bandwidth: Annotated[
        dict[str, Annotated[float, Meta(gt=0, le=1e6)]],
        Meta(max_length=17, description="devices with GB/s above 0, such as cpu=51.2,gpu0=1008"),
    ] = {}
    sessions_dir: Annotated[str, Meta(description="a folder")] = ""
    cache_dir: Annotated[str, Meta(description="a folder")] = ""
    cache_gib: Annotated[float, Meta(gt=0, le=1e6, description="a size in GiB, above 0")] = 20.0
    sample_hz: Annotated[float, Meta(ge=0.1, le=20, description="a rate from 0.1 to 20 per second")] = 4.0
    patience: Annotated[float, Meta(ge=1, le=1e6, description="seconds, 1 or more")] = 600.0
    theme: Annotated[str, Meta(min_length=1, description="a theme's name")] = "dusk"
    glyphs: Annotated[
        Literal["auto", "braille", "block", "ascii"], Meta(description="auto, braille, block or ascii")
    ] = "auto"
    color: Annotated[
        Literal["auto", "truecolor", "256", "16", "none"], Meta(description="auto, truecolor, 256, 16 or none")
    ] = "auto"
    layout: Annotated[
        Literal["auto", "lines", "rows", "panels", "wide"], Meta(description="auto, lines, rows, panels or wide")
    ] = "auto"
    mouse: Annotated[Literal["auto", "on", "off"], Meta(description="auto, on or off")] = "auto"
    keys: Annotated[
        dict[str, Annotated[str, Meta(min_length=1, max_length=100)]],
        Meta(max_length=64, description="actions with keys divided by blanks, such as freeze=f space,help=f1"),
    ] = {}


KEYS: tuple[str, ...] = Config.__struct_fields__
_TYPES: dict[str, Any] = get_type_hints(Config, include_extras=True)


def allowed(key: str) -> str:
    """What a key may be, in words."""
    told: str = next(note.description for note in reversed(_TYPES[key].__metadata__) if note.description)
    return told


def load(
    flags: Mapping[str, str] | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    preset: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration.

    Args:
        flags: given on the command line, as text, by key.
        file: named on the command line; it must exist.
        environment: os.environ unless given.
        preset: what a command sets itself, below its flags and above everything else.

    Raises:
        UserError: a file that cannot be read, an unknown key, a wrong type or value; names file, key, what is allowed.
    """
    environment = os.environ if environment is None else environment
    values = _from_file(file, environment)
    values |= _from_environment(environment)
    values |= preset or {}
    for key, text in (flags or {}).items():
        flag = "--" + key.replace("_", "-")
        values[key] = _value(key, _parts(key, text), False, flag, f"{flag} {clean(text, 60)}")
    return Config(**values)


def settings(config: Config) -> Settings:
    """What a sweep measures, by this configuration. `threads` 0 and the name of the text are resolved where it starts.

    Raises:
        UserError: nothing is left to measure.
    """
    speed = "speed" in config.tasks and config.repetitions and (config.prompt or config.decode)
    scored = {"ppl", "kld"} & set(config.tasks) and config.chunks
    if not speed and not scored and not ANSWERED & set(config.tasks):
        raise UserError(
            "nothing is left to measure: give --prompt or --decode with --repetitions, or --chunks, more than 0, "
            "and name their task in --tasks"
        )
    return Settings(
        tasks=config.tasks,
        prompt=config.prompt,
        decode=config.decode,
        depths=config.depth,
        repetitions=config.repetitions,
        precision=config.precision / 100,
        speed_seconds=config.speed_seconds,
        schedule=config.schedule,
        anchor=config.anchor,
        drift=config.drift / 100,
        threads=config.threads,
        gpu_layers=config.gpu_layers,
        split_mode=config.split_mode,
        tensor_split=config.tensor_split,
        batch=config.batch,
        ubatch=config.ubatch,
        flash_attn=config.flash_attn,
        kv=config.kv[0],
        context=config.ctx,
        chunks=None if config.chunks < 0 else config.chunks,
        text=config.text,
        base=config.base,
        kld=config.kld,
        kld_bytes=int(config.kld_gib * 2**30),
        kld_base=config.kld_base,
        tolerance=config.tolerance / 100,
        until=config.until,
        seed=config.seed,
        polite=config.polite,
        prompts=config.prompts,
        max_tokens=config.max_tokens,
        chat=config.chat,
        mmlu=config.mmlu,
        mmlu_subjects=config.mmlu_subjects,
        mmlu_items=config.mmlu_items,
        mmlu_score=config.mmlu_score,
        ner=config.ner,
        ner_items=config.ner_items,
        items_seed=config.items_seed,
        thinking="" if config.thinking == "auto" else config.thinking,
        margin=config.margin / 100,
        load_mode=config.load_mode,
        repack=config.repack,
        thresholds=tuple(sorted(config.thresholds.items())),
        bandwidth=tuple(sorted(config.bandwidth.items())),
    )


def _from_file(named: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    told = named or (Path(environment["QUANTTUI_CONFIG"]) if environment.get("QUANTTUI_CONFIG") else None)
    path = (told or paths.user_config()).expanduser()
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        if told is None:
            return {}
        raise UserError(f"{clean(str(path))}: no such file: name another with --config, or leave it out") from None
    except OSError as error:
        raise UserError(f"{clean(str(path))}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not all that it finds wrong is a TOMLDecodeError
        raise UserError(f"{clean(str(path))}: is not valid TOML: {clean(str(error))}") from None
    values = {}
    for key, value in table.items():
        known = _known(key, KEYS, f"{path}: unknown key")
        values[known] = _value(known, value, True, str(path), f"{path}: {key} = {_shown(value)}")
    return values


def _shown(value: Any) -> str:
    """A value as it is shown; one that Python does not write (a number of 5,000 digits) as what it is."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return "a value beyond all bounds"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    names = {PREFIX + key.upper(): key for key in KEYS}
    values = {}
    for name, text in environment.items():
        if name.startswith(PREFIX) and name not in NOT_KEYS and not name.startswith(TEST_PREFIX) and text:
            key = names[_known(name, tuple(names), "environment: unknown variable")]
            values[key] = _value(key, _parts(key, text), False, name, f"{name}={clean(text, 60)}")
    return values


def _known(name: str, names: tuple[str, ...], complaint: str) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "every key is listed"
    raise UserError(f"{clean(complaint)} {clean(name, 60)!r}: {hint} (see {paths.shipped_config()})")


def _parts(key: str, text: str) -> Any:
    """Text from a flag or the environment: lists are divided by commas, shares by `/` or `;` too, as in llama-bench;
    of pairs both sides of the `=`."""
    kind = get_origin(_TYPES[key].__origin__)
    if kind is dict:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return {name.strip(): value.strip() for name, _, value in pairs}
    if kind is not tuple:
        return text.strip().removesuffix("%" if key in PERCENTAGES else "\0").rstrip()
    return [part.strip() for part in re.split("[,/;]" if key == "tensor_split" else ",", text) if part.strip()]


def _floats(value: Any) -> Iterator[float]:
    """The floating-point numbers of a key's value."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
    return (one for one in parts if isinstance(one, float))


def _value(key: str, raw: Any, strict: bool, origin: str, shown: str) -> Any:
    try:
        value = msgspec.convert(raw, _TYPES[key], strict=strict)
        msgspec.json.encode(value)
    except msgspec.ValidationError:
        raise UserError(f"{clean(shown)}: must be {allowed(key)}") from None
    except UnicodeEncodeError:  # no session could record it
        raise UserError(f"{clean(shown)}: has bytes that are no UTF-8: must be {allowed(key)}") from None
    if not all(map(math.isfinite, _floats(value))):
        raise UserError(f"{clean(shown)}: must be {allowed(key)}")
    if key == "quants" and (value or not strict):
        try:
            quants.parse(",".join(value))
        except UserError as error:
            raise UserError(f"{clean(origin)}: {str(error).removeprefix('--quants').lstrip(': ')}") from None
    return value
