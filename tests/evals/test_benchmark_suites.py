"""The benchmarks as the command runs them: what it prints, what it keeps, how it goes on, alone and with others."""

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chatsmith.bundle import save_bundle
from chatsmith.cli import data as data_command
from chatsmith.cli import evaluate
from chatsmith.cli import main as cli
from chatsmith.cli.evaluate import Config
from chatsmith.evals import chat, exam, suites
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.statistics import wilson_interval
from chatsmith.ingest.survey import survey
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.core import TASKS, CoreTask
from chatsmith.text.tokenizer import Tokenizer
from tests.processes import CHATSMITH, Processes

SCORE_KEYS = {"accuracy", "centered", "n", "low", "high", "chance", "seconds", "notes"}
SHORT = """
from dataclasses import replace
from chatsmith.evals import chat
chat.TASKS = tuple(replace(task, max_tokens=8) if task.max_tokens else task for task in chat.TASKS)
"""
CHAT_TASKS = ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short replies, and nothing from this machine's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    short = tuple(replace(task, max_tokens=8) if task.max_tokens else task for task in chat.TASKS)
    monkeypatch.setattr(chat, "TASKS", short)


@pytest.fixture
def run(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> Path:
    return made_run(tmp_path / "run", model, tokenizer)


def made_run(folder: Path, model: GPT, tokenizer: Tokenizer) -> Path:
    (folder / "data").mkdir(parents=True)
    text = folder / "train.txt"
    text.write_text("a hat and a cat. " * 20)
    (folder / "validation.txt").write_text("what is one and two? a cat, a mat.\n" * 60)
    survey([text], validation=[folder / "validation.txt"]).save(folder / "data")
    save_bundle(folder / "pretrain" / "bundle", model, tokenizer, generation={}, card="# Tiny\n")
    return folder


def measured(capsys: pytest.CaptureFixture[str], config: Config) -> dict:
    capsys.readouterr()
    evaluate.main(config)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_core_is_printed_in_the_promised_form(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str]
):
    found = measured(capsys, Config(run, suite="core", eval_data=small_benchmarks, json=True))
    assert found.keys() == {"core"}
    core = found["core"]
    assert core.keys() >= {"centered", "raw", "low", "high", "tasks"}
    assert list(core["tasks"]) == [task.name for task in TASKS]
    for task in TASKS:
        score = core["tasks"][task.name]
        assert score.keys() | {"notes"} == SCORE_KEYS
        assert score["n"] == 12 and score["chance"] == task.chance
        assert score["low"] <= score["accuracy"] <= score["high"]
    assert "not the published" in core["tasks"]["piqa"]["notes"][0]
    assert core["low"] <= core["centered"] <= core["high"]
    mean = sum(score["centered"] for score in core["tasks"].values()) / 22
    assert core["centered"] == pytest.approx(mean)


def test_base_has_core_where_its_files_are_at_hand_and_says_so_where_not(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    config = Config(run, suite="base", eval_data=small_benchmarks, max_examples=2, json=True)
    assert measured(capsys, config).keys() == {"base", "core"}
    capsys.readouterr()
    evaluate.main(Config(run, suite="base", eval_data=tmp_path / "empty", max_examples=2))
    assert "--download" in capsys.readouterr().out


def test_everything_at_once(run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str]):
    config = Config(run, suite="all", eval_data=small_benchmarks, max_examples=3, json=True)
    found = measured(capsys, config)
    assert list(found) == ["base", "core", "chat", "exam"]
    assert list(found["chat"]["tasks"]) == CHAT_TASKS
    chance = found["chat"]["tasks"]["mmlu"]["chance"], found["chat"]["tasks"]["arc_easy"]["chance"]
    assert chance == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    assert found["exam"]["n"] == 3


