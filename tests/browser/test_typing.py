"""What is typed arrives as it was typed: key by key, as a person does it, and with an input method."""

import json

import pytest

from tests.browser.conftest import requests_of

pytestmark = pytest.mark.browser


def test_settings_are_typed_key_by_key(chat):
    sent = requests_of(chat)
    chat.answer_with({"content": "Yes."})
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    typed = {
        "Temperature": "0.05",
        "Top-p": "0.7",
        "Min-p": "0.05",
        "Top-k": "15",
        "Longest reply": "20",
        "Seed": "105",
    }
    for name, text in typed.items():
        field = chat.page.get_by_role("spinbutton", name=name, exact=True)
        field.click()
        chat.page.keyboard.type(text)
        assert field.input_value() == text
    stop = chat.page.get_by_label("Stop at")
    stop.click()
    chat.page.keyboard.type("END")
    chat.page.keyboard.press("Enter")
    chat.page.keyboard.type("STOP")
    assert stop.input_value() == "END\nSTOP"
    system = chat.page.get_by_label("System prompt")
    system.click()
    chat.page.keyboard.type("Be brief. ")
    chat.page.keyboard.press("Escape")  # the sheet goes with the focus still in it
    chat.say("Hello!")
    wanted = {
        "temperature": 0.05,
        "top_p": 0.7,
        "min_p": 0.05,
        "top_k": 15,
        "max_completion_tokens": 20,
        "seed": 105,
    }
    wanted["stop"] = ["END", "STOP"]
    assert {name: sent[-1].get(name) for name in wanted} == wanted
    assert sent[-1]["messages"][0]["content"] == "Be brief. "


def test_a_number_out_of_range_is_brought_into_it_when_the_field_is_left(chat):
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    field = chat.page.get_by_role("spinbutton", name="Temperature", exact=True)
    field.click()
    chat.page.keyboard.type("15")
    assert field.input_value() == "15"
    chat.page.keyboard.press("Tab")
    assert field.input_value() == "2"
    field.click()
    chat.page.keyboard.press("Control+A")
    chat.page.keyboard.press("Backspace")
    chat.page.keyboard.press("Tab")
    assert field.input_value() == ""
    assert chat.page.locator(".setting.is-set").count() == 0


def test_arrows_in_an_unset_field_begin_at_the_default_that_is_shown(chat):
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    (model,) = chat.page.request.get(chat.address + "v1/models").json()["data"]
    defaults, context = model["chatsmith"]["defaults"], model["chatsmith"]["context_length"]
    steps = {"Temperature": ("temperature", 0.05), "Top-k": ("top_k", 1), "Min-p": ("min_p", 0.01)}
    for name, (key, step) in steps.items():
        field = chat.page.get_by_role("spinbutton", name=name, exact=True)
        field.click()
        chat.page.keyboard.press("ArrowUp")
        assert float(field.input_value()) == pytest.approx(defaults[key] + step)
        chat.page.keyboard.press("ArrowUp")
        assert float(field.input_value()) == pytest.approx(defaults[key] + 2 * step)
    longest = chat.page.get_by_role("spinbutton", name="Longest reply", exact=True)
    longest.click()
    chat.page.keyboard.press("ArrowDown")
    assert int(longest.input_value()) == min(defaults["max_tokens"] or context, context) - 1
    chat.page.get_by_role("button", name="Longest reply: back to the default").click()
    assert longest.input_value() == ""
    assert longest.evaluate("field => document.activeElement === field")


COMPOSING = ({"isComposing": True}, {"keyCode": 229})  # as Chrome and Firefox, and as Safari marks it


def press_while_composing(field, key: str) -> None:
    """A key that belongs to the input method, which takes or gives up what it offers."""
    for marks in COMPOSING:
        field.evaluate(
            """(field, init) => field.dispatchEvent(
                 new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...init }))""",
            {"key": key, **marks},
        )


def test_keys_of_an_input_method_do_nothing_else(chat):
    sent = requests_of(chat)
    chat.answer_with({"content": "Yes."})
    chat.message.press_sequentially("/new")
    press_while_composing(chat.message, "Enter")
    press_while_composing(chat.message, "Escape")
    assert chat.page.get_by_role("option").count() == 1, "the list is still there, and nothing was chosen"
    chat.message.fill("にほん")
    press_while_composing(chat.message, "Enter")
    assert chat.message.input_value() == "にほん"
    assert sent == []
    chat.message.press("Enter")
    chat.wait()
    chat.has_said("にほん")

    chat.page.locator(".said").hover()
    chat.page.get_by_role("button", name="Edit message").click()
    edit = chat.page.get_by_role("textbox", name="Edit message")
    edit.fill("にほんご")
    for key in ("Enter", "Escape"):
        press_while_composing(edit, key)
    assert edit.input_value() == "にほんご"
    assert len(sent) == 1
    edit.press("Escape")
    edit.wait_for(state="detached")

    chat.page.get_by_role("button", name="Actions for にほん").click()
    chat.page.get_by_role("menuitem", name="Rename").click()
    rename = chat.page.get_by_label("New title")
    rename.fill("題")
    for key in ("Enter", "Escape"):
        press_while_composing(rename, key)
    assert rename.input_value() == "題"
    rename.press("Enter")
    chat.reads(chat.page.locator(".entry-title"), "題")

    chat.page.get_by_role("button", name="Settings", exact=True).click()
    system = chat.page.get_by_label("System prompt")
    system.fill("短く")
    for field in (
        system,
        chat.page.get_by_label("Stop at"),
        chat.message,
        chat.page.get_by_label("Search conversations"),
    ):
        press_while_composing(field, "Escape")
    assert system.is_visible(), "the sheet is still open"


