"""Fetching from a Hub: what it has and what fits, nothing unsaid, gone on with when cut, no half taken for whole."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import ggufs
import hubs
import msgspec
import pytest
from hubs import Fault
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import quants, repository, session
from quanttui.errors import UserError
from quanttui.events import PlannedArm
from quanttui.models import fit, header, mix, sources
from quanttui.models.fetch import cached, named, offers, transfer
from quanttui.models.fetch.hub import HEADER_LIMIT, Body, Cut, Ranged
from quanttui.models.fetch.named import Named
from quanttui.report import fetch as told
from quanttui.repository import Listing, Offer, Remote, Step
from quanttui.state import State

REPO = "org/tiny-GGUF"
MODEL = replace(ggufs.SMALL, vocabulary=32768)
WANTED = Named(REPO)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository of three quants, some MiB each and no two alike, and of what is none."""
    folder = tmp_path_factory.mktemp("repository")
    made = {"README.md": b"a model", "mmproj-tiny-F16.gguf": b"GGUF", "imatrix_tiny.gguf": b"GGUF"}
    for kind in ("F16", "Q8_0", "Q4_0"):
        path = ggufs.write(folder / f"tiny-{kind}.gguf", MODEL, kind, **{"general.name": "Tiny"})
        begins = header.read(path).data_offset
        data = path.read_bytes()
        made[path.name] = data[:begins] + random.Random(kind).randbytes(len(data) - begins)
    return made


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[hubs.Hub]:
    with hubs.serving({REPO: dict(files)}) as server:
        yield server


def _file(cache: Path, name: str) -> Path:
    return cached.snapshot(cached.folder(cache / "hf" / "hub", REPO), hubs.COMMIT, name)


def _begun(cache: Path) -> list[int]:
    """Bytes of what is half here."""
    return [each.stat().st_size for each in (cache / "hf").rglob(f"*{cached.PARTIAL}")]


# -- arguments and quants


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.]{0,20}/[A-Za-z0-9][A-Za-z0-9_.]{0,20}", fullmatch=True),
    st.lists(st.sampled_from(["Q4_K_M", "q8_0", "sub/m-Q8_0.gguf"]), unique=True, max_size=3),
)
def test_an_argument_is_read_as_it_is_written(repo: str, words: list[str]) -> None:
    """hf:org/repo[@revision][:quant,…] gives back its parts."""
    if ".." in repo:
        return
    tail = ":" + ",".join(words) if words else ""
    assert named.parse(f"hf:{repo}{tail}") == Named(repo, "main", tuple(words))
    assert named.parse(f"HF:{repo}@v1.0{tail}") == Named(repo, "v1.0", tuple(words))
    assert named.parse(named.parse(f"hf:{repo}@v1.0{tail}").argument) == Named(repo, "v1.0")


@pytest.mark.parametrize(
    "argument",
    ["hf:", "hf:repo", "hf:a/b/c", "hf:../../etc", "hf:a/..", "hf:a/b@../../x", "hf:a/b@/x", "hf:a b/c", "hf:a--b/c",
     "hf:-a/b", "hf:a/b@x/"],
)  # fmt: skip
def test_what_is_no_repository_is_refused(argument: str) -> None:
    """An argument whose parts would lead out of the cache, or mean nothing, is refused with the right form."""
    with pytest.raises(UserError, match="hf:ORG/REPOSITORY"):
        named.parse(argument)


def _remotes(*paths: str) -> list[Remote]:
    return [Remote(path=path, bytes=1000 + len(path), blob=f"{index:064x}") for index, path in enumerate(paths)]


def test_quants_are_the_ggufs_with_split_ones_as_one() -> None:
    """Parts are one quant in their order; projectors, importance matrices and other files are none."""
    offered, notes = named.offers(_remotes(
        "m-Q8_0-00002-of-00002.gguf", "m-Q8_0-00001-of-00002.gguf", "BF16/m-00001-of-00001.gguf", "m-UD-Q4_K_XL.gguf",
        "mmproj-m-F16.gguf", "m-imatrix.gguf", "README.md", "m.imatrix", "model.safetensors",
    ))  # fmt: skip
    assert {each.word: [file.path for file in each.files] for each in offered} == {
        "Q8_0": ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"],
        "BF16": ["BF16/m-00001-of-00001.gguf"],
        "UD-Q4_K_XL": ["m-UD-Q4_K_XL.gguf"],
    }
    assert notes == ("no quants: m-imatrix.gguf, mmproj-m-F16.gguf",)


