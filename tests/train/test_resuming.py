"""What is reported, recorded and kept when a run resumes, or starts over while the state of another run is there."""

import io
import json
import os
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import pytest

from chatsmith.cli.training import facts_of, finish
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.runtime.states import saved_states
from chatsmith.train.step import prepare
from chatsmith.train.trainer import Job, Trainer, TrainingStoppedError, fit


@pytest.fixture
def go_on(new_model, new_plan, batches_from, runtime):
    """Trains up to the end or a Ctrl-C in step `stop`; returns the result and what was said. With `before`, as
    reinforcement learning does, which has scores before the first step."""

    def start(run, plan=None, stop=0, before=None, **options):
        plan = plan or new_plan(8)

        def batches(row: int):
            number = row // plan.rows_per_microbatch
            for batch in batches_from(plan.rows_per_microbatch, row):
                if stop and number == (stop - 1) * plan.accumulation:
                    os.kill(os.getpid(), signal.SIGINT)
                number += 1
                yield batch

        told = io.StringIO()
        run = replace(run, reporter=Reporter(stream=told), started=time.monotonic())
        model, result = new_model(), None
        job = Job(batches, prepare(model, runtime, False, print), **options)
        try:
            if before is None:
                result = fit(run, model, plan, job)
            else:
                with Trainer(run, model, plan) as trainer:
                    if trainer.step == 0:
                        trainer.record(before)
                    rows = job.batches_from(trainer.step * plan.rows_per_step)
                    while not trainer.is_done:
                        trainer.update(islice(rows, plan.accumulation), job.compute_loss, time.perf_counter())
                        trainer.log({}, {})
                        trainer.save_or_stop()
        except TrainingStoppedError:
            assert stop
        return result, told.getvalue()

    return start


def records(run) -> list[dict]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def states(run) -> list[tuple[str, int]]:
    return [(facts["key"].split()[0], facts["step"]) for _, facts in saved_states(run.state_folder)]


def test_a_state_of_different_settings_is_reported_and_kept_and_resumed(training_run, go_on):
    go_on(training_run("a"), stop=3)
    result, told = go_on(training_run("b", save_seconds=0.0))
    assert result.steps == 8
    assert told.count("found a checkpoint of a run with different settings (step 3 of 8)") == 1
    assert "is kept until this run finishes" in told and "resuming" not in told
    assert states(training_run()) == [("a", 3), ("b", 6), ("b", 7)]
    _, told = go_on(training_run("a"))
    assert "resuming after step 3 of 8" in told


def test_row_17_the_first_of_three_settings_is_resumed_and_notices_name_what_differs(training_run, go_on):
    runs = [
        replace(training_run(key), settings={"tokens": size, "compile": False, "prompt": ""})
        for key, size in zip("abc", (8, 16, 32), strict=True)
    ]
    for run in runs:
        _, told = go_on(run, stop=3)
    assert "different settings (step 3 of 8): tokens 16, not 32" in told
    assert states(runs[0]) == [("a", 3), ("b", 3), ("c", 3)]
    _, told = go_on(replace(runs[0], settings={"tokens": 8, "compile": True, "fp8": False}))
    # What only one of two versions knows is no difference.
    assert "resuming after step 3 of 8" in told and "it was begun with compile False, not True" in told
    assert "prompt" not in told and "fp8" not in told


def test_nothing_is_said_of_other_settings_where_there_are_none(training_run, go_on):
    assert "different settings" not in go_on(training_run(), stop=3)[1] + go_on(training_run())[1]


def test_a_finished_stage_keeps_no_states(training_run, go_on, tmp_path):
    run = RunDirectory(tmp_path / "run")
    one = replace(training_run(), state_folder=run.state("pretrain"))
    go_on(replace(one, key="other"), stop=2)
    go_on(one, stop=3)
    run.bundle("pretrain").mkdir(parents=True)
    finish(run, "pretrain", "key", None, {"loss": 1.0})
    assert run.is_done("pretrain", "key") and not run.state("pretrain").exists()


def test_another_number_of_processes_is_refused_where_it_changes_the_rows_of_a_step(
    training_run, go_on, new_plan
):
    go_on(training_run(), new_plan(8, rows=8), stop=2)
    before = states(training_run())
    # 8 rows are 9 for three processes, and the steps fewer.
    three = replace(new_plan(8, rows=8, world_size=3), world_size=1, rows_per_microbatch=9, accumulation=1)
    assert three.rows_per_step == 9 and three.steps == 7
    with pytest.raises(
        UserError, match=r"in steps of 8 rows.*makes them 9: .*\(1, 2, 4, 8\).*delete that folder"
    ):
        go_on(training_run(), three)
    assert states(training_run()) == before
    shutil.rmtree(training_run().state_folder)
    assert go_on(training_run(), three)[0].steps == 7


def test_a_token_budget_that_was_measured_again_is_another_run_and_no_error(training_run, go_on, new_plan):
    go_on(training_run(), new_plan(8, rows=4), stop=2)
    for plan in (new_plan(30, rows=8), new_plan(12, rows=4)):
        _, told = go_on(training_run(), plan)
        assert "different settings (step 2 of 8)" in told


