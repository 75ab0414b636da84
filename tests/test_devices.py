"""Nothing is left behind on the CPU: on a GPU, which is only pretended here, everything is where it must be."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chatsmith.backends import choose_backend
from chatsmith.cli import main as cli
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Constraint, Request, SamplingParams
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer
from tests.conftest import TINY_RECIPE
from tests.elsewhere import pretending
from tests.engine.conftest import model, tokenizer
from tests.threads import one_thread

__all__ = ["model", "one_thread", "tokenizer"]


@pytest.fixture(params=["cuda", pytest.param("mps", marks=pytest.mark.long)])
def device(request, monkeypatch):
    with pretending(request.param, monkeypatch) as device:
        yield device


def test_the_pretence_notices_what_a_device_would(device):
    there, here = torch.ones(3, device=device), torch.ones(3)
    assert (there + there).device == device and (there + here.to(device)).tolist() == [2, 2, 2]
    assert (there * torch.tensor(2.0)).cpu().device.type == "cpu"
    for mixed in (lambda: there + here, lambda: here + there, lambda: there[here.long()], there.numpy):
        with pytest.raises((RuntimeError, TypeError), match=r"on cpu|numpy"):
            mixed()
    if device.type == "mps":
        with pytest.raises(TypeError, match="float64"):
            there.double()


def requests() -> list[Request]:
    """Something of all that a request may ask for."""
    prompts = [tuple((7 * index + 3 * place) % 250 for place in range(5 + 4 * index)) for index in range(4)]
    shared = Request((5, 6, 7, 8), SamplingParams(seed=4, max_tokens=30, ignore_end=True))
    return [
        Request(prompts[0], SamplingParams(temperature=0, max_tokens=20, min_tokens=3, logit_bias={3: 2.0})),
        Request(prompts[1], SamplingParams(seed=1, top_k=5, top_p=0.9, max_tokens=20, logprobs=0)),
        Request(
            prompts[2], SamplingParams(seed=2, min_p=0.1, max_tokens=20, repetition_penalty=1.2, logprobs=3)
        ),
        Request(
            prompts[3], SamplingParams(seed=3, max_tokens=20, frequency_penalty=0.5, presence_penalty=0.1)
        ),
        *shared.replicas(4),
        Request(tuple(range(5, 60)), SamplingParams(max_tokens=0, logprobs=2), score_from=10),
        Request(tuple(range(5, 40)), SamplingParams(max_tokens=3, temperature=0), score_from=0),
        Request(
            (9, 10),
            SamplingParams(max_tokens=20, seed=5),
            constraint=Constraint("regex", "the (cat|dog)"),
        ),
    ]


def answers(model: GPT, tokenizer: Tokenizer, quantize) -> tuple[list[Completion], int]:
    backend = choose_backend(model, quantize=quantize)
    engine = Engine(model, tokenizer, backend=backend, max_running=6, block_size=4, kv_tokens=120, seed=0)
    replies = engine.generate(requests())
    engine.weights_changed()
    return replies + engine.generate(requests()[:2]), engine.stats().num_preemptions


@pytest.mark.parametrize("quantize", [None, "bf16", "int8"])
def test_an_engine_answers_on_a_device_as_on_the_cpu(model, tokenizer, device, quantize, monkeypatch):
    model = copy.deepcopy(model).float()
    with monkeypatch.context() as without_c:
        without_c.setattr("chatsmith.backends.load_library", lambda: None)
        expected, preemptions = answers(model, tokenizer, quantize)
    assert preemptions, "every kind of step is to be seen"
    found, _ = answers(copy.deepcopy(model).to(device), tokenizer, quantize)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
    assert "error" not in {one.finish_reason for one in found}


def run_all(folder: Path, device: str) -> Path:
    settings = [f"--set={stage}.dtype=fp32" for stage in ("sft", "rl", "evaluate")]
    settings += [f"--set={stage}.device={device}" for stage in ("pretrain", "sft", "rl", "evaluate")]
    assert cli.main(["run", str(TINY_RECIPE), "--run", str(folder), *settings], {}) == 0
    return folder


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> Path:
    return run_all(tmp_path_factory.mktemp("runs") / "cpu", "cpu")


@pytest.mark.slow
def test_every_stage_makes_on_a_device_what_it_makes_on_the_cpu(on_cpu, tmp_path, device):
    on_device = run_all(tmp_path / device.type, device.type)
    for stage in ("pretrain", "sft", "rl"):
        there, here = (load_file(run / stage / "bundle" / "model.safetensors") for run in (on_device, on_cpu))
        # What is practised is sampled, on the CPU by C, which rounds elsewhere.
        tolerance = 1e-3 if stage == "rl" else 0
        torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance)
