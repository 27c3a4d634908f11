"""measure.corpus: which file a text is, and WikiText-2 put together again from the data set's rows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from quanttui.errors import UserError
from quanttui.measure import corpus
from quanttui.models import pocket


def rows_of(raw: bytes) -> list[str]:
    """The file cut as the data set is: a row per line, one that held a mere blank is empty."""
    return ["" if line == b" \n" else line.decode() for line in raw.splitlines(keepends=True)]


def test_the_rows_of_wikitext_make_the_canonical_file(shared: Path) -> None:
    raw = (shared / "data" / "wiki.test.raw").read_bytes()
    rows = rows_of(raw)
    assert "" in rows and len(rows) > 4000
    assert corpus.rebuilt(rows) == raw
    assert hashlib.sha256(raw).hexdigest() == corpus.WIKITEXT_SHA256


def test_the_pocket_text_ships_with_the_package() -> None:
    text = corpus.text("pocket")
    assert text.path == pocket.TEXT and text.sha256 == hashlib.sha256(pocket.TEXT.read_bytes()).hexdigest()


def test_a_file_is_itself_with_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "my text.txt"
    file.write_bytes(b"one\ntwo\r\n\xff")
    text = corpus.text(str(file))
    assert (text.path, text.name) == (file, "my text.txt")
    assert text.sha256 == hashlib.sha256(b"one\ntwo\r\n\xff").hexdigest()


def test_a_relative_path_is_told_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    assert corpus.text("t.txt").path == tmp_path / "t.txt"


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_text_that_cannot_serve_is_refused_in_one_line_that_names_it(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "it.txt")
    with pytest.raises(UserError, match=r"--text .*it\.txt") as refused:
        corpus.text(str(tmp_path / "it.txt"))
    assert "\n" not in str(refused.value)


def test_wikitext_is_fetched_once_and_kept(tmp_path: Path, shared: Path) -> None:
    rows = rows_of((shared / "data" / "wiki.test.raw").read_bytes())
    kept = tmp_path / "cache" / "wiki.test.raw"
    first = corpus.wikitext(kept, fetch=lambda: rows)
    assert first.sha256 == corpus.WIKITEXT_SHA256 == hashlib.sha256(kept.read_bytes()).hexdigest()

    def never() -> Iterable[str]:
        raise AssertionError("fetched again")

    assert corpus.wikitext(kept, fetch=never) == first
    assert [path.name for path in kept.parent.iterdir()] == ["wiki.test.raw"]


def test_a_spoilt_cache_is_fetched_anew(tmp_path: Path, shared: Path) -> None:
    rows = rows_of((shared / "data" / "wiki.test.raw").read_bytes())
    kept = tmp_path / "wiki.test.raw"
    kept.write_bytes(b"half a dow")
    corpus.wikitext(kept, fetch=lambda: rows)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == corpus.WIKITEXT_SHA256


def test_other_bytes_than_the_canonical_ones_are_refused_and_not_kept(tmp_path: Path) -> None:
    kept = tmp_path / "wiki.test.raw"
    with pytest.raises(UserError, match=r"wikitext-2: .*sha256.*--text FILE") as refused:
        corpus.wikitext(kept, fetch=lambda: ["some other text\n"])
    assert "\n" not in str(refused.value) and not kept.exists()


@pytest.mark.parametrize(
    "failure", [ConnectionError("no route\nto host"), FileNotFoundError("gone"), ValueError(), RuntimeError("\x1b[31m")]
)
def test_no_network_is_one_line_with_the_way_out(tmp_path: Path, failure: Exception) -> None:
    def fetch() -> Iterable[str]:
        raise failure

    with pytest.raises(UserError, match=r"wikitext-2: cannot be fetched \(.*\): .*--text FILE") as refused:
        corpus.wikitext(tmp_path / "wiki.test.raw", fetch=fetch)
    assert str(refused.value).isprintable()


def test_a_fetch_that_takes_too_long_is_ended_and_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched \(it took more than 0 s\): .*--text FILE"):
        corpus.wikitext(tmp_path / "wiki.test.raw", fetch=lambda: corpus.rows(seconds=0.001))


def test_the_real_library_without_a_network_is_one_line_and_stays_out_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"cannot be fetched \(.*cannot be reached.*\): .*--text FILE") as refused:
        corpus.text("wikitext-2", cache=tmp_path)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300
    assert "datasets" not in sys.modules


def test_what_is_kept_is_found_in_the_cache_that_was_named(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "wiki.test.raw").write_bytes((shared / "data" / "wiki.test.raw").read_bytes())
    assert corpus.text("wikitext-2", cache=tmp_path).path == tmp_path / "wiki.test.raw"
