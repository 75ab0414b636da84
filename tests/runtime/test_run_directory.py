import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import FrozenNumbers, RunDirectory, stage_key


@dataclass(frozen=True)
class Config:
    NOT_IN_KEY: ClassVar[tuple[str, ...]] = ("log_every",)
    run: Path = Path("runs/a")
    depth: int = 4
    files: tuple[Path, ...] = ()
    json: bool = False
    log_every: int = 10


def test_key_changes_with_settings_and_inputs_and_with_nothing_else():
    key = stage_key(Config(), tokenizer="t1")
    assert key == stage_key(Config(run=Path("elsewhere"), json=True, log_every=99), tokenizer="t1")
    others = [
        stage_key(Config(depth=5), tokenizer="t1"),
        stage_key(Config(files=(Path("a"),)), tokenizer="t1"),
        stage_key(Config(), tokenizer="t2"),
        stage_key(Config(), data="t1"),
        stage_key(Config()),
    ]
    assert len({key, *others}) == len(others) + 1


@dataclass(frozen=True)
class LaterConfig(Config):
    tables: bool = field(default=True, metadata={"new": True})


def test_a_setting_that_was_added_later_leaves_what_is_done_done_while_it_has_its_default():
    assert (
        stage_key(LaterConfig(), a="1")
        == stage_key(Config(), a="1")
        != stage_key(LaterConfig(tables=False), a="1")
    )


def test_key_does_not_depend_on_the_process(tmp_path):
    """Keys stand on disk and are compared by later processes, whose hash seeds differ."""
    (tmp_path / "keys.py").write_text(
        "from dataclasses import dataclass\n"
        "from chatsmith.runtime.run_directory import stage_key\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    depth: int = 4\n"
        "    names: tuple[str, ...] = ('a', 'b')\n"
        "print(stage_key(Config(), a='1', b='2'))\n"
    )
    keys = {
        subprocess.run(
            [sys.executable, tmp_path / "keys.py"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


def test_done_holds_for_its_key_and_while_its_outputs_are_there(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert not run.is_done("pretrain", "k") and run.done_facts("pretrain") is None
    output = run.stage("pretrain") / "bundle"
    output.mkdir(parents=True)
    run.mark_done("pretrain", "k", {"loss": 1.5}, outputs=[output])
    assert run.is_done("pretrain", "k")
    assert not run.is_done("pretrain", "other")
    assert run.done_facts("pretrain") == {"loss": 1.5}
    assert (run.done("pretrain") or {})["key"] == "k"
    output.rmdir()
    assert not run.is_done("pretrain", "k")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "k"}', "\xff"])
def test_damaged_done_file_means_the_stage_runs_again(tmp_path, content):
    run = RunDirectory(tmp_path)
    run.mark_done("sft", "k", {})
    (run.stage("sft") / "done.json").write_bytes(content.encode("latin-1"))
    assert not run.is_done("sft", "k")
    assert run.done("sft") is None


def test_evaluate_lives_in_evals(tmp_path):
    run = RunDirectory(tmp_path)
    run.mark_done("evaluate", "k", {})
    assert (tmp_path / "evals" / "done.json").is_file()


def test_newest_bundle_is_of_the_furthest_stage(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match="chatsmith pretrain"):
        run.newest_bundle()
    for stage in ("sft", "pretrain"):
        run.bundle(stage).mkdir(parents=True)
    assert run.newest_bundle() == run.bundle("sft")
    with pytest.raises(UserError, match="there is no run"):
        RunDirectory(tmp_path / "missing").newest_bundle()


def test_second_process_is_told_who_holds_the_run(tmp_path):
    code = f"""
from chatsmith.runtime.run_directory import RunDirectory
with RunDirectory({str(tmp_path)!r}).lock():
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdin
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid}"), RunDirectory(tmp_path).lock():
            pass
        other.kill()  # a process that dies leaves no lock behind
        other.wait()
    with RunDirectory(tmp_path).lock():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_lock_is_free_again_after_an_error(tmp_path):
    run = RunDirectory(tmp_path / "new" / "run")
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock():
        run.mark_done("data", "k", {})
    assert run.is_done("data", "k")


def test_failed_command_leaves_no_empty_run_behind(tmp_path):
    run = RunDirectory(tmp_path / "mistyped")
    with pytest.raises(UserError), run.lock():
        raise UserError("no data")
    assert not run.path.exists()


def test_file_in_the_way_of_a_run_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="a file is in the way"), RunDirectory(path).lock():
            pass


@pytest.mark.parametrize(
    ("code", "message"), [(errno.EACCES, "cannot be written"), (errno.ENOSPC, "disk is full")]
)
def test_unwritable_place_is_a_user_error(tmp_path, monkeypatch, code, message):
    def refuse(path, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=message), RunDirectory(tmp_path / "run").lock():
        pass


def test_frozen_value_holds_for_the_settings_it_was_measured_for(tmp_path):
    run = RunDirectory(tmp_path)
    five, ten = FrozenNumbers(run, "pretrain", "five minutes"), FrozenNumbers(run, "pretrain", "ten minutes")
    assert five.get("tokens") is None
    five.keep("tokens", 1000)
    FrozenNumbers(run, "sft").keep("tokens", 77)
    assert (five.get("tokens"), ten.get("tokens"), FrozenNumbers(run, "sft").get("tokens")) == (
        1000,
        None,
        77,
    )
    config, horizon = Config(), five.get("tokens")
    assert stage_key(replace(config, depth=horizon)) == stage_key(replace(config, depth=1000))


def test_done_record_is_readable_json(tmp_path):
    RunDirectory(tmp_path).mark_done("data", "k", {"documents": 3})
    record = json.loads((tmp_path / "data" / "done.json").read_text())
    assert record["facts"] == {"documents": 3} and record["finished_at"] > 0
