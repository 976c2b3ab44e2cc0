"""Runs a `ser-hf` command from a script of this folder."""

import sys

sys.path.pop(0)  # this folder, whose evaluate.py would hide the package of that name

from ser_hf.cli.main import main


def run(command: str) -> None:
    """Run the command with this process's flags, and end with its exit code."""
    sys.exit(main([command, *sys.argv[1:]]))
