"""What a repository of the loopback Hub holds, and how the Hub describes it."""

import hashlib
import re
from collections import namedtuple
from dataclasses import dataclass, field

import yaml

LFS = (".arrow", ".bin", ".onnx", ".parquet", ".png", ".pt", ".safetensors")

Commit = namedtuple("Commit", "oid title files")


@dataclass
class Repo:
    """`files` is the head of main; `commits` are what clients pushed to it, the last one newest.

    A branch begins with the commit of main that it was made from. A tag names a commit.
    """

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    gated: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self):
        return self.commits[-1].oid if self.commits else "0" * 40

    def heads(self):
        """The newest commit of every branch and tag, and of every hash."""
        on_branches = (commit for commits in self.branches.values() for commit in commits)
        commits = [Commit(self.head, "", self.files), *self.commits, *on_branches]
        by_hash = {commit.oid: commit for commit in reversed(commits)}
        branches = {"main": commits[0]} | {name: branch[-1] for name, branch in self.branches.items()}
        return by_hash | {tag: by_hash[oid] for tag, oid in self.tags.items()} | branches


def content_id(path, data):
    """The hash that clients compare with: SHA-256 of a large file, else the git blob's."""
    content_hash = hashlib.sha256(data) if path.endswith(LFS) else hashlib.sha1(b"blob %d\0" % len(data) + data)
    return content_hash.hexdigest()


def entries(files):
    """Every file and folder, as listings of the Hub describe them."""
    folders = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
    listing = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
    for path, data in files.items():
        identity = content_id(path, data)
        large = {"lfs": {"oid": identity, "size": len(data), "pointerSize": 134}} if path.endswith(LFS) else {}
        listing.append({"type": "file", "path": path, "size": len(data), "oid": identity[:40]} | large)
    return sorted(listing, key=lambda entry: entry["path"])


def front_matter(card):
    match = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    return yaml.safe_load(match[1]) or {} if match else {}
