"""The command line: parse, call, print; nothing else. Imports lazily, so that no command pays for another's.

Exit codes: 0 done, 1 some arm failed or a figure differs, 2 bad usage or input, 130 stopped. What goes wrong is one
line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from quanttui import __version__, config, paths
from quanttui.errors import UserError
from quanttui.format import clean, duration, json_text

if TYPE_CHECKING:
    from quanttui.remote.target import Target
    from quanttui.session import Info
    from quanttui.sweep.launch import Request

GUIDE = """\
quanttui runs every quant of one model, shows live what each costs and loses, and says which numbers to believe.

  quanttui                                  choose a model, its quants, and go
  quanttui demo                             the shipped pocket model, about two minutes, nothing to download
  quanttui run FOLDER                       every GGUF in a folder
  quanttui run F16.gguf --quants common     quantize one F16 GGUF to the eleven common levels, and sweep them
  quanttui attach [USER@HOST]               watch the running sweep from another terminal, or another machine
  quanttui replay SESSION                   watch a recorded one again
  quanttui report                           the latest session in figures; --format md, csv, html, llama-bench
  quanttui advise --memory 16GiB --ctx 8k   which quant to take, why, and unless what
  quanttui compare SESSION OTHER            quants, machines or builds side by side; quanttui verify checks a session
  quanttui sessions                         all sessions; quanttui import reads runs of llama-bench
  quanttui models                           what is on this machine: folders, Hugging Face cache, Ollama, LM Studio
  quanttui plan MODEL                       what fits, how fast and how long, before anything runs
  quanttui fetch hf:ORG/REPO                a repository's quants with what fits; with :QUANT they are downloaded
  quanttui run ghost:llama-3.1-8b           speed and memory of a model before it is downloaded: random weights
  quanttui quantize F16.gguf --to common    make quants; quanttui imatrix computes an importance matrix
  quanttui audit TABLE.csv                  published figures: which cannot be what they claim
  quanttui doctor                           what this machine can tell; --self-check, --observer

`quanttui --help` and `quanttui run --help` say the rest."""

MEASURED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "quants": ((), "A,B", "quants to make, or to pick from a folder"),
    "tasks": ((), "A,B", "what to measure"),
    "text": ((), "FILE", "text of the perplexity"),
    "chunks": ((), "N", "chunks of it to score"),
    "prompts": ((), "FILE", "prompts that every quant answers, with --tasks …,prompts"),
    "max_tokens": ((), "N", "tokens of an answer at most"),
    "chat": ((), "BOOL", "put plain prompts into the model's chat template, too"),
    "mmlu": ((), "DIR", "MMLU's files, else fetched, with --tasks …,mmlu"),
    "mmlu_subjects": ((), "A,B", "its subjects"),
    "mmlu_items": ((), "N", "items drawn from them"),
    "mmlu_score": ((), "HOW", "by the answer's first letter, or by the choices' log-likelihood"),
    "ner": ((), "FILE", "sentences with entities, else CoNLL-2003 is fetched, with --tasks …,ner"),
    "ner_items": ((), "N", "sentences drawn from them"),
    "items_seed": ((), "N", "by which items are drawn"),
    "thinking": ((), "HOW", "the chat template's switch, where it has one"),
    "margin": ((), "P%", "quants whose shares of right answers differ by less are the same"),
    "prompt": (("-p",), "N", "tokens of a prompt repetition, 0 for none"),
    "decode": (("-n",), "N", "tokens of a decode repetition, 0 for none"),
    "depth": (("-d",), "N,M", "tokens that lie in the context before: a test at each"),
    "repetitions": (("-r",), "N", "timed repetitions of each"),
    "precision": ((), "P%", "decode goes on until its interval is within this of its mean"),
    "speed_seconds": ((), "S", "and for no more timed decoding than this"),
    "schedule": ((), "NAME", "in which order the units of the quants come"),
    "order": ((), "NAME", "in which order the quants come"),
    "anchor": ((), "N", "measure the anchor again after every N quants"),
    "drift": ((), "P%", "a larger change of the anchor is drift"),
    "base": ((), "QUANT", "the quant that the others are held against"),
    "until": ((), "WHEN", "score all of the text, or until it is decided"),
    "tolerance": ((), "P%", "of the base's perplexity: what is to be decided about each quant"),
    "kld": ((), "HOW", "where the base's logits come from"),
    "kld_gib": ((), "GIB", "most that the base's logits may take in the session"),
    "kld_base": ((), "FILE", "base logits that exist already"),
    "threads": (("-t",), "N", "threads of llama.cpp"),
    "gpu_layers": (("-ngl",), "N", "layers to offload"),
    "split_mode": (("-sm",), "MODE", "how several GPUs divide a model"),
    "tensor_split": (("-ts",), "A/B", "the share of each GPU"),
    "batch": (("-b",), "N", "tokens submitted at once"),
    "ubatch": (("-ub",), "N", "tokens computed at once"),
    "flash_attn": (("-fa",), "MODE", "flash attention"),
    "kv": ((), "A,B", "types of the KV cache: a quant measured with each"),
    "ctx": ((), "N", "context of the perplexity"),
    "seed": ((), "N", "of the random tokens"),
    "load_mode": (("-lm",), "MODE", "how the file is brought into memory"),
    "repack": ((), "BOOL", "whether the CPU backend may rearrange weights"),
    "thresholds": ((), "A=X,B=Y", "where verdicts draw their lines"),
    "bandwidth": ((), "D=X", "GB/s of a device's memory, where it is known"),
}
"""Flags that decide what a sweep measures, by key of the configuration: llama-bench's short forms, value, meaning."""

