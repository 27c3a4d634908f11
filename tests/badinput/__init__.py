"""The bad-input campaign: everything that quanttui reads, given what nobody should write. From the checkout's root:

    python -m tests.badinput                            every target, more than 200,000 cases, then the table
    python -m tests.badinput gguf imatrix --cases 5000
    python -m tests.badinput --short                    the form for CI
    python -m tests.badinput gguf --input FILE          one input again, with its traceback

What is read is a target (target.py): bytes in, and either they are read, and rightly, or they are refused with one line
that names the file or the key. "Rightly" is each target's own check, against another reader or by what must hold. The
inputs come in three ways (ways.py): mutations of valid seeds (mutate.py), structures made up by hypothesis, and inputs
kept because they reach lines that none before has reached (guided.py). Each runs in a forked worker (workers.py) with
limits to its memory and time. Seeds are generated, none is copied from anywhere.
"""
