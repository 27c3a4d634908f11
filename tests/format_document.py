"""quanttui/FORMAT.md's tables, and the sample of every event, made of events.py.

    python -m tests.format_document      write the tables anew, and add to the sample what it lacks

Types, defaults and meanings are events.py's own, units are UNITS' here. The sample (fixtures/log) is what a log of each
schema may hold: lines once written stay as they are, so that a change which reads them otherwise is seen.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENT = CHECKOUT / "quanttui" / "FORMAT.md"
SAMPLES = CHECKOUT / "tests" / "fixtures" / "log"
COMMAND = "python -m tests.format_document"
BEGIN, END = f"<!-- Made by `{COMMAND}`, from here -->", "<!-- to here. -->"

_NAMES = {
    "": "anchor attempt chunk chunks cores count elements embedding exit_code experts experts_used feed_forward first "
    "gpu_layers head_count_kv heads index items items_seed key_length latent layers majflt minflt mmlu_items n n_seq "
    "ner_items nivcsw nvcsw pairs parameters pid repetitions same_top schema scored seed signal spans tensor_split "
    "tensor_types threads thresholds units value_length vocabulary",
    "bytes": "anonymous buffers bytes cache compute_bytes kld_bytes kv_bytes memory memory_limit offset read rss "
    "state_bytes swap_in zswap_in",
    "nanoseconds": "busy_ns cpu_ns load_ns ns origin_ns",
    "seconds of session time": "at t",
    "seconds of Unix time": "pid_started wall",
    "seconds since boot": "boottime",
    "seconds": "speed_seconds",
    "microseconds": "cost_us",
    "tokens": "batch context decode depth depths max_tokens n_batch n_ctx n_ubatch prompt prompt_tokens shared thought "
    "tokens ubatch window windows",
    "share of one": "drift fraction headless live margin p_diff precision tolerance",
    "share squared": "p_diff2",
    "share to the fourth": "p_diff4",
    "1e9 bytes per second": "bandwidth gb_s repeats",
    "nats": "kld logs nll nll_base",
    "nats squared": "kld2 nll2 nll_base2 nll_nll_base products",
    "bits": "bits_per_weight",
    "as READINGS has it": "readings",
}
UNITS = {name: unit for unit, names in _NAMES.items() for name in names.split()}
"""The unit of every numeric field by its name, "" for a plain number; of one whose name means another thing elsewhere
as `Struct.field`."""


# --- the tables -----------------------------------------------------------------------------------------------------


def document(prose: str) -> str:
    """FORMAT.md with its tables as events.py is now; what stands around them is `prose`'s own."""
    before, _, rest = prose.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """All events, then what their fields are made of, then the readings."""
    parts = [
        f"## Events of schema {e.SCHEMA}",
        *(_section(f"`{_tag(kind)}`", kind, 2) for kind in kinds()),
        "## Records inside events",
        *(_section(f"`{kind.__name__}`", kind) for kind in records()),
        "## Readings",
        "Names that a `sample` may carry. A GPU's stand for each of them: `gpu0.util`, `gpu1.util`.\n",
        *(f"- `{name}`: {meaning}" for name, meaning in e.READINGS.items()),
        "\n## Words",
        f"- `outcome` of an arm: {', '.join(e.OUTCOMES)}",
        f"- `phase`: {', '.join(e.PHASES)}",
        f"- `stopped`: {', '.join(e.STOPPED)}",
    ]
    return "\n".join(parts) + "\n"


def kinds() -> tuple[type[e.Event], ...]:
    """Every event that there is, in events.py's order."""
    return typing.get_args(e.Known)


