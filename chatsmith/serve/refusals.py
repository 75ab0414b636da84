"""What OpenAI's schema has and this server does not: refused by name, and never ignored."""

from collections.abc import Mapping
from typing import Any

from chatsmith.serve.errors import unsupported

MAX_LOOKED_AT = 4096
"""Items of a list that are looked at here; a longer list is refused as such."""

REFUSED_BY_CHAT: Mapping[str, str] = {
    "audio": "this server has no audio",
    "function_call": "deprecated; use tool_choice",
    "functions": "deprecated; use tools",
    "metadata": "completions are not stored",
    "modalities": "only text can be generated",
    "moderation": "this server does not moderate",
    "prediction": "predicted outputs are not supported",
    "prompt_cache_options": "prompts are always cached, for as long as there is room",
    "prompt_cache_retention": "prompts are always cached, for as long as there is room",
    "reasoning_effort": "the model does not reason apart from its reply",
    "service_tier": "there is one tier",
    "store": "completions are not stored",
    "verbosity": "the model has no such dial",
    "web_search_options": "this server does not search the web",
}
REFUSED_BY_COMPLETIONS: Mapping[str, str] = {
    "best_of": "only as many replies are made as are returned; use n",
    "suffix": "the model cannot insert text between two others",
}
# Values that ask for what this server does anyway.
HARMLESS: Mapping[str, Any] = {
    "functions": lambda value: value == [],
    "metadata": lambda value: value == {},
    "modalities": lambda value: value == ["text"],
    "prompt_cache_retention": lambda value: value in ("in-memory", "in_memory"),
    "reasoning_effort": lambda value: value == "none",
    "service_tier": lambda value: value in ("auto", "default"),
    "store": lambda value: value is False,
    "verbosity": lambda value: value == "medium",
    "suffix": lambda value: value == "",
}


def refuse(
    obj: Mapping[str, Any], refused: Mapping[str, str], harmless: Mapping[str, Any] = HARMLESS
) -> None:
    """Raise ApiError (400) where `obj` has a field of `refused` with a value that asks for something."""
    for name, reason in refused.items():
        value = obj.get(name)
        is_harmless = {**HARMLESS, **harmless}.get(name, lambda value: False)
        if value is not None and not is_harmless(value):
            raise unsupported(name, reason)


def refuse_unknown_kinds(obj: Mapping[str, Any]) -> None:
    """Raise ApiError (400) for kinds of tools, formats and message parts that OpenAI knows: refused as such, not as
    mistakes."""
    tools = obj.get("tools")
    for index, tool in enumerate(tools[:MAX_LOOKED_AT] if isinstance(tools, list) else []):
        if isinstance(tool, dict) and tool.get("type") == "custom":
            raise unsupported(f"tools.{index}.type", "only tools of the type function are supported")
    choice, format = obj.get("tool_choice"), obj.get("response_format")
    if isinstance(choice, dict) and choice.get("type") in ("custom", "allowed_tools"):
        raise unsupported("tool_choice.type", "only function is supported")
    if isinstance(format, dict) and format.get("type") in ("grammar", "python"):
        raise unsupported("response_format.type", "text, json_object and json_schema are supported")
    messages = obj.get("messages")
    for index, message in enumerate(messages[:MAX_LOOKED_AT] if isinstance(messages, list) else []):
        if isinstance(message, dict):
            _refuse_message(message, f"messages.{index}")


def _refuse_message(message: Mapping[str, Any], place: str) -> None:
    if message.get("role") == "function":
        raise unsupported(f"{place}.role", "deprecated; use the role tool")
    for name, reason in (
        ("audio", "this server has no audio"),
        ("function_call", "deprecated; use tool_calls"),
        ("name", "the model does not tell speakers of one role apart"),
    ):
        # In the schema a tool message has no name, so there it is one more unknown field.
        if message.get(name) is not None and not (name == "name" and message.get("role") == "tool"):
            raise unsupported(f"{place}.{name}", reason)
    content, calls = message.get("content"), message.get("tool_calls")
    for index, part in enumerate(content if isinstance(content, list) else []):
        if not isinstance(part, dict):
            continue
        if part.get("type") in ("image_url", "input_audio", "file"):
            raise unsupported(f"{place}.content.{index}", f"{part['type']} cannot be read; send text")
        if part.get("prompt_cache_breakpoint") is not None:
            raise unsupported(
                f"{place}.content.{index}.prompt_cache_breakpoint",
                "prompts are always cached, in whole blocks",
            )
    for index, call in enumerate(calls if isinstance(calls, list) else []):
        if isinstance(call, dict) and call.get("type") == "custom":
            raise unsupported(
                f"{place}.tool_calls.{index}.type", "only calls of the type function are supported"
            )
