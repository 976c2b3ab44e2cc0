"""Protocols: how a dataset is split, and the refusal of every split that leaks.

The names are loaded when they are first used: settings inherit `SplitSettings`, and `--help` must
not wait for datasets and scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ser_hf.protocols.base import (
        COLUMNS,
        SIDES,
        Columns,
        IndexArrays,
        Protocol,
        ProtocolError,
        Split,
        columns_of,
    )
    from ser_hf.protocols.builtin import PROTOCOLS
    from ser_hf.protocols.description import describe
    from ser_hf.protocols.leak_check import LeakError, refuse_seen
    from ser_hf.protocols.loading import load_split, load_splits
    from ser_hf.protocols.near_duplicates import near_duplicates_of
    from ser_hf.protocols.settings import SplitSettings
    from ser_hf.protocols.splitting import folds, split

_MODULES = {
    "COLUMNS": "base",
    "Columns": "base",
    "IndexArrays": "base",
    "LeakError": "leak_check",
    "PROTOCOLS": "builtin",
    "Protocol": "base",
    "ProtocolError": "base",
    "SIDES": "base",
    "Split": "base",
    "SplitSettings": "settings",
    "columns_of": "base",
    "describe": "description",
    "folds": "splitting",
    "load_split": "loading",
    "load_splits": "loading",
    "near_duplicates_of": "near_duplicates",
    "refuse_seen": "leak_check",
    "split": "splitting",
}
"""Of each public name, the module of this package that defines it."""

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
    "SplitSettings",
    "columns_of",
    "describe",
    "folds",
    "load_split",
    "load_splits",
    "near_duplicates_of",
    "refuse_seen",
    "split",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ser_hf.protocols' has no attribute '{name}'")
    return getattr(import_module(f"ser_hf.protocols.{_MODULES[name]}"), name)
