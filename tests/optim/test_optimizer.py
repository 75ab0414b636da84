"""Every parameter has one role, and a saved optimizer goes on exactly where it was."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.adamw import AdamGroup, AdamW
from chatsmith.optim.optimizer import Optimizer, Rates, role_of

RATES = Rates(
    matrix=0.02,
    head=0.004,
    embedding=0.2,
    value_embedding=0.1,
    bigram=0.1,
    scalar=0.02,
    gate=0.01,
    weight_decay=0.1,
)


def make_model(seed: int = 0) -> GPT:
    model = GPT(
        GPTConfig(
            vocab_size=50,
            context_length=16,
            num_layers=2,
            num_heads=2,
            head_dim=8,
            value_embedding_layers=(1,),
            bigram_buckets=32,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def train_a_little(model: GPT, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(step))
        model.logits(model(tokens)).square().mean().backward()
        optimizer.step(0.5 + 0.1 * step, 0.9, decay_scale=1.0)
        optimizer.zero_grad()


def test_every_parameter_of_a_gpt_has_the_role_its_part_says():
    expected = {
        "embedding.weight": "embedding",
        "smear_gate.weight": "gate",
        "smear_strength": "scalar",
        "residual_scalars": "scalar",
        "bigram.weight": "bigram",
        "value_embeddings.1.weight": "value_embedding",
        "head.weight": "head",
        "blocks.1.attention.value_gate.weight": "gate",
    }
    for layer in range(2):
        for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down"):
            expected[f"blocks.{layer}.{part}.weight"] = "matrix"
    names = dict(make_model().named_parameters())
    assert {name: role_of(name) for name in names} == expected
    assert set(expected.values()) <= {field.name for field in fields(Rates)}


def test_every_parameter_is_in_one_optimizer_once_with_the_rate_of_its_role():
    model = make_model()
    optimizer = Optimizer(model, RATES)
    by_adam = {name: group for group in optimizer.adamw.groups for name in group.parameters}
    assert sorted([*optimizer.muon.parameters, *optimizer.adamw.names]) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert all(group.learning_rate == getattr(RATES, role_of(name)) for name, group in by_adam.items())
    assert {settings["weight_decay"] for settings in optimizer.adamw.inner.param_groups} == {0.0}


def test_zero_rate_moves_nothing_and_zero_grad_drops_all_gradients():
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Optimizer(model, RATES)
    model.logits(model(torch.arange(16)[None])).sum().backward()
    optimizer.step(0.0, 0.9, 0.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_restored_optimizer_goes_on_bit_for_bit():
    model = make_model()
    optimizer = Optimizer(model, RATES)
    train_a_little(model, optimizer, range(3))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for name, value in optimizer.named_state().items()}
    train_a_little(model, optimizer, range(3, 6))

    resumed = make_model(seed=1)
    resumed.load_state_dict(weights)
    fresh = Optimizer(resumed, RATES)
    fresh.load_named_state(state)
    train_a_little(resumed, fresh, range(3, 6))
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, value in optimizer.named_state().items():
        assert torch.equal(value, fresh.named_state()[name]), name


def test_a_restored_optimizer_keeps_today_s_rates():
    """Rates are the plan's: a state must not bring back those it was saved under."""
    model = make_model()
    optimizer = Optimizer(model, RATES)
    train_a_little(model, optimizer, range(1))
    halved = Rates(**{field.name: getattr(RATES, field.name) for field in fields(Rates)} | {"head": 0.002})
    other = Optimizer(model, halved)
    other.load_named_state(optimizer.named_state())
    other.adamw.step(1.0)
    rates = [settings["lr"] for settings in other.adamw.inner.param_groups]
    assert rates == [group.learning_rate for group in other.adamw.groups]
    assert 0.002 in rates


def test_a_state_without_a_matrix_is_refused():
    optimizer = Optimizer(make_model(), RATES)
    state = optimizer.named_state()
    del state["muon.momentum.blocks.0.mlp.up.weight"]
    with pytest.raises(KeyError, match=r"blocks\.0\.mlp\.up"):
        optimizer.load_named_state(state)


def named_parameters() -> dict[str, Tensor]:
    return {name: torch.nn.Parameter(torch.ones(3)) for name in ("a", "b.c", "b.d")}


def test_adamw_names_its_state_and_gives_each_parameter_its_own_back():
    def make() -> AdamW:
        a, *b = named_parameters().items()
        return AdamW([AdamGroup(dict(b), 0.1, (0.8, 0.95)), AdamGroup(dict([a]), 0.2, (0.8, 0.95))])

    saved = make()
    for number, group in enumerate(saved.groups):
        for place, parameter in enumerate(group.parameters.values()):
            parameter.grad = torch.full((3,), 10.0 * number + place + 1)
    saved.groups[0].parameters["b.d"].grad = None  # has no state
    saved.step(1.0)
    state = saved.named_state()
    assert set(state) == {
        f"adamw.{field}.{name}" for field in ("step", "exp_avg", "exp_avg_sq") for name in ("a", "b.c")
    }
    restored = make()
    restored.load_named_state(state)
    again = restored.named_state()
    assert set(again) == set(state) and all(torch.equal(state[key], again[key]) for key in state)
