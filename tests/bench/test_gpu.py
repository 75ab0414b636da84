"""The script for the day a GPU is at hand runs, in small, and keeps what it found."""

import json
from pathlib import Path

import pytest
import torch

from chatsmith.runtime.device import Runtime

CPU = Runtime(torch.device("cpu"), torch.float32)
FOUND = {
    "d12": ("tokens_per_second", "mfu_of_data_sheet"),
    "optimizer": ("save_stall_seconds", "muon_bf16_singular_values"),
    "memory": ("rows",),
    "attention": ("rows", "read_bytes_per_second"),
    "engine": ("rows", "prefill_tokens_per_second", "prefill_flops_per_second"),
    "rl": ("rounds",),
}


@pytest.mark.parametrize("part", FOUND)
def test_every_part_runs_in_small(script, part: str):
    found = script("gpu").PARTS[part](True, CPU)
    assert set(FOUND[part]) <= set(found) and json.dumps(found)


def test_the_file_is_rewritten_after_each_part_and_a_failure_costs_one(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    bench, seen = script("gpu"), []
    out = tmp_path / "gpu.json"

    def run(part: str, tiny: bool, seconds: float) -> dict[str, object]:
        seen.append(list(json.loads(out.read_text())["parts"]) if out.exists() else [])
        return {"failed": "out of memory"} if part == "d20" else {"fine": seconds}

    monkeypatch.setattr(bench, "run", run)
    assert bench.main(["d12", "d20", "rl", "--tiny", "--json", "--out", str(out)]) == 1
    assert seen == [[], ["d12"], ["d12", "d20"]]
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert report["parts"]["rl"]["fine"] <= 120 and report["parts"]["d20"] == {"failed": "out of memory"}


@pytest.mark.slow
def test_a_part_is_a_process_that_ends_in_time(script, monkeypatch: pytest.MonkeyPatch):
    bench = script("gpu")
    assert bench.run("memory", True, 200)["rows"]
    assert bench.run("memory", True, 1) == {"failed": "no time was left", "seconds": 0.0}
    monkeypatch.setattr(bench, "LEAST_SECONDS", 0)
    assert "took longer" in bench.run("memory", True, 0.1)["failed"]


def test_what_cannot_be_is_refused(script):
    for arguments in (["nothing", "--tiny"], [] if not torch.cuda.is_available() else ["x"]):
        with pytest.raises(SystemExit) as ended:
            script("gpu").main(arguments)
        assert ended.value.code == 2
