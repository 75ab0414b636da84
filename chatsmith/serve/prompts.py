"""From the messages of a request to the prompt's ids, through the one renderer of `chatsmith.text.chat`; and what
/tokenize, /detokenize and /tokenizer_info show of it.

The chat format is stricter than the API: one system message and only first, then user and assistant in turns. So
leading system (and developer) messages become one, as do adjacent messages of the user or of the assistant, with an
empty line between them; anything else out of order is refused, by the number the message has in the request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from chatsmith.ingest.tool_calls import calls_text, describe_tools
from chatsmith.serve import protocol
from chatsmith.serve.errors import invalid, known, unsupported
from chatsmith.serve.models import LoadedModel, Passages
from chatsmith.text.chat import (
    ConversationError,
    Message,
    Part,
    Role,
    chat_template,
    render,
    render_unfinished,
)
from chatsmith.text.tokenizer import Tokenizer

MAX_TOKENS = 262_144
"""An answer of /tokenize has an entry a token, in several lists; a longer one would keep other requests waiting."""

UNREADABLE_PARTS = ("image_url", "input_audio", "file")
"""Parts of messages that OpenAI knows."""

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class _Turn:
    """Messages of the request that became one, and the index of the first among them."""

    message: Message
    index: int


def chat_prompt(request: protocol.ChatRequest, tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """The ids of a chat's prompt. Raises ApiError (400) that names the message at fault."""
    prefix = request.assistant_prefix_ids or []
    _check_ids(prefix, vocab_size, "assistant_prefix_ids")
    ids = conversation_ids(
        request.messages, tokenizer, request.tools, continues=bool(request.continue_final_message)
    )
    return [*ids, *prefix]


def with_passages(
    request: protocol.ChatRequest, passages: Passages, tokenizer: Tokenizer, room: int
) -> tuple[protocol.ChatRequest, list[dict[str, str]]]:
    """The request with passages before the question that it ends with, within `room` tokens; and these."""
    continues = bool(request.continue_final_message)
    at = len(request.messages) - 1 - continues
    question = request.messages[at]
    if at < 0 or question.role != "user":
        return request, []

    def asked(text: str) -> list[protocol.ChatMessage]:
        told = question.model_copy(update={"content": text})
        return [*request.messages[:at], told, *request.messages[at + 1 :]]

    def fits(text: str) -> bool:
        return len(conversation_ids(asked(text), tokenizer, request.tools, continues=continues)) <= room

    text, used = passages.put_before(_text(question, f"messages.{at}"), fits)
    sources = [{"name": one.name, "text": one.text} for one in used]
    return request.model_copy(update={"messages": asked(text)}), sources


def conversation_ids(
    messages: Sequence[protocol.ChatMessage],
    tokenizer: Tokenizer,
    tools: Sequence[protocol.Tool] | None = None,
    *,
    continues: bool = False,
    awaits_reply: bool = True,
) -> list[int]:
    """The ids of a conversation, up to where the assistant speaks.

    With `continues`, the last message is the assistant's and its turn stays open. Without `awaits_reply`, the
    conversation is rendered as it is, whoever has the last word.
    """
    turns = _turns(messages, tools)
    last = turns[-1].message.role
    if continues and last != "assistant":
        raise invalid(
            "continue_final_message needs a last message of the assistant", "continue_final_message"
        )
    if awaits_reply and not continues and last not in ("user", "tool"):
        raise invalid(
            f"the last message is from the {last}, so there is nothing to answer; continue_final_message: true would "
            "continue a message of the assistant",
            f"messages.{len(messages) - 1}",
        )
    try:
        spoken = [turn.message for turn in turns]
        if continues:
            return render_unfinished(spoken, tokenizer, may_be_empty=True)
        ids = render(spoken, tokenizer, may_be_empty=True).ids
    except ConversationError as error:
        if tools:
            # Their description is no message of the client's, so the error without it is the one to report.
            conversation_ids(messages, tokenizer, continues=continues, awaits_reply=awaits_reply)
        place = turns[error.index].index
        raise invalid(f"messages.{place}: {_without_number(str(error))}", f"messages.{place}") from error
    return [*ids, tokenizer.special("<|assistant_start|>")] if awaits_reply else ids


