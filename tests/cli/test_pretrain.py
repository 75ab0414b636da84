"""`chatsmith pretrain`: what it refuses, in one line and leaving nothing, and what settings and processes change."""

import json
import shutil
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from chatsmith.backends.fp8 import fp8_products
from chatsmith.bundle import load_bundle
from chatsmith.cli import main as cli
from chatsmith.cli import training
from chatsmith.cli.config import PretrainConfig
from chatsmith.cli.training import SAMPLE_TOKENS
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.report.estimate import DEVICES
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.run_directory import RunDirectory, read_recipe
from chatsmith.train.memory import RECOMPUTING
from chatsmith.train.plan import make_plan
from chatsmith.train.trainer import TrainingRun
from tests.processes import CHATSMITH, Processes, well


@pytest.fixture
def pretrain(capsys):
    """Runs the command; returns its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["pretrain", *map(str, argv)], {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str], message: str) -> None:
    code, _, error = result
    assert code == 2
    assert message in error and error.startswith("chatsmith: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--depth", 0], "depth is 0; it must be at least 1"),
        (["--sequence-length", -1], "sequence_length is -1"),
        (["--width", -64], "width is -64; it must be at least 0"),
        (["--width", 100], "width 100 is not a multiple of head_dim 32"),
        (["--head-dim", 7, "--width", 70], "head_dim must be even"),
        (["--head-dim", 8, "--width", 8], "width must be at least 16 channels, not 8"),
        (["--tokens", 1000, "--minutes", 5], "given twice, as tokens and as minutes"),
        (["--tokens", 0, "--minutes", "nan"], "minutes is nan"),
        (["--tokens", 0, "--minutes", "inf"], "minutes is inf"),
        (["--tokens", 0, "--ratio", 0], "ratio is 0.0; it must be above 0"),
        (["--rate-scale", "inf"], "rate_scale is inf"),
        (["--batch-tokens", 100], "batch_tokens is 100, less than one row of 128 tokens"),
        (["--evaluate-tokens", 0], "evaluate_tokens is 0"),
        (["--save-minutes", 0], "save_minutes is 0"),
        (["--seed", -1], "seed is -1"),
        (["--device", "gpu"], "device must be auto, cpu"),
        (["--dtype", "fp8"], "--dtype must be one of auto, fp32, bf16, fp16"),
        (["--fp8", "--device", "cpu"], "NVIDIA GPU of the Ada or Hopper generation or newer; this is cpu"),
        (["--dept", 4], "unknown flag --dept (did you mean --depth?)"),
    ],
)
def test_impossible_settings_leave_the_run_as_it_was(tiny_copy, pretrain, argv, message):
    before = {path: path.stat().st_mtime_ns for path in tiny_copy.rglob("*") if path.name != ".lock"}
    refused(pretrain(tiny_copy, *argv), message)
    after = {path: path.stat().st_mtime_ns for path in tiny_copy.rglob("*") if path.name != ".lock"}
    assert {path for path in before.keys() | after.keys() if path.is_file()} == {
        path for path in before if path.is_file()
    }
    assert all(after[path] == before[path] for path in before if path.is_file())


def test_a_run_without_data_says_what_comes_first_and_is_not_made(tmp_path, pretrain):
    refused(pretrain(tmp_path / "new"), "run `chatsmith data prepare` first")
    assert not (tmp_path / "new").exists()


def test_a_run_without_a_tokenizer_says_what_comes_first(tiny_copy, pretrain):
    shutil.rmtree(tiny_copy / "tokenizer")
    refused(pretrain(tiny_copy, "--seed", 2), "chatsmith tokenizer")


def test_a_file_in_the_way_is_no_run(tmp_path, pretrain):
    (tmp_path / "file").write_text("")
    refused(pretrain(tmp_path / "file"), "a file is in the way")


def test_two_processes_on_one_run_are_kept_apart(tiny_copy, pretrain):
    with RunDirectory(tiny_copy).lock():
        refused(pretrain(tiny_copy, "--seed", 2), "is in use by process")


def test_data_changed_since_it_was_prepared_is_not_trained_on(tiny_copy, pretrain):
    with (tiny_copy / "data" / "train.parquet").open("ab") as file:
        file.write(b"x")
    refused(pretrain(tiny_copy, "--seed", 2), "has changed since the data was prepared")


def test_a_loss_that_is_no_number_keeps_the_last_good_bundle(tiny_copy, pretrain):
    weights = tiny_copy / "pretrain" / "bundle" / "model.safetensors"
    before = weights.read_bytes()
    refused(pretrain(tiny_copy, "--rate-scale", 1e30), "Lower the learning rate")
    assert weights.read_bytes() == before
    records = [json.loads(line) for line in (tiny_copy / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["stage"] == "pretrain" and "loss" in record]
    assert losses[-3:] == [None] * 3 and None not in losses[:-3], (
        "steps that were left out are recorded as such"
    )


def test_a_done_run_is_skipped_and_settings_of_no_consequence_keep_it_so(tiny_run, pretrain):
    code, out, _ = pretrain(tiny_run, "--rows-per-microbatch", 1, "--save-minutes", 9, "--device", "cpu")
    assert code == 0 and "is up to date" in out
    code, out, _ = pretrain(tiny_run, "--evaluations", 5, "--evaluate-tokens", 512, "--prompt", "Once")
    assert code == 0 and "is up to date" in out


def test_minutes_are_measured_once_and_then_kept_as_tokens(tiny_copy, pretrain):
    settings = (tiny_copy, "--tokens", 0, "--minutes", 0.02, "--evaluations", 0)
    code, first, _ = pretrain(*settings)
    assert code == 0 and "Measuring how many tokens fit into the time" in first
    frozen = read_recipe(tiny_copy / "recipe.toml").frozen["pretrain"]["tokens"]["value"]
    assert frozen % 1024 == 0 and frozen > 0
    trained = json.loads((tiny_copy / "pretrain" / "bundle" / "config.json").read_text())
    weights = tiny_copy / "pretrain" / "bundle" / "model.safetensors"
    before = weights.read_bytes()
    for name in ("done.json", "settings.toml"):
        (tiny_copy / "pretrain" / name).unlink()
    code, second, _ = pretrain(*settings)
    assert code == 0 and "Measuring" not in second and f"{frozen:,} tokens in" in second
    assert json.loads((tiny_copy / "pretrain" / "bundle" / "config.json").read_text()) == trained
    assert weights.read_bytes() == before


def test_prompts_are_continued_at_every_evaluation_and_change_nothing(tiny_copy, pretrain):
    settings = (tiny_copy, "--tokens", 4096, "--evaluations", 2)
    weights, prompts = tiny_copy / "pretrain" / "bundle" / "model.safetensors", ["The little dog", "One"]
    assert pretrain(*settings)[0] == 0
    without = weights.read_bytes()
    for name in ("done.json", "settings.toml"):
        (tiny_copy / "pretrain" / name).unlink()
    code, out, _ = pretrain(*settings, "--sample-prompts", *prompts)
    assert code == 0 and "is up to date" not in out and weights.read_bytes() == without
    assert sum(line.startswith("The little dog") for line in out.splitlines()) == 2
    records = [json.loads(line) for line in (tiny_copy / "metrics.jsonl").read_text().splitlines()]
    said = [record["samples"] for record in records if record["stage"] == "pretrain" and "samples" in record]
    assert [[one["prompt"] for one in samples] for samples in said] == 2 * [prompts]
    for sample in (one for samples in said for one in samples):
        assert 0 < len(sample["tokens"]) <= SAMPLE_TOKENS
        for _, text, logprob, others in sample["tokens"]:
            assert text and logprob <= 0 and len(others) == 3
            assert logprob == max(other[2] for other in others), "greedy: the likeliest"


def test_evaluations_are_never_more_than_asked_for(tiny_copy, pretrain):
    (tiny_copy / "metrics.jsonl").unlink()
    assert pretrain(tiny_copy, "--tokens", 7 * 1024, "--evaluations", 4)[0] == 0
    lines = map(json.loads, (tiny_copy / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "bpb" in line] == [2, 4, 6, 7]


def test_a_batch_that_is_no_whole_number_of_rows_is_told_of(tiny_copy, pretrain):
    code, out, _ = pretrain(tiny_copy, "--batch-tokens", 1000, "--tokens", 4096)
    assert code == 0 and "a step takes 1,024 tokens, not 1,000: 8 whole rows of 128" in out


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["optimizer", pytest.param("full", marks=pytest.mark.long)])
def test_two_processes_train_the_model_of_one_and_only_the_first_speaks(
    tiny_run, tiny_copy, subprocess_environment, shard
):
    """The same run, made anew by two processes that share each step: weights whole on each, or cut between them."""
    shutil.rmtree(tiny_copy / "pretrain")
    (tiny_copy / "metrics.jsonl").unlink()
    asked = "pretrain", tiny_copy, "--shard", shard
    first, second = well(
        Processes(CHATSMITH, *asked, world_size=2, environment=subprocess_environment).wait()
    )
    assert ("cut among 2 processes" in first.out) == (shard == "full")
    assert "2 processes" in first.out and second.out == ""
    losses = []
    for run in (tiny_run, tiny_copy):
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line["stage"] == "pretrain" and "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    alone, together = (
        load_bundle(run / "pretrain" / "bundle").model.state_dict() for run in (tiny_run, tiny_copy)
    )
    for name, value in alone.items():
        # Not closer: Adam divides gradients that are mere rounding by their own size.
        assert (together[name] - value).norm() < 0.01 * value.norm(), name


STOPPED = """
import os, signal
from chatsmith.train.trainer import Trainer
update = Trainer.update

