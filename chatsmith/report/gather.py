"""What is known of a run, as plain data: the sections of the report, from the files of the run directory and from its
models, tokenizer and texts. Nothing here writes, and no lock is taken: a run that is being trained can be reported on.
"""

import os
import platform
import re
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch

import chatsmith
from chatsmith.bundle import bundle_fingerprint
from chatsmith.data.dataset import load_manifest
from chatsmith.report.reference_vocabularies import beginning, compare
from chatsmith.report.run_facts import Facts, attempt, is_number, read_json, read_records, read_run, read_toml
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.tokenizer import Tokenizer

CURVES = {
    "loss (nats per token)": ("loss",),
    "bits per byte, validation": ("bpb",),
    "validation loss (nats per token)": ("validation",),
    "learning rate (share of its peak)": ("rate",),
    "throughput (tokens/s)": ("tokens_per_second", "rollout_tokens_per_second"),
    "memory (GB)": ("memory_gb", "peak_memory_gb"),
    "reward": ("reward",),
    "pass@1, development problems": ("dev_pass_at_1",),
    "mean reward, development problems": ("dev_reward",),
    "CORE": ("core",),
}
"""What is drawn, and the keys of metrics.jsonl it is from: the first one that a stage has."""
SHAPE = ("num_layers", "num_heads", "head_dim", "vocab_size", "context_length")
PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "huggingface-hub")
MAX_POINTS = 300  # of a curve; more are averaged in groups: they could not be told apart on a page
HELD_OUT_CHARACTERS = 200_000  # enough for two digits of bytes per token


def gather(path: Path, price_per_hour: float = 0.0) -> Facts:
    """The figures of the run at `path` by section. `price_per_hour` is what its machines cost together, in dollars.

    Raises UserError if there is no run at all.
    """
    run, missing = RunDirectory(path), []
    records = attempt(missing, "metrics.jsonl", read_records, run.metrics, missing)
    found = read_run(run, records, missing, price_per_hour, bundle_fingerprint)
    done, recipe, _ = found.pop("done"), found.pop("recipe"), found.pop("states")
    models = {name: attempt(missing, f"{name}/bundle", _model, run, name, done[name]) for name in done}
    found |= {
        "models": {name: model for name, model in models.items() if model},
        "curves": attempt(missing, "curves", _curves, records),
        "tokenizer": attempt(missing, "tokenizer", _tokenizer, run),
        "machine": attempt(missing, "machine", _machine),
    }
    again = replace(recipe, stages=tuple(done), sections=found["settings"]).to_toml()
    found["reproduce"] = {"command": "chatsmith run recipe.toml --run runs/again", "recipe.toml": again}
    return {**found, "missing": missing}


def _model(run: RunDirectory, stage: str, done: Facts) -> Facts:
    """Shape and identity of the stage's bundle, and the checkpoints that were kept along the way."""
    model: Facts = {}
    if run.bundle(stage).is_dir():
        shape = read_json(run.bundle(stage) / "config.json")["model"]
        model = {
            "parameters": done.get("parameters"),
            **{key: shape[key] for key in SHAPE},
            "sha256": bundle_fingerprint(run.bundle(stage)),
        }
    if steps := sorted(int(path.name) for path in run.stage(stage).glob("steps/*") if path.name.isdigit()):
        model["checkpoints"] = [f"{run.path}/{stage}@{step}" for step in steps]
    return model


def _curves(records: dict[str, list[Facts]]) -> dict[str, Facts]:
    """The curves by stage and title: `x` is "tokens" or "step", `points` are pairs."""
    curves: dict[str, Facts] = {stage: {} for stage in records}
    for stage, rows in records.items():
        x = "tokens" if any("tokens" in row for row in rows) else "step"
        for title, keys in CURVES.items():
            of_keys = [[[row.get(x), row.get(key)] for row in rows] for key in keys]
            of_keys = [[pair for pair in points if all(map(is_number, pair))] for points in of_keys]
            points = next(filter(None, of_keys), [])
            if points:
                size = -(-len(points) // MAX_POINTS)
                groups = [points[start : start + size] for start in range(0, len(points), size)]
                means = [
                    [sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups
                ]
                curves[stage][title] = {"x": x, "points": means}
    return {stage: drawn for stage, drawn in curves.items() if drawn}


def _tokenizer(run: RunDirectory) -> Facts:
    """Bytes per token by text, of this tokenizer and of GPT-2's and GPT-4's where they can be had offline."""
    if not (run.tokenizer / "tokenizer.json").exists():
        return {}
    own = Tokenizer.load(run.tokenizer)
    texts = read_toml(Path(__file__).with_name("texts.toml"))
    note, held_out = "", ""
    try:
        lines = (one.text + "\n" for one in load_manifest(run.data).read_documents("validation"))
        held_out = "".join(beginning(lines, HELD_OUT_CHARACTERS))
    except UserError as error:
        note = f"held-out text could not be read: {error}"
    if held_out:
        texts["held-out text"] = held_out[:HELD_OUT_CHARACTERS]
    compared = compare(own, {name: [text] for name, text in texts.items()})
    return {
        "sha256": own.fingerprint,
        "vocabularies": {
            name: {kind: round(value, 3) for kind, value in found.items()}
            for name, found in compared.items()
            if found
        },
        "not_available_offline": [name for name, found in compared.items() if not found],
        "note": note,
    }


def _machine() -> Facts:
    """The machine and the versions that write the report (at the end of `chatsmith run`: that trained), and the commit
    where chatsmith runs from a git checkout."""
    found: Facts = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    processors = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", processors.read_text()) if processors.exists() else []
    found |= {"processor": names[0]} if names else {}
    found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    found |= {"chatsmith": chatsmith.__version__, "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in PACKAGES}
    root = Path(chatsmith.__file__).parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            found["commit"] = subprocess.run(
                command, capture_output=True, text=True, timeout=20
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            found["commit"] = ""  # no git, or a slow disk
    return found
