"""Words of a command line: times, sizes, lists, places, and whole lines of them."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from hypothesis import strategies as st

from quanttui import cli, format, quants, transport
from quanttui.decide import candidates
from quanttui.errors import UserError
from quanttui.models import fit, ollama
from quanttui.models.fetch import named
from quanttui.remote import target as remote
from quanttui.state import tolerance

from ..structures import REAL, TOKENS, WHOLE
from ..target import Target, check, printable

SEEDS = (
    b"12m",
    b"1h18m",
    b"00:41:22",
    b"16GiB,24",
    b"4k,32768",
    b"120x40",
    b"2.5",
    b"Q8_0,q4_k_m",
    b"me@box:session",
    b"ssh://me@box:22/s",
    b"hf:org/repo@main:Q4_K_M,Q8_0",
    b"ollama:llama3.2:1b",
    b"1%",
    b"common,F16",
    b"extraction",
    b"90s",
    b"7",
)


def _word(data: bytes, folder: Path) -> None:
    """Each parser takes a text for what it is, within bounds, or refuses it."""
    text = data.decode("utf-8", "surrogateescape")
    at = transport.seconds(text)
    check(at is None or (math.isfinite(at) and at >= 0), f"{at} seconds")
    share = tolerance(text)
    check(share is None or 0 < share < 1, f"a tolerance of {share}")
    for parse, holds in (
        (cli._size, lambda size: 20 <= size[0] <= 500 and 5 <= size[1] <= 300),
        (cli._speed, lambda speed: 0.01 <= speed <= 10_000),
        (cli._count, lambda count: 1 <= count < 10**9),
        (cli._pairs, lambda pairs: 1 <= pairs <= 1000),
    ):
        try:
            check(holds(parse(text)), f"{parse.__name__} takes {text[:60]!r}")
        except argparse.ArgumentTypeError as error:
            printable(str(error), "a complaint", "")
    refused: list[UserError] = []
    for take, right in (
        (fit.memories, lambda found: all(0 < one < 1 << 63 for one in found)),
        (fit.contexts, lambda found: all(1 <= one <= 1 << 24 for one in found)),
        (quants.parse, lambda found: len(set(found)) == len(found) > 0),
        (lambda word: candidates.asked((), (), word, "", ""), lambda found: 0 < found.tolerance < 1),
        (
            lambda word: candidates.asked((), (), "", word, ""),
            lambda found: found.tok_s is None or 0 < found.tok_s < math.inf,
        ),
        (lambda word: candidates.asked((), (), "", "", word), lambda found: True),
        (remote.parse, _reached),
        (lambda word: named.parse(f"hf:{word}"), lambda found: re.fullmatch(r"[\w.-]+/[\w.-]+", found.repo)),
        (lambda word: ollama.resolve(f"ollama:{word}", (folder,)), lambda found: False),
    ):
        try:
            found = take(text)
            check(right(found), f"{text[:60]!r} is taken for {found}")
        except UserError as error:
            refused.append(error)
            printable(str(error), "a refusal", "")
    if len(refused) > 8:
        raise refused[-1]


def _reached(there: remote.Target | None) -> bool:
    """Whether ssh takes the words of a target for a place and a command, and none for an option of its own."""
    if there is None:
        return True
    words = remote.command(there)
    end = words.index("--")
    plain = re.fullmatch(r"[A-Za-z0-9_.+\\@:%-]+", there.destination) is not None
    return plain and not there.destination.startswith("-") and len(words) == end + 3 and 0 <= there.port <= 65535


LIST = st.lists(
    TOKENS | st.sampled_from(["12m", "8k", "16GiB", "Q8_0", "common", "@", ":", "/", "120x40", "ssh://", "-o"]),
    max_size=4,
)
TEXTS = (TOKENS | LIST.map(",".join) | LIST.map("".join) | st.text(max_size=30)).map(
    lambda one: one.encode("utf-8", "surrogatepass")
)


def _line(data: bytes, folder: Path) -> None:
    """A command line is understood or refused, whatever its words are."""
    words = [one.decode("utf-8", "surrogateescape") for one in data.split(b"\n") if b"\0" not in one]
    if {"-h", "--help"} & set(words):
        return
    args = cli.parse(words)
    check(callable(args.act), "nothing to do")
    cli.configuration(argparse.Namespace(**{**vars(args), "config": None}))


def _numbered(data: bytes, folder: Path) -> None:
    """Any number is written as people write it, without a word in place of a figure where it is one."""
    value = float(data)
    if not math.isfinite(value) or abs(value) > 1e300:
        return
    for text in (
        format.significant(value),
        format.gib(value),
        format.size(value),
        format.duration(value),
        format.clock(value),
        format.percent(value / 100),
    ):
        check(text.isprintable() and text and not re.search("nan|inf", text), f"{value} is written {text!r}")
    text = format.clean(data.decode("utf-8", "replace"))
    check(text.isprintable() and len(text) <= 300, f"{text!r} is not clean")


LINES = (
    b"run\nmodel.gguf\n--quants\nQ8_0,Q4_K_M\n-p\n512\n-n\n128\n--depth\n0,4096\n--headless",
    b"report\nlatest\n--format\njson",
    b"snapshot\ns\n--size\n120x40\n--at\n12m",
    b"plan\nghost:llama-3.1-8b\n--memory\n8,16\n--ctx\n4k",
    b"replay\ns\n--speed\n4",
    b"attach\nme@box",
    b"web\n--port\n8000\nattach",
    b"--version",
    b"doctor\n--observer\n--pairs\n3",
    b"compare\na\nb:Q4_K_M\n--base\nF16",
)
_WORD = st.sampled_from(sorted({word for line in LINES for word in line.split(b"\n")})) | TOKENS.map(
    lambda one: one.encode("utf-8", "surrogatepass")
)
FIGURES = (REAL | WHOLE).map(lambda one: str(float(one)).encode())

TARGETS = (
    Target(
        "words",
        lambda: SEEDS,
        _word,
        "text",
        TEXTS,
        (
            "quanttui.transport",
            "quanttui.models.fit",
            "quanttui.remote.target",
            "quanttui.models.fetch.named",
            "quanttui.quants",
        ),
        (b",", b":", b"@", b"k", b"GiB", b"x", b"-oProxyCommand=x", b"ssh://"),
        names=("ollama:",),
        share=2.5,
    ),
    Target(
        "command-line",
        lambda: LINES,
        _line,
        "text",
        st.lists(_WORD, max_size=8).map(b"\n".join),
        ("quanttui.cli",),
        tuple(
            f"\n{flag}\n".encode()
            for flag in ("--quants", "--config", "--json", "--debug", "--", "-", "--tasks", "--kv")
        ),
        names=("",),
        share=0.5,
    ),
    Target(
        "figures",
        lambda: (b"0.1", b"1e9", b"-3", b"86400"),
        lambda data, folder: _numbered(_as_number(data), folder),
        "text",
        FIGURES,
        ("quanttui.format",),
        share=1.0,
    ),
)


def _as_number(data: bytes) -> bytes:
    """What is no number is refused by Python itself, not by us."""
    try:
        float(data)
    except ValueError:
        raise UserError("case: is no number") from None
    return data
