"""Decoding in C says what the model itself says, whatever its weights are stored as; and alone as in a batch."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from chatsmith.backends import Quantization
from chatsmith.backends import cpu_decoder as decoder
from chatsmith.backends.native import Weights, load_library
from chatsmith.backends.quantized import Int8Linear, decoding_view
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer
from tests.backends.conftest import fast_engine

library = load_library()
pytestmark = pytest.mark.skipif(library is None, reason="needs Linux and a C compiler")

FOLLOWED = SamplingParams(temperature=0, max_tokens=24, ignore_end=True, logprobs=0)


def random_model(
    vocab_size: int, dtype: torch.dtype = torch.float32, bigram_buckets: int = 64, heads: int = 2
) -> GPT:
    """Wide enough for the C, every parameter random, windows on some layers, value embeddings on one."""
    config = GPTConfig(
        vocab_size=vocab_size,
        context_length=96,
        num_layers=3,
        num_heads=heads,
        head_dim=32,
        windows=(0, 7, 0),
        value_embedding_layers=(1,),
        bigram_buckets=bigram_buckets,
    )
    return random_weights(config, dtype)


def random_weights(config: GPTConfig, dtype: torch.dtype) -> GPT:
    model = GPT(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    for parameter in model.parameters():  # model.to() would round the angles of the positions, too
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def portable_model(vocab_size: int, dtype: torch.dtype = torch.float32) -> GPT:
    shape = GPTConfig(vocab_size, 96, 2, 2, 32, softcap=NO_SOFTCAP, architecture="portable", windows=(7, 0))
    return random_weights(shape, dtype)


def requests(count: int, sampling: SamplingParams = FOLLOWED) -> list[Request]:
    source = random.Random(1)
    lengths = [1, 2, *(source.randrange(1, 60) for _ in range(count - 2))]
    return [Request(tuple(source.randrange(250) for _ in range(n)), sampling) for n in lengths[:count]]


def likely(model: GPT, ids: tuple[int, ...], start: int) -> torch.Tensor:
    """The model's own log-probabilities, float64 throughout, of ids[start:]."""
    wide = GPT(model.config).double()
    wide.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    with torch.inference_mode():
        scores = wide.logits(wide(torch.tensor([ids]))[0]).log_softmax(-1)
    return scores[range(start - 1, len(ids) - 1), list(ids[start:])]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bigram_buckets", [0, 64])
@pytest.mark.parametrize("longest_chunk", [1, 16, 128], ids=["prompts by torch", "some by torch", "all in C"])
def test_the_c_network_computes_the_model(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    stored: torch.dtype,
    bigram_buckets: int,
    longest_chunk: int,
) -> None:
    monkeypatch.setattr(decoder, "MOST_TOKENS", longest_chunk)
    model = random_model(tokenizer.vocab_size, stored, bigram_buckets)
    model.compute_dtype = torch.float32
    engine = fast_engine(model, tokenizer, max_running=5, block_size=4)
    assert engine.backend.name == "C"
    for completion in engine.generate(requests(7)):
        assert completion.logprobs is not None and len(completion.ids) == 24
        found = torch.tensor([one.logprob for one in completion.logprobs if one], dtype=torch.float64)
        ids = completion.prompt_ids + completion.ids
        torch.testing.assert_close(found, likely(model, ids, len(completion.prompt_ids)), atol=2e-4, rtol=0)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_c_network_computes_portable_models(
    tokenizer: Tokenizer, stored: torch.dtype, quantize: Quantization | None
) -> None:
    model = portable_model(tokenizer.vocab_size, stored)
    model.compute_dtype = torch.float32
    engine = fast_engine(model, tokenizer, max_running=5, block_size=4, quantize=quantize)
    assert engine.backend.name == "C"
    for completion in engine.generate(requests(7)):
        assert completion.logprobs is not None and len(completion.ids) == 24
        found = torch.tensor([one.logprob for one in completion.logprobs if one], dtype=torch.float64)
        expected = likely(model, completion.prompt_ids + completion.ids, len(completion.prompt_ids))
        torch.testing.assert_close(found, expected, atol=0.2 if quantize else 2e-4, rtol=0)


def test_a_pool_in_bfloat16_is_rounded_and_nothing_else(tokenizer: Tokenizer) -> None:
    model = random_model(tokenizer.vocab_size, torch.bfloat16)
    engine = fast_engine(model, tokenizer, max_running=5, block_size=4)
    assert engine.backend.name == "C"
    for completion in engine.generate(requests(4)):
        found = torch.tensor([one.logprob for one in completion.logprobs or () if one], dtype=torch.float64)
        ids = completion.prompt_ids + completion.ids
        torch.testing.assert_close(found, likely(model, ids, len(completion.prompt_ids)), atol=0.2, rtol=0)


def test_alone_and_in_a_batch_every_number_is_the_same(tokenizer: Tokenizer) -> None:
    """Bit for bit, in float32: the order of a sum does not depend on how many rows there are."""
    model = random_model(tokenizer.vocab_size)
    sampling = replace(FOLLOWED, temperature=1.0, seed=5)
    # Longer prompts are read by torch, whose sums do depend on what they are packed with.
    short = requests(16, sampling)
    together = fast_engine(model, tokenizer, max_running=16).generate(short)
    for request, expected in zip(short, together, strict=True):
        assert fast_engine(model, tokenizer).generate([request]) == [expected]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", [None, "bf16", "int8"])
