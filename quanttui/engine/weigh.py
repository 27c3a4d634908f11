"""How large llama.cpp's compute and output buffers would be: asked of it in a process of its own, and remembered.

Owns the asking and the file of what was told: by build, by the model's outline (not its quant: buffers are those of a
batch's activations), by context and settings. Nothing here knows llama.cpp; what it will not tell is None.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

import quanttui
from quanttui import paths
from quanttui.diagnosis.ceilings import device_of
from quanttui.diagnosis.fit import Buffers, Use
from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.models import outline
from quanttui.models.header import Header

CACHE = "weighings.json"
"""In the cache folder: what llama.cpp told before."""

PATIENCE = 60.0
"""Seconds that a process may take for all that it is asked: some 10 ms each, and a second to start."""

MOST = 4000
"""Answers that are remembered of one build, and of how many builds."""
BUILDS = 4


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One question: the buffers of a context over the model in `file`, which need hold no data."""

    file: str
    settings: Settings
    context: int
    sequences: int = 1


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer: bytes of the compute buffers by llama.cpp's names, and of the output buffer; or why there is none."""

    compute: dict[str, int] = {}
    output: int = 0
    error: str = ""


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the build that was asked says of itself, as in events.Build."""

    system_info: str = ""
    devices: tuple[str, ...] = ()
    gpu_offload: bool = False


class _Known(msgspec.Struct, kw_only=True):
    """What is remembered of one build."""

    about: About = About()
    told: dict[str, Told] = {}


Run = Callable[[Sequence[Asked]], "tuple[About | None, list[Told]]"]
"""Has questions answered in a fresh process: as many answers as it lived to give."""


class Scales:
    """Weighs outlines under one set of settings, asking llama.cpp only for what is not remembered.

    Args:
        cache: the folder that the answers are remembered in.
        run: the process that is asked.
        build: what tells one llama.cpp from another.
    """

    def __init__(self, cache: Path, settings: Settings, run: Run | None = None, build: str | None = None) -> None:
        self._file = cache / CACHE
        self._settings = settings
        self._run = run or ask
        self._build = identity() if build is None else build
        self._all = _remembered(self._file)
        self._known = self._all.setdefault(self._build, _Known())

    @property
    def about(self) -> About:
        """What the build says of itself: asked for the first time, remembered later."""
        if self._known.about == About():
            self._take([])
        return self._known.about

    @property
    def remembered(self) -> About:
        """The same, without ever asking: empty where it was never asked."""
        return self._known.about

    def weigh(self, header: Header, use: Use) -> Buffers | None:
        """The buffers of a context over that model, None where llama.cpp does not tell."""
        self.prepare([(header, use)])
        return self.recall(header, use)

    def recall(self, header: Header, use: Use) -> Buffers | None:
        """The same from what is remembered, without asking."""
        told = self._known.told.get(self._key(header, use))
        if told is None or told.error:
            return None
        compute: dict[str, int] = {}
        for name, held in told.compute.items():
            compute[device_of(name)] = compute.get(device_of(name), 0) + held
        each = told.output // max(1, use.sequences)
        return Buffers(compute=compute, output=each * max(use.outputs, use.sequences))

    def refusal(self, header: Header, use: Use) -> str:
        """Why llama.cpp would not tell, "" where it did or was not asked."""
        told = self._known.told.get(self._key(header, use))
        return told.error if told else ""

    def prepare(self, wanted: Iterable[tuple[Header, Use]]) -> None:
        """Have all of these weighed together: one process for as many as are not remembered."""
        missing = {self._key(header, use): (header, use) for header, use in wanted}
        self._take([(key, *pair) for key, pair in missing.items() if key not in self._known.told])

    def _take(self, missing: list[tuple[str, Header, Use]]) -> None:
        if not missing and self._known.about != About():
            return
        with tempfile.TemporaryDirectory() as folder:
            asked = [(key, question) for key, header, use in missing if (question := self._ask(folder, header, use))]
            while True:
                about, told = self._run([question for _, question in asked])
                self._known.about = about or self._known.about
                self._known.told.update({key: each for (key, _), each in zip(asked, told, strict=False)})
                if len(told) >= len(asked) or about is None:
                    break
                # It died of the one after the last that it answered: nothing will make that one answer.
                self._known.told[asked[len(told)][0]] = Told(error="llama.cpp aborted")
                asked = asked[len(told) + 1 :]
        self._remember()

    def _ask(self, folder: str, header: Header, use: Use) -> Asked | None:
        """The question, with a file to ask it about."""
        file = Path(folder) / f"{_outline(header)}.gguf"
        try:
            if not file.exists():
                outline.write(header, file)
        except UserError:
            return None
        context = use.cells * use.sequences
        return Asked(file=str(file), settings=self._settings, context=context, sequences=use.sequences)

    def _key(self, header: Header, use: Use) -> str:
        settings = self._settings
        parts = (
            _outline(header),
            use.cells,
            use.sequences,
            settings.batch,
            settings.ubatch,
            settings.kv,
            settings.flash_attn,
            settings.gpu_layers,
            settings.split_mode,
            settings.tensor_split,
            settings.repack,
        )
        return _digest(parts)

    def _remember(self) -> None:
        """A cache that cannot be written is done without."""
        for known in self._all.values():
            known.told = dict(list(known.told.items())[-MOST:])
        self._all = {self._build: self._known, **dict(list(self._all.items())[-BUILDS:])}
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}.part")
        try:
            paths.made(self._file.parent)
            paths.write(part, msgspec.json.encode(self._all))
            os.replace(part, self._file)
        except OSError:
            with suppress(OSError):
                part.unlink()


def ask(questions: Sequence[Asked]) -> tuple[About | None, list[Told]]:
    """Have llama.cpp answer in a process of its own; no `About` where it could not even start."""
    package = str(Path(quanttui.__file__).parents[1])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quanttui.engine.scales"],
            input=msgspec.json.encode(list(questions)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            env=environment,
            check=False,
        )
        said = done.stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    except OSError:
        return None, []
    return answers(said)


def answers(said: bytes) -> tuple[About | None, list[Told]]:
    """What the lines of a process say, as far as they are whole."""
    lines = said.split(b"\n")[:-1]
    try:
        about = msgspec.json.decode(lines[0], type=About) if lines else None
        return about, [msgspec.json.decode(line, type=Told) for line in lines[1:]]
    except msgspec.DecodeError:
        return None, []


def identity() -> str:
    """What tells one installed llama.cpp from another, without loading it: its version, and its libraries' sizes and
    times."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    spec = importlib.util.find_spec("llama_cpp")
    libraries = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    found = []
    with suppress(OSError):
        found = sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in libraries.iterdir())
    return f"{version} {_digest(found)}"


def _outline(header: Header) -> str:
    """What of a model its buffers depend on: the architecture's own metadata and the tensors' names and lengths."""
    prefix = f"{header.metadata.get('general.architecture', '')}."
    own = sorted((key, value) for key, value in header.metadata.items() if key.startswith(prefix))
    return _digest((prefix, own, [(tensor.name, tensor.shape) for tensor in header.tensors]))


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _remembered(file: Path) -> dict[str, _Known]:
    """What is kept, nothing where the file is torn or foreign."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, _Known])
    except (OSError, msgspec.DecodeError):
        return {}
