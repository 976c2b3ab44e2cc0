"""Functions run in processes of their own, with a time after which those are ended."""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress

STARTING = threading.Lock()  # filelock refuses a fork while another thread forks


def in_fork(function, seconds=60):
    """What a function returns in a forked process; an error that it raises is raised here.

    A process that does not answer in time is ended with those that it started, and the test fails.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run():
        STARTING.release()  # of the parent, as it was at the fork
        os.setpgrp()
        try:
            sender.send((function(), None))
        except Exception as error:  # the test sees it
            sender.send((None, error))

    process = context.Process(target=run)
    with STARTING:
        process.start()
    try:
        assert receiver.poll(seconds), f"the forked process did not answer in {seconds} s"
        result, error = receiver.recv()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result
