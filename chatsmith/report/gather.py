"""What is known of a run, as plain data: the sections of the report, from the files of the run directory.

Nothing here writes, and no lock is taken: a run that is being trained can be reported on. What is missing or damaged
is named in the section `missing`, and the rest is gathered all the same.
"""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import chatsmith
from chatsmith.bundle import bundle_fingerprint
from chatsmith.data.dataset import DataManifest, load_manifest
from chatsmith.report.reference_vocabularies import REFERENCE_VOCABULARIES, load_offline
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe
from chatsmith.text.tokenizer import Tokenizer

Facts = dict[str, Any]

PIPELINE = ("data", "tokenizer", "pretrain", "mid", "sft", "rl", "evaluate")
TRAINED = PIPELINE[2:6]
"""The stages that train a model."""
CURVES = {
    "loss (nats per token)": ("loss",),
    "bits per byte, validation": ("bpb",),
    "validation loss (nats per token)": ("validation",),
    "learning rate (share of its peak)": ("rate",),
    "throughput (tokens/s)": ("tokens_per_second", "rollout_tokens_per_second"),
    "memory (GB)": ("memory_gb", "peak_memory_gb"),
    "reward": ("reward",),
    "pass@1, development problems": ("dev_pass_at_1",),
    "CORE": ("core",),
}
"""What is drawn, and the keys of metrics.jsonl it is from: the first one that a stage has."""
MAX_POINTS = 300  # of a curve; more are averaged in groups: they could not be told apart on a page
MAX_SOURCES = 20  # shown by name; the smaller ones are summed up
MAX_SAMPLES = 8  # prompts
HELD_OUT_CHARACTERS = 200_000  # enough for two digits of bytes per token
MEANS = {"core": "CORE", "chat": "ChatCORE"}
PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "huggingface-hub")
TEXTS = {
    "English": "The river had risen overnight, and by morning the lower road was gone. Nobody in the village was "
    "surprised; they had moved the boats the week before and were already talking about the harvest.",
    "code": "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('no values')\n"
    "    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n",
    "mathematics": "Let $f(x) = x^2 - 3x + 2$. Then $f'(x) = 2x - 3$, so the minimum is at $x = \\frac{3}{2}$, "
    "where $f = -\\frac{1}{4}$; its roots are 1 and 2, and 1728 + 271 = 1999.",
    "German": "Der Fluss war über Nacht gestiegen, und am Morgen war die untere Straße verschwunden. Niemand im "
    "Dorf wunderte sich; die Boote hatten sie schon in der Woche davor weggebracht.",
    "Korean": "밤사이 강물이 불어나 아침에는 아랫길이 사라졌다. 마을 사람 누구도 놀라지 않았다.",
    "Japanese": "夜のうちに川の水かさが増し、朝には下の道がなくなっていた。村では誰も驚かなかった。",
}
"""Texts of our own on which vocabularies are compared, by domain."""

_RESULT = re.compile(r"(?P<stage>.+?)-(?P<suite>base|core|chat|exam)(?:-(?P<part>\d+))?\.json")


