"""Recorded decoding says what the model itself says. `make_fx` stands in for CUDA graphs where there is none: it, too,
keeps operations with the very tensors they were recorded on, and repeats nothing that Python did around them.
"""

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from chatsmith.backends import Quantization
from chatsmith.backends.cuda_graph import CudaRecorder, GraphDecoder, Recorder, Work, rounded_up
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer
from tests.backends.conftest import fast_engine
from tests.engine.conftest import CONTEXT, random_model

Naive = Callable[[Request], list[int]]


class Tape:
    """Records the operations of some work, one by one, and counts how often each recording is played."""

    def __init__(self) -> None:
        self.plays: list[int] = []

    def __call__(self, work: Work) -> Work:
        nothing, number = torch.empty(0), len(self.plays)
        operations = make_fx(lambda _: work())(nothing)
        self.plays.append(0)

        def play() -> None:
            self.plays[number] += 1
            operations(nothing)

        return play


def recorded(engine: Engine, recorder: Recorder) -> Engine:
    """The engine, made to decode as it would on a GPU."""
    backend, longest = engine.backend, engine._blocks.blocks_for(CONTEXT)
    backend._decoder = GraphDecoder(  # type: ignore[attr-defined]
        backend.model, backend.attention, backend.cache, engine._scheduler.max_running, longest, recorder
    )
    return engine


def a_request(index: int, length: int, more: int) -> Request:
    ids = tuple((7 * index + 3 * place) % 250 for place in range(length))
    sampling = SamplingParams(temperature=index % 2, seed=index, max_tokens=more, ignore_end=True)
    return Request(ids, sampling)


@settings(max_examples=4, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 30), st.integers(2, 12)), min_size=2, max_size=6
    ),
    max_running=st.integers(1, 6),
    block_size=st.integers(2, 7),
    kv_tokens=st.integers(70, 200),
)
def test_replayed_decoding_equals_full_recomputation(
    model: GPT,
    tokenizer: Tokenizer,
    naive: Naive,
    arrivals: list[tuple[int, int, int]],
    max_running: int,
    block_size: int,
    kv_tokens: int,
) -> None:
    """Arrivals are (steps to wait, prompt's length, tokens to write): rows and blocks of all sizes, pre-empted, too."""
    engine = fast_engine(
        model, tokenizer, max_running=max_running, block_size=block_size, kv_tokens=kv_tokens, seed=0
    )
    tape = Tape()
    recorded(engine, tape)
    requests = [a_request(index, length, more) for index, (_, length, more) in enumerate(arrivals)]
    found: dict[int, list[int]] = {}
    handles: list[int] = []
    for request, (wait, _, _) in zip(requests, arrivals, strict=True):
        handles.append(engine.submit(request))
        for _ in range(wait):
            for event in engine.step():
                found.setdefault(event.handle, []).extend(event.ids)
    while not engine.is_idle:
        for event in engine.step():
            found.setdefault(event.handle, []).extend(event.ids)
    assert [found[handle] for handle in handles] == [naive(request) for request in requests]
    assert sum(tape.plays) > len(tape.plays), "nothing was replayed but what is checked"
    assert not engine.backend.cache.layer(0)[0][0].any(), "block 0, which pads, is no longer zero"


@pytest.mark.parametrize("windows", [(0, 0), (3, 30), (1, 2)], ids=str)
@pytest.mark.filterwarnings("error")
def test_rows_that_outgrow_the_workspace_take_turns_within_a_recording(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, windows: tuple[int, ...]
) -> None:
    monkeypatch.setattr(
        "chatsmith.engine.paged_attention.WORKSPACE_TOKENS", 1
    )  # then it holds one whole context
    model = random_model(tokenizer.vocab_size, windows)
    requests = [a_request(index, 5 + 9 * index, 12) for index in range(6)]
    plain = Engine(model, tokenizer, max_running=6).generate(requests)
    assert recorded(fast_engine(model, tokenizer, max_running=6), Tape()).generate(requests) == plain


