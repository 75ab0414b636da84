"""`chatsmith sft`: what it refuses, in one line and leaving nothing, and where it starts from."""

import json
import shutil
from pathlib import Path

import pytest

from chatsmith.bundle import load_bundle
from chatsmith.cli import main as cli
from chatsmith.cli.training import say
from chatsmith.engine.sampler import choose
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.chat import Message, render_prompt


@pytest.fixture
def sft(capsys):
    """Runs the command; returns its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["sft", *map(str, argv)], {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str], message: str) -> None:
    code, _, error = result
    assert code == 2
    assert message in error and error.startswith("chatsmith: ") and error.count("\n") == 1


def talk(*texts: str) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    return json.dumps({"messages": messages}) + "\n"


@pytest.fixture
def talks(tmp_path) -> Path:
    path = tmp_path / "talks.jsonl"
    path.write_text(20 * talk("Say hi.", "Hi."))
    return path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tokens", 1000, "--minutes", 5], "given twice, as tokens and as minutes"),
        (["--tokens", -1], "tokens is -1; it must be at least 0"),
        (["--tokens", 0, "--epochs", "inf"], "epochs is inf"),
        (["--tokens", 0, "--epochs", 0], "epochs is 0.0"),
        (["--tokens", 0, "--minutes", "nan"], "minutes is nan"),
        (["--rate-scale", 0], "rate_scale is 0.0"),
        (["--seed", -1], "seed is -1"),
        (["--batch-tokens", 100], "batch_tokens is 100, less than one row of 128 tokens"),
        (["--from", "nowhere"], "nowhere"),
        (["--conversations", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--validation-conversations", "a.jsonl"], "give both"),
    ],
)
def test_impossible_settings_leave_the_run_as_it_was(tiny_copy, sft, argv, message):
    weights = tiny_copy / "sft" / "bundle" / "model.safetensors"
    before, files = weights.read_bytes(), {path for path in tiny_copy.rglob("*") if path.is_file()}
    refused(sft(tiny_copy, *argv), message)
    assert weights.read_bytes() == before
    assert {path for path in tiny_copy.rglob("*") if path.is_file()} == files


def test_a_run_without_a_pretrained_model_says_what_comes_first(tiny_copy, sft):
    shutil.rmtree(tiny_copy / "pretrain")
    refused(sft(tiny_copy, "--seed", 2), "pretrain")


def test_a_new_run_without_conversations_is_refused_and_not_made(tiny_run, tmp_path, sft):
    refused(sft(tmp_path / "new", "--from", tiny_run), "data prepare")
    assert not (tmp_path / "new").exists()


def test_a_damaged_bundle_is_refused_by_name(tiny_copy, tmp_path, talks, sft):
    weights = tiny_copy / "pretrain" / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = sft(tmp_path / "new", "--from", tiny_copy / "pretrain" / "bundle", "--conversations", talks)
    refused(result, "model.safetensors")


def test_two_processes_on_one_run_are_kept_apart(tiny_copy, sft):
    with RunDirectory(tiny_copy).lock():
        refused(sft(tiny_copy, "--seed", 2), "is in use by process")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "talks.jsonl"),
        (json.dumps({"messages": [{"role": "assistant", "content": "Hi."}]}) + "\n", "talks.jsonl"),
        (talk("Say hi.", "Hi. " * 2000), "do not fit into 128 tokens"),
    ],
    ids=["empty", "wrong role order", "too long"],
)
def test_conversations_nothing_can_be_learnt_from_are_refused(tiny_run, tmp_path, sft, content, message):
    path = tmp_path / "talks.jsonl"
    path.write_text(content)
    refused(sft(tmp_path / "new", "--from", tiny_run, "--conversations", path, "--no-compile"), message)
    assert not (tmp_path / "new" / "sft" / "bundle").exists()


def test_broken_lines_are_counted_and_the_rest_is_learnt(tiny_run, tmp_path, talks, sft):
    talks.write_text(199 * talk("Say hi.", "Hi.") + "{broken\n")
    run = tmp_path / "new"
    argv = ("--from", tiny_run, "--conversations", talks, "--no-compile", "--batch-tokens", 256)
    code, out, _ = sft(run, *argv)
    assert code == 0
    assert "199 conversations in" in out and "line 200" in out
    facts = RunDirectory(run).done_facts("sft")
    assert facts is not None and facts["conversations"] == 199


def test_held_out_conversations_are_scored_and_not_learnt(tiny_run, tmp_path, talks, sft):
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text(talk("Say hi.", "Hi."))
    weights = []
    for name, extra in (("with", ("--validation-conversations", held_out)), ("without", ())):
        run = tmp_path / name
        code, _, _ = sft(run, "--from", tiny_run, "--conversations", talks, "--no-compile", *extra)
        assert code == 0
        facts = RunDirectory(run).done_facts("sft")
        assert facts is not None and ("validation" in facts) == bool(extra)
        weights.append((run / "sft" / "bundle" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_training_goes_on_where_no_held_out_conversation_fits_and_claims_no_validation(
    tiny_run, tmp_path, talks, sft
):
    held_out, run = tmp_path / "held-out.jsonl", tmp_path / "new"
    held_out.write_text(2 * talk("Say hi.", "Hi. " * 2000))
    argv = ("--from", tiny_run, "--conversations", talks, "--validation-conversations", held_out)
    code, out, error = sft(run, *argv, "--no-compile", "--tokens", 512, "--batch-tokens", 256)
    assert code == 0, error
    assert (
        out.count("none of the 2 validation conversations fits into 128 tokens, so nothing is validated") == 1
    )
    facts = RunDirectory(run).done_facts("sft")
    assert facts is not None and facts["conversations"] == 20 and "validation" not in facts
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines and not any("validation" in line for line in lines)
    assert "validation" not in (run / "sft" / "bundle" / "README.md").read_text().lower()


def test_fine_tuning_starts_from_the_pretrained_model_and_not_from_itself(tiny_copy, sft):
    """The second time the run's newest bundle is the fine-tuned one."""
    bundle = tiny_copy / "sft" / "bundle" / "model.safetensors"
    before = bundle.read_bytes()
    (tiny_copy / "sft" / "done.json").unlink()
    assert sft(tiny_copy)[0] == 0
    assert bundle.read_bytes() == before


