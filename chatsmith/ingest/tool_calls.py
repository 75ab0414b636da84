"""How a client's own tools look in a conversation: what the system message says of them, and how the model calls them
by name, as plain text. Training data are converted to it, and the server writes and reads it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

CALL, CALL_END = "<tool_call>", "</tool_call>"
"""Around a call in what the assistant says: plain text, as Qwen and Hermes write it."""


def describe_tools(functions: Iterable[Mapping[str, Any]]) -> str:
    """What the system message says about functions, each with name, description and parameters (JSON schema)."""
    lines = ["You can call these tools:"]
    for function in functions:
        shown = {key: function.get(key) for key in ("name", "description", "parameters")}
        told = {key: value for key, value in shown.items() if value is not None}
        lines.append(json.dumps(told, ensure_ascii=False))
    lines.append(f'To call one, write {CALL}{{"name": ..., "arguments": {{...}}}}{CALL_END}')
    return "\n".join(lines)


def calls_text(calls: Iterable[tuple[str, str]]) -> str:
    """Calls (name, arguments as JSON) as the model writes them."""
    return "\n".join(
        f'{CALL}{{"name": {json.dumps(name)}, "arguments": {arguments}}}{CALL_END}'
        for name, arguments in calls
    )
