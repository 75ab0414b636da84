"""The recipe `speedrun` at toy size, from nothing to the report, against a hub on this machine: only sizes are set, so
that the recipe itself cannot rot. And what `doctor` and `plan` say of it."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatsmith.bundle import bundle_fingerprint
from chatsmith.cli import main as cli
from tests.evals.conftest import small_benchmarks
from tests.hub_server import Hub, serving
from tests.threads import one_thread

__all__ = ["one_thread", "small_benchmarks"]

SHARDS = "hub:karpathy/fineweb-edu-100b-shuffle[0:3]"
WORDS = ["fox", "tree", "ball", "red", "under", "runs", "home", "little", "asked", "where", "the", "a", "and"]
TOY = {
    "data.data": [SHARDS],
    "tokenizer.vocab_size": 400,
    "tokenizer.sample_megabytes": 0.05,
    "pretrain.depth": 2,
    "pretrain.width": 64,
    "pretrain.head_dim": 32,
    "pretrain.sequence_length": 256,
    "pretrain.tokens": 8192,
    "pretrain.batch_tokens": 1024,
    "pretrain.evaluations": 1,
    "mid.batch_tokens": 1024,
    "mid.tokens": 4096,
    "mid.evaluations": 1,
    "sft.batch_tokens": 1024,
    "sft.tokens": 4096,
    "sft.evaluations": 1,
    "rl.steps": 1,
    "rl.prompts": 2,
    "rl.samples": 2,
    "rl.max_tokens": 8,
    "rl.evaluations": 1,
    "rl.development": 2,
    "rl.test": 2,
    "evaluate.max_examples": 2,
    **{f"{stage}.evaluate_tokens": 1024 for stage in ("pretrain", "mid", "sft")},
    **{f"{stage}.compile": False for stage in ("pretrain", "mid", "sft")},
    **{f"{stage}.dtype": "fp32" for stage in ("pretrain", "mid", "sft", "rl", "evaluate")},
    **{f"{stage}.device": "cpu" for stage in ("pretrain", "mid", "sft", "rl", "evaluate")},
}


def table(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, compression="none")
    return file.getvalue()


def shard(seed: int) -> bytes:
    choose = random.Random(seed)
    return table(
        [{"text": f"{seed} {number} {' '.join(choose.choices(WORDS, k=60))}"} for number in range(120)]
    )


def talks(seed: int, count: int) -> bytes:
    choose = random.Random(seed)

    def say(words: int) -> str:
        return " ".join(choose.choices(WORDS, k=words)) + "."

    roles = (("user", 4), ("assistant", 8))
    return table(
        [{"messages": [{"role": role, "content": say(words)} for role, words in roles]} for _ in range(count)]
    )


def questions(count: int) -> list[dict[str, Any]]:
    choices = ["one", "two", "three", "four"]
    return [
        {"question": f"Which is {number}?", "choices": choices, "answer": number % 4, "subject": "numbers"}
        for number in range(count)
    ]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_benchmarks: Path) -> Iterator[Hub]:
    """A hub with the data sets of the recipe; caches are the test's own, and hold the benchmarks."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("CHATSMITH_CACHE", str(tmp_path / "shared"))
        shutil.copytree(small_benchmarks, tmp_path / "cache" / "chatsmith" / "eval")
        hub.dataset(
            "karpathy/fineweb-edu-100b-shuffle",
            {f"shard_{number:05d}.parquet": shard(number) for number in range(5)},
        )
        hub.dataset(
            "HuggingFaceTB/smol-smoltalk",
            {
                "data/train-00000-of-00001.parquet": talks(1, 200),
                "data/test-00000-of-00001.parquet": talks(2, 20),
            },
        )
        hub.dataset(
            "cais/mmlu",
            {
                "auxiliary_train/train-00000-of-00001.parquet": table(
                    [{"train": one} for one in questions(40)]
                )
            },
        )
        yield hub


