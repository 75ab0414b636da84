"""The printed cost of a model is that of the network which is really built."""

import pytest

from chatsmith.model.config import GPTConfig, kv_bytes_per_token, model_cost
from chatsmith.model.gpt import GPT

CONFIG = GPTConfig(
    vocab_size=300,
    context_length=64,
    num_layers=3,
    num_heads=2,
    head_dim=16,
    windows=(16, 0, 16),
    value_embedding_layers=(0, 2),
    bigram_buckets=128,
)


def test_groups_of_parameters_are_those_of_the_network():
    cost = model_cost(CONFIG)
    sizes = {name: parameter.numel() for name, parameter in GPT(CONFIG).named_parameters()}
    small = {name for name in sizes if "gate" in name or name in ("smear_strength", "residual_scalars")}
    matrices = {name for name in sizes if name.startswith("blocks.")} - small
    assert cost.matrices == sum(sizes[name] for name in matrices)
    assert cost.head == sizes["head.weight"]
    assert cost.tables == sum(sizes[name] for name in sizes.keys() - matrices - small - {"head.weight"})
    assert cost.parameters == sum(sizes.values()) - sum(sizes[name] for name in small)
    assert cost.scaling_parameters == cost.matrices + cost.head


@pytest.mark.parametrize(("length", "seen"), [(None, 16 + 64 + 16), (8, 8 + 8 + 8), (32, 16 + 32 + 16)])
def test_flops_are_those_of_the_palm_formula_within_the_windows(length, seen):
    width = 32
    matrices = 3 * 12 * width**2
    expected = 6 * (matrices + 300 * width) + 12 * width * seen
    assert model_cost(CONFIG, length).training_flops_per_token == expected


def test_cache_bytes_are_keys_and_values_of_every_layer():
    assert kv_bytes_per_token(CONFIG, bytes_per_number=2) == 2 * 3 * 32 * 2
