"""How long an answer may take."""

import time
from concurrent.futures import Future

import numpy as np

from ser_hf.errors import UserError


class TimeoutExceeded(UserError):
    """A recording that took longer than it was given."""


class Deadline:
    """So many seconds from now, or no end."""

    def __init__(self, seconds: float | None) -> None:
        """Begin; no end where `seconds` is None."""
        self._until = None if seconds is None else time.monotonic() + seconds

    def check(self, file: str | None) -> None:
        """Raise `TimeoutExceeded`, which names the file, where the time is over."""
        if self._until is not None and time.monotonic() > self._until:
            raise _too_slow(file)

    def result(self, asked: Future[np.ndarray], file: str | None) -> np.ndarray:
        """Wait for a result; where the time is over before it comes, it is given up and `TimeoutExceeded` raised."""
        try:
            return asked.result(None if self._until is None else max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            asked.cancel()
            raise _too_slow(file) from None


def _too_slow(file: str | None) -> TimeoutExceeded:
    return TimeoutExceeded(f"{file!r} took longer than it was given: cut it into parts")
