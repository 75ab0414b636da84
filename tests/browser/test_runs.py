"""The training page: of a finished run, of several, and of one that trains, is killed and goes on meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import TIMEOUT_SECONDS, Chat, Server
from tests.browser.test_access import serious_findings
from tests.browser.test_views import DESKTOP, PHONE, TABLET
from tests.conftest import TINY_RECIPE

pytestmark = pytest.mark.browser

KEY = "test-key-of-the-tests"


def opened(new_page: Callable, server: Server, path: str = "runs", **options) -> Chat:
    page = Chat(new_page(server.address, **options), server.address)
    page.page.goto(server.address + path)
    page.page.locator("h1").wait_for()
    return page


def test_a_finished_run_in_words_curves_and_scores(new_page, watch, tiny_run):
    page = opened(new_page, watch(tiny_run, "--price-per-hour", "3600"))
    page.reads(page.page.locator("h1"), "Done")
    page.until(f"document.title === 'Done · {tiny_run.name}'")
    assert page.page.locator('link[rel="icon"]').get_attribute("href").startswith("data:image/svg")
    assert "in all" in page.page.locator(".standing-outlook").inner_text()
    assert "$" in page.page.locator(".standing-outlook").inner_text()
    titles = page.page.locator(".chart h3").all_inner_texts()
    assert titles[:2] == ["Loss, nats per token", "Bits per byte, validation"]
    assert {"Reward", "Problems solved", "Reply length, tokens", "Groups without difference"} <= set(titles)
    headings = page.page.locator(".card h2").all_inner_texts()
    assert {"Curves", "The same prompts", "Talk to it", "Evaluations", "Data", "Settings"} <= set(headings)
    assert page.page.locator(".score-bar").count() > 3
    page.page.get_by_text("pretrain", exact=True).last.click()
    assert page.page.locator(".settings-of[open] dt").count() > 5


def test_values_by_pointer_and_keyboard_and_as_a_table(new_page, watched):
    page = opened(new_page, watched, "runs#/stopped")
    chart = page.page.locator(".chart").first
    frame = chart.locator(".chart-frame")
    box = frame.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.until("document.querySelector('.chart-place').textContent.includes('pretrain, step')")
    assert all(map(str.strip, page.page.locator(".chart-place").all_inner_texts())), "all charts follow"
    page.page.mouse.move(5, 5)
    frame.focus()
    page.page.keyboard.press("Home")
    page.until("document.querySelector('.chart-place').textContent.includes('step 1,')")
    page.page.keyboard.press("ArrowRight")
    page.until("document.querySelector('.chart-place').textContent.includes('step 2,')")
    assert "training" in chart.get_by_role("status").inner_text()
    page.page.get_by_text("As a table").click()
    rows = page.page.locator(".as-table tbody tr")
    rows.first.wait_for()
    assert 20 < rows.count() < 60
    assert "1.25" in page.page.locator(".as-table").inner_text(), "each evaluation stands in it"


def test_a_stopped_run_says_why_and_how_to_go_on(new_page, watched):
    page = opened(new_page, watched, "runs#/stopped")
    page.reads(page.page.locator("h1"), "Stopped at step 400 of 1,000, pretrain")
    told = page.page.locator(".runs-stopped").inner_text()
    assert "the disk is full; free space" in told and "chatsmith run" in told and "stopped" in told
    page.page.get_by_role("button", name="Copy the command").first.click()
    page.until("navigator.clipboard.readText().then((text) => text.startsWith('chatsmith run'))")
    assert "pretrain 40 %" in page.page.locator(".log").inner_text()


def test_samples_along_training_token_by_token_compared_and_talked_to(new_page, watched):
    page = opened(new_page, watched, "runs#/stopped")
    said = page.page.locator(".card", has=page.page.get_by_role("heading", name="What pretrain writes"))
    tokens = said.locator(".token")
    page.reads(tokens, " Paris", "⟨E2⟩⟨82⟩")
    assert tokens.first.get_attribute("aria-label") == "Paris, 90 %"
    tokens.first.hover()
    page.reads(said.locator(".alternative code"), "·Paris", "·<i>big")
    assert said.locator(".alternative:is(button)").count() == 0, "nobody is there to go on from it"
    page.page.mouse.move(5, 5)
    said.get_by_label("compare with").select_option(label="pretrain, step 200")
    page.reads(said.locator("h3"), "pretrain, step 300", "pretrain, step 200")
    page.reads(tokens, " Paris", "⟨E2⟩⟨82⟩", " rather", "⟨E2⟩⟨82⟩")
    said.get_by_role("button", name="Talk to this checkpoint").click()
    page.page.locator(".command code", has_text="serve …/runs/stopped/pretrain@000300").wait_for()
    said.get_by_role("slider").fill("0")  # a record of before, as text
    assert "Once <b>upon" in said.locator(".sample-reply").first.inner_text()


def test_answers_along_fine_tuning_show_what_the_calculator_put_in(new_page, watch, two_runs, tmp_path):
    runs = shutil.copytree(two_runs, tmp_path / "runs")
    records = runs / "done" / "metrics.jsonl"
    sampled = [(1, "<|python_start|>"), (2, "2+3"), (3, "<|python_end|>"), (7, " It is 5.")]
    said = [[id, text, -0.1, [[id, text, -0.1]]] for id, text in sampled]
    said[3:3] = [[4, "<|output_start|>", None, []], [5, "5", None, []], [6, "<|output_end|>", None, []]]
    row = {
        "stage": "sft",
        "step": 4,
        "time": 1e9,
        "samples": [{"prompt": "What is 2 plus 3?", "tokens": said}],
    }
    records.write_text(f"{json.dumps(row)}\n{records.read_text()}")
    page = opened(new_page, watch(runs), "runs#/done")
    card = page.page.locator(
        ".card", has=page.page.get_by_role("heading", name="What sft writes after step 4")
    )
    page.reads(card.locator(".sample-said"), "What is 2 plus 3?")
    page.reads(card.locator(".token"), "python_start", "2+3", "python_end", "5", " It is 5.")
    card.locator(".token").nth(3).hover()
    card.get_by_text("The calculator put this in").wait_for()


def test_several_runs_sorted_and_two_side_by_side(new_page, watched):
    page = opened(new_page, watched)
    names = page.page.locator(".run-table tbody a")
    assert sorted(names.all_inner_texts()) == ["done", "stopped"]
    page.page.get_by_role("button", name="Last loss").click()
    first = names.all_inner_texts()
    page.page.get_by_role("button", name="Last loss").click()
    page.reads(names, *reversed(first))
    for name in ("done", "stopped"):
        page.page.get_by_role("checkbox", name=f"Choose {name}").check()
    page.page.get_by_role("button", name="Show the two side by side").click()
    page.page.get_by_role("heading", name="Side by side").wait_for()
    beside = page.page.get_by_role("group", name="Two runs side by side").inner_text()
    assert "pretrain.seed" in beside and "pretrain: loss" in beside
    assert "stopped" in page.page.locator(".chart-values").first.inner_text(), "the other in grey"
    page.page.get_by_label("in grey").select_option("")
    page.page.get_by_role("heading", name="Side by side").wait_for(state="detached")
    page.page.go_back()
    page.page.get_by_role("heading", name="Side by side").wait_for()


def test_it_asks_for_the_key_and_survives_a_restart_of_the_server(new_page, watch, two_runs):
    server = watch(two_runs, "--api-key", KEY)
    port = server.address.rstrip("/").rsplit(":", 1)[1]
    page = Chat(new_page(server.address), server.address)
    page.page.clock.install()
    page.page.goto(server.address + "runs#/stopped")
    page.page.get_by_label("Key", exact=True).fill(KEY)
    page.page.get_by_role("button", name="Use this key").click()
    page.page.locator("h1").wait_for()
    server.kill()
    page.page.clock.fast_forward("01:00")  # it looks again by itself, though not at once
    page.page.get_by_text("cannot be reached").wait_for()
    assert page.page.locator(".chart").count() > 3, "what was read stays"
    watch(two_runs, "--api-key", KEY, "--port", port)
    page.page.clock.fast_forward("01:00")
    page.page.get_by_text("cannot be reached").wait_for(state="detached")


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_axe_finds_nothing_serious(new_page, watched, scheme):
    for path in ("runs", "runs#/done", "runs#/stopped/with/done"):
        page = opened(new_page, watched, path, color_scheme=scheme)
        assert serious_findings(page) == [], path


def test_what_it_looks_like(new_page, watched, watch, two_runs, shoot, request):
    is_looked_at = request.config.getoption("--screenshots", default=None)
    devices = {"390": PHONE, **({"768": TABLET, "1280": DESKTOP} if is_looked_at else {})}
    views = {"list": "runs", "done": "runs#/done", "both": "runs#/stopped/with/done"}
    also = []
    if demo := request.config.getoption("--demo-run", default=None):
        also, views["demo"] = ["--also", demo], f"runs#/{demo.name}"
    server = watch(two_runs, *also) if also else watched
    for name, device in devices.items():
        for view, path in views.items():
            page = opened(new_page, server, path, **device)
            width = page.page.evaluate("document.documentElement.scrollWidth")
            assert width <= device["viewport"]["width"], "nothing is wider than the screen"
            shoot(page, f"runs-{view}-{name}", full_page=True)


def test_a_served_run_stands_before_another_in_grey(new_page, start_server, two_runs):
    page = opened(new_page, start_server("--also", str(two_runs / "stopped")))
    page.reads(page.page.locator("h1"), "Done")
    page.page.get_by_label("in grey").select_option("stopped")
    page.until("document.querySelector('.chart-values').textContent.includes('training, stopped')")
    page.page.get_by_role("button", name="All runs").click()
    page.until("document.querySelectorAll('.run-table tbody tr').length === 2")


def test_a_served_run_has_it_beside_the_chat(new_page, server):
    page = opened(new_page, server)
    page.reads(page.page.locator("h1"), "Done")
    page.page.get_by_role("button", name="now, and look inside").first.click()
    page.until("document.querySelectorAll('.asked .token').length > 4")
    tokens = page.page.locator(".asked .token")
    before = tokens.all_inner_texts()[:3]
    tokens.nth(3).click()
    page.page.locator(".asked .alternative:not(.is-chosen):enabled code:not(.is-special)").first.click()
    page.page.locator(".asked .is-picked").wait_for()
    assert tokens.all_inner_texts()[:3] == before, "it goes on from the token that was chosen"
    page.page.get_by_role("button", name="rl", exact=True).click()
    page.page.get_by_role("link", name="Talk to").click()
    page.page.locator(".model-picker.is-ready").wait_for()


def seconds_of(process: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    """Processes that end with the test."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_run_that_trains_is_killed_and_goes_on(
    new_page, watch, tmp_path, subprocess_environment, processes, capsys
):
    run = tmp_path / "mine"
    settings = ("pretrain.tokens=250_000", "pretrain.evaluations=20", "pretrain.save_minutes=0.05")
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "chatsmith", "run", str(TINY_RECIPE), "--run", str(run), *sets]

    def train() -> subprocess.Popen:
        with (tmp_path / "log").open("ab") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=subprocess_environment))
        return processes[-1]

    def wait_for(pattern: str) -> None:
        until = time.monotonic() + 2 * TIMEOUT_SECONDS
        while not list(run.glob(pattern)):
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.1)

    training = train()
    wait_for("recipe.toml")
    server = watch(run)
    page = opened(new_page, server)
    page.page.get_by_text("Pretrain, step").wait_for()
    assert "ends about" in page.page.locator(".standing-outlook").inner_text()
    step = "Number(document.querySelector('h1').textContent.match(/step ([\\d,]+)/)[1].replace(',', ''))"
    before = page.page.evaluate(step)
    page.until(f"{step} > {before}")
    assert "%" in page.page.title()
    began, clock = seconds_of(server.process.pid), time.monotonic()
    page.page.wait_for_timeout(5_000)
    cost = (seconds_of(server.process.pid) - began) / (time.monotonic() - clock)
    wait_for("pretrain/state/0*")
    training.send_signal(signal.SIGKILL)
    training.wait()
    page.page.get_by_text("Stopped at step").wait_for()
    assert "It goes on after step" in page.page.locator(".runs-stopped").inner_text()
    training = train()
    page.page.get_by_role("heading", name="Pretrain, step").wait_for()
    assert training.wait() == 0, (tmp_path / "log").read_text()
    page.reads(page.page.locator("h1"), "Done")
    steps = [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]
    page.page.get_by_text("As a table").click()
    assert f"{max(steps):,}" in page.page.locator(".as-table").inner_text()
    with capsys.disabled():
        print(f"\nwith a page open the server took {cost:.2%} of a core")