def test_a_split_quant_that_lacks_a_part_is_none() -> None:
    """What cannot be loaded is not offered, and that is said."""
    offered, notes = named.offers(_remotes("m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"))
    assert not offered
    assert notes == ("parts are missing of m-Q8_0-00001-of-00003.gguf",)


@pytest.mark.parametrize("path", ["../x-Q8_0.gguf", "/etc/x-Q8_0.gguf", "a\\x-Q8_0.gguf", "a//x.gguf", "x\x1b[2J.gguf"])
def test_a_name_that_leads_elsewhere_is_no_file(path: str) -> None:
    """A repository cannot name a file outside its folder, nor one that a terminal obeys."""
    assert named.offers(_remotes(path)) == ((), ())


def test_files_of_one_quant_are_named_by_their_paths() -> None:
    """Where a label means two files it chooses neither, and both can be chosen by name, in any case."""
    offered, _ = named.offers(_remotes("small-Q8_0.gguf", "large-Q8_0.gguf", "large-Q4_K_M.gguf"))
    with pytest.raises(UserError, match=r"2 files are that quant.*large-Q8_0.gguf.*small-Q8_0.gguf|small.*large"):
        named.choose(offered, ["Q8_0"], "hf:a/b")
    for word in ("SMALL-Q8_0.gguf", "small-q8_0", "small-Q8_0.gguf"):
        assert [each.word for each in named.choose(offered, [word], "hf:a/b")] == ["small-Q8_0.gguf"]
    assert [each.word for each in named.choose(offered, ["q4_k_m", "Q4_K"], "hf:a/b")] == ["Q4_K_M"]
    with pytest.raises(UserError, match=r"hf:a/b:Q4_K_S: did you mean Q4_K_M\? it has "):
        named.choose(offered, ["Q4_K_S"], "hf:a/b")


# -- transfer: with a Hub whose connections end as a test likes


