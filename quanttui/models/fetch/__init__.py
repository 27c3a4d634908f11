"""`hf:org/repo[@revision][:quant,…]`: what a Hugging Face repository has, what of it fits, and getting it, said before.

named.py      what such an argument means, and a repository's files told into quants; pure
cached.py     huggingface_hub's cache: where a file lies in it, how much of it is there; no network
hub.py        the Hub itself; with cached.py the only files that know huggingface_hub or its layout
offers.py     a repository's quants with what fits, by one header read from afar
transfer.py   downloading: what came is kept and gone on with, and nothing unchecked is ever taken for whole
command.py    `quanttui fetch`, and what `quanttui run` does first for such a MODEL: list, ask, download
"""
