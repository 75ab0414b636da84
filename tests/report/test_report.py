"""`chatsmith report`: of a whole run, an interrupted one, one with only data, a damaged one; and of two."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chatsmith.bundle import bundle_fingerprint
from chatsmith.cli import main as cli
from chatsmith.evals.results import LENGTHS, SuiteResult, TaskResult, summary, write_result
from chatsmith.report import gather, render
from chatsmith.report.plots import curve

SECTIONS = (
    "Summary",
    "Scores by stage",
    "What it was trained on",
    "Models",
    "Curves",
    "Samples",
    "Every setting",
)


def report(*argv) -> int:
    return cli.main(["report", *map(str, argv)], {})


def figures(capsys, *argv) -> dict:
    capsys.readouterr()
    assert report(*argv, "--json") == 0
    return json.loads(capsys.readouterr().out)


def interrupt(run: Path) -> None:
    """Leave of a finished run what there is when pretraining stops after step 5."""
    for name in ("sft", "rl", "evals", "pretrain/bundle"):
        shutil.rmtree(run / name)
    (run / "pretrain" / "done.json").unlink()
    state = run / "pretrain" / "state" / "000001" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"format_version": 1, "facts": {"step": 5, "steps": 16, "seconds": 7200.0}}))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [
        line for line in lines if json.loads(line)["stage"] == "pretrain" and json.loads(line)["step"] <= 5
    ]
    (run / "metrics.jsonl").write_text("\n".join(kept) + '\n{"stage": "pretr')


class Outline(HTMLParser):
    """Every address and id on a page, and whether its tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[key] for key in ("href", "src", "xlink:href") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_whole_run_has_every_section(tiny_copy, capsys):
    found = figures(capsys, tiny_copy, "--price-per-hour", "3.6")
    markdown, page = (tiny_copy / "report.md").read_text(), (tiny_copy / "report.html").read_text()
    for section in SECTIONS:
        assert f"## {section}" in markdown and section in page
    assert found["missing"] == []
    assert set(found["stages"].values()) == {"done"}
    stages = found["time"]["stages"]
    assert found["time"]["seconds"] == pytest.approx(sum(row["seconds"] for row in stages.values()), abs=0.1)
    assert found["time"]["dollars"] == pytest.approx(found["time"]["seconds"] / 1000, abs=1e-3)
    assert 0 < found["scores"]["rl"]["bits per byte"]["value"] < 8
    assert {"value", "low", "high", "n"} <= found["scores"]["rl"]["exam"].keys()
    assert found["data"]["documents"]["shares"] == {"train.parquet": 1.0}
    assert found["settings"]["pretrain"]["depth"] == 2
    assert len(found["curves"]["pretrain"]["loss (nats per token)"]["points"]) == 16
    assert found["samples"][0]["replies"].keys() == {"rl"}
    assert found["tokenizer"]["vocabularies"]["this tokenizer"]["held-out text"] > 1
    assert "| score | RL |" in markdown


def test_the_page_needs_nothing_from_elsewhere(tiny_copy):
    assert report(tiny_copy) == 0
    page = (tiny_copy / "report.html").read_text()
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert all(address.startswith("#") and address[1:] in outline.ids for address in outline.addresses)
    assert "<script" not in page and "@import" not in page and "url(" not in page.replace("url(#", "")
    assert page.count("<svg") == sum(len(curves) for curves in gather.gather(tiny_copy)["curves"].values())


def test_what_run_wrote_is_what_report_writes_and_an_equal_one_is_not_written_again(tiny_run, tiny_copy):
    written = (tiny_copy / "report.html").stat().st_mtime_ns
    assert (tiny_run / "report.md").exists()
    before = {path for path in tiny_copy.rglob("*") if path.is_file()}
    name = str(tiny_run)
    assert (
        name in (tiny_copy / "report.md").read_text()
        or "Not evaluated" not in (tiny_copy / "report.md").read_text()
    )
    assert report(tiny_copy) == 0
    assert {path for path in tiny_copy.rglob("*") if path.is_file()} == before
    assert (tiny_copy / "report.html").stat().st_mtime_ns == written


def test_an_interrupted_run_says_how_far_it_came(tiny_copy, capsys):
    interrupt(tiny_copy)
    found = figures(capsys, tiny_copy, "--price-per-hour", "2")
    assert found["stages"]["pretrain"] == "interrupted after step 5 of 16"
    assert found["stages"]["sft"] == "not finished"
    spent = found["time"]["stages"]["pretrain"]
    assert (spent["seconds"], spent["dollars"], spent["tokens"]) == (7200.0, 4.0, 5 * 1024)
    assert found["missing"] == ["metrics.jsonl: 1 damaged lines are left out"]
    assert "Not evaluated yet" in (tiny_copy / "report.html").read_text()