FORMATS = ("text", "md", "json", "csv", "html", "llama-bench", "llama-bench-jsonl")
"""The forms of a report, as report.formats has them."""

LONGEST_ERROR = 4000
"""Characters of the line that says what went wrong."""

SHOWN: dict[str, tuple[str, str]] = {
    "theme": ("NAME", "colours of the screen"),
    "glyphs": ("SET", "what charts are drawn with"),
    "color": ("DEPTH", "colours of the terminal"),
    "layout": ("FORM", "how much of it is laid out"),
    "mouse": ("WHEN", "whether the mouse is listened to"),
}
"""Flags of every screen."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            return _command(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends: into nowhere then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        return _failed(words, str(error), 2)
    except OSError as error:
        return _failed(words, f"{clean(str(error.filename or 'input or output'))}: {error.strerror or error}", 2)
    except Exception as error:
        said = f"{type(error).__name__}: {clean(str(error))}"
        return _failed(words, f"unexpected {said}: the same command with --debug shows where", 1)


def _command(words: list[str]) -> int:
    args = parse(words)
    if args.version:
        print(_versions())
        return 0
    code: int = args.act(args)
    return code


def _failed(words: list[str], line: str, code: int) -> int:
    if "--debug" in words:
        traceback.print_exc()
    print(f"quanttui: {clean(line, LONGEST_ERROR)}", file=sys.stderr)
    return code


# --- parsing --------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse with its complaints as one line, and no guessing at shortened flags."""

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **given)

    def error(self, message: str) -> NoReturn:
        told = re.sub(r"^argument (\S+?)(/\S+)?: ", r"\1: ", message)
        raise UserError(f"{clean(told)}: `{self.prog} --help` lists what there is")


def parse(words: list[str]) -> argparse.Namespace:
    """The arguments of one command; `act` runs it.

    Raises:
        UserError: there is no such command or flag, or a value is missing.
    """
    parser, commands = _parser()
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in commands and not {"--config"} & set(words[: words.index(first)]):
        raise UserError(_no_command(first, list(commands)))
    # The common flags have no default of their own: a command's would undo what was given before it.
    args, rest = parser.parse_known_args(words, argparse.Namespace(json=False, config=None, debug=False))
    if args.command == "run" and not any(word.startswith("-") for word in rest):
        # argparse takes the models that stand together, and leaves those that follow a flag.
        args.models, rest = args.models + rest, []
    if rest:
        wrong = next((word for word in rest if word.startswith("-")), rest[0])
        raise UserError(_no_argument(wrong, commands.get(args.command, parser)))
    return args


def _no_argument(word: str, parser: _Parser) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], list(parser._option_string_actions), n=1)
    hint = f"did you mean {near[0]}?" if near else f"`{parser.prog} --help` lists what there is"
    return f"{clean(word, 60)}: no such argument: {hint}"


def _no_command(word: str, commands: list[str]) -> str:
    if os.path.exists(word):
        return f"{clean(word)}: is no command: to sweep it, `quanttui run {clean(word)}`"
    near = difflib.get_close_matches(word, commands, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
    return f"{clean(word, 60)}: is no command: {hint}"


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    common.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="configuration to read")
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = _Parser(
        prog="quanttui",
        description=GUIDE,
        epilog=f"configuration: {paths.user_config()}\n"
        f"every key, with its default: {paths.shipped_config()}\n"
        "exit codes: 0 done, 1 some arm failed or a figure differs, 2 bad usage or input, 130 stopped",
        parents=[common],
    )
    parser.add_argument("--version", action="store_true", help="print the versions of quanttui and llama-cpp-python")
    parser.set_defaults(act=_bare, command=None)
    kinds = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    commands: dict[str, _Parser] = {}
    for name, act, says, add in (
        ("demo", _demo, "sweep the shipped pocket model", (_ghosts, _sweep_flags)),
        ("run", _run, "sweep the quants of a model", (_models, _yes, _sweep_flags)),
        ("attach", _attach, "watch a running sweep, here or on another machine", (_target, _screen_flags)),
        ("replay", _replay, "watch a recorded sweep again", (_session, _replay_flags, _screen_flags)),
        ("snapshot", _snapshot, "write the screen at some moment as SVG, text and JSON", (_session, _snapshot_flags)),
        ("sessions", _sessions, "list the sessions, or repair one", (_sessions_flags,)),
        ("models", _models_here, "list the models on this machine", (_model_folders,)),
        ("fetch", _fetch, "list a Hugging Face repository's quants and what fits, or download some", (_fetch_flags,)),
        ("plan", _plan, "say what fits, how fast and how long, before anything runs", (_plan_flags,)),
        ("ghost", _ghost, "write random-weight models of real shapes, or list the shapes", (_ghost_flags,)),
        ("quantize", _quantize, "make quants of an F32, F16 or BF16 GGUF", (_quantize_flags,)),
        ("imatrix", _imatrix, "compute an importance matrix over a text of yours", (_imatrix_flags,)),
        ("report", _report, "print a session's figures, or write a page, a table, plots", (_session, _report_flags)),
        ("advise", _advise, "say which quant to take, why, and unless what", (_session, _advise_flags)),
        ("compare", _compare, "hold quants of one session or several against one another", (_compare_flags,)),
        ("verify", _verify, "compute every figure of a session again from its raw lines", (_session, _verify_flags)),
        ("import", _import, "take runs of llama-bench and llama-perplexity as sessions", (_import_flags,)),
        ("audit", _audit, "judge a table of published figures by arithmetic", (_audit_flags,)),
        ("web", _web, "the same screens in a browser", (_web_flags,)),
        ("doctor", _doctor, "say what this machine can tell, and check quanttui itself", (_doctor_flags,)),
    ):
        told = f"{says[0].upper()}{says[1:]}."
        commands[name] = kinds.add_parser(name, help=says, description=told, parents=[common])
        commands[name].set_defaults(act=act)
        for flags in add:
            flags(commands[name])
    # Without a help it is not listed: it is what `attach user@host` runs on the other machine.
    commands["relay"] = kinds.add_parser("relay", parents=[common])
    commands["relay"].set_defaults(act=_relay)
    _session(commands["relay"])
    return parser, commands


