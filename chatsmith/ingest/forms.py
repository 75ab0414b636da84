"""Conversations in the forms that people have, turned into `messages`, the one form that the core reads.

    messages            {"messages": [{"role", "content"}]}, content as text or parts; OpenAI's fine-tuning files, with
                        `tools`, `tool_calls` and `weight`
    array of messages   [{"role", "content"}]
    sharegpt            {"conversations": [{"from", "value"}]}, also with `system` and `tools`
    gemini              {"contents": [{"role", "parts": [{"text"}]}]}, also with `systemInstruction`
    alpaca              {"instruction", "input", "output"}, also with `system` and `history`
    dolly               {"instruction", "context", "response"}
    prompt/completion   {"prompt", "completion"}, texts or lists of messages
    a column map        any columns, e.g. question=user answer=assistant

in JSON lines, one JSON array, JSON over many lines (each also as .gz or .zst), or parquet. The form of a file is found
from its first records and named. A few broken records are counted, named and passed over; a file that is mostly
something else is refused with what it looks like. Tools and their calls become text, as the server writes them.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatsmith.data import documents
from chatsmith.data.conversations import checked_conversation, read_conversations
from chatsmith.ingest.tool_calls import calls_text, describe_tools
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, conversation_to_json

TYPES = (*documents.JSON_LINES, *(".json" + packing for packing in documents.PACKINGS), ".parquet")

SAMPLE = 100
"""From so many records the form of a file is found."""

# The other names of roles: ShareGPT's, Gemini's and OpenAI's.
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
# What a file of plain `messages` does not have as a key or a role. Within a text its quotes would be escaped.
_OPENAI_ONLY = (b'"tools"', b'"tool_calls"', b'"function_call"', b'"functions"', b'"developer"', b'"refusal"')

Entries = list[dict[str, Any]]
"""Messages with `role` and `content`, before roles and contents are what the core takes."""


@dataclass(frozen=True)
class Form:
    """One way to write a conversation."""

    name: str
    fits: Callable[[Any], bool]
    """Whether a record (a line's or a row's value) is written this way."""
    entries: Callable[[Any], Entries]
    """Its messages. May raise ValueError, KeyError, TypeError or AttributeError for one that is broken."""


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda record: isinstance(record, dict) and all(record.get(key) is not None for key in keys)


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and "role" in one for one in value)
    )


def _said(role: str, content: Any) -> Entries:
    return [{"role": role, "content": content}] if content else []


def _sharegpt(record: dict[str, Any]) -> Entries:
    turns = record["conversations"] if "conversations" in record else record["conversation"]
    entries = [
        {"role": turn["from"], "content": turn["value"], "weight": turn.get("weight")}
        if "from" in turn
        else turn
        for turn in turns
    ]
    return [*_said("system", record.get("system")), *entries]


def _gemini(record: dict[str, Any]) -> Entries:
    system = record.get("systemInstruction") or record.get("system_instruction") or {}
    turns = [{"role": "system", **system}] if system else []
    return [
        {"role": turn.get("role") or "user", "content": "".join(part["text"] for part in turn["parts"])}
        for turn in (*turns, *record["contents"])
    ]


def _alpaca(record: dict[str, Any]) -> Entries:
    asked = "\n\n".join(filter(None, (record["instruction"], record.get("input") or record.get("context"))))
    earlier = [entry for pair in record.get("history") or [] for entry in _pair(*pair)]
    answer = record["output"] if "output" in record else record["response"]
    return [*_said("system", record.get("system")), *earlier, *_pair(asked, answer)]


def _pair(asked: Any, answer: Any) -> Entries:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _prompt_completion(record: dict[str, Any]) -> Entries:
    prompt, completion = record["prompt"], record["completion"]
    before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    after = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
    return [*before, *after]


FORMS = (
    Form("messages", _has("messages"), lambda record: record["messages"]),
    Form("array of messages", _is_messages, lambda record: record),
    Form("sharegpt", lambda one: _has("conversations")(one) or _has("conversation")(one), _sharegpt),
    Form("gemini", _has("contents"), _gemini),
    Form("alpaca", _has("instruction", "output"), _alpaca),
    Form("dolly", _has("instruction", "response"), _alpaca),
    Form("prompt/completion", _has("prompt", "completion"), _prompt_completion),
)

# What files of other kinds look like, for the message that refuses them.
_OTHER_KINDS = (
    (
        _has("chosen", "rejected"),
        "preference pairs (`chosen`, `rejected`), of which fine-tuning learns nothing",
    ),
    (_has("text"), "documents (`text`), which are given as data and not as conversations"),
)


def column_map(columns: Mapping[str, str]) -> Form:
    """The form whose columns hold one message each: from the name of a column to its role, in the order of the turns.

    Raises UserError for an unknown role.
    """
    for column, role in columns.items():
        if role not in _ROLES:
            raise UserError(
                f"the column {column} cannot be {role!r}; give it one of system, user, assistant, tool"
            )

    def entries(record: dict[str, Any]) -> Entries:
        return [entry for column, role in columns.items() for entry in _said(role, record[column])]

    name = "columns " + " ".join(f"{column}={role}" for column, role in columns.items())
    return Form(name, lambda record: isinstance(record, dict) and columns.keys() <= record.keys(), entries)


def find_form(path: Path, forms: Sequence[Form] = FORMS) -> Form:
    """The form of most of the first records of a file. Raises UserError, with what it looks like, if it has none."""
    with documents.named_errors(path):
        sample = [record for _, record in islice(_records(path), SAMPLE)]
    counts = {form: sum(form.fits(record) for record in sample) for form in forms}
    best = max(forms, key=lambda form: counts[form])
    if 2 * counts[best] > len(sample):
        return best
    known = ", ".join(form.name for form in forms)
    raise UserError(f"{path} holds no conversations: {_looks_like(sample)}. Known are {known}")


def _looks_like(sample: Sequence[Any]) -> str:
    if not sample:
        return "it is empty"
    for fits, kind in _OTHER_KINDS:
        if 2 * sum(map(fits, sample)) > len(sample):
            return f"it looks like {kind}"
    broken = [record for record in sample if isinstance(record, ValueError)]
    if 2 * len(broken) > len(sample):
        return f"it is {broken[0]}"
    found = next(record for record in sample if not isinstance(record, ValueError))
    return (
        f"its records have {documents.key_names(found)}"
        if isinstance(found, dict)
        else f"its records are {type(found).__name__}s"
    )


def read(path: Path, form: Form, notices: list[str] | None = None) -> Iterator[Conversation]:
    """The conversations of a file of one form, in order.

    Broken ones are passed over, with a notice that counts them and names the first. Raises UserError if they are
    more than one in ten.
    """
    total, broken, first = 0, 0, ""
    with documents.named_errors(path):
        for place, record in _records(path):
            total += 1
            try:
                if isinstance(record, ValueError):
                    raise record
                conversation = to_conversation(record, form)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                broken += 1
                reason = error if isinstance(error, ValueError) else f"it is not {form.name} ({error!r})"
                first = first or f"{place}: {reason}"
            else:
                yield conversation
    said = f"{broken:,} of {total:,} records cannot be used as {form.name}; the first is {first}"
    if broken * 10 > total:
        raise UserError(f"{path}: {said}. Repair or remove them (up to 1 in 10 is passed over)")
    if broken and notices is not None:
        notices.append(f"{path}: {said}; they are passed over")


def to_conversation(record: Any, form: Form) -> Conversation:
    """One record as a conversation that something can be learned from. Raises as `Form.entries` does."""
    entries = _in_order_of_calls(form.entries(record))
    messages = [_message(number, entry) for number, entry in enumerate(entries, start=1)]
    tools = (record.get("tools") or record.get("functions")) if isinstance(record, dict) else None
    if listed := json.loads(tools) if isinstance(tools, str) else tools:
        description = describe_tools(tool.get("function") or tool for tool in listed)
        if messages and messages[0]["role"] == "system":
            messages[0]["content"].append({"type": "text", "text": f"\n\n{description}"})
        else:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": description}]})
    return checked_conversation({"messages": messages})


def _in_order_of_calls(entries: Entries) -> Entries:
    """The messages, results of tools in the order of their calls: the chat format has nothing else to tell them by."""
    ordered: Entries = []
    calls: list[Any] = []
    for is_result, group in groupby(entries, key=lambda entry: bool(entry.get("tool_call_id"))):
        run = list(group)
        if is_result:
            run.sort(
                key=lambda entry: calls.index(entry["tool_call_id"]) if entry["tool_call_id"] in calls else 0
            )
        else:
            calls = [call.get("id") for call in run[-1].get("tool_calls") or []]
        ordered += run
    return ordered


def _message(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    """A message as the core takes it: its role by its usual name, its content as parts, its calls as text."""
    role = _ROLES.get(str(entry["role"]).lower())
    if role is None:
        raise ValueError(f"message {number} has the unknown role {entry['role']!r}")
    content = entry.get("content")
    if content is None:
        content = entry.get("refusal") or ""
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}]
    if not isinstance(content, str):
        parts = [dict(part) for part in content]
    for part in parts:
        part["type"] = "text" if part.get("type") in _TEXT_PARTS else part.get("type")
    if str(entry["role"]).lower() == "function_call":  # ShareGPT's, whose content is the call
        calls = [json.loads(content)]
        parts.clear()
    else:
        legacy = [{"function": entry["function_call"]}] if entry.get("function_call") else []
        calls = [call["function"] for call in entry.get("tool_calls") or legacy]
    if calls:
        arguments = [call.get("arguments") or {} for call in calls]
        as_json = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in arguments]
        text = calls_text(zip((call["name"] for call in calls), as_json, strict=True))
        parts.append({"type": "text", "text": text})
    return {"role": role, "content": parts, "weight": entry.get("weight")}


# The records of a file, whatever holds them.


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, the value of a line, an item or a row); a ValueError in place of what is not JSON."""
    if documents.file_type(path, (".parquet",)):
        yield from ((f"row {number:,}", row) for number, row in documents.parquet_rows(path))
        return
    lines = ((number, line.strip()) for number, _, line in documents.numbered_lines(path) if line.strip())
    first = list(islice(lines, 1))
    if first and _begins_json(first[0][1]):
        whole = _parsed(b"".join(documents.unpacked_chunks(path)).removeprefix(codecs.BOM_UTF8))
        if not isinstance(whole, ValueError):
            yield from _items("", whole)
            return
    for number, line in chain(first, lines):
        yield from _items(f"line {number:,}", _parsed(line))


