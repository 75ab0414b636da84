"""Where the keyboard goes on: what was pressed goes away, and the focus does not fall to the page itself."""

import pytest

pytestmark = pytest.mark.browser


def press(chat, button, key: str = "Enter") -> None:
    button.focus()
    chat.page.keyboard.press(key)


def test_stepping_through_versions_goes_on_from_the_same_button(chat):
    chat.answer_with({"content": "Fine."})
    chat.say("Hello!")
    for number in (2, 3, 4):
        chat.button("Regenerate").click()
        chat.last.get_by_text(f"{number}/{number}").wait_for()
        chat.wait()
    chat.button("Earlier version").focus()
    for number in (3, 2, 1):
        chat.page.keyboard.press("Enter")
        chat.last.get_by_text(f"{number}/4").wait_for()
        chat.until("document.activeElement.closest('.branch-stepper') !== null")
    assert chat.page.evaluate("document.activeElement.ariaLabel") == "Later version"
    chat.page.keyboard.press("Enter")
    chat.last.get_by_text("2/4").wait_for()
    chat.until("document.activeElement.ariaLabel === 'Later version'")


def test_regenerating_and_deleting_leave_the_focus_with_the_messages(chat):
    chat.answer_with({"content": "Fine."})
    chat.say("One")
    chat.say("Two")
    press(chat, chat.button("Regenerate"))
    chat.last.get_by_text("2/2").wait_for()
    chat.until("document.activeElement.matches('.reply.is-last')")
    chat.wait()
    chat.act("Delete reply")
    chat.last.get_by_text("2/2").wait_for(state="detached")
    chat.until("document.activeElement.matches('.reply.is-last')")
    chat.act("Delete reply")
    chat.until("document.activeElement.matches('.said')")
    press(chat, chat.page.get_by_role("button", name="Undo"))
    chat.until("document.activeElement.matches('.reply.is-last')")


def test_choosing_an_alternative_goes_on_from_the_token_in_its_place(chat):
    chat.set_up({"Longest reply": 6})
    chat.say("Hello!")
    chat.page.get_by_role("button", name="Look inside").click()
    chat.last.locator(".token").first.focus()
    chat.page.keyboard.press("ArrowRight")
    chat.page.keyboard.press("Enter")
    chat.until("document.activeElement.classList.contains('alternative')")
    chat.page.keyboard.press("ArrowDown")
    chat.page.keyboard.press("Enter")
    chat.last.get_by_text("2/2").wait_for()
    chat.until("document.activeElement.dataset.index === '1'")
    chat.wait()
    chat.page.keyboard.press("ArrowLeft")
    chat.until("document.activeElement.dataset.index === '0'")


def test_renaming_and_deleting_in_the_list_stay_in_the_list(chat):
    chat.answer_with({"content": "Fine."})
    for text in ("One", "Two"):
        chat.begin()
        chat.say(text)
    for key in ("Enter", "Escape"):
        press(chat, chat.page.get_by_role("button", name="Actions for One"))
        chat.choose("Rename")
        chat.until("document.activeElement.classList.contains('rename')")
        chat.page.keyboard.press(key)
        chat.until(
            "document.activeElement.matches('.entry-title') && document.activeElement.innerText === 'One'"
        )
    press(chat, chat.page.get_by_role("button", name="Actions for One"))
    chat.choose("Delete")
    chat.reads(chat.page.locator(".entry-title"), "Two")
    chat.until("document.activeElement.matches('.entry-title')")


def test_buttons_that_go_away_when_pressed_hand_the_focus_on(chat):
    chat.set_up({"Longest reply": 5})
    chat.say("Hello!")
    press(chat, chat.last.locator(".remedies").get_by_role("button", name="Continue"))
    chat.page.get_by_text("10 tokens").wait_for()
    chat.until("document.activeElement !== document.body")
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    press(chat, chat.page.get_by_role("button", name="Longest reply: back to the default"))
    chat.until("document.activeElement.type === 'number'")
    chat.page.keyboard.type("7")
    press(chat, chat.page.get_by_role("button", name="Back to the model’s defaults"))
    chat.until("document.activeElement !== document.body")
