"""Clients of the loopback Hub, each in a process of its own: libraries read their environment when
imported."""

import json

from helpers import programs

CALLS = """
import importlib, json, sys
from ser_hf.errors import UserError

for name, *arguments in json.loads(sys.argv[1]):
    module, _, function = name.rpartition(".")
    called = getattr(importlib.import_module(f"ser_hf.hub.{module or 'repositories'}"), function)
    try:
        print(json.dumps(called(*arguments), default=str))
    except UserError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ser_hf":
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
"""
"""What a script of strangers begins with: there is no package of ours."""


def run(environment, script, cwd, *arguments):
    """The JSON lines that a script prints."""
    done = programs.run(["-c", script, *arguments], environment, cwd, ours=not script.startswith(ABSENT))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def caller(remote, folder):
    """A function that calls functions of `ser_hf.hub`, of `repositories` where no other module is
    named, and gives what each answers."""

    def call(*calls, **environment):
        return run(remote.environment(folder / "home", **environment), CALLS, folder, json.dumps(calls))

    return call


def ser_hf(remote, folder, *words, **environment):
    """Run a command as a user does, with the caches under `folder`; gives what `subprocess.run`
    gives."""
    variables = remote.environment(folder / "home", **environment)
    return programs.run(["-m", "ser_hf.cli.main", *words], variables, folder)
