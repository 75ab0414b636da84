"""A finished run of which something was lost or altered: it is made again, or one clear line says what to do."""

import json
import os
import shutil
from pathlib import Path

import pytest

from chatsmith.cli import main as cli
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.train.trainer import Trainer

STAGES = ("pretrain", "sft", "rl")
SEALED = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "generation_config.json",
    "chat_template.jinja",
)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def weights(run: Path) -> dict[str, bytes]:
    return {stage: (run / stage / "bundle" / "model.safetensors").read_bytes() for stage in STAGES}


def run_again(run: Path, capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["run", str(Path(__file__).parents[1] / "recipes" / "tiny.toml"), "--run", str(run)], {})
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit], ids=["deleted", "flipped"])
def test_a_damaged_model_of_a_finished_stage_is_trained_again(tiny_copy, capsys, damage):
    before = weights(tiny_copy)
    damage(tiny_copy / "rl" / "bundle" / "model.safetensors")
    code, out, _ = run_again(tiny_copy, capsys)
    assert code == 0 and "the finished model is damaged and is trained again" in out
    assert weights(tiny_copy) == before


def test_a_stage_that_starts_from_a_damaged_model_names_the_command_that_makes_it(tiny_copy, capsys):
    flip_a_bit(tiny_copy / "pretrain" / "bundle" / "model.safetensors")
    assert cli.main(["sft", str(tiny_copy), "--seed", "5"], {}) == 2
    assert (
        f"its content has changed; copy the bundle again or create it again: chatsmith pretrain {tiny_copy}"
        in (" ".join(capsys.readouterr().err.split()))
    )


def test_a_lost_record_and_a_lost_result_cost_no_training_and_no_scores(tiny_copy, capsys):
    facts = {stage: RunDirectory(tiny_copy).done_facts(stage) for stage in STAGES}
    for stage in STAGES:
        (tiny_copy / stage / "done.json").unlink()
    (tiny_copy / "pretrain" / "state").mkdir()  # of a process that was killed as it finished
    code, out, _ = run_again(tiny_copy, capsys)
    assert code == 0 and out.count("is up to date") >= 5
    assert {stage: RunDirectory(tiny_copy).done_facts(stage) for stage in STAGES} == facts
    assert not (tiny_copy / "pretrain" / "state").exists()


def test_an_emptied_recipe_is_one_clear_line(tiny_copy, capsys):
    (tiny_copy / "recipe.toml").write_text("")
    for argv in (["run", str(tiny_copy)], ["sft", str(tiny_copy)]):
        assert cli.main(argv, {}) == 2
        assert "recipe.toml is empty; delete it" in " ".join(capsys.readouterr().err.split())


def test_a_run_is_restored_from_a_copy_once(tiny_run, tmp_path, capsys):
    copy, run = tmp_path / "copy", tmp_path / "tiny"
    shutil.copytree(tiny_run, copy)
    (copy / ".half.123.tmp").write_text("")
    for said in ("is restored from", "is there already and goes on"):
        assert cli.main(["run", str(run), "--restore", str(copy)], {}) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert weights(run) == weights(tiny_run) and not list(run.rglob("*.tmp"))
    assert cli.main(["run", str(tmp_path / "new"), "--restore", str(tmp_path)], {}) == 2
    assert "is not a copy of a run" in capsys.readouterr().err


def test_results_of_rl_that_are_lost_cost_no_training(tiny_copy, capsys):
    before = weights(tiny_copy)
    results = tiny_copy / "evals" / "rl.json"
    whole = json.loads(results.read_text())
    for damage in (Path.unlink, flip_a_bit):
        damage(results)
        code, out, _ = run_again(tiny_copy, capsys)
        assert code == 0 and "Reinforcement learning" not in out and weights(tiny_copy) == before
        found = json.loads(results.read_text())
        assert {**found, "facts": None} == {**whole, "facts": None}


def test_on_a_read_only_disk_what_is_measured_is_shown(tiny_copy, capsys, monkeypatch):
    access = os.access

    def read_only(path, mode):
        return not (mode == os.W_OK and Path(path).is_relative_to(tiny_copy)) and access(path, mode)

    def refused(_):
        raise UserError("cannot be written")

    monkeypatch.setattr(os, "access", read_only)
    monkeypatch.setattr(RunDirectory, "lock", refused)
    assert cli.main(["evaluate", str(tiny_copy), "--max-examples", "8"], {}) == 0
    assert "measured before" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tiny_copy), "--max-examples", "3"], {}) == 2
    error = capsys.readouterr().err
    assert "is not measured yet" in error and "cannot be written to; choose another folder" in error


@pytest.mark.long
def test_one_flipped_bit_in_any_file_gives_a_clear_line_or_the_same_result(tiny_run, tmp_path, capsys):
    """Of a finished run. The model card and the metrics are for people, and say what they say."""
    before = weights(tiny_run)
    for number, path in enumerate(sorted(tiny_run.rglob("*"))):
        place = path.relative_to(tiny_run)
        if (
            not path.is_file()
            or not path.stat().st_size
            or path.name in (".lock", "README.md", "metrics.jsonl")
        ):
            continue
        run = shutil.copytree(tiny_run, tmp_path / f"run-{number}")
        flip_a_bit(run / place)
        code, _, error = run_again(run, capsys)
        assert code in (0, 2), f"{place}: {error}"
        if code == 2:
            assert len(error.splitlines()) == 1 and error.startswith("chatsmith: "), f"{place}: {error}"
        else:
            assert weights(run) == before, place
            for stage in STAGES:
                json.loads((run / stage / "bundle" / "config.json").read_text())
        shutil.rmtree(run)


@pytest.mark.long
def test_one_flipped_bit_in_any_file_of_an_unfinished_run_gives_a_clear_line_or_the_same_result(
    tiny_run, tmp_path, monkeypatch, capsys
):
    """Stopped in pretraining, with two states and the tokens of its text."""
    text = (Path(__file__).parents[1] / "recipes" / "tiny.toml").read_text()
    text = text.replace('"pretrain", "sft", "rl", "evaluate"', '"pretrain"')
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(text.replace("[pretrain]", "[pretrain]\nsave_minutes = 1e-9"))
    begun = tmp_path / "begun"
    save_or_stop = Trainer.save_or_stop

    def killed(trainer):
        save_or_stop(trainer)
        if trainer.step == 9:
            raise KeyboardInterrupt

    def run_in(place: Path) -> tuple[int, str]:
        monkeypatch.setenv("CHATSMITH_CACHE", str(place / "cache"))
        capsys.readouterr()
        code = cli.main(["run", str(recipe), "--run", str(place / "run")], {})
        return code, capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_or_stop", killed)
        assert run_in(begun)[0] == 130 and len(list((begun / "run/pretrain/state").iterdir())) == 2
    before = (tiny_run / "pretrain" / "bundle" / "model.safetensors").read_bytes()
    flipped = 0
    for path in sorted(begun.rglob("*")):
        if not path.is_file() or not path.stat().st_size or path.name in (".lock", "metrics.jsonl"):
            continue
        place = shutil.copytree(begun, tmp_path / "flipped")
        flip_a_bit(place / path.relative_to(begun))
        code, error = run_in(place)
        assert code in (0, 2), f"{path}: {error}"
        if code == 2:
            assert len(error.splitlines()) == 1 and error.startswith("chatsmith: "), f"{path}: {error}"
        else:
            assert (place / "run/pretrain/bundle/model.safetensors").read_bytes() == before, path
        flipped += 1
        shutil.rmtree(place)
    assert flipped > 15
