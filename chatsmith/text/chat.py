"""Conversations, and the one way they become token ids.

A conversation is a tuple of messages; a message is a role and its parts. Only an assistant message has other
parts than text: `python` (an expression for the built-in tool) and `output` (what the tool answered). The
results of a client's own tools are messages of the role `tool`.

The order of roles: at most one system message, and only first; then the user; then user and assistant take
turns, where an assistant message may be followed by one or more tool messages, which the assistant answers.

As ids, every message stands between the marks of its role:

    <|bos|> <|user_start|> What is 6 times 7? <|user_end|>
    <|assistant_start|> <|python_start|> 6*7 <|python_end|> <|output_start|> 42 <|output_end|>
    It is 42. <|assistant_end|>

(without the spaces and line breaks shown here). What a message says is always encoded as ordinary text: a
user who types `<|assistant_end|>` sends those characters, not that token.

Training, chat, serving, evaluation and reinforcement learning all render through this file, from top to
bottom: what a conversation is, its JSON form, its ids and loss mask, and the way back, from ids to text.
`chat_template.jinja` says the same to other programs.
"""

import codecs
import itertools
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from chatsmith.text.tokenizer import Tokenizer

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
    """A part of a message: `text`, `python` (a call of the built-in tool) or its `output`."""

    kind: PartKind
    text: str


@dataclass(frozen=True)
class Message:
    """What one role said in one turn."""

    role: Role
    parts: tuple[Part, ...]
    weight: Literal[0, 1] = 1
    """0 for a message of the assistant that the model reads but is not trained to write."""

    @staticmethod
    def of(role: Role, text: str) -> "Message":
        """A message of plain text."""
        return Message(role, (Part("text", text),))

    @property
    def text(self) -> str:
        """The plain text of the message, without tool calls and their outputs."""
        return "".join(part.text for part in self.parts if part.kind == "text")


Conversation = tuple[Message, ...]


