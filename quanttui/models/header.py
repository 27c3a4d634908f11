"""Headers of GGUF files: what a model file says of itself, checked against what it holds.

Owns the reading of GGUF versions 2 and 3 (little-endian) with plain reads of the header's bytes: no tensor is touched,
nothing is mapped, every count is held against the file's size before anything is kept. Must not know llama.cpp, arms
or sessions. Whatever is wrong with a file becomes a `UserError` of one line that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol

from quanttui import paths, quants
from quanttui.errors import UserError
from quanttui.events import Shape, TensorGroup
from quanttui.format import clean
from quanttui.models import layers as rules
from quanttui.models.layers import Keys, Scalar, Value

STRING_LIMIT = 4096
"""Longer strings (chat templates) are skipped: only their length is kept."""
ARRAY_LIMIT = 4096
"""Longer arrays of numbers are skipped; per-layer ones have some hundreds of entries at most."""
NAME_LIMIT = 65535
"""Bytes of a key; the format's own limit."""
STRINGS_LIMIT = 1 << 22
"""Strings in one array; the largest vocabularies have 2^19 entries."""
TENSOR_LIMIT = 1 << 17
"""Tensors and keys of one file; the most seen are some 14,000."""
LAYER_LIMIT = 4096
"""Layers that are believed; llama.cpp's own limit is 512."""
DEFAULT_ALIGNMENT = 32

_CHUNK = 1 << 18
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SPLIT = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$", re.IGNORECASE)
_BLOCK = re.compile(r"blk\.([0-9]{1,9})\.")
_EXPERTS = re.compile(r"_(?:ch)?exps\.")
_OLD_EXPERT = re.compile(r"\.ffn_(?:up|gate|down)\.([0-9]{1,9})\.")
_ROWS = frozenset({"per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"})
"""Tables besides the embedding of which llama.cpp takes one row for a token."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: `shape` with the row length first, `bytes` of data from `offset` in the data section of its file.

    `type` is ggml's name, or `type N` for a number that is not in the table; then `bytes` is what lies up to the next
    tensor.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    offset: int

    @property
    def elements(self) -> int:
        """How many weights it holds."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True)
class Header:
    """A model's header; of a split model the first part's metadata and all parts' tensors.

    `metadata` has numbers, truth values, strings up to STRING_LIMIT bytes and number arrays up to ARRAY_LIMIT entries;
    `lengths` the entries of every array and the bytes of every longer string. `file_bytes` is the size of all `files`;
    `data_offset` is where the tensors of the first one begin.
    """

    path: Path
    version: int
    metadata: dict[str, Value]
    lengths: dict[str, int]
    tensors: tuple[Tensor, ...]
    file_bytes: int
    alignment: int
    data_offset: int
    files: tuple[Path, ...]


class Readable(Protocol):
    """Bytes from any place on, as a file opened without a buffer gives them."""

    def seek(self, offset: int, /) -> int:
        """Go to the byte `offset`."""
        ...

    def read(self, size: int, /) -> bytes | None:
        """Up to `size` bytes from there; none at the end."""
        ...


def read(path: str | Path) -> Header:
    """The header of a GGUF, and of all parts where it is split (`…-00001-of-00003.gguf`; any part may be given).

    Raises:
        UserError: no such file, not readable, not a GGUF, cut off (also when only tensor data is missing), absurd.
    """
    path = Path(path)
    header = _read_file(path)
    parts = header.metadata.get("split.count", 0)
    if not isinstance(parts, int) or parts <= 1:
        return header
    files = _parts(path, parts)
    return joined([header if file == path else _read_part(file, path) for file in files], path)


def parse(file: Readable, path: Path, size: int) -> Header:
    """The header of one file of `size` bytes, read through `file` from its start on: it may lie on another machine.

    `path` is what it is called. Other parts of a split model are not looked for.

    Raises:
        UserError: not a GGUF, cut off, absurd.
    """
    return _Reader(file, path, size).header()


