"""The stage evaluate: what it prints for programs, where it writes, what it measures again and what not."""

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest

from chatsmith.bundle import save_bundle
from chatsmith.cli import evaluate
from chatsmith.cli.evaluate import Config
from chatsmith.data.problems import Problem
from chatsmith.evals import exam, suites
from chatsmith.evals.evaluation import Evaluation
from chatsmith.ingest.survey import survey
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.tasks.rules import Number
from chatsmith.text.chat import Message
from chatsmith.text.tokenizer import Tokenizer

SCORE_KEYS = {"accuracy", "n", "low", "high"}
TEXT = "a cat and a mat.\n"


REAL_PROBLEMS = exam.exam_problems


@pytest.fixture(autouse=True)
def few_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real exam has hundreds of problems, which is too long for tests of what is done with its result."""

    def problems(evaluation: Evaluation) -> list[Problem]:
        split, most = evaluation.split, evaluation.max_examples
        made = [
            Problem(f"{split}/{n}", f"section {n % 2}", (Message.of("user", f"{n}?"),), f"{n}", Number(n))
            for n in range(6)
        ]
        return made[:most]

    for module in (exam, suites):
        monkeypatch.setattr(module, "exam_problems", problems)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever benchmarks this machine has in its cache are none of these tests' business."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def real_problems(few_problems: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (exam, suites):
        monkeypatch.setattr(module, "exam_problems", REAL_PROBLEMS)


@pytest.fixture
def run(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> Path:
    """A run on files, with a pretrained model in it."""
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (tmp_path / "train.txt").write_text("a hat and a cat. " * 20)
    (tmp_path / "validation.txt").write_text(TEXT * 8)
    manifest = survey([tmp_path / "train.txt"], validation=[tmp_path / "validation.txt"])
    manifest.save(run / "data")
    save_bundle(run / "pretrain" / "bundle", model, tokenizer, generation={}, card="# Tiny\n")
    return run


def measured(capsys: pytest.CaptureFixture[str], config: Config) -> dict:
    """What the command prints on stdout: one JSON object and nothing else."""
    capsys.readouterr()
    evaluate.main(config)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_json_of_the_exam_has_exactly_the_promised_form(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(capsys, Config(run, suite="exam", json=True))
    assert found.keys() == {"exam"}
    assert found["exam"].keys() == {"overall", "n", "low", "high", "chance", "seconds", "sections"}
    assert found["exam"]["n"] == 6
    assert found["exam"]["sections"].keys() == {"section 0", "section 1"}
    for score in found["exam"]["sections"].values():
        assert score.keys() == SCORE_KEYS
        assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1


def test_bits_per_byte_are_of_the_whole_validation_text(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(capsys, Config(run, suite="base", json=True))
    assert found.keys() == {"base"}
    assert found["base"].keys() == {
        *("bits_per_byte", "low", "high", "chance"),
        *("bytes", "tokens", "seconds"),
    }
    assert found["base"]["bytes"] == len((TEXT * 8).encode())
    assert found["base"]["bits_per_byte"] > 0


def test_bits_per_byte_of_any_text(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the run's own text it is the same figure; of another one, for a bundle that belongs to no run, too. Neither
    takes the place of what is known of the run."""
    own = measured(capsys, Config(run, suite="base", json=True))["base"]
    before = {path: path.read_bytes() for path in (run / "evals").iterdir()}
    other = tmp_path / "texts"
    other.mkdir()
    (other / "one.md").write_text("quite another text")
    (other / "two.txt").write_text("and one more")
    same = measured(capsys, Config(run, text=(tmp_path / "validation.txt",), json=True))["base"]
    assert {**same, "seconds": own["seconds"]} == own
    alone = shutil.copytree(run / "pretrain" / "bundle", tmp_path / "alone")
    found = measured(capsys, Config(alone, text=(other,), json=True))["base"]
    assert found["bytes"] == len("quite another textand one more")
    assert found["bits_per_byte"] != own["bits_per_byte"]
    assert {path: path.read_bytes() for path in (run / "evals").iterdir()} == before
    (other / "talk.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n')
    with pytest.raises(UserError, match="holds conversations"):
        evaluate.main(Config(run, text=(other,)))
    with pytest.raises(UserError, match="bits per byte alone"):
        Config(run, text=(other,), suite="core")


def test_results_are_written_into_the_run_and_its_model_card(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(capsys, Config(run, suite="exam", json=True))
    stored = json.loads((run / "evals" / "pretrain-exam.json").read_text())
    assert stored["result"] == found["exam"]
    assert [line["id"] for line in stored["transcript"]] == [f"exam/{number}" for number in range(6)]
    card = (run / "pretrain" / "bundle" / "README.md").read_text()
    assert card.startswith("# Tiny\n")
    assert "kindergarten exam, overall" in card
    facts = RunDirectory(run).done_facts("evaluate")
    assert facts is not None
    assert {"exam", "interval", "seconds"} <= facts.keys()


def test_what_is_known_is_not_measured_again(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(capsys, Config(run, suite="exam", json=True))
    finished = RunDirectory(run).done("evaluate")

    def load(*_: object) -> None:
        raise AssertionError("the model was loaded for a result that is known")

    monkeypatch.setattr(Evaluation, "bundle", property(load))
    assert measured(capsys, Config(run, suite="exam", json=True)) == first
    assert RunDirectory(run).done("evaluate") == finished
    with pytest.raises(AssertionError, match="known"):
        evaluate.main(Config(run, suite="exam", split="development"))


def test_another_model_is_measured_anew(
    run: Path, model: GPT, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(Config(run, suite="exam"))
    before = (run / "evals" / "pretrain-exam.json").read_text()
    halved = GPT(model.config)
    halved.load_state_dict({name: weight / 2 for name, weight in model.state_dict().items()})
    save_bundle(run / "pretrain" / "bundle", halved, tokenizer, generation={}, card="")
    evaluate.main(Config(run, suite="exam"))
    assert json.loads((run / "evals" / "pretrain-exam.json").read_text())["key"] != json.loads(before)["key"]
    assert "measured before" not in capsys.readouterr().out


def test_a_partial_measurement_never_takes_the_place_of_the_full_one(run: Path) -> None:
    evaluate.main(Config(run, suite="exam"))
    full = (run / "evals" / "pretrain-exam.json").read_text()
    evaluate.main(Config(run, suite="exam", max_examples=2))
    evaluate.main(Config(run, suite="exam", split="development"))
    assert (run / "evals" / "pretrain-exam.json").read_text() == full
    names = {path.name for path in (run / "evals").iterdir()}
    assert names >= {"pretrain-exam.json", "pretrain-exam-2.json", "pretrain-exam-development.json"}


def test_a_run_on_files_is_not_asked_about_the_kindergarten_unless_wanted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(capsys, Config(run, json=True)).keys() == {"base"}


def test_a_bundle_that_stands_alone_can_take_the_exam_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = (run / "pretrain" / "bundle").rename(tmp_path / "alone")
    before = {path: path.read_bytes() for path in alone.iterdir()}
    assert measured(capsys, Config(alone, json=True)).keys() == {"exam"}
    assert {path: path.read_bytes() for path in alone.iterdir()} == before
    with pytest.raises(UserError, match="validation text"):
        evaluate.main(Config(alone, suite="base"))


@pytest.mark.parametrize("suite", ["auto", "base", "all"])
@pytest.mark.parametrize("change", ["is gone", "has changed", "is damaged"])
def test_a_run_whose_data_changed_is_refused_and_not_given_an_exam_instead(
    run: Path, tmp_path: Path, suite: Literal["auto", "base", "all"], change: str
) -> None:
    match change:
        case "is gone":
            (tmp_path / "train.txt").unlink()
        case "has changed":
            (tmp_path / "train.txt").write_text("something else")
        case _:
            (run / "data" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=change) as caught:
        evaluate.main(Config(run, suite=suite))
    assert "\n" not in str(caught.value)
    assert not (run / "evals").exists()
    assert (run / "pretrain" / "bundle" / "README.md").read_text() == "# Tiny\n"


def test_a_run_whose_data_changed_can_still_take_the_exam_where_it_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "validation.txt").unlink()
    assert measured(capsys, Config(run, suite="exam", json=True)).keys() == {"exam"}
    text = (tmp_path / "train.txt",)
    assert measured(capsys, Config(run, text=text, json=True)).keys() == {"base"}


def test_a_run_without_data_of_its_own_takes_no_exam_that_was_not_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `sft --from BUNDLE --conversations FILE` makes it."""
    shutil.rmtree(run / "data")
    for suite in ("auto", "base"):
        with pytest.raises(UserError, match="run has no data of its own"):
            evaluate.main(Config(run, suite=suite))
    assert measured(capsys, Config(run, suite="exam", json=True)).keys() == {"exam"}


def test_people_see_intervals(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main(Config(run, suite="exam"))
    shown = capsys.readouterr().out
    assert "95 % interval" in shown
    assert "overall" in shown
    assert "nearest question" not in shown, "nothing was taught whose questions could be near"


def test_where_the_kindergarten_was_taught_the_nearest_question_is_shown_beside_the_score(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chats = [{"messages": [{"role": "user", "content": "3?"}, {"role": "assistant", "content": "3"}]}] * 2
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    survey(
        [tmp_path / "train.txt"],
        validation=[tmp_path / "validation.txt"],
        conversations=[tmp_path / "chats.jsonl"],
        source="kindergarten",
    ).save(run / "data")
    assert measured(capsys, Config(run, json=True)).keys() == {"base", "exam"}
    baseline = json.loads((run / "evals" / "pretrain-exam.json").read_text())["baseline"]
    assert baseline["n"] == 6
    assert baseline["overall"] == pytest.approx(1 / 6), "the one known reply, 3, answers one of six questions"
    evaluate.main(Config(run))
    assert "nearest question" in capsys.readouterr().out
    assert "nearest training question" in (run / "pretrain" / "bundle" / "README.md").read_text()


def test_the_real_exam_can_be_asked(
    run: Path, capsys: pytest.CaptureFixture[str], real_problems: None
) -> None:
    found = measured(capsys, Config(run, suite="exam", max_examples=7, json=True))
    assert found["exam"]["n"] == 7


def test_two_processes_cannot_measure_in_one_run(run: Path) -> None:
    with RunDirectory(run).lock(), pytest.raises(UserError, match="in use"):
        evaluate.main(Config(run, suite="exam"))


@pytest.mark.parametrize("field", ["max_examples", "batch_size", "batch_tokens"])
def test_impossible_numbers_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=field):
        Config(**{field: 0})


def test_a_run_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pretrain"):
        evaluate.main(Config(tmp_path))
