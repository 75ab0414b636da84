"""The engine's promise: a reply depends on its request alone. Every test compares with the naive decoder or with
another way of serving the same request; float64 makes equality of tokens a fair demand.
"""

import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.engine.backend import Backend
from chatsmith.engine.engine import Engine
from chatsmith.engine.kv_cache import affordable
from chatsmith.engine.request import Completion, Event, Request, RequestError, SamplingParams
from chatsmith.engine.sampler import Choice, Row, choose
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.config import kv_bytes_per_token
from chatsmith.model.gpt import GPT
from chatsmith.text.chat import Message, Part, render_prompt, render_unfinished
from chatsmith.text.tokenizer import Tokenizer
from tests.engine.conftest import random_model

Naive = Callable[[Request], list[int]]
TEXT_IDS = 250  # of the tiny vocabulary's ids, these and fewer are ordinary text
CONTEXT = 96


def prompts(seed: int, count: int, longest: int = 40) -> list[tuple[int, ...]]:
    """Random prompts; every other one begins like the first, so that prefixes are shared."""
    source = random.Random(seed)
    beginning = [source.randrange(TEXT_IDS) for _ in range(longest // 2)]
    return [
        tuple(
            (beginning if index % 2 else [])
            + [source.randrange(TEXT_IDS) for _ in range(source.randrange(1, 20))]
        )
        for index in range(count)
    ]


def a_request(ids: tuple[int, ...], index: int, more: int = 12) -> Request:
    """Requests of all kinds, none of which an end-of-turn token ends early."""
    kinds = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.8, top_k=20, top_p=0.9),
        SamplingParams(temperature=1.0, frequency_penalty=0.7, repetition_penalty=1.2),
    ]
    return Request(ids, replace(kinds[index % len(kinds)], seed=index, max_tokens=more, ignore_end=True))


def ids_of(completions: list[Completion]) -> list[list[int]]:
    return [list(completion.ids) for completion in completions]


def drain(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while not engine.is_idle:
        events += engine.step()
    return events


def test_the_tiny_model_looks_back(model: GPT) -> None:
    """Otherwise every other test here would be vacuous: the first token must matter to the last, in all layers."""
    tokens = torch.randint(0, TEXT_IDS, (1, 30))
    with torch.inference_mode():
        before = model.logits(model(tokens))
        tokens[0, 0] += 1
        change = (model.logits(model(tokens)) - before).abs()
    assert change[0, -1].max() > 1e-3


@pytest.mark.parametrize("tokens_per_step", [3, 17, 256])
@pytest.mark.parametrize("block_size", [3, 16])
def test_cached_and_chunked_decoding_equals_full_recomputation(
    model: GPT, tokenizer: Tokenizer, naive: Naive, tokens_per_step: int, block_size: int
) -> None:
    requests = [a_request(ids, index) for index, ids in enumerate(prompts(1, 4))]
    engine = Engine(
        model, tokenizer, tokens_per_step=tokens_per_step, block_size=block_size, kv_tokens=400, max_running=3
    )
    assert ids_of(engine.generate(requests)) == [naive(request) for request in requests]


@pytest.mark.filterwarnings("error")  # torch warns when it has to enlarge a workspace
def test_rows_that_outgrow_the_workspace_take_turns(
    model: GPT, tokenizer: Tokenizer, naive: Naive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "chatsmith.engine.paged_attention.WORKSPACE_TOKENS", 1
    )  # then it holds one whole context
    requests = [a_request(ids, index) for index, ids in enumerate(prompts(7, 6))]
    engine = Engine(model, tokenizer, max_running=6)
    assert ids_of(engine.generate(requests)) == [naive(request) for request in requests]


def test_a_reply_may_fill_the_whole_context(model: GPT, tokenizer: Tokenizer, naive: Naive) -> None:
    request = Request(prompts(2, 1)[0], SamplingParams(temperature=0, max_tokens=500, ignore_end=True))
    completion = Engine(model, tokenizer, kv_tokens=CONTEXT).generate([request])[0]
    assert completion.finish_reason == "length"
    assert len(request.prompt_ids) + len(completion.ids) == CONTEXT
    assert list(completion.ids) == naive(request)


@settings(max_examples=10, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), min_size=2, max_size=8),
    kv_tokens=st.integers(60, 200),
    tokens_per_step=st.integers(4, 40),
    prefix_caching=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_reply_is_the_same_alone_and_among_others(
    model: GPT,
    tokenizer: Tokenizer,
    naive: Naive,
    arrivals: list[tuple[int, int]],
    kv_tokens: int,
    tokens_per_step: int,
    prefix_caching: bool,
    seed: int,
) -> None:
    """Arrivals are (steps to wait, tokens to write). Small pools pre-empt; the pool is whole again at the end."""
    engine = Engine(
        model,
        tokenizer,
        kv_tokens=kv_tokens,
        block_size=4,
        tokens_per_step=tokens_per_step,
        max_running=4,
        prefix_caching=prefix_caching,
    )
    free_at_first = engine.stats().num_free_blocks
    requests = [
        a_request(ids, index, more)
        for index, (ids, (_, more)) in enumerate(zip(prompts(seed, len(arrivals)), arrivals, strict=True))
    ]
    events: list[Event] = []
    handles: list[int] = []
    for request, (wait, _) in zip(requests, arrivals, strict=True):
        for _ in range(wait):
            events += engine.step()
        handles.append(engine.submit(request))
    events += drain(engine)
    replies = {event.handle: event.completion for event in events if event.completion}
    for handle, request in zip(handles, requests, strict=True):
        completion = replies[handle]
        assert completion is not None
        assert list(completion.ids) == naive(request)
        streamed = [id for event in events if event.handle == handle for id in event.ids]
        assert streamed == list(completion.ids)
        text = "".join(part.text for event in events if event.handle == handle for part in event.parts)
        assert text == "".join(part.text for part in completion.parts)
    assert engine.stats().num_free_blocks == free_at_first


