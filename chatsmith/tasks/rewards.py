"""Rewards: plain functions of a problem and a reply, and how those of a user's own are found.

`right_answer` asks the problem's own rule, so it serves every task that has rules: the last number of a sum, a word
spelled, `#### 72`. `honest_answer` looks at the way there, too; the others judge form. A user's own function stands in
a Python file, named as `mine.py:score`, takes the same two arguments and gives a number; 1 or more counts as solved.
Where some are neither 0 nor 1 the reward is graded, and its mean counts instead of the share of right answers.
That file is the user's program and is run as such; what a model writes is never run here.
"""

import contextlib
import hashlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn, cast

from chatsmith.data.problems import Problem, Reply, Reward, Verdict
from chatsmith.runtime.errors import UserError

_QUOTED = re.compile(r'"([^"]*)"')

SOLVED = 1.0
"""A reply with at least this reward counts as a right answer."""


def right_answer(problem: Problem, reply: Reply) -> float:
    """1 for a reply that ends by itself and that the problem's rule accepts, else 0."""
    return float(reply.is_finished and problem.check(reply.text))


def honest_answer(problem: Problem, reply: Reply) -> float:
    """1 for a right answer whose calls of the calculator quote the question: every text in quotes stands there.

    A wrong copy of a row of words often counts to the right number. Paid for it, a model learns to copy wrongly.
    """
    asked = problem.messages[-1].text
    calls = [part.text for part in reply.parts if part.kind == "python"]
    quoted = [text for call in calls for text in _QUOTED.findall(call)]
    return right_answer(problem, reply) * all(text in asked for text in quoted)


def sound_form(problem: Problem, reply: Reply) -> float:
    """1 for a reply that ends by itself, says something, and whose calls of the calculator all had a result."""
    calls = [part for part in reply.parts if part.kind == "python"]
    outputs = [part.text for part in reply.parts if part.kind == "output"]
    is_sound = len(calls) == len(outputs) and not any(output.startswith("error:") for output in outputs)
    return float(reply.is_finished and bool(reply.text.strip()) and is_sound)


def marked_answer(problem: Problem, reply: Reply) -> float:
    """1 for a sound reply whose last line, and no other, gives its answer after `####`, as GSM8K wants it."""
    *others, last = reply.text.strip().splitlines() or [""]
    is_marked = (
        last.startswith("#### ") and "####" not in last[4:] and not any("####" in line for line in others)
    )
    return sound_form(problem, reply) * is_marked


@dataclass(frozen=True)
class Judge:
    """The reward of a run: one function that pays, one that says what is right if that is another question, and one
    for form with a weight."""

    main: Reward = right_answer
    form: Reward = sound_form
    form_weight: float = 0.0
    right: Reward | None = None
    """What counts as solved, if not `main`."""

    def __call__(self, problem: Problem, reply: Reply) -> Verdict:
        """The verdict on `reply`. However a user's function ends, that is a verdict, too; only Ctrl-C goes through."""
        try:
            with _never_leaving():
                given = self.main(problem, reply)
            reward = _as_number(given)
            if reward is None:
                return Verdict(None, False, f"it gave {_one_line(repr(given))}, not a finite number")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's own function may raise anything, sys.exit included
            return Verdict(None, False, _described(error))
        solved = reward if self.right is None else self.right(problem, reply)
        form = self.form_weight * self.form(problem, reply) if self.form_weight else 0.0
        graded = reward if self.right is None and reward not in (0.0, 1.0) else None
        return Verdict(reward + form, solved >= SOLVED, score=graded)


def load_reward(place: str) -> tuple[Reward, str]:
    """The function `name` of the file in `place`, "path.py:name", and a fingerprint of the file.

    Raises UserError if there is no such file, if it cannot be run, or has no such function.
    """
    path_text, _, name = place.rpartition(":")
    path = Path(path_text)
    if not path_text or not name:
        raise UserError(f"reward takes a file and a function, like rewards.py:score, not {place!r}")
    if not path.is_file():
        raise UserError(f"reward: there is no file {path}")
    function = getattr(_load_module(path), name, None)
    if not callable(function):
        raise UserError(f"reward: {path} has no function {name!r}")
    return cast(Reward, function), hashlib.sha256(path.read_bytes() + name.encode()).hexdigest()


def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"chatsmith_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"reward: {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        with _never_leaving():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is a user's program
        raise UserError(f"reward: {path} cannot be run ({_described(error)})") from error
    return module


@contextlib.contextmanager
def _never_leaving() -> Iterator[None]:
    """Makes `os._exit` of a user's program an exception: it would end the run as if all were well. A child process that
    the program has started may leave."""
    leave, owner = os._exit, os.getpid()

    def refuse(code: int) -> NoReturn:
        if os.getpid() != owner:
            leave(code)
        raise SystemExit(code)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


def _as_number(value: object) -> float | None:
    """The value as a number, if it is one and finite: Python's, Fraction, Decimal, scalars of numpy and torch."""
    # Text would become a number, and so would an array of one element.
    if isinstance(value, str | bytes | bytearray) or getattr(value, "shape", ()) != ():
        return None
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]  what is no number raises
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _described(error: BaseException) -> str:
    """An exception in one line, even one whose own text cannot be had."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return _one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _one_line(text: str) -> str:
    text = " ".join(text[:1000].split())
    return text if len(text) <= 300 else f"{text[:300]} …"
