"""Conversations, and the one way they become token ids.

A conversation is a tuple of messages; a message is a role and its parts. Only an assistant message has other
parts than text: `python` (an expression handed to the built-in tool) and `output` (what the tool answered).
The results of a client's own tools are messages of the role `tool`.

The order of roles: one system message at most, and only first; then the user; then user and assistant take
turns, where an assistant message may be followed by one or more tool messages, which the assistant answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
PartKind = Literal["text", "python", "output"]

# What may stand after each role; None is the beginning of the conversation.
_ROLES_AFTER: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


@dataclass(frozen=True)
class Part:
    """A stretch of a message: `text`, `python` (a call of the built-in tool) or its `output`."""

    kind: PartKind
    text: str


@dataclass(frozen=True)
class Message:
    """What one role said in one turn."""

    role: Role
    parts: tuple[Part, ...]

    @staticmethod
    def of(role: Role, text: str) -> "Message":
        """A message of plain text."""
        return Message(role, (Part("text", text),))

    @property
    def text(self) -> str:
        """The plain text of the message, without tool calls and their outputs."""
        return "".join(part.text for part in self.parts if part.kind == "text")


Conversation = tuple[Message, ...]


def check_conversation(messages: Sequence[Message]) -> None:
    """Raise ValueError, in plain words, if roles or parts stand where they may not, or a message is empty."""
    if not messages:
        raise ValueError("the conversation has no messages")
    previous: Role | None = None
    for number, message in enumerate(messages, start=1):
        if message.role not in _ROLES_AFTER[previous]:
            raise ValueError(f"message {number}: {_wrong_order(message.role, previous)}")
        try:
            _check_parts(message)
        except ValueError as error:
            raise ValueError(f"message {number} ({message.role}) {error}") from None
        previous = message.role


def parse_conversation(obj: object) -> Conversation:
    """Read `{"messages": [{"role": ..., "content": ...}, ...]}`, where content is a string or a list of parts
    `{"type": "text" | "python" | "output", "text": ...}`.

    Other keys are ignored. The conversation may end with any role, so prompts can be read too. Raises
    ValueError with a plain reason.
    """
    if not isinstance(obj, dict) or not isinstance(obj.get("messages"), list):
        raise ValueError('a conversation must be an object with a list "messages"')
    messages = tuple(_parse_message(number, entry) for number, entry in enumerate(obj["messages"], start=1))
    check_conversation(messages)
    return messages


def conversation_to_json(conversation: Sequence[Message]) -> dict[str, Any]:
    """The opposite of `parse_conversation`: an object of plain strings, lists and dicts."""
    return {"messages": [{"role": m.role, "content": _content_to_json(m.parts)} for m in conversation]}


def _content_to_json(parts: tuple[Part, ...]) -> str | list[dict[str, str]]:
    if len(parts) == 1 and parts[0].kind == "text":
        return parts[0].text
    return [{"type": part.kind, "text": part.text} for part in parts]


def _parse_message(number: int, entry: object) -> Message:
    if not isinstance(entry, dict):
        raise ValueError(f'message {number} must be an object with "role" and "content"')
    role = _one_of(get_args(Role), entry.get("role"), f"message {number} has the unknown role")
    content = entry.get("content")
    if isinstance(content, str):
        return Message.of(role, content)
    if not isinstance(content, list):
        raise ValueError(f"message {number} ({role}) needs a content: a string or a list of parts")
    return Message(role, tuple(_parse_part(number, part) for part in content))


def _parse_part(number: int, part: object) -> Part:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        raise ValueError(f'message {number}: a part must be an object with "type" and a string "text"')
    kind = _one_of(get_args(PartKind), part.get("type"), f"message {number} has a part of the unknown type")
    return Part(kind, part["text"])


def _one_of(allowed: tuple[Any, ...], value: object, complaint: str) -> Any:
    if value not in allowed:
        raise ValueError(f"{complaint} {value!r}; known are {', '.join(allowed)}")
    return value


def _wrong_order(role: Role, previous: Role | None) -> str:
    if role == "system":
        return "a system message may only be the first"
    if previous is None:
        return f"the first message must be from the system or the user, not from the {role}"
    if role == "tool":
        return f"a tool message must follow an assistant message, not one from the {previous}"
    return f"a message from the {role} cannot follow one from the {previous}"


def _check_parts(message: Message) -> None:
    previous: PartKind | None = None
    for part in message.parts:
        if part.kind != "text" and message.role != "assistant":
            raise ValueError(f"has a part of the type {part.kind}, which only the assistant may have")
        if part.kind == "output" and previous != "python":
            raise ValueError("has an output that does not follow a python part")
        previous = part.kind
    # A tool may have nothing to say; anyone else who says nothing is a mistake in the data.
    if message.role != "tool" and not any(part.text for part in message.parts):
        raise ValueError("is empty")
