"""What Ray starts in place of its own script: the worker is forked, its libraries in memory.

Ray calls it with the words of the worker, and with some that describe an environment of its own.
Where the worker is forked Ray itself must not be imported: it reads its environment then.
"""

import os
import sys

OF_RAY = ("--serialized-runtime-env-context", "--language")
SERVER = "SER_HF_TESTS_RAY_SERVER"
"""The variable with the address of the server that forks."""

if __name__ == "__main__":
    from programs import Program  # it lies beside this script

    words = [word for word in sys.argv[1:] if not word.startswith(OF_RAY)]
    sys.exit(abs(Program(words, os.devnull, server=os.environ[SERVER]).wait()))
