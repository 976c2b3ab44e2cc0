"""Zip archives for the tests, and what lies in a folder."""

import io
import shutil
import zipfile
from collections import namedtuple

import numpy as np


def packed(members):
    """A real zip archive of names (or ZipInfo) and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def noise(count, seed=0):
    return np.random.default_rng(seed).bytes(count)


def below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leave(monkeypatch, free):
    """Let the disk have so many bytes free."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, free))
