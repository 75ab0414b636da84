"""A portable model is Qwen3's shape: written out plainly here, it gives the same logits."""

import pytest
import torch
import torch.nn.functional as F

from chatsmith.model.config import NO_SOFTCAP, GPTConfig, model_cost
from chatsmith.model.gpt import GPT, rotary_table
from chatsmith.runtime.errors import UserError

CONFIG = GPTConfig(50, 24, 2, 2, 16, softcap=NO_SOFTCAP, architecture="portable")


def portable_model(config: GPTConfig = CONFIG) -> GPT:
    model = GPT(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.double()


def plain_logits(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """One row of ids (T,) through the textbook's network."""
    weights, config = model.state_dict(), model.config
    width, heads, size = config.model_dim, config.num_heads, config.head_dim

    def unit(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()

    cos, sin = rotary_table(len(ids), size, config.rope_base)

    def turned(x: torch.Tensor) -> torch.Tensor:  # (T, H, D)
        a, b = x[..., : size // 2], x[..., size // 2 :]
        c, s = cos[:, None], sin[:, None]
        return torch.cat((a * c + b * s, b * c - a * s), -1)

    x = unit(weights["embedding.weight"][ids])
    later = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for layer in range(config.num_layers):
        name = f"blocks.{layer}"
        q, k, v = (unit(x) @ w.T for w in weights[f"{name}.attention.qkv.weight"])
        q, k, v = (t.view(len(ids), heads, size) for t in (q, k, v))
        scores = torch.einsum("qhd,khd->hqk", unit(turned(q)), unit(turned(k))) * 1.44 / size**0.5
        seen = scores.masked_fill(later, float("-inf")).softmax(-1)
        x = (
            x
            + torch.einsum("hqk,khd->qhd", seen, v).reshape(-1, width)
            @ weights[f"{name}.attention.out.weight"].T
        )
        gate, up = weights[f"{name}.mlp.up.weight"]
        x = x + (F.silu(unit(x) @ gate.T) * (unit(x) @ up.T)) @ weights[f"{name}.mlp.down.weight"].T
    return unit(x) @ weights["head.weight"].T


def test_a_portable_model_is_the_plain_network() -> None:
    model = portable_model()
    ids = torch.randint(0, 50, (20,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = model.logits(model(ids[None]))[0]
        torch.testing.assert_close(found, plain_logits(model, ids), rtol=1e-6, atol=1e-6)


def test_it_stores_and_trains_what_qwen3_has_and_nothing_else() -> None:
    model = portable_model()
    parts = {name.split(".", 2)[-1] if name.startswith("blocks") else name for name in model.state_dict()}
    products = {"attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight"}
    assert parts == {"embedding.weight", "head.weight", *products}
    assert model_cost(CONFIG).parameters == sum(p.numel() for p in model.parameters())
    assert "architecture" not in GPTConfig(50).to_json(), "older bundles keep their fingerprints"
    assert GPTConfig.from_json(CONFIG.to_json()) == CONFIG


@pytest.mark.parametrize("width", range(64, 1600, 96))
def test_its_mlp_has_as_many_parameters_as_the_squared_relu(width: int) -> None:
    config = GPTConfig(50, 24, 2, 1, width, softcap=NO_SOFTCAP, architecture="portable")
    assert config.mlp_dim % 32 == 0
    assert abs(3 * config.mlp_dim - 8 * width) <= 48


@pytest.mark.parametrize(
    "extra", [{"bigram_buckets": 64}, {"value_embedding_layers": (0,)}, {"softcap": 15.0}]
)
def test_it_refuses_what_the_shape_lacks(extra: dict) -> None:
    with pytest.raises(UserError, match="portable"):
        GPTConfig(50, architecture="portable", **{"softcap": NO_SOFTCAP, **extra})