@dataclass
class Scripted:
    """Gives a file's bytes, in each connection as many blocks as the script says, then a cut; then all of them."""

    data: bytes
    script: list[int] = field(default_factory=list)
    ranges: bool = True
    starts: list[int] = field(default_factory=list)
    block: int = 1000

    @contextmanager
    def body(self, named: Named, commit: str, path: str, start: int) -> Iterator[Body]:
        self.starts.append(start)
        begin = start if self.ranges else 0
        yield Body(begin, self._blocks(begin, self.script.pop(0) if self.script else None))

    def _blocks(self, at: int, count: int | None) -> Iterator[bytes]:
        while at < len(self.data):
            if count == 0:
                raise Cut("gone")
            count = None if count is None else count - 1
            yield self.data[at : at + self.block]
            at += self.block

    def whole(self, named: Named, commit: str, path: str, place: Path) -> None:
        blob = cached.folder(place, named.repo) / "blobs" / hubs.digest(self.data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(self.data)


DATA = random.Random(1).randbytes(20_500)
REMOTE = Remote(path="m-Q8_0.gguf", bytes=len(DATA), sha256=hubs.digest(DATA), blob=hubs.digest(DATA))


def _transfer(source: Scripted, folder: Path, **more: object) -> tuple[transfer.Transfer, list[Step], list[float]]:
    steps: list[Step] = []
    waits: list[float] = []
    made = transfer.Transfer(
        source, WANTED, hubs.COMMIT, folder / "hub", folder / "own", steps.append, waits.append, **more  # type: ignore[arg-type]
    )
    return made, steps, waits


@given(script=st.lists(st.integers(0, 6), max_size=8).filter(lambda s: "0000" not in "".join(map(str, s))))
def test_a_cut_download_is_gone_on_with(script: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever connections end, each begins where the one before ended, and the file is whole in the end."""
    source = Scripted(DATA, list(script))
    made, steps, waits = _transfer(source, tmp_path_factory.mktemp("cut"))
    (found,) = made.fetch([REMOTE])
    assert found.read_bytes() == DATA
    assert source.starts == sorted(source.starts)
    assert len(waits) == len(source.starts) - 1
    assert [step.done for step in steps if step.doing == "downloads"] == sorted(
        {min(at, len(DATA)) for at in range(1000, len(DATA) + 1000, 1000)}
    )


def test_connections_that_bring_nothing_are_given_up(tmp_path: Path) -> None:
    """After TRIES of them the command ends, keeps what came and says that it does; the next goes on from there."""
    made, _, waits = _transfer(Scripted(DATA, [3] + [0] * transfer.TRIES), tmp_path)
    with pytest.raises(UserError, match=r"cut \(gone\): 2.93 KiB of 20.0 KiB are kept, the same command goes on"):
        made.fetch([REMOTE])
    assert waits == [1, 1, 2, 4, 8]
    assert not cached.snapshot(cached.folder(tmp_path / "hub", REPO), hubs.COMMIT, REMOTE.path).exists()
    again = Scripted(DATA)
    assert _transfer(again, tmp_path)[0].fetch([REMOTE])[0].read_bytes() == DATA
    assert again.starts == [3000]


def test_a_server_without_ranges_gives_the_file_from_the_start(tmp_path: Path) -> None:
    """What it sends again replaces what came, instead of following it."""
    made, _, _ = _transfer(Scripted(DATA, [3], ranges=False), tmp_path)
    assert made.fetch([REMOTE])[0].read_bytes() == DATA


@pytest.mark.parametrize("junk", [b"\0" * 5000, DATA + b"more", b"\0" * len(DATA)])
def test_a_beginning_that_is_none_is_thrown_away(tmp_path: Path, junk: bytes) -> None:
    """Bytes that lay under the partial name and are not the file's own cost time, never a wrong file."""
    place = cached.partial(cached.folder(tmp_path / "hub", REPO), REMOTE)
    place.parent.mkdir(parents=True)
    place.write_bytes(junk)
    assert _transfer(Scripted(DATA), tmp_path)[0].fetch([REMOTE])[0].read_bytes() == DATA


@pytest.mark.parametrize("wrong", [DATA[:-1] + b"!", DATA + b"x", DATA[:-1]])
def test_other_bytes_are_never_taken_for_the_file(tmp_path: Path, wrong: bytes) -> None:
    """Content of another digest or length gets no name, and what is left of it is not its beginning either."""
    with pytest.raises(UserError, match=r"digest|cut"):
        _transfer(Scripted(wrong), tmp_path)[0].fetch([REMOTE])
    folder = cached.folder(tmp_path / "hub", REPO)
    assert not cached.blob(folder, REMOTE).exists()
    assert not cached.snapshot(folder, hubs.COMMIT, REMOTE.path).exists()
    assert _transfer(Scripted(DATA), tmp_path)[0].fetch([REMOTE])[0].read_bytes() == DATA


def test_a_file_without_a_sha256_is_checked_by_gits_digest(tmp_path: Path) -> None:
    """Small files that are no LFS ones have git's own digest, and are held against that."""
    plain = Remote(path="m-Q8_0.gguf", bytes=len(DATA), blob=hubs.git(DATA))
    assert _transfer(Scripted(DATA), tmp_path)[0].fetch([plain])[0].read_bytes() == DATA
    with pytest.raises(UserError, match="digest"):
        _transfer(Scripted(DATA[:-1] + b"!"), tmp_path / "other")[0].fetch([plain])


def test_what_is_here_is_checked_once_and_not_asked_for(tmp_path: Path) -> None:
    """A whole file needs no connection; one whose bytes were changed under its name is refused."""
    (found,) = _transfer(Scripted(DATA), tmp_path)[0].fetch([REMOTE])
    idle = Scripted(DATA)
    made, steps, _ = _transfer(idle, tmp_path)
    assert made.fetch([REMOTE]) == (found,)
    assert idle.starts == [] and [step.doing for step in steps] == ["done"]
    found.resolve().write_bytes(DATA[:-1] + b"!")
    os.utime(found, ns=(1, 1))
    with pytest.raises(UserError, match=r"does not have the SHA-256.*delete it and fetch it again"):
        _transfer(idle, tmp_path)[0].fetch([REMOTE])


def test_a_download_is_known_by_its_digest_at_once(tmp_path: Path) -> None:
    """A sweep need not read a file again that was hashed on its way here."""
    (found,) = _transfer(Scripted(DATA), tmp_path)[0].fetch([REMOTE])
    told: list[float] = []
    assert header.sha256(found, tmp_path / "own", told.append) == REMOTE.sha256
    assert told == []


def test_a_file_too_large_for_http_is_left_to_the_library(tmp_path: Path) -> None:
    """It is brought by huggingface_hub itself, and checked like any other."""
    source = Scripted(DATA)
    assert _transfer(source, tmp_path, limit=1000)[0].fetch([REMOTE])[0].read_bytes() == DATA
    assert source.starts == []
    with pytest.raises(UserError, match=r"SHA-256|digest"):
        other = Scripted(DATA[:-1] + b"!")
        other.whole = lambda named, commit, path, place: _put(place, other.data)  # type: ignore[method-assign]
        _transfer(other, tmp_path / "wrong", limit=1000)[0].fetch([REMOTE])


def _put(place: Path, data: bytes) -> None:
    blob = cached.blob(cached.folder(place, REPO), REMOTE)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)


def test_room_is_asked_for_before_anything_is_downloaded(tmp_path: Path) -> None:
    """So much and SPARE must fit; what is here already needs none."""
    transfer.check_room(tmp_path, 1000, transfer.SPARE + 1000)
    transfer.check_room(tmp_path, 0, 0)
    with pytest.raises(UserError, match=r"1000 B to download and 1.00 GiB to spare do not fit.*HF_HUB_CACHE"):
        transfer.check_room(tmp_path, 1000, transfer.SPARE + 999)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line_and_nothing_is_taken_for_whole(tmp_path: Path) -> None:
    """The line names the cache and the way out."""
    folder = cached.folder(tmp_path / "hub", REPO)
    begun = cached.partial(folder, REMOTE)
    begun.parent.mkdir(parents=True)
    begun.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk is full: what came is kept: make room"):
        _transfer(Scripted(DATA), tmp_path)[0].fetch([REMOTE])
    assert not cached.blob(folder, REMOTE).exists()


# -- headers from afar


@given(st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(1, 300_000)), max_size=8))
def test_a_remote_file_reads_as_a_local_one(reads: list[tuple[int, int]]) -> None:
    """Reads in any order give the file's bytes, up to its end."""
    data = random.Random(2).randbytes(1000) * 5000
    far = Ranged(lambda start, end: data[start:end], len(data))
    for at, count in sorted(reads):
        far.seek(at)
        got = far.read(count)
        assert got == data[at : at + len(got)] and (got or at >= len(data))


