"""A client's own tools: how they are described to the model, how it calls one, and how its calls are read.

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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from chatsmith.engine.request import Constraint, RequestError
from chatsmith.ingest.tool_calls import CALL, CALL_END
from chatsmith.serve.errors import invalid
from chatsmith.serve.protocol import FunctionCall, ResponseFormat, Tool, ToolCall, ToolChoice
from chatsmith.text.chat import overlap

MAX_SCHEMA_OBJECTS = 2000
"""In all schemas of a request. The grammar library takes time with the square of the properties of an object, in which
the engine does nothing else: 0.4 seconds for 2,000 of them, 3 for 5,000 (measured; llguidance 1.9)."""

NEXT = "\n" + CALL
END = "}" + CALL_END
"""What follows the arguments of a call."""

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
"""What `format` can demand of a text (llguidance 1.9)."""

VALUES = ("const", "enum", "default", "examples")
"""Keys of a schema whose content is no schema."""

# As the engine lays out constrained JSON.
JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


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
    return Constraint(
        "lark", _grammar(tools, schema, must_call=choice not in (None, "auto"), many=parallel is not False)
    )


def explain_refusal(message: str, constraint: Constraint | None) -> str:
    """What the engine says of a grammar that was made here, in words about what the client sent."""
    found = re.fullmatch(
        r"the lark cannot be used: at (\d+)\(\d+\): (?:failed to compile JSON schema: )?(.*)", message
    )
    if found is None or constraint is None:
        return message.replace("the lark", "the form of the reply")
    rule = constraint.value.split("\n")[int(found[1]) - 1]
    called = re.match(r'call_\d+: "\{\\"name\\": \\"([^"\\]*)', rule)
    what = f"the parameters of the tool {called[1]}" if called else "the json_schema"
    return f"{what} cannot be used: {found[2]}"


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
    return _without_unknown_formats(format.json_schema.schema_)


def _without_unknown_formats(schema: Any) -> Any:
    """The schema as it is, but for formats that cannot be enforced: to JSON Schema these are annotations."""
    try:
        return _without_formats(schema)
    except RecursionError:
        return schema  # deeper than the engine can follow; it says so


def _without_formats(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_formats(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in VALUES else _without_formats(value)
        for key, value in schema.items()
        if not (key == "format" and isinstance(value, str) and value not in FORMATS)
    }


def _grammar(tools: Sequence[Tool], schema: dict[str, Any] | None, *, must_call: bool, many: bool) -> str:
    """The reply in llguidance's dialect of Lark: text or JSON, calls, or both."""
    more = f"({json.dumps(NEXT)} call)*" if many else ""
    lines = [f"calls: call {more}"]
    if must_call:
        lines.append(f"start: {json.dumps(CALL)} calls")
    elif schema is None:
        # The lexer never goes back, so text that a call ends is a lexeme of its own, which ends where the call begins.
        lines.append("start: TEXT | before calls")
        lines.append(rf"TEXT: /(?s:.*)/ & ~/(?s:.*){CALL}(?s:.*)/")
        lines.append(f"before[lazy]: /(?s:.*){CALL}/")
    else:
        lines.append(f"start: json | {json.dumps(CALL)} calls")
        lines.append(f"json: %json {_laid_out(schema)}")
    names = [f"call_{index}" for index in range(len(tools))]
    lines.append("call: " + " | ".join(names))
    for name, tool in zip(names, tools, strict=True):
        beginning = f'{{"name": {json.dumps(tool.function.name)}, "arguments": '
        try:
            arguments = _without_unknown_formats(object_schema(tool.function.parameters))
        except RequestError as error:
            raise invalid(f"the tool {tool.function.name}: {error}", "tools") from error
        lines.append(f"{name}: {json.dumps(beginning)} %json {_laid_out(arguments)} {json.dumps(END)}")
    return "\n".join(lines)


def object_schema(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, which are an object: a type that is missing means so.

    Raises RequestError if its type is another. What else rules objects out is found when it is compiled.
    """
    schema = schema or {}
    kinds = schema.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        message = f"a tool's parameters must describe an object, not {kinds!r}"
        raise RequestError(message, parameter="tools")
    return {**schema, "type": "object"}


def _laid_out(schema: dict[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": JSON_LAYOUT})


class CallReader:
    """Takes calls out of a reply's text, piece by piece, as it is written.

    What may be the beginning of a special text is held back. A reply may be cut off anywhere. Where a call is
    `required`, the beginning of one is never text. With `whole`, a call is given out once it is complete, and dropped
    if it never is: what a stop text has cut is no call, and could not be taken back once it was streamed.
    """

    _HEAD = re.compile(r'\{"name": ("[^"]*"), "arguments": ')

    def __init__(self, required: bool = False, whole: bool = False) -> None:
        self.calls: list[ToolCall] = []
        self._required = required
        self._whole = whole
        self._text = ""
        self._state: Literal["text", "head", "arguments"] = "text"

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
        if self._state == "arguments":
            called = self.calls[-1].function
            more = "" if is_json(called.arguments) else rest
            called.arguments += more
            if not self._whole:
                return [self._continued(more)] if more else []
            if is_json(called.arguments):
                return [self._begun()]
            self.calls.pop()
            return []
        is_content = not (self._required or self._state == "head") and (not self.calls or rest.strip())
        return [{"content": rest}] if rest and is_content else []

    def _next(self) -> dict[str, Any] | None:
        """One more delta, perhaps an empty one; None once nothing more is certain."""
        if self._state == "text":
            before, is_found = self._take_until(self._text.find(CALL), CALL)
            if is_found:
                self._state = "head"
            elif not before:
                return None
            # Between two calls there is a line break.
            return {"content": before} if before and not (self.calls and not before.strip()) else {}
        if self._state == "head":
            found = self._HEAD.match(self._text)
            if found is None:
                return None
            self._text, self._state = self._text[found.end() :], "arguments"
            function = FunctionCall(name=json.loads(found[1]), arguments="")
            id = f"call_{uuid.uuid4().hex[:24]}"
            self.calls.append(ToolCall(id=id, type="function", function=function))
            return {} if self._whole else self._begun()
        called = self.calls[-1].function
        end = self._text.find(END)
        while end >= 0 and not is_json(called.arguments + self._text[:end]):
            end = self._text.find(END, end + 1)  # this one stands in a string
        piece, is_found = self._take_until(end, END)
        if is_found:
            self._state = "text"
        elif not piece:
            return None
        called.arguments += piece
        if self._whole:
            return self._begun() if is_found else {}
        return self._continued(piece) if piece else {}

    def _take_until(self, index: int, mark: str) -> tuple[str, bool]:
        """The text before `mark`, which stands at `index`; if that is -1, what cannot be the mark's beginning."""
        text = self._text
        if index >= 0:
            self._text = text[index + len(mark) :]
            return text[:index], True
        certain = len(text) - overlap(text, mark)
        self._text = text[certain:]
        return text[:certain], False

    def _begun(self) -> dict[str, Any]:
        """The delta of the last call's name and id, and its arguments so far."""
        return {"tool_calls": [{"index": len(self.calls) - 1, **self.calls[-1].model_dump()}]}

    def _continued(self, piece: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": len(self.calls) - 1, "function": {"arguments": piece}}]}


def is_json(text: str) -> bool:
    """Whether the text is JSON, and whole."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
