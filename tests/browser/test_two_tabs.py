"""Two tabs on one conversation: each shows what happens in the other, and neither takes anything from it."""

import json
from collections.abc import Callable

import pytest

from tests.browser.conftest import Chat

pytestmark = pytest.mark.browser


@pytest.fixture
def two(chat, server) -> Callable[[], Chat]:
    """Opens the conversation of `chat` in a second tab of the same browser."""

    def open_second() -> Chat:
        page = chat.page.context.new_page()
        page.on("pageerror", lambda error: chat.page.complaints.append(f"error: {error}"))
        second = Chat(page, server.address)
        second.open(chat.page.url.removeprefix(server.address))
        return second

    return open_second


def say(chat, text: str, reply: str) -> None:
    chat.page.unroute_all()
    chat.answer_with({"content": reply})
    chat.say(text)


def test_what_is_said_in_one_shows_in_the_other_and_goes_on_from_there(chat, two):
    say(chat, "One", "First.")
    other = two()
    other.has_said("One")
    say(chat, "Two", "Second.")
    other.has_said("One", "Two")
    other.reads(other.page.locator(".reply .markdown"), "First.", "Second.")
    say(other, "Three", "Third.")
    chat.has_said("One", "Two", "Three")
    say(chat, "Four", "Fourth.")
    for tab in (chat, other):
        tab.page.reload()
        tab.has_said("One", "Two", "Three", "Four")
        assert tab.page.locator(".branch-stepper").count() == 0


def test_a_new_title_survives_what_the_other_says(chat, two):
    say(chat, "One", "First.")
    other = two()
    chat.page.get_by_role("button", name="Actions for One").click()
    chat.page.get_by_role("menuitem", name="Rename").click()
    chat.until("document.activeElement.classList.contains('rename')")
    chat.page.keyboard.press("Control+A")
    chat.page.keyboard.type("A title")
    chat.page.keyboard.press("Enter")
    other.reads(other.page.locator(".entry-title"), "A title")
    other.message.fill("/temperature 0.5")
    other.message.press("Enter")
    chat.message.fill("/seed 7")
    chat.message.press("Enter")
    say(other, "Two", "Second.")
    chat.has_said("One", "Two")
    for tab in (chat, other):
        tab.page.reload()
        tab.reads(tab.page.locator(".entry-title"), "A title")
        tab.page.get_by_role("button", name="Settings", exact=True).click()
        tab.holds(tab.page.get_by_role("spinbutton", name="Temperature", exact=True), "0.5")
        tab.holds(tab.page.get_by_role("spinbutton", name="Seed", exact=True), "7")


def test_deleting_in_one_closes_it_in_the_other_for_good(chat, two):
    say(chat, "One", "First.")
    say(chat, "Two", "Second.")
    other = two()
    second = chat.page.locator(".said").nth(1)
    second.hover()
    second.get_by_role("button", name="Delete message").click()
    other.has_said("One")
    chat.page.get_by_role("button", name="Undo").click()
    other.has_said("One", "Two")
    chat.page.get_by_role("button", name="Actions for One").click()
    chat.page.get_by_role("menuitem", name="Delete").click()
    other.page.get_by_text("This conversation was deleted in another tab.").wait_for()
    other.page.get_by_text("Say something to your model").wait_for()
    other.reads(other.page.locator(".entry-title"))
    say(other, "Three", "Third.")
    for tab in (chat, other):
        tab.page.reload()
        tab.reads(tab.page.locator(".entry-title"), "Three")


def test_what_a_tab_that_heard_nothing_says_brings_nothing_deleted_back(chat, two):
    """A tab that the browser had put to sleep."""
    say(chat, "One", "First.")
    chat.page.context.add_init_script("delete window.BroadcastChannel")
    other = two()
    chat.page.get_by_role("button", name="Actions for One").click()
    chat.page.get_by_role("menuitem", name="Delete").click()
    chat.page.get_by_text("Say something to your model").wait_for()
    other.message.fill("Two")
    other.message.press("Enter")
    other.page.get_by_text("This conversation was deleted in another tab.").wait_for()
    other.page.reload()
    other.page.locator(".model-picker.is-ready").wait_for()
    other.reads(other.page.locator(".entry-title"))


def test_a_reply_that_one_writes_grows_in_the_other_and_is_stopped_from_there(chat, two):
    chat.page.evaluate("Object.assign(network, { endless: true, holds: (_, event) => event > 9 })")
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    chat.until("document.querySelector('.reply .markdown')?.textContent.length > 3")
    other = two()
    other.until("document.querySelector('.reply .markdown')?.textContent.length > 3")
    assert other.page.get_by_text("The page was closed in the middle of this reply.").count() == 0
    length = other.page.evaluate("document.querySelector('.reply .markdown').textContent.length")
    chat.page.evaluate("network.holds = (_, event) => event > 20")
    other.until(f"document.querySelector('.reply .markdown').textContent.length > {length}")
    other.page.get_by_role("button", name="Stop", exact=True).click()
    for tab in (chat, other):
        tab.wait()
        tab.last.get_by_text("Stopped.").wait_for()
    text = "document.querySelector('.reply .markdown').textContent"
    other.until(f"{text} === {json.dumps(chat.page.evaluate(text))}")


def test_a_reply_whose_tab_is_closed_can_be_continued_in_the_other(chat, two):
    chat.page.evaluate("Object.assign(network, { endless: true, holds: (_, event) => event > 9 })")
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    chat.until("document.querySelector('.reply .markdown')?.textContent.length > 3")
    other = two()
    other.until("document.querySelector('.reply .markdown')?.textContent.length > 3")
    chat.page.close()
    other.page.get_by_text("The page was closed in the middle of this reply.").wait_for()
    came = other.last.locator(".markdown").inner_text()
    other.last.locator(".remedies").get_by_role("button", name="Start over").click()
    other.last.get_by_text("2/2").wait_for()
    other.wait()
    other.button("Earlier version").click()
    assert other.last.locator(".markdown").inner_text() == came, "starting over takes nothing away"
