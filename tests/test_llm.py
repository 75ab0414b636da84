"""The Python door: a folder, and text in and out; the same as the engine gives."""

from pathlib import Path

import pytest

import chatsmith
from chatsmith import LLM, SamplingParams
from chatsmith.bundle import save_bundle
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Message, Part, render_prompt
from chatsmith.text.tokenizer import Tokenizer
from tests.engine.conftest import model, tokenizer
from tests.threads import one_thread

__all__ = ["model", "one_thread", "tokenizer"]

GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model, tokenizer: Tokenizer) -> Path:
    """A run directory with a bundle of two stages."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    for stage, temperature in (("pretrain", 1.5), ("sft", 0.5)):
        save_bundle(
            folder / stage / "bundle",
            model,
            tokenizer,
            generation={"temperature": temperature, "max_tokens": 12},
            card="# Tiny\n",
        )
    return folder


def test_texts_are_continued_as_the_engine_continues_them(run: Path) -> None:
    llm = LLM(run, device="cpu", dtype="fp32")
    assert llm.bundle.path == run / "sft" / "bundle"
    completions = llm.generate(["the cat", [1, 2, 3]], GREEDY)
    ids = (llm.tokenizer.bos_id, *llm.tokenizer.encode("the cat"))
    engine = Engine(llm.bundle.model, llm.tokenizer)
    assert [one.ids for one in completions] == [
        engine.generate([Request(prompt, GREEDY)])[0].ids for prompt in (ids, (1, 2, 3))
    ]
    assert completions[0].token_ids == completions[0].ids
    assert completions[0].finish_reason == "length" and isinstance(completions[0].text, str)


def test_a_conversation_is_answered_and_the_folder_says_how_to_sample(
    run: Path, tokenizer: Tokenizer
) -> None:
    llm = LLM(str(run / "sft" / "bundle"), device="cpu", dtype="fp32", quantize="int8", max_running=2)
    messages = [
        {"role": "system", "content": "be a cat"},
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": [{"type": "text", "text": "sat"}]},
        {"role": "user", "content": "on the mat", "name": "Ada"},
    ]
    reply = llm.chat(messages)
    expected = [
        Message.of("system", "be a cat"),
        Message.of("user", "the cat"),
        Message("assistant", (Part("text", "sat"),)),
        Message.of("user", "on the mat"),
    ]
    assert list(reply.prompt_ids) == render_prompt(expected, tokenizer)
    assert len(reply.ids) <= 12
    sampling = llm.sampling(seed=3, top_p=None)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 50, 1.0, 3)
    assert llm.chat(messages, sampling) == llm.chat(messages, sampling)


def test_what_cannot_be_answered_is_an_error(run: Path, tmp_path: Path) -> None:
    llm = LLM(run, device="cpu")
    with pytest.raises(UserError, match=r"prompt 2 of 2: the prompt has 200 tokens"):
        llm.generate(["the", [1] * 200])
    with pytest.raises(ValueError, match="last message"):
        llm.chat([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])
    with pytest.raises(UserError, match="does not exist"):
        LLM(tmp_path / "nothing")
    with pytest.raises(AttributeError, match="no attribute 'LLN'"):
        _ = chatsmith.LLN
