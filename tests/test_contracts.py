"""What a command must not pay for: neither the screen's library nor the engine's is loaded where it is not used.

The direction of imports inside the package is import-linter's to check (pyproject.toml); these tests look at what a
real process has loaded in the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quanttui import events as e
from quanttui import session

SCRIPT = """
import json, sys
from quanttui.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as over:
    code = over.code
with open(sys.argv[1], "w") as file:
    json.dump([code, sorted({name.partition(".")[0] for name in sys.modules})], file)
"""


def loaded(folder: Path, *words: str) -> tuple[int, set[str]]:
    """Exit code and top-level modules of a fresh process that ran one command."""
    found = folder / "loaded.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QUANTTUI_")}
    command = [sys.executable, "-c", SCRIPT, str(found), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert found.exists(), done.stderr
    code, modules = json.loads(found.read_text())
    return code, set(modules)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A session that was opened and closed."""
    folder = session.create(tmp_path, "model", tmp_path / "recorded")
    writer = session.Writer(folder)
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA,
            model="model",
            host=e.Host(name="test", os="linux", cpu="a processor", cores=2, threads=2, memory=2**33),
            build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False),
            settings=e.Settings(),
            plan=(e.PlannedArm(id="Q8_0", quant="Q8_0"),),
            wall=1.7e9,
            origin_ns=writer.origin_ns,
            pid=1,
            pid_started=0.0,
        )
    )
    writer.append(e.SessionClosed(outcome="ok"))
    writer.close()
    return folder


@pytest.mark.parametrize("line", ["", "--help", "run --help", "--version", "sessions", "run /no/such/file --headless"])
def test_a_command_without_a_screen_loads_neither_screen_nor_engine(tmp_path: Path, line: str) -> None:
    code, modules = loaded(tmp_path, *line.split())
    assert code == (2 if "no/such" in line else 0)
    assert not modules & {"textual", "rich", "llama_cpp"}


@pytest.mark.parametrize("line", ["", "--help", "--version"])
def test_help_loads_no_numeric_library(tmp_path: Path, line: str) -> None:
    assert not loaded(tmp_path, *line.split())[1] & {"numpy", "datasets", "pynvml", "gguf"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_report_loads_neither_screen_nor_engine(tmp_path: Path, recorded: Path, form: str) -> None:
    code, modules = loaded(tmp_path, "report", str(recorded), "--format", form)
    assert code == 0
    assert not modules & {"textual", "rich", "llama_cpp"}


def test_a_headless_sweep_loads_neither_screen_nor_engine(tmp_path: Path) -> None:
    line = "demo --headless --quants Q8_0 -p 16 -n 4 -r 1 --chunks 2 --session"
    code, modules = loaded(tmp_path, *line.split(), str(tmp_path / "swept"))
    assert code == 0
    assert session.load(tmp_path / "swept").closed == "ok"
    assert not modules & {"textual", "rich", "llama_cpp"}


def test_the_vocabulary_imports_nothing_of_ours(tmp_path: Path) -> None:
    script = "import sys, quanttui.events; print(*sorted(name for name in sys.modules if name.startswith('quanttui')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["quanttui", "quanttui.events"]
