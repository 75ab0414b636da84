"""What the files of a run say, as plain data, without torch: for its report, and for whoever watches it.

Nothing here writes, and no lock is taken: a run that is being trained can be read. What is missing or damaged is named,
and the rest is read all the same.
"""

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from chatsmith.data.dataset import DataManifest
from chatsmith.evals.results import LENGTHS, TaskResult, read_result
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe

Facts = dict[str, Any]

PIPELINE = ("data", "tokenizer", "pretrain", "mid", "sft", "rl", "evaluate")
SPENT = ("tokens", "steps", "tokens_per_second", "share_of_peak", "peak_memory_gb", "foreseen_memory_gb",
         "foreseen_tokens_per_second")  # fmt: skip
MEANS = {"core": "CORE", "chat": "ChatCORE", "chat-nanochat": "ChatCORE with nanochat's prompts"}
MAX_SOURCES = 20  # shown by name; the smaller ones are summed up
MAX_SAMPLES = 8  # prompts

_RESULT = re.compile(r"(.+?)-(base|core|chat|exam)(-nanochat)?(?:-(\d+))?")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # a UserError is a ValueError


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
    kept = {
        name: read(f"{name}/settings.toml", read_toml, run.stage(name) / "settings.toml") for name in stages
    }
    states = {name: read(f"{name}/state", _newest_state, run.state(name)) for name in stages}
    results = read("evals", _results, run, missing, fingerprint)
    manifest = read("data/manifest.json", read_json, run.data / "manifest.json")
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
        "adapt": read("evals/adapt.json", read_json, run.evals / "adapt.json"),
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


def read_json(path: Path) -> Facts:
    """The object in a JSON file, or nothing if there is no such file. Raises ValueError if it is damaged."""
    value = _parsed(path.read_bytes()) if path.exists() else {}
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: not a JSON object")
    return value


def _parsed(text: bytes) -> Any:
    return json.loads(text, parse_constant=lambda name: None)  # NaN and infinity are no numbers to report


def read_toml(path: Path) -> Facts:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _done(run: RunDirectory, stage: str) -> Facts:
    """The facts of a finished stage. Raises ValueError where what it made is gone."""
    done = read_json(run.stage(stage) / "done.json")
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
    found = read_json(path).get("facts")
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
        try:
            model = fingerprint(bundle) if fingerprint and bundle.is_dir() else ""
            content = read_json(path)
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
        known = {key: value for key, value in spent.items() if is_number(value)}
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
    if not all(is_number(value) for value in score.values() if value is not None) or score["value"] is None:
        raise TypeError(f"{name} is no number")
    return score


def _gain(path: Path) -> Facts:
    """What reinforcement learning brought on problems it was not trained on: shares of right answers (or means of a
    graded reward) with intervals, in all and by section."""
    found = read_json(path)
    if not found:
        return {}
    is_graded = "reward_before" in found
    name, gain = ("reward", "reward_gain") if is_graded else ("pass_at_1", "gain")
    whole = {key.removeprefix(f"{name}_"): value for key, value in found.items()}

    def span(part: Facts, name: str) -> list[float]:
        return [float(number) for number in (part[name], *part[f"{name}_interval"])]

    return {
        "task": found["task"],
        "is_graded": is_graded,
        "gain": span(found, gain),
        "sections": {
            name: {"n": int(part["n"]), "before": span(part, "before"), "after": span(part, "after")}
            for name, part in {"all": whole, **found["sections"]}.items()
        },
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


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _samples(results: Facts, rollouts: Sequence[Facts]) -> list[Facts]:
    """The fixed prompts, and a few others, with what the model of each stage said: those first that most stages were
    asked, one of each section; and what reinforcement learning showed last."""
    asked: dict[str, Facts] = {}
    for (stage, _), (path, content) in results.items():
        replies = [("exam", reply) for reply in content["transcript"]]
        for file in sorted(path.with_suffix("").glob("*.json")):
            replies += [(file.stem, reply) for reply in read_json(file).get("transcript", [])[:MAX_SAMPLES]]
        for task, reply in replies:
            if "prompt" in reply and "reply" in reply:
                new = {"section": str(reply.get("section", task)), "prompt": _text(reply["prompt"])}
                new |= {"expected": str(reply.get("expected", "")), "replies": {}}
                said = asked.setdefault(f"{new['section']} {new['prompt']}", new)["replies"]
                verdict = {True: "(right) ", False: "(wrong) "}.get(reply.get("correct"), "")
                said.setdefault(stage, verdict + _text(reply["reply"]))
    fixed = [one for one in asked.values() if one["section"] in LENGTHS]
    by_section: dict[str, list[Facts]] = {}
    for one in sorted(asked.values(), key=lambda one: -len(one["replies"])):
        by_section.setdefault(one["section"], []).append(one)
    rounds = zip_longest(*(found for section, found in by_section.items() if section not in LENGTHS))
    chosen = fixed + [one for of_round in rounds for one in of_round if one][:MAX_SAMPLES]
    shown = [row for row in rollouts if row.get("shown")]
    for reply in shown[-1]["shown"][:4] if shown else ():
        said = {"rl": f"(reward {reply['reward']}) {reply['reply']}"}
        about = {"section": f"in training, step {shown[-1]['step']}", "prompt": str(reply["prompt"])}
        chosen.append({**about, "expected": "", "replies": said})
    return chosen


def _text(value: Any) -> str:
    """Messages, their parts, or a text, as text."""
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if not isinstance(value, dict):
        return str(value)
    text = _text(value.get("content", value.get("text", "")))
    return f"{value['role']}: {text}" if value.get("role", "user") != "user" else text


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
