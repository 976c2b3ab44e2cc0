"""`ser-hf COMMAND`: a table of functions, of which each parses its settings and runs one stage."""

import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from ser_hf import __version__
from ser_hf.cli.data import audit, data, splits
from ser_hf.cli.doctor import doctor
from ser_hf.cli.evaluate import baseline, calibrate, compare, evaluate, explain, leaderboard, report
from ser_hf.cli.label import label, label_report
from ser_hf.cli.publish import export, push
from ser_hf.cli.serve import app, predict
from ser_hf.cli.settings import CommandLine, row
from ser_hf.cli.train import finetune, leakage_curve, pretrain, soup
from ser_hf.errors import UserError, nearest

Command = Callable[[CommandLine], int | None]

STAGES: dict[str, dict[str, Command]] = {
    "Ask a model": {"predict": predict, "app": app, "label": label, "label-report": label_report},
    "Build a dataset": {"audit": audit, "data": data, "data splits": splits},
    "Train": {"finetune": finetune, "pretrain": pretrain, "soup": soup},
    "Measure": {
        "evaluate": evaluate,
        "leakage-curve": leakage_curve,
        "baseline": baseline,
        "calibrate": calibrate,
        "compare": compare,
        "explain": explain,
        "report": report,
        "leaderboard": leaderboard,
    },
    "Hand on": {"export": export, "push": push},
    "Repair": {"doctor": doctor},
}
"""The commands of each stage of the work, by name."""

COMMANDS: dict[str, Command] = {name: command for stage in STAGES.values() for name, command in stage.items()}
"""A command's docstring is its help: the first line, the description, and examples."""

_PATH_ERRORS = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EROFS, errno.ENOSPC}
_PATH_ERRORS |= {errno.ENAMETOOLONG, errno.ELOOP, errno.EPERM, errno.EDQUOT}
"""What is wrong with a path that the user named, rather than with us."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit code; all else is our fault, with a traceback.

    Returns:
        0: done; 2: the user can mend it, which one line on stderr explains; 3: an audit found
        something to decide about, or some recordings, clips of a voice or results could not be
        used; 130: Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if threading.current_thread() is not threading.main_thread():
        return _exit_code(argv)
    # a caller in Python gets its handler back: processes that it forks would inherit ours
    before = signal.signal(signal.SIGTERM, _stop) or signal.SIG_DFL
    try:
        return _exit_code(argv)
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_code(argv: list[str]) -> int:
    """Run a command, with a line on stderr for what the user can mend."""
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if argv[0] == "--version":
            print(f"ser-hf {__version__}")
            return 0
        return _run_command(argv) or 0
    except UserError as error:
        print(f"ser-hf: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ser-hf: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        print(f"ser-hf: '{error.filename or 'a file'}' cannot be written or read: {error.strerror}", file=sys.stderr)
        return 2


def _run_command(argv: list[str]) -> int | None:
    pair = " ".join(argv[:2])
    words = 2 if pair in COMMANDS else 1
    name = " ".join(argv[:words])
    if name not in COMMANDS:
        raise UserError(f"'{name}' is no command: {_meant(name, argv)}")
    mistyped = words == 1 < len(argv) and not argv[1].startswith("-") and not os.path.exists(argv[1])
    pairs = [one for one in COMMANDS if one.startswith(f"{name} ")]
    if mistyped and (meant := nearest(pair, pairs)):
        raise UserError(f"'{pair}' is no command: did you mean '{meant}'?")
    command = COMMANDS[name]
    return command(CommandLine(name, argv[words:], command.__doc__))


def _meant(name: str, argv: list[str]) -> str:
    """The remedy for a first word that is no command."""
    if os.path.exists(name):  # a recording, most likely, or a folder of them
        command = "label" if os.path.isdir(name) else "predict"
        return f"did you mean `ser-hf {command} {shlex.join(argv)}`?"
    meant = nearest(name, COMMANDS)
    return f"did you mean '{meant}'? `ser-hf` lists all" if meant else f"choose one of {', '.join(COMMANDS)}"


def _overview() -> str:
    lines = ["usage: ser-hf COMMAND [CONFIG.yaml|.json] [flags]"]
    for stage, commands in STAGES.items():
        lines += ["", f"{stage}:"]
        lines += [row(name, (command.__doc__ or "").partition("\n")[0], 14) for name, command in commands.items()]
    return "\n".join([*lines, "", _FIRST_STEPS])


_FIRST_STEPS = """First steps:
  ser-hf predict clip.wav     what a voice sounds like, by the bundled model
  ser-hf app                  the same in a browser
  ser-hf COMMAND --help       the flags of a command, and an example"""


def _stop(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on any exception, so that what is half-written is removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
