"""The configuration: its keys, its precedence, its complaints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import config, paths
from quanttui.config import Config
from quanttui.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OTHER: dict[str, tuple[str, Any]] = {
    "quants": ("Q8_0,Q4_K_M", ["Q8_0", "Q4_K_M"]),
    "tasks": ("ppl", ["ppl"]),
    "text": ("notes.txt", "notes.txt"),
    "chunks": ("20", 20),
    "prompts": ("/p", "/p"),
    "max_tokens": ("64", 64),
    "chat": ("true", True),
    "prompt": ("256", 256),
    "decode": ("0", 0),
    "depth": ("0,4096", [0, 4096]),
    "precision": ("2.5", 2.5),
    "speed_seconds": ("5", 5),
    "schedule": ("abba", "abba"),
    "order": ("given", "given"),
    "anchor": ("0", 0),
    "drift": ("10", 10),
    "base": ("Q8_0", "Q8_0"),
    "kld": ("beside", "beside"),
    "kld_gib": ("0.5", 0.5),
    "kld_base": ("/b", "/b"),
    "until": ("decided", "decided"),
    "tolerance": ("2%", 2),
    "repetitions": ("3", 3),
    "threads": ("8", 8),
    "gpu_layers": ("20", 20),
    "split_mode": ("row", "row"),
    "tensor_split": ("3/1", [3, 1]),
    "batch": ("512", 512),
    "ubatch": ("128", 128),
    "load_mode": ("mmap+mlock", "mmap+mlock"),
    "repack": ("false", False),
    "thresholds": ("wall=0.6,cpu_share=0.8", {"wall": 0.6, "cpu_share": 0.8}),
    "bandwidth": ("cpu=51.2,gpu0=1008", {"cpu": 51.2, "gpu0": 1008.0}),
    "flash_attn": ("off", "off"),
    "kv": ("q8_0,f16", ["q8_0", "f16"]),
    "mmlu": ("/m", "/m"),
    "mmlu_subjects": ("a,b", ("a", "b")),
    "mmlu_items": ("20", 20),
    "mmlu_score": ("logits", "logits"),
    "ner": ("/n.conll", "/n.conll"),
    "ner_items": ("30", 30),
    "items_seed": ("7", 7),
    "thinking": ("both", "both"),
    "margin": ("2%", 2.0),
    "ctx": ("1024", 1024),
    "seed": ("7", 7),
    "polite": ("true", True),
    "sessions_dir": ("/s", "/s"),
    "cache_dir": ("/c", "/c"),
    "cache_gib": ("1.5", 1.5),
    "sample_hz": ("2", 2),
    "patience": ("60", 60),
    "theme": ("paper", "paper"),
    "glyphs": ("ascii", "ascii"),
    "color": ("256", "256"),
    "layout": ("rows", "rows"),
    "mouse": ("off", "off"),
    "keys": ("freeze=f space,help=f1", {"freeze": "f space", "help": "f1"}),
}
"""For each key a value that is not its default: as text, and as it stands in a file."""


def written(folder: Path, **keys: Any) -> Path:
    file = folder / "config.toml"
    file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in keys.items()), encoding="utf-8")
    return file


def toml(value: Any) -> str:
    """JSON but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


def test_the_shipped_file_lists_exactly_the_keys_at_their_defaults() -> None:
    shipped = paths.shipped_config()
    assert set(tomllib.loads(shipped.read_text(encoding="utf-8"))) == set(config.KEYS)
    assert config.load(file=shipped, environment={}) == Config()


@pytest.mark.parametrize("key", config.KEYS)
def test_a_key_means_the_same_as_flag_variable_and_line_of_a_file(key: str, tmp_path: Path) -> None:
    text, value = OTHER[key]
    empty = written(tmp_path)
    by_flag = config.load({key: text}, file=empty, environment={})
    by_variable = config.load(file=empty, environment={f"QUANTTUI_{key.upper()}": text})
    by_file = config.load(file=written(tmp_path, **{key: value}), environment={})
    assert by_flag == by_variable == by_file
    changed = {name for name in config.KEYS if getattr(by_flag, name) != getattr(Config(), name)}
    assert changed == {key}


@given(st.tuples(*[st.none() | st.integers(0, 4096)] * 4))
def test_flag_outranks_preset_outranks_variable_outranks_file(
    tmp_path_factory: pytest.TempPathFactory, ranks: tuple[int | None, ...]
) -> None:
    flag, preset, variable, line = ranks
    found = config.load(
        {"prompt": str(flag)} if flag is not None else {},
        file=written(tmp_path_factory.mktemp("precedence"), **({"prompt": line} if line is not None else {})),
        environment={"QUANTTUI_PROMPT": str(variable)} if variable is not None else {},
        preset={"prompt": preset} if preset is not None else None,
    )
    ranked = (*ranks, Config().prompt)
    assert found.prompt == next(value for value in ranked if value is not None)