def update_and_stop(trainer, *arguments):
    update(trainer, *arguments)
    if trainer.step == 5 and trainer.run.runtime.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)

Trainer.update = update_and_stop
"""


@pytest.mark.long
def test_cut_weights_stopped_on_the_way_go_on_cut_or_whole(tiny_copy, subprocess_environment):
    """Stopped by a SIGTERM that reaches one process; samples, which take whole weights, are left out with a notice."""
    shutil.rmtree(tiny_copy / "pretrain")
    more = "--sample-prompts", "One day", "--evaluations", 4, "--keep-every", 4
    asked = "--tokens", 8192, "--shard", "full", *more
    found = {}
    for name, world_size in (("straight", 2), ("cut", 2), ("whole", 1)):
        run = shutil.copytree(tiny_copy, tiny_copy.with_name(name))
        start = {"environment": subprocess_environment, "world_size": 2}
        if name != "straight":
            ended = Processes(STOPPED + CHATSMITH, "pretrain", run, *asked, **start).wait()
            assert [one.code for one in ended] == [143, 143], [one.err for one in ended]
            assert "stopped after step 5 of 8" in ended[0].err
        start["world_size"] = world_size
        first, *_ = well(Processes(CHATSMITH, "pretrain", run, *asked, **start).wait())
        assert ("sample_prompts need whole weights and are left out" in first.out) == (world_size == 2)
        assert ("resuming after step 5" in first.out) == (name != "straight")
        kept = [load_bundle(run / "pretrain" / "steps" / step).model.state_dict() for step in "48"]
        found[name] = [*kept, load_bundle(run / "pretrain" / "bundle").model.state_dict()]
    for one, wanted in (*zip(found["cut"], found["straight"], strict=True),):
        assert all(torch.equal(one[name], value) for name, value in wanted.items())
    for one, wanted in (*zip(found["whole"], found["straight"], strict=True),):
        for name, value in wanted.items():
            assert (one[name] - value).norm() <= 0.01 * value.norm(), name


@pytest.mark.parametrize(
    ("processes", "room", "is_cut"), [(4, 1.5e9, True), (4, 1e12, False), (3, 1.5e9, False)]
)
def test_what_auto_chose_is_kept_by_a_run_that_goes_on(tmp_path, monkeypatch, processes, room, is_cut):
    """Weights are cut where nothing else fits and they can be dealt out evenly; a resumed run does not ask again."""
    shape = GPTConfig(vocab_size=300, num_layers=10, num_heads=8, head_dim=128, context_length=32)
    runtime = Runtime(torch.device("cpu"), torch.float32, 0, processes)
    stage = training.Stage(
        "pretrain", PretrainConfig(run=tmp_path), runtime, Reporter(True), ExitStack(), 0.0
    )
    monkeypatch.setattr(training, "per_machine", lambda *_: processes)
    monkeypatch.setattr(training, "free_for_training", lambda _: room)
    chosen = {}
    assert (stage._placing(shape, chosen) is not TrainingRun.place) == is_cut
    assert len(chosen) == (processes == 4)
    monkeypatch.setattr(training, "free_for_training", lambda _: 1e12 if is_cut else 1.5e9)
    assert (stage._placing(shape, chosen) is not TrainingRun.place) == is_cut


def test_a_speed_that_nobody_can_foresee_is_left_out(monkeypatch):
    """An A100 has no fp8; cut weights and recomputing are counted."""
    shape = GPTConfig(vocab_size=300, num_layers=2, num_heads=4, head_dim=16, context_length=32)
    plan, model = make_plan(shape, 2**16, world_size=4), GPT(shape)
    runtime = Runtime(torch.device("cpu"), torch.bfloat16, 0, 4)
    monkeypatch.setattr(training, "device_here", lambda _: DEVICES["a100"])
    assert training._foreseen_speed(plan, model, runtime, fp8=True) == {}
    (whole,) = training._foreseen_speed(plan, model, runtime, fp8=False).values()
    model.shards = 4
    (cut,) = training._foreseen_speed(plan, model, runtime, fp8=False).values()
    model.run_block = RECOMPUTING["blocks"]
    (recomputing,) = training._foreseen_speed(plan, model, runtime, fp8=False).values()
    assert whole != cut > recomputing


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
def test_a_stage_in_fp8_is_another_one_with_the_same_files(tiny_copy, pretrain, monkeypatch):
    monkeypatch.setattr(training, "fp8_products", partial(fp8_products, emulate=True))
    argv = ["--tokens", 2048, "--batch-tokens", 1024, "--no-compile"]
    found = []
    for more in ([], ["--fp8"]):
        assert pretrain(tiny_copy, *argv, *more)[0] == 0
        bundle = load_bundle(tiny_copy / "pretrain/bundle")
        files = sorted(path.name for path in bundle.path.iterdir())
        found.append((files, bundle.config, bundle.model.state_dict()))
    (files, config, weights), (files8, config8, weights8) = found
    assert files8 == files and config8 == config and weights8.keys() == weights.keys()
    assert all(weights8[name].dtype == weight.dtype for name, weight in weights.items())
    assert any(not torch.equal(weights8[name], weight) for name, weight in weights.items())