def message_ranges(ids: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Where each message stands in a rendered conversation. What people write can never spell the special tokens."""
    roles = ("system", "user", "assistant", "tool")
    starts = {tokenizer.special(f"<|{role}_start|>"): role for role in roles}
    ends = {tokenizer.special(f"<|{role}_end|>") for role in roles}
    ranges: list[dict[str, Any]] = []
    for index, id in enumerate(ids):
        if id in starts:
            ranges.append({"role": starts[id], "start": index, "end": len(ids)})
        elif ranges and id in ends:
            ranges[-1]["end"] = index + 1
    return ranges


def text_prompts(
    request: protocol.CompletionRequest, tokenizer: Tokenizer, vocab_size: int
) -> list[list[int]]:
    """The ids of each prompt of a text completion. Raises ApiError (400)."""
    prompts: list[list[int]] = []
    bos = [tokenizer.bos_id] if request.add_special_tokens is not False else []
    for prompt in request.prompts:
        if isinstance(prompt, str):
            prompts.append([*bos, *tokenizer.encode(prompt)])
        else:
            _check_ids(prompt, vocab_size, "prompt")
            prompts.append(prompt)
    return prompts


def check_fits(prompt: Sequence[int], context: int, param: str, *, only_scored: bool = False) -> None:
    """Raise ApiError (400) unless a reply fits into the context after the prompt."""
    # The last id of a prompt that is only scored needs no place of its own.
    if len(prompt) > (context + 1 if only_scored else context - 1):
        raise known("context_length_exceeded", param=param, context=context, prompt=len(prompt))


def _check_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    wrong = next((id for id in ids if not 0 <= id < vocab_size), None)
    if wrong is not None:
        raise invalid(f"{param}: {wrong} is no token id (0 to {vocab_size - 1})", param)


def _turns(messages: Sequence[protocol.ChatMessage], tools: Sequence[protocol.Tool] | None) -> list[_Turn]:
    turns: list[_Turn] = []
    for index in _in_order_of_calls(messages):
        message = messages[index]
        role = cast(Role, "system" if message.role == "developer" else message.role)
        made = Message(role, _parts(message, f"messages.{index}"))
        previous = turns[-1] if turns else None
        # A message of the assistant with calls stays alone: tool messages answer exactly its calls.
        if previous and previous.message.role == role and role != "tool":
            joined = (*previous.message.parts, Part("text", SEPARATOR), *made.parts)
            turns[-1] = _Turn(Message(role, joined), previous.index)
        else:
            if role == "system" and turns:
                raise unsupported(f"messages.{index}", "a system message may only come first")
            turns.append(_Turn(made, index))
    return (
        _with_tools(turns, describe_tools(tool.function.model_dump() for tool in tools)) if tools else turns
    )


def _with_tools(turns: list[_Turn], description: str) -> list[_Turn]:
    first = turns[0]
    if first.message.role == "system":
        parts = (*first.message.parts, Part("text", SEPARATOR + description))
        return [_Turn(Message("system", parts), first.index), *turns[1:]]
    return [_Turn(Message.of("system", description), 0), *turns]


def _parts(message: protocol.ChatMessage, place: str) -> tuple[Part, ...]:
    if message.role != "assistant":
        for name in ("tool_calls", "chatsmith"):
            if getattr(message, name) is not None:
                raise invalid(
                    f"{place}.{name} is only allowed in messages of the assistant", f"{place}.{name}"
                )
    if message.chatsmith is not None:
        return tuple(Part(part.kind, part.text) for part in message.chatsmith.parts)
    text = _text(message, place)
    if message.tool_calls:
        calls = calls_text((call.function.name, call.function.arguments) for call in message.tool_calls)
        return (Part("text", text + calls),)
    return (Part("text", text),)


def _text(message: protocol.ChatMessage, place: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.tool_calls or (message.role == "assistant" and message.refusal):
            return message.refusal or ""
        raise invalid(f"{place}.content must be a text or a list of parts, not null", f"{place}.content")
    texts: list[str] = []
    for index, part in enumerate(content):
        where = f"{place}.content.{index}"
        if part.type in UNREADABLE_PARTS:
            raise unsupported(where, f"{part.type} cannot be read; send text")
        if part.type not in ("text", "refusal"):
            raise unsupported(f"{where}.type", f"{part.type[:40]!r} cannot be read; send text")
        text = part.text if part.type == "text" else part.refusal
        if text is None:
            raise invalid(f"{where} needs a {part.type}", f"{where}.{part.type}")
        texts.append(text)
    return "".join(texts)


def _in_order_of_calls(messages: Sequence[protocol.ChatMessage]) -> list[int]:
    """The indices of the messages, results in the order of their calls: nothing else tells which is which.

    Raises ApiError (400) unless every call of a tool has one result, right after it, and every result a call.
    """
    order: list[int] = []
    results: dict[str, int | None] = {}
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        if message.role == "tool":
            if message.tool_call_id is None:
                raise invalid(f"{place} needs a tool_call_id", f"{place}.tool_call_id")
            if results.get(message.tool_call_id, index) is not None:  # no such call, or it has its result
                reason = "answers no call of the assistant message before it"
                raise invalid(f"{place}.tool_call_id {reason}", f"{place}.tool_call_id")
            results[message.tool_call_id] = index
            continue
        order += [*_all_there(results, f"{place}: ", place), index]
        calls = message.tool_calls or []
        results = {call.id: None for call in calls}
        if len(results) < len(calls):
            raise invalid(f"{place}.tool_calls has an id twice", f"{place}.tool_calls")
    return [*order, *_all_there(results, "", f"messages.{len(messages) - 1}")]


def _all_there(results: Mapping[str, int | None], prefix: str, param: str) -> list[int]:
    missing = [id for id, index in results.items() if index is None]
    if missing:
        raise invalid(f"{prefix}the call {min(missing)!r} has no result; a tool message must follow", param)
    return [index for index in results.values() if index is not None]


def _without_number(text: str) -> str:
    """The renderer counts messages from 1 and after joining; the request's own number stands before it already."""
    _, _, reason = text.partition(" ")[2].partition(" ")
    return reason or text


# ---- what the prompt looks like ----


def tokenize(request: protocol.TokenizeRequest, model: LoadedModel) -> dict[str, Any]:
    """The ids of a text or a conversation, and how to show them. Raises ApiError (400).

    Here alone the names of special tokens are read as those tokens, since evaluation harnesses need it; everywhere else
    what a client sends is ordinary text.
    """
    tokenizer = model.tokenizer
    if request.messages is not None:
        ids = conversation_ids(
            request.messages,
            tokenizer,
            request.tools,
            continues=bool(request.continue_final_message),
            awaits_reply=request.add_generation_prompt is not False,
        )
    else:
        bos = [tokenizer.bos_id] if request.add_special_tokens else []
        ids = [*bos, *tokenizer.encode_with_special(request.prompt or "")]
    if len(ids) > MAX_TOKENS:
        param = "prompt" if request.messages is None else "messages"
        raise invalid(f"this has {len(ids)} tokens; {MAX_TOKENS} at most can be shown", param)
    return {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": model.info.context_length,
        "token_strs": [tokenizer.decode([id]) for id in ids],
        "special": [tokenizer.is_special(id) for id in ids],
        "messages": [] if request.messages is None else message_ranges(ids, tokenizer),
    }


def detokenize(request: protocol.DetokenizeRequest, model: LoadedModel) -> dict[str, Any]:
    """The text of ids. Raises ApiError (400)."""
    try:
        return {"prompt": model.tokenizer.decode(request.tokens)}
    except ValueError as error:
        raise invalid(f"tokens: {error}", "tokens") from error


def tokenizer_info(model: LoadedModel) -> dict[str, Any]:
    """What other programs need to know of the tokenizer. A reply ends with the end token."""
    return {
        "tokenizer_class": "chatsmith",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": None,
        "chat_template": chat_template(),
        "vocab_size": model.info.vocab_size,
        "model_max_length": model.info.context_length,
    }
