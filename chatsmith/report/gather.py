"""What is known of a run, as plain data: the sections of the report, from the files of the run directory.

Nothing here writes, and no lock is taken: a run that is being trained can be reported on. What is missing or damaged
is named in the section `missing`, and the rest is gathered all the same.
"""

import json
import math
import os
import platform
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import chatsmith
from chatsmith.data.dataset import DataManifest, load_manifest
from chatsmith.evals.results import LENGTHS, TaskResult, read_result
from chatsmith.report.reference_vocabularies import REFERENCE_VOCABULARIES, load_offline
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe
from chatsmith.text.tokenizer import Tokenizer

Facts = dict[str, Any]

PIPELINE = ("data", "tokenizer", "pretrain", "mid", "sft", "rl", "evaluate")
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
SPENT = ("tokens", "steps", "tokens_per_second", "share_of_peak", "peak_memory_gb", "foreseen_memory_gb",
         "foreseen_tokens_per_second")  # fmt: skip
SHAPE = ("num_layers", "num_heads", "head_dim", "vocab_size", "context_length")
MEANS = {"core": "CORE", "chat": "ChatCORE", "chat-nanochat": "ChatCORE with nanochat's prompts"}
PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "huggingface-hub")
MAX_POINTS = 300  # of a curve; more are averaged in groups: they could not be told apart on a page
MAX_SOURCES = 20  # shown by name; the smaller ones are summed up
MAX_SAMPLES = 8  # prompts
HELD_OUT_CHARACTERS = 200_000  # enough for two digits of bytes per token

_RESULT = re.compile(r"(.+?)-(base|core|chat|exam)(-nanochat)?(?:-(\d+))?")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # a UserError is a ValueError


def gather(path: Path, price_per_hour: float = 0.0) -> Facts:
    """The figures of the run at `path` by section. `price_per_hour` is what its machines cost together, in dollars.

    Raises UserError if there is no run at all.
    """
    # It brings torch, which whoever only looks at a run does without.
    from chatsmith.bundle import bundle_fingerprint

    run, missing = RunDirectory(path), []
    records = attempt(missing, "metrics.jsonl", read_records, run.metrics, missing)
    found = read_run(run, records, missing, price_per_hour, bundle_fingerprint)
    done, recipe, _ = found.pop("done"), found.pop("recipe"), found.pop("states")
    models = {
        name: attempt(missing, f"{name}/bundle", _model, run, name, done[name], bundle_fingerprint)
        for name in done
    }
    found |= {
        "models": {name: model for name, model in models.items() if model},
        "curves": attempt(missing, "curves", _curves, records),
        "tokenizer": attempt(missing, "tokenizer", _tokenizer, run),
        "machine": attempt(missing, "machine", _machine),
    }
    again = replace(recipe, stages=tuple(done), sections=found["settings"]).to_toml()
    found["reproduce"] = {"command": "chatsmith run recipe.toml --run runs/again", "recipe.toml": again}
    return {**found, "missing": missing}


def read_run(
    run: RunDirectory,
    records: dict[str, list[Facts]],
    missing: list[str],
    price_per_hour: float = 0.0,
    fingerprint: Callable[[Path], str] | None = None,
) -> Facts:
    """What small files say of a run, without torch: `records` are the lines of metrics.jsonl by stage (`read_records`).

    With the `fingerprint` of a bundle, evaluations of a model that was replaced since are left out. What cannot be read
    is added to `missing`. Raises UserError if there is no run at all.
    """
    if not is_run(run):
        raise UserError(f"there is no run at {run.path}; `chatsmith run` makes one")

    def read(what: str, reader: Callable[..., Any], *arguments: Any) -> Any:
        return attempt(missing, what, reader, *arguments)

    recipe = read("recipe.toml", read_recipe, run.recipe) if run.recipe.exists() else None
    recipe = recipe or Recipe(run.path.name)
    stages = [name for name in PIPELINE if name in recipe.stages or run.stage(name).is_dir()]
    done = {name: read(f"{name}/done.json", _done, run, name) for name in stages}
    kept = {name: read(f"{name}/settings.toml", _toml, run.stage(name) / "settings.toml") for name in stages}
    states = {name: read(f"{name}/state", _newest_state, run.state(name)) for name in stages}
    results = read("evals", _results, run, missing, fingerprint)
    manifest = read("data/manifest.json", _json, run.data / "manifest.json")
    settings = {name: read(f"{name} settings", _settings, name, kept[name], recipe) for name in stages}
    about = {"name": recipe.name or run.path.name, "path": str(run.path), "description": recipe.description}
    return {
        "run": about,
        "recipe": recipe,
        "stages": read("stages", _progress, stages, done, states, records, results),
        "done": done,
        "states": states,
        "time": read("time", _time, stages, done, states, records, results, price_per_hour),
        "scores": read("scores", _scores, results),
        "rl": read("evals/rl.json", _gain, run.evals / "rl.json"),
        "adapt": read("evals/adapt.json", _json, run.evals / "adapt.json"),
        "data": read("data/manifest.json", _data, manifest),
        "samples": read("samples", _samples, results, records.get("rl", [])),
        "recorded": {
            name: {key: value for key, value in kept[name].items() if key not in ("key", "done", name)}
            for name in stages
            if kept[name]
        },
        "warnings": read("warnings", _warnings, manifest, done, records) or [],
        "settings": settings,
    }


