"""What reinforcement learning says to people: replies, rewards and scores in a few words."""

from collections.abc import Sequence
from typing import Any

from chatsmith.data.problems import Problem
from chatsmith.engine.request import Completion
from chatsmith.rl.rollouts import Group, reply_in_words

SHOWN_REPLIES = 4


def shown_replies(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The first reply of each of the first groups, with its reward and those of the others to its problem."""
    return [
        {
            "prompt": group.problem.messages[-1].text,
            "reply": reply_in_words(group.completions[0]),
            "reward": group.verdicts[0].reward,
            "group": [verdict.reward for verdict in group.verdicts],
        }
        for group in groups[:SHOWN_REPLIES]
    ]


def failure_in_words(problem: Problem, completion: Completion, reason: str) -> str:
    """A reply whose reward could not be had, with its problem."""
    return (
        f"no reward for a reply, which therefore teaches nothing: {reason}. The problem was "
        f"{problem.id}, {short(problem.messages[-1].text)!r}; the reply {short(reply_in_words(completion))!r}"
    )


def short(text: str, longest: int = 70) -> str:
    """One line of `text`, cut where it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def reward_in_words(reward: float | None) -> str:
    """A reward with two digits; None is one that could not be had."""
    return "failed" if reward is None else f"{reward:.2f}"


def percents(scores: dict[str, float]) -> str:
    """The development scores that are shares, as pass@1 61.3%."""
    shown = {name.removeprefix("dev_").replace("_at_", "@"): value for name, value in scores.items()}
    return ", ".join(f"{name} {value:.1%}" for name, value in shown.items() if name.startswith("pass"))
