"""A config is all that a network is rebuilt from: it survives JSON, and what no model can be is refused."""

import json

import pytest

from chatsmith.model.config import GATE_CHANNELS, GPTConfig
from chatsmith.runtime.errors import UserError


def test_config_survives_json_with_every_field_away_from_its_default():
    config = GPTConfig(
        vocab_size=300,
        context_length=64,
        num_layers=3,
        num_heads=2,
        head_dim=16,
        windows=(8, 0, 16),
        value_embedding_layers=(0, 2),
        bigram_buckets=128,
        rope_base=5000.0,
        softcap=20.0,
    )
    values = json.loads(json.dumps(config.to_json()))
    assert GPTConfig.from_json(values) == config
    plain = GPTConfig(vocab_size=300)
    assert all(getattr(config, name) != getattr(plain, name) for name in values if name != "vocab_size")


def test_no_windows_means_the_whole_context_in_every_layer():
    assert GPTConfig(vocab_size=300, num_layers=3).windows == (0, 0, 0)


def test_width_is_heads_times_head_dim():
    assert GPTConfig(vocab_size=300, num_heads=3, head_dim=16).model_dim == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"context_length": 0}, "context_length must be at least 1"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"num_heads": -1}, "num_heads must be at least 1"),
        ({"head_dim": 0}, "head_dim must be at least 1"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"num_heads": 1, "head_dim": GATE_CHANNELS - 2}, f"at least {GATE_CHANNELS} channels, not 14"),
        ({"windows": (1, 2)}, "windows needs 6 numbers"),
        ({"windows": (0, 0, 0, 0, 0, -1)}, "windows needs 6 numbers >= 0"),
        ({"value_embedding_layers": (6,)}, "must name layers 0 to 5"),
        ({"value_embedding_layers": (-1,)}, "must name layers 0 to 5"),
        ({"bigram_buckets": -1}, "bigram_buckets must be >= 0"),
        ({"softcap": 0.0}, "softcap > 0"),
        ({"softcap": float("nan")}, "softcap > 0"),
        ({"rope_base": 1.0}, "rope_base > 1"),
    ],
)
def test_impossible_models_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**{"vocab_size": 300, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 8, "router": "top"}, "does not know: experts, router"),
        ({"num_layers": "six"}, "damaged"),
        ({"windows": 3}, "damaged"),
    ],
)
def test_foreign_or_damaged_json_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        GPTConfig.from_json(GPTConfig(vocab_size=300).to_json() | change)


def test_json_without_a_vocabulary_is_damaged():
    with pytest.raises(UserError, match="damaged"):
        GPTConfig.from_json({})