def is_run(run: RunDirectory) -> bool:
    """Whether there is anything of a run."""
    has_file = run.recipe.is_file() or run.metrics.is_file()
    return has_file or any(run.stage(name).is_dir() for name in PIPELINE)


def attempt(missing: list[str], what: str, reader: Callable[..., Any], *arguments: Any) -> Any:
    """What `reader` finds, or nothing and a line about it in `missing`."""
    try:
        return reader(*arguments)
    except _DAMAGE as error:
        missing.append(f"{what}: {' '.join(str(error).split()) or type(error).__name__}")
        return {}


# ---- files ----


def _json(path: Path) -> Facts:
    """The object in a JSON file, or nothing if there is no such file. Raises ValueError if it is damaged."""
    value = _parsed(path.read_bytes()) if path.exists() else {}
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: not a JSON object")
    return value


def _parsed(text: bytes) -> Any:
    return json.loads(text, parse_constant=lambda name: None)  # NaN and infinity are no numbers to report


def _toml(path: Path) -> Facts:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _done(run: RunDirectory, stage: str) -> Facts:
    """The facts of a finished stage. Raises ValueError where what it made is gone."""
    done = _json(run.stage(stage) / "done.json")
    if gone := [output for output in done.get("outputs", ()) if not (run.path / output).exists()]:
        raise ValueError(f"it is finished, but {', '.join(gone)} is no longer there")
    return (
        {**done["facts"], "is_done": True, "finished_at": float(done.get("finished_at", 0.0))} if done else {}
    )


def _settings(stage: str, kept: Facts, recipe: Recipe) -> Facts:
    """The settings that the stage wrote down when it began, or else those of the recipe."""
    own = kept.get(stage) or recipe.sections.get(stage, {})
    return {name: value for name, value in own.items() if name not in ("run", "json")}


def _newest_state(folder: Path) -> Facts:
    """The facts of the newest training state: `step`, `steps`, `seconds`; and when it was saved."""
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not numbers:
        return {}
    path = folder / f"{max(numbers):06d}" / "state.json"
    found = _json(path).get("facts")
    return {**found, "saved_at": path.stat().st_mtime} if found else {}


def read_records(path: Path, missing: list[str]) -> dict[str, list[Facts]]:
    """The lines of metrics.jsonl by stage, in the order of steps."""
    records: dict[str, list[Facts]] = {}
    rows, damaged = parse_records(path.read_bytes() if path.exists() else b"")
    for row in rows:
        records.setdefault(row["stage"], []).append(row)
    if damaged:
        missing.append(f"metrics.jsonl: {damaged:,} damaged lines are left out")
    return {stage: sorted(rows, key=lambda row: row["step"]) for stage, rows in records.items()}


def parse_records(text: bytes) -> tuple[list[Facts], int]:
    """The records in lines of metrics.jsonl, and how many lines are damaged."""
    rows, damaged = [], 0
    for line in text.splitlines():
        try:
            record = _parsed(line)
            rows.append({**record, "stage": str(record["stage"]), "step": int(record["step"])})
        except _DAMAGE:
            damaged += bool(line.strip())
    return rows, damaged