def gather(path: Path, price_per_hour: float = 0.0) -> Facts:
    """The figures of the run at `path` by section. `price_per_hour` is what its machines cost together, in dollars.

    Raises UserError if there is no run at all.
    """
    run = RunDirectory(path)
    stages = [name for name in PIPELINE if run.stage(name).is_dir()]
    if not (stages or run.recipe.is_file() or run.metrics.is_file()):
        raise UserError(f"there is no run at {path}; `chatsmith run` makes one")
    missing: list[str] = []

    def section(name: str, read: Callable[[], Any], empty: Any) -> Any:
        try:
            return read()
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # a UserError is a ValueError
            missing.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
            return empty

    recipe: Recipe = section("recipe.toml", lambda: _recipe(run), Recipe(path.name))
    stages = [name for name in PIPELINE if name in stages or name in recipe.stages]
    done = {name: section(f"{name}/done.json", lambda name=name: _done(run, name), {}) for name in stages}
    records = section("metrics.jsonl", lambda: _records(run.metrics, missing), {})
    states = {
        name: section(f"{name}/state", lambda name=name: _newest_state(run, name), {}) for name in stages
    }
    recorded = {
        name: section(
            f"{name}/settings.toml", lambda name=name: _kept(run, name), {"settings": {}, "more": {}}
        )
        for name in stages
    }
    manifest = section("data/manifest.json", lambda: _json(run.data / "manifest.json"), {})
    results = section("evals", lambda: list(_results(run, missing)), [])
    settings = {name: recorded[name]["settings"] or recipe.sections.get(name, {}) for name in stages}
    facts: Facts = {
        "run": {
            "name": recipe.name or path.name,
            "path": str(path),
            "description": recipe.description,
            "stages": {
                name: section(
                    f"{name}/state",
                    lambda name=name: _progress(
                        name, done[name], states[name], records.get(name, []), results
                    ),
                    "unknown",
                )
                for name in stages
            },
        },
        "time": section("time", lambda: _time(stages, done, states, records, results, price_per_hour), {}),
        "scores": section("scores", lambda: _scores(results), {}),
        "rl": section("evals/rl.json", lambda: _gain(_json(run.evals / "rl.json")), {}),
        "models": {
            name: section(f"{name}/bundle", lambda name=name: _model(run, name), {}) for name in stages
        },
        "data": section("data", lambda: _data(manifest), {}),
        "tokenizer": section("tokenizer", lambda: _tokenizer(run, done.get("tokenizer", {})), {}),
        "curves": section("curves", lambda: {name: _curves(rows) for name, rows in records.items()}, {}),
        "samples": section("samples", lambda: _samples(run, results), []),
        "rollouts": section("rollouts", lambda: _rollouts(records.get("rl", [])), []),
        "versions": section("versions", _versions, {}),
        "machine": section("machine", _machine, {}),
        "recorded": {name: kept["more"] for name, kept in recorded.items() if kept["more"]},
        "settings": settings,
        "warnings": section("warnings", lambda: _warnings(manifest, done, records), []),
        "reproduce": section("reproduce", lambda: _commands(run, recipe, settings), []),
    }
    facts["models"] = {name: model for name, model in facts["models"].items() if model}
    for name in stages:
        key = run.done_key(name)
        if key and not run.is_done(name, key):
            missing.append(f"{name}: what it made is no longer there")
    return {**facts, "missing": missing}


# ---- files ----


