"""POST /v1/responses: OpenAI's newer form of the same thing, which its clients and agent frameworks ask for by default.

A request becomes a chat's, and the chat's reply becomes items: a message, or calls of the client's tools. Nothing is
stored here, so a client sends the whole conversation each time, as it does to /v1/chat/completions; what would need
storing is refused by name.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import Field

from chatsmith.serve import protocol
from chatsmith.serve.completions import ChatReply, encode
from chatsmith.serve.errors import ApiError, invalid, unsupported
from chatsmith.serve.ipc import Output
from chatsmith.serve.log import RequestRecord
from chatsmith.serve.models import ServedModel


class InputItem(protocol.ClientModel):
    """A message, a call of a tool that an earlier reply made, or what the tool answered."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[dict[str, Any]] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[dict[str, Any]] | None = None


class OfFunction(protocol.ClientModel):
    """What comes first in everything about a client's tool."""

    type: Literal["function"]


class FunctionTool(protocol.Function, OfFunction):
    """A client's tool."""


class ToolToCall(protocol.FunctionName, OfFunction):
    """This tool must be called."""


class TextFormat(protocol.JSONSchemaFormat):
    """The format of the reply."""

    type: Literal["text", "json_object", "json_schema"]
    name: protocol.ToolName | None = None  # type: ignore[assignment]


class TextOptions(protocol.ClientModel):
    """About the text of the reply."""

    refused = protocol.REFUSED["responses_text"]

    format: TextFormat | None = None


AS_IN_CHAT = (
    *protocol.ReplyRequest.model_fields,
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
)
"""Fields that mean what they mean in a chat."""


class ResponsesRequest(protocol.ReplyRequest):
    """The body of POST /v1/responses."""

    refused = protocol.REFUSED["responses"]

    input: (
        str
        | Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=protocol.MAX_MESSAGES)]
    )
    instructions: str | None = None
    """A system message before the input."""
    max_output_tokens: protocol.Positive | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=protocol.MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolToCall | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    include: list[str] | None = None
    prompt_cache_key: protocol.ShortText | None = None
    safety_identifier: protocol.ShortText | None = None

    @classmethod
    def _is_harmless(cls, name: str, value: Any, obj: Mapping[str, Any]) -> bool:
        if name == "reasoning":
            return isinstance(value, dict) and value.get("effort") in (None, "none")
        return super()._is_harmless(name, value, obj)

    def as_chat(self) -> protocol.ChatRequest:
        """The same question to /v1/chat/completions. Raises ApiError (400) with this request's names."""
        if self.include:
            raise unsupported("include", "a response has nothing beyond its output")
        body: dict[str, Any] = {
            "messages": [*self._instructions(), *self._messages()],
            "max_completion_tokens": self.max_output_tokens,
            "response_format": self._format(),
            **{name: getattr(self, name) for name in AS_IN_CHAT},
        }
        if self.tools:
            functions = [tool.model_dump(exclude={"type"}, exclude_none=True) for tool in self.tools]
            body["tools"] = [{"type": "function", "function": function} for function in functions]
        choice = self.tool_choice
        if isinstance(choice, ToolToCall):
            body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif self.tools or choice != "auto":
            body["tool_choice"] = choice
        try:
            return protocol.checked(protocol.ChatRequest, body)
        except ApiError as error:
            raise self.renamed(error) from None

    def renamed(self, error: ApiError) -> ApiError:
        """An error about the chat that was made of this, in this request's words."""
        path = (error.param or "").split(".")
        if path[0] == "messages":
            added = len(list(self._instructions()))
            place = [str(int(one) - added) if one.isdigit() else one for one in path[1:2]]
            path = ["input", *place] if not isinstance(self.input, str) else ["input"]
        names = {"response_format": "text.format", "max_completion_tokens": "max_output_tokens"}
        if error.param:
            error.param = ".".join([names.get(path[0], path[0]), *path[1:]])
        return error

    def _instructions(self) -> Iterator[dict[str, Any]]:
        if self.instructions is not None:
            yield {"role": "system", "content": self.instructions}

    def _messages(self) -> Iterator[dict[str, Any]]:
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        for number, item in enumerate(self.input):
            place = f"input.{number}"
            if item.type == "function_call":
                function = {"name": _needed(item.name, f"{place}.name")}
                function["arguments"] = _needed(item.arguments, f"{place}.arguments")
                call = {
                    "id": _needed(item.call_id, f"{place}.call_id"),
                    "type": "function",
                    "function": function,
                }
                yield {"role": "assistant", "content": None, "tool_calls": [call]}
            elif item.type == "function_call_output":
                output = _texts(_needed(item.output, f"{place}.output"), f"{place}.output")
                yield {"role": "tool", "tool_call_id": item.call_id, "content": output}
            else:
                content = _texts(_needed(item.content, f"{place}.content"), f"{place}.content")
                yield {"role": _needed(item.role, f"{place}.role"), "content": content}

    def _format(self) -> dict[str, Any] | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type != "json_schema":
            return None if wanted is None else {"type": wanted.type}
        if wanted.schema_ is None:
            raise invalid("a format of the type json_schema needs a schema", "text.format.schema")
        schema = {"name": wanted.name or "reply", "schema": wanted.schema_}
        return {"type": "json_schema", "json_schema": schema}


