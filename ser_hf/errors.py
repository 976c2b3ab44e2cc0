"""The one base class for what the user can mend."""


class UserError(ValueError):
    """Wrong input: the message is one line that names the value and the remedy; commands exit with
    code 2."""
