"""All stages, one after another, at toy size: each takes what the one before made, and none works twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatsmith.cli import main as cli
from chatsmith.runtime.console import LOG_VARIABLE
from chatsmith.runtime.signals import FINISHING_STEP
from tests.threads import one_thread

__all__ = ["one_thread"]

BUNDLE = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
    "generation_config.json",
    "README.md",
}


def chatsmith(*argv) -> int:
    return cli.main([str(word) for word in argv], {})


def metrics_of(run: Path, stage: str) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["stage"] == stage]


def test_what_run_says_is_kept_in_its_log(tiny_run):
    said = (tiny_run / "run.log").read_text(encoding="utf-8")
    assert (
        all(part in said for part in ("== Recipe tiny", "== Pretraining", "Results in"))
        and "\x1b" not in said
    )


def test_why_a_command_failed_stands_in_the_log_of_its_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "run.log"))
    assert cli.main(["report", str(tmp_path / "nowhere")], {}) == 2
    assert (tmp_path / "run.log").read_text() == capsys.readouterr().err
    assert LOG_VARIABLE not in os.environ, "the next command has a log of its own, or none"


def test_every_stage_leaves_its_outputs(tiny_run):
    for stage in ("pretrain", "sft", "rl"):
        assert {path.name for path in (tiny_run / stage / "bundle").iterdir()} == BUNDLE
    assert {"tokenizer.json", "done.json"} <= {path.name for path in (tiny_run / "tokenizer").iterdir()}
    for stage in ("data", "tokenizer", "pretrain", "sft", "rl"):
        assert json.loads((tiny_run / stage / "done.json").read_text())["facts"]
    config = json.loads((tiny_run / "sft" / "bundle" / "config.json").read_text())
    assert config["format_version"] == 2


def test_metrics_have_a_line_a_step_and_a_score_at_every_evaluation(tiny_run):
    for stage, steps, score, scored in (("pretrain", 16, "bpb", [8, 16]), ("sft", 8, "validation", [8])):
        lines = metrics_of(tiny_run, stage)
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1))
        assert [line["step"] for line in lines if score in line] == scored
        assert all(line["tokens"] == 1024 * line["step"] for line in lines)
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < losses[0]


def test_evaluations_are_written_as_json(tiny_run):
    base = json.loads(next((tiny_run / "evals").glob("rl-base*.json")).read_text())
    exam = json.loads(next((tiny_run / "evals").glob("rl-exam*.json")).read_text())
    practice = json.loads((tiny_run / "evals" / "rl.json").read_text())
    assert 0 < base["result"]["bits_per_byte"] < 8
    assert 0 <= exam["result"]["overall"] <= 1
    assert practice["n"] == 8 and 0 <= practice["pass_at_1_after"] <= 1


def test_the_same_command_again_touches_nothing(tiny_copy, run_tiny, capsys):
    def written() -> dict[str, int]:
        return {
            str(path.relative_to(tiny_copy)): path.stat().st_mtime_ns
            for path in tiny_copy.rglob("*")
            if path.is_file() and path.name not in (".lock", "run.log")  # what it says is kept, too
        }

    run_tiny(tiny_copy)  # the report names the folder, which is another one now
    capsys.readouterr()
    before = written()
    run_tiny(tiny_copy)
    assert written() == before
    out = capsys.readouterr().out
    assert out.count("(earlier)") == 5  # evaluate keeps its own record, in evals/
    assert "is up to date" in out


def test_two_runs_with_one_seed_make_the_same_models(tiny_run, run_tiny, tmp_path):
    run_tiny(tmp_path / "tiny")
    for stage in ("pretrain", "sft", "rl"):
        for name in BUNDLE - {"README.md"}:  # the card says how long it took
            first, second = (run / stage / "bundle" / name for run in (tiny_run, tmp_path / "tiny"))
            assert first.read_bytes() == second.read_bytes(), f"{stage}/{name}"


def test_a_changed_setting_repeats_its_stage_and_those_after_it(tiny_copy, run_tiny, capsys):
    before = {
        stage: (tiny_copy / stage / "bundle" / "model.safetensors").read_bytes()
        for stage in ("pretrain", "sft", "rl")
    }
    run_tiny(tiny_copy, "--set", "sft.seed=2")
    assert capsys.readouterr().out.count("(earlier)") == 3
    after = {stage: (tiny_copy / stage / "bundle" / "model.safetensors").read_bytes() for stage in before}
    assert after["pretrain"] == before["pretrain"] and after["sft"] != before["sft"]
    assert after["rl"] != before["rl"]


def test_chat_prints_the_reply_alone(tiny_run, capsys):
    replies = []
    for _ in range(2):
        assert chatsmith("chat", tiny_run, "--prompt", "Hello", "--seed", 3, "--max-tokens", 12) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        replies.append(captured.out)
    assert replies[0] == replies[1] and replies[0].strip()
    assert "==" not in replies[0] and str(tiny_run) not in replies[0]


def test_evaluate_prints_one_json_object_alone(tiny_run, capsys):
    assert chatsmith("evaluate", tiny_run, "--suite", "exam", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"exam"}
    assert {"overall", "n", "sections"} <= set(printed["exam"])
    for section in printed["exam"]["sections"].values():
        assert {"accuracy", "n", "low", "high"} <= set(section)


@pytest.mark.slow
def test_ctrl_c_leaves_a_clean_run_that_goes_on_to_the_same_model(
    tiny_copy, tmp_path, subprocess_environment, capsys
):
    """Also: the model of the last time stays until the new one is whole."""
    (tiny_copy / "metrics.jsonl").unlink()
    uninterrupted = shutil.copytree(tiny_copy, tmp_path / "uninterrupted")
    settings = ("--tokens", "65536")
    assert chatsmith("pretrain", uninterrupted, *settings) == 0

    before = (tiny_copy / "pretrain" / "bundle" / "model.safetensors").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-m", "chatsmith", "pretrain", str(tiny_copy), *settings],
        env=subprocess_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tiny_copy / "metrics.jsonl").exists() or len(metrics_of(tiny_copy, "pretrain")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    stopped_at = metrics_of(tiny_copy, "pretrain")[-1]["step"]
    assert stopped_at < 64
    assert error == (
        f"{FINISHING_STEP}\n"
        f"chatsmith: stopped after step {stopped_at} of 64, which is saved; the same command goes on from there\n"
    )
    assert (tiny_copy / "pretrain" / "bundle" / "model.safetensors").read_bytes() == before
    assert [path for path in tiny_copy.rglob("*") if path.name.endswith((".tmp", ".old"))] == []

    assert chatsmith("pretrain", tiny_copy, *settings) == 0
    assert f"resuming after step {stopped_at} of 64" in capsys.readouterr().out
    steps = [line["step"] for line in metrics_of(tiny_copy, "pretrain") if "loss" in line]
    assert steps == list(range(1, 65))
    resumed, whole = (run / "pretrain" / "bundle" / "model.safetensors" for run in (tiny_copy, uninterrupted))
    assert resumed.read_bytes() == whole.read_bytes() != before


def test_any_bundle_can_be_fine_tuned_on_any_conversations(tiny_run, tmp_path, capsys):
    conversations = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi."}]
    conversations.write_text(20 * (json.dumps({"messages": talk}) + "\n"))
    run = tmp_path / "mine"
    argv = ("sft", run, "--from", tiny_run / "pretrain" / "bundle", "--conversations", conversations)
    settings = ("--batch-tokens", 512, "--epochs", 5, "--no-compile")
    assert chatsmith(*argv, *settings) == 0
    assert {path.name for path in (run / "sft" / "bundle").iterdir()} == BUNDLE
    assert metrics_of(run, "sft")[-1]["loss"] < metrics_of(run, "sft")[0]["loss"]
    capsys.readouterr()
    assert chatsmith(*argv, *settings) == 0
    assert "is up to date" in capsys.readouterr().out
    assert chatsmith("chat", run, "--prompt", "Say hi.", "--max-tokens", 4) == 0