def _results(
    run: RunDirectory, missing: list[str], fingerprint: Callable[[Path], str] | None
) -> dict[tuple[str, str], tuple[Path, Facts]]:
    """File and content of each evaluation, by stage and suite; of several the one on the most items, and none of a
    model that has been replaced since, as far as a `fingerprint` tells. Where a suite was not measured as a whole, its
    tasks that were (`evaluate --tasks`)."""
    found = {}
    names = {path.name.removesuffix(".json") for path in run.evals.glob("*")}
    matches = filter(None, map(_RESULT.fullmatch, names))
    for match in sorted(matches, key=lambda match: (float(match[4] or "inf"), match[0])):
        stage, suite, path = match[1], match[2] + (match[3] or ""), run.evals / f"{match[0]}.json"
        name, _, step = stage.partition("@")
        bundle = run.stage(name) / "steps" / step if step else run.bundle(name)
        model = fingerprint(bundle) if fingerprint and bundle.is_dir() else ""
        try:
            content = _json(path)
            is_stale = model and content.get("model", model) not in ("", model)
            if is_stale or not content:
                alone = _tasks_alone(path.with_suffix(""), model)
                if is_stale and not alone:
                    raise ValueError(f"left out, for the model of {stage} has been replaced since")
                if alone and (stage, suite) in found:  # on more items than the suite
                    found[stage, suite][1]["result"]["tasks"] |= alone["result"]["tasks"]
                if not alone or (stage, suite) in found:
                    continue
                content = alone
            if not (_score_rows(suite, content) and isinstance(content["transcript"], list)):
                raise TypeError
            content["result"]["seconds"] = float(content["result"]["seconds"])
            found[stage, suite] = path, content
        except _DAMAGE as error:
            missing.append(f"evals/{path.name}: {error if isinstance(error, ValueError) else 'damaged'}")

    def place(stage: str, suite: str) -> tuple[int, float, str]:
        """Checkpoints stand before the model of their stage."""
        name, _, step = stage.partition("@")
        return PIPELINE.index(name) if name in PIPELINE else len(PIPELINE), float(step or "inf"), suite

    return dict(sorted(found.items(), key=lambda one: place(*one[0])))


def _tasks_alone(folder: Path, model: str) -> Facts:
    """The results of single tasks of a suite, without a mean over them; of this `model` alone, if it is known."""
    read = (read_result(TaskResult, file) for file in sorted(folder.glob("*.json")))
    tasks = [task for task in read if task and (not model or task.model in ("", model))]
    if not tasks:
        return {}
    scores = {task.task: task.to_json() for task in tasks}
    return {"result": {"tasks": scores, "seconds": sum(task.seconds for task in tasks)}, "transcript": []}


# ---- sections ----


def _progress(
    stages: Sequence[str], done: Facts, states: Facts, records: Facts, results: Facts
) -> dict[str, str]:
    """'done', 'interrupted after step 120 of 400' or 'not finished', by stage."""
    said = {}
    for name in stages:
        step = max([states[name].get("step", 0), *(row["step"] for row in records.get(name, ()))])
        of = f" of {states[name]['steps']:,}" if states[name].get("steps") else ""
        said[name] = f"interrupted after step {step:,}{of}" if step else "not finished"
        if done[name] or (name == "evaluate" and results):
            newer = f"; a newer training has reached step {step:,}{of}" if states[name] else ""
            said[name] = f"done{newer}"
    return said


def _time(
    stages: Sequence[str], done: Facts, states: Facts, records: Facts, results: Facts, price: float
) -> Facts:
    """Seconds and dollars by stage, over all its sessions: a stage adds up its own and keeps the sum in its state."""
    rows: dict[str, Facts] = {}
    for name in stages:
        seconds = done[name].get("seconds") or states[name].get("seconds")
        if name == "evaluate":
            seconds = sum(content["result"]["seconds"] for _, content in results.values())
        elif not seconds:
            seconds = max((row["seconds"] for row in records.get(name, ()) if "seconds" in row), default=0)
        newest = {**(records.get(name) or [{}])[-1], **done[name]}
        spent = {key: newest.get(key) for key in SPENT}
        known = {key: value for key, value in spent.items() if _is_number(value)}
        rows[name] = {"seconds": round(seconds, 2), **known}
    total: Facts = {"seconds": round(sum(row["seconds"] for row in rows.values()), 2)}
    for row in (*rows.values(), total) if price else ():
        row["dollars"] = round(row["seconds"] / 3600 * price, 4)
    return {**total, "price_per_hour": price, "stages": rows}


def _scores(results: Facts) -> dict[str, dict[str, Facts]]:
    """Scores by stage and name: each a `value`, its 95 % interval `low` to `high`, `n` items, what `chance` gives."""
    scores: dict[str, dict[str, Facts]] = {}
    for (stage, suite), (_, content) in results.items():
        scores.setdefault(stage, {}).update(_score_rows(suite, content))
    return scores