def test_preempted_replies_are_the_same(model: GPT, tokenizer: Tokenizer, naive: Naive) -> None:
    requests = [a_request(ids, index, more=30) for index, ids in enumerate(prompts(3, 5))]
    engine = Engine(model, tokenizer, kv_tokens=80, block_size=4, max_running=5)
    assert ids_of(engine.generate(requests)) == [naive(request) for request in requests]
    assert engine.stats().num_preemptions > 0, "the pool was too large for this test"


def test_a_prefix_hit_changes_nothing_but_the_work(model: GPT, tokenizer: Tokenizer, naive: Naive) -> None:
    beginning = prompts(4, 1, longest=40)[0] + tuple(range(30))
    engine = Engine(model, tokenizer, block_size=4)
    for index in range(4):
        request = a_request((*beginning, 100 + index), index)
        completion = engine.generate([request])[0]
        assert list(completion.ids) == naive(request)
        assert completion.cached_tokens == (len(beginning) // 4 * 4 if index else 0)


def test_a_conversation_finds_its_earlier_turns_cached(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, block_size=4)
    first = a_request(tuple(range(20)), 0)
    reply = engine.generate([first])[0]
    second = a_request((*first.prompt_ids, *reply.ids, 7, 8), 0)
    # All that was computed: the reply's last token never was, since nothing followed it.
    assert engine.generate([second])[0].cached_tokens == (20 + len(reply.ids) - 1) // 4 * 4


def test_replicas_share_the_prompt_and_differ(model: GPT, tokenizer: Tokenizer, naive: Naive) -> None:
    requests = a_request(tuple(range(33)), 1).replicas(4)
    engine = Engine(model, tokenizer, block_size=4)
    completions = engine.generate(requests)
    assert engine.stats().prefix_queries == 33, "the prompt was looked up, and so computed, more than once"
    assert ids_of(completions) == [naive(request) for request in requests]
    assert len({completion.ids for completion in completions}) > 1


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each step that any engine takes."""
    counts: list[int] = []
    forward = Backend.forward

    def counting(backend: Backend, chunks: list[Chunk]) -> torch.Tensor:
        counts.append(sum(chunk.length for chunk in chunks))
        return forward(backend, chunks)

    monkeypatch.setattr(Backend, "forward", counting)
    return counts


def test_replies_are_computed_once_until_they_differ(
    model: GPT, tokenizer: Tokenizer, naive: Naive, computed: list[int]
) -> None:
    """Of eight replies, each different beginning is computed once: no row more, no row less."""
    sampling = SamplingParams(temperature=0.03, seed=4, max_tokens=12, ignore_end=True)
    requests = Request(tuple(range(9)), sampling).replicas(8)
    completions = Engine(model, tokenizer, block_size=4).generate(requests)
    expected = [naive(request) for request in requests]
    assert ids_of(completions) == expected
    beginnings = {tuple(ids[:length]) for ids in expected for length in range(1, 12)}
    assert sum(computed) == 9 + len(beginnings) < 9 + 11 * 8
    assert 1 < len({completion.ids for completion in completions}) < 8, (
        "they must branch, but not all at once"
    )


def test_greedy_requests_for_the_same_are_one(
    model: GPT, tokenizer: Tokenizer, naive: Naive, computed: list[int]
) -> None:
    greedy, other = a_request(tuple(range(9)), 0), a_request(tuple(range(1, 10)), 0)
    completions = Engine(model, tokenizer).generate([greedy, greedy, other, greedy])
    assert ids_of(completions) == [naive(one) for one in (greedy, greedy, other, greedy)]
    # The fourth came after another one, so it is on its own.
    assert computed[1:] == [3] * (len(completions[0].ids) - 1)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    kv_tokens=st.integers(60, 200),
    max_running=st.integers(1, 5),
    temperature=st.sampled_from([0.0, 0.03, 1.0]),
    prefix_caching=st.booleans(),
    cancel_at=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 23)), max_size=6),
    seed=st.integers(0, 9),
)
def test_shared_replies_are_those_of_each_request_alone(
    model: GPT,
    tokenizer: Tokenizer,
    naive: Naive,
    counts: list[int],
    kv_tokens: int,
    max_running: int,
    temperature: float,
    prefix_caching: bool,
    cancel_at: list[tuple[int, int]],
    seed: int,
) -> None:
    """Whatever branches, waits for a place, is pre-empted or cancelled. `cancel_at` are (step, which)."""
    engine = Engine(
        model,
        tokenizer,
        kv_tokens=kv_tokens,
        block_size=4,
        max_running=max_running,
        prefix_caching=prefix_caching,
    )
    free_at_first = engine.stats().num_free_blocks
    requests = [
        request
        for ids, count in zip(prompts(seed, len(counts)), counts, strict=True)
        for request in Request(
            ids, SamplingParams(temperature, seed=seed, max_tokens=10, logprobs=1, ignore_end=True)
        ).replicas(count)
    ]
    handles = [engine.submit(request) for request in requests]
    replies: dict[int, Completion] = {}
    streamed: dict[int, list[int]] = {handle: [] for handle in handles}
    for number in itertools.count():
        for step, which in cancel_at:
            if step == number and which < len(handles) and (over := engine.cancel(handles[which])):
                assert over.finish_reason == "cancelled" and list(over.ids) == streamed[handles[which]]
                replies[handles[which]] = over
        assert engine.stats().num_running + engine.num_waiting == len(handles) - len(replies)
        if engine.is_idle:
            break
        for event in engine.step():
            streamed[event.handle] += event.ids
            if event.completion is not None:
                replies[event.handle] = event.completion
    for handle, request in zip(handles, requests, strict=True):
        ids, expected = list(replies[handle].ids), naive(request)
        assert ids == (expected[: len(ids)] if replies[handle].finish_reason == "cancelled" else expected)
        assert len(replies[handle].logprobs or ()) == len(ids)
    assert engine.stats().num_free_blocks == free_at_first


def test_branches_have_texts_of_their_own(model: GPT, tokenizer: Tokenizer) -> None:
    """Half a character, a held-back stop string, a part of a call: each branch goes on from its own copy."""
    bias = dict.fromkeys((*tokenizer.encode("é"), *tokenizer.encode("a")), 12.0)
    bias |= {tokenizer.special(name): 10.0 for name in ("<|python_start|>", "<|python_end|>")}
    sampling = SamplingParams(seed=3, max_tokens=14, logit_bias=bias, stop=("aaa", "éé"))
    requests = Request(tuple(range(9)), sampling).replicas(24)
    together = Engine(model, tokenizer).generate(requests)
    alone = [Engine(model, tokenizer).generate([request])[0] for request in requests]
    assert together == alone
    assert len({one.ids for one in together}) > 10
    assert {one.finish_reason for one in together} == {"stop", "length"}
    assert any("\ufffd" in one.text for one in together) and any("é" in one.text for one in together)
    assert any(part.kind == "python" for one in together for part in one.parts)


def test_without_a_seed_replies_differ_and_the_engines_seed_repeats_them(
    model: GPT, tokenizer: Tokenizer
) -> None:
    requests = [Request((1, 2, 3), SamplingParams(max_tokens=10, ignore_end=True))] * 3
    first, again, other = (Engine(model, tokenizer, seed=seed).generate(requests) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({completion.ids for completion in first}) == 3
    assert (
        len({completion.ids for _ in range(2) for completion in Engine(model, tokenizer).generate(requests)})
        > 3
    )


def test_many_random_cancels_return_every_block(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, kv_tokens=120, block_size=4, max_running=4, tokens_per_step=24)
    free_at_first = engine.stats().num_free_blocks
    source = random.Random(5)
    handles: list[int] = []
    num_cancelled = 0
    for round_number, ids in enumerate(prompts(5, 200)):
        handles.append(engine.submit(a_request(ids, round_number, more=source.randrange(1, 20))))
        if source.random() < 0.3:
            engine.step()
        if source.random() < 0.9:
            completion = engine.cancel(source.choice(handles))
            if completion is not None:
                num_cancelled += 1
                assert completion.finish_reason == "cancelled"
    drain(engine)
    assert num_cancelled > 50
    assert engine.stats().num_free_blocks == free_at_first
    assert engine.stats().num_running == engine.num_waiting == 0
    assert engine.cancel(handles[0]) is None


class _BreaksOn:
    """Makes the logits, or the cached values, of every row that ends with one token NaN."""

    def __init__(self, model: GPT, token: int, parameter: torch.Tensor) -> None:
        self.row = parameter[token]
        self.kept = self.row.detach().clone()

    def __enter__(self) -> None:
        with torch.no_grad():
            self.row.fill_(float("nan"))

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            self.row.copy_(self.kept)


def test_a_request_whose_logits_are_nan_fails_alone(model: GPT, tokenizer: Tokenizer, naive: Naive) -> None:
    """The token's embedding is NaN, so keys, values and logits after it are; the pool must not spread them."""
    poison = TEXT_IDS + 1
    good = [a_request(ids, index) for index, ids in enumerate(prompts(6, 6))]
    biased = [replace(one, sampling=replace(one.sampling, logit_bias={poison: -1e9})) for one in good]
    expected = [naive(request) for request in biased]
    bad = a_request((*range(10), poison, *range(10)), 1)
    engine = Engine(model, tokenizer, kv_tokens=160, block_size=4, max_running=4)
    free_at_first = engine.stats().num_free_blocks
    with _BreaksOn(model, poison, model.embedding.weight):
        completions = engine.generate([biased[0], bad, *biased[1:3], bad, *biased[3:]])
    failed = [completions.pop(4), completions.pop(1)]
    assert [one.finish_reason for one in failed] == ["error", "error"]
    assert "finite" in (failed[0].error or "")
    assert ids_of(completions) == expected
    assert engine.stats().num_free_blocks == free_at_first
    # The same prompt works once the numbers do, and nothing broken was kept in the cache.
    completion = engine.generate([bad])[0]
    assert completion.cached_tokens == 0
    assert list(completion.ids) == naive(bad)


@pytest.mark.parametrize("windows", [(0, 7, 0), (5, 5, 5)], ids=str)
def test_what_a_broken_request_computed_is_found_by_nobody(
    tokenizer: Tokenizer, windows: tuple[int, ...]
) -> None:
    """A chunk with a NaN spoils the blocks of the clean tokens before it, too, which others begin with."""
    model, poison = random_model(tokenizer.vocab_size, windows), 251
    with torch.no_grad():
        model.embedding.weight[poison] = float("nan")
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_end=True, logit_bias={poison: -1e9})
    clean = tuple(range(12))
    good, bad = Request((*clean, 99), sampling), Request((*clean, poison, *range(60)), sampling)
    scored = Request(bad.prompt_ids, sampling, score_from=1)

    def engine() -> Engine:
        return Engine(model, tokenizer, block_size=4, tokens_per_step=16, max_running=4)

    [alone] = engine().generate([good])
    for broken in (bad, scored):
        found = engine().generate([broken, good])
        assert [one.finish_reason for one in found] == ["error", "length"] and found[1].ids == alone.ids
        left = engine()
        handle = left.submit(broken)
        left.step()
        left.cancel(handle)
        assert left.generate([good])[0].ids == alone.ids
        assert left.stats().num_free_blocks == left.num_blocks