def test_a_header_without_end_is_not_followed() -> None:
    """No more than HEADER_LIMIT bytes are ever asked for."""
    asked: list[int] = []

    def zeros(start: int, end: int) -> bytes:
        asked.append(end - start)
        return bytes(end - start)

    far, at = Ranged(zeros, 1 << 40), 0
    with pytest.raises(UserError, match="longer than 24 MiB"):
        while at < 1 << 30:
            far.seek(at)
            at += len(far.read(1 << 20))
    assert sum(asked) <= HEADER_LIMIT


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_one_header_stands_for_the_quants_beside_it(tmp_path: Path, kind: str) -> None:
    """From another quant's header and the file's size alone, its layers take what its own header says, within 1 %."""
    source = header.read(ggufs.write(tmp_path / "m-F16.gguf", ggufs.QWEN_HALF_B))
    real = mix.requantized(source, quants.BY_NAME[kind])
    offer = Offer(quant=kind, word=kind, files=(Remote(path=f"m-{kind}.gguf", bytes=real.file_bytes),))
    other = mix.requantized(source, quants.BY_NAME["Q6_K"])
    guessed = fit.prospect(offers.sized(offer, other))
    known = fit.prospect(fit.Sized(PlannedArm(id=kind, quant=kind, file="m"), real))
    assert guessed.bytes == known.bytes
    assert sum(guessed.layers) == pytest.approx(sum(known.layers), rel=0.01)
    assert guessed.shape.head_count_kv == known.shape.head_count_kv


# -- where it came from


def test_the_manifest_says_where_each_file_came_from() -> None:
    """Of a fetched quant the repository and commit, of a made one what it was made from, else that it is a file."""
    shape = e.Shape(
        architecture="llama", name="m", layers=1, embedding=1, vocabulary=1, heads=1, head_count_kv=(1,), key_length=1,
        value_length=1, context=1, tied=False,
    )  # fmt: skip
    plans = (
        PlannedArm(id="A", quant="Q8_0", file="/hub/a.gguf", origin=f"hf:{REPO}@{hubs.COMMIT}"),
        PlannedArm(id="B", quant="Q4_0", source="/m-F16.gguf", imatrix="/m.imatrix"),
    )
    opened = e.SessionOpened(
        schema=e.SCHEMA, model="m", host=e.Host(name="t", os="linux", cpu="a processor", cores=1, threads=1, memory=1),
        build=e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False), settings=e.Settings(),
        plan=plans, wall=0.0, origin_ns=0, pid=1, pid_started=0.0,
    )  # fmt: skip
    started = [
        e.ArmStarted(
            arm=plan.id, quant=plan.quant, file=plan.file or "/cache/b.gguf", bytes=1, bits_per_weight=8.0,
            tensor_types={"Q8_0": 2}, shape=shape, sha256="aa", imatrix=plan.imatrix,
        )
        for plan in plans
    ]  # fmt: skip
    known = State()
    for n, event in enumerate([opened, *started]):
        known.apply(msgspec.structs.replace(event, n=n, t=float(n)))
    told_of = {each["arm"]: each for each in session.manifest(known)["files"]}
    assert (told_of["A"]["origin"], told_of["A"]["made_from"]) == (f"hf:{REPO}@{hubs.COMMIT}", "")
    assert (told_of["B"]["origin"], told_of["B"]["made_from"]) == ("file", "/m-F16.gguf")
    assert told_of["B"]["imatrix"] == "/m.imatrix" and told_of["A"]["sha256"] == "aa"


