"""Files to conversations: JSON lines of objects with `messages`, the one form that the core reads.

`ingest.forms` writes other forms as such files.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from chatsmith.data.documents import JSON_LINES, JsonLines, file_type, is_encodable, key_names, named_errors
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, parse_conversation, unknown_keys


def holds_conversations(path: Path) -> bool:
    """Whether the first usable line of a JSON lines file has `messages`. False for every other type."""
    if not file_type(path, JSON_LINES):
        return False
    with named_errors(path):
        return next(("messages" in value for _, value in JsonLines(path)), False)


def read_conversations(files: Iterable[Path], notices: list[str] | None = None) -> Iterator[Conversation]:
    """The conversations of JSON lines `files`, in order: objects with `messages`.

    A conversation with wrong roles or parts counts as a broken line. `notices` and errors as in `read_documents`;
    one notice a file names the keys of messages that are ignored.
    """
    for path in files:
        if not file_type(path, JSON_LINES):
            raise UserError(f"{path} cannot hold conversations; give .jsonl, .jsonl.gz or .jsonl.zst")
        with named_errors(path):
            lines = JsonLines(path, one_in=10)
            ignored: Counter[str] = Counter()
            for number, value in lines:
                try:
                    conversation = checked_conversation(value)
                except ValueError as error:
                    lines.broken(number, str(error))
                else:
                    ignored.update(unknown_keys(value))
                    yield conversation
        lines.add_notice(notices)
        if notices is not None and ignored:
            keys = ", ".join(f"`{name}` in {count:,}" for name, count in ignored.most_common(8))
            more = f" and {len(ignored) - 8:,} more" if len(ignored) > 8 else ""
            notices.append(f"{path}: passed over what messages have besides role and content: {keys}{more}")


def checked_conversation(value: dict[str, Any]) -> Conversation:
    """A conversation that something can be learned from. Raises ValueError with the reason."""
    if "messages" not in value:
        raise ValueError(f"it has no `messages` (but {key_names(value)})")
    conversation = parse_conversation(value)
    if not all(is_encodable(part.text) for message in conversation for part in message.parts):
        raise ValueError("it holds half a character (a lone surrogate)")
    if not any(message.role == "assistant" and message.weight for message in conversation):
        raise ValueError("the assistant says nothing in it that is to be learned")
    return conversation
