"""Corpora of recordings with official names. An entry in `CORPORA` adds one.

From an entry come the flag of `ser-hf data`, what `--download` fetches, the checks of the audit,
and the licence, citation and limits in cards.
"""

from pathlib import PurePath

from ser_hf.data.corpora.base import Corpus
from ser_hf.data.corpora.ravdess import RAVDESS
from ser_hf.data.corpora.tess import TESS

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in (RAVDESS, TESS)}
"""Every corpus by its name. A file belongs to the first corpus whose grammar knows its name."""


def parse_name(path: PurePath) -> tuple[str, dict] | None:
    """Return the corpus and the fields of a file with an official name; None for any other.

    >>> parse_name(PurePath("OAF_back_angry.wav"))[0]
    'tess'
    """
    for name, corpus in CORPORA.items():
        fields = corpus.parse(path)
        if fields is not None:
            return name, fields
    return None