def test_a_file_names_the_importance_matrix_that_it_was_made_with(tmp_path: Path) -> None:
    """What llama-quantize noted is told, clean; a file without such a note names none."""
    keys = {"quantize.imatrix.file": "groups\x1b_merged.dat", "quantize.imatrix.dataset": "text"}
    assert header.imatrix(header.read(ggufs.write(tmp_path / "a.gguf", ggufs.SMALL, **keys))) == "groups _merged.dat"
    assert header.imatrix(header.read(ggufs.write(tmp_path / "b.gguf", ggufs.SMALL))) == ""


# -- the cache


def test_a_file_of_the_cache_tells_where_it_is_from() -> None:
    """Repository and commit are read off its path; another path tells nothing."""
    commit = "a" * 40
    found = cached.origin(f"/x/hub/models--org--some-7B-GGUF/snapshots/{commit}/q/m.gguf")
    assert found == f"hf:org/some-7B-GGUF@{commit}"
    assert cached.origin("/x/models/m.gguf") == cached.origin("/x/models--a--b/snapshots/main/m.gguf") == ""


# -- with a Hub


def test_a_repository_is_listed_with_what_fits_and_nothing_is_downloaded(tmp_path: Path, hub: hubs.Hub) -> None:
    """Sizes, verdicts and contexts come from one header, read by ranges, for no more than a block of one file."""
    done = hub.run(f"hf:{REPO}", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if " MiB " in line}
    assert list(rows) == ["F16", "Q8_0", "Q4_0"]
    assert all("fits" in row and " 8K " in row and row.endswith("no") for row in rows.values())
    assert "no quants: imatrix_tiny.gguf, mmproj-tiny-F16.gguf" in done.stdout
    assert hub.ranges == ["bytes=0-1048575"]
    assert not (tmp_path / "hf").exists()


def test_json_has_what_the_list_has(tmp_path: Path, hub: hubs.Hub, files: dict[str, bytes]) -> None:
    """Each quant with its argument, size and files, by the commit."""
    found = msgspec.json.decode(hub.run(f"hf:{REPO}", cache=tmp_path, as_json=True).stdout)
    assert (found["schema"], found["commit"]) == (1, hubs.COMMIT)
    assert [each["argument"] for each in found["quants"]] == [f"hf:{REPO}:{kind}" for kind in ("F16", "Q8_0", "Q4_0")]
    assert found["quants"][0]["files"][0] == {
        "path": "tiny-F16.gguf", "bytes": len(files["tiny-F16.gguf"]), "sha256": hubs.digest(files["tiny-F16.gguf"]),
        "here": 0, "whole": False,
    }  # fmt: skip


def test_where_no_header_can_be_read_sizes_are_listed(tmp_path: Path, hub: hubs.Hub) -> None:
    """A file that is no GGUF inside leaves the verdicts unknown, with the reason."""
    hub.repositories[REPO] = {"tiny-Q4_0.gguf": b"no GGUF at all", "tiny-Q8_0.gguf": b"neither is this, longer"}
    done = hub.run(f"hf:{REPO}", cache=tmp_path)
    assert done.returncode == 0
    assert "what fits is not known: tiny-Q4_0.gguf is not a GGUF" in " ".join(done.stdout.split())
    assert done.stdout.count("? not known") == 2


def test_a_split_quant_is_judged_by_the_headers_of_its_parts(tmp_path: Path, hub: hubs.Hub) -> None:
    """A repository of nothing but split files has its verdicts all the same."""
    first = ggufs.write(tmp_path / "m-Q8_0-00001-of-00002.gguf", ggufs.SMALL, "Q8_0", **{"split.count": 2})
    data = first.read_bytes()
    other = data.replace(b"blk.", b"bmk.").replace(b"token_embd", b"token_emb_").replace(b"output", b"outpux")
    hub.repositories[REPO] = {first.name: data, "m-Q8_0-00002-of-00002.gguf": other}
    done = hub.run(f"hf:{REPO}", cache=tmp_path)
    assert "fits" in done.stdout and "(2 parts)" in done.stdout, done.stdout
    fetched = hub.run(f"hf:{REPO}:Q8_0", cache=tmp_path, yes=True)
    assert len(fetched.stdout.splitlines()) == 2


