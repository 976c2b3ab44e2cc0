"""What no recording can be, and the error that says so."""

from ser_hf.errors import UserError

MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 1_000, 384_000


class AudioError(UserError):
    """Not a recording that can be used; the message names it and says why."""


class TooLongError(AudioError):
    """A recording beyond the length that is allowed, which the message names."""


def check_rate(rate: int, name: str) -> None:
    """Raise an AudioError for a rate in Hz that no recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name} claims {rate} samples a second: {MIN_RATE:,} to {MAX_RATE:,} can be read")
