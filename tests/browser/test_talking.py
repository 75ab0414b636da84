"""Talking: what is sent arrives, streams, stops, goes on, branches, and is still there after a reload."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser


def test_a_first_message_is_answered_with_figures(chat):
    chat.say("Hello! Who are you?")
    chat.has_said("Hello! Who are you?")
    assert chat.text() != ""
    figures = chat.last.locator(".figures").inner_text()
    assert re.search(r"\d+ tokens", figures)
    assert "tokens/s" in figures
    assert "first in" in figures
    assert re.search(r"context \d+ of 128", figures)


def test_a_suggestion_is_a_message(chat):
    suggestion = chat.page.get_by_role("list", name="Suggestions").get_by_role("button").first
    suggestion.click()
    chat.wait()
    chat.has_said("Hello! Who are you?")


def test_a_reply_is_seen_while_it_is_written(chat):
    chat.page.evaluate("Object.assign(network, { endless: true, holds: (_, event) => event > 6 })")
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    text, figures = (
        f"document.querySelector('.reply {part}')?.textContent" for part in (".markdown", ".figures")
    )
    chat.until(f"{text}?.length > 3 && Boolean({figures})")
    for event in (12, 18):
        before = chat.page.evaluate(f"[{text}, {figures}]")
        chat.page.evaluate(f"network.holds = (_, event) => event > {event}")
        chat.until(f"{text}.length > {len(before[0])} && {figures} !== {json.dumps(before[1])}")
    chat.page.evaluate("network.holds = () => false")
    chat.wait()


def test_a_stopped_reply_is_kept_and_goes_on_where_it_was(chat):
    chat.page.evaluate("Object.assign(network, { endless: true, holds: (_, event) => event > 9 })")
    chat.message.fill("Tell me a story.")
    chat.message.press("Enter")
    chat.until("document.querySelector('.reply .markdown')?.textContent.length > 3")
    chat.page.keyboard.press("Escape")
    chat.wait()
    assert "Stopped." in chat.last.inner_text()
    stopped = chat.last.locator(".markdown").first.inner_text()
    chat.page.evaluate("network.holds = () => false")
    chat.last.locator(".remedies").get_by_role("button", name="Continue").click()
    chat.wait()
    continued = chat.last.locator(".markdown").first.inner_text()
    assert continued.startswith(stopped.rstrip("�"))
    assert len(continued) > len(stopped)
    assert chat.replies.count() == 1


def test_a_reply_cut_off_at_the_limit_can_be_continued(chat):
    chat.set_up({"Longest reply": 5})
    chat.say("Hello!")
    assert "Cut off at the limit on tokens" in chat.last.inner_text()
    assert "5 tokens" in chat.last.locator(".figures").inner_text()
    chat.last.locator(".remedies").get_by_role("button", name="Continue").click()
    chat.page.get_by_text("10 tokens").wait_for()


def test_regenerating_makes_a_branch_to_step_through(chat):
    chat.say("Hello!")
    first = chat.text()
    chat.button("Regenerate").click()
    chat.last.get_by_text("2/2").wait_for()
    chat.wait()
    second = chat.text()
    chat.button("Earlier version").click()
    chat.last.get_by_text("1/2").wait_for()
    assert chat.text() == first
    chat.button("Later version").click()
    chat.last.get_by_text("2/2").wait_for()
    assert chat.text() == second


def test_editing_a_message_branches_the_conversation_there(chat):
    chat.set_up({"Longest reply": 4})
    chat.say("One")
    chat.say("Two")
    first = chat.page.locator(".said").first
    first.hover()
    first.get_by_role("button", name="Edit message").click()
    field = chat.page.get_by_role("textbox", name="Edit message")
    assert field.input_value() == "One"
    chat.until("document.activeElement.ariaLabel === 'Edit message'")  # before that, it moves the cursor
    field.fill("Another one")
    field.press("Enter")
    chat.page.get_by_text("Another one").wait_for()
    chat.wait()
    chat.has_said("Another one")
    first.get_by_role("button", name="Earlier version").click()
    chat.has_said("One", "Two")


def test_deleting_a_message_takes_what_follows_and_can_be_undone(chat):
    chat.set_up({"Longest reply": 4})
    chat.say("One")
    chat.say("Two")
    second = chat.page.locator(".said").nth(1)
    second.hover()
    second.get_by_role("button", name="Delete message").click()
    chat.has_said("One")
    chat.page.get_by_role("button", name="Undo").click()
    chat.has_said("One", "Two")


def test_a_reload_keeps_conversation_and_branches(chat):
    chat.set_up({"Longest reply": 6})
    chat.say("Hello!")
    chat.button("Regenerate").click()
    chat.last.get_by_text("2/2").wait_for()
    chat.wait()
    chat.button("Earlier version").click()
    chat.last.get_by_text("1/2").wait_for()
    before = chat.text()
    chat.page.reload()
    chat.last.get_by_text("1/2").wait_for()
    assert chat.text() == before
    chat.open()  # without the conversation's address
    chat.page.get_by_role("button", name="Hello!", exact=True).click()
    chat.last.get_by_text("1/2").wait_for()


def test_a_reply_under_way_when_the_page_closes_is_not_lost(chat):
    # An event now and then: what comes is kept as more comes.
    chat.page.evaluate("""
        network.endless = true;
        network.last = 0;
        network.holds = () => performance.now() < network.last + 250 || ((network.last = performance.now()), false);
    """)
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    chat.until("document.querySelector('.reply .markdown')?.textContent.length > 20")
    chat.page.reload()
    chat.page.get_by_text("The page was closed in the middle of this reply.").wait_for()
    chat.last.locator(".remedies").get_by_role("button", name="Continue").click()
    chat.wait()
    assert "closed in the middle" not in chat.last.inner_text()


def test_conversations_are_found_renamed_and_deleted(chat):
    chat.set_up({"Longest reply": 3})
    chat.say("About apples")
    chat.begin()
    chat.say("About pears")
    entries = chat.page.locator(".entry-title")
    chat.reads(entries, "About pears", "About apples")
    search = chat.page.get_by_label("Search conversations")
    search.fill("APPLES")
    chat.until("document.querySelectorAll('.entry').length === 1")
    chat.reads(entries, "About apples")
    search.fill("")
    chat.page.get_by_role("button", name="Actions for About apples").click(force=True)
    chat.page.get_by_role("menuitem", name="Rename").click()
    chat.page.get_by_label("New title").fill("Fruit")
    chat.page.keyboard.press("Enter")
    chat.page.get_by_role("button", name="Fruit", exact=True).click()
    chat.has_said("About apples")
    chat.page.get_by_role("button", name="Actions for Fruit").click()
    chat.page.get_by_role("menuitem", name="Delete").click()
    chat.reads(entries, "About pears")
    chat.page.get_by_role("button", name="Undo").click()
    chat.page.get_by_role("button", name="Fruit", exact=True).wait_for()


def test_what_was_exported_can_be_imported(chat, tmp_path):
    chat.set_up({"Longest reply": 5})
    chat.say("Keep this")
    chat.button("Regenerate").click()
    chat.last.get_by_text("2/2").wait_for()
    chat.wait()
    said = chat.text()
    files: dict[str, Path] = {}
    for name, suffix in (("Export as JSON", "json"), ("Export as Markdown", "md")):
        chat.page.get_by_role("button", name="This conversation").click()
        with chat.page.expect_download() as download:
            chat.page.get_by_role("menuitem", name=name).locator("visible=true").click()
        assert download.value.suggested_filename == f"Keep-this.{suffix}"
        files[suffix] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[suffix])
    exported = json.loads(files["json"].read_text())
    assert len(exported["conversations"][0]["messages"]) == 3
    chat.page.get_by_role("button", name="This conversation").click()
    chat.page.get_by_role("menuitem", name="Delete conversation").click()
    chat.page.get_by_text("Say something to your model").wait_for()

    def take_in(file: Path) -> None:
        chat.page.get_by_role("button", name="All conversations").click()
        with chat.page.expect_file_chooser() as chooser:
            chat.page.get_by_role("menuitem", name="Import from files").click()
        chooser.value.set_files(file)

    take_in(files["json"])
    chat.last.get_by_text("2/2").wait_for()
    assert chat.text() == said
    take_in(files["md"])
    chat.until("document.querySelectorAll('.entry').length === 2")
    chat.last.wait_for()
    chat.has_said("Keep this")
    chat.last.get_by_text("2/2").wait_for(state="detached")
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    take_in(wrong)
    chat.page.get_by_text(
        "wrong.json: This JSON file holds no conversations of a form that is known."
    ).wait_for()


def test_a_backup_comes_back_in_its_order_with_its_dates(chat, tmp_path):
    """And what could not be read is named; the rest is taken all the same."""

    def conversation(number: int, title: str, parent: str | None = None) -> dict:
        date = 1_600_000_000_000 + number * 86_400_000
        described = {"id": f"c{number}", "title": title, "createdAt": date, "updatedAt": date}
        said = {
            "role": "user",
            "id": f"m{number}",
            "parent": parent,
            "createdAt": date,
            "text": f"Text {number}",
        }
        return {"conversation": {**described, "settings": {}, "chosen": {}}, "messages": [said]}

    conversations = [conversation(number, f"Number {number}") for number in range(60)]
    conversations += [conversation(60, "Round and round", parent="m60"), conversation(61, "")]
    backup = tmp_path / "backup.json"
    whole = {"format": "chatsmith-conversations", "version": 1, "conversations": conversations}
    backup.write_text(json.dumps(whole))
    (tmp_path / "empty.json").write_text(json.dumps({**whole, "conversations": []}))
    chat.page.evaluate("""
        window.told = new Set();
        new MutationObserver(() => told.add(document.querySelector(".notice")?.textContent))
          .observe(document.body, { childList: true, characterData: true, subtree: true });
    """)
    chat.page.get_by_role("button", name="All conversations").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.page.get_by_role("menuitem", name="Import from files").click()
    chooser.value.set_files([backup, tmp_path / "empty.json"])
    notice = chat.page.locator(".notice")
    chat.reads(
        notice,
        "61 conversations imported. Left out: “Round and round” holds no message to begin with; "
        "empty.json: The file holds no conversations.",
    )
    assert "Importing: 50 of 61 …" in chat.page.evaluate("[...told]")
    titles = (f"Number {number}" for number in reversed(range(60)))
    chat.reads(chat.page.locator(".entry-title"), "Untitled", *titles)
    chat.has_said("Text 61")
    assert chat.page.locator(".conversations h2").all_inner_texts()[0] == "November 2020"


def test_a_seed_makes_replies_repeatable(chat):
    chat.set_up({"Seed": 7, "Longest reply": 12, "Temperature": 1.5})
    chat.say("Hello!")
    first = chat.text()
    chat.button("Regenerate").click()
    chat.last.get_by_text("2/2").wait_for()
    chat.wait()
    assert chat.text() == first
    chat.set_up({"Seed": 8})
    chat.button("Regenerate").click()
    chat.last.get_by_text("3/3").wait_for()
    chat.wait()
    assert chat.text() != first


def test_a_conversation_is_held_with_the_model_that_was_picked(chat):
    """The server of these tests has one model; the second is made up, and so is its reply."""
    asked: list[dict] = []
    models = chat.page.request.get(chat.address + "v1/models").json()
    models["data"].append({**models["data"][0], "id": "other"})
    chat.page.route("**/v1/models", lambda route: route.fulfill(json=models))
    chat.open()
    chat.page.get_by_label("Model", exact=True).select_option("other")
    chat.answer_with({"content": "From the other."})
    chat.page.on(
        "request", lambda asked_: asked.append(asked_.post_data_json) if "completions" in asked_.url else None
    )
    chat.say("Hello!")
    assert asked[-1]["model"] == "other"
    assert chat.last.get_attribute("aria-label") == "other replied"
    chat.page.reload()
    chat.holds(chat.page.get_by_label("Model", exact=True), "other")


def test_settings_belong_to_their_conversation_and_are_sent(chat):
    sent: list[dict] = []
    chat.page.on(
        "request", lambda asked: sent.append(asked.post_data_json) if "completions" in asked.url else None
    )
    sampling = {"temperature": 0.3, "top_p": 0.9, "top_k": 7, "min_p": 0.05}
    (model,) = chat.page.request.get(chat.address + "v1/models").json()["data"]
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    for name, value in sampling.items():
        field = chat.page.get_by_role("spinbutton", name=name.capitalize().replace("_", "-"))
        assert float(field.get_attribute("placeholder")) == model["chatsmith"]["defaults"][name], (
            "the bundle's"
        )
        field.fill(str(value))
        field.press("Tab")
    chat.page.get_by_role("spinbutton", name="Longest reply").fill("3")
    chat.page.get_by_label("System prompt").fill("Be brief.")
    chat.page.get_by_label("Stop at").fill("END\nSTOP")
    chat.page.get_by_label("Stop at").blur()
    chat.say("Hello!")
    assert sent[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    wanted = {**sampling, "max_completion_tokens": 3, "stop": ["END", "STOP"]}
    assert {name: sent[-1].get(name) for name in wanted} == wanted
    chat.page.get_by_role("button", name="New conversation").first.click()
    chat.page.get_by_text("Say something to your model").wait_for()
    for name in ("System prompt", "Stop at", "Temperature"):
        assert chat.page.locator(".sheet").get_by_label(name).first.input_value() == "", (
            "the sheet stayed open"
        )
    chat.say("Hello!")
    assert sent[-1]["messages"] == [{"role": "user", "content": "Hello!"}]
    assert "temperature" not in sent[-1]


def test_a_warning_comes_before_the_context_is_full(chat):
    chat.set_up({"Longest reply": 95})
    chat.say("Hi")
    full = "Nearly full: the oldest turns will be left out of what the model sees."
    chat.page.locator(".gauge").get_by_text(full).wait_for()


def test_when_the_context_is_full_the_oldest_turns_are_left_out_and_it_shows(chat):
    for number in range(4):
        chat.say(f"Message number {number}: tell me something long, please.")
    chat.page.get_by_text("The model no longer sees what is above").wait_for()
    chat.page.locator(".gauge").get_by_text("oldest turns").wait_for()
    assert chat.page.locator(".bubble").count() == 4


def test_commands_after_a_slash(chat):
    chat.message.fill("/te")
    chat.page.get_by_role("option").first.get_by_text("/temperature").wait_for()
    chat.message.press("Enter")
    chat.holds(chat.message, "/temperature ")
    chat.message.press_sequentially("0.25")
    chat.message.press("Enter")
    chat.page.get_by_text("The temperature is 0.25 from now on.").wait_for()
    chat.message.fill("/settings")
    chat.message.press("Enter")
    chat.holds(chat.page.get_by_role("spinbutton", name="Temperature"), "0.25")
    chat.message.fill("/system You are brief.")
    chat.message.press("Enter")
    chat.holds(chat.page.get_by_label("System prompt"), "You are brief.")
    assert chat.replies.count() == 0
