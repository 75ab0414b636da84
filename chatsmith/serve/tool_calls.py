"""A client's own tools: how the model is told of them, how it calls one, and how its calls are read.

Tools are described at the end of the system message, a JSON object a line. A call is written as

    <tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>

one a line, in the ordinary text of an assistant message (the way of Hermes and Qwen, so that data in that form teaches
it). Constrained decoding sees to it that a call is always whole and obeys the tool's schema. The results are messages
of the role tool, in the order of the calls.

It runs no tools: that is the client's part. The calculator, which the server itself runs, is another thing.
"""

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatsmith.engine.request import Constraint
from chatsmith.serve.errors import invalid
from chatsmith.serve.requests import ResponseFormat, Tool, ToolChoice
from chatsmith.text.chat import overlap

MAX_SCHEMA_OBJECTS = 2000
"""In all schemas of a request. The grammar library takes time with the square of the properties of an object, in which
the engine does nothing else: 0.4 seconds for 2,000 of them, 3 for 5,000 (measured; llguidance 1.9)."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
NEXT = "\n" + OPEN

# As the engine lays out constrained JSON.
JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def describe_tools(tools: Sequence[Tool]) -> str:
    """What the system message says about the tools."""
    lines = ["You can call these tools:"]
    for tool in tools:
        function = tool.function
        shown = {
            "name": function.name,
            "description": function.description,
            "parameters": function.parameters,
        }
        lines.append(
            json.dumps({key: value for key, value in shown.items() if value is not None}, ensure_ascii=False)
        )
    lines.append(f'To call one, write {OPEN}{{"name": ..., "arguments": {{...}}}}{CLOSE}')
    return "\n".join(lines)


def calls_text(calls: Iterable[tuple[str, str]]) -> str:
    """Calls (name, arguments as JSON) as the model writes them."""
    return "\n".join(
        f'{OPEN}{{"name": {json.dumps(name)}, "arguments": {arguments}}}{CLOSE}' for name, arguments in calls
    )


def reply_constraint(
    format: ResponseFormat | None,
    tools: Sequence[Tool] | None,
    choice: str | ToolChoice | None,
    parallel: bool | None,
) -> Constraint | None:
    """The form of the reply that response_format and tools ask for, together."""
    schema = _format_schema(format)
    _check_size([schema], "response_format")
    if not tools or choice == "none":
        return None if schema is None else Constraint.json_schema(schema)
    if isinstance(choice, ToolChoice):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
    _check_size([tool.function.parameters for tool in tools], "tools")
    return Constraint.lark(
        _grammar(tools, schema, must_call=choice not in (None, "auto"), many=parallel is not False)
    )


def _check_size(schemas: Iterable[Any], param: str) -> None:
    left: list[Any] = list(schemas)
    count = 0
    while left:
        one = left.pop()
        if isinstance(one, dict):
            count += 1
            left += one.values()
        elif isinstance(one, list):
            left += one
        if count > MAX_SCHEMA_OBJECTS:
            raise invalid(
                f"{param}: the schemas hold more than {MAX_SCHEMA_OBJECTS} objects, one within another; ask for less",
                param,
            )


def _format_schema(format: ResponseFormat | None) -> dict[str, Any] | None:
    if format is None or format.type == "text":
        return None
    if format.type == "json_object" or format.json_schema is None:
        return {"type": "object"}
    return format.json_schema.schema_


def _grammar(tools: Sequence[Tool], schema: dict[str, Any] | None, *, must_call: bool, many: bool) -> str:
    """The reply in llguidance's dialect of Lark: text or JSON, calls, or both."""
    more = f"({json.dumps(NEXT)} call)*" if many else ""
    lines = [f"calls: call {more}"]
    if must_call:
        lines.append(f"start: {json.dumps(OPEN)} calls")
    elif schema is None:
        # The lexer never goes back, so text that a call ends is a lexeme of its own, which ends where the call begins.
        lines.append("start: TEXT | before calls")
        lines.append(rf"TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/")
        lines.append(f"before[lazy]: /(?s:.*){OPEN}/")
    else:
        lines.append(f"start: json | {json.dumps(OPEN)} calls")
        lines.append(f"json: %json {_laid_out(schema)}")
    names = [f"call_{index}" for index in range(len(tools))]
    lines.append("call: " + " | ".join(names))
    for name, tool in zip(names, tools, strict=True):
        beginning = f'{{"name": {json.dumps(tool.function.name)}, "arguments": '
        arguments = tool.function.parameters or {"type": "object"}
        lines.append(
            f"{name}: {json.dumps(beginning)} %json {_laid_out(arguments)} {json.dumps('}' + CLOSE)}"
        )
    return "\n".join(lines)