def _needed(value: Any, place: str) -> Any:
    if value is None:
        raise invalid(f"{place} is missing", place)
    return value


def _texts(content: str | list[dict[str, Any]], place: str) -> str:
    """The text of a content; images and files cannot be read."""
    if isinstance(content, str):
        return content
    for part in content:
        if part.get("type") not in ("input_text", "output_text", "text", "refusal"):
            raise unsupported(place, f"only text can be read here, not {part.get('type')!r}")
    return "".join(str(part.get("text", part.get("refusal", ""))) for part in content)


ECHOED: dict[str, Any] = {
    **dict.fromkeys(("model", "instructions", "max_output_tokens", "temperature", "top_p", "user")),
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "truncation": "disabled",
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "metadata": {},
}
"""Fields of a request that the response repeats, and what it says where they were left out."""


class ResponsesReply(ChatReply):
    """A chat's reply as a response: one object, or a stream of named events. Raises ApiError (400)."""

    names: ClassVar = {"prompt": "input", "response_format": "text.format"}

    def __init__(self, request: ResponsesRequest, model: ServedModel, record: RequestRecord) -> None:
        self._output: list[dict[str, Any]] = []
        self._number = 0
        self._finish_reason: str | None = None
        try:
            super().__init__(request.as_chat(), model, record)
        except ApiError as error:
            raise request.renamed(error) from None
        declared = ECHOED.keys() & ResponsesRequest.model_fields
        given = request.model_dump(include=declared, exclude_none=True, by_alias=True)
        self._fields: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "previous_response_id": None,
            "error": None,
            **ECHOED,
            "temperature": model.loaded.defaults.temperature,
            "top_p": model.loaded.defaults.top_p,
            **given,
            "model": model.name,
            **self._beside,
        }

    def _opening(self) -> list[Any]:
        opened = {"response": self._response()}
        return [("response.created", opened), ("response.in_progress", opened)]

    async def _chunks(self, output: Output) -> list[Any]:
        """What an output adds to the items, as events."""
        events: list[tuple[str, dict[str, Any]]] = []
        for chunk in await super()._chunks(output):
            events += self._add(chunk["delta"])
            self._finish_reason = chunk["finish_reason"] or self._finish_reason
        if self._finish_reason is not None:
            events += self._close()
        return events

    def _event(self, choice: tuple[str, dict[str, Any]]) -> bytes:
        kind, fields = choice
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\ndata: {encode(body)}\n\n".encode()

    def _ending(self) -> bytes:
        kind = "response.completed" if self._status == "completed" else "response.incomplete"
        return self._event((kind, {"response": self._response()}))

    async def _whole(self) -> bytes:
        return msgspec.json.encode(self._response())

    def _add(self, delta: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if text := delta.get("content"):
            if not self._output or self._output[-1]["type"] != "message":
                yield from self._open({"type": "message", "role": "assistant", "content": []}, "msg")
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                self._output[-1]["content"].append(part)
                yield "response.content_part.added", {**self._place(0), "part": dict(part)}
            self._output[-1]["content"][0]["text"] += text
            yield "response.output_text.delta", {**self._place(0), "delta": text, "logprobs": []}
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                item = {
                    "type": "function_call",
                    "call_id": call["id"],
                    "name": function["name"],
                    "arguments": "",
                }
                yield from self._open(item, "fc")
            if piece := function.get("arguments"):
                self._output[-1]["arguments"] += piece
                yield "response.function_call_arguments.delta", {**self._place(), "delta": piece}

    def _open(self, item: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self._close()
        self._output.append({"id": f"{prefix}_{uuid.uuid4().hex}", "status": "in_progress", **item})
        shown = {**self._output[-1], **({"content": []} if prefix == "msg" else {})}
        yield "response.output_item.added", {"output_index": len(self._output) - 1, "item": shown}

    def _close(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._output or self._output[-1]["status"] != "in_progress":
            return
        item = self._output[-1]
        item["status"] = "incomplete" if self._finish_reason == "length" else "completed"
        if item["type"] == "message":
            part = item["content"][0]
            yield "response.output_text.done", {**self._place(0), "text": part["text"], "logprobs": []}
            yield "response.content_part.done", {**self._place(0), "part": part}
        else:
            done = {**self._place(), "name": item["name"], "arguments": item["arguments"]}
            yield "response.function_call_arguments.done", done
        yield "response.output_item.done", {"output_index": len(self._output) - 1, "item": item}

    def _place(self, content_index: int | None = None) -> dict[str, Any]:
        index = len(self._output) - 1
        place = {"item_id": self._output[index]["id"], "output_index": index}
        return place if content_index is None else {**place, "content_index": content_index}

    @property
    def _status(self) -> str:
        if self._finish_reason is None:
            return "in_progress"
        return "incomplete" if self._finish_reason == "length" else "completed"

    def _response(self) -> dict[str, Any]:
        usage = None
        if self._finish_reason is not None:
            counted = self.usage()
            usage = {
                "input_tokens": counted["prompt_tokens"],
                "input_tokens_details": {**counted["prompt_tokens_details"], "cache_write_tokens": 0},
                "output_tokens": counted["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counted["total_tokens"],
            }
        reason = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            **self._fields,
            "status": self._status,
            "incomplete_details": reason,
            "output": list(self._output),
            "usage": usage,
        }
