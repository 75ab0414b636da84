"""Calls of a client's tools: read alike however the text is cut, and never mistaken for text."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.ingest.tool_calls import calls_text, describe_tools
from chatsmith.serve.protocol import ChatRequest
from chatsmith.serve.tools import CallReader, reply_constraint
from chatsmith.text.tokenizer import Tokenizer

NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
ARGUMENTS = st.dictionaries(
    st.text(max_size=5),
    st.text(max_size=9) | st.integers() | st.lists(st.text(max_size=3), max_size=2),
    max_size=3,
)
TEXTS = st.text(max_size=20).filter(lambda text: "<tool_call>" not in text)


def read(pieces: list[str]) -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
    """The content and calls of the deltas, and the calls that the reader remembers."""
    reader = CallReader()
    deltas = [delta for piece in pieces for delta in reader.push(piece)] + reader.finish()
    content = "".join(delta.get("content", "") for delta in deltas)
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", []):
            mine = calls.setdefault(call["index"], ["", ""])
            mine[0] += call["function"].get("name", "")
            mine[1] += call["function"]["arguments"]
    return (
        content,
        [(name, arguments) for name, arguments in calls.values()],
        [(c.function.name, c.function.arguments) for c in reader.calls],
    )


def test_where_a_call_is_required_its_beginning_is_no_text() -> None:
    for written in ("<", "<tool_call", '<tool_call>{"na'):
        reader = CallReader(required=True)
        assert reader.push(written) + reader.finish() == []
        free = CallReader()
        shown = "" if ">" in written else written
        assert "".join(delta["content"] for delta in free.push(written) + free.finish()) == shown


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(
    TEXTS,
    st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3),
    st.lists(st.integers(0, 999), max_size=9),
)
def test_calls_are_read_however_the_text_is_cut(
    text: str, calls: list[tuple[str, Any]], places: list[int]
) -> None:
    # As the engine writes JSON; the marks of a call may stand in its strings.
    written = [(name, json.dumps({**arguments, "mark": "}</tool_call>"})) for name, arguments in calls]
    content, from_deltas, remembered = read(cut(text + calls_text(written), places))
    assert content == text
    assert from_deltas == remembered == written


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 99), max_size=9))
def test_text_without_calls_is_text(text: str, places: list[int]) -> None:
    assert read(cut(text, places)) == (text, [], [])


@pytest.mark.parametrize("end", range(1, 70))
def test_a_call_may_be_cut_off_anywhere(end: int) -> None:
    whole = 'Hm. <tool_call>{"name": "f", "arguments": {"a": [1, 2], "b": "}"}}</tool_call>'
    content, calls, remembered = read(list(whole[:end]))
    assert content == "Hm. "[:end] or (content == whole[:end] and "<tool_call>" not in whole[:end])
    assert calls == remembered
    assert all('{"a": [1, 2], "b": "}"}'.startswith(arguments) for _, arguments in calls)


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})


TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "Ä", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "g"}},
]


def calls(names: str) -> str:
    return calls_text((name, "{}") for name in names)


G = {"type": "function", "function": {"name": "g"}}
AN_OBJECT = {"type": "json_object"}


@pytest.mark.parametrize(
    ("fields", "fits", "fails"),
    [
        ({"tools": TOOLS}, ["", "hi", calls("f"), "hi " + calls("gf")], ["<tool_call>", calls("h")]),
        ({"tools": TOOLS, "parallel_tool_calls": False}, [calls("f"), "hi" + calls("g")], [calls("ff")]),
        ({"tools": TOOLS, "tool_choice": "required"}, [calls("ggf")], ["", "hi", "hi" + calls("g")]),
        ({"tools": TOOLS, "tool_choice": G}, [calls("g")], [calls("f"), "hi"]),
        ({"tools": TOOLS, "response_format": AN_OBJECT}, ["{}", calls("g")], ["hi"]),
        ({"response_format": AN_OBJECT}, ['{"a": 1}'], ["[]", "hi"]),
    ],
)
def test_the_form_of_a_reply_is_what_was_asked_for(
    fields: dict[str, Any], fits: list[str], fails: list[str]
) -> None:
    from chatsmith.backends.guided import Grammars
    from chatsmith.text.tokenizer import train_tokenizer

    asked = request(**fields)
    constraint = reply_constraint(
        asked.response_format, asked.tools, asked.tool_choice, asked.parallel_tool_calls
    )
    assert constraint is not None
    tokenizer = train_tokenizer(["the cat sat on the mat"], vocab_size=290)
    forms = Grammars(tokenizer)
    end = tokenizer.special("<|assistant_end|>")
    for text in (*fits, *fails):
        form = forms.start(constraint)
        is_allowed = True
        for id in [*tokenizer.encode(text), end]:
            is_allowed = is_allowed and bool(form.allowed()[id])
            if not is_allowed:
                break
            form.push(id)
        assert is_allowed == (text in fits), text


def test_tools_are_described_one_a_line() -> None:
    lines = describe_tools(
        tool.function.model_dump() for tool in request(tools=TOOLS).tools or []
    ).splitlines()
    assert json.loads(lines[1]) == {"name": "f", "description": "Ä", "parameters": {"type": "object"}}
    assert json.loads(lines[2]) == {"name": "g"}
    assert len(lines) == 4


def test_without_tools_or_with_none_chosen_the_reply_is_free() -> None:
    asked = request(tools=TOOLS, tool_choice="none")
    assert reply_constraint(asked.response_format, asked.tools, asked.tool_choice, None) is None


SWITCH = {
    "type": "function",
    "function": {
        "name": "w",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"const": "x}}"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
STOPS = [
    "true",
    "false",
    "}",
    "}}",
    '"a"',
    ": ",
    "<tool_call>",
    "</tool_call>",
    "}}</tool_call>",
    "{",
    "w",
    "\n",
    "e",
    "x",
]


def reply(client: httpx.Client, stream: bool, **more: Any) -> tuple[str, str, list[tuple[str, str]]]:
    """Finish reason, content and calls."""
    body = {
        "messages": [{"role": "user", "content": "hello"}],
        "tools": [SWITCH],
        "max_tokens": 80,
        "seed": 3,
        "stream": stream,
        **more,
    }
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not stream:
        [choice] = answer.json()["choices"]
        calls = [one["function"] for one in choice["message"].get("tool_calls", [])]
        content = choice["message"]["content"] or ""
        return choice["finish_reason"], content, [(call["name"], call["arguments"]) for call in calls]
    content, reason, written = "", "", dict[int, list[str]]()
    for line in answer.text.splitlines():
        if line.startswith('data: {"id"'):
            [choice] = json.loads(line.removeprefix("data: "))["choices"]
            reason = choice["finish_reason"] or reason
            content += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", []):
                mine = written.setdefault(call["index"], ["", ""])
                mine[0] += call["function"].get("name", "")
                mine[1] += call["function"]["arguments"]
    return reason, content, [(name, arguments) for name, arguments in written.values()]


@pytest.fixture(scope="module")
def roomy(roomy_server: Any) -> Iterator[httpx.Client]:
    with roomy_server.client() as client:
        yield client


def check_calls(reason: str, calls: list[tuple[str, str]]) -> None:
    """Every call is whole, and a reply with calls says so."""
    assert reason == ("tool_calls" if calls else "stop")
    for name, arguments in calls:
        read = json.loads(arguments)
        assert name == "w" and type(read["a"]) is bool and read["b"] == "x}}"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("parallel", [True, False])
def test_a_stop_text_in_a_call_never_leaves_half_a_call(
    roomy: httpx.Client, stop: str, stream: bool, parallel: bool
) -> None:
    asked = {"tool_choice": "required", "parallel_tool_calls": parallel, "stop": stop}
    reason, content, calls = reply(roomy, stream, **asked)
    if reason != "length":  # calls without end, cut between two or in one, as OpenAI does
        check_calls(reason, calls)
    assert content == ""
    assert (reason, content, calls) == reply(roomy, not stream, **asked)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_stop_id_in_a_call_never_leaves_half_a_call(
    roomy: httpx.Client, tokenizer: Tokenizer, stream: bool
) -> None:
    for text in ('"', "}", "e", "a", ":"):
        ids = tokenizer.encode(text)
        reason, content, calls = reply(roomy, stream, tool_choice="required", stop_token_ids=ids)
        if reason != "length":
            check_calls(reason, calls)
        assert content == ""


@pytest.mark.parametrize("end", range(40, 65))
def test_of_whole_calls_alone_a_half_one_is_dropped(end: int) -> None:
    first = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    reader = CallReader(whole=True)
    deltas = [
        delta for character in ("Hm. " + first + "\n" + first)[:end] for delta in reader.push(character)
    ]
    deltas += reader.finish()
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call["arguments"] for call in calls] == ['{"a": 1}'] * len(reader.calls)
    assert "".join(delta.get("content", "") for delta in deltas) == "Hm. "
    assert len(reader.calls) == (end >= 50)


@pytest.mark.parametrize("parameters", [{"type": "null"}, {"type": "string"}, {"type": ["number", "null"]}])
def test_parameters_that_describe_no_object_are_refused(
    client: httpx.Client, parameters: dict[str, Any]
) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    answer = client.post("/v1/chat/completions", json={**body, "tool_choice": "required", "max_tokens": 9})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools" and "look" in answer.json()["error"]["message"]


def test_parameters_without_a_type_are_an_object(client: httpx.Client) -> None:
    function = {"name": "look", "parameters": {"properties": {"at": {"enum": ["sky"]}}, "required": ["at"]}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tool_choice": "required"}
    tools = [{"type": "function", "function": function}]
    answer = client.post(
        "/v1/chat/completions", json={**body, "tools": tools, "max_tokens": 90, "temperature": 0}
    )
    choice = answer.json()["choices"][0]
    if choice["finish_reason"] == "tool_calls":  # a random model may go on in spaces until it is cut
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["at"] == "sky"
    else:
        assert choice["finish_reason"] == "length"