def _laid_out(schema: dict[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": JSON_LAYOUT})


@dataclass
class ReadCall:
    """A call that the model has begun to write."""

    index: int
    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def to_json(self) -> dict[str, Any]:
        """The entry of `message.tool_calls`."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class CallReader:
    """Takes calls out of a reply's text, piece by piece, as it is written.

    Outside calls, what may be the beginning of one is held back. A reply may be cut off anywhere. Where a call is
    `required`, the beginning of one is never text.
    """

    _BEGINNING = re.compile(r'\{"name": ("[^"]*"), "arguments": ')

    def __init__(self, required: bool = False) -> None:
        self.calls: list[ReadCall] = []
        self._required = required
        self._text = ""
        self._in_call = False
        self._arguments: _JSONEnd | None = None

    def push(self, text: str) -> list[dict[str, Any]]:
        """The deltas that this piece of text makes certain: `content` or `tool_calls`."""
        self._text += text
        deltas: list[dict[str, Any]] = []
        while (delta := self._next()) is not None:
            if delta:
                deltas.append(delta)
        return deltas

    def finish(self) -> list[dict[str, Any]]:
        """What was held back: the reply is over."""
        rest, self._text = self._text, ""
        is_content = not (self._required or self._in_call) and (not self.calls or rest.strip())
        return [{"content": rest}] if rest and is_content else []

    def _next(self) -> dict[str, Any] | None:
        """One more delta, perhaps an empty one; None once nothing more is certain."""
        if not self._in_call:
            return self._before_call()
        if self._arguments is None:
            return self._beginning()
        return self._more_arguments(self._arguments)

    def _before_call(self) -> dict[str, Any] | None:
        before, found, after = self._text.partition(OPEN)
        if found:
            self._in_call, self._text = True, after
        else:
            held = overlap(self._text, OPEN)
            before, self._text = self._text[: len(self._text) - held], self._text[len(self._text) - held :]
            if not before:
                return None
        if self.calls and not before.strip():
            return {}  # the line break between two calls
        return {"content": before} if before else {}

    def _beginning(self) -> dict[str, Any] | None:
        found = self._BEGINNING.match(self._text)
        if found is None:
            return None
        self._text = self._text[found.end() :]
        self._arguments = _JSONEnd()
        self.calls.append(ReadCall(len(self.calls), json.loads(found[1])))
        return {"tool_calls": [{"index": self.calls[-1].index, **self.calls[-1].to_json()}]}

    def _more_arguments(self, end: "_JSONEnd") -> dict[str, Any] | None:
        length = end.find(self._text)
        piece, self._text = self._text[:length], self._text[length:]
        call = self.calls[-1]
        if end.is_over and self._text.startswith("}" + CLOSE):
            self._text = self._text.removeprefix("}" + CLOSE)
            self._in_call, self._arguments = False, None
        elif not piece:
            return None
        call.arguments += piece
        return {"tool_calls": [{"index": call.index, "function": {"arguments": piece}}]} if piece else {}


class _JSONEnd:
    """Finds where a JSON object ends, though it comes in pieces."""

    def __init__(self) -> None:
        self.is_over = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int:
        """How many characters of `text` still belong to the object."""
        if self.is_over:
            return 0
        for place, character in enumerate(text):
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_over = True
                    return place + 1
        return len(text)
