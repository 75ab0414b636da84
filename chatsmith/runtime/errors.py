"""Errors meant for the person at the keyboard: one line that says what is wrong and what to do."""

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input or a bad environment, explained in one line. The command line prints it and exits with 2.

    `setting` names the settings (fields, like rate_scale) that would change it; the command line says how they are
    written there: `UserError("the loss is not finite: lower the learning rate", setting="rate_scale")`.
    """

    def __init__(self, message: str, *, setting: str | Iterable[str] = ()) -> None:
        super().__init__(message)
        self.settings = (setting,) if isinstance(setting, str) else tuple(setting)
