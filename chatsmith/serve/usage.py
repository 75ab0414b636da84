"""Counting the tokens of a request."""

from collections.abc import Sequence
from typing import Any

from chatsmith.serve.protocol import Job, Output
from chatsmith.serve.request_log import RequestRecord


class Usage:
    """Tokens of a request's prompts and replies, as far as they are known."""

    def __init__(self, jobs: Sequence[Job], record: RequestRecord) -> None:
        self._record = record
        self._prompt_tokens = sum(len(job.prompt_ids) for job in jobs)
        self._completion_tokens = 0
        self._cached: dict[int, int] = {}
        # The first reply of a job reads the prompt; the others find it in the cache, which saved the client nothing.
        self._firsts: set[int] = set()
        first = 0
        for job in jobs:
            self._firsts.add(first)
            first += job.n

    def add(self, choice: int, output: Output) -> None:
        """Count an output. Forced ids count, too: they take time and room like others."""
        self._completion_tokens += len(output.ids)
        if choice in self._firsts:
            self._cached[choice] = output.cached_tokens
            self._record.cached_tokens = sum(self._cached.values())

    def to_json(self) -> dict[str, Any]:
        """The `usage` of a response."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }
