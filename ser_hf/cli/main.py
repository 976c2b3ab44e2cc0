"""`ser-hf <command>`: a table of functions. Each parses its flags, calls one function of a room,
and prints."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from ser_hf.cli.data import audit, data
from ser_hf.cli.evaluate import baseline, calibrate, compare, evaluate, explain, report
from ser_hf.cli.flags import quiet
from ser_hf.cli.publish import export, push
from ser_hf.cli.serve import app, predict
from ser_hf.cli.train import pretrain
from ser_hf.errors import UserError

_PLACES = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EROFS, errno.ENOSPC}
"""What is wrong with a place that the user named, rather than with us."""


def _stop(number: int, frame: FrameType | None) -> None:
    """Being told to end is an end like any other: what is half-written is taken away."""
    sys.exit(128 + number)


def finetune(argv: list[str]) -> None:
    """fine-tune a model and write it with its evidence and card"""
    from ser_hf.training.config import parse_finetune

    parsed = parse_finetune(argv)
    if parsed is None:
        return
    from ser_hf.experiments import repeats

    quiet()
    results = repeats.run_repeats(*parsed)
    if results is not None:
        print(f"\n{results.report()}\nresults.json, plots/ and what was trained: {results.model}")


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "audit": audit,
    "data": data,
    "finetune": finetune,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "baseline": baseline,
    "calibrate": calibrate,
    "compare": compare,
    "explain": explain,
    "report": report,
    "export": export,
    "push": push,
    "predict": predict,
    "app": app,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0: done, 2: the user can mend it (one line on stderr), 3: an audit asks for a
    decision.

    All else is our fault, with a traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            rows = "\n".join(f"  {name:10} {function.__doc__}" for name, function in COMMANDS.items())
            print(f"usage: ser-hf COMMAND [flags]\n\n{rows}\n\n`ser-hf COMMAND --help` lists its flags.")
        elif argv[0] not in COMMANDS:
            raise UserError(f"'{argv[0]}' is no command: choose one of {', '.join(COMMANDS)}")
        else:
            return COMMANDS[argv[0]](argv[1:]) or 0
    except UserError as error:
        print(f"ser-hf: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        print(f"ser-hf: '{error.filename or 'a file'}' cannot be written or read: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