def test_nothing_is_downloaded_without_a_yes(tmp_path: Path, hub: hubs.Hub) -> None:
    """Without a terminal and without --yes the size is said, in one line with the way out."""
    done = hub.run(f"hf:{REPO}:Q8_0,Q4_0", cache=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("6.62 MiB to download, and no terminal to ask at: add --yes")
    assert hub.ranges == []


def test_what_is_fetched_is_whole_and_every_program_finds_it(
    tmp_path: Path, hub: hubs.Hub, files: dict[str, bytes]
) -> None:
    """The files are in huggingface_hub's cache as it would have put them there: it takes them without a network."""
    done = hub.run(f"hf:{REPO}:Q8_0,q4_0", cache=tmp_path, yes=True)
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.splitlines()] == ["tiny-Q8_0.gguf", "tiny-Q4_0.gguf"]
    assert "to download: 6.62 MiB of 6.62 MiB" in done.stderr
    script = (
        "from huggingface_hub import hf_hub_download, scan_cache_dir\n"
        f"print(hf_hub_download('{REPO}', 'tiny-Q8_0.gguf'))\n"
        "found = scan_cache_dir()\n"
        "print(len(found.warnings), sorted(f.file_name for r in found.repos for v in r.revisions for f in v.files))"
    )
    offline = hub.environment(tmp_path, HF_HUB_OFFLINE="1")
    asked = subprocess.run([sys.executable, "-c", script], env=offline, capture_output=True, text=True)
    path, seen = asked.stdout.splitlines()
    assert Path(path).read_bytes() == files["tiny-Q8_0.gguf"]
    assert seen == "0 ['tiny-Q4_0.gguf', 'tiny-Q8_0.gguf']"
    assert _begun(tmp_path) == []


def test_a_sweep_takes_what_is_fetched_by_its_argument(tmp_path: Path, hub: hubs.Hub) -> None:
    """hf:org/repo:quant is an arm with its origin, asked of nobody; all that is here is meant without a quant."""
    hub.run(f"hf:{REPO}:Q8_0,Q4_0", cache=tmp_path, yes=True)
    place = tmp_path / "hf" / "hub"
    name, arms = sources.resolve([f"hf:{REPO}"], hub=place)
    assert (name, [arm.id for arm in arms]) == ("Tiny", ["Q8_0", "Q4_0"])
    assert {arm.origin for arm in arms} == {f"hf:{REPO}@{hubs.COMMIT}"}
    assert sources.resolve([f"hf:{REPO}:q4_0"], hub=place)[1][0].file == str(_file(tmp_path, "tiny-Q4_0.gguf"))
    with pytest.raises(UserError, match=rf"not in the Hugging Face cache.*quanttui fetch hf:{REPO}:QUANT"):
        sources.resolve([f"hf:{REPO}:F16"], hub=place)


def test_a_run_gets_what_is_missing_and_asks_nobody_for_the_rest(tmp_path: Path, hub: hubs.Hub) -> None:
    """What is here is used as it is, offline too; what is not is downloaded once that was agreed to."""
    refused = hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, ensure=True)
    assert refused.returncode == 2 and "add --yes" in refused.stderr
    assert hub.run(f"hf:{REPO}:Q4_0", "some/file.gguf", cache=tmp_path, ensure=True, yes=True).returncode == 0
    before = len(hub.asked)
    again = hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, ensure=True)
    assert (again.returncode, again.stderr, len(hub.asked)) == (0, "", before)


def test_offline_what_the_cache_has_is_all_there_is(tmp_path: Path, hub: hubs.Hub) -> None:
    """With HF_HUB_OFFLINE nothing is asked: what is here is listed and taken, the rest is one line."""
    offline = {"HF_HUB_OFFLINE": "1"}
    nothing = hub.run(f"hf:{REPO}", cache=tmp_path, environment=offline)
    assert nothing.returncode == 2 and "HF_HUB_OFFLINE is set" in nothing.stderr
    hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, yes=True)
    before = len(hub.asked)
    listed = hub.run(f"hf:{REPO}", cache=tmp_path, environment=offline)
    assert "1 quant in the cache" in listed.stdout and "Q4_0" in listed.stdout and "F16" not in listed.stdout
    assert hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, environment=offline).returncode == 0
    absent = hub.run(f"hf:{REPO}:F16", cache=tmp_path, environment=offline, yes=True)
    assert absent.returncode == 2 and "hf:org/tiny-GGUF:F16 is not in the Hugging Face cache" in absent.stderr
    assert len(hub.asked) == before


