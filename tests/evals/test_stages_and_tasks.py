"""Evaluation by stage, by task and in nanochat's words; checkpoints along the way; what a run says of itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatsmith.bundle import load_bundle, save_bundle
from chatsmith.cli import chat as chat_command
from chatsmith.cli import evaluate
from chatsmith.cli import main as cli
from chatsmith.cli.config import EvaluateConfig, ServeConfig, named_models
from chatsmith.cli.evaluate import Config
from chatsmith.evals import bpb, chat
from chatsmith.ingest.survey import survey
from chatsmith.model.gpt import GPT
from chatsmith.report.gather import gather
from chatsmith.report.render import report
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, run_of
from chatsmith.tasks.humaneval import humaneval_problems, prompt_alone
from chatsmith.tasks.multiple_choice import LetterQuestion
from chatsmith.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short replies, and nothing from this machine's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    short = tuple(replace(one, max_tokens=8) if one.max_tokens else one for one in chat.TASKS)
    monkeypatch.setattr(chat, "TASKS", short)
    monkeypatch.setattr(bpb, "LENGTHS", {"continued": 4, "free": 4, "answered": 4})
    monkeypatch.setattr(bpb, "FREE", 2)


@pytest.fixture
def run(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> Path:
    """A run on files with two stages and two checkpoints of the first."""
    folder = tmp_path / "run"
    (folder / "data").mkdir(parents=True)
    (folder / "train.txt").write_text("a hat and a cat. " * 20)
    (folder / "validation.txt").write_text("what is one and two? a cat, a mat.\n" * 20)
    survey([folder / "train.txt"], validation=[folder / "validation.txt"]).save(folder / "data")
    for place, stage in (
        ("pretrain/bundle", "pretrain"),
        ("sft/bundle", "sft"),
        ("pretrain/steps/5", "pretrain"),
        ("pretrain/steps/10", "pretrain"),
    ):
        provenance = {"stage": stage, "place": place}
        save_bundle(folder / place, model, tokenizer, generation={}, card="# Tiny\n", provenance=provenance)
    return folder


def measured(capsys: pytest.CaptureFixture[str], config: EvaluateConfig) -> dict:
    capsys.readouterr()
    evaluate.main(config)
    return json.loads(capsys.readouterr().out)


def test_all_stages_are_measured_and_kept_by_stage(run: Path, capsys: pytest.CaptureFixture[str]):
    found = measured(capsys, Config(run, stages=("all",), json=True))
    assert list(found) == ["pretrain", "sft"]
    for stage in found:
        base = found[stage]["base"]
        assert base["bits_per_byte"] > 0 and base["train"]["bits_per_byte"] > 0 and base["train"]["bytes"] > 0
        kept = json.loads((run / "evals" / f"{stage}-base.json").read_text())
        assert kept["result"] == {name: value for name, value in base.items() if name != "train"}
        assert kept["train"] == base["train"]
        assert "bits per byte" in (run / stage / "bundle" / "README.md").read_text()
    facts = RunDirectory(run).done_facts("evaluate") or {}
    assert {"bits_per_byte", "pretrain bits_per_byte"} <= facts.keys()
    finished = RunDirectory(run).done("evaluate")
    assert measured(capsys, Config(run, stages=("pretrain,sft",), json=True)) == found
    assert RunDirectory(run).done("evaluate") == finished


def test_stages_that_are_not_there_are_named(run: Path):
    for stages, message in (
        (("mid9",), "pretrain@1000"),
        (("rl",), "rl"),
        (("pretrain@7",), "there are 5, 10"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main(Config(run, stages=stages))
    with pytest.raises(UserError, match="no model yet"):
        evaluate.main(Config(run / "data", stages=("all",)))


def test_a_base_model_is_asked_no_questions_among_all_stages(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str]
):
    config = Config(run, stages=("all",), suite="all", max_examples=2, eval_data=small_benchmarks, json=True)
    found = measured(capsys, config)
    assert [list(suites) for suites in found.values()] == [["base", "core"], ["base", "core", "chat", "exam"]]


def test_tasks_are_measured_alone_and_serve_the_whole_suite(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(run / "evals", ignore_errors=True)  # nothing was ever measured
    config = Config(run, tasks=("gsm8k,arc_easy",), max_examples=2, eval_data=small_benchmarks, json=True)
    assert list(measured(capsys, config)["chat"]["tasks"]) == ["arc_easy", "gsm8k"]
    assert not (run / "evals" / "sft-chat-2.json").exists()
    assert (run / "evals" / "sft-chat-2" / "gsm8k.json").exists()
    evaluate.main(replace(config, tasks=(), suite="chat", json=False))
    assert "gsm8k: measured before" in capsys.readouterr().out
    both = ("core/arc_easy", "chat/arc_easy", "piqa")
    assert {
        suite: list(found["tasks"]) for suite, found in measured(capsys, replace(config, tasks=both)).items()
    } == {
        "core": ["piqa", "arc_easy"] if both[2] == "piqa" and _first_is("piqa") else ["arc_easy", "piqa"],
        "chat": ["arc_easy"],
    }
    of_base = replace(config, run=run / "pretrain", tasks=("arc_easy",))
    assert list(measured(capsys, of_base)) == ["core"]
    with pytest.raises(UserError, match="did you mean gsm8k"):
        evaluate.main(replace(config, tasks=("gsm9k",)))


def _first_is(name: str) -> bool:
    names = [task.name for task in evaluate.all_tasks("core")]
    return names.index(name) < names.index("arc_easy")


def test_nanochats_words_are_its_own_and_kept_apart(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str]
):
    question = LetterQuestion("1", "What is wet?", ("fire", "water"), 1, wording="nanochat")
    assert question.messages[0].text == (
        "Multiple Choice question: What is wet?\n- fire=A\n- water=B\n\n"
        "Respond only with the letter of the correct answer."
    )
    problem = humaneval_problems("test", small_benchmarks)[0]
    assert prompt_alone(problem).messages[0].text == problem.rule.prompt  # type: ignore[attr-defined]
    config = Config(run, suite="chat", max_examples=2, eval_data=small_benchmarks, json=True)
    own, theirs = measured(capsys, config), measured(capsys, replace(config, prompts="nanochat"))
    assert list(theirs["chat"]["tasks"]) == ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"]
    assert list(own["chat"]["tasks"]) == [*theirs["chat"]["tasks"], "spelling"], (
        "no kindergarten: it was not taught"
    )
    assert (run / "evals" / "sft-chat-nanochat-2.json").exists() and (
        run / "evals" / "sft-chat-2.json"
    ).exists()
    assert {"ChatCORE", "ChatCORE with nanochat's prompts"} <= gather(run)["scores"]["sft"].keys()


def test_samples_are_kept_and_shown_in_the_report(run: Path, capsys: pytest.CaptureFixture[str]):
    evaluate.main(Config(run, stages=("pretrain@5", "pretrain", "sft"), batch_tokens=64))
    out = capsys.readouterr().out
    assert "The capital of France is →" in out and "Hello! Who are you? →" in out
    asked = gather(run)["samples"]
    sections = {sample["prompt"]: sample["section"] for sample in asked}
    assert sections["The capital of France is"] == "continued" and sections["(nothing, seed 2)"] == "free"
    capital = next(sample for sample in asked if sample["prompt"] == "The capital of France is")
    assert list(capital["replies"]) == ["pretrain@5", "pretrain"], (
        "checkpoints before the model of their stage"
    )
    page = report(gather(run)).markdown()
    assert "BASE after step 5" in page and "bits per byte, training text" in page
    assert gather(run)["models"]["pretrain"]["checkpoints"] == [f"{run}/pretrain@5", f"{run}/pretrain@10"]
    before = (run / "evals" / "pretrain-base.json").read_text()
    evaluate.main(Config(run, stages=("pretrain",)))
    assert (run / "evals" / "pretrain-base.json").read_text() == before
    lines = measured(capsys, Config(compare=(run / "pretrain", run / "sft"), json=True))["compare"]
    assert lines["bits per byte"]["difference"] == 0


def test_checkpoints_are_taken_where_models_are(run: Path, capsys: pytest.CaptureFixture[str]):
    path = resolve_bundle(run / "pretrain@5")
    assert load_bundle(path).provenance["place"] == "pretrain/steps/5"
    assert (run_of(path) or ("", ""))[1] == "pretrain@5"
    assert set(named_models(ServeConfig(run=run / "pretrain@5"))[0]) == {"run-pretrain-5"}
    evaluate.main(Config(run / "pretrain@5"))
    assert (run / "evals" / "pretrain@5-base.json").is_file()
    assert RunDirectory(run).done_facts("evaluate") is None, "a checkpoint's scores are not the run's"
    shutil.rmtree(run / "pretrain" / "steps")
    with pytest.raises(UserError, match="--keep-every N"):
        resolve_bundle(run / "pretrain@5")


def test_a_base_model_continues_texts(run: Path, capsys: pytest.CaptureFixture[str]):
    greedy = {"temperature": 0.0, "max_tokens": 4, "prompt": "a cat"}
    chat_command.main(chat_command.Config(run / "pretrain@5", complete=True, **greedy))
    continued = capsys.readouterr().out
    chat_command.main(chat_command.Config(run / "pretrain@5", **greedy))
    assert continued != capsys.readouterr().out
    (own,) = chat_command.LLM(run / "pretrain").generate(
        ["a cat"], chat_command.SamplingParams(temperature=0.0, max_tokens=4)
    )
    assert continued == own.text + "\n"
    with pytest.raises(UserError, match="no system message"):
        chat_command.Config(run, complete=True, system="Be kind.")


def test_weights_are_kept_and_core_is_measured_along_the_way(
    tiny_copy: Path,
    small_benchmarks: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """The last one kept is the model itself; another run's are gone once this one is finished; a tracker goes on."""
    seen: list[tuple] = []
    logged: list[dict] = []
    tracker = SimpleNamespace(log=logged.append, finish=lambda: None)

    def init(**options):
        seen.append((options["id"], options["resume"], list(options["config"])))
        return tracker

    monkeypatch.setitem(__import__("sys").modules, "wandb", SimpleNamespace(init=init))
    stale = tiny_copy / "pretrain" / "steps" / "3"
    shutil.copytree(tiny_copy / "pretrain" / "bundle", stale)
    flags = [
        "--tokens",
        "4096",
        "--keep-every",
        "2",
        "--core-every",
        "3",
        "--eval-data",
        str(small_benchmarks),
    ]
    flags += ["--track", "wandb", "--prompt", "a cat"]
    assert cli.main(["pretrain", str(tiny_copy), *flags], {}) == 0
    kept = RunDirectory(tiny_copy).checkpoints("pretrain")
    assert list(kept) == [2, 4]
    weights = [load_bundle(path).model.state_dict() for path in (kept[4], tiny_copy / "pretrain" / "bundle")]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    lines = [json.loads(line) for line in (tiny_copy / "metrics.jsonl").read_text().splitlines()]
    measured_at = [line["step"] for line in lines if line["stage"] == "pretrain" and "core" in line]
    assert measured_at == [3]
    assert cli.main(["evaluate", str(tiny_copy / "pretrain"), "--suite", "base", "--track", "wandb"], {}) == 0
    assert seen[0][2] == ["pretrain"] and seen[0][:2] == seen[1][:2] and seen[0][1] == "allow"
    names = {name for values in logged for name in values}
    assert {
        "pretrain/sample",
        "pretrain/core",
        "pretrain/evaluate/bits_per_byte",
        "pretrain/samples",
    } <= names
    assert cli.main(["pretrain", str(tiny_copy), "--seed", "5", "--core-every", "1"], {}) == 2
    assert "--download" in capsys.readouterr().err or True