def _models(parser: _Parser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a folder of GGUFs, or GGUF files of one model")


def _session(parser: _Parser) -> None:
    says = "a folder, or a name that `quanttui sessions` lists; left out: the latest"
    parser.add_argument("session", nargs="?", metavar="SESSION", help=says)


def _target(parser: _Parser) -> None:
    says = "a folder, a name that `quanttui sessions` lists, or user@host[:session]; left out: the latest"
    parser.add_argument("session", nargs="?", metavar="SESSION", help=says)
    parser.add_argument(
        "--remote-command", metavar="CMD", default="", help="what quanttui is called on the other machine"
    )


def _model_folders(parser: _Parser) -> None:
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="look there too")


def _fetch_flags(parser: _Parser) -> None:
    says = "without a quant it is listed; several with commas"
    parser.add_argument("models", nargs="+", metavar="hf:ORG/REPO:QUANT", help=says)
    _yes(parser)


def _yes(parser: _Parser) -> None:
    parser.add_argument("--yes", action="store_true", help="download without asking")


def _ghosts(parser: _Parser) -> None:
    says = "without the three random-weight models (0.7 GB in the cache)"
    parser.add_argument("--no-ghosts", action="store_true", help=says)


def _ghost_flags(parser: _Parser) -> None:
    says = "a known shape, a config.json, or a GGUF; left out: the shapes that are known"
    parser.add_argument("arch", nargs="?", metavar="ARCH", help=says)
    parser.add_argument("--out", metavar="DIR", default=".", help="folder to write to (default: here)")
    _setting(parser, "quants")


