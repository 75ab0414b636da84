"""/v1/responses with the `openai` client, in strict mode: it says what the chat endpoint says, as items."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

HELLO = "hello cat"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"warm": {"type": "boolean"}},
        "required": ["warm"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def ai(roomy_server: Any) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{roomy_server.url}/v1", api_key="x", _strict_response_validation=True, max_retries=0
    ) as client:
        yield client


def respond(ai: OpenAI, **options: Any) -> Any:
    return ai.responses.create(
        **{"model": "roomy", "input": HELLO, "max_output_tokens": 8, "temperature": 0, **options}
    )


def chat_text(ai: OpenAI, messages: Any, **options: Any) -> Any:
    found = ai.chat.completions.create(
        model="roomy", messages=messages, **{"max_tokens": 8, "temperature": 0, **options}
    )
    return found.choices[0].message.content


def test_it_says_what_the_chat_endpoint_says(ai: OpenAI) -> None:
    found = respond(ai)
    assert found.output_text == chat_text(ai, [{"role": "user", "content": HELLO}])
    assert found.status == "incomplete" and found.incomplete_details.reason == "max_output_tokens"
    assert found.usage.output_tokens == 8 and found.usage.total_tokens == found.usage.input_tokens + 8


def test_instructions_and_items_are_the_conversation(ai: OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "the cat"},
        {"role": "user", "content": "cat?"},
    ]
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "the cat", "annotations": []}],
        },
        {"role": "user", "content": "cat?"},
    ]
    assert respond(ai, input=items, instructions="Be brief.").output_text == chat_text(ai, messages)


@pytest.mark.parametrize(
    "options", [{}, {"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 200}]
)
def test_a_stream_adds_up_to_the_plain_answer(ai: OpenAI, options: Any) -> None:
    plain = respond(ai, **options)
    events = list(respond(ai, stream=True, **options))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[0].response.status == "in_progress"
    assert events[-1].type in ("response.completed", "response.incomplete")
    last = events[-1].response
    assert last.output_text == plain.output_text and last.usage.output_tokens == plain.usage.output_tokens
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    arguments = "".join(
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    )
    assert text == plain.output_text
    calls = [item for item in plain.output if item.type == "function_call"]
    assert arguments == "".join(call.arguments for call in calls)
    with ai.responses.stream(
        model="roomy", input=HELLO, temperature=0, **{"max_output_tokens": 8, **options}
    ) as stream:
        for _ in stream:
            pass


def test_tools_are_called_and_their_results_are_read(ai: OpenAI) -> None:
    found = respond(
        ai, tools=[WEATHER], tool_choice="required", max_output_tokens=200, parallel_tool_calls=False
    )
    (call,) = found.output
    assert call.type == "function_call" and call.name == "weather"
    assert set(json.loads(call.arguments)) == {"warm"} and found.status == "completed"
    items = [
        {"role": "user", "content": HELLO},
        call.model_dump(exclude={"namespace", "caller"}, exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    assert respond(ai, input=items, tools=[WEATHER]).status in ("completed", "incomplete")
    named = {"type": "function", "name": "weather"}
    assert respond(ai, tools=[WEATHER], tool_choice=named, max_output_tokens=200).output[0].name == "weather"


def test_structured_output(ai: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    found = respond(ai, text=form, max_output_tokens=40)
    assert set(json.loads(found.output_text)) == {"ok"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content",
        ),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"instructions": "x", "input": [{"role": "assistant", "content": "x"}]}, "input.0"),
        ({"input": []}, "input"),
        ({"input": "x " * 20000}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}}},
            "text.format",
        ),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"model": "other"}, None),
    ],
)
def test_what_it_cannot_do_is_refused_in_its_own_words(
    roomy_server: Any, change: Any, param: str | None
) -> None:
    body = {"model": "roomy", "input": HELLO, **change}
    answer = httpx.post(f"{roomy_server.url}/v1/responses", json=body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert error["message"]
    if param:
        assert error["param"] == param
    for word in ("messages", "response_format", "max_completion_tokens"):
        assert word not in (error["param"] or "")


def test_what_asks_for_nothing_is_taken(ai: OpenAI) -> None:
    nothing = {
        "store": False,
        "truncation": "disabled",
        "metadata": {},
        "reasoning": {"effort": "none"},
        "background": False,
    }
    assert respond(ai, **nothing).output_text == respond(ai).output_text


def test_errors_are_those_of_the_client(ai: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stored"):
        respond(ai, previous_response_id="resp_1")
