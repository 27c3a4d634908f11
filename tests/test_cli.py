"""The command line: what is accepted, what is said, what is returned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from quanttui import __version__, cli, config, paths, session
from quanttui import events as e
from quanttui.errors import UserError

HOST = e.Host(name="test", os="linux", cpu="a processor", cores=2, threads=2, memory=2**33)
BUILD = e.Build(quanttui=__version__, llama_cpp_python="0.3.36", llama_cpp="b1", gpu_offload=False)


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """A sessions folder with one session in it that was interrupted before its first arm."""
    folder = session.create(tmp_path / "sessions", "a model")
    writer = session.Writer(folder)
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA,
            model="a \x1b[31mmodel",
            host=HOST,
            build=BUILD,
            settings=e.Settings(),
            plan=(e.PlannedArm(id="Q8_0", quant="Q8_0"), e.PlannedArm(id="Q2_K", quant="Q2_K")),
            wall=1.7e9,
            origin_ns=writer.origin_ns,
            pid=2**22 + 1,
            pid_started=0.0,
        )
    )
    writer.close()
    return tmp_path / "sessions"


@pytest.fixture
def settings(tmp_path: Path, sessions: Path) -> list[str]:
    """The flag of a configuration file that names the sessions folder, so that no test sees the user's own."""
    file = tmp_path / "config.toml"
    file.write_text(f"sessions_dir = {json.dumps(str(sessions))}\n", encoding="utf-8")
    return ["--config", str(file)]


def python(*words: str, **given: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QUANTTUI_")}
    command = [sys.executable, *words]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **given)  # type: ignore[call-overload, no-any-return]


BAD: list[tuple[str, str]] = [
    ("runn model.gguf", "did you mean run?"),
    ("frobnicate", "there are demo, run"),
    ("run", "MODEL"),
    ("run m.gguf --promt 3", "did you mean --prompt?"),
    ("run m.gguf --prompt", "--prompt: expected one argument"),
    ("run m.gguf --prompt -3", "--prompt -3: must be a whole number, 0 or more"),
    ("run m.gguf -p many", "--prompt many: must be"),
    ("run m.gguf -p 512,1024", "--prompt 512,1024: must be"),
    ("run m.gguf --chunks -2", "--chunks -2: must be"),
    ("run m.gguf -ngl -2", "--gpu-layers -2: must be"),
    ("run m.gguf -fa maybe", "--flash-attn maybe: must be auto, on or off"),
    ("run m.gguf -sm sideways", "--split-mode sideways: must be none, layer, row or tensor"),
    ("run m.gguf -ts 1/x", "--tensor-split 1/x: must be"),
    ("run m.gguf --kv q3_k", "--kv q3_k: must be"),
    ("run m.gguf --tasks speed,rouge", "--tasks speed,rouge: must be"),
    ("run m.gguf --quants Q4_KM", "did you mean Q4_K_M"),
    ("run m.gguf --quants ,", "--quants"),
    ("run m.gguf -p 0 -n 0 --chunks 0", "nothing is left to measure"),
    ("run m.gguf --resume x", "MODEL: a resumed session keeps its own plan"),
    ("run --resume x --chunks 3", "--chunks: a resumed session keeps its own plan"),
    ("demo m.gguf", "m.gguf: no such argument"),
    ("replay --speed fast", "--speed: fast: must be a factor"),
    ("replay --speed 0", "--speed: 0: must be a factor"),
    ("snapshot --size 3x3", "--size: 3x3: must be columns x rows"),
    ("snapshot --size large", "--size: large: must be columns x rows"),
    ("report --format yaml", "--format: invalid choice"),
    ("report nowhere", "nowhere: is no session"),
    ("--jsn sessions", "did you mean --json?"),
    ("demo", "no terminal: add --headless"),
    ("attach", "no terminal: `quanttui report"),
    ("replay", "no terminal: `quanttui report"),
]


@pytest.mark.parametrize(("line", "says"), BAD, ids=[line for line, _ in BAD])
def test_bad_usage_is_one_line_that_names_what_is_wrong(
    line: str, says: str, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*line.split(), *settings]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("quanttui: ") and err.count("\n") == 1
    assert says in err


def test_a_path_in_the_place_of_a_command_is_told_how_to_sweep_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(tmp_path)]) == 2
    assert f"`quanttui run {tmp_path}`" in capsys.readouterr().err


def test_foreign_text_reaches_the_terminal_without_control_characters(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "\x1b[2Jno\u202esession", *settings]) == 2
    assert cli.main(["run", "m.gguf", "--kv", "\x1b[31mred", *settings]) == 2
    assert cli.main(["\x07bell"]) == 2
    assert cli.main(["sessions", *settings]) == 0
    out, err = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in out + err)


def test_llama_benchs_short_forms_are_the_long_ones() -> None:
    given = {
        "-p": "64", "-n": "32", "-d": "16", "-r": "2", "-t": "3", "-ngl": "5", "-sm": "row", "-ts": "3/1",
        "-b": "256", "-ub": "128", "-fa": "on", "-lm": "mmap",
    }  # fmt: skip
    long = {short: cli._flag(key) for key, (shorts, _, _) in cli.MEASURED.items() for short in shorts}
    assert set(long) == set(given)
    one = cli.parse(["run", "m", *[word for pair in given.items() for word in pair]])
    two = cli.parse(["run", "m", *[word for short, value in given.items() for word in (long[short], value)]])
    assert one == two


def test_every_key_that_is_measured_with_has_a_flag() -> None:
    shown = {"sessions_dir", "cache_dir", "cache_gib", "sample_hz", "patience", "keys", *cli.SHOWN, "polite"}
    assert set(cli.MEASURED) == set(config.KEYS) - shown


