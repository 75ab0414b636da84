"""Problems to practise on, to choose by and to be judged by: what reinforcement learning needs of a task.

Three parts that never meet: an endless order of training problems, development problems for choosing the best
model during the run, and test problems that are asked only at its end.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from chatsmith.data.problems import Problem, problem_to_json
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.gsm8k import gsm8k_problems
from chatsmith.tasks.problem_file import read_problems
from chatsmith.tasks.splits import is_held_out

HELD_OUT_ONE_IN = 8
"""Of a user's own problems, one in so many is for development, and as many for the test unless a file is given."""

_ATTEMPTS, _FAR = 200, 1_000_003
_TOO_LONG = (
    "hardly any problem fits into the model's context together with a reply; take shorter problems, a smaller "
    "--max-tokens, or a model with a longer context"
)


@dataclass(frozen=True)
class ProblemSet:
    """The three parts."""

    train: Callable[[int], Problem]
    """The training problem at a place (0, 1, ...) of an order without end."""
    development: tuple[Problem, ...]
    test: tuple[Problem, ...]
    fingerprint: str
    """Changes with any problem."""

    def fitting(self, fits: Callable[[Problem], bool]) -> "ProblemSet":
        """The set without the training and development problems that do not fit; the test stays as it is, so that
        what a model cannot read counts against it.

        Raises UserError if hardly any problem fits.
        """
        development = tuple(problem for problem in self.development if fits(problem))

        def train(place: int) -> Problem:
            # In place of a problem that is too long comes another one, which depends on the place alone.
            found = (self.train(place + attempt * _FAR) for attempt in range(_ATTEMPTS))
            problem = next(filter(fits, found), None)
            if problem is None:
                raise UserError(_TOO_LONG)
            return problem

        if not development:
            raise UserError(_TOO_LONG)
        train(0)
        return replace(self, train=train, development=development)


def gsm8k_set(folder: Path, seed: int) -> ProblemSet:
    """GSM8K: its training part without the held-out development part, and its test part."""
    parts = {split: tuple(gsm8k_problems(split, folder)) for split in ("train", "development", "test")}
    return _finite(parts["train"], parts["development"], parts["test"], seed)


def file_set(path: Path, test_path: Path | None, seed: int, *, needs_answers: bool) -> ProblemSet:
    """A user's own problems: a part of `path`, by a hash of the prompts, is held out for development, and another
    for the test where `test_path` gives no problems for it.

    Raises UserError if a file cannot be used, or if a part would be empty.
    """
    everything = read_problems(path, needs_answers=needs_answers)
    test_prompts = {
        problem.messages for problem in everything if test_path is None and _is_of(problem, "test")
    }
    if test_path is None:
        test = [problem for problem in everything if problem.messages in test_prompts]
    else:
        test = read_problems(test_path, needs_answers=needs_answers)
        test_prompts = {problem.messages for problem in test}
    rest = [problem for problem in everything if problem.messages not in test_prompts]
    development = [problem for problem in rest if _is_of(problem, "development")]
    train = [problem for problem in rest if not _is_of(problem, "development")]
    for name, part in (("training", train), ("development", development), ("the test", test)):
        if not part:
            raise UserError(
                f"{path} leaves no problem for {name}: it has {len(everything)}, one in {HELD_OUT_ONE_IN} is held "
                "out for development; give more problems, and those for the test with --test-problems"
            )
    return _finite(train, development, test, seed)


def _is_of(problem: Problem, part: str) -> bool:
    return is_held_out(f"{part} {problem.messages[-1].text}", HELD_OUT_ONE_IN)


def _finite(
    train: Sequence[Problem], development: Iterable[Problem], test: Iterable[Problem], seed: int
) -> ProblemSet:
    """A set whose training problems come in an order of their own in every epoch."""

    @lru_cache(maxsize=_ATTEMPTS)
    def order(epoch: int) -> list[int]:
        return random.Random(f"{seed} {epoch}").sample(range(len(train)), len(train))

    def at(place: int) -> Problem:
        epoch, rest = divmod(place, len(train))
        return train[order(epoch)[rest]]

    held_out = (tuple(development), tuple(test))
    return ProblemSet(at, *held_out, problems_fingerprint((*train, *held_out[0], *held_out[1])))


def problems_fingerprint(problems: Iterable[Problem]) -> str:
    """The sha256 of `problems`, in order, rules included."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem_to_json(problem), sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()
