"""Adapters: merged or beside the model they give the same; several in one engine what each gives alone."""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chatsmith.backends import Quantization, choose_backend
from chatsmith.backends.lora import PRODUCTS, Adapter, LoRALinear, add_lora, matrices_of, merged
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, RequestError, SamplingParams
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import chunked_cross_entropy
from chatsmith.optim.optimizer import Optimizer, trained_parameters
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.plan import make_plan
from tests.backends.test_decoder import library, random_model

NAMES = ("left", "right")


def adapted(model: GPT, seed: int) -> GPT:
    """The model with something learned beside it."""
    learned = copy.deepcopy(model)
    add_lora(learned, 3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in learned.modules():
            if isinstance(module, LoRALinear):
                noise = torch.randn(module.lora_b.shape, generator=generator)
                module.lora_b.copy_(noise.to(module.lora_b) * 0.5)
    return learned


def adapters_of(model: GPT) -> dict[str, Adapter]:
    return {name: Adapter("", matrices_of(adapted(model, seed))) for seed, name in enumerate(NAMES)}


def test_starts_as_the_model_it_is_added_to_and_merges_to_what_it_computes(model: GPT) -> None:
    tokens = torch.randint(0, 200, (2, 20))
    fresh = copy.deepcopy(model)
    add_lora(fresh, 4)
    assert torch.equal(fresh(tokens), model(tokens))
    learned = adapted(model, 1)
    plain = merged(learned)
    assert not torch.equal(learned(tokens), model(tokens))
    assert torch.allclose(plain(tokens), learned(tokens), rtol=1e-9, atol=1e-9)
    assert {*plain.state_dict()} == {*model.state_dict()}
    assert merged(model) is model


@pytest.mark.parametrize("products", [PRODUCTS, ("qkv",), ("up", "down")])
def test_a_step_moves_the_chosen_matrices_and_nothing_else(model: GPT, products: tuple[str, ...]) -> None:
    model = copy.deepcopy(model).float()
    add_lora(model, 2, products)
    before = copy.deepcopy(model.state_dict())
    plan = make_plan(model.config, 4096, batch_tokens=128, rows_per_microbatch=2, world_size=1)
    optimizer = Optimizer(model, plan.rates)
    for _ in range(2):  # B is zero in the first, so A does not move
        inputs = torch.randint(0, 200, (2, 32))
        loss = chunked_cross_entropy(model, model(inputs).flatten(0, 1), inputs.roll(-1, 1).flatten())
        loss.backward()
        optimizer.step(1.0, 0.9, 1.0)
        optimizer.zero_grad()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {*trained_parameters(model)}
    assert all(name.split(".")[-2] in products for name in moved)
    assert len(moved) == 2 * len(products) * model.config.num_layers


def test_several_adapters_in_one_batch_give_what_each_gives_alone(model: GPT, tokenizer: Tokenizer) -> None:
    """Prompts that begin alike, of three models at once, in an engine too small for all of them."""
    adapters = adapters_of(model)
    source = random.Random(5)
    beginning = tuple(source.randrange(250) for _ in range(20))
    requests = [
        Request(
            beginning + tuple(source.randrange(250) for _ in range(source.randrange(1, 9))),
            SamplingParams(temperature=index % 2, seed=index, max_tokens=10, ignore_end=True),
            adapter=("", *NAMES)[index % 3],
        )
        for index in range(12)
    ]
    alone = {"": model} | {name: merged(adapted(model, seed)) for seed, name in enumerate(NAMES)}
    wanted = [
        Engine(alone[one.adapter], tokenizer).generate([replace(one, adapter="")])[0].ids for one in requests
    ]
    backend = choose_backend(model, adapters=adapters)
    engine = Engine(model, tokenizer, backend=backend, max_running=5, tokens_per_step=40, kv_tokens=160)
    for _ in range(2):  # the second time with what the prefix cache has
        assert [completion.ids for completion in engine.generate(requests)] == wanted
    assert len({*wanted[0:3]}) == 3


@pytest.mark.parametrize("quantize", [None, "bf16", "int8"])
def test_on_every_path_two_adapters_together_give_what_each_gives_alone(
    tokenizer: Tokenizer, quantize: Quantization | None
) -> None:
    """Also over quantized weights; and what asks for no adapter goes through C, where there is one."""
    model = random_model(tokenizer.vocab_size)
    adapters = adapters_of(model)
    sampling = SamplingParams(temperature=0, max_tokens=12, ignore_end=True)
    requests = [
        Request(tuple(range(start, start + 5 + start)), sampling, adapter=("", *NAMES)[start % 3])
        for start in range(12)
    ]
    alone = {
        name: choose_backend(model, quantize=quantize, adapters={name: one} if name else None)
        for name, one in {"": None, **adapters}.items()
    }
    wanted = [Engine(model, tokenizer, backend=alone[one.adapter]).generate([one])[0].ids for one in requests]
    if quantize is None:
        plain = {"": model} | {name: merged(adapted(model, seed)) for seed, name in enumerate(NAMES)}
        for one, ids in zip(requests, wanted, strict=True):
            engine = Engine(plain[one.adapter], tokenizer)
            assert engine.generate([replace(one, adapter="")])[0].ids == ids
    backend = choose_backend(model, quantize=quantize, adapters=adapters)
    engine = Engine(model, tokenizer, backend=backend, max_running=5)
    assert [completion.ids for completion in engine.generate(requests)] == wanted
    assert len({*wanted[0:3]}) == 3 and not backend.is_exact
    plain_ones = [one for one in requests if not one.adapter]
    if library:
        assert backend.name == "C"
        with pytest.MonkeyPatch.context() as patch:  # torch would fail
            patch.setattr(type(backend).__mro__[1], "forward", None)
            again = engine.generate(plain_ones)
        assert [one.ids for one in again] == wanted[::3]


def test_prefixes_are_cached_apart(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, backend=choose_backend(model, adapters=adapters_of(model)))
    prompt = tuple(range(50))
    engine.generate([Request(prompt, SamplingParams(max_tokens=1), adapter="left")])
    assert engine.num_cached(prompt, "left") == 48
    assert engine.num_cached(prompt) == engine.num_cached(prompt, "right") == 0
    with pytest.raises(RequestError, match="no adapter 'middle'"):
        engine.submit(Request(prompt, adapter="middle"))


def test_two_after_one_another_are_one(model: GPT, tmp_path: Path) -> None:
    model = copy.deepcopy(model).float()
    first = adapted(model, 1)
    middle = merged(first)
    second = adapted(middle, 2)
    earlier = Adapter("base", matrices_of(first))
    both = Adapter("middle", matrices_of(second)).after(earlier)
    both.save(tmp_path / "both")
    read = Adapter.load(tmp_path / "both")
    assert read.base == "base"
    end = merged(second)
    for name, (a, b) in read.matrices.items():
        wanted = end.get_parameter(f"{name}.weight") - model.get_parameter(f"{name}.weight")
        assert torch.allclose((b @ a).view_as(wanted), wanted, atol=1e-5)


def test_damaged_and_strange_adapters_are_named(model: GPT, tmp_path: Path) -> None:
    adapter = Adapter("base", matrices_of(adapted(model, 1)))
    adapter.save(tmp_path / "good")
    for file in sorted((tmp_path / "good").iterdir()):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        other = tmp_path / f"bad-{file.name}"
        adapter.save(other)
        (other / file.name).write_bytes(content)
        with pytest.raises(UserError, match="not an adapter that can be read"):
            Adapter.load(other)
    with pytest.raises(UserError, match="not an adapter"):
        Adapter.load(tmp_path)
    (tmp_path / "list").mkdir()
    (tmp_path / "list/adapter.json").write_text(json.dumps([]))
    with pytest.raises(UserError, match="not an adapter"):
        Adapter.load(tmp_path / "list")
    first = next(iter(adapter.matrices))
    a, b = adapter.matrices[first]
    with pytest.raises(UserError, match="another shape"):
        choose_backend(model, adapters={"x": Adapter("", {first: (a[:, :-1], b)})})
    with pytest.raises(UserError, match=r"blocks\.99"):
        choose_backend(model, adapters={"x": Adapter("", {"blocks.99.mlp.up": (a, b)})})