def test_models_may_stand_on_both_sides_of_a_flag() -> None:
    assert cli.parse(["run", "a", "--headless", "b", "c"]).models == ["a", "b", "c"]


def test_common_flags_stand_before_or_after_the_command() -> None:
    for words in (["--json", "--debug", "sessions"], ["sessions", "--json", "--debug"]):
        args = cli.parse(words)
        assert (args.json, args.debug) == (True, True)


def test_a_request_carries_what_was_asked(tmp_path: Path, settings: list[str], sessions: Path) -> None:
    line = "run a b --quants Q8_0,Q4_K_M -p 64 -n 0 --chunks 20 --text t.txt --ctx 256 --polite --headless --json"
    args = cli.parse([*line.split(), "--session", str(tmp_path / "s"), "--imatrix", "i.gguf", *settings])
    asked = cli.request(args, cli.configuration(args))
    assert (asked.models, asked.quants, asked.imatrix, asked.text) == (("a", "b"), "Q8_0,Q4_K_M", "i.gguf", "t.txt")
    assert (asked.headless, asked.detach, asked.demo, asked.json) == (True, False, False, True)
    assert (asked.session, asked.resume, asked.sessions_dir) == (tmp_path / "s", None, sessions)
    assert asked.cache_bytes == 20 * 2**30
    default = config.settings(config.Config())
    expected = msgspec.structs.replace(
        default, prompt=64, decode=0, chunks=20, context=256, threads=0, text="t.txt", polite=True
    )
    assert asked.settings == expected


def test_full_and_percentages_are_what_they_say(settings: list[str]) -> None:
    args = cli.parse(["run", "a", "--until", "decided", "--full", "--tolerance", "2%", "--drift", "7", *settings])
    asked = cli.request(args, cli.configuration(args)).settings
    assert (asked.until, asked.tolerance, asked.drift) == ("full", 0.02, 0.07)


def test_the_demo_keeps_its_own_text_and_quants_whatever_the_file_says(settings: list[str]) -> None:
    Path(settings[1]).write_text('text = "wikitext-2"\nquants = ["common"]\ndecode = 32\n', encoding="utf-8")
    args = cli.parse(["demo", *settings])
    asked = cli.request(args, cli.configuration(args))
    assert (asked.demo, asked.text, asked.quants, asked.settings.decode) == (True, "pocket", None, 32)
    args = cli.parse(["demo", "--quants", "Q8_0", "--text", "mine.txt", *settings])
    asked = cli.request(args, cli.configuration(args))
    assert (asked.text, asked.quants) == ("mine.txt", "Q8_0")


def test_no_command_prints_what_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("demo", "run FOLDER", "attach", "replay", "sessions"))


def test_the_version_names_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"quanttui {__version__} (llama-cpp-python ")


@pytest.mark.parametrize("command", ["demo", "run", "attach", "replay", "snapshot", "sessions", "report"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as over:
        cli.main([command, "--help"])
    assert over.value.code == 0
    assert f"usage: quanttui {command}" in capsys.readouterr().out


def test_sessions_are_listed_with_their_state(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sessions", *settings]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "a-model" in line and "interrupted" in line and "0/2 quants" in line


def test_sessions_as_json(settings: list[str], sessions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sessions", "--json", *settings]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert Path(one["folder"]).parent == sessions
    assert (one["state"], one["arms"], one["arms_done"]) == ("interrupted", 2, 0)
    assert one["wall"] == pytest.approx(1.7e9)


def test_a_report_takes_the_latest_session(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", *settings]) == 0
    assert "Q2_K" in capsys.readouterr().out
    assert cli.main(["report", "--json", *settings]) == 0
    by_flag = json.loads(capsys.readouterr().out)
    assert cli.main(["report", "--format", "json", *settings]) == 0
    assert json.loads(capsys.readouterr().out) == by_flag
    assert by_flag["schema"] == 1
    assert [arm["id"] for arm in by_flag["arms"]] == ["Q8_0", "Q2_K"]


def test_a_snapshot_is_three_files(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["snapshot", "--size", "80x24", "--out", str(tmp_path / "new" / "v1.2"), *settings]) == 0
    written = [tmp_path / "new" / f"v1.2.{kind}" for kind in ("svg", "txt", "json")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert written[0].read_text(encoding="utf-8").startswith("<svg")
    assert "Q8_0" in written[1].read_text(encoding="utf-8")
    json.loads(written[2].read_text(encoding="utf-8"))


def test_a_report_is_ascii_where_nothing_else_can_be_written(settings: list[str]) -> None:
    words = ["-X", "utf8=0", "-m", "quanttui", "report", *settings]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": os.environ.get("PATH", "")}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and b"?" not in done.stdout


def test_debug_adds_the_traceback(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nowhere", *settings]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["report", "nowhere", "--debug", *settings]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python("-m", "quanttui", "run", "--help", stdout=writer)
    os.close(writer)
    assert done.communicate() == (None, "")
    assert done.returncode == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_interrupt_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    pipe = tmp_path / "config.toml"
    os.mkfifo(pipe)
    running = python("-m", "quanttui", "sessions", "--config", str(pipe), stdout=subprocess.DEVNULL)
    with open(pipe, "wb"):  # opens only once the other side reads its configuration, which then never comes
        running.send_signal(signal.SIGINT)
        assert running.communicate() == (None, "")
    assert running.returncode == 130


def test_where_to_configure_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert str(paths.shipped_config()) in out and str(paths.user_config()) in out


def test_complaints_of_the_parser_are_user_errors() -> None:
    with pytest.raises(UserError):
        cli.parse(["snapshot", "--size"])