def test_the_kindergarten_is_a_part_of_chatcore_if_it_was_taught(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Evaluation, "was_taught_kindergarten", True)
    monkeypatch.setattr(exam, "NearestQuestion", lambda _: SimpleNamespace(answer=lambda _: ""))
    config = Config(run, suite="chat", eval_data=small_benchmarks, max_examples=3, json=True)
    assert list(measured(capsys, config)["chat"]["tasks"]) == [*CHAT_TASKS, "kindergarten"]
    lines = measured(capsys, Config(compare=(run, run), max_examples=3, json=True))["compare"]
    assert lines.keys() == {"ChatCORE", *(f"chat/{name}" for name in [*CHAT_TASKS, "kindergarten"])}


def test_what_was_measured_is_kept_for_the_card_and_not_measured_again(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    config = Config(run, suite="core", eval_data=small_benchmarks, json=True)
    first = measured(capsys, config)
    card = (run / "pretrain" / "bundle" / "README.md").read_text()
    assert "CORE" in card and "hellaswag" in card and "95 % interval" in card

    def load(*_: object) -> None:
        raise AssertionError("the model was loaded for a result that is known")

    monkeypatch.setattr(Evaluation, "bundle", property(load))
    assert measured(capsys, config) == first
    with pytest.raises(AssertionError, match="known"):
        evaluate.main(Config(run, suite="core", eval_data=small_benchmarks, max_examples=3))


def test_an_interrupted_suite_goes_on_with_the_next_task(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    config = Config(run, suite="core", eval_data=small_benchmarks, max_examples=3, json=True)
    real, asked = suites.measure_core_task, []

    def interrupted(evaluation: Evaluation, task: CoreTask):
        asked.append(task.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(evaluation, task)

    monkeypatch.setattr(suites, "measure_core_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(config)
    monkeypatch.setattr(suites, "measure_core_task", real)
    folder = run / "evals" / "pretrain-core-3"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert before.keys() == {f"{name}.json" for name in asked[:3]}
    assert len(measured(capsys, config)["core"]["tasks"]) == 22
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_changed_items_are_measured_anew(
    run: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(small_benchmarks, tmp_path / "changed")
    evaluate.main(Config(run, suite="core", eval_data=folder, max_examples=2))
    with (folder / TASKS[1].path).open("a") as file:
        file.write('{"context": "A", "continuation": "cat"}\n')
    capsys.readouterr()
    evaluate.main(Config(run, suite="core", eval_data=folder, max_examples=2))
    again = capsys.readouterr().out
    assert "jeopardy: measured before" not in again and "piqa: measured before" in again


def test_development_never_touches_test_items(
    run: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With every test file gone, development scores can still be measured; HumanEval has none to give."""
    folder = shutil.copytree(small_benchmarks, tmp_path / "without-tests")
    for file in [*folder.glob("*/*test.jsonl"), *folder.glob("core/**/*.jsonl"), *folder.glob("humaneval/*")]:
        file.unlink()
    config = Config(run, suite="chat", split="development", eval_data=folder, max_examples=2, json=True)
    found = measured(capsys, config)
    assert "humaneval" not in found["chat"]["tasks"]
    assert found["chat"]["tasks"].keys() == set(CHAT_TASKS) - {"humaneval"}
    with pytest.raises(UserError, match="no development items"):
        Config(run, suite="core", split="development")


def test_several_tries_tell_pass_at_k(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    again = [task for task in chat.TASKS if task.are_programs]
    monkeypatch.setattr(chat, "TASKS", again)
    config = Config(run, suite="chat", eval_data=small_benchmarks, max_examples=1, tries=12, json=True)
    score = measured(capsys, config)["chat"]["tasks"]["humaneval"]
    assert score["n"] == 1
    assert (score["pass@10"], score["pass@10 low"]) == (0.0, 0.0)
    assert score["pass@10 high"] == pytest.approx(wilson_interval(0, 1)[1]), (
        "one problem says next to nothing"
    )
    evaluate.main(replace(config, json=False))
    assert "pass@10: 0.0 % (95 % interval 0.0 to 79.3 %)" in capsys.readouterr().out
    assert len(json.loads((run / "evals/pretrain-chat-1/humaneval.json").read_text())["transcript"]) == 12


def test_missing_files_are_named_with_what_to_do(run: Path, tmp_path: Path):
    for suite in ("core", "chat"):
        with pytest.raises(UserError, match=r"is not there: .*--download"):
            evaluate.main(Config(run, suite=suite, eval_data=tmp_path / "nowhere"))


def test_only_missing_files_are_downloaded_and_a_refusal_says_what_else_there_is(
    small_benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter
):
    folder = shutil.copytree(small_benchmarks, tmp_path / "part")
    for path in ("gsm8k/test.jsonl", "humaneval/HumanEval.jsonl"):
        (folder / path).unlink()
    asked = []
    monkeypatch.setattr(data_command, "fetch", lambda origin, *_, **__: asked.append(origin.path))
    data_command.fetch_benchmarks(folder, reporter)
    assert sorted(asked) == ["gsm8k/test.jsonl", "humaneval/HumanEval.jsonl"]

    def fails(*_: object, **__: object) -> str:
        raise UserError("the server says 404 Not Found")

    monkeypatch.setattr(data_command, "fetch", fails)
    with pytest.raises(UserError, match=r"404.*--mirror.*docs/evaluation\.md"):
        data_command.fetch_benchmarks(folder, reporter)


def test_only_the_main_process_downloads_and_the_others_wait(run: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    monkeypatch.setattr(evaluate, "fetch_benchmarks", lambda *_: done.append("download"))
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: done.append("measure") or [])
    monkeypatch.setattr(evaluate, "main_number", lambda *_: done.append("wait"))
    monkeypatch.setattr(evaluate, "process_group", lambda _: contextlib.nullcontext())
    for rank, expected in ((0, ["download", "wait", "measure"]), (1, ["wait", "measure"])):
        runtime = Runtime(torch.device("cpu"), torch.float32, rank=rank, world_size=2)
        monkeypatch.setattr(evaluate, "detect_runtime", lambda *_, runtime=runtime: runtime)
        done.clear()
        evaluate.main(Config(run, suite="core", download=True))
        assert done == expected


def test_a_bundle_outside_a_run_keeps_results_only_where_told(
    run: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    alone = (run / "pretrain" / "bundle").rename(tmp_path / "alone")
    config = Config(alone, suite="core", eval_data=small_benchmarks, max_examples=2, json=True)
    found = measured(capsys, config)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "alone"}
    kept = Config(
        alone,
        suite="core",
        eval_data=small_benchmarks,
        max_examples=2,
        results=tmp_path / "kept",
        json=True,
    )
    again = measured(capsys, kept)
    assert [score["accuracy"] for score in again["core"]["tasks"].values()] == [
        score["accuracy"] for score in found["core"]["tasks"].values()
    ]
    assert (tmp_path / "kept" / "alone-core-2.json").is_file()


def test_a_model_is_no_better_than_itself_and_a_broken_one_is_worse(
    run: Path,
    small_benchmarks: Path,
    tmp_path: Path,
    model: GPT,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
):
    zero = GPT(model.config)
    zero.load_state_dict({name: weight * 0 for name, weight in model.state_dict().items()})
    other = made_run(tmp_path / "other", zero, tokenizer)
    for folder in (run, other):
        evaluate.main(Config(folder, suite="base", eval_data=small_benchmarks, batch_tokens=64))
    same = measured(capsys, Config(compare=(run, run), json=True))["compare"]
    assert {line["verdict"] for line in same.values()} == {"no difference seen"}
    assert same["CORE"]["difference"] == 0.0 and same["CORE"]["n"] == 22 * 12
    lines = measured(capsys, Config(compare=(run, other), json=True))["compare"]
    assert lines["bits per byte"]["verdict"] == "B is better", (
        "the random model is worse than one that knows nothing"
    )
    assert lines["bits per byte"]["b"] < lines["bits per byte"]["a"]
    assert lines.keys() == {"bits per byte", "CORE", *(f"core/{task.name}" for task in TASKS)}
    evaluate.main(Config(compare=(run, other)))
    assert "verdict" in capsys.readouterr().out
    with pytest.raises(UserError, match="no results in common"):
        evaluate.main(Config(compare=(run, other), max_examples=7))


def test_models_outside_runs_are_compared_by_their_files(
    run: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Two bundles, results in one folder: the folder does not say which is meant, a file does."""
    kept = tmp_path / "kept"
    for name in ("one", "two"):
        bundle = shutil.copytree(run / "pretrain" / "bundle", tmp_path / name)
        evaluate.main(Config(bundle, suite="core", eval_data=small_benchmarks, max_examples=2, results=kept))
    with pytest.raises(UserError, match="results of one, two"):
        evaluate.main(Config(compare=(kept, kept), max_examples=2))
    files = (kept / "one-core-2.json", kept / "two-core-2.json")
    found = measured(capsys, Config(compare=files, max_examples=2, json=True))
    assert found["compare"]["CORE"]["difference"] == 0


def test_the_chat_suite_is_compared_whole(
    run: Path, small_benchmarks: Path, capsys: pytest.CaptureFixture[str]
):
    """The mean that is compared is ChatCORE as it was shown."""
    config = Config(run, suite="chat", eval_data=small_benchmarks, max_examples=3, json=True)
    shown = measured(capsys, config)["chat"]
    evaluate.main(replace(config, suite="core"))  # which has tasks of the same names
    lines = measured(capsys, Config(compare=(run, run), max_examples=3, json=True))["compare"]
    named = {f"chat/{name}" for name in CHAT_TASKS} | {f"core/{task.name}" for task in TASKS}
    assert lines.keys() == {"ChatCORE", "CORE", *named}
    assert lines["ChatCORE"]["a"] == pytest.approx(shown["centered"])


def test_results_of_an_earlier_model_are_not_compared(
    run: Path,
    small_benchmarks: Path,
    tmp_path: Path,
    model: GPT,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
):
    """Trained anew and not measured since: what stands in the folder is another model's."""
    other = made_run(tmp_path / "other", model, tokenizer)
    for folder in (run, other):
        evaluate.main(Config(folder, suite="base", eval_data=small_benchmarks, batch_tokens=64))
    half = GPT(model.config)
    half.load_state_dict({name: weight / 2 for name, weight in model.state_dict().items()})
    save_bundle(run / "pretrain" / "bundle", half, tokenizer, generation={}, card="")
    with pytest.raises(UserError, match="as they are now, have no results in common"):
        evaluate.main(Config(compare=(run, other)))
    evaluate.main(Config(run, suite="core", eval_data=small_benchmarks))
    found = measured(capsys, Config(compare=(run, other), json=True))["compare"]
    assert "CORE" in found and "bits per byte" not in found


def test_a_folder_that_mixes_models_is_refused(run: Path, small_benchmarks: Path, tmp_path: Path):
    """A bundle outside a run was replaced, and the new one measured in part."""
    kept = tmp_path / "kept"
    evaluate.main(Config(run, suite="core", eval_data=small_benchmarks, max_examples=2))
    (run / "evals").rename(kept)
    task = kept / "pretrain-core-2" / "piqa.json"
    task.write_text(json.dumps(json.loads(task.read_text()) | {"model": "another"}))
    with pytest.raises(UserError, match="more than one model"):
        evaluate.main(Config(compare=(kept, kept), max_examples=2))


def test_items_of_different_files_are_not_paired(
    run: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """CORE's items are called by their places, which mean other questions in a subset of the file."""
    changed = shutil.copytree(small_benchmarks, tmp_path / "changed")
    with (changed / TASKS[1].path).open("a") as file:
        file.write('{"context": "A", "continuation": "cat"}\n')
    other = shutil.copytree(run, tmp_path / "other")
    evaluate.main(Config(run, suite="core", eval_data=small_benchmarks, max_examples=2))
    evaluate.main(Config(other, suite="core", eval_data=changed, max_examples=2))
    capsys.readouterr()
    evaluate.main(Config(compare=(run, other), max_examples=2))
    assert "jeopardy is left out" in capsys.readouterr().out
    found = measured(capsys, Config(compare=(run, other), max_examples=2, json=True))["compare"]
    assert found.keys() == {"CORE", *(f"core/{task.name}" for task in TASKS)} - {"core/jeopardy"}
    assert found["CORE"]["n"] == 21 * 2


def test_results_of_something_else_are_refused(tmp_path: Path, run: Path):
    with pytest.raises(UserError, match="holds no results"):
        evaluate.main(Config(compare=(tmp_path, run)))
    with pytest.raises(UserError, match="two models, not 1"):
        Config(compare=(run,))


def test_test_items_in_the_training_text_are_found(
    run: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(small_benchmarks, tmp_path / "long")
    secret = "when did the seven tired owls of the old north mill finally learn to count backwards from ten"
    (folder / "gsm8k" / "test.jsonl").write_text(
        json.dumps({"question": f"Tell me: {secret}?", "answer": "#### 1"})
        + "\n"
        + json.dumps({"question": secret.replace("owls", "elks"), "answer": "#### 2"})
        + "\n"
    )
    text = run / "train.txt"
    text.write_text(f"A book. {secret.upper().replace(' ', ', ')}! And so on.")
    survey([text], validation=[run / "validation.txt"]).save(run / "data")
    found = measured(capsys, Config(run, leakage=True, eval_data=folder, json=True))["leakage"]
    assert found["gsm8k"]["overlapping"] == 1, "the other one differs in one word, which is enough"
    assert found["gsm8k"]["items"] == 2
    assert found["gsm8k"]["examples"] == ["when did the seven tired owls of the old north mill finally learn"]
    assert found["core/copa"]["overlapping"] == 0
    assert found["core/copa"]["too_short"] == 12
    assert "kindergarten exam" in found


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    run: Path,
    small_benchmarks: Path,
    tmp_path: Path,
    subprocess_environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
):
    """As torchrun starts them: one JSON object, the same scores, and files written once."""
    other = shutil.copytree(run, tmp_path / "shared-out")
    argv = ("evaluate", other, "--eval-data", small_benchmarks, "--suite", "all", "--max-examples", 3)
    argv += ("--json", "--device", "cpu")
    ranks = Processes(SHORT + CHATSMITH, *argv, world_size=2, environment=subprocess_environment)
    config = Config(run, suite="all", eval_data=small_benchmarks, max_examples=3, device="cpu", json=True)
    alone = measured(capsys, config)
    first, second = ranks.wait()
    assert second.out == "" and first.out.count("\n") == 1, (first, second)
    together = json.loads(first.out)
    for suite in ("core", "chat"):
        assert together[suite]["tasks"].keys() == alone[suite]["tasks"].keys()
        for name, score in alone[suite]["tasks"].items():
            assert together[suite]["tasks"][name]["accuracy"] == score["accuracy"], name
    assert together["base"]["bits_per_byte"] == pytest.approx(alone["base"]["bits_per_byte"], rel=1e-6)
    transcripts = [
        json.loads((folder / "evals/pretrain-exam-3.json").read_text())["transcript"]
        for folder in (run, other)
    ]
    assert transcripts[0] == transcripts[1]


def test_the_command_line_scores_a_transformers_checkpoint(
    gpt2: Path, small_benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = [
        "evaluate",
        "--hf",
        str(gpt2),
        "--eval-data",
        str(small_benchmarks),
        "--max-examples",
        "3",
        "--json",
    ]
    assert cli.main([*argv, "--results", str(tmp_path), "--device", "cpu"], os.environ) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"core"}
    assert len(found["core"]["tasks"]) == 22
    assert (tmp_path / f"{gpt2.name}-core-3.json").is_file()
    assert cli.main(["evaluate", "--hf", str(gpt2), "--suite", "chat"], {}) == 2
    assert "only measured by CORE" in capsys.readouterr().err
