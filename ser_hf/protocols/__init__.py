"""Protocols: how a dataset is split, and the refusal of every split that leaks."""

from ser_hf.protocols.base import (
    COLUMNS,
    SIDES,
    Columns,
    IndexArrays,
    Protocol,
    ProtocolError,
    columns_of,
)
from ser_hf.protocols.builtin import PROTOCOLS
from ser_hf.protocols.splitting import (
    LeakError,
    Split,
    crossing,
    describe,
    folds,
    near_duplicates_of,
    split,
)

__all__ = [
    "COLUMNS",
    "PROTOCOLS",
    "SIDES",
    "Columns",
    "IndexArrays",
    "LeakError",
    "Protocol",
    "ProtocolError",
    "Split",
    "columns_of",
    "crossing",
    "describe",
    "folds",
    "near_duplicates_of",
    "split",
]