def test_a_connection_that_is_cut_is_gone_on_with(tmp_path: Path, hub: hubs.Hub, files: dict[str, bytes]) -> None:
    """A cut body, a busy server and a wrong start cost a retry each, not the bytes that came."""
    hub.faults["tiny-Q8_0.gguf"] = [Fault(cut=3_000_000), Fault(status=503)]
    done = hub.run(f"hf:{REPO}:Q8_0", cache=tmp_path, yes=True)
    assert done.returncode == 0, done.stderr
    assert hub.ranges == ["", "bytes=2097152-", "bytes=2097152-"]
    assert "tries again" in done.stderr
    assert _file(tmp_path, "tiny-Q8_0.gguf").read_bytes() == files["tiny-Q8_0.gguf"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_download_is_gone_on_with(
    tmp_path: Path, hub: hubs.Hub, files: dict[str, bytes], how: signal.Signals
) -> None:
    """However the process ends, what came lies there, is not taken for whole, and the next command goes on from it."""
    hub.faults["tiny-Q8_0.gguf"] = [Fault(stall=3 << 20)]
    process = subprocess.Popen(
        hub.command(tmp_path, (f"hf:{REPO}:Q8_0",), yes=True), env=hub.environment(tmp_path), stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hub.stalled.wait(30)
    assert process.stderr is not None
    while "downloaded" not in process.stderr.readline():
        pass
    _until(lambda: sum(_begun(tmp_path)) >= 3 << 20)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from there" in said
    assert not _file(tmp_path, "tiny-Q8_0.gguf").exists()
    again = hub.run(f"hf:{REPO}:Q8_0", cache=tmp_path, yes=True)
    assert "3.00 MiB of it here already" in again.stderr and "to download: 1.33 MiB of 4.33 MiB" in again.stderr
    assert hub.ranges[-1] == f"bytes={3 << 20}-"
    assert _file(tmp_path, "tiny-Q8_0.gguf").read_bytes() == files["tiny-Q8_0.gguf"]


def _until(true: object) -> None:
    import time

    for _ in range(300):
        if true():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


def test_two_processes_that_want_the_same_get_it_once(tmp_path: Path, hub: hubs.Hub, files: dict[str, bytes]) -> None:
    """The second waits, says so, and takes what the first has brought."""
    hub.faults["tiny-Q8_0.gguf"] = [Fault(stall=3 << 20)]
    command = hub.command(tmp_path, (f"hf:{REPO}:Q8_0",), yes=True)
    both = []
    for _ in range(2):
        both.append(subprocess.Popen(command, env=hub.environment(tmp_path), stderr=subprocess.PIPE, text=True))
        assert hub.stalled.wait(30)
    second = both[1].stderr
    assert second is not None
    while "another process downloads it" not in second.readline():
        pass
    hub.over.set()
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len([each for each in hub.ranges if each in ("", f"bytes={3 << 20}-")]) == len(hub.ranges) == 2
    assert _file(tmp_path, "tiny-Q8_0.gguf").read_bytes() == files["tiny-Q8_0.gguf"]


def test_wrong_bytes_are_thrown_away(tmp_path: Path, hub: hubs.Hub, files: dict[str, bytes]) -> None:
    """A file whose digest is not the repository's is refused, and no trace of it is left."""
    data = files["tiny-Q4_0.gguf"]
    hub.faults["tiny-Q4_0.gguf"] = [Fault(data=data[:-1] + bytes([data[-1] ^ 1]))]
    done = hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, yes=True)
    assert done.returncode == 2
    assert "has not the digest that the repository says" in done.stderr.splitlines()[-1]
    assert not _file(tmp_path, "tiny-Q4_0.gguf").exists() and _begun(tmp_path) == []
    assert hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, yes=True).returncode == 0


