"""Ollama's API, for clients that speak no other: /api/chat, /api/generate, /api/tags, /api/show, /api/version.

A request becomes a chat's, and what the reply adds becomes lines of JSON. Fields and options that would change the
reply are honored or refused by name. Options that say how to load a model (`num_ctx`, `num_gpu`) and `keep_alive`
change nothing here: they are let through and counted, like all unknown fields.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

import chatsmith
from chatsmith.serve import protocol
from chatsmith.serve.completions import ChatReply, encode
from chatsmith.serve.errors import ApiError
from chatsmith.serve.log import RequestRecord
from chatsmith.serve.models import ServedModel
from chatsmith.serve.tools import is_json
from chatsmith.text.chat import chat_template

VERSION = f"0.13.0+chatsmith.{chatsmith.__version__}"
"""Of the API: clients compare it with the oldest Ollama that they can talk to. What follows + says who answers."""

NAMES = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty", "response_format": "format"}
"""What a chat's fields are called here."""

OPTIONS = {NAMES.get(name, name): name for name in (*protocol.SAMPLING_FIELDS, "max_tokens", "stop")}
"""Options that are honored, and the chat's fields that they are."""


class Options(protocol.ClientModel):
    """How to sample."""

    refused = protocol.REFUSED["ollama_options"]

    @property
    def unknown_fields(self) -> list[str]:
        """Options that change nothing."""
        return sorted((self.model_extra or {}).keys() - OPTIONS.keys())


class CalledFunction(protocol.FunctionName):
    """A tool, and what it was called with."""

    arguments: dict[str, Any]


class Call(protocol.ClientModel):
    """A call of a client's tool. It has no id: results follow in the order of the calls, or name the tool."""

    function: CalledFunction


class OllamaMessage(protocol.ClientModel):
    """One message of a conversation."""

    refused = protocol.REFUSED["ollama"]

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True)] | None = None
    tool_name: str | None = None


class OllamaRequest(protocol.ModelRequest):
    """The body of POST /api/chat, with messages, and of POST /api/generate, with a prompt."""

    refused = protocol.REFUSED["ollama"]

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True)] | None = None
    prompt: str | None = None
    system: str | None = None
    tools: protocol.Tools | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    stream: bool | None = None
    """The default is true."""

    def as_chat(self) -> protocol.ChatRequest:
        """The same question to /v1/chat/completions. Raises ApiError (400)."""
        given = (self.options and self.options.model_extra) or {}
        body: dict[str, Any] = {OPTIONS[name]: given[name] for name in OPTIONS.keys() & given.keys()}
        if isinstance(most := body.get("max_tokens"), int) and most < 0:
            body["max_tokens"] = 2**31  # more than any context holds
        if self.format:
            schema = {"type": "json_schema", "json_schema": {"name": "reply", "schema": self.format}}
            body["response_format"] = {"type": "json_object"} if self.format == "json" else schema
        body["messages"] = list(self._messages())
        # As in Ollama, a last message of the assistant is gone on with.
        body["continue_final_message"] = body["messages"][-1:] and body["messages"][-1]["role"] == "assistant"
        body["tools"] = self.tools and [tool.model_dump(exclude_none=True) for tool in self.tools]
        return protocol.checked(protocol.ChatRequest, {**body, "stream": self.stream is not False})

    def _messages(self) -> Iterator[dict[str, Any]]:
        for role, text in (("system", self.system), ("user", self.prompt)):
            if text:
                yield {"role": role, "content": text}
        open: dict[str, str] = {}  # calls without a result: names of tools by ids that are made here
        for number, message in enumerate(self.messages or ()):
            made = message.model_dump(include={"role", "content"})
            if message.role == "tool":
                of_tool = [id for id, name in open.items() if name == message.tool_name]
                made["tool_call_id"] = next(iter([*of_tool, *open]), "")
                open.pop(made["tool_call_id"], None)
            for index, call in enumerate(message.tool_calls or ()):
                id, function = f"call_{number}_{index}", call.function
                called = {"name": function.name, "arguments": json.dumps(function.arguments)}
                made.setdefault("tool_calls", []).append({"id": id, "type": "function", "function": called})
                open[id] = function.name
            yield made


