"""`serve --adapter`: several models over one set of weights, at once, each giving what it gives alone."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from chatsmith.backends.lora import LoRALinear, add_lora, merged, save_adapter
from chatsmith.bundle import load_bundle, save_bundle
from chatsmith.cli.config import named_models
from chatsmith.cli.serve import Config
from chatsmith.cli.settings import from_flags
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.runtime.errors import UserError
from chatsmith.serve import engine_process
from chatsmith.serve.ipc import EngineSettings
from chatsmith.text.tokenizer import Tokenizer
from tests.serve.conftest import RunningServer

PROMPTS = ("the cat", "the dog sat", "hello", "What is 1+1=2?")


@pytest.fixture(scope="session")
def with_adapters(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundle and two that were trained from it, by name; beside these stand their adapters."""
    paths = {"plain": bundle}
    for seed, name in enumerate(("left", "right")):
        model = load_bundle(bundle).model
        add_lora(model, 2, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, LoRALinear):
                    module.lora_b.copy_(torch.randn(module.lora_b.shape, generator=generator) * 0.5)
        paths[name] = tmp_path_factory.mktemp(name) / "bundle"
        save_bundle(paths[name], merged(model), load_bundle(bundle).tokenizer, generation={}, card="")
        save_adapter(model, bundle, paths[name])
    return paths


def test_each_model_answers_as_it_does_alone(
    with_adapters: dict[str, Path], tokenizer: Tokenizer, start_server: Callable[..., RunningServer]
) -> None:
    plain, left, right = with_adapters.values()
    server = start_server(
        str(plain), "--name", "plain", "--adapter", f"left={left}", f"right={right.parent / 'adapter'}"
    ).wait_until_ready()
    asked = [(name, prompt) for name in with_adapters for prompt in PROMPTS]
    with server.client() as client, ThreadPoolExecutor(6) as pool:
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == [*with_adapters]

        def ask(name: str, prompt: str) -> str:
            body = {"model": name, "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
            response = client.post("/v1/completions", json=body)
            assert response.status_code == 200, response.text
            assert response.json()["model"] == name
            return response.json()["choices"][0]["text"]

        replies = list(pool.map(ask, *zip(*asked, strict=True)))
    sampling = SamplingParams(temperature=0, max_tokens=12, ignore_end=True)
    for (name, prompt), reply in zip(asked, replies, strict=True):
        engine = Engine(load_bundle(with_adapters[name]).model, tokenizer)
        (alone,) = engine.generate([Request((tokenizer.bos_id, *tokenizer.encode(prompt)), sampling)])
        assert reply == alone.text, (name, prompt)
    assert len({*replies[:: len(PROMPTS)]}) == 3


def test_adapters_that_cannot_be_served_are_refused(
    with_adapters: dict[str, Path], start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """What an engine's process refuses, the server says before it ends; the others are asked without one."""
    plain, left, _ = map(str, with_adapters.values())
    stale = tmp_path / "stale"  # trained again since, in full
    shutil.copytree(Path(left).parent, stale)
    shutil.rmtree(stale / "bundle")
    shutil.copytree(plain, stale / "bundle")
    refused = {
        (plain, plain): "not an adapter that can be read",
        (left, left): "was trained beside another model",
        (plain, left): "replies beside adapters are not exact",
    }
    for (path, adapter), message in refused.items():
        settings = EngineSettings(path, device="cpu", threads=1, exact=True, adapters={"x": adapter})
        with pytest.raises(UserError, match=message):
            engine_process.load(settings)
    for flags, message in (
        (("--adapter", left), "each adapter is written NAME=PATH"),
        (("--name", "x", "--adapter", f"x={left}"), "two models are called x"),
    ):
        with pytest.raises(UserError, match=message):
            named_models(Config(**from_flags(Config, [plain, *flags], "serve")))
    server = start_server(plain, "--adapter", f"x={stale / 'bundle'}")
    assert server.process.wait(timeout=120) == 2
    server.until(lambda: "which has replaced its own" in server.said)
    assert "Traceback" not in server.said
