"""What the chat page looks like where that can be measured: one place for each action, and each thing in its place."""

import pytest

from tests.browser.conftest import Chat
from tests.browser.test_views import DESKTOP, PHONE

pytestmark = pytest.mark.browser

MIDDLE = """(element) => {
  const box = element.getBoundingClientRect();
  return box.left + box.width / 2;
}"""


def test_each_action_has_one_place_a_name_and_a_sign_of_its_own(chat):
    chat.set_up({"Longest reply": 6})
    chat.say("Hello!")
    header = chat.page.locator(".header-tools")
    for name in ("Look inside", "Prompt", "Settings"):
        assert header.get_by_text(name, exact=True).is_visible(), "an icon alone is guesswork"
    assert chat.last.get_by_role("button", name="Continue").locator("visible=true").count() == 1
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    back = chat.page.get_by_role("button", name="Longest reply: back to the default")
    signs = [button.locator("path").first.get_attribute("d") for button in (back, chat.button("Regenerate"))]
    assert signs[0] != signs[1]
    assert "is-marked" in header.get_by_role("button", name="Settings", exact=True).get_attribute("class")


def test_what_is_said_in_passing_stands_over_the_middle_of_the_conversation(chat):
    chat.message.fill("/temperature 0.5")
    chat.message.press("Enter")
    composer = chat.page.locator(".composer")
    for sheet in (False, True):
        if sheet:
            chat.page.get_by_role("button", name="Settings", exact=True).click()
            chat.message.fill("/seed 7")
            chat.message.press("Enter")
            chat.page.get_by_text("The seed is 7 from now on.").wait_for()
        notice = chat.page.locator(".notice")
        assert notice.evaluate(MIDDLE) == pytest.approx(composer.evaluate(MIDDLE), abs=9)  # half a scroll bar


def test_figures_of_older_replies_are_seen_on_hover(new_page, server):
    chat = Chat(new_page(server.address, **DESKTOP), server.address).open()
    chat.set_up({"Longest reply": 4})
    chat.say("One")
    chat.say("Two")
    chat.message.hover()
    opacity = "(element) => getComputedStyle(element).opacity"
    first, last = (chat.replies.nth(number).locator(".figures") for number in (0, 1))
    chat.until("getComputedStyle(document.querySelector('.reply .figures')).opacity === '0'")
    assert last.evaluate(opacity) == "1"
    chat.replies.first.hover()
    chat.until("getComputedStyle(document.querySelector('.reply .figures')).opacity === '1'")
    assert first.is_visible()


def test_bars_of_alternatives_are_scaled_to_the_likeliest(chat):
    chat.set_up({"Longest reply": 6})
    chat.say("Hello!")
    chat.page.get_by_role("button", name="Look inside").click()
    chat.last.locator(".token").nth(1).click()
    rows = chat.last.locator(".alternative")
    rows.nth(7).wait_for()
    shares = rows.evaluate_all(
        "(rows) => rows.map((row) => Number(row.style.getPropertyValue('--share-of-row')))"
    )
    assert max(shares) == 1 and min(shares) > 0


def test_a_phone_is_offered_no_keyboard_and_shows_that_settings_were_changed(new_page, server):
    chat = Chat(new_page(server.address, **PHONE), server.address).open()
    chat.message.fill("/k")
    assert chat.page.get_by_role("option").count() == 0
    folded = chat.page.get_by_role("button", name="Prompt and settings")
    assert "is-marked" not in folded.get_attribute("class")
    chat.message.fill("/temperature 0.5")
    chat.page.get_by_role("button", name="Send").tap()  # Enter begins a new line there
    chat.page.get_by_text("The temperature is 0.5 from now on.").wait_for()
    chat.until("document.querySelectorAll('.header .is-marked').length === 1")
    chat.page.get_by_role("button", name="Show conversations").tap()
    chat.page.get_by_role("dialog", name="Conversations").wait_for()
    assert chat.page.get_by_role("button", name="Keyboard shortcuts").count() == 0