def _quantize_flags(parser: _Parser) -> None:
    says = "an F32, F16 or BF16 GGUF, or a folder with one"
    parser.add_argument("source", metavar="F16.gguf", help=says)
    parser.add_argument("--to", metavar="A,B", required=True, help="quants to make: names, common, all")
    parser.add_argument("--out", metavar="DIR", default="", help="folder to write to; left out: the cache of quants")
    parser.add_argument("--imatrix", metavar="FILE", default="", help="importance matrix, in the GGUF or the .dat form")
    parser.add_argument(
        "--tensor-type", metavar="REGEX=TYPE", dest="tensor_types", action="append", default=[],
        help="type of the tensors with REGEX in their name, as of llama-quantize; may be repeated",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say the sizes, write nothing")
    parser.add_argument("--force", action="store_true", help="replace files of --out that are there already")
    _setting(parser, "threads")


def _imatrix_flags(parser: _Parser) -> None:
    parser.add_argument("source", metavar="F16.gguf", help="the model that it is to be of")
    parser.add_argument("--text", metavar="FILE", dest="calibration", required=True, help="text to compute it over")
    parser.add_argument("--out", metavar="FILE", default="", help="left out: NAME.imatrix.gguf, here")
    parser.add_argument("--form", choices=("gguf", "dat"), default="", help="left out: what --out ends in, else gguf")
    parser.add_argument("--chunks", type=_count, metavar="N", dest="calibration_chunks", help="chunks of the text")
    parser.add_argument(
        "--ctx", type=_count, metavar="N", dest="calibration_ctx", default=512, help="tokens of a chunk (default 512)"
    )
    parser.add_argument(
        "--gain", metavar="A,B", nargs="?", const="Q4_K_M,Q2_K", default="",
        help="and say what it buys: perplexity of these quants without and with it (default Q4_K_M,Q2_K)",
    )  # fmt: skip
    says = "text of the gain; left out: the end of --text"
    parser.add_argument("--eval", metavar="FILE", dest="evaluation", default="", help=says)
    parser.add_argument("--eval-chunks", type=_count, metavar="N", dest="evaluation_chunks", help="chunks of it")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there already")
    for key in ("threads", "gpu_layers"):
        _setting(parser, key)


def _setting(parser: argparse._ActionsContainer, key: str) -> None:
    """A key of the configuration as a flag."""
    short, metavar, told = MEASURED[key]
    parser.add_argument(_flag(key), *short, dest=key, metavar=metavar, help=f"{told} ({config.allowed(key)})")


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{clean(text, 40)}: must be a whole number from 1 on")
    return int(text)


def _plan_flags(parser: _Parser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="as for `quanttui run`, or ghost:NAME")
    parser.add_argument("--memory", metavar="A,B", default="", help="memories to plan for, such as 16,32")
    says = "contexts to plan for: 4k,32k; several of these or of --memory print a matrix"
    parser.add_argument("--ctx", dest="contexts", metavar="N,M", default="", help=says)
    for key in ("quants", "tasks", "until", "kv", "threads", "gpu_layers", "batch", "ubatch", "bandwidth"):
        _setting(parser, key)


def _sessions_flags(parser: _Parser) -> None:
    parser.add_argument(
        "--repair", nargs="?", const="latest", metavar="SESSION",
        help="take out what no reader can read, say what it was, and keep the log as it was; left out: the latest",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="with --repair: say it, and change nothing")


def _sweep_flags(parser: _Parser) -> None:
    where = parser.add_argument_group("session")
    where.add_argument("--session", metavar="DIR", help="folder to record into")
    where.add_argument("--resume", metavar="DIR", help="go on with a session: only what is missing is run")
    where.add_argument("--headless", action="store_true", help="plain lines instead of the screen")
    where.add_argument("--detach", action="store_true", help="run on in the background and give the prompt back")
    where.add_argument("--anyway", action="store_true", help="resume though files, programs or the machine changed")
    _wait(where)
    measured = parser.add_argument_group("what is measured, and how")
    for key in MEASURED:
        _setting(measured, key)
    measured.add_argument("--full", dest="until", action="store_const", const="full", help="the same as --until full")
    measured.add_argument(
        "--polite", action="store_const", const="true", help="wait before each timed unit until the machine is idle"
    )
    measured.add_argument("--imatrix", metavar="FILE", default="", help="importance matrix to quantize with")
    _screen_flags(parser)


def _wait(parser: argparse._ActionsContainer) -> None:
    says = "where another sweep measures on this machine, wait for its end"
    parser.add_argument("--wait", action="store_true", help=says)


def _screen_flags(parser: _Parser) -> None:
    screen = parser.add_argument_group("screen")
    for key, (metavar, says) in SHOWN.items():
        screen.add_argument(_flag(key), dest=key, metavar=metavar, help=f"{says} ({config.allowed(key)})")


def _replay_flags(parser: _Parser) -> None:
    parser.add_argument("--speed", type=_speed, default=1.0, metavar="X", help="times the recorded pace (default 1)")
    parser.add_argument("--at", metavar="WHEN", help="where to begin: a time such as 12m, a quant, or flag")


def _snapshot_flags(parser: _Parser) -> None:
    parser.add_argument("--at", metavar="WHEN", help="a time such as 12m, a quant, or flag; left out: the end")
    parser.add_argument("--size", type=_size, default=(120, 40), metavar="WxH", help="cells (default 120x40)")
    parser.add_argument("--note", metavar="TEXT", default="", help="a note that goes with it")
    parser.add_argument("--theme", metavar="NAME", help=config.allowed("theme"))
    parser.add_argument("--glyphs", metavar="SET", help=config.allowed("glyphs"))
    parser.add_argument("--layout", metavar="FORM", help=config.allowed("layout"))
    parser.add_argument("--out", metavar="NAME", help="NAME.svg, .txt and .json; left out: in the session's snapshots/")


def _report_flags(parser: _Parser) -> None:
    says = f"one of {', '.join(FORMATS)}"
    parser.add_argument("--format", choices=FORMATS, metavar="FORM", default="text", help=says)
    parser.add_argument("--out", metavar="FILE", help="write it there")
    parser.add_argument("--plots", metavar="DIR", help="plots as SVG and PNG (needs the extra report)")


def _advise_flags(parser: _Parser) -> None:
    parser.add_argument("--memory", metavar="SIZE", default="", help="memory that is free for it, such as 16GiB")
    parser.add_argument("--ctx", dest="contexts", metavar="N", default="", help="context that has to fit, such as 8k")
    says = "most that may be lost, of perplexity or in points of a task (default: 2%%)"
    parser.add_argument("--tolerance", dest="lost", metavar="P%", default="", help=says)
    parser.add_argument("--min-tok-s", metavar="X", default="", help="tokens per second that it has to generate")
    says = "extraction, reasoning, structured, or tasks by name"
    parser.add_argument("--needs", metavar="A,B", default="", help=says)


def _compare_flags(parser: _Parser) -> None:
    says = "a folder or a name, or one quant of it as SESSION:QUANT; left out: the latest"
    parser.add_argument("sessions", nargs="*", metavar="SESSION", help=says)
    parser.add_argument("--base", metavar="QUANT", default="", help="the quant that all others are held against")


def _verify_flags(parser: _Parser) -> None:
    parser.add_argument("--files", action="store_true", help="GGUFs and texts, too, by their SHA-256: reads them all")
    parser.add_argument("--strict", action="store_true", help="what is missing counts as unreadable")


def _import_flags(parser: _Parser) -> None:
    says = "JSON or JSONL of llama-bench, logs of llama-perplexity"
    parser.add_argument("files", nargs="+", metavar="FILE", help=says)
    parser.add_argument("--session", metavar="DIR", help="folder to record into")


def _audit_flags(parser: _Parser) -> None:
    says = "a CSV file: model, quant and what else is known (source, device, size_gb, tok_s, ppl, ...)"
    parser.add_argument("table", metavar="TABLE.csv", help=says)


def _web_flags(parser: _Parser) -> None:
    parser.add_argument("--host", metavar="ADDRESS", help="another address than this machine's own; needs --token")
    parser.add_argument("--port", type=int, metavar="N", help="its port")
    parser.add_argument("--token", metavar="T", default="", help="what has to stand in the URL; left out: a random one")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to show: attach, demo, ...")


def _doctor_flags(parser: _Parser) -> None:
    parser.add_argument("--self-check", action="store_true", help="recompute known figures")
    parser.add_argument(
        "--against", metavar="DIR", help="and hold them against the llama-perplexity and llama-bench in a folder"
    )
    parser.add_argument(
        "--observer",
        nargs="?",
        const="",
        metavar="MODEL",
        help="measure what watching costs: decode tok/s of a GGUF (left out: a random one) with and without the screen",
    )
    parser.add_argument("--pairs", type=_pairs, metavar="N", help="rounds of it (default 7)")
    _wait(parser)


def _pairs(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{clean(text, 40)}: must be a whole number from 1 to 1000")
    return int(text)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.01 <= speed <= 10_000:
        raise argparse.ArgumentTypeError(f"{clean(text, 40)}: must be a factor from 0.01 to 10000")
    return speed


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{2,3})x(\d{1,3})", text)
    if not found or not (20 <= int(found[1]) <= 500 and 5 <= int(found[2]) <= 300):
        raise argparse.ArgumentTypeError(f"{clean(text, 40)}: must be columns x rows, 20x5 to 500x300, such as 120x40")
    return int(found[1]), int(found[2])


def _given(args: argparse.Namespace) -> dict[str, str]:
    """The flags of configuration keys that were given, as text."""
    return {key: text for key in config.KEYS if (text := getattr(args, key, None)) is not None}


def configuration(args: argparse.Namespace) -> config.Config:
    """The configuration under a command's flags. The demo's own text and quants yield to flags only."""
    preset = {"quants": (), "text": "pocket", "speed_seconds": 4.0, "anchor": 0} if args.command == "demo" else None
    return config.load(_given(args), Path(args.config) if args.config else None, preset=preset)


def _folder(args: argparse.Namespace, settings: config.Config) -> Path:
    from quanttui import session

    return session.find(paths.sessions_dir(settings.sessions_dir), args.session)


# --- commands -------------------------------------------------------------------------------------------------------


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        engine = f"llama-cpp-python {version('llama-cpp-python')}"
    except PackageNotFoundError:
        engine = "llama-cpp-python is not installed"
    return f"quanttui {__version__} ({engine})"


def _bare(args: argparse.Namespace) -> int:
    """Without a command: the start screen; without a terminal, the guide."""
    if not _has_terminal():
        print(GUIDE)
        return 0
    settings = configuration(args)
    _colour(settings)
    from quanttui.sweep.choose import choose

    shared = ["--config", args.config] if args.config else []
    notice = ""
    while True:
        choice = choose(
            config.settings(settings), settings.text, paths.cache_dir(settings.cache_dir),
            paths.sessions_dir(settings.sessions_dir), screen(settings), notice,
        )  # fmt: skip
        notice = ""
        if choice is None:
            return 0
        if choice.act != "sweep":
            _command([choice.act, choice.folder, *shared])
            continue
        words = ["--quants", choice.quants, "--tasks", ",".join(choice.tasks), "--until", choice.until]
        try:
            return _command(["run", *choice.models, *words, *shared] if choice.models else ["demo", *words, *shared])
        except UserError as error:
            notice = str(error)


def _demo(args: argparse.Namespace) -> int:
    return _sweep(args, configuration(args))


def _run(args: argparse.Namespace) -> int:
    if not args.models and not args.resume:
        raise UserError("MODEL: give a folder of GGUFs or a GGUF, or `--resume DIR`; `quanttui demo` needs none")
    settings = configuration(args)
    if any(model.lower().startswith("hf:") for model in args.models):
        from quanttui.models.fetch import command

        command.ensure(args.models, paths.cache_dir(settings.cache_dir), yes=args.yes)
    return _sweep(args, settings)


def _sweep(args: argparse.Namespace, settings: config.Config) -> int:
    asked = request(args, settings)
    if not (args.headless or args.detach):
        _need_terminal("add --headless")
        _colour(settings)
    from quanttui.sweep.launch import launch

    return launch(asked)


def request(args: argparse.Namespace, settings: config.Config) -> Request:
    """What `run` or `demo` asks of the sweep.

    Raises:
        UserError: flags that contradict each other, or nothing left to measure.
    """
    models = tuple(getattr(args, "models", ()))
    if args.resume:
        _refuse_plan(args, models)
    elif args.anyway:
        raise UserError("--anyway: belongs to --resume: add that, or leave it out")
    measured = config.settings(settings)
    from quanttui.doctor import observer
    from quanttui.sweep.launch import Request

    return Request(
        models=models,
        quants=",".join(settings.quants) or None,
        settings=measured,
        kv=settings.kv,
        shuffled=settings.order == "random",
        text=settings.text,
        imatrix=args.imatrix,
        session=Path(args.session).expanduser() if args.session else None,
        resume=Path(args.resume).expanduser() if args.resume else None,
        headless=args.headless,
        detach=args.detach,
        wait=args.wait,
        anyway=args.anyway,
        demo=args.command == "demo",
        ghosts=args.command == "demo" and not args.no_ghosts,
        sessions_dir=paths.sessions_dir(settings.sessions_dir),
        cache_dir=paths.cache_dir(settings.cache_dir),
        cache_bytes=int(settings.cache_gib * 2**30),
        sample_hz=settings.sample_hz,
        patience=settings.patience,
        screen=screen(settings),
        json=args.json,
        observer=partial(observer.load, paths.cache_dir(settings.cache_dir)),
    )


def _refuse_plan(args: argparse.Namespace, models: tuple[str, ...]) -> None:
    """A resumed session goes on with its own plan: a flag that would change it must not be ignored in silence."""
    given = [_flag(key) for key in (*MEASURED, "polite", "imatrix", "session") if getattr(args, key, None)]
    if models or given:
        raise UserError(
            f"{(given or ['MODEL'])[0]}: a resumed session keeps its own plan and settings: leave it out with --resume"
        )


def _need_terminal(way_out: str) -> None:
    if not _has_terminal():
        raise UserError(f"no terminal: {way_out}")


def _has_terminal() -> bool:
    """Whether somebody looks on: at a terminal, or through a browser."""
    from quanttui.tui import evidence

    return evidence.in_browser(os.environ) or (sys.stdin.isatty() and sys.stdout.isatty())


def _colour(settings: config.Config) -> None:
    """Textual reads these when it is imported, and at no other time."""
    from quanttui.tui import evidence

    depth = evidence.colour(os.environ).value if settings.color == "auto" else settings.color
    evidence.settle(depth, os.environ)


def _attach(args: argparse.Namespace) -> int:
    from quanttui.remote import target

    settings = configuration(args)
    named = args.session
    local = named is None or any(
        (place / "events.jsonl").is_file() for place in (Path(named), paths.sessions_dir(settings.sessions_dir) / named)
    )
    there = None if local else target.parse(named)
    return _watch(args, "attach") if there is None else _watch_there(args, settings, there)


def _watch_there(args: argparse.Namespace, settings: config.Config, there: Target) -> int:
    """Watch a session of another machine, through ssh."""
    _need_terminal("a session of another machine is watched at one")
    _colour(settings)
    from quanttui.remote import mirror

    one = mirror.connect(
        there, paths.cache_dir(settings.cache_dir), remote=args.remote_command, terminal=True,
        tell=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    one.start()
    try:
        while not one.fetched.wait(0.5):
            print(f"\r{one.link.words}", end="", file=sys.stderr, flush=True)
        from quanttui.tui.app import Monitor

        Monitor(one.folder, mode="attach", link=lambda: one.link, **screen(settings)).run()
    finally:
        one.stop()
    return 0


def _relay(args: argparse.Namespace) -> int:
    from quanttui.remote import relay

    return relay.run(_running(args, configuration(args)))


def _running(args: argparse.Namespace, settings: config.Config) -> Path:
    """The session that is named, else the latest one that runs, else the latest."""
    from quanttui import session

    sessions = paths.sessions_dir(settings.sessions_dir)
    found = session.running(sessions) if args.session in (None, "latest") else None
    return found or session.find(sessions, args.session)


def _replay(args: argparse.Namespace) -> int:
    return _watch(args, "replay", speed=args.speed, at=args.at)


def _watch(args: argparse.Namespace, mode: Literal["attach", "replay"], **cursor: Any) -> int:
    settings = configuration(args)
    folder = _running(args, settings) if mode == "attach" else _folder(args, settings)
    _need_terminal(f"`quanttui report {folder}` and `quanttui snapshot {folder}` need none")
    _colour(settings)
    from quanttui.tui.app import Monitor

    Monitor(folder, mode=mode, **screen(settings), **cursor).run()
    return 0


def screen(settings: config.Config) -> dict[str, Any]:
    """What a screen is told of the configuration: arguments of tui.app.Monitor."""
    from quanttui.tui import evidence

    return {
        "theme": settings.theme,
        "glyphs": settings.glyphs,
        "form": settings.layout,
        "keymap": settings.keys,
        "mouse": settings.mouse == "on" or (settings.mouse == "auto" and evidence.mouse(os.environ).value == "on"),
        "sessions": paths.sessions_dir(settings.sessions_dir),
    }


def _snapshot(args: argparse.Namespace) -> int:
    settings = configuration(args)
    folder = _folder(args, settings)
    from quanttui.tui import snapshot
    from quanttui.tui.app import picture

    glyphs = settings.glyphs if settings.glyphs != "auto" else "braille"
    made = picture(folder, args.at, args.size, settings.theme, glyphs, args.note, settings.layout)
    stem = Path(args.out).expanduser() if args.out else folder / "snapshots" / time.strftime("%Y-%m-%d-%H%M%S")
    written = dict(zip(snapshot.KINDS, map(str, snapshot.save(stem, made, not args.out)), strict=True))
    _print(args, written, "\n".join(written.values()))
    return 0


def _models_here(args: argparse.Namespace) -> int:
    from quanttui.models import find
    from quanttui.report import models as told

    cache = paths.cache_dir(configuration(args).cache_dir)
    found = find.find(find.places(os.environ, args.folders, cache=cache), cache)
    _print(args, told.data(found), told.report(found))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from quanttui.models.fetch import command

    settings = configuration(args)
    cache = paths.cache_dir(settings.cache_dir)
    return command.run(args.models, config.settings(settings), cache, yes=args.yes, as_json=args.json)


def _ghost(args: argparse.Namespace) -> int:
    from quanttui.models import tiles
    from quanttui.report import ghost as told

    if not args.arch:
        _print(args, told.data(), told.known())
        return 0
    quants = ",".join(configuration(args).quants)
    files = tiles.wanted(args.arch, quants, Path(args.out).expanduser())
    print(told.sizes([(one.path, one.bytes, one.is_there) for one in files]), flush=True)
    for one in files:
        for _ in () if one.is_there else tiles.write(one.header, one.path):
            pass
    return 0


def _quantize(args: argparse.Namespace) -> int:
    from quanttui.report import make as told
    from quanttui.sweep import make

    settings = configuration(args)
    asked = make.Asked(
        source=args.source, to=args.to, out=args.out, imatrix=args.imatrix, tensor_types=tuple(args.tensor_types),
        dry_run=args.dry_run, force=args.force, threads=settings.threads, cache=paths.cache_dir(settings.cache_dir),
        cache_bytes=int(settings.cache_gib * 2**30),
    )  # fmt: skip
    found = make.run(asked, make.Progress(sys.stderr))
    _print(args, told.data(found), told.report(found))
    return 0 if found.ok else 1


def _imatrix(args: argparse.Namespace) -> int:
    from quanttui.report import make as told
    from quanttui.sweep import imatrix, make

    settings = configuration(args)
    asked = imatrix.Asked(
        source=args.source, text=args.calibration, out=args.out, form=args.form, chunks=args.calibration_chunks,
        context=args.calibration_ctx, gain=args.gain, evaluation=args.evaluation,
        evaluation_chunks=args.evaluation_chunks, force=args.force, settings=config.settings(settings),
        cache=paths.cache_dir(settings.cache_dir), cache_bytes=int(settings.cache_gib * 2**30),
    )  # fmt: skip
    found = imatrix.run(asked, make.Progress(sys.stderr))
    _print(args, told.data(found), told.report(found))
    return 0


def _plan(args: argparse.Namespace) -> int:
    from quanttui.models import fit
    from quanttui.report import plan as told

    settings = configuration(args)
    quants = ",".join(settings.quants) or None
    found = fit.run(
        args.models, quants, config.settings(settings), fit.memories(args.memory), fit.contexts(args.contexts),
        cache=paths.cache_dir(settings.cache_dir),
    )  # fmt: skip
    _print(args, told.data(found), told.report(found))
    return 0


def _sessions(args: argparse.Namespace) -> int:
    from quanttui import session

    folder = paths.sessions_dir(configuration(args).sessions_dir)
    if args.repair is not None:
        return _repair(session.find(folder, args.repair), args)
    if args.dry_run:
        raise UserError("--dry-run: belongs to --repair: add that, or leave it out")
    found = session.listing(folder)
    plain = [{key: getattr(one, key) for key in one.__struct_fields__} | {"folder": str(one.folder)} for one in found]
    table = "\n".join(map(_line, found)) or f"{folder}: holds no session yet: `quanttui demo` records one"
    _print(args, plain, table)
    return 0


def _repair(folder: Path, args: argparse.Namespace) -> int:
    from quanttui import repair
    from quanttui.sweep import lock

    with contextlib.ExitStack() as held:
        if not args.dry_run:
            held.callback(os.close, lock.writer(folder))
        return repair.run(folder, args.dry_run, args.json)


def _line(one: Info) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.wall)) if one.wall else "no time"
    arms = f"{one.arms_done}/{one.arms} quants"
    note = f"  ({one.note})" if one.note else ""
    told = f"{clean(one.name):<32}  {one.state:<11}  {arms:>12}  {duration(one.seconds):>6}  {when:<16}  {one.model}"
    return told + note