class ConversationError(ValueError):
    """Messages that do not form a conversation. `index` is that of the message at fault."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


def check_conversation(messages: Sequence[Message], *, may_be_empty: bool = False) -> None:
    """Raise ConversationError if roles or parts are out of order, or, unless they `may_be_empty`, a message is empty.

    An empty message is a mistake in training data, but a user in a chat may say nothing.
    """
    if not messages:
        raise ConversationError("the conversation has no messages")
    previous: Role | None = None
    for index, message in enumerate(messages):
        if message.role not in _ROLES_AFTER[previous]:
            raise ConversationError(f"message {index + 1}: {_wrong_order(message.role, previous)}", index)
        try:
            _check_parts(message, may_be_empty)
        except ValueError as error:
            raise ConversationError(f"message {index + 1} ({message.role}) {error}", index) from None
        previous = message.role


def _wrong_order(role: Role, previous: Role | None) -> str:
    if role == "system":
        return "a system message may only be the first"
    if previous is None:
        return f"the first message must be from the system or the user, not from the {role}"
    if role == "tool":
        return f"a tool message must follow an assistant message, not one from the {previous}"
    return f"a message from the {role} cannot follow one from the {previous}"


def _check_parts(message: Message, may_be_empty: bool) -> None:
    previous: PartKind | None = None
    for part in message.parts:
        if part.kind != "text" and message.role != "assistant":
            raise ValueError(f"has a part of the type {part.kind}, which only the assistant may have")
        if part.kind == "output" and previous != "python":
            raise ValueError("has an output that does not follow a python part")
        previous = part.kind
    # A tool may return nothing; any other empty message is a mistake in the data.
    if not may_be_empty and message.role != "tool" and not any(part.text for part in message.parts):
        raise ValueError("is empty")


def parse_conversation(obj: object) -> Conversation:
    """Read `{"messages": [{"role": ..., "content": ...}, ...]}`, where content is a string or a list of parts
    `{"type": "text" | "python" | "output", "text": ...}`, and `"weight": 0` excludes a message from the loss.

    Other keys are ignored: `unknown_keys` names them. The conversation may end with any role, so that prompts can be
    read too. Raises ValueError with the reason.
    """
    if not isinstance(obj, dict) or not isinstance(obj.get("messages"), list):
        raise ValueError('a conversation must be an object with a list "messages"')
    messages = tuple(_parse_message(number, entry) for number, entry in enumerate(obj["messages"], start=1))
    check_conversation(messages)
    return messages


def unknown_keys(obj: dict[str, Any]) -> Iterator[str]:
    """The keys of messages that `parse_conversation(obj)` ignored, once for each message that has them."""
    for entry in obj["messages"]:
        yield from sorted(entry.keys() - _MESSAGE_KEYS)


def conversation_to_json(conversation: Sequence[Message]) -> dict[str, Any]:
    """The inverse of `parse_conversation`: an object of plain strings, lists and dicts."""
    messages: list[dict[str, Any]] = []
    for message in conversation:
        is_text = len(message.parts) == 1 and message.parts[0].kind == "text"
        parts = [{"type": part.kind, "text": part.text} for part in message.parts]
        weight = {} if message.weight else {"weight": 0}
        messages.append({"role": message.role, "content": message.text if is_text else parts, **weight})
    return {"messages": messages}


_ROLES, _KINDS = get_args(Role), get_args(PartKind)
_MESSAGE_KEYS = {"role", "content", "weight"}


def _parse_message(number: int, entry: object) -> Message:
    if not isinstance(entry, dict):
        raise ValueError(f'message {number} must be an object with "role" and "content"')
    role = _one_of(_ROLES, entry.get("role"), f"message {number} has the unknown role")
    content = entry.get("content")
    if not content and entry.get("tool_calls"):
        raise ValueError(
            f'message {number} ({role}) has "tool_calls" and no content; here calls are written into the content, as '
            'text: <tool_call>{"name": ..., "arguments": {...}}</tool_call>'
        )
    weight = entry.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"message {number} ({role}) has the weight {weight!r}; it must be 0 or 1")
    if isinstance(content, str):
        parts = (Part("text", content),)
    elif isinstance(content, list):
        parts = tuple(_parse_part(number, part) for part in content)
    else:
        raise ValueError(f"message {number} ({role}) needs a content: a string or a list of parts")
    return Message(role, parts, 0 if weight == 0 and role == "assistant" else 1)


def _parse_part(number: int, part: object) -> Part:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        raise ValueError(f'message {number}: a part must be an object with "type" and a string "text"')
    kind = _one_of(_KINDS, part.get("type"), f"message {number} has a part of the unknown type")
    return Part(kind, part["text"])


def _one_of(allowed: tuple[Any, ...], value: object, complaint: str) -> Any:
    if value not in allowed:
        raise ValueError(f"{complaint} {value!r}; known are {', '.join(allowed)}")
    return value


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids, and which of them the model is trained to predict."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    """1 where the loss counts: the assistant's text, its python parts with their marks, and `<|assistant_end|>`.
    0 elsewhere, and in messages of weight 0: the model reads these and is not trained to write them."""

    def _add(self, ids: Sequence[int], learned: bool) -> None:
        self.ids.extend(ids)
        self.mask.extend([int(learned)] * len(ids))


def render(conversation: Sequence[Message], tokenizer: Tokenizer, *, may_be_empty: bool = False) -> Rendered:
    """The ids of a conversation, beginning with `<|bos|>`, and their mask, of the same length.

    Raises ConversationError, like `check_conversation`, for a conversation that is not one.
    """
    check_conversation(conversation, may_be_empty=may_be_empty)
    rendered = Rendered()
    rendered._add([tokenizer.bos_id], learned=False)
    for message in conversation:
        learned = message.role == "assistant" and message.weight == 1
        rendered._add([tokenizer.special(f"<|{message.role}_start|>")], learned=False)
        for part in _joined_texts(message.parts):
            rendered._add(_part_ids(part, tokenizer), learned and part.kind != "output")
        rendered._add([tokenizer.special(f"<|{message.role}_end|>")], learned)
    return rendered


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt for the next assistant message: they end with `<|assistant_start|>`.

    Raises ValueError if the messages are not a conversation, or it is not the assistant's turn.
    """
    ids = render(messages, tokenizer).ids
    if messages[-1].role not in ("user", "tool"):
        raise ValueError(
            f"the last message must be from the user or a tool, not from the {messages[-1].role}: "
            "there is nothing for the assistant to answer"
        )
    return [*ids, tokenizer.special("<|assistant_start|>")]


def render_unfinished(
    conversation: Sequence[Message], tokenizer: Tokenizer, *, may_be_empty: bool = False
) -> list[int]:
    """The ids of a conversation whose last message, the assistant's, is to be continued: its turn stays open, and so
    does a call or an output that it ends with, since nobody knows whether that was complete.

    Raises ConversationError, like `check_conversation`, for a conversation that is not one.
    """
    assert conversation[-1].role == "assistant"
    ids = render(conversation, tokenizer, may_be_empty=may_be_empty).ids
    parts = conversation[-1].parts
    ends_in_text = not parts or parts[-1].kind == "text"
    return ids[:-1] if ends_in_text else ids[:-2]


