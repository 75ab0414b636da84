"""`serve --documents`: passages come before the question, as many as fit, and are named beside the reply."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import RunningServer

pytest.importorskip("bm25s")

QUESTION = "What do cats eat?"


@pytest.fixture(scope="module")
def informed(
    start_server: Callable[..., RunningServer], roomy_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "cats.md").write_text("# Food\n\nCats eat fish, and nothing else.\n")
    (folder / "dogs.md").write_text("# Noise\n\nDogs bark.\n")
    (folder / "long.md").write_text("Cats eat. " + "Many words on what is not asked. " * 400)
    return start_server(roomy_bundle, "--documents", folder).wait_until_ready()


def chat(server: RunningServer, *messages: dict[str, Any], **options: Any) -> dict[str, Any]:
    with server.client() as client:
        body = {"messages": messages, "max_tokens": 4, "return_token_ids": True, **options}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()


def decoded(server: RunningServer, ids: list[int]) -> str:
    with server.client() as client:
        return client.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def test_the_best_passages_stand_in_the_prompt_and_beside_the_reply(informed: RunningServer) -> None:
    for content in (QUESTION, [{"type": "text", "text": QUESTION}]):
        answer = chat(informed, {"role": "user", "content": content})
        sources = answer["chatsmith"]["sources"]
        assert sources[0]["name"].startswith("cats.md") and "fish" in sources[0]["text"]
        assert all("Dogs" not in one["text"] for one in sources)
        prompt = decoded(informed, answer["prompt_token_ids"])
        assert "Cats eat fish" in prompt and QUESTION in prompt.rpartition("Cats eat")[2]
        assert answer["usage"]["prompt_tokens"] < 2048


def test_a_stream_names_them_in_its_first_event_alone(informed: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
    events = informed.chat_events(body)
    assert events[0]["chatsmith"]["sources"][0]["name"].startswith("cats.md")
    assert not any("chatsmith" in event for event in events[1:] if isinstance(event, dict))


def test_what_goes_with_nothing_stays_as_it_is(informed: RunningServer) -> None:
    answer = chat(informed, {"role": "user", "content": "zzzz"})
    assert answer["chatsmith"]["sources"] == []


def test_a_reply_is_continued_with_the_passages_that_it_was_begun_with(informed: RunningServer) -> None:
    asked = {"role": "user", "content": QUESTION}
    whole = chat(informed, asked, temperature=0, max_tokens=8, ignore_eos=True)
    begun = chat(informed, asked, temperature=0, max_tokens=3, ignore_eos=True)["choices"][0]
    more = {"temperature": 0, "max_tokens": 5, "ignore_eos": True}
    by_ids = chat(informed, asked, assistant_prefix_ids=begun["token_ids"], **more)
    message = {"role": "assistant", "content": "Cats eat"}
    by_message = chat(informed, asked, message, continue_final_message=True, **more)
    assert by_ids["chatsmith"] == by_message["chatsmith"] == whole["chatsmith"]
    assert begun["token_ids"] + by_ids["choices"][0]["token_ids"] == whole["choices"][0]["token_ids"]
    assert "Cats eat fish" in decoded(informed, by_message["prompt_token_ids"])


def test_responses_name_them_too(informed: RunningServer) -> None:
    with informed.client() as client:
        body = {"input": QUESTION, "max_output_tokens": 4}
        answer = client.post("/v1/responses", json=body).json()
        assert answer["chatsmith"]["sources"][0]["name"].startswith("cats.md")


def test_a_question_too_long_for_the_context_is_not_searched(informed: RunningServer) -> None:
    with informed.client() as client:
        body = {"messages": [{"role": "user", "content": "cats eat " * 4000}]}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


def test_without_documents_nothing_is_said(roomy_server: RunningServer) -> None:
    assert "chatsmith" not in chat(roomy_server, {"role": "user", "content": QUESTION})