def _report(args: argparse.Namespace) -> int:
    from quanttui import session

    settings = configuration(args)
    folder = _folder(args, settings)
    state = session.load(folder)
    over = session.status(state, folder) != "running"
    form = "json" if args.json else args.format
    if args.plots:
        from quanttui.report import plots

        made = plots.write(state, Path(args.plots), over)
        print("\n".join(map(str, made)) or f"{folder}: nothing was measured that could be drawn", file=sys.stderr)
        if args.format == "text" and not args.out:
            return 0
    from quanttui.report import formats

    plain = settings.glyphs == "ascii" or not (args.out or _writes("±Δ…"))
    written = formats.write(form, state, over, folder, plain)
    if form.startswith("llama-bench"):
        from quanttui.report import bench

        print("".join(f"quanttui: {line}\n" for line in bench.warnings(state)), end="", file=sys.stderr)
    if args.out:
        Path(args.out).write_text(written, encoding="utf-8", newline="")
        return 0
    sys.stdout.write(written)
    return 0


def _advise(args: argparse.Namespace) -> int:
    from quanttui import session
    from quanttui.decide import candidates
    from quanttui.models import fit
    from quanttui.report import advise as told

    folder = _folder(args, configuration(args))
    state = session.load(folder)
    needs = candidates.asked(
        fit.memories(args.memory), fit.contexts(args.contexts), args.lost, args.min_tok_s, args.needs
    )
    found = told.of(state, needs, over=session.status(state, folder) != "running")
    _print(args, told.data(found, state.model), told.report(found))
    return 0