def records() -> list[type[msgspec.Struct]]:
    """What fields of events are made of, in events.py's order."""
    inside = (msgspec.Struct, *kinds(), e.Event, e.Unknown)
    found = [one for one in vars(e).values() if inspect.isclass(one) and issubclass(one, msgspec.Struct)]
    return [one for one in found if one not in inside]


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def _section(heading: str, kind: type[msgspec.Struct], skipped: int = 0) -> str:
    """What a struct means and a table of its fields; the first ones that all events have are left out."""
    fields = msgspec.structs.fields(kind)[skipped:]
    rows = [f"| `{one.name}` | {_words(one.type)} | {unit(kind, one)} | {_default(one)} |" for one in fields]
    table = ["", "| field | type | unit | default |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([f"\n### {heading}", "", inspect.cleandoc(kind.__doc__ or ""), *table])


def unit(kind: type[msgspec.Struct], field: Any) -> str:
    """A field's unit, "" where it has none.

    Raises:
        KeyError: it is a number, and UNITS does not know it.
    """
    if not re.search(r"\b(int|float)\b", str(field.type)):
        return ""
    return UNITS.get(f"{kind.__name__}.{field.name}") or UNITS[field.name]


_PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _bare(kind: Any) -> Any:
    """A type without the range of its values."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _words(kind: Any) -> str:
    """A type as JSON has it."""
    kind = _bare(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join([_words(one) for one in inside if one is not type(None)] + ["null"])
    if origin is dict:
        return f"object of {_words(inside[1])}s by name"
    if origin is tuple and inside[-1] is Ellipsis:
        return f"array of {_words(inside[0])}{'' if typing.get_origin(_bare(inside[0])) else 's'}"
    if origin is tuple:
        return f"[{', '.join(map(_words, inside))}]"
    return f"`{kind.__name__}`"


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"`{json.dumps(plain(value))}`"


def plain(value: Any) -> Any:
    """A value as JSON has it, each struct with all its fields."""
    if isinstance(value, msgspec.Struct):
        tag = {"event": value.__struct_config__.tag} if isinstance(value, e.Event) else {}
        return tag | {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value


# --- the sample -----------------------------------------------------------------------------------------------------


def sample(schema: int) -> tuple[Path, Path]:
    """The sample of a schema: lines of a log, and what each of them reads as, with every field."""
    return SAMPLES / f"schema-{schema}.jsonl", SAMPLES / f"schema-{schema}.values.jsonl"


def lines(schema: int) -> list[str]:
    """The sample as it is; none where there is none yet."""
    path = sample(schema)[0]
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def completed() -> Iterator[str]:
    """The sample's lines with what it lacks: of each event one with all fields, and one with no more than it must have.

    What is there stays as it is.
    """
    there = lines(e.SCHEMA)
    for number, kind in enumerate(kinds()):
        known = [json.loads(line) for line in there if json.loads(line)["event"] == _tag(kind)]
        whole = {"event": _tag(kind), **_filled(kind), "n": 2 * number, "t": number + 0.25}
        least = {"event": _tag(kind), **_filled(kind, least=True)}
        for old, new in zip(known or ({}, {}), (whole, least), strict=True):
            yield json.dumps(_added(old, new) if new is whole else old or new)


def _filled(kind: type[msgspec.Struct], least: bool = False) -> dict[str, Any]:
    """Values for a struct's fields, none of them its default."""
    return {one.name: _value(one.type, one, least) for one in msgspec.structs.fields(kind) if one.required or not least}


def _value(kind: Any, field: Any, least: bool) -> Any:
    kind = _bare(kind)
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _value(inside[0], field, least)
    if origin is dict:
        return {"some": _value(inside[1], field, least)}
    if origin is tuple:
        return [_value(one, field, least) for one in inside if one is not Ellipsis]
    if kind is bool:
        return field.default is not True
    if kind is str:
        return f"some {field.name}"
    if field.name == "schema":
        return e.SCHEMA
    if kind in (int, float):
        return kind(len(field.name) + 40) + (0.5 if kind is float else 0)
    return _filled(kind, least)


def _added(old: Any, new: Any) -> Any:
    """`old` with what only `new` has."""
    if isinstance(old, dict) and isinstance(new, dict):
        kept = {name: _added(value, new.get(name, value)) for name, value in old.items()}
        return kept | {name: value for name, value in new.items() if name not in old}
    if isinstance(old, list) and isinstance(new, list):
        return [_added(*pair) for pair in zip(old, new, strict=True)] if len(old) == len(new) else old
    return old


def main() -> int:
    """Write both."""
    told, read = sample(e.SCHEMA)
    told.parent.mkdir(parents=True, exist_ok=True)
    written = list(completed())
    told.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
    before = read.read_text(encoding="utf-8").splitlines() if read.exists() else []
    known = {(one["event"], place): one for place, one in _by_event(map(json.loads, before))}
    now = [plain(e.decode(line.encode())) for line in written]
    values = [_added(known.get((one["event"], place), {}), one) for place, one in _by_event(now)]
    read.write_text("".join(f"{json.dumps(one)}\n" for one in values), encoding="utf-8")
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def _by_event(found: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each with its place among those of the same event."""
    seen: dict[str, int] = {}
    for one in found:
        seen[one["event"]] = seen.get(one["event"], -1) + 1
        yield seen[one["event"]], one


if __name__ == "__main__":
    sys.exit(main())
