"""What goes beyond OpenAI's schema: tokens, open turns, the calculator in a stream, figures of the cache."""

import json
from typing import Any

import httpx

from chatsmith.text.chat import Message, Part, render, render_prompt
from chatsmith.text.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(client: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which must end with [DONE]."""
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def parts(*said: str) -> dict[str, Any]:
    """The extension of a message, from `kind text` each."""
    pairs = (one.partition(" ") for one in said)
    return {"parts": [{"kind": kind, "text": text} for kind, _, text in pairs]}


def test_tokenize_shows_a_conversation_as_the_model_sees_it(
    client: httpx.Client, tokenizer: Tokenizer
) -> None:
    messages = [
        {"role": "system", "content": "the cat"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "", "chatsmith": parts("python 1+1", "output 2", "text It is 2")},
        {"role": "user", "content": [{"type": "text", "text": "äö"}]},
    ]
    said = [
        Message.of("system", "the cat"),
        Message.of("user", "hello"),
        Message("assistant", (Part("python", "1+1"), Part("output", "2"), Part("text", "It is 2"))),
        Message.of("user", "äö"),
    ]
    shown = post(client, "/tokenize", messages=messages)
    assert shown["tokens"] == render_prompt(said, tokenizer)
    assert shown["count"] == len(shown["tokens"]) and shown["max_model_len"] == 256
    assert shown["special"] == [tokenizer.is_special(id) for id in shown["tokens"]]
    assert shown["token_strs"][0] == "<|bos|>"
    roles = [one["role"] for one in shown["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    start, end = shown["messages"][2]["start"], shown["messages"][2]["end"]
    assert tokenizer.decode(shown["tokens"][start:end]).startswith("<|assistant_start|><|python_start|>1+1")
    closed = post(client, "/tokenize", messages=messages, add_generation_prompt=False)
    assert closed["tokens"] == render(said, tokenizer).ids
    opened = post(client, "/tokenize", messages=messages[:3], continue_final_message=True)
    assert opened["tokens"] == render(said[:3], tokenizer).ids[:-1]


def test_tokenize_and_back_reads_special_tokens(client: httpx.Client, tokenizer: Tokenizer) -> None:
    text = "<|bos|>hello äöü 😀<|assistant_end|>"
    shown = post(client, "/tokenize", prompt=text, add_special_tokens=False)
    assert shown["tokens"][0] == tokenizer.bos_id
    assert post(client, "/detokenize", tokens=shown["tokens"])["prompt"] == text
    assert "\ufffd" in shown["token_strs"]  # a byte of the face alone is no character
    more = post(client, "/tokenize", prompt=text, add_special_tokens=True)["tokens"]
    assert more == [tokenizer.bos_id, *shown["tokens"]]


def test_tokenizer_info_says_what_harnesses_ask(client: httpx.Client, tokenizer: Tokenizer) -> None:
    info = client.get("/tokenizer_info").json()
    for name in ("bos_token", "eos_token"):
        [id] = post(client, "/tokenize", prompt=info[name], add_special_tokens=False)["tokens"]
        assert id > 0 and tokenizer.is_special(id)
    assert "assistant_start" in info["chat_template"]


def test_cached_tokens_are_told(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "a prompt that nobody else in these tests sends " * 2}]
    first = post(client, CHAT, messages=messages, max_tokens=2)["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    again = post(client, CHAT, messages=messages, max_tokens=2)["usage"]
    whole_blocks = (first["prompt_tokens"] - 1) // 16 * 16
    assert again["prompt_tokens_details"]["cached_tokens"] == whole_blocks
    assert post(client, "/tokenize", messages=messages)["cached_tokens"] == whole_blocks
    several = post(client, CHAT, messages=messages, max_tokens=2, n=3)["usage"]
    assert several["prompt_tokens_details"]["cached_tokens"] == whole_blocks


def test_a_final_message_is_continued(client: httpx.Client) -> None:
    ask = {"messages": HELLO, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    whole = post(client, CHAT, **ask, max_tokens=12)
    ids = whole["choices"][0]["token_ids"]
    # Continued after some of its own ids, the reply goes on as it had gone on.
    rest = post(client, CHAT, **ask, max_tokens=8, assistant_prefix_ids=ids[:4])
    assert rest["choices"][0]["token_ids"] == ids[4:]
    assert rest["prompt_token_ids"] == whole["prompt_token_ids"] + ids[:4]
    begun = [*HELLO, {"role": "assistant", "content": "the cat"}]
    shown = post(client, "/tokenize", messages=begun, continue_final_message=True)["tokens"]
    ask = {"messages": begun, "continue_final_message": True, "max_tokens": 1, "return_token_ids": True}
    assert post(client, CHAT, **ask)["prompt_token_ids"] == shown
    assert post(client, CHAT, **ask, assistant_prefix_ids=[5])["prompt_token_ids"] == [*shown, 5]


def test_a_call_that_was_begun_is_finished_and_answered(client: httpx.Client, tokenizer: Tokenizer) -> None:
    """The prefix opens a call of the calculator; the model's first token closes it."""
    special = tokenizer.special
    begun = [special("<|python_start|>"), *tokenizer.encode("37+58")]
    ask = {
        "messages": HELLO,
        "assistant_prefix_ids": begun,
        "logit_bias": {str(special("<|python_end|>")): 100},
        "max_tokens": 3 + len(tokenizer.encode("95")),
    }
    answer = post(client, CHAT, **ask, return_token_ids=True)
    [choice] = answer["choices"]
    result = [special("<|output_start|>"), *tokenizer.encode("95"), special("<|output_end|>")]
    assert choice["token_ids"] == [special("<|python_end|>"), *result]
    assert choice["message"]["content"] == ""
    assert choice["message"]["chatsmith"]["parts"][-1] == {"kind": "output", "text": "95"}
    chunks = events(client, CHAT, **ask)
    parts = [part for c in chunks for part in c["choices"][0].get("chatsmith", {}).get("parts", [])]
    assert "".join(part["text"] for part in parts if part["kind"] == "output") == "95"
    # Forced ids were not sampled, so they have no log-probability.
    entries = post(client, CHAT, **ask, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [entry["id"] for entry in entries] == [special("<|python_end|>")]


def test_a_whole_call_is_streamed_in_parts(client: httpx.Client, tokenizer: Tokenizer) -> None:
    """The call is generated too: every next token is forced by bias, one request a token count."""
    ids = [
        tokenizer.special("<|python_start|>"),
        *tokenizer.encode("6*7"),
        tokenizer.special("<|python_end|>"),
    ]
    bias = {str(ids[0]): 100.0}
    [first] = post(client, CHAT, messages=HELLO, logit_bias=bias, max_tokens=1, return_token_ids=True)[
        "choices"
    ]
    assert first["token_ids"] == ids[:1]
    assert first["message"]["content"] == ""
    assert first["message"]["chatsmith"]["parts"] == [{"kind": "python", "text": ""}]
    chunks = events(client, CHAT, messages=HELLO, logit_bias=bias, max_tokens=3)
    parts = [part for c in chunks for part in c["choices"][0].get("chatsmith", {}).get("parts", [])]
    assert parts == [{"kind": "python", "text": ""}] * 3
    assert all(
        "content" not in c["choices"][0]["delta"] or not c["choices"][0]["delta"]["content"] for c in chunks
    )


def test_parts_that_come_back_are_rendered_as_they_were_generated(
    client: httpx.Client, tokenizer: Tokenizer
) -> None:
    reply = parts("text So ", "python 6*7", "output 42", "text 42.")
    history = [*HELLO, {"role": "assistant", "content": "ignored", "chatsmith": reply}, *HELLO]
    shown = post(client, "/tokenize", messages=history)
    text = "".join(shown["token_strs"])
    assert "So <|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>42.<|assistant_end|>" in text
    assert "ignored" not in text


def test_figures_may_come_with_every_chunk(client: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(client, CHAT, messages=HELLO, max_tokens=5, ignore_eos=True, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == 5
    assert all(
        chunk["usage"]["prompt_tokens"] == counts[-1] or chunk["usage"]["prompt_tokens"] for chunk in chunks
    )


def test_ids_of_a_stream_are_those_of_the_plain_reply(client: httpx.Client) -> None:
    ask = {"messages": HELLO, "max_tokens": 20, "seed": 3, "return_token_ids": True, "ignore_eos": True}
    plain = post(client, CHAT, **ask)
    chunks = events(client, CHAT, **ask)
    assert chunks[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    streamed = [id for chunk in chunks for choice in chunk["choices"] for id in choice.get("token_ids", [])]
    assert streamed == plain["choices"][0]["token_ids"]


def test_unknown_fields_are_let_through_counted_and_logged(client: httpx.Client, server: Any) -> None:
    before = server.metric("chatsmith_unknown_request_fields_total")
    parts = [
        {"type": "text", "text": "a", "cache_control": {}},
        {"type": "text", "text": "b", "cache_control": {}},
    ]
    messages = [{"role": "user", "content": parts, "mood": "good"}]
    answer = client.post(CHAT, json={"messages": messages, "max_tokens": 1, "made_up": 1, "another": 2})
    assert answer.status_code == 200
    assert server.metric("chatsmith_unknown_request_fields_total") == before + 4
    names = ["another", "made_up", "messages.content.cache_control", "messages.mood"]
    assert server.line_of(answer)["unknown_fields"] == names


def test_the_page_or_how_to_build_it(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-cache"
    assert client.get("/assets/nothing.js").status_code == 404
    assert client.get("/../pyproject.toml").status_code == 404
