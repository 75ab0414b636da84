"""Problems to learn from, to choose weights by and to be judged by: what reinforcement learning needs of a task.

Three parts that never meet: an endless order of training problems, development problems for choosing the best
weights during the run, and test problems that are asked only at its end. They come from the kindergarten, from GSM8K,
or from a user's own JSON lines, each with what is asked and, unless a reward of one's own decides, the answer:

    {"prompt": "What is the capital of Peru?", "answer": "Lima"}
    {"messages": [{"role": "user", "content": "..."}], "answer": 72, "section": "sums", "anything": "else"}

Every field of a line reaches a reward function as `problem.fields`. An answer that is a whole number is checked as
the last number of the reply, any other as the whole reply, give or take punctuation and letter case.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from chatsmith.data.documents import JsonLines
from chatsmith.data.problems import Problem, Rule
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import is_held_out
from chatsmith.tasks.gsm8k import gsm8k_problems
from chatsmith.tasks.rules import Exactly, Number
from chatsmith.text.chat import Conversation, Message, conversation_to_json, parse_conversation

HELD_OUT_ONE_IN = 8
"""Of a user's own problems, one in this many is for development, and as many for the test unless a file is given."""

_ATTEMPTS, _FAR = 200, 1_000_003
_TOO_LONG = (
    "hardly any problem fits into the model's context together with a reply; take shorter problems, a smaller "
    "max_tokens, or a model with a longer context"
)


@dataclass(frozen=True)
class ProblemSet:
    """The three parts."""

    train: Callable[[int], Problem]
    """The training problem at an index (0, 1, ...) of an order without end."""
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

        def train(index: int) -> Problem:
            # A problem that is too long is replaced by another one, which depends on the index alone.
            found = (self.train(index + attempt * _FAR) for attempt in range(_ATTEMPTS))
            problem = next(filter(fits, found), None)
            if problem is None:
                raise UserError(_TOO_LONG)
            return problem

        if not development:
            raise UserError(_TOO_LONG)
        train(0)
        return replace(self, train=train, development=development)


@dataclass(frozen=True)
class FileProblem(Problem):
    """A problem from a file, with all that its line says."""

    fields: Mapping[str, Any] = field(default_factory=dict)


def gsm8k_set(folder: Path, seed: int) -> ProblemSet:
    """GSM8K: its training part without the held-out development part, and its test part."""
    train, development, test = (gsm8k_problems(split, folder) for split in ("train", "development", "test"))
    return _shuffled(train, development, test, seed)


def file_set(path: Path, test_path: Path | None, seed: int, *, needs_answers: bool) -> ProblemSet:
    """A user's own problems: a part of `path`, by a hash of the prompts, is held out for development, and another
    for the test where `test_path` gives no problems for it.

    Raises UserError if a file cannot be used, or if a part would be empty.
    """
    everything = read_problems(path, needs_answers=needs_answers)
    if test_path is None:
        test = [problem for problem in everything if _is_of(problem, "test")]
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
                "out for development; give more problems, and a file of test problems"
            )
    return _shuffled(train, development, test, seed)


def read_problems(path: Path, *, needs_answers: bool) -> list[FileProblem]:
    """All problems of a file, none of them twice.

    Raises UserError if it is not there, holds none, or has too many lines that are not problems.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; give problems as JSON lines")
    lines = JsonLines(path)
    problems: dict[Conversation, FileProblem] = {}
    for number, line in lines:
        try:
            problem = _problem(f"{path.name}/{number}", line, needs_answers)
        except ValueError as error:
            lines.broken(number, str(error))
        else:
            problems.setdefault(problem.messages, problem)
    if not problems:
        raise UserError(f'{path} holds no problem: every line needs a "prompt" and an "answer"')
    return list(problems.values())


def _problem(identity: str, line: dict[str, Any], needs_answers: bool) -> FileProblem:
    if isinstance(line.get("prompt"), str) and line["prompt"].strip():
        messages: Conversation = (Message.of("user", line["prompt"]),)
    elif "messages" in line:
        messages = parse_conversation(line)
        if messages[-1].role != "user":
            raise ValueError("the messages of a problem must end with one of the user")
    else:
        raise ValueError('a problem needs a "prompt" or "messages"')
    answer, section = line.get("answer"), line.get("section")
    if needs_answers and (isinstance(answer, bool) or not isinstance(answer, str | int) or answer == ""):
        raise ValueError('a problem needs an "answer": a text or a whole number')
    if not isinstance(section, str):
        section = "problems"
    return FileProblem(
        identity, section, messages, "" if answer is None else str(answer), _rule(answer), fields=line
    )


def _rule(answer: Any) -> Rule:
    try:
        return Number(int(answer))
    except (TypeError, ValueError):
        return Exactly((str(answer),) if answer else ())


def _is_of(problem: Problem, part: str) -> bool:
    return is_held_out(f"{part} {problem.messages[-1].text}", HELD_OUT_ONE_IN)


def _shuffled(
    train: Sequence[Problem], development: Sequence[Problem], test: Sequence[Problem], seed: int
) -> ProblemSet:
    """A set whose training problems come in a different order in every epoch."""

    @lru_cache(maxsize=_ATTEMPTS)
    def order(epoch: int) -> list[int]:
        return random.Random(f"{seed} {epoch}").sample(range(len(train)), len(train))

    def at(index: int) -> Problem:
        epoch, rest = divmod(index, len(train))
        return train[order(epoch)[rest]]

    return ProblemSet(
        at, tuple(development), tuple(test), problems_fingerprint((*train, *development, *test))
    )


def problems_fingerprint(problems: Iterable[Problem]) -> str:
    """The sha256 of `problems`, in order, rules included."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem_to_json(problem), sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """`problem` as plain strings, numbers, lists and dicts, rule included: what an exam's fingerprint covers."""
    return {
        "id": problem.id,
        "section": problem.section,
        **conversation_to_json(problem.messages),
        "answer": problem.answer,
        "rule": type(problem.rule).__name__,
        **asdict(problem.rule),  # pyright: ignore[reportArgumentType]  every rule here is a dataclass
    }
