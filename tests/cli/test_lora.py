"""LoRA by command: an adapter beside the bundle it was merged into, one for two stages, resumed bit for bit,
and refused in words."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from chatsmith.backends.lora import Adapter
from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.cli import main as cli
from chatsmith.train.trainer import Trainer

LORA = (
    "--lora-rank",
    "2",
    "--rate-scale",
    "2",
    "--evaluations",
    "0",
    "--batch-tokens",
    "1024",
    "--tokens",
    "4096",
)


def train(command: str, run: Path, *argv: object) -> int:
    return cli.main([command, str(run), "--no-compile", *LORA, *map(str, argv)], {})


def test_two_stages_leave_one_adapter_that_is_their_difference_to_the_base(tiny_copy: Path) -> None:
    base, again = tiny_copy / "pretrain/bundle", tiny_copy.with_name("again")
    assert train("mid", tiny_copy, "--lora-products", "qkv", "down") == 0
    assert train("sft", tiny_copy) == 0
    adapter, model = Adapter.load(tiny_copy / "sft/adapter"), load_bundle(base).model
    assert adapter.base == bundle_fingerprint(base)
    assert adapter.merged == bundle_fingerprint(tiny_copy / "sft/bundle")
    assert len(adapter.matrices["blocks.0.mlp.down"][0]) == 4  # two stages of rank 2
    assert len(adapter.matrices["blocks.0.mlp.up"][0]) == 2
    state = load_bundle(tiny_copy / "sft/bundle").model.state_dict()
    for name, weight in model.state_dict().items():
        a, b = adapter.matrices.get(name.removesuffix(".weight"), (None, None))
        moved = 0 if a is None or b is None else (b @ a).view_as(weight)
        assert torch.allclose(state[name], weight + moved, atol=1e-6)
        assert torch.equal(state[name], weight) == (a is None)
    # Trained in full, nothing of it can be mistaken for the new model's, in another run or in the same.
    options = ["--from", str(tiny_copy), "--tokens", "2048", "--batch-tokens", "1024", "--no-compile"]
    assert cli.main(["sft", str(again), *options, "--conversations", _talks(tiny_copy)], {}) == 0
    assert not (again / "sft/adapter").exists()
    assert cli.main(["sft", str(tiny_copy), *options[2:]], {}) == 0
    assert not (tiny_copy / "sft/adapter").exists()


def test_interrupted_and_resumed_it_learns_the_same(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(tiny_copy, tiny_copy.with_name("other"))
    assert train("sft", tiny_copy) == 0
    wanted = (tiny_copy / "sft/adapter/adapter.safetensors").read_bytes()
    update = Trainer.update

    def update_and_interrupt(trainer: Trainer, *arguments: object) -> None:
        update(trainer, *arguments)  # pyright: ignore[reportArgumentType]
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", update_and_interrupt)
        assert train("sft", other) == 130
    assert train("sft", other) == 0
    assert (other / "sft/adapter/adapter.safetensors").read_bytes() == wanted


def test_what_cannot_be_is_refused_in_a_line(tiny_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("pretrain", tiny_copy) == 2
    assert "LoRA trains beside a model; name the one to start from" in capsys.readouterr().err
    assert train("sft", tiny_copy, "--lora-products", "head") == 2
    assert "one of qkv, out, up, down, not" in capsys.readouterr().err


def _talks(folder: Path) -> str:
    file = folder / "talks.jsonl"
    said = '{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}\n'
    file.write_text(said * 20)
    return str(file)