def _score_rows(suite: str, content: Facts) -> dict[str, Facts]:
    found = content["result"]
    if suite == "base":
        texts = {"bits per byte": found, "bits per byte, training text": content.get("train")}
        return {
            name: _score({**text, "n": text.get("tokens")}, "bits_per_byte")
            for name, text in texts.items()
            if text
        }
    if suite in MEANS:
        tasks = {f"{MEANS[suite]}: {task}": _score(score) for task, score in found["tasks"].items()}
        return {MEANS[suite]: _score(found, "centered"), **tasks} if "centered" in found else tasks
    rows = {"exam": _score(found, "overall")}
    rows |= {f"exam: {name}": _score(score) for name, score in found["sections"].items()}
    if content.get("baseline"):
        rows["exam, by the nearest training question"] = _score(content["baseline"], "overall")
    return rows


def _score(found: Facts, name: str = "accuracy") -> Facts:
    score = {"value": found[name], **{key: found.get(key) for key in ("low", "high", "n", "chance")}}
    if not all(_is_number(value) for value in score.values() if value is not None) or score["value"] is None:
        raise TypeError(f"{name} is no number")
    return score


def _gain(path: Path) -> Facts:
    """What reinforcement learning brought on problems it was not trained on: shares of right answers (or means of a
    graded reward) with intervals, in all and by section."""
    found = _json(path)
    if not found:
        return {}
    name = "reward" if "reward_before" in found else "pass_at_1"
    gain = "reward_gain" if name == "reward" else "gain"
    parts = {
        "all": {key.removeprefix(f"{name}_"): value for key, value in found.items()},
        **found["sections"],
    }
    shares: dict[str, Facts] = {}
    for part_name, part in parts.items():
        shares[part_name] = {"n": int(part["n"])}
        for when in ("before", "after"):
            shares[part_name][when] = list(map(float, (part[when], *part[f"{when}_interval"])))
    return {
        "task": found["task"],
        "is_graded": name == "reward",
        "gain": list(map(float, (found[gain], *found[f"{gain}_interval"]))),
        "sections": shares,
    }


def _data(manifest: Facts) -> Facts:
    """Documents and conversations: how many, and from which files with which shares of the characters."""
    kinds = {kind: manifest[kind] for kind in ("documents", "conversations") if manifest.get(kind)}
    if not kinds:
        return {}
    facts = {"source": manifest["source"], "fingerprint": DataManifest.from_json(manifest).fingerprint}
    for kind, split in kinds.items():
        files: Counter[str] = Counter()
        for file in split["train"]:
            files[file.get("origin") or file["path"]] += file["characters"]
        sources, total = dict(files.most_common(MAX_SOURCES)), max(1, files.total())
        if len(files) > MAX_SOURCES:
            sources[f"{len(files) - MAX_SOURCES:,} more files"] = files.total() - sum(sources.values())
        facts[kind] = {"train": int(split["train_items"]), "validation": int(split["validation_items"])}
        facts[kind] |= {"held_out_by": split["method"], "characters": files.total()}
        facts[kind]["shares"] = {name: round(count / total, 4) for name, count in sources.items()}
    return facts


