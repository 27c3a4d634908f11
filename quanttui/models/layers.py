"""What llama.cpp keeps of a token in each layer of a model: keys and values, a window of them, a latent, a state.

Owns the rules by architecture, most of which stand in llama.cpp's code and in no file, and the look-ups in a file's
metadata that they need. Must not know files or tensors. Source: load_arch_hparams of the architectures in src/models,
create_memory in src/llama-model.cpp, n_embd_r and n_embd_s in src/llama-hparams.cpp, all of llama.cpp as vendored by
llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from quanttui.errors import UserError
from quanttui.format import clean

Scalar = int | float | bool | str
Value = int | float | bool | str | tuple[Scalar, ...]

COUNT_LIMIT = 1 << 40
"""Larger numbers in metadata are damage, whatever they count."""

_STATE_ELEMENT = 4
"""Bytes of an element of recurrent state: llama.cpp keeps it in F32, whatever the KV cache's type."""


@dataclass(frozen=True)
class _Sliding:
    """Which layers of an architecture slide, where the file does not list them one by one.

    Of every `period` layers one sees the whole context, the last or (`dense_first`) the first of them; 0: none does;
    None: llama.cpp takes a list from the file and nothing else. `window` holds where the file names none, `fixed`
    where it names any; only models of `layers` layers slide, 0 for all.
    """

    period: int | None
    dense_first: bool = False
    window: int = 0
    fixed: int = 0
    layers: int = 0


_SLIDING: dict[str, _Sliding] = {
    "afmoe": _Sliding(4),
    "cohere2": _Sliding(4),
    "cohere2moe": _Sliding(4, dense_first=True),
    "deepseek4": _Sliding(0),
    "dots3note": _Sliding(None),
    "exaone-moe": _Sliding(4),
    "exaone4": _Sliding(4, window=4096, layers=64),
    "gemma2": _Sliding(2, window=4096),
    "gemma3": _Sliding(6),
    "gemma3n": _Sliding(5),
    "gemma4": _Sliding(None),
    "gpt-oss": _Sliding(2),
    "granite_swa": _Sliding(None),
    "laguna": _Sliding(4, dense_first=True),
    "lfm2": _Sliding(0),
    "llama4": _Sliding(4, window=8192, fixed=8192),
    "maple": _Sliding(None),
    "mellum": _Sliding(4),
    "mimo2": _Sliding(None),
    "muse-glimmer": _Sliding(4),
    "olmo2": _Sliding(4),
    "plamo3": _Sliding(8),
    "smallthinker": _Sliding(4, dense_first=True, fixed=4096),
    "spark2_5": _Sliding(None),
    "step35": _Sliding(None),
}
"""All others attend to the whole context, also where their files name a window (phi3, qwen2, llama): llama.cpp does
not read it there. llama4's window is a chunk: its layers see from the chunk's begin on, on average half of it."""


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_RECURRENT = _names("mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7")
"""No layer keeps keys and values, all keep a state."""

_HYBRID = _names(
    "bailingmoe3 glm5-next granitehybrid jamba kimi-k3 kimi-linear lfm2 lfm2moe nemotron_h nemotron_h_moe plamo2"
)
"""A layer keeps a state where its head_count_kv is 0."""

