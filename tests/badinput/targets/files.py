"""Names of files: whatever a folder, a repository or a person calls them."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import strategies as st

from quanttui import shapes
from quanttui.format import clean
from quanttui.models import files, label
from quanttui.models.fetch import named
from quanttui.repository import Remote

from ..structures import WORDS, lines
from ..target import Target, check, printable
from .models import headers

SEEDS = (
    b"Qwen3-4B-Q4_K_M.gguf\nQwen3-4B-Q8_0.gguf\nREADME.md\n",
    b"m-Q8_0-00001-of-00003.gguf\nm-Q8_0-00002-of-00003.gguf\nm-Q8_0-00003-of-00003.gguf\nsub/m-F16.gguf\n",
    b"llama-3.2-1b-instruct-UD-IQ2_XXS.gguf\nmmproj-F16.gguf\nimatrix.gguf\nMeta-Llama-3.1-8B-BF16-00001-of-00002.gguf\n",
)


def _named(data: bytes, folder: Path) -> None:
    """Each GGUF of a folder is found once, parts of one model together; each name says what it says in one line."""
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    wanted = set()
    for name in data.split(b"\n")[:40]:
        text = name.decode("utf-8", "surrogateescape")
        _told(text)
        path = place / text.replace("/", "_").replace("\0", "_")
        if len(name) <= 200 and text not in ("", ".", ".."):
            path.write_bytes(headers()[0])
            if text.lower().endswith(".gguf") and not text.startswith("."):
                wanted.add(path)
    found = [one for one in files.Search().below(place) if isinstance(one, files.Candidate)]
    parts = [path for one in found for path in one.parts]
    check(sorted(parts) == sorted(wanted), "other files than there are")
    for one in found:
        read = files.read(one.path)
        printable(f"{read.quant}{read.title}{read.error}{read.names}", "a file", "")
    _offered(data)


def _told(text: str) -> None:
    for said in (label.from_name(text), label.without_quant(text), files.common(text)):
        printable(clean(said), "a label", "")
    shapes.named(text)
    shapes.weights_named(text)
    billions = shapes.billions(text)
    check(billions is None or 0 <= billions < 1e9, f"{billions} billions")


def _offered(data: bytes) -> None:
    """A repository's files told into quants: whole sets, each file in one at most, none that leads elsewhere."""
    texts = [name.decode("utf-8", "surrogateescape") for name in data.split(b"\n")[:40]]
    offered, notes = named.offers([Remote(path=text, bytes=1) for text in dict.fromkeys(texts)])
    paths = [file.path for offer in offered for file in offer.files]
    check(len(paths) == len(set(paths)) and set(paths) <= set(texts), "other files than there are")
    for path in paths:
        check(path.isprintable() and not {"", ".", ".."} & set(path.split("/")), f"{path!r} leads elsewhere")
    for note in notes:
        printable(note, "a note", "")
    words = [offer.word for offer in offered]
    check(len(words) == len(set(words)), "two quants of one name")
    for word in words:
        check(len(named.choose(offered, [word], "hf:a/b")) == 1, f"{word!r} names no quant")


NAMES = lines(
    st.sampled_from(
        [
            "m",
            "Q4_K_M",
            "Q8_0",
            "F16",
            "00001",
            "of",
            "00002",
            "gguf",
            "mmproj",
            "8x7b",
            "70b",
            "llama",
            "/",
            "..",
            "UD",
        ]
    )
    | WORDS,
    "-",
) | st.lists(
    st.sampled_from(SEEDS).flatmap(lambda seed: st.sampled_from(seed.split(b"\n")))
    | WORDS.map(lambda text: text.encode("utf-8", "surrogatepass") + b".gguf"),
    max_size=8,
).map(b"\n".join)

TARGETS = (
    Target(
        "file-names",
        lambda: SEEDS,
        _named,
        "text",
        NAMES,
        ("quanttui.models.files", "quanttui.models.label", "quanttui.models.fetch.named", "quanttui.shapes"),
        (b"-00001-of-00002.gguf", b".gguf", b"Q4_K_M", b"..", b"/", b"8x7b"),
        names=("case", "hf:a/b"),
        share=0.6,
    ),
)