def _model(run: RunDirectory, stage: str, done: Facts, fingerprint: Callable[[Path], str]) -> Facts:
    """Shape and identity of the stage's bundle, and the checkpoints that were kept along the way."""
    model: Facts = {}
    if run.bundle(stage).is_dir():
        shape = _json(run.bundle(stage) / "config.json")["model"]
        model = {
            "parameters": done.get("parameters"),
            **{key: shape[key] for key in SHAPE},
            "sha256": fingerprint(run.bundle(stage)),
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
            of_keys = [[pair for pair in points if all(map(_is_number, pair))] for points in of_keys]
            points = next(filter(None, of_keys), [])
            if points:
                size = -(-len(points) // MAX_POINTS)
                groups = [points[start : start + size] for start in range(0, len(points), size)]
                means = [
                    [sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups
                ]
                curves[stage][title] = {"x": x, "points": means}
    return {stage: drawn for stage, drawn in curves.items() if drawn}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _samples(results: Facts, rollouts: Sequence[Facts]) -> list[Facts]:
    """The fixed prompts, and a few others, with what the model of each stage said: those first that most stages were
    asked, one of each section; and what reinforcement learning showed last."""
    asked: dict[str, Facts] = {}
    for (stage, _), (path, content) in results.items():
        replies = [("exam", reply) for reply in content["transcript"]]
        for file in sorted(path.with_suffix("").glob("*.json")):
            replies += [(file.stem, reply) for reply in _json(file).get("transcript", [])[:MAX_SAMPLES]]
        for task, reply in replies:
            if "prompt" in reply and "reply" in reply:
                prompt, section = _text(reply["prompt"]), str(reply.get("section", task))
                new = {
                    "section": section,
                    "prompt": prompt,
                    "expected": str(reply.get("expected", "")),
                    "replies": {},
                }
                said = asked.setdefault(f"{section} {prompt}", new)["replies"]
                verdict = {True: "(right) ", False: "(wrong) "}.get(reply.get("correct"), "")
                said.setdefault(stage, verdict + _text(reply["reply"]))
    fixed = [one for one in asked.values() if one["section"] in LENGTHS]
    chosen: list[Facts] = []
    nth: Counter[str] = Counter()
    for one in sorted(asked.values(), key=lambda one: -len(one["replies"])):
        if one in fixed:
            continue
        chosen.append({**one, "nth": nth[one["section"]]})
        nth[one["section"]] += 1
    chosen = fixed + sorted(chosen, key=lambda one: one.pop("nth"))[:MAX_SAMPLES]
    for row in [row for row in rollouts if row.get("shown")][-1:]:
        for reply in row["shown"][:4]:
            said = {"rl": f"(reward {reply['reward']}) {reply['reply']}"}
            section = f"in training, step {row['step']}"
            chosen.append(
                {"section": section, "prompt": str(reply["prompt"]), "expected": "", "replies": said}
            )
    return chosen


def _text(value: Any) -> str:
    """Messages, their parts, or a text, as text."""
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if not isinstance(value, dict):
        return str(value)
    text = _text(value.get("content", value.get("text", "")))
    return f"{value['role']}: {text}" if value.get("role", "user") != "user" else text


def _tokenizer(run: RunDirectory) -> Facts:
    """Bytes per token by text, of this tokenizer and of GPT-2's and GPT-4's where they can be had offline."""
    if not (run.tokenizer / "tokenizer.json").exists():
        return {}
    own = Tokenizer.load(run.tokenizer)
    texts = _toml(Path(__file__).with_name("texts.toml"))
    note, held_out = "", ""
    try:
        for document in load_manifest(run.data).read_documents("validation"):
            held_out += document.text + "\n"
            if len(held_out) >= HELD_OUT_CHARACTERS:
                break
    except UserError as error:
        note = f"held-out text could not be read: {error}"
    if held_out:
        texts["held-out text"] = held_out[:HELD_OUT_CHARACTERS]
    vocabularies = {"this tokenizer": (own.vocab_size, own.encode)}
    for reference in REFERENCE_VOCABULARIES:
        if encoding := load_offline(reference):
            vocabularies[reference.name] = (encoding.n_vocab, encoding.encode_ordinary)
    compared = {
        name: {"ids": ids, **_bytes_per_token(encode, texts)} for name, (ids, encode) in vocabularies.items()
    }
    absent = [one.name for one in REFERENCE_VOCABULARIES if one.name not in compared]
    return {
        "sha256": own.fingerprint,
        "vocabularies": compared,
        "not_available_offline": absent,
        "note": note,
    }


def _bytes_per_token(encode: Callable[[str], list[int]], texts: Mapping[str, str]) -> dict[str, float]:
    sizes = {name: len(text.encode("utf-8", "replace")) for name, text in texts.items()}
    return {name: round(sizes[name] / max(1, len(encode(text))), 3) for name, text in texts.items()}


def _machine() -> Facts:
    """The machine and the versions that write the report (at the end of `chatsmith run`: that trained), and the commit
    where chatsmith runs from a git checkout."""
    import torch  # see `gather`

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


def _warnings(manifest: Facts, done: Facts, records: dict[str, list[Facts]]) -> list[str]:
    """What a reader of the scores should know, as far as the run wrote it down."""
    lines = [f"data: {notice}" for notice in manifest.get("notices", ())]
    for name, facts in done.items():
        lines += [
            f"{name}: {facts[key]:,} conversations {key}" for key in ("cut", "skipped") if facts.get(key)
        ]
    for name, rows in records.items():
        if broken := sum("loss" in row and row["loss"] is None for row in rows):
            lines.append(f"{name}: the loss was not finite in {broken:,} steps")
        if failed := sum(row.get("failed_rewards") or 0 for row in rows):
            lines.append(f"{name}: {failed:,} rewards could not be computed")
    return lines
