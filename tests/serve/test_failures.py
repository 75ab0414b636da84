"""A model that cannot answer one request answers the others; and what JSON cannot say."""

import json
import math
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from chatsmith.bundle import save_bundle
from chatsmith.engine.request import TokenLogprob
from chatsmith.model.gpt import GPT
from chatsmith.serve.completions import UNLIKELY, TokenTexts
from chatsmith.serve.server import _allow_open_files
from chatsmith.text.tokenizer import Tokenizer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def poisoned(
    start_server: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    model: GPT,
) -> Any:
    """A model one of whose tokens, "x", is no number."""
    sick = GPT(model.config).eval()
    sick.load_state_dict(model.state_dict())
    [letter] = tokenizer.encode("x")
    with torch.no_grad():
        sick.embedding.weight[letter] = math.nan
    path = tmp_path_factory.mktemp("serve-poisoned") / "poisoned"
    save_bundle(path, sick, tokenizer, generation={}, card="# Poisoned\n")
    return start_server(path, "--max-running", 4, "--kv-tokens", 2048).wait_until_ready()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("more", [{}, {"response_format": {"type": "json_object"}}], ids=["free", "json"])
def test_logits_that_are_no_numbers_fail_one_request(
    poisoned: Any, stream: bool, more: dict[str, Any]
) -> None:
    with poisoned.client() as client:
        [letter] = client.post("/tokenize", json={"prompt": "x", "add_special_tokens": False}).json()[
            "tokens"
        ]

    def ask(text: str) -> Any:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 30, "ignore_eos": True, **more}
        body["logit_bias"] = {str(letter): -100}  # a reply that writes the letter itself fails as well
        with poisoned.client() as client:
            return client.post(CHAT, json={**body, "stream": stream})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, ["the cat", "x", "the dog", "x", "hello", "x"]))
    assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 200, 500]
    for answer in answers[1::2]:
        error = answer.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("server_error", None, "generation_failed")
    assert "nan" not in "".join(answer.text.lower() for answer in answers[::2])
    assert poisoned.metric("chatsmith_engine_crashes_total") == 0
    poisoned.wait_until_idle()


def test_scores_that_are_no_numbers_fail_one_request(poisoned: Any) -> None:
    with poisoned.client() as client:
        body = {"prompt": "the xylophone", "max_tokens": 0, "echo": True, "logprobs": 1}
        assert client.post(TEXT, json=body).json()["error"]["code"] == "generation_failed"
        assert client.post(TEXT, json={**body, "prompt": "the cat"}).status_code == 200


def test_what_cannot_be_at_all_has_a_number_that_json_knows(tokenizer: Tokenizer) -> None:
    texts = TokenTexts(tokenizer)
    never = TokenLogprob(-math.inf, ((5, -0.5), (6, -math.inf)))
    [entry] = texts.chat_entries([7], [never])
    assert entry["logprob"] == UNLIKELY == -9999.0
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.5, UNLIKELY]
    assert set(texts.top_by_key(7, never).values()) == {-0.5, UNLIKELY}
    json.dumps([entry], allow_nan=False)


def test_more_files_may_be_open_than_the_system_gives_at_first() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        _allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65_536) if hard > 0 else 65_536, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
