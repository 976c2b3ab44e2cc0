"""A process that imports libraries once, and forks every program that it is asked for.

`python fork_server.py SOCKET MODULE...` imports the modules, listens, and ends with its standard
input. A request is a line of JSON: words, environment, folder and the files of both outputs. The
answers are two lines: the process id, and the exit code as soon as there is one.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import types
from contextlib import suppress
from pathlib import Path

TESTS = str(Path(__file__).parents[1])


def serve(address, modules):
    """Fork for each request a process that starts its program, waits for it and answers."""
    started = set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [path for path in sys.path if path not in started | {"", str(Path(__file__).parent)}]
    sys.path[:] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path] + paths
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is collected is no longer shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while 0 not in select.select([listener, 0], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return keep(connection, paths)


def keep(connection, paths):
    """Fork the program and say how it ended; only the program returns from here."""
    lines = connection.makefile("rw")
    request = json.loads(lines.readline())
    program = os.fork()
    if program == 0:
        connection.close()
        return become(paths, **request)
    with suppress(BrokenPipeError), lines:  # whoever asked may have ended
        print(program, file=lines, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]), file=lines, flush=True)
    os._exit(0)


def become(paths, words, environment, folder, outputs):
    """Be what `python WORDS` is in that environment, but for what is imported."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is read anew
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    first, *rest = words
    if first == "-c":
        script, *rest = rest
        sys.argv, sys.path[:] = ["-c", *rest], ["", *own, *paths]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(script, "<string>", "exec"), vars(main))
    elif first == "-m":
        module, *rest = rest
        sys.modules.pop(module, None)  # it is run, not imported
        sys.argv, sys.path[:] = [module, *rest], ["", *own, *paths]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:] = list(words), [str(Path(first).resolve().parent), *own, *paths]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