def test_the_file_is_the_one_named_by_flag_then_by_variable(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = written(tmp_path / "a", prompt=1), written(tmp_path / "b", prompt=2)
    assert config.load(environment={"QUANTTUI_CONFIG": str(one)}).prompt == 1
    assert config.load(file=two, environment={"QUANTTUI_CONFIG": str(one)}).prompt == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", "512"),
        ("prompt", True),
        ("prompt", -1),
        ("prompt", 1.5),
        ("chunks", -2),
        ("polite", 1),
        ("tasks", "speed"),
        ("tasks", []),
        ("tasks", ["rouge"]),
        ("tensor_split", [-1]),
        ("kv", "q3_k"),
        ("flash_attn", True),
        ("cache_gib", 0),
        ("theme", ""),
        ("glyphs", "emoji"),
        ("seed", 2**32),
    ],
)
def test_a_wrong_value_in_a_file_names_file_key_and_what_is_allowed(tmp_path: Path, key: str, value: Any) -> None:
    file = written(tmp_path, **{key: value})
    with pytest.raises(UserError) as told:
        config.load(file=file, environment={})
    assert str(file) in str(told.value)
    assert f"{key} = " in str(told.value)
    assert config.allowed(key) in str(told.value)


def test_not_a_number_is_no_size(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("cache_gib = nan\n", encoding="utf-8")
    with pytest.raises(UserError, match="cache_gib"):
        config.load(file=tmp_path / "config.toml", environment={})


def test_an_unknown_key_names_its_file_and_the_nearest_key(tmp_path: Path) -> None:
    file = written(tmp_path, chunk=20)
    with pytest.raises(UserError, match=r"unknown key 'chunk': did you mean chunks\?") as told:
        config.load(file=file, environment={})
    assert str(file) in str(told.value)


def test_an_unknown_variable_is_not_ignored() -> None:
    with pytest.raises(UserError, match=r"QUANTTUI_CHUNK.*did you mean QUANTTUI_CHUNKS\?"):
        config.load(environment={"QUANTTUI_CHUNK": "20"})


def test_an_empty_variable_sets_nothing(tmp_path: Path) -> None:
    assert config.load(file=written(tmp_path), environment={"QUANTTUI_PROMPT": ""}) == Config()


@pytest.mark.parametrize("content", [b"prompt = ", b"\xff\xff", b"[run]\nprompt = 3\n", b"prompt = 1\nprompt = 2\n"])
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(UserError) as told:
        config.load(file=file, environment={})
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    for how in ({"file": tmp_path / "none.toml"}, {"environment": {"QUANTTUI_CONFIG": str(tmp_path / "none.toml")}}):
        with pytest.raises(UserError, match=r"none\.toml: no such file"):
            config.load(**{"environment": {}, **how})  # type: ignore[arg-type]


@given(st.sampled_from(config.KEYS), st.text(max_size=30))
def test_any_text_for_any_key_is_taken_or_refused_in_one_printable_line(key: str, text: str) -> None:
    environment = {"QUANTTUI_CONFIG": str(paths.shipped_config())}
    try:
        found = config.load({key: text}, environment=environment)
    except UserError as error:
        assert "--" + key.replace("_", "-") in str(error)
        assert str(error).isprintable()
    else:
        msgspec.convert(msgspec.to_builtins(found), Config)


def test_a_quant_that_is_none_names_where_it_stands_and_what_comes_near(tmp_path: Path) -> None:
    file = written(tmp_path, quants=["Q4_KM"])
    with pytest.raises(UserError, match=r"config.toml: .*'Q4_KM'; did you mean Q4_K_M"):
        config.load(file=file, environment={})


def test_settings_carry_every_key_that_is_measured_with(tmp_path: Path) -> None:
    file = written(tmp_path, **{key: value for key, (_, value) in OTHER.items()})
    settings = msgspec.to_builtins(config.settings(config.load(file=file, environment={})))
    default = msgspec.to_builtins(config.settings(Config()))
    same = {key for key in settings if settings[key] == default[key]}
    assert same == {"text_sha256", "prompts_sha256", "kld_base_sha256", "digests", "order"}
    assert settings["context"] == OTHER["ctx"][1]


def test_all_of_the_text_is_no_number_of_chunks() -> None:
    assert config.settings(Config()).chunks is None
    assert config.settings(Config(chunks=0)).chunks == 0


@pytest.mark.parametrize(
    "nothing",
    [
        Config(tasks=("ppl",), chunks=0),
        Config(tasks=("speed",), prompt=0, decode=0),
        Config(repetitions=0, chunks=0),
    ],
)
def test_measuring_nothing_is_refused(nothing: Config) -> None:
    with pytest.raises(UserError, match="nothing is left to measure"):
        config.settings(nothing)
