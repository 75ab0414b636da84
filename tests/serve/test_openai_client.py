"""The `openai` client against a running server, its validation of answers strict: what it cannot parse is an error."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.text.chat import Message, render_prompt
from chatsmith.text.tokenizer import Tokenizer

HELLO: Any = [{"role": "user", "content": "hello cat"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it is outside.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bonn", "Rome"]}, "warm": {"type": "boolean"}},
            "required": ["city", "warm"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def ai(server: Any) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="x", _strict_response_validation=True, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
def lenient(server: Any) -> Iterator[OpenAI]:
    """For the two places where OpenAI's own service breaks its schema: a text stream's finish_reason is null until
    the end, and so is the first log-probability of an echoed prompt."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def chat(ai: OpenAI, **options: Any) -> Any:
    return ai.chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "max_tokens": 8, "seed": 1, **options}
    )


def text(ai: OpenAI, **options: Any) -> Any:
    return ai.completions.create(
        **{"model": "tiny", "prompt": "the cat", "max_tokens": 8, "seed": 1, **options}
    )


def joined(chunks: Any) -> dict[int, str]:
    """The text of a chat stream, by choice."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def test_models(ai: OpenAI) -> None:
    listed = ai.models.list().data
    assert [model.id for model in listed] == ["tiny"]
    assert ai.models.retrieve("tiny") == listed[0]
    extension = listed[0].model_extra["chatsmith"]
    assert extension["context_length"] == 256
    assert extension["defaults"] == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "max_tokens": None,
    }


def test_a_chat_is_what_the_bare_engine_says(ai: OpenAI, engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = render_prompt([Message.of("user", "hello cat")], tokenizer)
    sampling = SamplingParams(temperature=0.8, top_k=20, seed=7, max_tokens=20, ignore_end=True)
    [expected] = engine.generate([Request(tuple(prompt), sampling)])
    answer = chat(
        ai,
        temperature=0.8,
        seed=7,
        max_tokens=20,
        extra_body={"top_k": 20, "ignore_eos": True, "return_token_ids": True},
    )
    [choice] = answer.choices
    assert choice.message.content == expected.text
    assert choice.model_extra["token_ids"] == list(expected.ids)
    assert answer.model_extra["prompt_token_ids"] == prompt
    assert choice.finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 20)
    assert answer.usage.prompt_tokens_details.cached_tokens <= len(prompt)


def test_a_text_is_what_the_bare_engine_says(ai: OpenAI, engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = [tokenizer.bos_id, *tokenizer.encode("the cat")]
    [expected] = engine.generate([Request(tuple(prompt), SamplingParams(temperature=0, max_tokens=12))])
    answer = text(ai, temperature=0, max_tokens=12)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    by_ids = text(ai, prompt=prompt, temperature=0, max_tokens=12)
    assert by_ids.choices[0].text == expected.text
    without_bos = text(ai, prompt=prompt[1:], temperature=0, max_tokens=12)
    same = text(ai, temperature=0, max_tokens=12, extra_body={"add_special_tokens": False})
    assert same.choices[0].text == without_bos.choices[0].text


@pytest.mark.parametrize(
    "options", [{}, {"n": 3}, {"stop": ["e", "7"]}, {"logprobs": True, "top_logprobs": 2}]
)
def test_a_stream_says_what_the_plain_answer_says(ai: OpenAI, options: dict[str, Any]) -> None:
    plain = chat(ai, max_tokens=40, **options)
    chunks = list(chat(ai, max_tokens=40, stream=True, stream_options={"include_usage": True}, **options))
    assert len({chunk.id for chunk in chunks}) == 1
    assert joined(chunks) == {choice.index: choice.message.content for choice in plain.choices}
    reasons = {c.index: c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason}
    assert reasons == {choice.index: choice.finish_reason for choice in plain.choices}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    for index in range(options.get("n", 1)):
        first = next(c for chunk in chunks for c in chunk.choices if c.index == index)
        assert first.delta.role == "assistant"
    if "logprobs" in options:
        entries = [one for chunk in chunks for c in chunk.choices if c.logprobs for one in c.logprobs.content]
        assert entries == plain.choices[0].logprobs.content


def test_openai_s_own_way_to_put_a_stream_together_takes_a_calculator_s_call(
    lenient: OpenAI, tokenizer: Tokenizer
) -> None:
    call = {str(tokenizer.special("<|python_start|>")): 100}
    ask: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "logit_bias": call}
    with lenient.chat.completions.stream(**ask) as stream:
        kinds = {event.type for event in stream}
        message: Any = stream.current_completion_snapshot.choices[0].message.to_dict()
    assert "chunk" in kinds and message["content"] == ""
    lenient.chat.completions.create(model="tiny", messages=[*HELLO, message, *HELLO], max_tokens=1)


def test_a_text_stream_says_what_the_plain_answer_says(lenient: OpenAI) -> None:
    for options in (
        {"n": 2},
        {"echo": True, "prompt": ["the cat", "the dog"]},
        {"logprobs": 2},
        {"echo": True, "logprobs": 1},
    ):
        plain = text(lenient, max_tokens=20, **options)
        chunks = list(text(lenient, max_tokens=20, stream=True, **options))
        for choice in plain.choices:
            mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
            assert "".join(c.text for c in mine) == choice.text
            assert mine[-1].finish_reason == choice.finish_reason
            if choice.logprobs is not None:
                offsets = [offset for c in mine for offset in c.logprobs.text_offset]
                assert offsets == choice.logprobs.text_offset
                assert [t for c in mine for t in c.logprobs.tokens] == choice.logprobs.tokens


def test_a_seed_repeats_and_n_replies_differ(ai: OpenAI) -> None:
    one, two = (chat(ai, n=4, max_tokens=20) for _ in range(2))
    assert [c.message.content for c in one.choices] == [c.message.content for c in two.choices]
    assert len({c.message.content for c in one.choices}) > 1
    assert [c.index for c in one.choices] == [0, 1, 2, 3]


def test_stop_texts_end_the_reply_before_them(ai: OpenAI) -> None:
    whole = chat(ai, max_tokens=60, extra_body={"ignore_eos": True}).choices[0].message.content
    stop = whole[20:22]
    cut = chat(ai, max_tokens=60, stop=stop, extra_body={"ignore_eos": True}).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_logprobs_of_a_chat_cover_every_sampled_token(ai: OpenAI) -> None:
    [choice] = chat(
        ai, logprobs=True, top_logprobs=3, temperature=0, extra_body={"return_token_ids": True}
    ).choices
    content = choice.logprobs.content
    assert [entry.model_extra["id"] for entry in content] == choice.model_extra["token_ids"]
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy
        if entry.bytes is not None:
            assert bytes(entry.bytes).decode(errors="replace") == entry.token
    assert chat(ai, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(ai).choices[0].logprobs is None


def test_echo_scores_the_prompt_as_the_bare_engine_does(
    lenient: OpenAI, engine: Engine, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("the dog sat on the cat")
    [expected] = engine.generate(
        [Request(tuple(ids), SamplingParams(logprobs=1, max_tokens=0), score_from=0)]
    )
    for max_tokens in (0, 1):
        [choice] = text(
            lenient, prompt=ids, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0
        ).choices
        logprobs = choice.logprobs
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        assert len(logprobs.tokens) == len(ids) + max_tokens
        for mine, theirs in zip(logprobs.token_logprobs[1:], expected.prompt_logprobs[1:], strict=False):
            assert mine == pytest.approx(theirs.logprob, abs=1e-5)
        for value, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
            assert value in top.values() and value <= max(top.values())
        assert choice.text.startswith("the dog sat on the cat")
        starts = [choice.text[offset:] for offset in logprobs.text_offset[: len(ids)]]
        assert all(rest.startswith(token) for rest, token in zip(starts, logprobs.tokens, strict=False))


def test_bias_and_penalties_reach_the_engine(ai: OpenAI, tokenizer: Tokenizer) -> None:
    [letter] = tokenizer.encode("x")
    assert chat(ai, logit_bias={str(letter): 100}).choices[0].message.content == "x" * 8
    biased = {"logit_bias": {str(letter): 5}, "temperature": 0, "max_tokens": 30}
    free = chat(ai, **biased).choices[0].message.content.count("x")
    held = chat(ai, **biased, frequency_penalty=2, presence_penalty=2).choices[0].message.content.count("x")
    assert held < free


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_schema_is_obeyed(ai: OpenAI, stream: bool) -> None:
    schema = WEATHER["function"]["parameters"]
    format = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}
    answer = chat(ai, response_format=format, max_tokens=100, stream=stream)
    content = joined(answer)[0] if stream else answer.choices[0].message.content
    weather = json.loads(content)
    assert weather["city"] in ("Bonn", "Rome") and isinstance(weather["warm"], bool)


def test_a_json_object_is_one(ai: OpenAI, tokenizer: Tokenizer) -> None:
    closing = {
        str(tokenizer.encode(character)[0]): 20 for character in '"}'
    }  # a random model seldom comes to an end
    format = {"type": "json_object"}
    for seed in range(4):
        [choice] = chat(ai, response_format=format, max_tokens=60, seed=seed, logit_bias=closing).choices
        assert choice.finish_reason == "stop"
        assert isinstance(json.loads(choice.message.content), dict)


SMALL: Any = {
    "type": "function",
    "function": {
        "name": "w",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": ["b", "c"]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def roomy(roomy_server: Any) -> Iterator[OpenAI]:
    """A model with a longer context, for tools take room to be described."""
    url = f"{roomy_server.url}/v1"
    with OpenAI(base_url=url, api_key="x", _strict_response_validation=True, max_retries=0) as client:
        yield client


def calls_in(chunks: Any) -> list[tuple[str, str, str]]:
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                mine = calls.setdefault(call.index, ["", "", ""])
                mine[0] += call.id or ""
                mine[1] += call.function.name or ""
                mine[2] += call.function.arguments or ""
    return [(id, name, arguments) for id, name, arguments in calls.values()]


def test_tools_are_called_as_asked(roomy: OpenAI) -> None:
    ask = {"model": "roomy", "tools": [WEATHER, SMALL], "max_tokens": 200}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        plain = chat(roomy, **ask, tool_choice=choice, parallel_tool_calls=False).choices[0]
        chunks = list(chat(roomy, **ask, tool_choice=choice, parallel_tool_calls=False, stream=True))
        [call] = plain.message.tool_calls
        [(id, name, arguments)] = calls_in(chunks)
        assert (call.function.name, call.function.arguments) == (name, arguments)
        assert id.startswith("call_") and call.id.startswith("call_")
        assert plain.message.content is None and joined(chunks)[0] == ""
        assert plain.finish_reason == "tool_calls" == chunks[-1].choices[0].finish_reason
        given = json.loads(arguments)
        if name == "weather":
            assert given["city"] in ("Bonn", "Rome") and isinstance(given["warm"], bool)
        else:
            assert choice == "required" and given["a"] in ("b", "c")


def test_tools_may_be_left_alone(roomy: OpenAI) -> None:
    ask = {"model": "roomy", "tools": [SMALL], "max_tokens": 20}
    for choice in ("auto", "none"):
        message = chat(roomy, **ask, tool_choice=choice).choices[0].message
        assert message.tool_calls is None and "<tool_call>" not in message.content


def test_results_of_tools_come_back(roomy: OpenAI) -> None:
    first = chat(
        roomy, model="roomy", tools=[SMALL], tool_choice="required", parallel_tool_calls=False, max_tokens=99
    )
    call = first.choices[0].message.tool_calls[0]
    history = [
        *HELLO,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "42"},
    ]
    second = chat(roomy, model="roomy", tools=[SMALL], messages=history)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    # What the model itself wrote is found in the cache: history is rendered as it was generated.
    assert second.usage.prompt_tokens_details.cached_tokens >= (first.usage.prompt_tokens // 16) * 16 - 16


def test_asynchronously_and_many_at_once(server: Any) -> None:
    async def ask() -> list[Any]:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="x", _strict_response_validation=True
        ) as ai:
            plain = [
                ai.chat.completions.create(model="tiny", messages=HELLO, max_tokens=9, seed=seed)
                for seed in range(6)
            ]

            async def streamed(seed: int) -> str:
                stream = await ai.chat.completions.create(
                    model="tiny", messages=HELLO, max_tokens=9, seed=seed, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return [*await asyncio.gather(*plain), *await asyncio.gather(*map(streamed, range(6)))]

    answers = asyncio.run(ask())
    assert [one.choices[0].message.content for one in answers[:6]] == answers[6:]


def test_errors_are_the_clients_own(ai: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(ai, temperature=5)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError):
        chat(ai, model="none")
    with pytest.raises(openai.BadRequestError, match="context"):
        list(chat(ai, messages=[{"role": "user", "content": "x" * 999}], stream=True))
