"""Tables of published figures: a CSV file's rows, and what in them cannot be read. Owns the columns; judges nothing."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from quanttui import paths
from quanttui.errors import UserError
from quanttui.format import clean

MOST_BYTES, MOST_ROWS = 4 * 2**20, 5000
"""No table of published figures is larger."""

NUMBERS: dict[str, tuple[float, float, str]] = {
    "memory_gb": (1e-3, 1e6, "GB"),
    "peak_gbps": (1e-3, 1e6, "GB/s"),
    "size_gb": (1e-6, 1e5, "GB"),
    "tok_s": (1e-6, 1e6, "tokens per second"),
    "ppl": (1.0, 1e9, "perplexity"),
    "ppl_delta_pct": (-100.0, 1e9, "percent"),
    "tok_s_per_w": (1e-9, 1e6, "tokens per second and watt"),
}
"""The columns of numbers: least, most, unit. What lies outside cannot be: no perplexity is below 1."""
WORDS = ("source", "device", "model", "quant", "claim")
COLUMNS = ("source", "device", "memory_gb", "peak_gbps", "model", "quant", "size_gb", "tok_s", "ppl", "ppl_delta_pct",
           "swapped", "tok_s_per_w", "claim")  # fmt: skip
REQUIRED = ("model", "quant")


class Figure(msgspec.Struct, frozen=True):
    """A number as published: `half` is half a unit of its last digit, so it may be anything from `low` to `high`."""

    text: str
    value: float
    half: float = 0.0

    @property
    def low(self) -> float:
        """The least that it may have been before it was rounded."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """The most."""
        return self.value + self.half


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a table. Absent is what it does not publish. Texts are clean."""

    line: int
    source: str = ""
    device: str = ""
    model: str = ""
    quant: str = ""
    claim: str = ""
    memory_gb: Figure | None = None
    peak_gbps: Figure | None = None
    size_gb: Figure | None = None
    tok_s: Figure | None = None
    ppl: Figure | None = None
    ppl_delta_pct: Figure | None = None
    tok_s_per_w: Figure | None = None
    swapped: bool | None = None


class Table(msgspec.Struct, frozen=True):
    """The rows of a file, and what in it could not be read."""

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def read(path: Path) -> Table:
    """The table in a CSV file.

    Raises:
        UserError: it cannot be read, is too large, or is no such table.
    """
    return parse(paths.read(path, MOST_BYTES, "no table of published figures"), clean(str(path)))


def parse(raw: bytes, name: str) -> Table:
    """The table in a CSV file's bytes: UTF-8, commas, a header that names the columns (COLUMNS; only model and quant
    must be there), lines that begin with # left out. A cell that cannot be is taken as not published, with a note.

    Raises:
        UserError: it is no such table, with the line where it is not.
    """
    lines = _Lines(_text(raw, name))
    records = _records(lines, name)
    header_line, header = next(records, (0, []))
    if not header:
        raise UserError(f"{name}: is empty: its first line must name the columns: {','.join(COLUMNS)}")
    columns, notes = _columns(header, header_line, name)
    rows: list[Row] = []
    for line, cells in records:
        if len(rows) == MOST_ROWS:
            raise UserError(f"{name}, line {line}: has more than {MOST_ROWS} rows, which no table of such figures has")
        if any(cell.strip() for cell in cells[len(columns) :]):
            notes.append(
                f"line {line}: has {len(cells)} cells, the header {len(columns)}: a comma in a text needs quotes "
                "around that; the line is not judged"
            )
            continue
        rows.append(_row(line, dict(zip(columns, cells, strict=False)), notes))
    if not rows:
        raise UserError(f"{name}: has no rows below its header")
    return Table(name, tuple(rows), tuple(notes))


class _Lines:
    """Lines for csv.reader, which asks for one more inside a quoted cell: comments are left out before records only."""

    def __init__(self, text: str) -> None:
        self._lines = iter(io.StringIO(text, newline=""))
        self.number, self.first, self.between = 0, 0, True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            self.number += 1
            if self.between and (line.lstrip().startswith("#") or not line.strip()):
                continue
            if self.between:
                self.first, self.between = self.number, False
            return line
        raise StopIteration


def _text(raw: bytes, name: str) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{name}: is UTF-16: save it as CSV in UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}, line {line}: holds bytes that are no text: give a CSV file in UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{name}, line {line}: holds bytes that are no text: give a CSV file in UTF-8")
    return text


def _records(lines: _Lines, name: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank with the number of its first line."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.between = True
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{name}, line {lines.first}: is no CSV: {clean(str(error))}") from None
        if any(cell.strip() for cell in cells):
            yield lines.first, cells


def _columns(header: list[str], line: int, name: str) -> tuple[list[str], list[str]]:
    """The columns' names, and notes on those that nobody knows."""
    columns = [clean(cell, 60).lower() for cell in header]
    twice = next((column for place, column in enumerate(columns) if column and column in columns[:place]), None)
    if twice:
        raise UserError(f"{name}, line {line}: names the column {twice} twice: leave one out")
    lacking = [column for column in REQUIRED if column not in columns]
    if lacking:
        other = next((mark for mark in (";", "\t", "|") if mark in "".join(header)), "")
        hint = "cells must be parted by commas" if other else f"there may be {','.join(COLUMNS)}"
        raise UserError(f"{name}, line {line}: has no column {' and no '.join(lacking)}: {hint}")
    unknown = [column for column in columns if column and column not in COLUMNS]
    named = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
    return columns, [f"line {line}: columns that are not read: {named}"] if unknown else []


def _row(line: int, cells: dict[str, str], notes: list[str]) -> Row:
    figures: dict[str, Figure] = {}
    for column in NUMBERS:
        text = cells.get(column, "").strip()
        found = _figure(text, column) if text else None
        if isinstance(found, Figure):
            figures[column] = found
        elif found:
            notes.append(f"line {line}, {column}: {found}: taken as not published")
    swapped = clean(cells.get("swapped", ""), 20).lower()
    if swapped not in ("", "yes", "no"):
        notes.append(f"line {line}, swapped: {_quoted(swapped)} is neither yes nor no: taken as not published")
    words = {column: clean(cells.get(column, ""), 300 if column == "claim" else 80) for column in WORDS}
    flag = {"yes": True, "no": False}.get(swapped)
    return Row(line=line, swapped=flag, **words, **figures)  # type: ignore[arg-type]


_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.([0-9]{0,30}))?|\.([0-9]{1,30}))(?:[eE]([+-]?[0-9]{1,2}))?")


def _figure(text: str, column: str) -> Figure | str:
    """The number that a cell holds, or what is wrong with it."""
    least, most, unit = NUMBERS[column]
    found = _NUMBER.fullmatch(text)
    if found is None:
        return f"{_quoted(text)} is no bare number ({unit})"
    value = float(text)
    if not least <= value <= most:
        return f"{_quoted(text)} cannot be ({unit}, from {least:g} to {most:g})"
    places = len(found[1] or found[2] or "")
    return Figure(clean(text, 40), value, 0.5 * 10.0 ** (int(found[3] or 0) - places))


def _quoted(text: str) -> str:
    return f'"{clean(text, 40)}"'