def test_minutes_are_kept_as_tokens(tiny_copy, sft):
    settings = (tiny_copy, "--tokens", 0, "--minutes", 0.01, "--evaluations", 0)
    assert sft(*settings)[0] == 0
    weights = tiny_copy / "sft" / "bundle" / "model.safetensors"
    before = weights.read_bytes()
    (tiny_copy / "sft" / "done.json").unlink()
    assert sft(*settings)[0] == 0
    assert weights.read_bytes() == before


def test_how_often_it_is_looked_at_does_not_repeat_a_finished_stage(tiny_run, sft):
    code, out, _ = sft(tiny_run, "--evaluations", 3, "--evaluate-tokens", 512)
    assert code == 0 and "is up to date" in out


def test_conversations_of_any_form_are_learned_from_and_the_form_is_named(tiny_run, tmp_path, sft):
    pairs = [{"instruction": "Say hi.", "output": "Hi."}] * 20
    (tmp_path / "alpaca.json").write_text(json.dumps(pairs))
    argv = (
        "--from",
        tiny_run,
        "--conversations",
        tmp_path / "alpaca.json",
        "--no-compile",
        "--batch-tokens",
        256,
    )
    code, out, error = sft(tmp_path / "new", *argv)
    assert code == 0, error
    assert "20 conversations in" in out
    assert "alpaca.json: read as alpaca" in " ".join(out.split())


def test_what_is_held_out_of_given_files_is_not_trained_on_by_the_next_run(tiny_run, tmp_path, sft):
    """Runs share tokens by content; the same files divided otherwise are other tokens, under the same key as ever."""
    for name, reply in (("a", "Hi."), ("b", "Ho.")):
        (tmp_path / f"{name}.jsonl").write_text(20 * talk("Say it.", reply))
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    options = (
        "--from",
        tiny_run,
        "--tokens",
        1024,
        "--batch-tokens",
        1024,
        "--no-compile",
        "--evaluations",
        0,
    )
    counts = []
    for run, flags in (("one", (a, "--validation-conversations", b)), ("two", (a, b))):
        assert sft(tmp_path / run, "--conversations", *flags, *options)[0] == 0
        counts.append(json.loads((tmp_path / run / "sft/done.json").read_text())["facts"]["conversations"])
    assert counts == [20, 40]


def test_prompts_are_answered_as_a_chat_along_sft_and_rl(tiny_copy, sft, capsys):
    asked = ["--sample-prompts", "What is 2 plus 3?", "Hello!"]
    assert sft(tiny_copy, "--tokens", 4096, "--evaluations", 1, *asked)[0] == 0
    assert (
        cli.main(
            [
                "rl",
                str(tiny_copy),
                "--steps",
                "1",
                "--evaluations",
                "1",
                "--prompts",
                "2",
                "--seed",
                "9",
                *asked,
            ],
            {},
        )
        == 0
    )
    assert "What is 2 plus 3? → " in capsys.readouterr().out
    records = map(json.loads, (tiny_copy / "metrics.jsonl").read_text().splitlines())
    said = {record["stage"]: record["samples"] for record in records if "samples" in record}
    assert said.keys() == {"sft", "rl"}
    assert [one["prompt"] for one in said["rl"]] == asked[1:] and all(one["tokens"] for one in said["rl"])


def test_a_prompt_that_does_not_fit_says_why_nothing_follows(tiny_run):
    bundle = load_bundle(RunDirectory(tiny_run).bundle("sft"))
    shown = say(bundle.model, bundle.tokenizer, ["word " * 2000], answers=True)["sample"]
    assert "context" in shown.split("→")[1]


def test_what_the_calculator_put_in_is_told_apart(tiny_run, monkeypatch):
    bundle = load_bundle(RunDirectory(tiny_run).bundle("sft"))
    tokenizer, model = bundle.tokenizer, bundle.model
    ids = [
        tokenizer.special("<|python_start|>"),
        *tokenizer.encode("2+3"),
        tokenizer.special("<|python_end|>"),
    ]
    first = len(render_prompt([Message.of("user", "What is 2 plus 3?")], tokenizer))

    def call(logits, rows):
        for index in range(len(rows)):
            if (place := rows[index].position - first) < len(ids):
                logits[index, ids[place]] = 1e4
        return choose(logits, rows)

    monkeypatch.setattr("chatsmith.engine.engine.choose", call)
    (said,) = say(model, tokenizer, ["What is 2 plus 3?"], answers=True)["samples"]
    given = [text for _, text, logprob, _ in said["tokens"] if logprob is None]
    assert "".join(given) == "<|output_start|>5<|output_end|>"
