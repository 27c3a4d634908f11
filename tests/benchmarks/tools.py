"""llama.cpp's own tools, of the revision that llama-cpp-python has inside.

What is compared with them is then the program around the library, and nothing else: they are built from the sources
that llama-cpp-python is built from, with its CMake options (Release, shared libraries, this machine's instructions,
OpenMP where it is found), and they run on the *installed llama-cpp-python's* libllama and libggml wherever the dynamic
linker lets its search path go first (LD_LIBRARY_PATH, DYLD_LIBRARY_PATH); only llama.cpp's `common` and the tools
themselves are theirs. Whether that came true is looked up, and so are version and instruction sets. Where it did not,
the two libraries differ by compiler and flags as well, and that is said.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from quanttui.errors import UserError
from quanttui.events import Build
from quanttui.format import clean
from quanttui.sweep.launch import build as engine_build

BENCH, PERPLEXITY = "llama-bench", "llama-perplexity"
NAMES = (BENCH, PERPLEXITY)

PACKAGE = "llama-cpp-python"

OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
"""As llama-cpp-python configures llama.cpp. What $CMAKE_ARGS held when it was installed is to be set again here."""

_STAMP = r"(\d+)\.(\d\d)\.(\d\d\d)\.(\d\d\d) I "
_BEGUN = re.compile(_STAMP + r"perplexity: calculating perplexity over (\d+) chunks")
_FINAL = re.compile(_STAMP + r"Final estimate: PPL = ([\d.]+)")
_VERSION = re.compile(r"^version: (\S+)", re.M)
_SYSTEM = re.compile(r"system_info: .*? \| (.*)")

TRIES = 20
"""llama-perplexity may end before its last lines are written out, the more often the busier the machine is."""


class Unusable(Exception):
    """A reference tool is not there or not the right one: one clear line."""


@dataclass(frozen=True)
class Scored:
    """What llama-perplexity tells of one run. `seconds` is decoding and scoring, by its own log's clock: from the line
    "calculating perplexity" on, which comes after loading, warm-up and tokenizing, to the final estimate."""

    ppl: float
    chunks: int
    seconds: float
    wall: float


@dataclass(frozen=True)
class Tools:
    """The reference tools in a folder. `libraries` are llama-cpp-python's own, "" to let them run on theirs."""

    folder: Path
    libraries: str = ""

    def run(self, name: str, *words: str, timeout: float = 7200) -> subprocess.CompletedProcess[str]:
        """What one of them prints.

        Raises:
            Unusable: it ends with an error.
        """
        found = subprocess.run(
            [str(self.folder / name), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=self.environment(),
        )
        if found.returncode:
            last = clean((found.stderr.strip().splitlines() or ["it says nothing"])[-1])
            raise Unusable(f"{name} {' '.join(words)}: exit code {found.returncode}: {last}")
        return found

    def environment(self) -> dict[str, str]:
        """The tools' own, with llama-cpp-python's libraries first."""
        paths = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if self.libraries else ()
        return {**os.environ, **{name: self.libraries for name in paths}}

    def perplexity(self, model: Path, text: Path, threads: int, chunks: int) -> Scored:
        """The plain perplexity of a text's first chunks (-1: all). Asked again where its last lines are missing."""
        words = ("-m", str(model), "-f", str(text), "-t", str(threads), "-c", "512", "--chunks", str(chunks))
        for _ in range(TRIES):
            begun = time.monotonic()
            found = self.run(PERPLEXITY, *words, "--log-prefix", "--log-timestamps")
            wall = time.monotonic() - begun
            start, end = _BEGUN.search(found.stderr), _FINAL.search(found.stderr)
            if start and end:
                return Scored(float(end[5]), int(start[5]), _seconds(end) - _seconds(start), wall)
        raise Unusable(f"{PERPLEXITY}: never says its final estimate of {model.name}")

    def divergence(self, model: Path, base: Path, threads: int) -> str:
        """What it prints of a model against a base-logits file."""
        words = ("--kl-divergence", "--kl-divergence-base", str(base), "-t", str(threads), "-c", "512")
        for _ in range(TRIES):
            text = self.run(PERPLEXITY, "-m", str(model), *words).stdout
            if "Same top p:" in text:
                return text
        raise Unusable(f"{PERPLEXITY} --kl-divergence: never comes to its end with {model.name}")

    def write_base(self, model: Path, text: Path, base: Path, threads: int, chunks: int) -> None:
        """Have the base-logits file written."""
        words = ("-m", str(model), "-f", str(text), "-t", str(threads), "-c", "512", "--chunks", str(chunks))
        self.run(PERPLEXITY, *words, "--kl-divergence-base", str(base))

    def differences(self, model: Path, text: Path) -> list[str]:
        """How these tools differ from what quanttui's engine runs on: a line each, none if they do not."""
        ours = engine_build()
        told = self.run(PERPLEXITY, "-m", str(model), "-f", str(text), "-t", "1", "-c", "64", "--chunks", "2").stderr
        said = self.run(PERPLEXITY, "--version")
        return [*self._library(), *_version(said.stdout + said.stderr, ours), *_system(told, ours)]

    def _library(self) -> list[str]:
        """Whether the linker took llama-cpp-python's libraries (Linux tells by a trial run)."""
        if not sys.platform.startswith("linux"):
            return ["which shared libraries the tools run on is not known on this system"] if self.libraries else []
        loader = {**self.environment(), "LD_TRACE_LOADED_OBJECTS": "1"}
        lines = subprocess.run([str(self.folder / PERPLEXITY)], capture_output=True, text=True, env=loader).stdout
        found = re.findall(r"lib(?:llama|ggml[\w-]*)\.so\S* => (\S+)", lines)
        if self.libraries and found and all(Path(one).parent == Path(self.libraries) for one in found):
            return []
        return [f"the tools run on shared libraries of their own ({', '.join(sorted(set(found))) or 'static ones'})"]


def _seconds(stamp: re.Match[str]) -> float:
    minutes, seconds, milli, micro = (int(stamp[at]) for at in range(1, 5))
    return 60 * minutes + seconds + milli / 1e3 + micro / 1e6


def _version(said: str, ours: Build) -> list[str]:
    found = _VERSION.search(said)
    theirs = found[1] if found else "unknown"
    return [] if theirs == ours.llama_cpp else [f"the tools are llama.cpp {theirs}, the engine's is {ours.llama_cpp}"]


def _system(told: str, ours: Build) -> list[str]:
    found = _SYSTEM.search(told)
    theirs = " ".join(found[1].split()) if found else "unknown"
    same = theirs == " ".join(ours.system_info.split())
    return [] if same else [f"the tools' system_info is {theirs!r}, the engine's {ours.system_info!r}"]


def find(given: Path | None, cache: Path, source: Path | None, say: Callable[[str], None]) -> Tools:
    """The reference tools: those in the folder given, those built before, or built now.

    Raises:
        Unusable: they are not in the folder given, or cannot be built.
    """
    if given is not None:
        missing = [name for name in NAMES if not (given / name).exists()]
        if missing:
            raise Unusable(f"{given}: holds no {' and no '.join(missing)}: leave --tools out to have them built")
        return Tools(given.resolve(), _libraries())
    folder = cache / f"llama.cpp-{version(PACKAGE)}"
    if not all((folder / "bin" / name).exists() for name in NAMES):
        _build(source or _source(cache, say), folder, say)
    return Tools((folder / "bin").resolve(), _libraries())


def _libraries() -> str:
    """Where llama-cpp-python's shared libraries lie; the package itself need not be imported for it."""
    found = importlib.util.find_spec("llama_cpp")
    folder = Path(found.origin).parent / "lib" if found and found.origin else None
    return str(folder) if folder and folder.is_dir() else ""


def _source(cache: Path, say: Callable[[str], None]) -> Path:
    """llama-cpp-python's source distribution of the installed version, fetched and unpacked once."""
    name = f"llama_cpp_python-{version(PACKAGE)}"
    if (cache / name / "vendor" / "llama.cpp" / "CMakeLists.txt").exists():
        return cache / name
    say(f"fetching the source distribution of {PACKAGE} {version(PACKAGE)}")
    words = ["download", "--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={version(PACKAGE)}", "-d", str(cache)]
    _do([sys.executable, "-m", "pip", *words], cache / "pip.log")
    with tarfile.open(cache / f"{name}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.10 may have none
        archive.extractall(cache)
    return cache / name


def _build(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    say(f"building {' and '.join(NAMES)} in {folder}: this takes some minutes")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = os.environ.get("CMAKE_ARGS", "").split()
    _do(
        ["cmake", "-S", str(source / "vendor" / "llama.cpp"), "-B", str(folder), *OPTIONS, *arguments],
        folder / "configure.log",
    )
    _do(
        ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1), "--target", *NAMES],
        folder / "build.log",
    )


def _do(command: list[str], log: Path) -> None:
    """Run a command whose output nobody needs unless it fails.

    Raises:
        Unusable: it does.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(log, "wb") as file:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode
    except OSError as error:
        raise Unusable(f"{command[0]}: cannot be run ({error.strerror}): the tools need it to be built") from None
    if code:
        raise Unusable(f"{' '.join(command[:3])} …: exit code {code}: see {log}")


def ready(tools: Tools, model: Path, text: Path) -> list[str]:
    """What is to be said of the tools before anything is measured with them.

    Raises:
        Unusable: they do not run at all.
    """
    try:
        return tools.differences(model, text)
    except UserError as error:
        raise Unusable(str(error)) from None
