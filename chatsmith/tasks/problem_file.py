"""A user's own problems: JSON lines, each with what is asked and, unless a reward of one's own decides, the answer.

    {"prompt": "What is the capital of Peru?", "answer": "Lima"}
    {"messages": [{"role": "user", "content": "..."}], "answer": 72, "section": "sums", "anything": "else"}

Every field of a line reaches a reward function as `problem.fields`. An answer that is a whole number is checked as
the last number of the reply, any other as the whole reply, give or take punctuation and letter case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatsmith.data.documents import JsonLines
from chatsmith.data.problems import Problem, Rule
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.rules import Exactly, Number
from chatsmith.text.chat import Conversation, Message, parse_conversation


@dataclass(frozen=True)
class FileProblem(Problem):
    """A problem from a file, with all that its line says."""

    fields: Mapping[str, Any] = field(default_factory=dict)


def read_problems(path: Path, *, needs_answers: bool) -> list[FileProblem]:
    """All problems of the file, none of them twice.

    Raises UserError if it is not there, holds none, or has too many lines that are not problems.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; give problems as JSON lines with --problems")
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
    answer = line.get("answer")
    if needs_answers and (isinstance(answer, bool) or not isinstance(answer, str | int) or answer == ""):
        raise ValueError('a problem needs an "answer": a text or a whole number')
    section = line.get("section")
    return FileProblem(
        id=identity,
        section=section if isinstance(section, str) else "problems",
        messages=messages,
        answer="" if answer is None else str(answer),
        rule=_rule(answer),
        fields=line,
    )


def _rule(answer: Any) -> Rule:
    try:
        return Number(int(answer))
    except (TypeError, ValueError):
        return Exactly((str(answer),) if answer else ())
