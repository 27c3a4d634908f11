"""The measurements: algorithms over a small interface that an engine offers. None of them knows llama.cpp."""
