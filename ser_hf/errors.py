"""The one base class for what the user can mend."""


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