def _json(path: Path) -> Facts:
    """The object in a JSON file, or nothing if there is no such file. Raises ValueError if it is damaged."""
    if not path.exists():
        return {}
    value = _parsed(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("damaged: not a JSON object")
    return value


def _parsed(text: bytes) -> Any:
    return json.loads(text, parse_constant=lambda name: None)  # NaN and infinity are no numbers to report


def _recipe(run: RunDirectory) -> Recipe:
    return read_recipe(run.recipe) if run.recipe.exists() else Recipe()


def _done(run: RunDirectory, stage: str) -> Facts:
    done = _json(run.stage(stage) / "done.json")
    return {**done["facts"], "finished_at": float(done["finished_at"])} if done else {}


def _kept(run: RunDirectory, stage: str) -> Facts:
    """What the stage wrote down when it began: its settings, under its name, and perhaps more."""
    path = run.stage(stage) / "settings.toml"
    kept = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    own = {name: value for name, value in kept.pop(stage, {}).items() if name not in ("run", "json")}
    return {"settings": own, "more": {name: value for name, value in kept.items() if name != "key"}}


def _newest_state(run: RunDirectory, stage: str) -> Facts:
    """The facts of the newest training state: `step`, `steps`, `seconds`."""
    folders = [path for path in run.state(stage).glob("*") if path.name.isdigit()]
    newest = max(folders, key=lambda path: int(path.name), default=None)
    return dict(_json(newest / "state.json").get("facts", {})) if newest else {}


def _records(path: Path, missing: list[str]) -> dict[str, list[Facts]]:
    """The lines of metrics.jsonl by stage, in the order of steps."""
    records: dict[str, list[Facts]] = {}
    damaged = 0
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = _parsed(line)
            records.setdefault(str(record["stage"]), []).append({**record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            damaged += bool(line.strip())
    if damaged:
        missing.append(f"metrics.jsonl: {damaged:,} damaged lines are left out")
    for rows in records.values():
        rows.sort(key=lambda row: row["step"])
    return records


def _results(run: RunDirectory, missing: list[str]) -> Iterator[tuple[str, str, Path, Facts]]:
    """Stage, suite, file and content of each evaluation of a model that is still there; of several of one suite the
    most complete."""
    found: dict[tuple[str, str], tuple[float, Path, Facts]] = {}
    for path in sorted(run.evals.glob("*.json")):
        match = _RESULT.fullmatch(path.name)
        if not match:
            continue
        stage, suite = match["stage"], match["suite"]
        try:
            content = _json(path)
            content["result"]["seconds"], content["transcript"]  # what every result has
        except (OSError, ValueError, KeyError, TypeError):
            missing.append(f"evals/{path.name}: damaged")
            continue
        bundle = run.bundle(stage)
        if content.get("model") and bundle.is_dir():
            try:
                is_same = content["model"] == bundle_fingerprint(bundle)
            except UserError:
                is_same = True  # the damaged bundle is named in its own section
            if not is_same:
                missing.append(f"evals/{path.name}: left out, for {stage}/bundle has been trained anew since")
                continue
        size = float(match["part"] or "inf")
        if size >= found.get((stage, suite), (0.0,))[0]:
            found[stage, suite] = size, path, content
    for (stage, suite), (_, path, content) in found.items():
        yield stage, suite, path, content


# ---- sections ----


def _progress(stage: str, done: Facts, state: Facts, rows: Sequence[Facts], results: Sequence[Any]) -> str:
    """'done', 'interrupted after step 120 of 400', 'not started', …"""
    if stage == "evaluate":
        return "done" if results else "not started"
    step = max([int(state.get("step", 0)), *(row["step"] for row in rows)])
    steps = f" of {state['steps']:,}" if state.get("steps") else ""
    if done:
        return f"done; a newer training has reached step {step:,}{steps}" if state else "done"
    return f"interrupted after step {step:,}{steps}" if step else "not finished" if rows else "not started"


def _time(
    stages: Sequence[str],
    done: dict[str, Facts],
    states: dict[str, Facts],
    records: dict[str, list[Facts]],
    results: Sequence[tuple[str, str, Path, Facts]],
    price: float,
) -> Facts:
    """Seconds and dollars by stage, over all its sessions: a stage adds up its own and keeps the sum in its state."""
    rows: dict[str, Facts] = {}
    for name in stages:
        if name == "evaluate":
            seconds = sum(float(content["result"]["seconds"]) for *_, content in results)
        else:
            stepping = [row["seconds"] for row in records.get(name, []) if _is_number(row.get("seconds"))]
            seconds = float(
                done[name].get("seconds") or states[name].get("seconds") or max(stepping, default=0)
            )
        rows[name] = {"seconds": round(seconds, 2)}
    total = sum(row["seconds"] for row in rows.values())
    if price:
        for row in rows.values():
            row["dollars"] = round(row["seconds"] / 3600 * price, 4)
    names = ("tokens", "steps", "tokens_per_second", "share_of_peak", "peak_memory_gb")
    for name, row in rows.items():
        row.update({key: done[name][key] for key in names if key in done[name]})
    dollars = {"price_per_hour": price, "dollars": round(total / 3600 * price, 4)} if price else {}
    return {"seconds": round(total, 2), **dollars, "stages": rows}


def _scores(results: Sequence[tuple[str, str, Path, Facts]]) -> dict[str, dict[str, Facts]]:
    """Scores by stage and name, each `value`, its 95 % interval `low` to `high`, items `n` and what chance gives."""
    scores: dict[str, dict[str, Facts]] = {}
    for stage, suite, _, content in results:
        found, own = content["result"], scores.setdefault(stage, {})
        if suite == "base":
            own["bits per byte"] = _score(found, "bits_per_byte") | {"n": found.get("tokens")}
        elif suite in MEANS:
            own[MEANS[suite]] = _score(found, "centered") | {"chance": 0.0}
            own.update({f"{MEANS[suite]}: {task}": _score(score) for task, score in found["tasks"].items()})
        else:
            own["exam"] = _score(found, "overall")
            if content.get("baseline"):
                own["exam"]["nearest_question"] = content["baseline"]["overall"]
            own.update({f"exam: {name}": _score(score) for name, score in found["sections"].items()})
    order = {name: place for place, name in enumerate(PIPELINE)}
    return dict(sorted(scores.items(), key=lambda one: (order.get(one[0].split("@")[0], 99), one[0])))


def _score(found: Facts, value: str = "accuracy") -> Facts:
    if not _is_number(found[value]):
        raise ValueError(f"{value} is no number")
    return {"value": found[value], **{key: found.get(key) for key in ("low", "high", "n", "chance")}}


def _gain(found: Facts) -> Facts:
    """What reinforcement learning brought, on problems it was not trained on; by section, too."""
    if not found:
        return {}
    whens = ("before", "after")
    return {
        **{key: found[key] for key in ("task", "n", "gain", "gain_interval")},
        "overall": {
            when: [found[f"pass_at_1_{when}"], *found[f"pass_at_1_{when}_interval"]] for when in whens
        },
        "sections": {
            name: {"n": one["n"], **{when: [one[when], *one[f"{when}_interval"]] for when in whens}}
            for name, one in found["sections"].items()
        },
    }


def _model(run: RunDirectory, stage: str) -> Facts:
    """Shape and identity of the stage's bundle, and the checkpoints that were kept along the way."""
    config = _json(run.bundle(stage) / "config.json")
    steps = sorted((path.name for path in run.stage(stage).glob("steps/*") if path.name.isdigit()), key=int)
    kept = {"checkpoints": [f"{run.path}/{stage}@{step}" for step in steps]} if steps else {}
    if not config:
        if run.bundle(stage).is_dir():
            raise ValueError("config.json is missing")
        return kept
    shape = {key: config["model"][key] for key in ("num_layers", "num_heads", "head_dim", "vocab_size")}
    done = _json(run.stage(stage) / "done.json").get("facts", {})
    made = {key: done[key] for key in ("parameters", "tokens", "steps") if key in done}
    context = {"context_length": config["model"]["context_length"]}
    return {**made, **shape, **context, "sha256": bundle_fingerprint(run.bundle(stage)), **kept}


def _data(manifest: Facts) -> Facts:
    """Documents and conversations: how many, and from which files with which shares of the characters."""
    kinds = {}
    for kind in ("documents", "conversations"):
        split = manifest.get(kind)
        if not split:
            continue
        files: Counter[str] = Counter()
        for file in split["train"]:
            files[str(file.get("origin") or file["path"])] += int(file["characters"])
        total = sum(files.values())
        sources = [
            {"path": path, "characters": count, "share": round(count / max(1, total), 4)}
            for path, count in files.most_common(MAX_SOURCES)
        ]
        if rest := len(files) - len(sources):
            count = total - sum(source["characters"] for source in sources)
            sources.append(
                {"path": f"{rest:,} more files", "characters": count, "share": count / max(1, total)}
            )
        kinds[kind] = {
            "train": split["train_items"],
            "validation": split["validation_items"],
            "held_out": split["method"],
            "characters": total,
            "sources": sources,
        }
    if not kinds:
        return {}
    fingerprint = DataManifest.from_json(manifest).fingerprint
    return {"source": manifest["source"], "fingerprint": fingerprint, **kinds}


def _tokenizer(run: RunDirectory, done: Facts) -> Facts:
    """Bytes per token by text, of this tokenizer and of GPT-2's and GPT-4's where they can be had offline."""
    if not (run.tokenizer / "tokenizer.json").exists():
        return {}
    own = Tokenizer.load(run.tokenizer)
    texts = dict(TEXTS)
    try:
        texts = {"held-out text": _held_out(load_manifest(run.data)), **texts}
        note = ""
    except UserError as error:
        note = f"held-out text could not be read: {error}"
    vocabularies: dict[str, Facts] = {
        "this tokenizer": {"ids": own.vocab_size, "bytes_per_token": _bytes_per_token(own.encode, texts)}
    }
    for reference in REFERENCE_VOCABULARIES:
        encoding = load_offline(reference)
        if encoding is not None:
            ratios = _bytes_per_token(encoding.encode_ordinary, texts)
            vocabularies[reference.name] = {"ids": encoding.n_vocab, "bytes_per_token": ratios}
    absent = [one.name for one in REFERENCE_VOCABULARIES if one.name not in vocabularies]
    found = {"seconds": done.get("seconds"), "sha256": own.fingerprint, "vocabularies": vocabularies}
    return found | {"not_available_offline": absent} | ({"note": note} if note else {})


def _held_out(manifest: DataManifest) -> str:
    text = ""
    for document in manifest.read_documents("validation"):
        text += document.text + "\n"
        if len(text) >= HELD_OUT_CHARACTERS:
            break
    return text[:HELD_OUT_CHARACTERS]


def _bytes_per_token(encode: Callable[[str], list[int]], texts: dict[str, str]) -> dict[str, float]:
    return {
        name: round(len(text.encode("utf-8", "replace")) / max(1, len(encode(text))), 3)
        for name, text in texts.items()
        if text
    }


def _curves(rows: Sequence[Facts]) -> dict[str, Facts]:
    """The curves of one stage by title: `x` is "tokens" or "step", `points` are pairs."""
    curves: dict[str, Facts] = {}
    x = "tokens" if any("tokens" in row for row in rows) else "step"
    for title, keys in CURVES.items():
        for key in keys:
            points = [
                [row[x], row[key]] for row in rows if _is_number(row.get(key)) and _is_number(row.get(x))
            ]
            if points:
                curves[title] = {"x": x, "points": _thinned(points)}
                break
    return curves


def _thinned(points: list[list[float]]) -> list[list[float]]:
    size = -(-len(points) // MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [[sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _samples(run: RunDirectory, results: Sequence[tuple[str, str, Path, Facts]]) -> list[Facts]:
    """A few prompts, with what the model of each stage said: those first that most stages were asked."""
    asked: dict[str, Facts] = {}
    for stage, _, path, content in results:
        replies = [("exam", reply) for reply in content["transcript"]]
        for file in sorted(path.with_suffix("").glob("*.json")):
            replies += [(file.stem, reply) for reply in _json(file).get("transcript", [])[:MAX_SAMPLES]]
        for task, reply in replies:
            if "prompt" not in reply or "reply" not in reply:
                continue
            prompt = _text(reply["prompt"])
            section = reply.get("section", task)
            new = {"section": section, "prompt": prompt, "expected": reply.get("expected", ""), "replies": {}}
            said = {"text": _text(reply["reply"]), "correct": bool(reply.get("correct"))}
            asked.setdefault(f"{section} {prompt}", new)["replies"].setdefault(stage, said)
    chosen: list[Facts] = []
    by_stages = sorted(asked.values(), key=lambda one: -len(one["replies"]))
    for limit in (1, 2, MAX_SAMPLES):  # one of each section first
        for one in by_stages:
            used = sum(other["section"] == one["section"] for other in chosen)
            if one not in chosen and used < limit and len(chosen) < MAX_SAMPLES:
                chosen.append(one)
    return chosen


def _text(value: Any) -> str:
    """Messages, their parts, or a text, as text."""
    if isinstance(value, list):
        return "\n".join(_text(part) for part in value)
    if isinstance(value, dict):
        role = value.get("role")
        text = _text(value["content"] if "content" in value else value.get("text", ""))
        return f"{role}: {text}" if role and role != "user" else text
    return str(value)


def _rollouts(rows: Sequence[Facts]) -> list[Facts]:
    """Some replies of the last step of reinforcement learning that showed any."""
    shown = [row for row in rows if row.get("shown")]
    return [{**reply, "step": shown[-1]["step"]} for reply in shown[-1]["shown"][:4]] if shown else []


def _versions() -> Facts:
    """Of what writes the report; the commit where chatsmith runs from a git checkout."""
    found = {"chatsmith": chatsmith.__version__, "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in PACKAGES}
    root = Path(chatsmith.__file__).parents[1]
    if (root / ".git").exists():
        try:
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            found["commit"] = said.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # no git, or not ours to read: then no commit is named
    return found


def _machine() -> Facts:
    """The machine that writes the report: at the end of `chatsmith run`, the one that trained."""
    found: Facts = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    names = re.findall(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    if names:
        found["processor"] = names[0]
    if sys.platform != "win32":
        found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""


def _warnings(manifest: Facts, done: dict[str, Facts], records: dict[str, list[Facts]]) -> list[str]:
    """What a reader of the scores should know, as far as the run wrote it down."""
    lines = [f"data: {notice}" for notice in manifest.get("notices", ())]
    for name, facts in done.items():
        lines += [
            f"{name}: {facts[key]:,} conversations {key}" for key in ("cut", "skipped") if facts.get(key)
        ]
    for name, rows in records.items():
        broken = sum("loss" in row and row["loss"] is None for row in rows)
        failed = sum(int(row.get("failed_rewards") or 0) for row in rows)
        lines += [f"{name}: the loss was not finite in {broken:,} steps"] * bool(broken)
        lines += [f"{name}: {failed:,} rewards could not be computed"] * bool(failed)
    return lines


def _commands(run: RunDirectory, recipe: Recipe, settings: dict[str, Facts]) -> list[str]:
    """What to type to make the run again: its recipe, if that says it all, else each stage with its settings."""
    sections = recipe.sections
    is_all = all(
        settings[name].get(key) == value for name in settings for key, value in sections.get(name, {}).items()
    )
    if recipe.stages and is_all:
        return [f"chatsmith run {shlex.quote(str(run.recipe))} --run runs/again"]
    commands = []
    for name, values in settings.items():
        words = ["chatsmith", "data prepare" if name == "data" else name, "runs/again"]
        for key, value in values.items():
            flag = f"--{key.replace('_', '-')}"
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            elif value not in ("", []):
                words += [
                    flag,
                    *(shlex.quote(str(one)) for one in (value if isinstance(value, list) else [value])),
                ]
        commands.append(" ".join(words))
    return commands