def _begins_json(line: bytes) -> bool:
    """Whether a first line is no JSON by itself, but may begin JSON over many lines."""
    return (line.startswith(b"[") or len(line) < 3) and isinstance(_parsed(line), ValueError)


def _items(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value, or the records in it if it is an array of them, or an object around one."""
    if isinstance(value, dict) and len(value) == 1 and not any(form.fits(value) for form in FORMS):
        (inside,) = value.values()
        value = inside if isinstance(inside, list) else value
    if isinstance(value, list) and not _is_messages(value):
        for number, item in enumerate(value, start=1):
            yield f"{place} item {number:,}".strip(), item
    else:
        yield place or "item 1", value


def _parsed(line: bytes) -> Any:
    """The JSON value of a line, or a ValueError that says why it has none."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        hint = " (UTF-16? save it as UTF-8)" if line[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        return ValueError(f"not valid UTF-8{hint}")
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({str(error).split(': line')[0]})")


def _is_text(path: Path) -> bool:
    """Whether the first record has a `text`."""
    with documents.named_errors(path):
        return any(
            isinstance(one, dict) and one.get("text") is not None for _, one in islice(_records(path), 1)
        )


# What the commands use.


def is_core_form(path: Path, form: Form) -> bool:
    """Whether the core reads a file in place: JSON lines with `messages`, and nothing in them to convert."""
    if form.name != "messages" or not documents.file_type(path, documents.JSON_LINES):
        return False
    overlap = max(map(len, _OPENAI_ONLY)) - 1
    with documents.named_errors(path):
        end = b""
        for chunk in documents.unpacked_chunks(path):
            if any(mark in end + chunk for mark in _OPENAI_ONLY):
                return False
            end = chunk[-overlap:]
        for place, record in islice(_records(path), SAMPLE):
            if "item" in place:  # in an array, not an object a line
                return False
            try:
                converted = to_conversation(record, form)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # broken in either way
            try:
                if checked_conversation(record) != converted:
                    return False
            except (ValueError, TypeError):
                return False
    return True


def read_files(
    files: Iterable[Path], notices: list[str], forms: Sequence[Form] = FORMS
) -> Iterator[Conversation]:
    """The conversations of files of any form, in order. Adds lines for people to `notices`; raises UserError."""
    for path in files:
        form = find_form(path, forms)
        if is_core_form(path, form):
            yield from read_conversations([path], notices)
        else:
            notices.append(f"{path}: read as {form.name}")
            yield from read(path, form, notices)


@dataclass(frozen=True)
class ConversationFiles:
    """How a survey finds and reads conversations of any form."""

    folder: Path | None = None
    """Into which those that the core cannot read in place are written as `messages`."""
    forms: Sequence[Form] = FORMS
    types = TYPES
    """The endings of their names."""

    def holds_conversations(self, path: Path) -> bool:
        """Whether a file among the documents is one of conversations."""
        try:
            return bool(
                documents.file_type(path, TYPES) and not _is_text(path) and find_form(path, self.forms)
            )
        except UserError:
            return False  # whatever is wrong with it, it is reported when it is read as documents

    def as_messages(self, path: Path, notices: list[str]) -> tuple[Path, str]:
        """The file that `read_conversations` reads in place of this one, and the name of this one's form.

        A line for people about anything passed over is added to the list. Raises UserError for what is no conversation.
        """
        form = find_form(path, self.forms)
        if is_core_form(path, form):
            return path, form.name
        if self.folder is None:
            raise UserError(f"{path} holds conversations ({form.name}) and no documents; give it by itself")
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = path.name.lower().removesuffix(documents.file_type(path, TYPES) or "")
        written = self.folder / f"{len(list(self.folder.iterdir())):03d}-{stem}.jsonl"
        write_conversations(written, read(path, form, notices))
        notices.append(f"{path}: converted from {form.name}")
        return written, form.name


_ROW_GROUP = 1_000


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write one JSON object with `messages` a line."""
    with path.open("w", encoding="utf-8") as file:
        for conversation in conversations:
            file.write(json.dumps(conversation_to_json(conversation), ensure_ascii=False) + "\n")


def write_documents(path: Path, texts: Iterable[str]) -> None:
    """Write one string column `text`, a row a document, to a parquet file."""
    remaining = iter(texts)
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        while group := list(islice(remaining, _ROW_GROUP)):
            writer.write_table(pa.table({"text": group}))