def test_what_a_cancelled_request_left_behind_harms_nobody(
    model: GPT, tokenizer: Tokenizer, naive: Naive
) -> None:
    poison = TEXT_IDS + 1
    engine = Engine(model, tokenizer, kv_tokens=CONTEXT, block_size=16, tokens_per_step=16, max_running=2)
    request = a_request(tuple(range(5, 8)), 0)
    expected = naive(request)
    with _BreaksOn(model, poison, model.embedding.weight):
        handle = engine.submit(a_request((poison,) * 90, 0))
        for _ in range(4):
            engine.step()
        engine.cancel(handle)
    assert ids_of(engine.generate([request, request])) == [expected, expected]


def test_impossible_requests_are_refused_at_submit(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, kv_tokens=32, block_size=16)
    for request, parameter, code in (
        (Request((1,) * CONTEXT), "prompt", "context_length_exceeded"),
        (Request((1,) * 33), "prompt", "context_length_exceeded"),
        (Request((tokenizer.vocab_size,)), "prompt", "invalid_value"),
        (Request((1,), SamplingParams(logit_bias={-1: 1.0})), "logit_bias", "invalid_value"),
        (Request((1,), SamplingParams(stop_ids=(10**6,))), "stop_ids", "invalid_value"),
    ):
        with pytest.raises(RequestError) as refusal:
            engine.submit(request)
        assert (refusal.value.parameter, refusal.value.code) == (parameter, code)
        assert "\n" not in str(refusal.value)
    assert engine.is_idle