@pytest.mark.parametrize("make", [random_model, portable_model])
def test_weights_that_change_in_place_are_seen(
    tokenizer: Tokenizer, make: Callable[..., GPT], stored: torch.dtype, quantize: Quantization | None
) -> None:
    model = make(tokenizer.vocab_size, stored)
    engine = fast_engine(model, tokenizer, quantize)
    before = engine.generate(requests(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.1)
    engine.weights_changed()
    after = engine.generate(requests(3))
    assert after != before
    assert after == fast_engine(model, tokenizer, quantize).generate(requests(3))


@pytest.mark.parametrize("native", [True, False])
def test_int8_weights_are_off_by_their_rounding_only(
    tokenizer: Tokenizer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tokenizer.vocab_size)
    rounded = decoding_view(model, None, "int8")
    exact = GPT(model.config)
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, module in rounded.named_modules():
            if isinstance(module, Int8Linear):
                weight = exact.get_parameter(f"{name}.weight")
                rounded_weight = (module.weight * module.scale[:, None]).view(weight.shape)
                assert (rounded_weight - weight).abs().max() <= weight.abs().max() / 254 * 1.001
                weight.copy_(rounded_weight)
    if not native:
        monkeypatch.setattr("chatsmith.backends.load_library", lambda: None)
    engine = fast_engine(model, tokenizer, quantize="int8")
    assert engine.backend.name == ("C" if native else "torch")
    for completion in engine.generate(requests(4)):
        found = torch.tensor([one.logprob for one in completion.logprobs or () if one], dtype=torch.float64)
        ids = completion.prompt_ids + completion.ids
        torch.testing.assert_close(found, likely(exact, ids, len(completion.prompt_ids)), atol=2e-4, rtol=0)


def test_weights_kept_in_bfloat16_are_off_by_their_rounding_only(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tokenizer.vocab_size)
    rounded = GPT(model.config)
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        for linear in (
            rounded.head,
            *(
                getattr(part, name)
                for block in rounded.blocks
                for part, name in (
                    (block.attention, "qkv"),
                    (block.attention, "out"),
                    (block.mlp, "up"),
                    (block.mlp, "down"),
                )
            ),
        ):
            linear.weight.copy_(linear.weight.bfloat16())
    for native in (True, False):
        if not native:
            monkeypatch.setattr("chatsmith.backends.load_library", lambda: None)
        engine = fast_engine(model, tokenizer, quantize="bf16")
        for completion in engine.generate(requests(4)):
            found = torch.tensor([one.logprob for one in completion.logprobs or () if one]).double()
            ids = completion.prompt_ids + completion.ids
            torch.testing.assert_close(
                found, likely(rounded, ids, len(completion.prompt_ids)), atol=2e-4, rtol=0
            )
    assert model.head.weight.dtype == torch.float32


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 16, 17, 64])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(
    ("columns", "outputs"), [(32, 1), (48, 7), (1040, 66), (2064, 130), (32, 16), (2080, 336)]
)
def test_products_are_those_of_torch_for_all_remainders(
    num_rows: int, stored: torch.dtype, columns: int, outputs: int
) -> None:
    assert library is not None
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(num_rows, columns, generator=generator)
    weight = (torch.randn(outputs, columns, generator=generator) * 20).to(stored)
    scale = torch.rand(outputs, generator=generator) + 0.5 if stored == torch.int8 else None
    wide = weight.double() * (1 if scale is None else scale.double()[:, None])
    found = library.linear(x, Weights.of(weight, scale))
    close = {"rtol": 1e-5, "atol": 2e-2 * columns**0.5 / 32}
    torch.testing.assert_close(found.double(), x.double() @ wide.T, **close)
    if stored != torch.float32:
        weights = Weights.of(weight, scale, rounds=True)
        rounded = library.linear(x, weights)
        if not torch.equal(rounded, found):  # this processor multiplies bf16
            torch.testing.assert_close(rounded.double(), x.bfloat16().double() @ wide.T, **close)
        alone = torch.cat([library.linear(row, weights) for row in x.split(1)])
        if columns % 32 or outputs % 16:
            assert torch.equal(rounded, alone)
        else:  # some processors sum these in tiles, if there are a few rows
            torch.testing.assert_close(rounded, alone, **close)


def test_a_request_of_nan_leaves_its_neighbours_alone(tokenizer: Tokenizer) -> None:
    model = random_model(tokenizer.vocab_size)
    sampling = replace(FOLLOWED, logit_bias={251: -1e9})
    good = [Request((id,), sampling) for id in range(4)]
    expected = fast_engine(model, tokenizer).generate(good)
    with torch.no_grad():
        model.embedding.weight[251] = float("nan")
    found = fast_engine(model, tokenizer).generate([good[0], Request((1, 251), FOLLOWED), *good[1:]])
    assert found.pop(1).finish_reason == "error"
    assert found == expected


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("threads", [2, 5, 8])
def test_more_threads_than_heads_share_out_nothing_that_is_not_there(
    tokenizer: Tokenizer, heads: int, threads: int
) -> None:
    model = random_model(tokenizer.vocab_size, heads=heads)
    alone = [fast_engine(model, tokenizer).generate([one])[0].ids for one in requests(3)]
    torch.set_num_threads(threads)
    assert [fast_engine(model, tokenizer).generate([one])[0].ids for one in requests(3)] == alone