def test_a_batch_that_was_rounded_is_told_of(training_run, go_on, new_plan):
    assert "a step takes" not in go_on(training_run("a"), new_plan(2))[1]
    plan = replace(new_plan(2), batch_tokens_asked=60)
    assert "a step takes 64 tokens, not 60: 4 whole rows of 16" in go_on(training_run("b"), plan)[1]


def test_steps_done_earlier_make_no_speed(training_run, go_on, new_plan, monkeypatch):
    """Ninety of a hundred steps are restored at once; ten a second would be told as hundreds."""
    plan = new_plan(100)
    go_on(training_run(), plan, stop=90)
    begun, done = [], []

    class Bar:
        def begin_at(self, amount):
            begun.append(amount)

        def advance(self, amount, **_):
            done.append(amount)

    monkeypatch.setattr(Reporter, "progress", contextmanager(lambda *_: iter([Bar()])))
    go_on(training_run(), plan)
    assert begun == [90 * plan.tokens_per_step] and done == 10 * [plan.tokens_per_step]


def test_seconds_are_those_of_all_sessions(training_run, go_on, new_plan, new_model):
    def slow() -> dict[str, float]:
        time.sleep(0.05)
        return {"bpb": 1.0}

    one, scored = training_run(), {"evaluate": slow, "evaluate_every": 1}
    go_on(one, stop=5, **scored)
    first = saved_states(one.state_folder)[-1].facts
    go_on(one, stop=6, **scored)
    saved = saved_states(one.state_folder)[-1].facts
    assert saved["seconds"] > first["seconds"] + 0.05
    assert first["seconds"] > 4 * 0.05 and first["seconds"] > first["step_seconds"] > 0
    assert saved["step_seconds"] == [line for line in records(one) if "loss" in line][-1]["seconds"]
    result, _ = go_on(one, **scored)
    seconds = [line["seconds"] for line in records(one) if "loss" in line]
    assert len(seconds) == 8 and seconds == sorted(seconds)
    facts = facts_of(replace(one, started=time.monotonic() - 2.0), new_plan(8), result, new_model())
    assert facts["seconds"] == round(saved["seconds"] + 2.0, 1)
    assert result.seconds == seconds[-1] and result.earlier_seconds == saved["seconds"]


def test_a_state_of_format_1_that_knows_no_seconds_is_gone_on_from(training_run, go_on):
    go_on(training_run(), stop=3)
    for path in training_run().state_folder.glob("*/state.json"):
        now = json.loads(path.read_text())
        tensors = now["files"]["tensors.safetensors"]
        stored = {"format_version": 1, "tensors": tensors, "facts": now["facts"]}
        for name in ("seconds", "step_seconds"):
            del stored["facts"][name]
        path.write_text(json.dumps(stored))
    result, told = go_on(training_run())
    assert "resuming after step 3" in told and result.earlier_seconds == 0


def test_steps_done_since_the_last_save_are_recorded_once(training_run, go_on):
    """As after SIGKILL: the state is older than the records."""
    one, other = training_run(), {"stage": "sft", "step": 7, "time": 0.0}
    go_on(one, stop=3)
    kept = shutil.copytree(one.state_folder, one.state_folder.parent / "kept")
    go_on(one, stop=6)
    shutil.rmtree(one.state_folder)
    kept.rename(one.state_folder)
    with one.metrics_path.open("a") as file:
        file.write(json.dumps(other) + '\n{"stage": "pretrain", "ste')
    go_on(one)
    lines = records(one)
    assert [line["step"] for line in lines if line["stage"] == "pretrain"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert other in lines


def test_a_run_that_starts_over_takes_the_records_of_the_former_out(training_run, go_on):
    before = {"dev": 0.5}
    go_on(training_run("a"), stop=5, before=before)
    go_on(training_run("b"), stop=3, before=before)
    go_on(training_run("b"), before=before)
    assert [line["step"] for line in records(training_run())] == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_two_runs_by_turns_keep_their_records_apart(training_run, go_on, new_plan):
    """Each is recorded as if the other had never been; the rates tell them apart."""

    def rates(plan) -> dict[int, float]:
        return {step: plan.schedule.rate(step / plan.steps) for step in range(1, plan.steps + 1)}

    def recorded() -> dict[int, float]:
        lines = records(training_run())
        assert len({line["step"] for line in lines}) == len(lines)
        return {line["step"]: line["rate"] for line in lines}

    a, b = (training_run("a"), new_plan(8)), (training_run("b"), new_plan(20))
    go_on(*a, stop=5)
    go_on(*b, stop=2)
    go_on(*a, stop=6)
    assert recorded() == {step: rates(a[1])[step] for step in range(1, 7)}
    go_on(*b, stop=9)
    go_on(training_run("c", save_seconds=1e9), new_plan(6))
    go_on(*b, stop=11)
    go_on(*b, stop=12)
    assert recorded() == {step: rates(b[1])[step] for step in range(1, 13)}
    go_on(*a)
    assert [line["step"] for line in records(training_run())] == list(range(1, 9))
