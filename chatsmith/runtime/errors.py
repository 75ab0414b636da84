"""Errors meant for the person at the keyboard: one line that says what is wrong and what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input or a bad environment, explained in one line. The command line prints it and exits with 2.

    `setting` names the settings (fields, like rate_scale) that would change it; the command line says how they are
    written there: `UserError("the loss is not finite: lower the learning rate", setting="rate_scale")`.
    """

    def __init__(self, message: str, *, setting: str | Iterable[str] = ()) -> None:
        super().__init__(message)
        self.settings = (setting,) if isinstance(setting, str) else tuple(setting)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is probably a misspelling of, or None."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' with the known word nearest to `word`, or '' if none is near."""
    near = nearest(word, known)
    return f" (did you mean {near}?)" if near else ""
