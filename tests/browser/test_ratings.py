"""Replies that were rated, as files that training takes."""

import json
from pathlib import Path

import pytest

from chatsmith.bundle import bundle_fingerprint
from chatsmith.cli import main as cli
from chatsmith.data.conversations import read_conversations
from chatsmith.ingest.forms import find_form
from chatsmith.tasks.problem_set import read_problems

pytestmark = pytest.mark.browser


def rate(chat, name: str) -> None:
    """Press a thumb under the last reply, with the keyboard."""
    chat.button(name).focus()
    chat.page.keyboard.press("Enter")
    chat.button(name).and_(chat.page.locator("[aria-pressed=true]")).wait_for()


def talk(chat) -> None:
    """Two good replies, and a bad one to a message that got a good one, too."""
    for text, reply in (("What is 37 plus 58?", "It is 85."), ("And now?", "So be it.")):
        chat.page.unroute_all()
        chat.answer_with({"content": reply})
        if text == "And now?":
            chat.say(text)
            rate(chat, "Good reply")
            continue
        chat.say(text)
        rate(chat, "Bad reply")
        chat.page.unroute_all()
        chat.answer_with({"content": "It is 95."})
        chat.button("Regenerate").click()
        chat.page.get_by_label("Version 2 of 2").wait_for()
        chat.wait()
        rate(chat, "Good reply")


def save(chat, name: str, folder: Path) -> Path:
    with chat.page.expect_download() as download:
        chat.page.get_by_role("button", name=name).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_rated_replies_are_saved_as_what_training_reads_and_learns(chat, tmp_path, tiny_run):
    talk(chat)
    chat.page.reload()  # ratings are kept
    assert chat.last.get_by_role("button", name="Good reply").get_attribute("aria-pressed") == "true"
    chat.page.get_by_role("button", name="All conversations").click()
    chat.page.get_by_role("menuitem", name="Rated replies to train on").click()
    conversations = save(chat, "Save 1: conversations", tmp_path)
    assert find_form(conversations).name == "messages"
    [conversation] = read_conversations([conversations])
    assert [(message.role, message.text, message.weight) for message in conversation] == [
        ("user", "What is 37 plus 58?", 1),
        ("assistant", "It is 95.", 1),
        ("user", "And now?", 1),
        ("assistant", "So be it.", 1),
    ]
    problems = read_problems(save(chat, "Save 2: problems", tmp_path), needs_answers=True)
    assert [(problem.messages[-1].text, problem.answer) for problem in problems] == [
        ("What is 37 plus 58?", "95"),
        ("And now?", "So be it."),
    ]
    [pair] = map(json.loads, save(chat, "Save 1: pairs", tmp_path).read_text().splitlines())
    assert [pair[name][0]["content"] for name in ("chosen", "rejected")] == ["It is 95.", "It is 85."]
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("dialog").wait_for(state="detached")
    # And they are learned from.
    new = tmp_path / "new"
    settings = ("--no-compile", "--batch-tokens", "256", "--epochs", "4")
    argv = [
        "sft",
        str(new),
        "--from",
        str(tiny_run),
        "--conversations",
        str(conversations),
        *settings,
    ]
    assert cli.main(argv, {}) == 0
    learned, before = new / "sft" / "bundle", tiny_run / "rl" / "bundle"
    assert bundle_fingerprint(learned) != bundle_fingerprint(before)