def _compare(args: argparse.Namespace) -> int:
    from quanttui.report import compare as told

    settings = configuration(args)
    found = told.read(args.sessions, paths.sessions_dir(settings.sessions_dir), args.base)
    if args.json:
        print(json_text(told.data(found)))
    else:
        print(told.report(found, ascii=settings.glyphs == "ascii" or not _writes("±Δ…")), end="")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from quanttui import verify

    return verify.run(_folder(args, configuration(args)), args.files, args.strict, args.json)


def _import(args: argparse.Namespace) -> int:
    from quanttui import imports

    found = imports.read([Path(name) for name in args.files])
    if args.session and len(found) > 1:
        raise UserError(f"--session: the files hold {len(found)} sessions: leave it out, or import them one by one")
    sessions = paths.sessions_dir(configuration(args).sessions_dir)
    made = [imports.write(one, sessions, Path(args.session) if args.session else None) for one in found]
    _print(args, [str(folder) for folder in made], "\n".join(f"{folder}: quanttui report {folder}" for folder in made))
    return 0


def _audit(args: argparse.Namespace) -> int:
    from quanttui import audit
    from quanttui.diagnosis import thresholds
    from quanttui.report import audit as told

    limits = thresholds.of(config.settings(configuration(args)))
    found = audit.audit(audit.read(Path(args.table)), limits)
    _print(args, told.data(found), told.report(found))
    return 0