@pytest.mark.parametrize(
    ("argument", "fault", "says"),
    [
        ("hf:org/nothing", {}, "there is no such repository, or a private one"),
        (f"hf:{REPO}@v9", {}, "has no such revision"),
        (f"hf:{REPO}:Q5_K_M", {}, "it has F16, Q8_0, Q4_0"),
        (f"hf:{REPO}", {"api": [Fault(status=401)]}, "hf auth login"),
        (f"hf:{REPO}", {"api": [Fault(status=429, headers={"Retry-After": "33"})]}, "too many requests: wait 33 s"),
        (f"hf:{REPO}", {"api": [Fault(status=500)]}, "cannot be reached (the Hub answers 500)"),
        (f"hf:{REPO}:Q4_0", {"tiny-Q4_0.gguf": [Fault(status=429)]}, "wait some minutes and go on with the same"),
        (f"hf:{REPO}:Q4_0", {"tiny-Q4_0.gguf": [Fault(status=404, code="EntryNotFound")]}, "is there no longer"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    tmp_path: Path, hub: hubs.Hub, argument: str, fault: dict[str, list[Fault]], says: str
) -> None:
    """It names the repository and the way out, and exits with 2."""
    hub.faults |= fault
    done = hub.run(argument, cache=tmp_path, yes=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"quanttui: {argument.partition(':Q')[0]}")
    assert says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert _begun(tmp_path) == []


def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path, hub: hubs.Hub) -> None:
    """Without a network the line says so at once, and where to look."""
    done = hub.run(f"hf:{REPO}", cache=tmp_path, environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert "the Hub cannot be reached" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_gated_repository_takes_a_token_which_is_never_said_nor_sent_elsewhere(tmp_path: Path, hub: hubs.Hub) -> None:
    """Without one the way out is said; with one the Hub gets it, the host that it sends to does not; no line has it."""
    hub.gated = True
    refused = hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, yes=True)
    assert refused.returncode == 2 and "is gated: agree to its terms on its page" in refused.stderr
    assert "gated: agree to its terms" in hub.run(f"hf:{REPO}", cache=tmp_path).stdout
    token = {"HF_TOKEN": "hf_secretsecretsecretsecretsecretsecr"}
    done = hub.run(f"hf:{REPO}:Q4_0", cache=tmp_path, environment=token, yes=True)
    assert done.returncode == 0, done.stderr
    assert token["HF_TOKEN"] not in done.stdout + done.stderr
    bearers = {path.startswith("/cdn/"): "authorization" in headers for verb, path, headers in hub.asked[-2:]}
    assert bearers == {False: True, True: False}


@pytest.mark.parametrize(("answer", "there"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_terminal_is_asked(tmp_path: Path, hub: hubs.Hub, answer: str, there: bool) -> None:
    """The question says how much; only a yes downloads."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        hub.command(tmp_path, (f"hf:{REPO}:Q4_0",)), env=hub.environment(tmp_path), stdin=other, stderr=other,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(other)
    said = ""
    while "[y/N]" not in said:
        said += os.read(main, 4096).decode()
    assert "download 2.29 MiB? [y/N]" in said
    os.write(main, answer.encode())
    process.communicate(timeout=60)
    os.close(main)
    assert process.returncode == (0 if there else 2)
    assert _file(tmp_path, "tiny-Q4_0.gguf").exists() == there


# -- what is shown


def test_rate_and_time_left_are_of_the_last_seconds() -> None:
    """1 MiB a second is told as that, whatever lay there before, and a stall shows within the window."""
    meter = told.Meter()
    for t in range(5):
        line = meter.line(float(t), _step((100 + t) << 20))
    assert line.endswith("downloaded 104 MiB of 200 MiB 52.0 %  1.00 MiB/s  1m36s left")
    line = meter.line(9.0, _step(104 << 20))
    assert " KiB/s " in line
    assert "left" not in meter.line(9.5, Step(doing="checks", file="other", done=0, bytes=1 << 20))


def _step(done: int) -> Step:
    return Step(doing="downloads", file="m.gguf", done=done, bytes=200 << 20)


def test_foreign_names_do_not_reach_the_terminal_raw() -> None:
    """Whatever a repository calls its files, what is printed has no control characters, and stays in its columns."""
    evil = "\x1b[31mm-Q8_0\x07.gguf"
    offer = Offer(quant="Q8_0", word=evil, files=(Remote(path=evil, bytes=10),))
    found = Listing(
        repo="a/b", revision="main", commit=hubs.COMMIT, offers=(offer,), cache="/c\x1b", free=1, notes=("\x1b",)
    )
    line = told.Meter().line(0.0, msgspec.structs.replace(_step(0), file=evil))
    shown = told.report(found) + told.order(found, [offer]) + line
    assert shown.replace("\n", "").isprintable()


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 10**12), st.booleans()), max_size=6))
def test_what_is_missing_and_what_is_here_add_up(sizes: list[tuple[int, int, bool]]) -> None:
    """Of shared files each counts once, and nothing is missing of what is whole."""
    made = tuple(
        Remote(path=str(index), bytes=size, here=size if whole else min(here, size), whole=whole)
        for index, (size, here, whole) in enumerate(sizes)
    )
    every = tuple(Offer(quant="x", word=str(index), files=made[: index + 1]) for index in range(len(made)))
    assert repository.missing(every) == sum(file.bytes - file.here for file in made)
    assert all(offer.missing == 0 for offer in every if offer.whole)
