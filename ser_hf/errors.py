"""The one base class for what the user can mend, and what its messages share."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input: the message is one line that names the value and the remedy.

    The command line prints it and exits with code 2. It is no `ValueError`: an
    `except ValueError` around a call of a library must not catch it.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of the error where it has no message.

    >>> first_line(ValueError("no such layer\\nat 0x7f"))
    'no such layer'
    >>> first_line(KeyError())
    'KeyError'
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a word was meant to be; None where none is like it.

    >>> nearest("predct", ["predict", "app"])
    'predict'
    """
    return next(iter(difflib.get_close_matches(word, list(known), 1)), None)


def choose_one(word: str, known: Iterable[str]) -> str:
    """The remedy for a word that is none of those known: the nearest of them, and all.

    >>> choose_one("tiney", ["tiny", "small"])
    "did you mean 'tiny'? Choose one of tiny, small"
    >>> choose_one("large", ["tiny", "small"])
    'choose one of tiny, small'
    """
    known = list(known)
    meant, choices = nearest(word, known), f"one of {', '.join(known)}"
    return f"did you mean '{meant}'? Choose {choices}" if meant else f"choose {choices}"