def test_few_sizes_are_recorded_and_all_else_is_replayed(model: GPT, tokenizer: Tokenizer) -> None:
    tape = Tape()
    engine = recorded(fast_engine(model, tokenizer, max_running=4, block_size=4), tape)
    engine.generate([a_request(index, 8, 60) for index in range(4)])
    engine.generate([a_request(index, 8, 60) for index in range(3)])
    # Four rows, as three are rounded up to; 8, 16 and 32 blocks, of which the context has 24.
    assert len(tape.plays) == 3
    assert sum(tape.plays) == 2 * 59 + 3, "59 steps of decoding each, and a check for each recording"


@pytest.mark.parametrize("quantize", [None, "bf16", "int8"])
def test_recordings_outlive_a_change_of_weights(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, quantize: Quantization | None
) -> None:
    """As in RL, where weights change each round: nothing is recorded again, and nothing is said by the old weights."""
    monkeypatch.setattr("chatsmith.backends.load_library", lambda: None)  # no C on a GPU
    model = random_model(tokenizer.vocab_size).float()
    requests = [a_request(index, 8, 20) for index in range(4)]
    tape = Tape()
    engine = recorded(fast_engine(model, tokenizer, quantize, max_running=4, block_size=4), tape)
    first = engine.generate(requests)
    num_recordings = len(tape.plays)
    assert num_recordings > 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    engine.weights_changed()
    second = engine.generate(requests)
    assert len(tape.plays) == num_recordings
    assert second == fast_engine(model, tokenizer, quantize, max_running=4, block_size=4).generate(requests)
    assert [one.ids for one in second] != [one.ids for one in first]


def test_somebody_s_nan_is_not_everybody_s(tokenizer: Tokenizer, naive: Naive, model: GPT) -> None:
    poisoned = copy.deepcopy(model)
    with torch.no_grad():
        poisoned.embedding.weight[200] = float("nan")
    engine = recorded(fast_engine(poisoned, tokenizer, max_running=4, block_size=4), Tape())
    healthy, sick = a_request(0, 1, 12), Request((200,), SamplingParams(temperature=0, max_tokens=12))
    replies = engine.generate([healthy, sick, healthy])
    assert [reply.finish_reason for reply in replies] == ["length", "error", "length"]
    assert [list(replies[index].ids) for index in (0, 2)] == [naive(healthy)] * 2


def test_a_recording_that_goes_wrong_is_given_up(
    model: GPT, tokenizer: Tokenizer, naive: Naive, caplog: pytest.LogCaptureFixture
) -> None:
    def does_nothing(work: Work) -> Work:
        return lambda: None

    def refuses(work: Work) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing")

    request = a_request(0, 5, 12)
    for recorder, said in (
        (does_nothing, "it computes something else"),
        (refuses, "operation not permitted"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine = recorded(fast_engine(model, tokenizer, max_running=4), recorder)
            assert list(engine.generate([request])[0].ids) == naive(request)
        assert said in caplog.text and len(caplog.records) == 1


def test_sizes_are_powers_of_two_up_to_the_most() -> None:
    assert [rounded_up(count, 6) for count in range(1, 7)] == [1, 2, 4, 4, 6, 6]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["plain", "triton"])
def test_cuda_graphs_compute_what_the_step_computes(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    model = random_model(tokenizer.vocab_size).to("cuda", dtype)
    requests = [a_request(index, 1 + 5 * index, 30) for index in range(6)]
    with caplog.at_level(logging.WARNING):
        engine = fast_engine(model, tokenizer, max_running=6, block_size=4)
        decoder = engine.backend._decoder  # type: ignore[attr-defined]
        assert isinstance(decoder, GraphDecoder)
        assert isinstance(decoder._recorder, CudaRecorder)
        found = engine.generate(requests)
    assert not caplog.records, "recordings were given up"
    expected = Engine(model, tokenizer, max_running=6, block_size=4).generate(requests)
    assert [one.ids for one in found] == [one.ids for one in expected]