def test_a_run_with_only_data(tmp_path, capsys):
    arguments = [
        "--data",
        "kindergarten",
        "--kindergarten-documents",
        "30",
        "--kindergarten-conversations",
        "20",
    ]
    assert cli.main(["data", "prepare", str(tmp_path / "run"), *arguments], {}) == 0
    found = figures(capsys, tmp_path / "run")
    assert found["missing"] == [] and found["stages"] == {"data": "done"}
    assert found["data"]["conversations"]["train"] == 20
    assert found["curves"] == {} and found["scores"] == {}


def test_no_run_is_one_line(tmp_path, capsys):
    assert report(tmp_path / "none") == 2
    assert report(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.splitlines() == [
        f"chatsmith: there is no run at {path}; `chatsmith run` makes one"
        for path in (tmp_path / "none", tmp_path)
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("recipe.toml", b"name = ", "recipe.toml: "),
        ("data/manifest.json", b"[1]", "data/manifest.json: "),
        ("pretrain/done.json", b"{", "pretrain/done.json: "),
        ("pretrain/done.json", b'{"facts": {"seconds": "x"}}', "time: "),
        ("sft/bundle/config.json", b"\xff", "sft/bundle: "),
        ("tokenizer/tokenizer.json", b"{}", "tokenizer: "),
        ("metrics.jsonl", b'{"stage": "sft"}\nnull\n', "metrics.jsonl: 2 damaged"),
        ("evals/rl.json", b'{"n": NaN}', "evals/rl.json: "),
        ("evals/rl-exam-8.json", b'{"result": {}}', "evals/rl-exam-8.json: "),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_told(tiny_copy, capsys, monkeypatch, name, content, named):
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    (tiny_copy / name).write_bytes(content)
    found = figures(capsys, tiny_copy)
    assert any(line.startswith(named) for line in found["missing"]), found["missing"]
    assert found["machine"]["chatsmith"] and "Missing or damaged" in (tiny_copy / "report.md").read_text()


def test_a_damaged_bundle_hides_no_other_models_scores(tiny_copy, capsys, monkeypatch):
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    exam = json.loads((tiny_copy / "evals" / "rl-exam-8.json").read_text())
    (tiny_copy / "evals" / "pretrain-exam-8.json").write_text(json.dumps(exam))
    (tiny_copy / "pretrain" / "bundle" / "config.json").write_bytes(b"{")
    found = figures(capsys, tiny_copy)
    assert "rl" in found["scores"] and any("pretrain" in line for line in found["missing"])


def test_an_evaluation_of_a_replaced_model_is_left_out(tiny_copy, capsys, monkeypatch):
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    shutil.copytree(tiny_copy / "sft" / "bundle", tiny_copy / "rl" / "bundle", dirs_exist_ok=True)
    found = figures(capsys, tiny_copy)
    assert found["scores"] == {} and "has been replaced since" in " ".join(found["missing"])


def test_stages_stand_side_by_side_with_the_same_prompts(tiny_copy, capsys, monkeypatch):
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    exam = json.loads((tiny_copy / "evals" / "rl-exam-8.json").read_text())
    for stage in ("sft", "pretrain"):
        (tiny_copy / "evals" / f"{stage}-exam-8.json").write_text(json.dumps({**exam, "model": ""}))
    task = {
        "accuracy": 0.25,
        "n": 40,
        "low": 0.125,
        "high": 0.4,
        "chance": 0.2,
        "centered": 0.0625,
        "seconds": 1,
    }
    core = {"centered": 0.0625, "low": 0.01, "high": 0.12, "n": 40, "seconds": 1.0, "tasks": {"piqa": task}}
    content = {"suite": "core", "result": core, "transcript": [], "model": ""}
    (tiny_copy / "evals" / "pretrain-core.json").write_text(json.dumps(content))
    found = figures(capsys, tiny_copy)
    assert list(found["scores"]) == ["pretrain", "sft", "rl"]
    asked = [sample for sample in found["samples"] if sample["section"] not in LENGTHS]
    assert all(list(sample["replies"]) == ["pretrain", "sft", "rl"] for sample in asked[:8])
    markdown = (tiny_copy / "report.md").read_text()
    assert "| score | BASE | SFT | RL | chance | items |" in markdown
    assert "| CORE: piqa | 25.0 % (12.5 to 40.0) | – | – | 20.0 % | 40 |" in markdown


def test_tasks_that_were_measured_alone_have_a_score(tiny_copy, capsys, monkeypatch):
    """Without a mean over them; beside a suite that was measured as a whole; and not those of a replaced model."""
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    evals, model = tiny_copy / "evals", bundle_fingerprint(tiny_copy / "rl" / "bundle")
    gsm8k = TaskResult("gsm8k", ("a", "b"), (1.0, 0.0), 0.0, 2.0, model=model)
    write_result(evals / "rl-chat" / "gsm8k.json", gsm8k)
    write_result(evals / "rl-chat" / "mmlu.json", replace(gsm8k, task="mmlu", model="another"))
    scores = figures(capsys, tiny_copy)["scores"]["rl"]
    assert scores["ChatCORE: gsm8k"]["value"] == 0.5 and not {"ChatCORE", "ChatCORE: mmlu"} & scores.keys()
    write_result(
        evals / "rl-chat-1.json", SuiteResult("chat", summary([replace(gsm8k, points=(0.0, 0.0))]), 1.0)
    )
    scores = figures(capsys, tiny_copy)["scores"]["rl"]
    assert (scores["ChatCORE"]["value"], scores["ChatCORE: gsm8k"]["value"]) == (0.0, 0.5)
    (evals / "rl-chat-1.json").unlink()
    old = SuiteResult("chat", summary([gsm8k]), 1.0, model="another")
    write_result(evals / "rl-chat.json", old)
    found = figures(capsys, tiny_copy)
    assert (
        found["scores"]["rl"]["ChatCORE: gsm8k"]["value"] == 0.5 and "ChatCORE" not in found["scores"]["rl"]
    )


def test_what_a_model_says_is_escaped(tiny_copy, monkeypatch):
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    path = tiny_copy / "evals" / "rl-exam-8.json"
    exam = json.loads(path.read_text())
    exam["transcript"][0]["reply"] = [{"type": "text", "text": "<script>x</script> | [a](b) \ud800\x00 `"}]
    path.write_text(json.dumps(exam))
    assert report(tiny_copy) == 0
    page, markdown = (tiny_copy / "report.html").read_text(), (tiny_copy / "report.md").read_text()
    assert (
        "<script" not in page and "&lt;script&gt;x&lt;/script&gt; | [a](b) ?\N{REPLACEMENT CHARACTER}" in page
    )
    assert r"\<script\>x\</script\> \| \[a\](b) ?" in markdown


def test_two_runs_side_by_side(tiny_run, tiny_copy, capsys):
    recipe = tiny_copy / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("depth = 2", "depth = 3"))
    settings = tiny_copy / "pretrain" / "settings.toml"
    if settings.exists():
        settings.write_text(settings.read_text().replace("depth = 2", "depth = 3"))
    found = figures(capsys, tiny_copy, tiny_run)
    assert (
        found["a"]["settings"]["pretrain"]["depth"] == 3 and found["b"]["settings"]["pretrain"]["depth"] == 2
    )
    markdown = (tiny_copy / "comparison.md").read_text()
    assert "| pretrain, depth | 3 | 2 |" in markdown and "rate\\_scale" not in markdown
    assert re.search(r"\| RL, bits per byte \| (\S+) \| \1 \|", markdown)
    assert "loss (nats per token) B" in markdown
    assert not (tiny_run / "comparison.md").exists()


def test_the_settings_are_a_recipe_that_runs_again(tiny_copy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(render, "curve", lambda *arguments: "<svg></svg>")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(figures(capsys, tiny_copy)["reproduce"]["recipe.toml"])
    assert cli.main(["run", str(recipe), "--run", str(tiny_copy)], {}) == 0
    assert capsys.readouterr().out.count("(earlier)") == 5


def test_curves_are_drawn_where_the_home_folder_cannot_be_written(tmp_path):
    program = (
        "from chatsmith.report.plots import curve; print(curve('loss', 'step', {'': [[1, 2], [3, 4]]}, 1))"
    )
    environment = {"HOME": str(tmp_path / "none"), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("<svg") and done.stderr == ""


def test_a_curve_takes_its_colors_from_the_page():
    drawn = curve("a & b", "step", {"A": [[1, 2000], [2, 3000]], "B": [[1, 1000]]}, 7)
    assert "var(--first)" in drawn and "var(--second)" in drawn and "currentColor" in drawn
    assert "#0000f" not in drawn and "<style" not in drawn and 'aria-label="a &amp; b"' in drawn
    Outline(drawn)


def test_a_report_that_cannot_be_written_does_not_end_a_run(tiny_copy, run_tiny, capsys, monkeypatch):
    monkeypatch.setattr(render.Page, "html", lambda page: {}["nothing"])
    run_tiny(tiny_copy)
    assert "there is no report: KeyError" in capsys.readouterr().out
