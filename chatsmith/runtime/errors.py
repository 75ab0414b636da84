"""Errors meant for the person at the keyboard: one line that says what is wrong and what to do."""


class UserError(ValueError):
    """Bad input or a bad environment, explained in one line. The command line prints it and exits with 2."""
