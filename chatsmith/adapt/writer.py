"""Questions about passages, written by a model at any OpenAI-compatible endpoint, ours included.

One call a passage. What is kept are questions whose answer stands word for word in the passage and that were not asked
before, so a model that invents does no harm. Each reply is on the disk before the next is asked for: what was
interrupted goes on.
"""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from chatsmith.adapt.passages import Passage, package
from chatsmith.adapt.questions import LONGEST_ANSWER, Question, is_right, squeezed
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError

KEY_VARIABLE = "CHATSMITH_WRITER_KEY"
"""Has what the endpoint takes as a key. No other key of the environment is sent to it."""
RETRIES = 5
"""Of a call that an endpoint is too busy for."""
INSTRUCTIONS = (
    "Write up to four questions that the passage answers. Each names what it asks about, so that it can be understood "
    "without the passage. Copy each answer word for word from the passage: a few words or one sentence."
)


class _Pair(BaseModel):
    question: str
    answer: str


class Pairs(BaseModel):
    """What the endpoint is asked for."""

    pairs: list[_Pair]


def written_pairs(
    passages: Sequence[Passage],
    known: Sequence[Question],
    url: str,
    model: str,
    file: Path,
    reporter: Reporter,
) -> list[Question]:
    """What `model` at `url` asks about the passages, and is not in `known`. `file` holds its replies. Raises UserError
    if the endpoint does not answer; then the replies so far are kept."""
    openai = package("openai")
    key = os.environ.get(KEY_VARIABLE) or "none"
    client = openai.OpenAI(base_url=url, api_key=key, timeout=120, max_retries=RETRIES)
    by_hash = {sha256(f"{model}\n{one.name}\n{one.text}".encode()).hexdigest(): one for one in passages}
    replies: dict[str, str] = json.loads(file.read_bytes()) if file.is_file() else {}
    with reporter.progress(f"{model} writes questions", len(by_hash), "passages") as bar:
        for hashed, passage in by_hash.items():
            if hashed not in replies:
                replies[hashed] = _asked(openai, client, model, passage)
                atomic.write_text(file, json.dumps(replies, ensure_ascii=False) + "\n")
            bar.advance()
    kept = {one.question.lower(): one for one in known}
    num_known, num_read = len(kept), 0
    for hashed, passage in by_hash.items():
        for pair in _read(replies[hashed]):
            num_read += 1
            question, answer = squeezed(pair.question), squeezed(pair.answer)
            is_found = 0 < len(answer) <= LONGEST_ANSWER and answer in squeezed(passage.text)
            if question and is_found and not is_right(question, answer):
                kept.setdefault(question.lower(), Question(question, answer, passage.name, "written"))
    reporter.line(
        f"{model} wrote {num_read:,} questions about {len(by_hash):,} passages; {len(kept) - num_known:,} are new and "
        "have an answer that stands in the passage"
    )
    return list(kept.values())[num_known:]


def _asked(openai: Any, client: Any, model: str, passage: Passage) -> str:
    told = f"{INSTRUCTIONS}\n\n{passage.name}\n\n{passage.text}"
    schema = {"type": "json_schema", "json_schema": {"name": "pairs", "schema": Pairs.model_json_schema()}}
    try:
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": told}], temperature=0, response_format=schema
        )
        return reply.choices[0].message.content or ""
    except (openai.APIError, AttributeError, IndexError, TypeError, ValueError) as error:
        if getattr(error, "code", None) == "context_length_exceeded":
            return ""
        problem = " ".join(getattr(error, "message", "its answer is no chat completion").split())[:300]
        raise UserError(
            f"{client.base_url} wrote no questions: {problem}; the same command goes on"
        ) from None


def _read(reply: str) -> list[_Pair]:
    """The pairs in a reply, which may have text around its JSON, or none."""
    try:
        return Pairs.model_validate_json(reply[reply.find("{") : reply.rfind("}") + 1]).pairs
    except ValueError:
        return []