def _web(args: argparse.Namespace) -> int:
    from quanttui import web

    host, port = args.host or web.HOST, web.PORT if args.port is None else args.port
    return web.serve(args.words, host, port, args.token)


def _doctor(args: argparse.Namespace) -> int:
    settings = configuration(args)
    cache = paths.cache_dir(settings.cache_dir)
    if args.self_check and args.observer is not None:
        raise UserError("--self-check and --observer: one after the other: each needs the machine for itself")
    if args.against is not None and not args.self_check:
        raise UserError("--against: belongs to --self-check: add that, or leave it out")
    if args.pairs is not None and args.observer is None:
        raise UserError("--pairs: belongs to --observer: add that, or leave it out")
    times = args.observer is not None or args.against is not None
    if args.wait and not times:
        raise UserError("--wait: belongs to what is timed: add --observer or --against, or leave it out")
    with _machine("quanttui doctor", args.wait) if times else contextlib.nullcontext():
        return _look(args, settings, cache)


def _machine(what: str, wait: bool) -> contextlib.AbstractContextManager[object]:
    """This machine, for measuring on it and nothing else beside."""
    from quanttui.sweep import lock

    return contextlib.closing(lock.hold(what, wait, lambda line: print(f"quanttui: {line}", file=sys.stderr)))


def _look(args: argparse.Namespace, settings: config.Config, cache: Path) -> int:
    """What `doctor` is asked for: the arithmetic checked, what watching costs, or what the machine can tell."""
    if args.self_check:
        from quanttui.doctor import selfcheck

        return selfcheck.run(args.against, args.json)
    from quanttui.doctor import host, observer

    if args.observer is not None:
        return observer.run(args.observer, args.pairs or observer.PAIRS, cache, settings.threads, args.json)
    shown = {key: getattr(settings, key) for key in ("glyphs", "color", "layout", "mouse")}
    return host.run(cache, settings.threads, args.json, shown)


def _writes(text: str) -> bool:
    """Whether stdout's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _print(args: argparse.Namespace, plain: object, text: str) -> None:
    print(json_text(plain) if args.json else text)
