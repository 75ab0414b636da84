"""Requests are checked where they are made, and the error names the field."""

from typing import Any

import pytest

from chatsmith.engine.request import Request, RequestError, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", float("nan")),
        ("presence_penalty", float("inf")),
        ("logit_bias", {1: float("nan")}),
        ("seed", 2**63),
        ("min_tokens", -1),
        ("stop", ("a", "")),
        ("logprobs", 21),
        ("logprobs", -1),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as refusal:
        SamplingParams(**{field: value})
    assert refusal.value.parameter == field
    assert str(refusal.value).startswith(field)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="prompt"):
        Request(())


def test_no_tokens_may_be_asked_for_only_of_a_prompt_that_is_scored() -> None:
    nothing = SamplingParams(max_tokens=0)
    assert Request((1, 2), nothing, score_from=1).only_scores
    with pytest.raises(RequestError, match="max_tokens"):
        Request((1, 2), nothing)
    with pytest.raises(RequestError, match="score_from"):
        Request((1, 2), nothing, score_from=2)


def test_replicas_never_share_a_seed_unless_each_draws_its_own() -> None:
    seeds = {one.sampling.seed for one in Request((1,), SamplingParams(seed=2**63 - 1)).replicas(50)}
    assert len(seeds) == 50
    assert 2**63 - 1 in seeds
    assert {one.sampling.seed for one in Request((1,)).replicas(3)} == {None}
