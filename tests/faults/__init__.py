"""The fault lab: real faults on the real engine, and what quanttui said of them. Run from the checkout's root:

    python -m tests.faults                               every condition once, then the confusion matrix
    python -m tests.faults page-in-75 wall --runs 3
    python -m tests.faults --runs 3 --out runs.jsonl     runs accumulate in the file over several sittings
    python -m tests.faults --from runs.jsonl             the matrix of a file, measuring nothing

A run is `quanttui run` as a user runs it, on a random-weight model, under one condition (conditions.py): memory limited
by a cgroup (cgroups.py), a swap file (swapfile.py), neighbours that spin, stream, swap or hold swap (neighbour.py), or
none at all. What is right to say follows from the condition and, where memory nearly fits, from what the kernel counted
for the cgroup (watch.py); whether the fault was really there is measured as well, never by quanttui's own counters. Of
what quanttui said the first verdict on decoding counts. The lab sets no threshold of quanttui's.

A run that was to be clean on a machine that was not, and a fault that did not come, count for nothing and are done
again. Memory limits and swap files need root and writable cgroups; without them those conditions are skipped, with the
reason. Whatever happens, SIGTERM included, cgroups and swap files are removed and processes ended; at the end that is
checked (machine.py).
"""
