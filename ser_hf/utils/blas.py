"""The BLAS of NumPy and SciPy with one thread, while threads of ours share the cores.

OpenBLAS splits a product among all cores, and its threads spin for a while after it. The spectrum
of a clip is such a product. Beside threads that each take a clip, that costs them half their time.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_users = 0
_controller: ThreadpoolController | None = None
_limit: contextlib.AbstractContextManager | None = None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of BLAS; the number before comes back behind the last who asked.

    The number is one for the whole process. So threads that overlap must not restore it each.
    """
    global _users, _controller, _limit
    with _lock:
        if _users == 0:
            if _controller is None:  # looks through all libraries that are loaded, which takes milliseconds
                _controller = ThreadpoolController()
            _limit = _controller.limit(limits=1, user_api="blas")
            _limit.__enter__()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _limit is not None:
                _limit.__exit__(None, None, None)
                _limit = None


def _after_fork_in_child() -> None:
    """Forget threads that are gone; another one may have held the lock."""
    global _lock, _users, _limit
    _lock, _users, _limit = threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