def test_a_refused_request_in_a_batch_costs_only_itself(model: GPT, tokenizer: Tokenizer) -> None:
    finished: list[int] = []
    good = a_request((1, 2), 0)
    completions = Engine(model, tokenizer).generate(
        [good, Request((1,) * CONTEXT), good], on_finish=lambda index, _: finished.append(index)
    )
    assert [one.finish_reason for one in completions] == ["length", "error", "length"]
    assert sorted(finished) == [0, 1, 2]


def test_a_reply_that_outgrows_the_pool_ends_by_length(
    model: GPT, tokenizer: Tokenizer, naive: Naive
) -> None:
    request = a_request((1, 2, 3), 0, more=60)
    completion = Engine(model, tokenizer, kv_tokens=32, block_size=16).generate([request])[0]
    assert completion.finish_reason == "length"
    assert list(completion.ids) == naive(request)[:30]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, list[int]], None]:
    """Lets replies to prompts of one length begin with given ids: a random model calls no tool by itself."""

    def follow(prompt_length: int, script: list[int]) -> None:
        def scripted_choose(logits: torch.Tensor, rows: list[Row]) -> list[Choice]:
            choices = choose(logits, rows)
            places = [row.position - prompt_length for row in rows for _ in row.seeds]
            return [
                choice._replace(id=script[place]) if place < len(script) else choice
                for choice, place in zip(choices, places, strict=True)
            ]

        monkeypatch.setattr("chatsmith.engine.engine.choose", scripted_choose)

    return follow