class OllamaReply(ChatReply):
    """A chat's reply as lines of JSON, the last with counts and times; or as one such line. Raises ApiError (400)."""

    media_type = "application/x-ndjson"
    names: ClassVar = {"prompt": "messages", **NAMES}

    def __init__(self, request: OllamaRequest, model: ServedModel, record: RequestRecord) -> None:
        try:
            super().__init__(request.as_chat(), model, record)
        except ApiError as error:
            raise error.rename(NAMES) from None

    def failed(self, error: ApiError) -> bytes:
        """The last line of a stream that cannot go on."""
        return encode(error.body(self.record.path)).encode() + b"\n"

    def _silence(self) -> bytes:
        return self._line("")

    def _event(self, choice: Any) -> bytes:
        return self._line(choice["delta"].get("content", ""))

    def _ending(self) -> bytes:
        return self._line("", calls=self._calls()) + self._line("", **self._counts())

    async def _whole(self) -> bytes:
        return self._line(self._choices[0].content, calls=self._calls(), **self._counts())

    def _line(self, text: str, calls: Any = (), **more: Any) -> bytes:
        message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        said = {"message": message} if self.record.path == "/api/chat" else {"response": text}
        now = datetime.now(UTC).isoformat()
        body = {"model": self._fields["model"], "created_at": now, **said, "done": False, **more}
        return encode(body).encode() + b"\n"

    def _calls(self) -> list[dict[str, Any]]:
        functions = [one["function"] for one in self._choices[0].to_json()["message"].get("tool_calls", ())]
        # The length of the reply may have cut the last.
        whole = [one for one in functions if is_json(one["arguments"])]
        return [{"function": {**one, "arguments": json.loads(one["arguments"])}} for one in whole]

    def _counts(self) -> dict[str, Any]:
        reason = "length" if self._choices[0].to_json()["finish_reason"] == "length" else "stop"
        first, now = self.record.ttft or 0, time.monotonic() - self.record.arrived
        seconds = {"total": now, "load": 0, "prompt_eval": first, "eval": now - first}
        times = {f"{name}_duration": int(1e9 * spent) for name, spent in seconds.items()}
        counts = {"prompt_eval_count": self._prompt_tokens, "eval_count": self._completion_tokens}
        return {"done": True, "done_reason": reason, **counts, **times, **self._beside}


def answer(name: str) -> dict[int | str, dict[str, Any]]:
    """What /openapi.json says of an endpoint: as of others, with lines for events, and Ollama's errors."""
    found, errors = protocol.answer(name), protocol.answer("OllamaError")[200]["content"]
    if name in ("OllamaChat", "OllamaText"):
        found[200]["content"][OllamaReply.media_type] = {"schema": {"description": "Lines of JSON."}}
    return {**found, "default": {**protocol.ERRORS["default"], "content": errors}}


def describe(model: ServedModel) -> dict[str, Any]:
    """A model as /api/tags and /api/show tell of it. Raises ApiError (503) while it is being loaded."""
    info = model.loaded.info
    at = datetime.fromtimestamp(model.created, UTC).isoformat()
    size = (Path(info.path) / "model.safetensors").stat().st_size
    about = {"name": model.name, "model": model.name, "modified_at": at, "size": size}
    details = {"family": "chatsmith", "parameter_size": f"{info.num_parameters / 1e6:.1f}M"}
    numbers = {"general.architecture": "chatsmith", "chatsmith.context_length": info.context_length}
    can = {"template": chat_template(), "capabilities": ["completion", "tools"]}
    return {**about, "digest": info.fingerprint, "details": details, "model_info": numbers, **can}