def _joined_texts(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts, with adjacent texts joined: how a text was cut into parts must not change its ids."""
    for kind, group in itertools.groupby(parts, key=lambda part: part.kind):
        if kind == "text":
            yield Part("text", "".join(part.text for part in group))
        else:
            yield from group


def _part_ids(part: Part, tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(part.text)
    if part.kind == "text":
        return ids
    return [tokenizer.special(f"<|{part.kind}_start|>"), *ids, tokenizer.special(f"<|{part.kind}_end|>")]


class StreamDecoder:
    """Ids to text, one id at a time, never half a character.

    A character may be spread over several ids: its bytes are held back until it is complete. Bytes that can no
    longer become a character are given out as U+FFFD. Special tokens give no text, and no character reaches
    across one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def copy(self) -> "StreamDecoder":
        """An independent decoder in the same state."""
        twin = copy(self)
        twin._decoder = copy(self._decoder)
        return twin

    def push(self, id: int) -> str:
        """The text that `id` completes; often empty. Raises ValueError for an id outside the vocabulary."""
        if self._tokenizer.is_special(id):
            return self.flush()
        return self._decoder.decode(self._tokenizer.decode_bytes([id]))

    def flush(self) -> str:
        """What is still held back, as U+FFFD: called at the end. The decoder can be reused afterwards."""
        return self._decoder.decode(b"", final=True)


class ReplyText:
    """The ids of a reply to the parts of a message, one id at a time: never half a character or stop string.

    A model can write anything, so nothing is an error: an unfinished part is kept, an output that no call asked
    for is dropped, and a mark in the wrong position is ignored.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.parts: list[Part] = []
        """All that was given out so far."""
        self.stopped = False
        """True once a stop string appeared: nothing more is given out."""
        self._stop = stop
        self._kind: PartKind = "text"
        self._is_dropped = False  # within an output that no call asked for
        self._resumes_call = False
        self._held = ""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._kind_after: dict[int, PartKind] = {
            tokenizer.special("<|python_start|>"): "python",
            tokenizer.special("<|python_end|>"): "text",
            tokenizer.special("<|output_start|>"): "output",
            tokenizer.special("<|output_end|>"): "text",
        }

    def copy(self) -> "ReplyText":
        """An independent reader in the same state."""
        twin = copy(self)
        twin.parts, twin._decoder = self.parts.copy(), self._decoder.copy()
        return twin

    def resume_call(self, kind: Literal["python", "output"] | None) -> None:
        """The prompt ends within a tool call: the first ids are the rest of the call (python) or of its output
        (output), or the whole output (None)."""
        self._resumes_call = True
        if kind is not None:
            self._kind = kind
            self.parts.append(Part(kind, ""))

    def push(self, id: int, *, may_stop: bool = True) -> list[Part]:
        """The parts that this id completes. With `may_stop` false, stop strings pass through."""
        if self.stopped:
            return []
        if id not in self._kind_after:
            return self._give(self._search(self._decoder.push(id), may_stop))
        given = self.finish(may_stop=may_stop)
        if self.stopped:
            return given
        self._kind = self._kind_after[id]
        follows_call = self.parts[-1].kind == "python" if self.parts else self._resumes_call
        self._is_dropped = self._kind == "output" and not follows_call
        if self._kind != "text" and not self._is_dropped:
            self.parts.append(Part(self._kind, ""))
            given.append(self.parts[-1])
        return given

    def finish(self, *, may_stop: bool = True) -> list[Part]:
        """What was held back, at the end of the reply or of a part of it."""
        if self.stopped:
            return []
        text = self._search(self._decoder.flush(), may_stop) + self._held
        self._held = ""
        return self._give(text)

    def _search(self, text: str, may_stop: bool) -> str:
        """The prefix of held and new text that cannot be part of a stop string; the rest is held."""
        if self._kind != "text" or not self._stop:
            return text
        text = self._held + text
        self._held = ""
        if not may_stop:
            return text
        found = [text.index(stop) for stop in self._stop if stop in text]
        if found:
            self.stopped = True
            return text[: min(found)]
        longest = max(overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]

    def _give(self, text: str) -> list[Part]:
        if not text or self._is_dropped:
            return []
        if self.parts and self.parts[-1].kind == self._kind:
            self.parts[-1] = Part(self._kind, self.parts[-1].text + text)
        else:
            self.parts.append(Part(self._kind, text))
        return [Part(self._kind, text)]


def overlap(text: str, mark: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `mark`."""
    possible = range(min(len(text), len(mark) - 1), 0, -1)
    return next((length for length in possible if text.endswith(mark[:length])), 0)


def chat_template() -> str:
    """The chat format as a Jinja template of `messages` and `add_generation_prompt`, for other programs.

    chatsmith itself never executes it; a test proves that it gives the ids of `render`. It checks roles and parts,
    not their order. One difference from `render` it cannot avoid: it makes one string of the marks and of what people
    wrote, so a program that tokenizes that string reads `<|assistant_end|>` in a user's message as the token. Whoever
    serves strangers should encode messages apart from the marks, as `render` does.
    """
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