def call_ids(tokenizer: Tokenizer, expression: str) -> list[int]:
    start, end = tokenizer.special("<|python_start|>"), tokenizer.special("<|python_end|>")
    return [start, *tokenizer.encode(expression), end]


def output_ids(tokenizer: Tokenizer, result: str) -> list[int]:
    start, end = tokenizer.special("<|output_start|>"), tokenizer.special("<|output_end|>")
    return [start, *tokenizer.encode(result), end]


@pytest.mark.parametrize("tokens_per_step", [2, 256])
def test_a_tools_result_is_forced_in_and_the_reply_goes_on_from_it(
    model: GPT,
    tokenizer: Tokenizer,
    naive: Naive,
    scripted: Callable[[int, list[int]], None],
    tokens_per_step: int,
) -> None:
    called = call_ids(tokenizer, "1+1")
    forced = output_ids(tokenizer, "it is 2")
    prompt = tuple(range(9))
    scripted(len(prompt), [*tokenizer.encode("a"), *called])
    heard: list[str] = []

    def tool(expression: str) -> str:
        heard.append(expression)
        return "it is 2"

    request = Request(prompt, SamplingParams(temperature=0, max_tokens=40, ignore_end=True, logprobs=0))
    engine = Engine(model, tokenizer, tool=tool, tokens_per_step=tokens_per_step, max_running=2)
    completion = engine.generate([request])[0]
    begun = [*tokenizer.encode("a"), *called, *forced]
    assert heard == ["1+1"]
    assert list(completion.ids[: len(begun)]) == begun
    later = Request((*prompt, *begun), replace(request.sampling, max_tokens=40 - len(begun)))
    assert list(completion.ids[len(begun) :]) == naive(later)
    assert [not sampled for sampled in completion.sampled] == [
        len(begun) - len(forced) <= index < len(begun) for index in range(40)
    ]
    assert completion.logprobs is not None
    assert [one is not None for one in completion.logprobs] == list(completion.sampled)
    assert completion.parts[:3] == (Part("text", "a"), Part("python", "1+1"), Part("output", "it is 2"))


