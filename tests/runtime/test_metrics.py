import json
import resource
import sys
from types import SimpleNamespace

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import MetricsLog, drop_records


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_write_is_on_disk_at_once_as_one_json_line(tmp_path):
    log = MetricsLog(tmp_path / "new" / "metrics.jsonl")
    log.write(stage="pretrain", step=1, loss=2.5, note="ä")
    assert lines(tmp_path / "new" / "metrics.jsonl")[0] | {"time": 0} == {
        "stage": "pretrain",
        "step": 1,
        "time": 0,
        "loss": 2.5,
        "note": "ä",
    }
    log.close()
    log.close()


def test_later_stages_append(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for stage in ("pretrain", "sft"):
        with MetricsLog(path) as log:
            log.write(stage=stage, step=1)
    assert [line["stage"] for line in lines(path)] == ["pretrain", "sft"]


def test_a_line_cut_by_a_kill_does_not_swallow_the_next_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "pretrain", "st')
    with MetricsLog(path) as log:
        log.write(stage="pretrain", step=2)
    assert json.loads(path.read_text().splitlines()[1])["step"] == 2


def test_values_that_json_lacks_become_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(stage="sft", step=1, loss=float("nan"), rate=float("inf"))
    assert "NaN" not in path.read_text()
    assert lines(path)[0]["loss"] is None and lines(path)[0]["rate"] is None


def test_unknown_tracker_and_missing_package_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="choose one of wandb"):
        MetricsLog(tmp_path / "metrics.jsonl", track="wandbb")
    monkeypatch.setitem(sys.modules, "wandb", None)  # what an absent package looks like to import
    with pytest.raises(UserError, match=r"pip install 'chatsmith\[wandb\]'"):
        MetricsLog(tmp_path / "metrics.jsonl", track="wandb")


def test_trackers_receive_numbers_under_the_stage(tmp_path, monkeypatch):
    seen = []
    run = SimpleNamespace(log=seen.append, finish=lambda: seen.append("finished"))
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=lambda **options: run))
    with MetricsLog(tmp_path / "metrics.jsonl", track="trackio") as log:
        log.write(stage="pretrain", step=3, loss=1.5, note="text", flag=True)
    memory = seen[0].pop("pretrain/memory_gb")  # of the system; the file has none of it
    assert seen == [{"pretrain/step": 3, "pretrain/loss": 1.5}, "finished"] and 0.01 < memory < 1000
    assert "memory_gb" not in (tmp_path / "metrics.jsonl").read_text()


def test_tensorboard_receives_scalars_with_their_step(tmp_path, monkeypatch):
    seen = []
    writer = SimpleNamespace(add_scalar=lambda *scalar: seen.append(scalar), close=lambda: None)
    module = SimpleNamespace(SummaryWriter=lambda log_dir: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with MetricsLog(tmp_path / "metrics.jsonl", track="tensorboard") as log:
        log.write(stage="pretrain", step=3, loss=1.5)
    assert seen[0] == ("pretrain/loss", 1.5, 3) and {name for name, *_ in seen[1:]} == {"pretrain/memory_gb"}


def test_steps_that_come_once_more_are_taken_out_and_broken_lines_with_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for stage in ("pretrain", "sft"):
            for step in (1, 2, 3):
                log.write(stage=stage, step=step)
            log.write(stage=stage, step=3, bpb=1.0)
    whole = path.read_text().splitlines()
    path.write_text("\n".join([whole[0], '{"stage": "sft", "st', *whole[1:], "[1]", "\x00\x00", '{"sta']))
    drop_records(path, "sft", after_step=2)
    assert path.read_text().splitlines() == whole[:6]
    drop_records(path, "pretrain", after_step=-1)
    assert path.read_text().splitlines() == whole[4:6]


def test_a_file_with_nothing_to_take_out_is_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    drop_records(path, "sft", after_step=0)
    assert not path.exists()
    with MetricsLog(path) as log:
        log.write(stage="pretrain", step=1)
    before = path.stat()
    drop_records(path, "pretrain", after_step=1)
    assert path.stat().st_ino == before.st_ino


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    with MetricsLog(path) as log, pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        log.write(stage="pretrain", step=1)


def test_a_line_that_did_not_fit_leaves_no_half_of_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLog(path) as log:
        log.write(stage="pretrain", step=1)
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        try:
            with pytest.raises(OSError, match=r"metrics\.jsonl"):
                log.write(stage="pretrain", step=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == whole
        log.write(stage="pretrain", step=2)
    assert [line["step"] for line in lines(path)] == [1, 2]
