"""The network: what it may see, what it starts as, and that an engine's way through it is the same network."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters

from chatsmith.model.attention import attention_scale
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT, bigram_buckets

VOCAB_SIZE, CONTEXT = 50, 24  # as in conftest.py


@pytest.fixture(scope="module")
def model(random_model) -> GPT:
    return random_model()


def naive_forward(model: GPT, ids: list[int]) -> list[Tensor]:
    """Hidden states of one row, a position and a head at a time, from the weights alone."""
    config, weights = model.config, dict(model.named_parameters())
    heads, head_dim = config.num_heads, config.head_dim

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().mean() + torch.finfo(x.dtype).eps).sqrt()

    def turned(x: Tensor, position: int) -> Tensor:
        half = head_dim // 2
        angles = position / config.rope_base ** (torch.arange(half, dtype=x.dtype) / half)
        pairs = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), -angles)
        return torch.cat((pairs.real, pairs.imag))

    embeddings, bigrams = [], []
    for place, token in enumerate(ids):
        x = unit(weights["embedding.weight"][token])
        if place:
            gate = torch.sigmoid(weights["smear_gate.weight"] @ x[:16])
            x = x + weights["smear_strength"] * gate * unit(weights["embedding.weight"][ids[place - 1]])
        embeddings.append(x)
        mixed = (token + 1) * 2_654_435_761 + (ids[place - 1] + 1 if place else 0) * 40_503
        bigrams.append(weights["bigram.weight"][(mixed ^ (mixed >> 15)) % config.bigram_buckets])
    stream = list(embeddings)
    for layer in range(config.num_layers):
        part = {
            name.removeprefix(f"blocks.{layer}."): w
            for name, w in weights.items()
            if f"blocks.{layer}." in name
        }
        keep, token_share, bigram_share = weights["residual_scalars"][layer]
        stream = [
            keep * x + token_share * e + bigram_share * b
            for x, e, b in zip(stream, embeddings, bigrams, strict=True)
        ]
        queries, keys, values = [], [], []
        for place, x in enumerate(stream):
            q, k, v = ((matrix @ unit(x)).view(heads, head_dim) for matrix in part["attention.qkv.weight"])
            if layer in config.value_embedding_layers:
                gate = 2 * torch.sigmoid(part["attention.value_gate.weight"] @ unit(x)[:16])
                own = weights[f"value_embeddings.{layer}.weight"][ids[place]].view(heads, head_dim)
                v = v + gate[:, None] * own
            queries.append([unit(turned(one, place)) for one in q])
            keys.append([unit(turned(one, place)) for one in k])
            values.append(v)
        for place in range(len(ids)):
            window = config.windows[layer] or len(ids)
            seen = range(max(0, place + 1 - window), place + 1)
            mixed_values = []
            for head in range(heads):
                scores = torch.stack([queries[place][head] @ keys[other][head] for other in seen])
                shares = (scores * attention_scale(head_dim)).softmax(0)
                mixed_values.append(sum(s * values[o][head] for s, o in zip(shares, seen, strict=True)))
            x = stream[place] + part["attention.out.weight"] @ torch.cat(mixed_values)
            inner = (part["mlp.up.weight"] @ unit(x)).clamp(min=0) ** 2
            stream[place] = x + part["mlp.down.weight"] @ inner
    return [unit(x) for x in stream]


def test_the_network_is_the_one_its_papers_describe(model, random_tokens):
    tokens = random_tokens(rows=1, length=11)
    expected = torch.stack(naive_forward(model, tokens[0].tolist()))
    torch.testing.assert_close(model(tokens)[0], expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(place=st.integers(0, CONTEXT - 1), replacement=st.integers(0, VOCAB_SIZE - 1))
def test_a_token_changes_nothing_before_it(model, random_tokens, place, replacement):
    tokens = random_tokens(rows=1)
    changed = tokens.clone()
    changed[0, place] = replacement
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    if changed[0, place] != tokens[0, place]:
        assert not torch.equal(before[:, place:], after[:, place:])


def test_rows_of_a_batch_do_not_see_each_other(model, random_tokens):
    tokens = random_tokens(rows=3)
    torch.testing.assert_close(model(tokens)[1:2], model(tokens[1:2]), rtol=1e-12, atol=1e-12)


def test_windows_limit_how_far_a_token_is_seen(random_model, random_tokens):
    """A layer carries a token window - 1 places on; the terms of the token before carry it one more."""
    window, layers = 4, 2
    model = random_model(windows=(window,) * layers)
    tokens = random_tokens(rows=1)
    changed = tokens.clone()
    changed[0, 0] = (tokens[0, 0] + 1) % VOCAB_SIZE
    reach = 1 + layers * (window - 1)
    differs = (model(tokens) != model(changed)).any(-1)[0]
    assert differs[: reach + 1].all() and not differs[reach + 1 :].any()


class Cache:
    """Keys and values of all tokens so far, a layer each, and attention over them written out."""

    def __init__(self, windows: tuple[int, ...]) -> None:
        self.windows = windows
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer in self.keys:
            k, v = torch.cat((self.keys[layer], k), 1), torch.cat((self.values[layer], v), 1)
        self.keys[layer], self.values[layer] = k, v
        total, new = k.shape[1], q.shape[1]
        distance = torch.arange(total - new, total)[:, None] - torch.arange(total)[None, :]
        visible = distance >= 0
        if self.windows[layer]:
            visible &= distance < self.windows[layer]
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * attention_scale(q.shape[-1])
        return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("pieces", [[1] * CONTEXT, [CONTEXT], [5, 1, 1, 9, 8]])
def test_a_row_fed_in_pieces_through_a_cache_gives_the_same_hidden_states(model, random_tokens, pieces):
    tokens = random_tokens()
    cache, parts, start = Cache(model.config.windows), [], 0
    for size in pieces:
        piece = tokens[:, start : start + size]
        before = torch.full_like(piece, -1)
        before[:, (start == 0) :] = tokens[:, max(0, start - 1) : start + size - 1]
        positions = torch.arange(start, start + size).expand_as(piece)
        parts.append(model(piece, previous=before, positions=positions, attend=cache.attend))
        start += size
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-10, atol=1e-10)


def test_the_token_before_counts_beyond_attention(model, random_tokens):
    tokens = random_tokens(rows=1, length=1)
    hidden = [model(tokens, previous=torch.tensor([[before]])) for before in (-1, 0, 1)]
    assert not torch.allclose(hidden[0], hidden[1])
    assert not torch.allclose(hidden[1], hidden[2])


def test_every_parameter_has_a_part_in_the_result(model, random_tokens):
    model.logits(model(random_tokens())).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    model.zero_grad()
    assert without == []


def test_logits_are_softcapped_and_at_least_float32(model):
    hidden = 1000 * torch.ones(1, model.config.model_dim, dtype=torch.float64)
    logits = model.logits(hidden)
    assert logits.abs().max() <= model.config.softcap and logits.abs().max() > 0.99 * model.config.softcap
    raw = F.linear(hidden / 1e5, model.head.weight)
    torch.testing.assert_close(model.logits(hidden / 1e5), 15 * torch.tanh(raw / 15))
    assert model.logits(hidden.bfloat16()).dtype == torch.float32


def test_a_row_longer_than_the_context_is_refused(model, random_tokens):
    with pytest.raises(ValueError, match="25 tokens do not fit the model's context of 24"):
        model(random_tokens(length=CONTEXT + 1))


def test_compute_dtype_changes_activations_and_not_the_weights(random_model, random_tokens):
    model = random_model(dtype=torch.float32)
    exact = model(random_tokens())
    model.compute_dtype = torch.bfloat16
    rough = model(random_tokens())
    assert rough.dtype == torch.bfloat16
    assert F.cosine_similarity(rough.float(), exact, dim=-1).min() > 0.98
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def untrained(seed: int) -> GPT:
    model = GPT(
        GPTConfig(
            vocab_size=VOCAB_SIZE,
            context_length=CONTEXT,
            num_layers=2,
            num_heads=2,
            head_dim=8,
            value_embedding_layers=(1,),
            bigram_buckets=32,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)  # what is forgotten must show
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def test_starting_weights_follow_from_the_seed_alone():
    first, again, other = (untrained(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())


def test_starting_weights_are_as_wide_as_their_place_demands():
    weights = {name: value for name, value in untrained(1).named_parameters() if value.numel() > 200}
    deviations = {name: value.std().item() * 16**0.5 for name, value in weights.items()}
    expected = {"embedding.weight": 0.8 * 4, "head.weight": 0.001 * 4, "value_embeddings.1.weight": 1.0}
    for layer in range(2):
        expected |= {f"blocks.{layer}.attention.qkv.weight": 1.0, f"blocks.{layer}.mlp.up.weight": 0.4}
    for name in deviations.keys() - expected.keys():
        assert deviations[name] == 0, name
    for name, deviation in expected.items():
        assert deviations[name] == pytest.approx(deviation, rel=0.1), name


def test_an_untrained_model_passes_embeddings_through_and_knows_nothing(random_tokens):
    model = untrained(1)
    tokens = random_tokens()
    embedding = F.rms_norm(model.embedding(tokens), (model.config.model_dim,))
    hidden = model(tokens)
    torch.testing.assert_close(hidden, embedding, rtol=1e-4, atol=1e-5)
    loss = F.cross_entropy(model.logits(hidden).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(VOCAB_SIZE), abs=0.02)


def test_bigram_rows_are_the_ones_that_trained_models_were_trained_with():
    tokens = torch.tensor([0, 1, 7, 8191, 131_071, 131_071])
    previous = torch.tensor([-1, 0, 3, 8190, 131_071, -1])
    assert bigram_buckets(tokens, previous, 4096).tolist() == [1503, 2374, 1304, 1073, 4000, 1732]


@settings(max_examples=50, deadline=None)
@given(
    token=st.integers(0, 2**31 - 1),
    previous=st.integers(-1, 2**31 - 1),
    num_buckets=st.sampled_from([1, 3, 4096, 1_000_003]),
)
def test_bigram_rows_are_within_the_table(token, previous, num_buckets):
    row = bigram_buckets(torch.tensor(token), torch.tensor(previous), num_buckets).item()
    mixed = (token + 1) * 2_654_435_761 + (previous + 1) * 40_503  # in Python nothing overflows
    assert row == (mixed ^ (mixed >> 15)) % num_buckets


def test_bigram_rows_are_spread_evenly():
    tokens, previous = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    counts = torch.bincount(bigram_buckets(tokens, previous, 1024).flatten(), minlength=1024)
    assert counts.max() < 3 * counts.float().mean()


def test_positions_keep_their_angles_when_weights_are_rounded(model: GPT) -> None:
    exact = model.cos.clone()
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    assert rounded.head.weight.dtype == torch.bfloat16
    assert torch.equal(rounded.cos.double(), exact.float().double())
    assert rounded.to(torch.float64).cos.dtype == torch.float64


def test_all_blocks_are_one_program():
    """The first had been compiled for itself: what it was given twice was one tensor."""
    shape = GPTConfig(VOCAB_SIZE, 8, 3, 2, 8, value_embedding_layers=(0, 1, 2), bigram_buckets=10)
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    torch.compiler.reset()
    counters.clear()
    for block in model.blocks:
        block.compile(dynamic=False, backend="eager")
    model(torch.arange(8)[None])
    assert counters["stats"]["unique_graphs"] == 1