def joined(parts: Sequence[Header], path: Path) -> Header:
    """The header of a split model whose parts, in their order, have these; `path` is what it is called.

    Raises:
        UserError: two of them hold the same tensor.
    """
    seen = Counter(tensor.name for each in parts for tensor in each.tensors)
    twice = next((name for name, count in seen.items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{_name(path)} is a split model whose parts hold tensor {clean(twice, 80)!r} twice")
    return replace(
        parts[0],
        tensors=tuple(tensor for each in parts for tensor in each.tensors),
        file_bytes=sum(each.file_bytes for each in parts),
        files=tuple(file for each in parts for file in each.files),
    )


def shape(header: Header) -> Shape:
    """The model's shape as the roofline needs it, from the metadata under the architecture's own prefix.

    Where the metadata contradicts the tensors, what the tensors say counts and `note` says so; it also says what the
    roofline does not know of the architecture. Layers that predict further tokens (nextn) are among `layers`, but keep
    no KV cache and are not among `tensors`: llama.cpp does not load them for plain decoding.

    Raises:
        UserError: the file holds no tensors, or its metadata is absurd.
    """
    if not header.tensors:
        raise UserError(f"{_name(header.path)} holds no tensors: it is a vocabulary, not a model")
    keys = Keys(header.metadata, _name(header.path))
    layers, wrong_layers = _layers(header, keys)
    width, vocabulary, wrong_table = _table(header, keys)
    experts, experts_used, wrong_experts = _experts(header, keys)
    heads = keys.largest("attention.head_count")
    key_length = keys.number("attention.key_length", default=width // heads if heads else 0)
    stated, wrong_list = _stated_kv(header, keys, layers, key_length, heads)
    kept, wrong_kv = _held(header, keys, rules.kept(keys, width, heads, stated), key_length)
    names = {tensor.name for tensor in header.tensors}
    notes = (wrong_layers, wrong_table, wrong_experts, wrong_list, wrong_kv, *kept.notes)
    return Shape(
        architecture=keys.architecture,
        name=name(header),
        layers=layers,
        embedding=width,
        vocabulary=vocabulary,
        heads=heads,
        head_count_kv=kept.head_count_kv,
        key_length=key_length,
        value_length=keys.number("attention.value_length", default=width // heads if heads else 0),
        context=keys.number("context_length"),
        tied="token_embd.weight" in names and "output.weight" not in names,
        feed_forward=keys.largest("feed_forward_length"),
        experts=experts,
        experts_used=experts_used,
        window=kept.window,
        windows=kept.windows,
        latent=kept.latent,
        state_bytes=kept.state_bytes,
        note="; ".join(note for note in notes if note),
        parameters=sum(tensor.elements for tensor in header.tensors),
        tensors=_groups(_loaded(header.tensors, rules.trunk(keys, layers))),
    )


def role(tensor: str) -> str:
    """What part of the model a tensor of that name is: embedding, output, experts, block, rows, other."""
    if tensor == "token_embd.weight":
        return "embedding"
    if tensor == "output.weight":
        return "output"
    if tensor in _ROWS:
        return "rows"
    if _EXPERTS.search(tensor) or _OLD_EXPERT.search(tensor):
        return "experts"
    return "block" if tensor.startswith("blk.") else "other"


def _layers(header: Header, keys: Keys) -> tuple[int, str]:
    """How many layers the model has, and what is wrong with what the metadata says of it."""
    stated = keys.number("block_count", maximum=LAYER_LIMIT)
    held = 1 + max((_block(tensor.name) for tensor in header.tensors), default=-1)
    if held > LAYER_LIMIT:
        raise UserError(f"{_name(header.path)} has a tensor of layer {held - 1}: damaged?")
    least = rules.trunk(keys, stated)
    if not held or least <= held <= stated or (keys.architecture in rules.UNEVEN and held <= stated):
        return stated, ""
    return held, f"block_count says {stated} layers, there are tensors of {held}"


def _table(header: Header, keys: Keys) -> tuple[int, int, str]:
    """The model's width, its vocabulary, and what the embedding contradicts of either."""
    width, features = keys.number("embedding_length"), keys.number("features_length")
    words = header.lengths.get("tokenizer.ggml.tokens") or keys.number("vocab_size")
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2:
        return width, words, ""
    row, rows = embedding.shape
    if max(row, rows) > rules.COUNT_LIMIT:
        raise UserError(f"{_name(header.path)} has an embedding of {rows} rows of {row}: damaged?")
    notes = []
    if width and row not in (width, features):
        notes.append(f"embedding_length says {width}, the embedding's rows have {row}")
    if words and rows != words:
        notes.append(f"the vocabulary has {words} tokens, the embedding {rows} rows")
    return row if not features else width, rows, "; ".join(notes)


def _experts(header: Header, keys: Keys) -> tuple[int, int, str]:
    """Experts in a layer, how many of them a token uses, and what is wrong with what the metadata says of them."""
    stated, each = keys.number("expert_count"), [one for one in keys.values("expert_used_count") if one]
    used = round(sum(each) / len(each)) if each else keys.number("expert_used_count")
    whole = (tensor.shape[2] for tensor in header.tensors if "_exps.weight" in tensor.name and len(tensor.shape) == 3)
    old = (int(found[1]) + 1 for tensor in header.tensors if (found := _OLD_EXPERT.search(tensor.name)))
    held = max((*whole, *old), default=0)
    if held > rules.COUNT_LIMIT:
        raise UserError(f"{_name(header.path)} has tensors of {held} experts: damaged?")
    notes = []
    if len(set(each)) > 1:
        notes.append(f"its layers use {min(each)} to {max(each)} experts: counted as {used} each")
    if held != stated and (held or stated > 1):
        notes.append(f"expert_count says {stated}, there are tensors of {held}")
    if held and used > held:
        notes.append(f"expert_used_count says {used} of {held} experts: all are counted")
    if held and not used:
        notes.append("how many experts a token uses is not said: all are counted")
    return held, min(used, held), "; ".join(notes)


def _stated_kv(header: Header, keys: Keys, layers: int, key_length: int, heads: int) -> tuple[tuple[int, ...], str]:
    """KV heads of each layer as the metadata has them; from the keys' tensors where it lists too few or too many."""
    key = "attention.head_count_kv"
    listed = keys.values(key)
    if not listed or len(listed) == layers:
        return keys.per_layer(key, layers, default=heads), ""
    rows = _rows(header, "attn_k.weight")
    counts = tuple(rows.get(il, 0) // key_length for il in range(layers)) if rows and key_length else None
    filled = (*listed, *(max(listed),) * layers)[:layers]
    return counts or filled, f"head_count_kv lists {len(listed)} layers of {layers}"


def _held(header: Header, keys: Keys, kept: rules.Kept, key_length: int) -> tuple[rules.Kept, str]:
    """What the layers keep, held against the tensors that make it; and what those contradict."""
    if kept.latent:
        rows = max(_rows(header, "attn_kv_a_mqa.weight").values(), default=kept.latent)
        wrong = f"the latent should have {kept.latent} elements, its tensors make {rows}"
        return (kept, "") if rows == kept.latent else (replace(kept, latent=rows), wrong)
    own = keys.number("attention.key_length_swa", default=key_length)
    made = _rows(header, "attn_k.weight")
    counts = tuple(
        made[il] // key_length if count and key_length and il in made and own == key_length else count
        for il, count in enumerate(kept.head_count_kv)
    )
    if counts == kept.head_count_kv:
        return kept, ""
    il = next(il for il, pair in enumerate(zip(counts, kept.head_count_kv, strict=True)) if pair[0] != pair[1])
    wrong = f"layer {il} should have {kept.head_count_kv[il]} KV heads of {key_length}, its keys have {made[il]} rows"
    return replace(kept, head_count_kv=counts), wrong


def _rows(header: Header, part: str) -> dict[int, int]:
    """Rows of a matrix that blocks have, by layer.

    Raises:
        UserError: more than can be.
    """
    rows: dict[int, int] = {}
    for tensor in header.tensors:
        il = _block(tensor.name)
        if il >= 0 and len(tensor.shape) == 2 and tensor.name == f"blk.{il}.{part}":
            rows[il] = tensor.shape[1]
            if rows[il] > rules.COUNT_LIMIT:
                raise UserError(f"{_name(header.path)} has a tensor {tensor.name} of {rows[il]} rows: damaged?")
    return rows


def _block(tensor: str) -> int:
    """The layer that a tensor of that name is of, -1 for none."""
    found = _BLOCK.match(tensor)
    return int(found[1]) if found else -1


def _loaded(tensors: tuple[Tensor, ...], reach: int) -> tuple[Tensor, ...]:
    """The tensors without those of layers from `reach` on."""
    return tuple(tensor for tensor in tensors if _block(tensor.name) < reach)


def name(header: Header) -> str:
    """The model's name: general.name, else general.basename, else the file's; clean."""
    for key in ("general.name", "general.basename"):
        value = header.metadata.get(key)
        if isinstance(value, str) and clean(value, 80):
            return clean(value, 80)
    return clean(header.path.stem, 80)


def bits_per_weight(header: Header) -> float:
    """Bits of tensor data per weight, all tensors together.

    Raises:
        UserError: the file holds no weights.
    """
    elements = sum(tensor.elements for tensor in header.tensors)
    if not elements:
        raise UserError(f"{_name(header.path)} holds no weights")
    return sum(tensor.bytes for tensor in header.tensors) * 8 / elements


def tensor_types(header: Header) -> dict[str, int]:
    """How many tensors have each type, most first."""
    return dict(Counter(tensor.type for tensor in header.tensors).most_common())


def imatrix(header: Header) -> str:
    """The importance matrix that the file says it was quantized with, clean; "" where it names none.

    llama-quantize notes the file and the text that it was made of (quantize.imatrix.file, quantize.imatrix.dataset).
    """
    said = (header.metadata.get(f"quantize.imatrix.{key}") for key in ("file", "dataset"))
    return next((clean(each, 200) for each in said if isinstance(each, str) and clean(each)), "")


def sha256(path: Path, cache: Path, progress: Callable[[float], None] | None = None) -> str:
    """The file's SHA-256 in hex; `progress` gets the share read so far, 0 to 1. See `hashing`."""
    reading = hashing(path, cache)
    while True:
        try:
            fraction = next(reading)
        except StopIteration as done:
            return str(done.value)
        if progress is not None:
            progress(fraction)


def hashing(path: Path, cache: Path) -> Generator[float, None, str]:
    """The file's SHA-256 in hex, remembered in the folder `cache` by path, size and time of change.

    Yields the share read so far, 0 to 1, every 64 MiB; nothing where the digest is remembered.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        note, key = _note(path, cache)
        known = _remembered(note, key)
        if known is None:
            known = yield from _digest(path, path.stat().st_size)
            _remember(note, [*key, known])
    except OSError as error:
        _fail(path, error)
    return known


def remember_sha256(path: Path, cache: Path, digest: str) -> None:
    """Have `hashing` know the digest of a file that was hashed on its way here."""
    with suppress(OSError):
        note, key = _note(path, cache)
        _remember(note, [*key, digest])


def _note(path: Path, cache: Path) -> tuple[Path, list[object]]:
    """Where a file's digest is remembered, and what has to be the same for it to hold."""
    status, name = path.stat(), os.path.abspath(path)
    note = cache / "sha256" / (hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + ".json")
    return note, [name, status.st_size, status.st_mtime_ns]


def _digest(path: Path, size: int) -> Generator[float, None, str]:
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            if done % (1 << 26) < len(block):
                yield min(1.0, done / size) if size else 1.0
    return digest.hexdigest()


def _remembered(note: Path, key: list[object]) -> str | None:
    try:
        *found, digest = json.loads(note.read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    return digest if found == key and isinstance(digest, str) else None


def _remember(note: Path, entry: list[object]) -> None:
    """A cache that cannot be written costs time, never the answer."""
    try:
        paths.made(note.parent)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False, encoding="utf-8") as file:
            json.dump(entry, file)
        os.replace(file.name, note)
    except OSError:
        return


def _groups(tensors: Iterable[Tensor]) -> tuple[TensorGroup, ...]:
    groups: dict[tuple[str, str], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((role(tensor.name), tensor.type), []).append(tensor)
    return tuple(
        TensorGroup(
            role=part,
            type=kind,
            count=len(members),
            elements=sum(tensor.elements for tensor in members),
            bytes=sum(tensor.bytes for tensor in members),
        )
        for (part, kind), members in sorted(groups.items())
    )


def _parts(path: Path, parts: int) -> list[Path]:
    """The files of a split model in order, the given one among them."""
    match = _SPLIT.match(path.name)
    if match is None or int(match["parts"]) != parts:
        raise UserError(
            f"{_name(path)} is one of {parts} parts but is not named so; rename it to …-00001-of-{parts:05}.gguf"
        )
    return [
        path if int(match["part"]) == part else path.with_name(f"{match['stem']}-{part:05}-of-{match['parts']}.gguf")
        for part in range(1, parts + 1)
    ]


def _read_part(file: Path, asked: Path) -> Header:
    if not file.exists():
        raise UserError(f"{_name(asked)} is split and its part {clean(file.name, 120)} is missing; put it beside it")
    return _read_file(file)


def _read_file(path: Path) -> Header:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{_name(path)} is a folder, not a GGUF file")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{_name(path)} is no regular file, so it cannot be a GGUF")
        with path.open("rb", buffering=0) as file:
            return _Reader(file, path, os.fstat(file.fileno()).st_size).header()
    except (OSError, ValueError) as error:
        _fail(path, error)


def _fail(path: Path, error: Exception) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise UserError(f"{_name(path)}: there is no such file") from None
    if isinstance(error, PermissionError):
        raise UserError(f"{_name(path)} may not be read: permission denied") from None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    raise UserError(f"{_name(path)} cannot be read: {clean(reason, 120)}") from None


def _name(path: Path) -> str:
    return clean(str(path), 200)


class _Reader:
    """Reads one file's header from its start to the end of its tensor list, a chunk at a time."""

    def __init__(self, file: Readable, path: Path, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._chunk = b""
        self._start = 0
        self._at = 0

    def header(self) -> Header:
        """All of it.

        Raises:
            UserError: see `read`.
        """
        version = self._version()
        tensor_count, key_count = self._count(24, "tensors"), self._count(12, "metadata keys")
        metadata: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(key_count):
            self._entry(metadata, lengths)
        alignment = self._alignment(metadata)
        infos = [self._info() for _ in range(tensor_count)]
        data_offset = _padded(self._position, alignment)
        return Header(
            path=self._path,
            version=version,
            metadata=metadata,
            lengths=lengths,
            tensors=self._tensors(infos, data_offset, alignment),
            file_bytes=self._size,
            alignment=alignment,
            data_offset=data_offset,
            files=(self._path,),
        )

    def bad(self, why: str) -> NoReturn:
        """Give up on the file."""
        raise UserError(f"{_name(self._path)} {why}")

    @property
    def _position(self) -> int:
        return self._start + self._at

    def _version(self) -> int:
        magic = self._take(4) if self._size >= 4 else b""
        if magic != b"GGUF":
            self._not_a_gguf()
        raw = self._take(4)
        version = int.from_bytes(raw, "little")
        if version & 0xFFFF == 0 and version:
            self.bad("is a big-endian GGUF; this program reads little-endian ones: convert it")
        if version not in (2, 3):
            self.bad(f"is a GGUF of version {version}; versions 2 and 3 are read")
        return version

    def _not_a_gguf(self) -> NoReturn:
        if not self._size:
            self.bad("is empty")
        self._at = 0
        start = self._take(min(self._size, 40))
        if start.startswith(b"version https://git-lfs"):
            self.bad("is a Git LFS pointer, not the model itself: run `git lfs pull` in its repository")
        if start[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
            self.bad("is in the format that came before GGUF: convert it with llama.cpp of 2023, or get it as a GGUF")
        self.bad(f"is not a GGUF: it begins with {clean(repr(start[:8]), 40)}")

    def _entry(self, metadata: dict[str, Value], lengths: dict[str, int]) -> None:
        key = self._text(NAME_LIMIT)
        if key in metadata or key in lengths:
            self.bad(f"is damaged: its metadata has {clean(key, 80)!r} twice")
        kind = self._number("I")
        if kind == _ARRAY:
            self._array(key, metadata, lengths)
        elif kind == _STRING:
            length = self._length(1, key)
            if length > STRING_LIMIT:
                lengths[key] = length
                self._skip(length)
            else:
                metadata[key] = self._take(length).decode("utf-8", "replace")
        elif kind in _FORMATS:
            metadata[key] = self._scalar(kind)
        else:
            self.bad(f"is damaged: {clean(key, 80)!r} has no known type ({kind})")

    def _array(self, key: str, metadata: dict[str, Value], lengths: dict[str, int]) -> None:
        kind = self._number("I")
        if kind == _STRING:
            lengths[key] = self._length(8, key)
            if lengths[key] > STRINGS_LIMIT:
                self.bad(f"is damaged: {clean(key, 80)!r} claims {lengths[key]} strings")
            self._skip_strings(lengths[key])
            return
        if kind not in _FORMATS:
            self.bad(f"is damaged: {clean(key, 80)!r} is an array of no known type ({kind})")
        width = struct.calcsize(_FORMATS[kind])
        lengths[key] = self._length(width, key)
        if lengths[key] > ARRAY_LIMIT:
            self._skip(lengths[key] * width)
        else:
            raw = self._take(lengths[key] * width)
            metadata[key] = struct.unpack(f"<{lengths[key]}{_FORMATS[kind]}", raw)

    def _alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0 or value & (value - 1):
            self.bad(f"is damaged: its alignment is {clean(str(value), 40)}, no power of two")
        return value

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """A tensor's name, shape, type number and offset in the data section."""
        tensor = self._text(NAME_LIMIT)
        dimensions = self._number("I")
        if dimensions > 4:
            self.bad(f"is damaged: tensor {clean(tensor, 80)!r} claims {dimensions} dimensions")
        lengths = tuple(self._number("Q") for _ in range(dimensions))
        kind, offset = self._number("I"), self._number("Q")
        elements = 1
        for length in lengths:
            elements *= length
        if elements >= 1 << 63 or any(length >= 1 << 63 for length in lengths):
            self.bad(f"is damaged: tensor {clean(tensor, 80)!r} claims {elements} weights")
        return tensor, lengths, kind, offset

    def _tensors(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], data_offset: int, alignment: int
    ) -> tuple[Tensor, ...]:
        """The tensors, each where the one before it ends, as llama.cpp demands."""
        names: set[str] = set()
        tensors: list[Tensor] = []
        expected = 0
        for index, (tensor, lengths, kind, offset) in enumerate(infos):
            if tensor in names:
                self.bad(f"is damaged: it has tensor {clean(tensor, 80)!r} twice")
            names.add(tensor)
            if offset != expected:
                self.bad(f"is damaged: tensor {clean(tensor, 80)!r} lies at {offset}, not at {expected}")
            known = quants.TENSOR_TYPES.get(kind)
            if known is not None:
                size = self._bytes(tensor, lengths, known)
            else:
                size = (infos[index + 1][3] if index + 1 < len(infos) else self._size - data_offset) - offset
                if size < 0 or offset + size > self._size:
                    self.bad(f"is damaged: tensor {clean(tensor, 80)!r} of type {kind} has no place in it")
            expected = infos[index + 1][3] if known is None and index + 1 < len(infos) else offset + size
            expected = _padded(expected, alignment)
            tensors.append(Tensor(tensor, known.name if known else f"type {kind}", lengths, size, offset))
        end = data_offset + max((tensor.offset + tensor.bytes for tensor in tensors), default=0)
        if tensors and end > self._size:
            self._cut_off(end)
        return tuple(tensors)

    def _bytes(self, tensor: str, lengths: tuple[int, ...], kind: quants.TensorType) -> int:
        row = lengths[0] if lengths else 1
        if row % kind.block:
            self.bad(f"is damaged: tensor {clean(tensor, 80)!r} has rows of {row}, no multiple of {kind.name}'s block")
        elements = 1
        for length in lengths:
            elements *= length
        return elements // kind.block * kind.bytes

    def _cut_off(self, needed: int) -> NoReturn:
        self.bad(f"is cut off: it needs {needed} bytes and has {self._size}; get it again")

    def _count(self, least: int, what: str) -> int:
        """A count of things of at least `least` bytes each, believed only as far as the file could hold them."""
        count = self._number("Q")
        if count > min(TENSOR_LIMIT, self._size // least):
            self.bad(f"is damaged: it claims {count} {what} in {self._size} bytes")
        return count

    def _length(self, width: int, key: str) -> int:
        """The length of a string or array of which each entry takes at least `width` bytes."""
        length = self._number("Q")
        if length > 1 << 48:
            self.bad(f"is damaged: {clean(key, 80)!r} claims {length} entries")
        if self._position + length * width > self._size:
            self._cut_off(self._position + length * width)
        return length

    def _text(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            self.bad(f"is damaged at byte {self._position - 8}: a name of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _scalar(self, kind: int) -> Scalar:
        form = _FORMATS[kind]
        value: Scalar = struct.unpack("<" + form, self._take(struct.calcsize(form)))[0]
        return value

    def _number(self, form: str) -> int:
        width = 4 if form == "I" else 8
        return int.from_bytes(self._take(width), "little")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._chunk):
            self._fill(count)
            end = count
        taken = self._chunk[self._at : end]
        self._at = end
        return taken

    def _fill(self, count: int) -> None:
        """Bring the next `count` bytes into the chunk, from the present position on."""
        position = self._position
        if position + count > self._size:
            self._cut_off(position + count)
        self._file.seek(position)
        wanted, parts, have = min(max(count, _CHUNK), self._size - position), [], 0
        while have < wanted and (block := self._file.read(wanted - have)):
            parts.append(block)
            have += len(block)
        if have < count:
            self.bad("shrank while it was read; is it still being written?")
        self._chunk, self._start, self._at = b"".join(parts), position, 0

    def _skip(self, count: int) -> None:
        if self._position + count > self._size:
            self._cut_off(self._position + count)
        self._at += count
        if self._at > len(self._chunk):
            self._start, self._at, self._chunk = self._position, 0, b""

    def _skip_strings(self, count: int) -> None:
        """Step over `count` strings: half a million of them in a vocabulary, so the loop is kept short."""
        unpack = struct.Struct("<Q").unpack_from
        while count:
            chunk, at, last = self._chunk, self._at, len(self._chunk) - 8
            while count and at <= last:
                at += 8 + unpack(chunk, at)[0]
                count -= 1
            self._at = min(at, len(chunk))
            self._skip(at - self._at)
            if count:
                self._fill(8)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