def toy_flags() -> list[str]:
    return [word for name, value in TOY.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def test_from_nothing_to_the_report(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "toy"
    assert cli.main(["run", "speedrun", "--run", str(run), *toy_flags()], os.environ) == 0
    out = capsys.readouterr().out
    assert "data → tokenizer → pretrain → mid → sft → rl → evaluate" in out
    assert "chatsmith chat" in out and "d24" in out, (
        "how to talk to it, and what would have been the better buy"
    )
    stages = ("pretrain", "mid", "sft", "rl")
    assert all((run / stage / "bundle" / "config.json").is_file() for stage in stages)
    measured = {path.name.split("-")[0] for path in (run / "evals").glob("*-*.json")}
    assert measured == set(stages)
    config = json.loads((run / "pretrain" / "bundle" / "config.json").read_text())
    assert config["model"]["value_embedding_layers"] == []
    shares = json.loads((run / "mid" / "done.json").read_text())["facts"]["mixture"]
    assert {one["source"] for one in shares} >= {
        "smoltalk",
        "mmlu",
        "gsm8k",
        "identity",
        "spelling",
        "counting",
    }
    report = (run / "report.md").read_text()
    assert "speedrun" in report and (run / "report.html").is_file()
    assert not hub.sent("shard_00003.parquet"), "one that was not asked for"

    before = {stage: bundle_fingerprint(run / stage / "bundle") for stage in stages}
    hub.asked.clear()
    assert cli.main(["run", str(run)], os.environ) == 0
    assert {stage: bundle_fingerprint(run / stage / "bundle") for stage in stages} == before
    assert capsys.readouterr().out.count("(earlier)") == 6
    assert not any(hub.sent(path) for path in ("shard_00000.parquet", "data/train-00000-of-00001.parquet"))


@pytest.mark.long
def test_two_processes_killed_and_continued_come_to_the_same_end(hub: Hub, tmp_path: Path):
    """Ctrl-C in one stage, SIGKILL of everything in another; the same command goes on each time."""
    run, metrics = tmp_path / "toy", tmp_path / "toy" / "metrics.jsonl"
    command = [sys.executable, "-m", "chatsmith", "run", "speedrun", "--run", str(run), "--processes", "2"]
    command += [*toy_flags(), "--set", "pretrain.save_minutes=0.0001", "--set", "mid.save_minutes=0.0001"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start_until(stage: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not metrics.exists() or sum(f'"stage": "{stage}"' in line for line in metrics.open()) < 2:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.02)
        return process

    process = start_until("pretrain")
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "goes on from there" in error
    process = start_until("mid")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while (code := subprocess.run(command, env=environ, capture_output=True, text=True)).returncode == 2:
        assert "is in use by process" in code.stderr and time.monotonic() < deadline
        time.sleep(0.5)
    assert code.returncode == 0, code.stderr
    lines = [json.loads(line) for line in metrics.open()]
    for stage, steps in (("pretrain", 8), ("mid", 4), ("sft", 4)):
        found = [line["step"] for line in lines if line["stage"] == stage and "loss" in line]
        assert found == list(range(1, steps + 1)), stage
    assert "processes" in code.stdout and (run / "report.html").is_file()


def test_doctor_says_what_is_amiss_before_anything_is_trained(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["doctor", "speedrun", "--run", str(tmp_path / "toy"), "--json", *toy_flags()]

    def checks(*more: str) -> dict[str, dict[str, Any]]:
        assert cli.main([*argv, *more], os.environ) == 0
        found = json.loads(capsys.readouterr().out)
        assert all(one.keys() == {"name", "ok", "detail", "advice"} for one in found)
        return {one["name"]: one for one in found}

    found = checks("--processes", "2")
    assert {"devices", "dtype", "compiler", "disk", "memory", "data", "tokens", "ports"} <= found.keys()
    assert all(found[name]["ok"] for name in ("disk", "memory", "data", "tokens", "ports"))
    assert not checks("--set", "pretrain.tokens=10_000_000")["tokens"]["ok"]
    assert "epochs" in checks("--set", "pretrain.tokens=100_000")["tokens"]["detail"]
    assert not checks("--set", "pretrain.tokens=9_000_000_000_000_000")["disk"]["ok"]
    assert not checks("--set", "pretrain.depth=400", "--set", "pretrain.width=65536")["memory"]["ok"]
    missing = checks("--data", "hub:nobody/nothing")["data"]
    assert not missing["ok"] and "nobody/nothing" in missing["detail"]
    for source in ("hub:nobody/talks", "nowhere.jsonl", "identity:nobody.toml", "smoltolk"):
        for given in (
            ["--set", f'sft.mixture=["conversations", "{source} epochs=2"]'],
            ["--conversations", source],
        ):
            absent = checks(*given)["data"]
            assert not absent["ok"] and source.partition(":")[2] in absent["detail"], given
    assert not (tmp_path / "toy").exists() and not hub.sent("shard_00000.parquet")