_INTERVAL = {"minimax-01": 8, "qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4}
"""One layer of so many attends and the others keep a state, where the file neither lists them nor says how many."""

_BOTH = _names("falcon-h1")
"""Every layer keeps keys and values, and a state."""

_NO_CACHE = _names(
    "bert clip dream eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llada llada-moe modern-bert neo-bert "
    "nomic-bert nomic-bert-moe rnd1 t5encoder wavtokenizer-dec"
)
"""Encoders and diffusion models: they do not generate a token after the other."""

_DRAFTS = _names("dflash eagle3 gemma4-assistant")

UNEVEN = _names("deci hrm_text")
"""Architectures whose files rightly hold tensors for fewer layers than they count: empty layers, layers run again."""

NAMES = _names(
    """
    clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert
    nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3
    qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp phi2 phi3 phimoe plamo plamo2 plamo3 codeshell
    orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant gemma-embedding starcoder2
    mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe muse-glimmer openelm
    arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 glm4moe glm-dsa bitnet t5 t5encoder jais
    jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 exaone-moe rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite
    granitemoe granitehybrid graniteswitch granite_swa chameleon wavtokenizer-dec plm bailingmoe bailingmoe2
    bailingmoe3 dots1 dots3note arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v3
    hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss grovemoe apertus minimax-01 hrm_text
    minimax-m2 minimax-m3 cogvlm rnd1 pangu-embedded mistral3 eagle3 dflash mistral4 paddleocr mimo2 step35 spark2_5
    llama-embed maincoder kimi-linear kimi-k3 glm5-next talkie mellum nanbeige qwen3tts pockettts
    """
)
"""The architectures that llama.cpp has, by the names that files give them (src/llama-arch.cpp)."""


class Keys:
    """Typed look-ups under the architecture's prefix. Wrong types and negative numbers count as absent.

    `file` is how an error names the file, safe to print. Every look-up raises a UserError for a number beyond its
    limit, which is COUNT_LIMIT where none is given.
    """

    def __init__(self, metadata: Mapping[str, Value], file: str) -> None:
        self._metadata = metadata
        self.file = file
        architecture = metadata.get("general.architecture")
        self._prefix = architecture if isinstance(architecture, str) else ""
        self.architecture = clean(self._prefix, 40)

    def number(self, key: str, default: int = 0, maximum: int = COUNT_LIMIT) -> int:
        """A whole number, or `default` where there is none."""
        value = self._value(key)
        return self._bounded(key, value, maximum) if _is_count(value) else default

    def values(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers or truth values, what is neither being 0; empty where there is no list."""
        value = self._value(key)
        if not isinstance(value, tuple):
            return ()
        return tuple(self._bounded(key, int(one)) if isinstance(one, bool) or _is_count(one) else 0 for one in value)

    def largest(self, key: str, default: int = 0) -> int:
        """A whole number, or the largest of a per-layer list of them."""
        return max(self.values(key), default=self.number(key, default))

    def per_layer(self, key: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """One whole number per layer, whether the file gives one for all or a list, cut or filled up with 0."""
        values = self.values(key) or (self.number(key, default),) * layers
        return (*values, *(0,) * layers)[:layers]

    def _value(self, key: str) -> Value | None:
        return self._metadata.get(f"{self._prefix}.{key}")

    def _bounded(self, key: str, value: int, maximum: int = COUNT_LIMIT) -> int:
        if value > maximum:
            raise UserError(f"{self.file} says {clean(self._prefix, 40)}.{key} = {value}: damaged?")
        return value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Kept:
    """What the layers keep: fields as in `events.Shape`. `notes`: what is not known of it, safe to print."""

    head_count_kv: tuple[int, ...]
    window: int
    windows: tuple[int, ...]
    latent: int
    state_bytes: int
    notes: tuple[str, ...]


def trunk(keys: Keys, layers: int) -> int:
    """How many of the layers a token passes: those behind them predict further tokens, and are not loaded for plain
    decoding."""
    further = keys.number("nextn_predict_layers")
    return layers - further if further < layers else layers


def kept(keys: Keys, width: int, heads: int, head_count_kv: tuple[int, ...]) -> Kept:
    """What each layer keeps, given the model's `width` and `heads` and each layer's KV heads as the file has them.

    A layer that attends to another one's cache (gemma3n's and gemma4's last ones) counts as if it had its own: it
    reads as much.

    Raises:
        UserError: the metadata is absurd.
    """
    reach = trunk(keys, len(head_count_kv))
    recurrent = _recurrent(keys, head_count_kv, reach)
    both, without = keys.architecture in _BOTH, keys.architecture in _NO_CACHE
    counts = tuple(
        count if il < reach and not without and (both or not recurrent[il]) else 0
        for il, count in enumerate(head_count_kv)
    )
    windows = _windows(keys, len(counts), reach)
    seen = {window for window, count in zip(windows, counts, strict=True) if count}
    state = _STATE_ELEMENT * sum(recurrent) * _state_elements(keys, width, heads)
    if state > COUNT_LIMIT:
        raise UserError(f"{keys.file} claims {state} bytes of recurrent state: damaged?")
    return Kept(
        head_count_kv=counts,
        window=max(seen, default=0),
        windows=windows if len(seen) > 1 else (),
        latent=_latent(keys),
        state_bytes=state,
        notes=_unknown(keys, any(recurrent) and not state),
    )


def _recurrent(keys: Keys, head_count_kv: tuple[int, ...], reach: int) -> tuple[bool, ...]:
    """Which layers keep a recurrent state."""
    name, layers = keys.architecture, len(head_count_kv)
    if name in _RECURRENT or name in _BOTH:
        found = [True] * layers
    elif name in _HYBRID:
        # Of nemotron's layers without KV heads those with a feed-forward are nothing else.
        wide = keys.per_layer("feed_forward_length", layers) if name.startswith("nemotron") else (0,) * layers
        found = [not count and not length for count, length in zip(head_count_kv, wide, strict=True)]
    elif name in _INTERVAL and (listed := keys.values("attention.recurrent_layers")):
        found = [il < len(listed) and bool(listed[il]) for il in range(layers)]
    elif name in _INTERVAL:
        interval = keys.number("full_attention_interval", default=_INTERVAL[name])
        found = [interval != 0 and (il + 1) % interval != 0 for il in range(layers)]
    else:
        found = [False] * layers
    return tuple(one and il < reach for il, one in enumerate(found))


def _windows(keys: Keys, layers: int, reach: int) -> tuple[int, ...]:
    """Each layer's sliding window in tokens, 0 where it sees the whole context."""
    rule, key = _SLIDING.get(keys.architecture), "attention.sliding_window"
    if rule is None or (rule.layers and rule.layers != reach):
        return (0,) * layers
    window = keys.largest(key, default=rule.window)
    window = rule.fixed if window and rule.fixed else window
    listed = keys.values(f"{key}_pattern")
    if listed:
        slides = [il < len(listed) and bool(listed[il]) for il in range(layers)]
    elif rule.period is None:
        slides = [False] * layers
    else:
        period = keys.number(f"{key}_pattern", default=rule.period)
        dense = 0 if rule.dense_first else period - 1
        slides = [not period or il % period != dense for il in range(layers)]
    return tuple(window if slide and il < reach else 0 for il, slide in enumerate(slides))


def _latent(keys: Keys) -> int:
    """Elements that multi-head latent attention keeps of a token in a layer; 0 in a file without the lengths that its
    heads have uncompressed: for those llama.cpp keeps keys and values in full."""
    if not keys.number("attention.key_length_mla") or not keys.number("attention.value_length_mla"):
        return 0
    parts = keys.number("attention.kv_lora_rank") + keys.number("rope.dimension_count")
    return keys.number("attention.key_length", default=parts)


def _state_elements(keys: Keys, width: int, heads: int) -> int:
    """Elements of recurrent state in one layer: what is convolved or shifted, and the state itself."""
    if rwkv := keys.number("wkv.head_size"):
        return width * (keys.number("token_shift_count", default=2) + rwkv)
    kernel, inner = keys.number("ssm.conv_kernel"), keys.number("ssm.inner_size")
    state, groups = keys.number("ssm.state_size"), keys.number("ssm.group_count")
    if shift := keys.number("shortconv.l_cache"):
        return width * (shift - 1) + state * inner
    if delta := keys.number("kda.head_dim"):
        return 3 * (kernel - 1 if kernel else 3) * heads * delta + heads * delta * delta
    if keys.architecture == "minimax-01":
        head = keys.number("attention.key_length", default=width // heads if heads else 0)
        return heads * head * head
    return max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner


def _unknown(keys: Keys, stateless: bool) -> tuple[str, ...]:
    """What the byte counts leave out or take too simply, a clause each."""
    name, rule = keys.architecture, _SLIDING.get(keys.architecture)
    lengths = ("key_length", "value_length", "kv_lora_rank")
    sliding = [(keys.number(f"attention.{one}_swa"), keys.number(f"attention.{one}")) for one in lengths]
    unlisted = rule is not None and rule.period is None and not keys.values("attention.sliding_window_pattern")
    cases: tuple[tuple[object, str], ...] = (
        (not name, "the header names no architecture: every layer is counted as seeing the whole context"),
        (
            name and name not in NAMES,
            f"llama.cpp has no architecture {name}: every layer is counted as seeing the whole context",
        ),
        (name in _NO_CACHE, f"{name} does not generate a token after the other: llama.cpp keeps no KV cache for it"),
        (name == "t5", "an encoder-decoder: a token is counted as reading both halves, and nothing of the input"),
        (name in _DRAFTS, "a draft for another model: what it reads of that one is left out"),
        (unlisted, "which layers its window holds for is not said: all are counted as seeing the whole context"),
        (
            any(own and own != whole for own, whole in sliding),
            "its sliding layers have heads of another length: counted like those of the others",
        ),
        (
            keys.number("attention.indexer.key_length"),
            "sparse attention: counted as reading the whole cache, its indexer's keys left out",
        ),
        (keys.values("attention.compress_ratios"), "the compressed keys of its cache are left out"),
        (
            keys.number("num_loops") > 1 or keys.number("hrm.l_cycles"),
            "its layers run several times for each token: counted once",
        ),
        (keys.number("adapters.count"), "its adapters are counted as all read for every token"),
        (stateless, "the size of its recurrent state is not said: left out"),
    )
    return tuple(clause for holds, clause in cases if holds)
