"""Published figures held against arithmetic, by the verdicts' rules: `quanttui audit TABLE.csv`.

table.py        a CSV file's rows, with all that their printed digits leave open
found.py        what an audit says: data
weigh.py        a row's bytes: what its file takes, what a token reads of it, what its speed moves
speed.py        findings about these: the wall, what does not fit, what cannot be, what is contaminated
perplexity.py   findings about perplexities and deltas, and one quant in several sources
judge.py        all of it over a table, and the ranking

Knows no session, and no source, device or model by name: all follows from the columns, the known shapes and the real
bits of the quants. What a table does not publish is absent, and words of praise or blame are not judged at all. GB are
1e9 bytes.
"""

from quanttui.audit.judge import audit
from quanttui.audit.table import read

__all__ = ["audit", "read"]