def test_a_tools_result_never_outgrows_the_reply(
    model: GPT, tokenizer: Tokenizer, scripted: Callable[[int, list[int]], None]
) -> None:
    called = call_ids(tokenizer, "1")
    scripted(3, called)
    request = Request((1, 2, 3), SamplingParams(max_tokens=len(called) + 4))
    completion = Engine(model, tokenizer, tool=lambda _: "x" * 500).generate([request])[0]
    assert len(completion.ids) == len(called) + 4
    assert completion.finish_reason == "length"


def test_a_tool_that_raises_fails_its_request_alone(
    model: GPT, tokenizer: Tokenizer, naive: Naive, scripted: Callable[[int, list[int]], None]
) -> None:
    scripted(3, call_ids(tokenizer, "1"))

    def tool(_: str) -> str:
        raise RuntimeError("out of order")

    bystander = a_request(tuple(range(20)), 0)
    calling = Request((1, 2, 3), SamplingParams(max_tokens=30))
    failed, other = Engine(model, tokenizer, tool=tool).generate([calling, bystander])
    assert (failed.finish_reason, failed.error) == ("error", "the tool failed: out of order")
    assert list(other.ids) == naive(bystander)


def test_without_a_tool_a_call_is_just_text(
    model: GPT, tokenizer: Tokenizer, scripted: Callable[[int, list[int]], None]
) -> None:
    scripted(3, call_ids(tokenizer, "1"))
    completion = Engine(model, tokenizer).generate([Request((1, 2, 3), SamplingParams(max_tokens=6))])[0]
    assert all(completion.sampled)


def test_a_stop_string_ends_the_stream_and_the_text_alike(
    model: GPT, tokenizer: Tokenizer, scripted: Callable[[int, list[int]], None]
) -> None:
    words = "the cat sat on the mat"
    scripted(3, [byte for char in words for byte in tokenizer.encode(char)])
    engine = Engine(model, tokenizer)
    engine.submit(Request((1, 2, 3), SamplingParams(stop=("n the", "zzz"))))
    events = drain(engine)
    assert "".join(part.text for event in events for part in event.parts) == "the cat sat o"
    completion = events[-1].completion
    assert completion is not None
    assert completion.text == "the cat sat o"
    assert completion.finish_reason == "stop"


