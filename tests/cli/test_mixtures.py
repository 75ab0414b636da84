"""Mixtures in `mid`, `sft` and `pretrain`: stages follow each other, resume bitwise, and refuse what is wrong."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from chatsmith.cli import main as cli
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle
from chatsmith.train import trainer

SMALL = ("--batch-tokens", "1024", "--no-compile", "--dtype", "fp32", "--evaluate-tokens", "1024")
MIXTURE = ("--mixture", "conversations epochs=2", "documents weight=0.25")


@pytest.fixture
def run_command(capsys):
    """Runs a command; returns its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([*map(str, argv)], {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def weights(run: Path, stage: str) -> bytes:
    return (run / stage / "bundle" / "model.safetensors").read_bytes()


def test_mid_comes_between_pretraining_and_fine_tuning(tiny_copy, run_command):
    before = weights(tiny_copy, "sft")
    code, out, error = run_command("mid", tiny_copy, *SMALL, "--tokens", 4096)
    assert code == 0, error
    assert "One pass over the mixture" in out and "A conversation of conversations" in out
    facts = RunDirectory(tiny_copy).done_facts("mid")
    assert facts is not None and {"validation", "bpb"} <= facts.keys()
    assert [one["source"] for one in facts["mixture"]] == ["conversations", "documents"]
    assert sum(one["share"] for one in facts["mixture"]) == pytest.approx(1, abs=1e-3)
    assert facts["mixture"][1]["tokens"] == 16 * 128, "half of 32 rows"
    assert run_command("mid", tiny_copy, *SMALL, "--tokens", 4096)[1].count("is up to date") == 1
    shutil.rmtree(tiny_copy / "rl")
    assert resolve_bundle(tiny_copy).parent.name == "sft"
    code, out, error = run_command("sft", tiny_copy)
    assert code == 0, error
    assert "mid/bundle" in out and weights(tiny_copy, "sft") != before
    shutil.rmtree(tiny_copy / "sft")
    assert resolve_bundle(tiny_copy).parent.name == "mid", "chat and evaluate take it as any stage"


def test_the_loss_of_mid_is_on_all_or_on_the_assistant(tiny_copy, run_command):
    shown = {}
    for loss in ("all", "assistant"):
        code, out, error = run_command(
            "mid", tiny_copy, *SMALL, "--tokens", 1024, "--loss", loss, "--mixture", "conversations"
        )
        assert code == 0, error
        shown[loss] = [line for line in out.splitlines() if "A conversation of" in line]
    assert len(shown["all"]) == len(shown["assistant"]) == 2, "two samples of the only source"
    assert shown["all"] != shown["assistant"]


def test_a_mixture_that_is_broken_off_goes_on_bitwise(tiny_copy, tmp_path, run_command, monkeypatch):
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    argv = (*SMALL, *MIXTURE, "--tokens", 8192, "--save-minutes", 1e-9)
    assert run_command("sft", tiny_copy, *argv)[0] == 0
    train_step = trainer.train_step

    def broken(*arguments, **options):
        if arguments[6] == 5:
            raise KeyboardInterrupt
        return train_step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", broken)
        assert run_command("sft", other, *argv)[0] == 130
    code, out, _ = run_command("sft", other, *argv)
    assert code == 0 and "resuming after step 4 of 8" in out
    assert weights(other, "sft") == weights(tiny_copy, "sft")


def test_runs_share_the_tokens_of_conversations(tiny_copy, tmp_path, run_command, monkeypatch):
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    argv = (*SMALL, "--tokens", 1024, "--mixture", "conversations cap=77")
    assert run_command("mid", tiny_copy, *argv)[0] == 0
    parts = json.loads(run_command("data", "cache", "--json")[1])["parts"]
    listed = [part for part in parts if part["name"] == "conversations (conversations)"]
    assert len(listed) >= 1 and {part["state"] for part in listed} == {"complete"}
    assert not [path for path in (tiny_copy / "tokens").glob("*") if path.name.startswith("conversations")]

    def unexpected(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr("chatsmith.ingest.tokenizing.render", unexpected)
    code, _, error = run_command("mid", other, *argv)
    assert code == 0, error
    assert weights(other, "mid") == weights(tiny_copy, "mid")


@pytest.mark.long
def test_tokens_that_an_earlier_version_kept_in_the_run_are_used(
    tiny_copy, tmp_path, run_command, monkeypatch
):
    argv = ("mid", tiny_copy, *SMALL, "--tokens", 1024, "--mixture", "conversations cap=78")
    assert run_command(*argv)[0] == 0
    before = weights(tiny_copy, "mid")
    shutil.rmtree(tiny_copy / "mid")
    for part in json.loads(run_command("data", "cache", "--json")[1])["parts"]:
        key = json.loads(Path(part["folder"], "progress.json").read_bytes())["key"]
        for name in ("conversations", "validation"):
            if part["name"] == f"{name} (conversations)":
                kept = tiny_copy / "tokens" / f"{name}-{sha256(key.encode()).hexdigest()[:12]}"
                shutil.copytree(part["folder"], kept)
    monkeypatch.setenv("CHATSMITH_CACHE", str(tmp_path / "empty"))
    assert run_command(*argv)[0] == 0
    assert weights(tiny_copy, "mid") == before
    assert json.loads(run_command("data", "cache", "--json")[1])["parts"] == []


def test_pretraining_goes_on_from_a_bundle_with_old_text_in_the_mixture(tiny_copy, tmp_path, run_command):
    run, text = tmp_path / "new", tmp_path / "law.txt"
    text.write_text("".join(f"Paragraph {n}. Whoever finds a ball may keep it.\n\n" for n in range(400)))
    assert run_command("data", "prepare", run, "--data", text)[0] == 0
    shutil.copytree(tiny_copy / "data", tmp_path / "old")
    argv = ("pretrain", run, "--from", tiny_copy / "pretrain", "--tokens", 4096, *SMALL)
    mixture = ("--mixture", "documents weight=0.75", f"{tmp_path / 'old' / 'train.parquet'} weight=0.25")
    code, _, error = run_command(*argv, *mixture)
    assert code == 0, error
    facts = RunDirectory(run).done_facts("pretrain")
    assert facts is not None and [one["tokens"] for one in facts["mixture"]] == [24 * 128, 8 * 128]
    tokenizers = (path / "pretrain" / "bundle" / "tokenizer.json" for path in (run, tiny_copy))
    assert len({path.read_bytes() for path in tokenizers}) == 1
    assert run_command("tokenizer", run, "--vocab-size", 300)[0] == 0
    code, _, error = run_command(*argv, "--seed", 2)
    assert code == 2 and "another tokenizer" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        ("mid", ["--mixture", "conversations epoch=2"], "unknown key 'epoch'"),
        ("mid", ["--mixture", "smoltlak"], "there is no source smoltlak"),
        ("mid", ["--mixture", "conversations", "documents weight=1"], "leaves nothing for the sources"),
        ("mid", ["--mixture", "documents weight=1"], "a mixture of weights alone has no end"),
        ("sft", ["--mixture", "conversations", "--conversations", "a.jsonl"], "in the mixture alone"),
        ("sft", ["--tokens", 512, "--mixture", "conversations", "identity:ada.toml"], "unknown key 'nmae'"),
        ("sft", ["--tokens", 512, "--mixture", "empty.jsonl"], "empty.jsonl"),
        ("pretrain", ["--from", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_no_model(
    tiny_copy, tmp_path, run_command, monkeypatch, command, argv, message
):
    monkeypatch.chdir(tmp_path)
    Path("ada.toml").write_text('nmae = "Ada"\nname = "Ada"\nmaker = "me"')
    Path("empty.jsonl").write_text("")
    before = {path for path in tiny_copy.rglob("*") if path.is_file() and "tokens" not in path.parts}
    code, _, error = run_command(command, tiny_copy, *argv, "--no-compile")
    assert code == 2
    assert message in error and error.startswith("chatsmith: ") and error.count("\n") == 1
    assert {path for path in tiny_copy.rglob("*") if path.is_file() and "tokens" not in path.parts} == before


def test_a_weight_whose_source_has_no_data_is_one_line(tiny_run, tmp_path, run_command):
    run, text = tmp_path / "new", tmp_path / "law.txt"
    text.write_text("".join(f"Paragraph {n}. Whoever finds a ball may keep it.\n\n" for n in range(400)))
    assert run_command("data", "prepare", run, "--data", text)[0] == 0
    argv = ("mid", run, "--from", tiny_run / "pretrain", "--mixture", "documents", "conversations weight=0.5")
    code, _, error = run_command(*argv)
    assert code == 2 and "the run has no conversations" in error and error.count("\n") == 1


@pytest.mark.long
def test_two_processes_train_on_a_mixture_as_one_does(
    tiny_copy, tmp_path, run_command, subprocess_environment
):
    run = Path(shutil.copytree(tiny_copy, tmp_path / "two"))
    argv = [*SMALL, *MIXTURE, "--tokens", "4096", "--rows-per-microbatch", "4"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "chatsmith", "mid", run, *argv],
        capture_output=True,
        text=True,
        env=subprocess_environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert run_command("mid", tiny_copy, *argv)[0] == 0
    one, two = (RunDirectory(path).done_facts("mid") for path in (tiny_copy, run))
    assert one is not None and two is not None and one["mixture"] == two["mixture"]
    for score in ("loss", "validation", "bpb"):
        assert one[score] == pytest.approx(two[score], abs=2e-3)