def test_giving_up_what_is_composed_stops_no_reply(chat):
    chat.page.evaluate("Object.assign(network, { endless: true, holds: (_, event) => event > 9 })")
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    chat.until("document.querySelector('.reply .markdown')?.textContent.length > 3")
    press_while_composing(chat.message, "Escape")
    length = chat.page.evaluate("document.querySelector('.reply .markdown').textContent.length")
    chat.page.evaluate("network.holds = (_, event) => event > 20")
    chat.until(f"document.querySelector('.reply .markdown').textContent.length > {length}")
    chat.message.press("Escape")
    chat.wait()
    assert "Stopped." in chat.last.inner_text()


def test_a_draft_belongs_to_its_conversation_and_survives_a_reload(chat):
    chat.answer_with({"content": "Fine."})
    chat.say("One")
    chat.message.press_sequentially("half a thought")
    chat.begin()
    chat.holds(chat.message, "")
    chat.message.press_sequentially("another")
    chat.page.reload()
    chat.page.get_by_text("Say something to your model").wait_for()
    chat.holds(chat.message, "another")
    chat.page.get_by_role("button", name="One", exact=True).click()
    chat.has_said("One")
    chat.holds(chat.message, "half a thought")
    chat.message.press("Enter")
    chat.has_said("One", "half a thought")
    chat.holds(chat.message, "")


def test_an_unknown_command_is_not_sent_to_the_model(chat):
    sent = requests_of(chat)
    chat.answer_with({"content": "Fine."})
    chat.message.press_sequentially("/temp 0.5")
    chat.message.press("Enter")
    chat.page.get_by_text("There is no command /temp. Did you mean /temperature?").wait_for()
    assert chat.message.input_value() == "/temp 0.5"
    assert sent == []
    chat.page.get_by_role("button", name="Send it as a message").click()
    chat.has_said("/temp 0.5")
    chat.wait()
    chat.message.press_sequentially("/usr/bin is what?")
    chat.message.press("Enter")
    chat.has_said("/temp 0.5", "/usr/bin is what?")


def test_a_message_too_long_is_known_while_it_is_typed_and_can_be_shortened(chat):
    gauge = chat.page.locator(".gauge")
    chat.message.press_sequentially("Hello, how are you?")
    gauge.get_by_text("with your message").wait_for()
    chat.message.fill("far too long " * 60)
    gauge.get_by_text("Too long: the message takes").wait_for()
    gauge.get_by_role("button", name="Shorten it").click()
    gauge.get_by_text("Too long").wait_for(state="detached")
    kept = chat.message.input_value()
    assert kept and "far too long far too long".startswith(kept[:20])
    chat.page.get_by_role("button", name="Undo").click()
    chat.holds(chat.message, "far too long " * 60)


def test_two_megabytes_are_pasted_beside_the_field_and_not_laid_out(chat):
    chat.page.evaluate("navigator.clipboard.writeText('lorem ipsum '.repeat(170_000))")
    chat.message.press("Control+v")
    chat.page.get_by_text("2.0 million characters").wait_for()
    chat.message.press_sequentially("Sum up:")
    assert chat.message.input_value() == "Sum up:"
    chat.page.locator(".gauge").get_by_text("Too long").wait_for()
    chat.message.press("Enter")
    chat.last.get_by_text("This message is far too long.").wait_for()
    assert len(chat.page.locator(".bubble").inner_text()) < 4000
    chat.last.get_by_role("button", name="Shorten the message").click()
    edit = chat.page.get_by_role("textbox", name="Edit message")
    assert len(edit.input_value()) == 20_000


def test_of_two_thousand_conversations_those_that_are_seen_are_drawn(chat, tmp_path):
    date = 1_600_000_000_000
    conversations = [
        {
            "conversation": {
                "id": f"c{n}",
                "title": f"Number {n}",
                "createdAt": date + n,
                "updatedAt": date + n,
            },
            "messages": [
                {"role": "user", "id": f"m{n}", "parent": None, "createdAt": date, "text": f"Text {n}"}
            ],
        }
        for n in range(2000)
    ]
    backup = tmp_path / "backup.json"
    backup.write_text(
        json.dumps({"format": "chatsmith-conversations", "version": 1, "conversations": conversations})
    )
    chat.page.get_by_role("button", name="All conversations").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.page.get_by_role("menuitem", name="Import from files").click()
    chooser.value.set_files(backup)
    chat.page.get_by_text("2,000 conversations imported.").wait_for()
    entries = chat.page.locator(".entry")
    nav, list = chat.page.locator(".conversations"), "document.querySelector('.conversations')"
    chat.until(f"{list}.scrollHeight > 1990 * {list}.querySelector('.entry').offsetHeight")
    assert entries.count() < 200
    nav.evaluate("nav => nav.scrollTo(0, nav.scrollHeight)")
    chat.page.get_by_role("button", name="Number 0", exact=True).click()
    chat.has_said("Text 0")
    chat.page.get_by_label("Search conversations").press_sequentially("text 1234")
    chat.reads(chat.page.locator(".entry-title"), "Number 1234")