def test_logprobs_are_those_of_the_reply_scored_afterwards(model: GPT, tokenizer: Tokenizer) -> None:
    request = Request((1, 2, 3), SamplingParams(seed=1, max_tokens=8, ignore_end=True, logprobs=2))
    completion = Engine(model, tokenizer).generate([request])[0]
    assert completion.logprobs is not None
    tokens = torch.tensor([[*request.prompt_ids, *completion.ids]])
    with torch.inference_mode():
        expected = model.logits(model(tokens))[0].log_softmax(-1)
    for place, (id, reported) in enumerate(zip(completion.ids, completion.logprobs, strict=True), start=2):
        assert reported is not None
        assert reported.logprob == pytest.approx(expected[place, id].item(), abs=1e-9)
        best = expected[place].topk(2)
        assert [id for id, _ in reported.top] == best.indices.tolist()


def test_a_model_compiled_for_training_decodes_eagerly(tokenizer: Tokenizer, model: GPT) -> None:
    """It would be compiled anew for every number of tokens that a step packs: minutes for one sample."""
    request = a_request((1, 2, 3), 0)
    expected = Engine(model, tokenizer).generate([request])
    compiled = copy.deepcopy(model)

    def backend(graph: torch.fx.GraphModule, _: object) -> NoReturn:
        raise AssertionError("compiled")

    for block in compiled.blocks:
        block.compile(backend=backend, dynamic=False)
    assert Engine(compiled, tokenizer).generate([request]) == expected


