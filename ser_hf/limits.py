"""How much one visitor of a running app may ask for; each is a flag of `ser-hf app`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sane for a small public machine; every refusal names the limit and what mends it."""

    file_mb: float = 50.0
    """Megabytes of one recording."""

    seconds: float = 3600.0
    """Duration of one recording."""

    files: int = 100
    """Recordings in one batch, those in a zip included."""

    zip_mb: float = 500.0
    """Megabytes of all recordings that are uploaded together, zips unpacked."""

    queue: int = 64
    """Requests that may wait; the next one is told that the queue is full."""

    per_minute: int = 120
    """Requests of one client in a minute; the machine itself is not counted."""

    timeout: float = 60.0
    """Seconds that one recording may take."""

    live_seconds: float = 300.0
    """Duration of one live session."""

    keep: float = 600.0
    """Seconds after which an upload is deleted."""
