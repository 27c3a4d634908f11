"""llama-bench's JSON: an array (-o json), an object a line (-o jsonl), either with log lines around, or cut off.

Owns the keys; what else they say than names, times and tokens is kept as it stands, to tell settings apart.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from quanttui.errors import UserError
from quanttui.format import clean

MOST_TESTS, MOST_BROKEN = 5000, 20
"""No run of llama-bench has more tests; of text that only looks like an object, so many are skipped."""

Count = Annotated[int, Meta(ge=0, le=10**9)]
Bytes = Annotated[int, Meta(ge=0, le=10**16)]
Nanoseconds = Annotated[int, Meta(ge=1, le=10**18)]
Text = Annotated[str, Meta(max_length=4000)]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One test: the keys of it that are read, under llama-bench's names. Older ones lack those with a default.

    `flash_attn` is a truth value in older ones, -1 for auto in newer; `use_mmap` came before `load_mode`. `config` is
    filled in with all other keys: what it was run with.
    """

    model_filename: Text
    n_prompt: Count
    n_gen: Count
    n_batch: Count
    n_threads: Count
    samples_ns: Annotated[tuple[Nanoseconds, ...], Meta(min_length=1, max_length=10_000)]
    n_depth: Count = 0
    n_ubatch: Count = 0
    n_gpu_layers: Annotated[int, Meta(ge=-2, le=10**6)] = -1
    model_type: Text = ""
    model_size: Bytes = 0
    model_n_params: Bytes = 0
    build_commit: Text = ""
    build_number: Count = 0
    cpu_info: Text = ""
    gpu_info: Text = ""
    backends: Text = ""
    type_k: Text = "f16"
    type_v: Text = "f16"
    split_mode: Text = "layer"
    tensor_split: Text = ""
    flash_attn: bool | int = -1
    load_mode: Text = ""
    use_mmap: bool | None = None
    repack: bool = True
    test_time: Text = ""
    config: tuple[tuple[str, str], ...] = ()

    @property
    def kv(self) -> str:
        """The KV cache's type, both where they differ."""
        return self.type_k if self.type_k == self.type_v else f"{self.type_k}/{self.type_v}"

    @property
    def wall(self) -> float | None:
        """Unix time at which the test began."""
        try:
            return float(calendar.timegm(time.strptime(self.test_time, "%Y-%m-%dT%H:%M:%SZ")))
        except (ValueError, OverflowError):
            return None


RESULTS = ("model_filename", "model_type", "model_size", "model_n_params", "build_commit", "build_number", "cpu_info",
           "gpu_info", "backends", "type_k", "type_v", "n_prompt", "n_gen", "n_depth", "test_time", "samples_ns",
           "samples_ts", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "config")  # fmt: skip
"""Keys of which a session may hold several values."""

_STARTS = re.compile(r"^[ \t]*(?:[\[,][ \t]*)?(?=\{)", re.MULTILINE)
_MARKS = ('"n_prompt"', '"build_commit"')


def is_bench(text: str) -> bool:
    """Whether a text holds tests of llama-bench as JSON, if only torn ones."""
    return any(mark in text for mark in _MARKS)


def read(text: str, name: str) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The tests in a text, and notes on what of it is not there. `name` is what errors call the file.

    Raises:
        UserError: there is none, or one is not llama-bench's.
    """
    entries, is_cut = _entries(text, name)
    found = [entry for entry in entries if "n_prompt" in entry and "n_gen" in entry]
    if len(found) > MOST_TESTS:
        raise UserError(f"{name}: has more than {MOST_TESTS} tests, which no run of llama-bench has")
    if not found:
        raise UserError(f"{name}: holds no whole test: it is cut off in its first; run llama-bench again")
    rows = tuple(_row(entry, f"{name}, test {number}") for number, entry in enumerate(found, 1))
    return rows, (f"{name} is cut off: what stands before that is whole (tests: {len(rows)})",) if is_cut else ()


def _entries(text: str, name: str) -> tuple[list[dict[str, Any]], bool]:
    """The JSON objects of a text, and whether it ends before its array, or its last object, does."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return _amid(text, name)
    return [one for one in (whole if isinstance(whole, list) else [whole]) if isinstance(one, dict)], False


def _amid(text: str, name: str) -> tuple[list[dict[str, Any]], bool]:
    """The same of objects that begin a line, amid lines that are none."""
    decoder, found, place, broken = json.JSONDecoder(), [], 0, []
    while (match := _STARTS.search(text, place)) is not None:
        try:
            one, place = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            broken.append(match.end())
            place = match.end() + 1
            if len(broken) > MOST_BROKEN:
                raise UserError(f"{name}: is no JSON of llama-bench: give what `-o json` or `-o jsonl` wrote") from None
        else:
            found.append(one)
    torn = any('"build_commit"' in text[at : at + 200] for at in broken)
    opened = re.search(r"^[ \t]*\[[ \t]*(?=\r?$|\{)", text, re.MULTILINE) is not None
    return found, torn or (opened and re.search(r"^[ \t]*\]|\}[ \t]*\]", text[place:], re.MULTILINE) is None)


def _row(entry: dict[str, Any], where: str) -> Row:
    try:
        row = msgspec.convert({key: value for key, value in entry.items() if key != "config"}, Row)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        why = clean(str(error), 120)
        raise UserError(f"{where}: is none of llama-bench's ({why}): give what `-o json` or `-o jsonl` wrote") from None
    if row.n_prompt + row.n_gen == 0:
        raise UserError(f"{where}: has neither a prompt nor generated tokens: it is none of llama-bench's")
    return msgspec.structs.replace(row, config=tuple(_config(entry)))


def _config(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in sorted(entry):
        if key not in RESULTS:
            yield clean(key, 40), clean(json.dumps(entry[key]), 200)
