"""What commands print and write, beside what the stages write themselves."""

import os
import sys
from pathlib import Path

from ser_hf.errors import UserError
from ser_hf.utils import files

SOME_FAILED = 3
"""Exit code of a command that could not use some of its files, and did the rest."""


def quiet_transformers() -> None:
    """Keep bars and hints of transformers from between our lines; bars of the Hub stay."""
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    shows = not are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # those of the Hub's downloads and uploads, too
    if shows:
        enable_progress_bars()


def warn(what: str, error: object) -> None:
    """Print a line on stderr about what a command could not use, and the first reason."""
    print(f"ser-hf: {what}: {' '.join(str(error).split())}", file=sys.stderr)


def check_output_file(path: str, suffix: str | None = None, flag: str = "--output") -> None:
    """Refuse an output file that cannot be written, before the work.

    Raises:
        UserError: where the folder does not exist or cannot be written, the name is too long or has
            another suffix, and for what is no plain file, such as `/dev/stdout`.
    """
    place = Path(path)
    is_other = os.path.lexists(path) and not os.path.isfile(path)
    if is_other or not os.path.isdir(place.parent) or (suffix and place.suffix.lower() != suffix):
        raise UserError(f"{flag} is '{path}': name a {suffix or ''} file in a folder that exists".replace("  ", " "))
    files.refuse_unwritable(path)


def write_file(path: str, content: bytes) -> None:
    """Write a file in one step: it has its old content or the new one."""
    with files.replacing(path) as partial:
        partial.write_bytes(content)
