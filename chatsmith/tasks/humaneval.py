"""HumanEval: 164 functions to write in Python, each with tests (Chen et al. 2021, 2107.03374).

The model is shown the beginning of a function and asked for all of it. Its program is put together with the tests and
run in the sandbox; it passes if everything runs to its end. It reads a folder with `humaneval/HumanEval.jsonl`.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from chatsmith.data.problems import Problem
from chatsmith.tasks.benchmark_files import read_items, task_file
from chatsmith.text.chat import Message
from chatsmith.tools.sandbox import Limits, run_python

NAME = "humaneval"

LIMITS = Limits(seconds=10.0, cpu_seconds=3)
"""Three seconds of work, as the paper's own harness gives; the wall clock allows for a busy machine."""

_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class PassesTests:
    """The program in the reply passes the problem's tests."""

    prompt: str
    """The beginning of the function: imports, helpers, signature, what it is to do."""
    entry_point: str
    """The function's name."""
    test: str
    """A function `check(candidate)`."""

    def accepts(self, reply: str) -> bool:
        """Run the program in the sandbox. Raises UserError where there is none."""
        return run_python(self.program(reply), LIMITS).finished

    def program(self, reply: str) -> str:
        """The whole program: the reply's code with what it leaves out, and the tests.

        A reply may give the whole function or only what follows the prompt.
        """
        code = reply_code(reply)
        definition = re.compile(rf"^\s*def\s+{re.escape(self.entry_point)}\b", re.MULTILINE)
        if definition.search(code):
            start = definition.search(self.prompt)
            before = self.prompt[: start.start()] if start else ""
            code = f"{before}\n{code}"
        else:
            code = self.prompt + code
        return f"{code}\n{self.test}\ncheck({self.entry_point})\n"


def reply_code(reply: str) -> str:
    """The code of a reply: its first fenced block, closed or not, or all of it if there is none."""
    block = _FENCE.search(reply)
    return block[1] if block else reply


def prompt_alone(problem: Problem) -> Problem:
    """A problem of HumanEval as nanochat puts it: the beginning of the function and nothing else. Others stay."""
    if not isinstance(problem.rule, PassesTests):
        return problem
    return replace(problem, messages=(Message.of("user", problem.rule.prompt),))


def humaneval_problems(split: str, folder: Path) -> list[Problem]:
    """All problems: there is one split, "test". `folder` is that of the benchmarks."""
    problems = []
    for item in read_items(
        folder, task_file(NAME, split), ("task_id", "prompt", "entry_point", "test", "canonical_solution")
    ):
        asked = f"Write this Python function, all of it.\n\n```python\n{item['prompt']}```"
        rule = PassesTests(item["prompt"], item["entry_point"], item["test"])
        messages = (Message.of("user", asked),)
        problems.append(Problem(item["task_id"], NAME, messages, item["canonical_solution"], rule))
    return problems
