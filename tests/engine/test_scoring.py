"""Scores of prompts equal those of the whole row computed at once, however the work was cut up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, RequestError, SamplingParams
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer

CONTEXT = 96
ONLY_SCORE = SamplingParams(max_tokens=0, logprobs=2)


def expected_scores(model: GPT, ids: tuple[int, ...]) -> torch.Tensor:
    """(T, V) log-probabilities of what follows each token."""
    with torch.inference_mode():
        return model.logits(model(torch.tensor([ids])))[0].log_softmax(-1)


def check(model: GPT, completion: Completion, score_from: int) -> None:
    ids, found = completion.prompt_ids, completion.prompt_logprobs
    assert found is not None and len(found) == len(ids) - score_from
    expected = expected_scores(model, ids)
    for index, one in enumerate(found, start=score_from):
        if index == 0:
            assert one is None
            continue
        assert one is not None
        assert one.logprob == pytest.approx(expected[index - 1, ids[index]].item(), abs=1e-9)
        best = expected[index - 1].topk(2)
        assert [id for id, _ in one.top] == best.indices.tolist()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=6),
    shared=st.integers(0, 40),
    share=st.floats(0, 0.999),
    tokens_per_step=st.sampled_from([3, 17, 256]),
    kv_tokens=st.sampled_from([CONTEXT, 400]),
)
def test_scores_do_not_depend_on_chunks_cache_or_preemption(
    model: GPT,
    tokenizer: Tokenizer,
    lengths: list[int],
    shared: int,
    share: float,
    tokens_per_step: int,
    kv_tokens: int,
) -> None:
    engine = Engine(
        model, tokenizer, kv_tokens=kv_tokens, block_size=4, tokens_per_step=tokens_per_step, max_running=3
    )
    free_at_first = engine.stats().num_free_blocks
    beginning = tuple(range(50, 50 + shared))
    requests = [
        Request(ids, ONLY_SCORE, score_from=int(share * len(ids)))
        for index, length in enumerate(lengths)
        for ids in [(*beginning, *(index + 7 * place % 200 for place in range(length)))[:length]]
    ]
    for request, completion in zip(requests, engine.generate(requests), strict=True):
        assert (completion.finish_reason, completion.ids) == ("length", ())
        assert request.score_from is not None
        check(model, completion, request.score_from)
    assert engine.stats().num_free_blocks == free_at_first


def test_a_scored_prompt_is_also_continued(model: GPT, tokenizer: Tokenizer) -> None:
    plain = Request(tuple(range(30)), SamplingParams(seed=3, max_tokens=6, ignore_end=True, logprobs=2))
    scored = Request(plain.prompt_ids, plain.sampling, score_from=4)
    engine = Engine(model, tokenizer, block_size=4)
    expected, found = engine.generate([plain, scored])
    assert (found.ids, found.logprobs) == (expected.ids, expected.logprobs)
    check(model, found, 4)


def test_what_stands_before_the_scored_part_comes_from_the_cache(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, block_size=4)
    context = tuple(range(40))
    choices = [Request((*context, 60 + index, 61), ONLY_SCORE, score_from=40) for index in range(4)]
    completions = engine.generate(choices)
    # The hidden state of the last context token is needed, so its block is computed again.
    assert [one.cached_tokens for one in completions] == [0, 36, 36, 36]
    for completion in completions:
        check(model, completion, 40)
    again = engine.generate([Request(choices[0].prompt_ids, ONLY_SCORE, score_from=0)])[0]
    assert again.cached_tokens == 0
    check(model, again, 0)


def test_a_scored_prompt_may_fill_the_context_and_no_more(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer)
    full = engine.generate([Request((1,) * (CONTEXT + 1), ONLY_SCORE, score_from=CONTEXT)])[0]
    assert full.finish_reason == "length"
    with pytest.raises(RequestError, match="context"):
        engine.submit(Request((1,) * (CONTEXT + 2), ONLY_SCORE, score_from=1))


def test_scores_that_are_no_numbers_are_an_error(model: GPT, tokenizer: Tokenizer) -> None:
    row = model.embedding.weight[251]
    kept = row.detach().clone()
    with torch.no_grad():
        row.fill_(float("nan"))
    try:
        requests = [Request((1, 251, 2), ONLY_SCORE, score_from=1), Request((1, 2), ONLY_SCORE, score_from=1)]
        bad, good = Engine(model, tokenizer).generate(requests)
    finally:
        with torch.no_grad():
            row.copy_(kept)
    assert (bad.finish_reason, good.finish_reason) == ("error", "length")


def test_changed_weights_leave_nothing_in_the_prefix_cache(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, block_size=4)
    request = Request(tuple(range(30)), SamplingParams(temperature=0, max_tokens=5, ignore_end=True))
    engine.generate([request])
    assert engine.generate([request])[0].cached_tokens == 28
    engine.weights_changed()
    assert engine.generate([request])[0].cached_tokens == 0
    assert engine.stats().prefix_hits < engine.stats().prefix_queries
