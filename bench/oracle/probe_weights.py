"""What training makes: tensors, losses, data files and scores of the tiny recipe, in four variants.

Run through the command line alone. Called as `probe_weights.py RECIPE RESULT`, in an empty working directory.
"""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "sft", "rl")
EXACT = ("sft.dtype=fp32", "rl.dtype=fp32", "evaluate.dtype=fp32")  # pretrain's stands in the recipe
VARIANT = (
    "pretrain.bigram_buckets=64",
    "pretrain.window_pattern=SL",
    "pretrain.seed=7",
    "rl.updates=2",
    "rl.replay=4",
    "rl.kl=0.01",
)
TIMES = re.compile(r"^time$|seconds|per_second|share_of_peak|rollout_share")
LONGER = ("--tokens", "65536")  # 64 steps, so that there is a middle to be interrupted in

Result = dict[str, Any]


def main() -> None:
    """Run the variants and write what came of them."""
    recipe, out = sys.argv[1], Path(sys.argv[2])
    result: Result = {}
    tiny, variant = Path("tiny"), Path("variant")
    chatsmith("run", recipe, "--run", str(tiny), *settings(EXACT))
    result |= outputs(tiny, STAGES) | scores(tiny)
    chatsmith("run", recipe, "--run", str(variant), *settings((*EXACT, *VARIANT)))
    result |= outputs(variant, STAGES)
    result |= interrupted(tiny)
    result |= two_processes(tiny)
    out.write_text(json.dumps(result, indent=1))


def settings(pairs: tuple[str, ...]) -> list[str]:
    """`--set` for each of these."""
    return [word for pair in pairs for word in ("--set", pair)]


def chatsmith(*argv: str, environment: dict[str, str] | None = None) -> str:
    """Run the command and return what it prints on stdout."""
    command = [sys.executable, "-m", "chatsmith", *argv]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"chatsmith {' '.join(argv)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def interrupted(base: Path) -> Result:
    """Pretraining that gets SIGTERM in the middle, and goes on."""
    run = without_models(base, "interrupted")
    stopped = interrupt(run)
    chatsmith("pretrain", str(run), *LONGER)
    return {"interrupted/stopped": stopped} | outputs(run, ("pretrain",))


def interrupt(run: Path, environment: dict[str, str] | None = None) -> Result:
    """Begin to pretrain, and send SIGTERM after a few steps; what it says then."""
    command = [sys.executable, "-m", "chatsmith", "pretrain", str(run), *LONGER]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 600
    while len(losses(run, "pretrain")) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "no step was seen"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[1]
    return {"exit code": process.returncode, "stderr": re.sub(r"step \d+", "step N", said)}


def two_processes(base: Path) -> Result:
    """Pretraining and fine-tuning by two processes, as torchrun starts them."""
    run = without_models(base, "two-processes")
    for stage in ("pretrain", "sft"):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "-m", "chatsmith", stage, str(run)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return outputs(run, ("pretrain", "sft"))


def without_models(base: Path, name: str) -> Path:
    """A copy of a run with its data and tokenizer, and nothing trained."""
    run = Path(shutil.copytree(base, name))
    for stage in (*STAGES, "evals"):
        shutil.rmtree(run / stage, ignore_errors=True)
    (run / "metrics.jsonl").unlink()
    return run


def outputs(run: Path, stages: tuple[str, ...]) -> Result:
    """Hashes and records of a run."""
    result: Result = {}
    for stage in stages:
        bundle = run / stage / "bundle"
        result[f"{run}/{stage}/tensors"] = tensors(bundle / "model.safetensors")
        result[f"{run}/{stage}/loss"] = losses(run, stage)
        result[f"{run}/{stage}/other columns"] = other_columns(run, stage)
        config = json.loads((bundle / "config.json").read_text())
        config.pop("files", None)  # hashes of whole files, whose headers may differ
        result[f"{run}/{stage}/config.json"] = config
        result[f"{run}/{stage}/bundle files"] = {
            name: sha256((bundle / name).read_bytes())
            for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json")
        }
    result[f"{run}/data files"] = {
        path.name: sha256(path.read_bytes())
        for path in sorted((run / "data").iterdir())
        if path.suffix in (".parquet", ".jsonl")
    }
    result[f"{run}/token cache"] = {
        f"{path.parent.name}/{path.name}": sha256(path.read_bytes())
        for path in sorted(run.rglob("*.bin"))
        if path.name in ("ids.bin", "offsets.bin")
    }
    return result


def scores(run: Path) -> Result:
    """What `evaluate --json` and `chat` say of the run's model."""
    result: Result = {}
    for suite, split in (("base", "exam"), ("exam", "exam"), ("exam", "development")):
        argv = ("evaluate", str(run), "--suite", suite, "--split", split, "--max-examples", "40", "--json")
        said = chatsmith(*argv, "--dtype", "fp32")
        result[f"{run}/evaluate {suite} {split}"] = without_times(json.loads(said))
    chat = ("chat", str(run), "--prompt", "What is 2 + 3?", "--seed", "3", "--max-tokens", "24")
    result[f"{run}/chat"] = chatsmith(*chat, "--dtype", "fp32")
    return result


def tensors(path: Path) -> dict[str, str]:
    """By name: dtype, shape and SHA-256 of each tensor of a safetensors file; its metadata does not count."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(header.items()):
        first, end = entry["data_offsets"]
        found[name] = f"{entry['dtype']} {entry['shape']} {sha256(content[start + first : start + end])}"
    return found


def records(run: Path, stage: str) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl of a stage; numbers are kept as they are written."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line, parse_float=str) for line in lines if line.endswith("\n")]
    return [record for record in found if record["stage"] == stage]


def losses(run: Path, stage: str) -> list[Any]:
    """(step, loss) of each step."""
    return [[one["step"], one["loss"]] for one in records(run, stage) if "loss" in one]


def other_columns(run: Path, stage: str) -> list[Any]:
    """All else that the records hold, but times and speeds."""
    return [
        {
            name: value
            for name, value in record.items()
            if name not in ("stage", "loss") and not TIMES.search(name)
        }
        for record in records(run, stage)
    ]


def without_times(value: Any) -> Any:
    """JSON without its times."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if not TIMES.search(name)}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def sha256(content: bytes) -> str:
    """The first half of the hash, which is plenty."""
    return hashlib.sha256(content).hexdigest()[:32]


if __name__ == "__main__":
    main()
