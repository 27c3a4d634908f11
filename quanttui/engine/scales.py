"""The process that weighs: asks llama.cpp how large its buffers would be, with no weight loaded and none allocated.

Reads what is asked from stdin, all of it first; prints an `About`, then a `Told` for each, as JSON lines. A context is
made as a sweep makes it (engine.llama.Context) over a model that has no data: with any load mode but none, llama.cpp
aborts there. Whatever aborts ends this process alone.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys

import msgspec
from llama_cpp import llama_cpp as lib

from quanttui.engine import llama
from quanttui.engine.weigh import About, Asked, Told
from quanttui.format import clean
from quanttui.measure.speed import Vocabulary


class _Weightless:
    """A model as far as a context needs one: its handle, the log, and how large its vocabulary is."""

    def __init__(self, asked: Asked, log: llama.Log) -> None:
        settings = asked.settings
        self.log = log
        log.mark()
        split = (ctypes.c_float * max(16, int(lib.llama_max_devices())))(*settings.tensor_split)
        params = llama.put(
            lib.llama_model_default_params(),
            no_alloc=True,
            load_mode=lib.LLAMA_LOAD_MODE_NONE,
            n_gpu_layers=settings.gpu_layers if lib.llama_supports_gpu_offload() else 0,
            split_mode=llama.SPLIT_MODES[settings.split_mode],
            tensor_split=ctypes.cast(split, ctypes.POINTER(ctypes.c_float)) if settings.tensor_split else None,
            use_extra_bufts=settings.repack,
        )
        self.handle = lib.llama_model_load_from_file(os.fsencode(asked.file), params)
        if not self.handle:
            raise llama.LlamaError(log.reason("llama.cpp cannot load it"))
        self.vocabulary = Vocabulary(int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.handle))), None)

    def close(self) -> None:
        lib.llama_model_free(self.handle)


def weigh(asked: Asked, log: llama.Log, abort: llama.AbortFlag) -> Told:
    """The buffers of one context, or why there are none."""
    try:
        model = _Weightless(asked, log)
    except llama.LlamaError as error:
        return Told(error=error.error)
    try:
        context = llama.Context(model, asked.settings, asked.context, asked.sequences, abort)  # type: ignore[arg-type]
    except llama.LlamaError as error:
        return Told(error=error.error)
    else:
        told = Told(compute=log.buffers("compute"), output=sum(log.buffers("output").values()))
        context.close()
        return told
    finally:
        model.close()


def main() -> None:
    """Weigh what stdin asks for; llama.cpp's own lines go to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    every = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Asked])
    log, abort = llama.start(), llama.AbortFlag()
    build = llama.build()
    about = About(system_info=clean(build.system_info, 2000), devices=build.devices, gpu_offload=build.gpu_offload)
    for answer in itertools.chain((about,), (weigh(asked, log, abort) for asked in every)):
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