def test_limits_come_from_the_free_memory_of_a_gpu_and_leave_what_others_need(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, cpu, gpu = model.config.context_length, torch.device("cpu"), torch.device("cuda")
    each = kv_bytes_per_token(model.config, 2) * context

    def limits(
        device: torch.device, contexts: float, running: int | None, reserved: float = 0
    ) -> tuple[int, float]:
        monkeypatch.setattr("chatsmith.engine.kv_cache.free_memory", lambda device: int(2 * contexts * each))
        found, tokens = affordable(model.config, torch.bfloat16, device, running, int(2 * reserved * each))
        return found, tokens / context

    assert limits(gpu, 53, None) == (53, 53)
    assert limits(gpu, 53, None, reserved=50) == (3, 3)
    assert limits(gpu, 10_000, None) == (256, 256)
    assert limits(gpu, 53, 100) == (100, 53) and limits(gpu, 53, 7) == (7, 7)
    assert limits(gpu, 53, None, reserved=99) == (1, 1), "one context at least"
    assert limits(cpu, 53, None) == (16, 16) and limits(cpu, 5, None) == (16, 5)
    engine = Engine(model, tokenizer)
    assert (engine.max_running, engine._scheduler.tokens_per_step) == (16, 256)


def test_describe_is_one_line_with_the_size_of_the_pool(model: GPT, tokenizer: Tokenizer) -> None:
    line = Engine(model, tokenizer, kv_tokens=192).describe()
    assert "192 tokens" in line and "2.0 full contexts" in line and "\n" not in line


def joined(*completions: list[Part]) -> list[Part]:
    """Parts of a completion that came in pieces: those of one kind at a border are one, as a page joins them."""
    whole: list[Part] = []
    for parts in completions:
        for index, part in enumerate(parts):
            if index == 0 and whole and whole[-1].kind == part.kind:
                whole[-1] = Part(part.kind, whole[-1].text + part.text)
            else:
                whole.append(part)
    return whole


def swept_ids(tokenizer: Tokenizer) -> list[int]:
    """Text, a call and its output, text, a call and its output, which is empty, text."""
    first = [*call_ids(tokenizer, "1+1"), *output_ids(tokenizer, "it is 2")]
    second = [*call_ids(tokenizer, "37-1"), *output_ids(tokenizer, "")]
    encode = tokenizer.encode
    return [*encode("say"), *first, *encode(" the cat"), *second, *encode(" sat on the mat")]


def swept_tool(expression: str) -> str:
    return {"1+1": "it is 2", "37-1": ""}[expression]


def test_every_cut_of_a_completion_continues_to_the_same_by_its_ids(
    model: GPT, tokenizer: Tokenizer, scripted: Callable[[int, list[int]], None]
) -> None:
    """Within a call, between it and its output, within that: what is missing is forced in, and the rest is sampled."""
    prompt, script = tuple(range(9)), swept_ids(tokenizer)
    scripted(len(prompt), script)
    engine = Engine(model, tokenizer, tool=swept_tool, tokens_per_step=3, max_running=2)
    sampling = SamplingParams(temperature=0, max_tokens=len(script) + 2, ignore_end=True)
    [whole] = engine.generate([Request(prompt, sampling)])
    assert list(whole.ids[: len(script)]) == script
    for cut in range(1, len(whole.ids)):
        [before] = engine.generate([Request(prompt, replace(sampling, max_tokens=cut))])
        rest = Request((*prompt, *before.ids), replace(sampling, max_tokens=len(whole.ids) - cut))
        handles = [engine.submit(rest), engine.submit(rest)]  # which share their work
        events = drain(engine)
        for handle in handles:
            own = [event for event in events if event.handle == handle]
            [completion] = [event.completion for event in own if event.completion]
            assert before.ids + completion.ids == whole.ids, cut
            assert before.sampled + completion.sampled == whole.sampled, cut
            assert joined(before.parts, completion.parts) == list(whole.parts), cut
            streamed = [part for event in own for part in event.parts]
            assert "".join(part.text for part in streamed) == "".join(part.text for part in completion.parts)


def test_every_cut_of_a_completion_continues_to_the_same_by_its_message(
    model: GPT, tokenizer: Tokenizer, scripted: Callable[[int, list[int]], None]
) -> None:
    """A message does not say whether its last call was closed, or its output whole: the same comes of it either way."""
    opening = [Message.of("user", "go on")]
    prompt, script = render_prompt(opening, tokenizer), swept_ids(tokenizer)
    scripted(len(prompt), script)
    engine = Engine(model, tokenizer, tool=swept_tool)
    sampling = SamplingParams(temperature=0, max_tokens=len(script), ignore_end=True)
    [whole] = engine.generate([Request(tuple(prompt), sampling)])
    for cut in range(1, len(script)):
        [before] = engine.generate([Request(tuple(prompt), replace(sampling, max_tokens=cut))])
        unfinished = [*opening, Message("assistant", before.parts)]
        ids = render_unfinished(unfinished, tokenizer)
        room = len(prompt) + len(script) - len(ids)
        [completion] = engine.generate([Request(tuple(ids), replace(sampling, max_tokens=room))])
        assert joined(before.parts, completion.parts) == list(whole.parts), cut
        assert completion.sampled == whole.sampled[-len(completion.ids) :], cut


def test_an_output_that_is_not_the_tools_own_is_only_closed(
    model: GPT, tokenizer: Tokenizer, scripted: Callable[[int, list[int]], None]
) -> None:
    special = tokenizer.special
    prompt = (*call_ids(tokenizer, "1+1"), special("<|output_start|>"), *tokenizer.encode("was"))
    sampling = SamplingParams(temperature=0, max_tokens=3, ignore_end=True)
    [completion] = Engine(model, tokenizer, tool=swept_tool).generate([Request(prompt, sampling)])
    assert completion.ids[0] == special("<|output_end|>")
    assert completion.sampled == (False, True, True)
    # Cut into other tokens than the output itself is: the rest of the text.
    bytewise = tuple(id for char in "it i" for id in tokenizer.encode(char))
    [completion] = Engine(model, tokenizer, tool=swept_tool).generate(
        [Request((*prompt[: -len(tokenizer.encode("was"))], *bytewise), replace(sampling, max_tokens=9))]
    )
    assert completion.parts[0] == Part("output", "s 2")


def test_a_prompt_that_ends_in_a_call_is_only_scored_if_that_is_asked(
    model: GPT, tokenizer: Tokenizer
) -> None:
    request = Request((*range(5), *call_ids(tokenizer, "1+1")), SamplingParams(max_tokens=0), score_from=1)
    [completion] = Engine(model, tokenizer, tool=swept_tool).generate([request])
    assert (completion.ids, completion.finish_reason) == ((), "length")
