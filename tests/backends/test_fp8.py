"""fp8 changes the blocks' products while gradients are computed, and nothing else. torchao emulates it on a CPU; where
that is not installed (pip install 'chatsmith[fp8]') only refusals are tested."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from chatsmith.backends.fp8 import fp8_products
from chatsmith.backends.lora import add_lora
from chatsmith.cli import main as cli
from chatsmith.data.packing import Batch
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError
from chatsmith.train.plan import make_plan
from chatsmith.train.step import prepare, train_step

CPU = torch.device("cpu")
SHAPE = GPTConfig(
    vocab_size=64, context_length=32, num_layers=2, num_heads=2, head_dim=32, value_embedding_layers=(1,)
)
emulated = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")


def new_model(shape: GPTConfig = SHAPE) -> GPT:
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():  # blocks start as the identity, and hide what they compute
        for name, weight in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def losses_of(model: GPT, steps: int, compile: bool = False) -> list[float]:
    """Of training on sequences that can be learned."""
    plan = replace(make_plan(SHAPE, 10**5), rows_per_microbatch=4, accumulation=1)
    runtime = Runtime(CPU, torch.bfloat16)
    compute_loss, optimizer = prepare(model, runtime, compile, print), Optimizer(model, plan.rates)
    found = []
    for step in range(1, steps + 1):
        ids = (torch.arange(33) * (1 + torch.arange(4)[:, None]) + step) % 64
        batch = Batch(ids[:, :-1], ids[:, 1:])
        found.append(train_step(model, optimizer, [batch], plan, compute_loss, runtime, step))
    return found


@emulated
@pytest.mark.parametrize("architecture", ["chatsmith", "portable"])
def test_the_products_of_the_blocks_are_rounded_and_nothing_else(architecture):
    own = {} if architecture == "chatsmith" else {"value_embedding_layers": (), "softcap": NO_SOFTCAP}
    shape = replace(SHAPE, architecture=architecture, **own)
    plain, model = new_model(shape), new_model(shape)
    fp8_products(CPU, emulate=True)(model)
    converted = {name for name, module in model.named_modules() if "product" in vars(module)}
    wanted = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert converted == {f"blocks.{layer}.{name}" for layer in range(2) for name in wanted}
    assert model.state_dict().keys() == plain.state_dict().keys()
    ids = torch.arange(32)[None]
    hidden, expected = model(ids), plain(ids)
    error = (hidden - expected).norm() / expected.norm()
    assert 1e-3 < error < 0.1
    with torch.no_grad():  # what an evaluation measures is what the bundle computes
        assert torch.equal(model(ids), plain(ids))
    hidden.square().mean().backward()
    for one in model.parameters():
        assert one.grad is None or (one.grad.dtype == torch.float32 and one.grad.isfinite().all())


@emulated
def test_the_loss_stays_close_to_that_of_bf16():
    model = new_model()
    fp8_products(CPU, emulate=True)(model)
    in_fp8, in_bf16 = losses_of(model, 30), losses_of(new_model(), 30)
    assert in_fp8 != in_bf16 and in_fp8[-1] < 0.7 * in_fp8[0]
    assert in_fp8 == pytest.approx(in_bf16, rel=0.05)


@emulated
@pytest.mark.long
def test_compiled_it_computes_the_same():
    models = new_model(), new_model()
    for model in models:
        fp8_products(CPU, emulate=True)(model)
    eager, compiled = (losses_of(model, 3, compile=model is models[1]) for model in models)
    assert compiled == pytest.approx(eager, rel=0.02)


@emulated
def test_lora_trains_beside_products_in_fp8():
    model = new_model()
    add_lora(model, 2)
    fp8_products(CPU, emulate=True)(model)
    first, *_, last = losses_of(model, 12)
    assert last < first


@emulated
def test_sizes_that_it_cannot_multiply_are_one_line():
    with pytest.raises(UserError, match="multiples of 16") as caught:
        fp8_products(CPU, emulate=True)(GPT(replace(SHAPE, context_length=24)))
    assert "\n" not in str(caught.value)


def test_hardware_without_fp8_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match="the Ada or Hopper generation or newer; this is cuda:0"):
        fp8_products(torch.device("cuda:0"))


def test_without_torchao_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match=r"pip install 'chatsmith\[fp8\]'"):
        fp8_products(CPU, emulate=True)


def test_a_plan_in_fp8_is_faster_where_the_gpu_has_it(capsys):
    def speed(gpu: str, *more: str) -> float:
        argv = ["plan", "26", "--gpu", gpu, "--count", "8", "--ratio", "8", "--json", *more]
        assert cli.main(argv, {}) == 0
        return json.loads(capsys.readouterr().out)["tokens_per_second"]

    assert 1.1 < speed("h100", "--fp8") / speed("h100") < 1.4
    assert cli.main(["plan", "26", "--gpu", "a100", "--fp8"], {}) == 2
    assert "has no fp8" in capsys.readouterr().err
    assert cli.main(["plan", "6", "--fp8"], {}) == 2
    assert "name one" in capsys.readouterr().err
