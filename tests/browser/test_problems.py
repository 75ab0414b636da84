"""When something is wrong: the page says what, and offers what helps."""

import json
import re

import pytest

pytestmark = pytest.mark.browser


def refuse(chat, status: int, code: str, message: str, times: int = 1, **headers: str) -> list[int]:
    """The server's next answers. What it would really take to get them, a full queue, is not at hand."""
    refused: list[int] = []

    def answer(route) -> None:
        if len(refused) >= times:
            route.continue_()
            return
        refused.append(status)
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        route.fulfill(status=status, headers=headers, json={"error": error})

    chat.page.route("**/v1/chat/completions", answer)
    return refused


def test_busy_counts_down_and_tries_again_by_itself(chat):
    refused = refuse(chat, 429, "queue_full", "All places are taken.", times=2, **{"Retry-After": "1"})
    chat.page.evaluate("""
        window.told = new Set();
        new MutationObserver(() => told.add(document.querySelector(".problem p")?.textContent))
          .observe(document.body, { childList: true, characterData: true, subtree: true });
    """)
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    chat.wait()
    assert "All places are taken. Trying again in 1 s." in chat.page.evaluate("[...told]")
    assert len(refused) == 2
    assert chat.text() != ""
    assert chat.page.get_by_text("All places are taken.").count() == 0


def test_waiting_can_be_given_up(chat):
    refuse(chat, 503, "loading", "The model is being loaded.", times=99, **{"Retry-After": "60"})
    chat.message.fill("Hello!")
    chat.message.press("Enter")
    chat.page.get_by_text(re.compile(r"The model is being loaded\. Trying again in \d+ s\.")).wait_for()
    chat.page.get_by_role("button", name="Stop waiting").click()
    chat.wait()
    assert "Stopped." in chat.last.inner_text()
    chat.last.locator(".remedies").get_by_role("button", name="Try again").wait_for()


def test_a_lost_connection_keeps_what_came_and_goes_on(chat):
    chat.page.evaluate("Object.assign(network, { cutAfter: 8, endless: true })")
    chat.say("Tell me a story.")
    assert "The connection was lost in the middle of the reply." in chat.last.inner_text()
    came = chat.last.locator(".markdown").first.inner_text()
    assert came
    chat.page.evaluate("network.cutAfter = Infinity")
    chat.last.locator(".remedies").get_by_role("button", name="Continue").click()
    chat.last.get_by_text("connection was lost").wait_for(state="detached")
    chat.wait()
    assert chat.last.locator(".markdown").first.inner_text().startswith(came.rstrip("�"))
    assert chat.replies.count() == 1


def test_an_error_in_mid_stream_is_told_in_the_servers_words(chat):
    events = [
        {"choices": [{"index": 0, "delta": {"content": "It began"}, "finish_reason": None}]},
        {"error": {"message": "The model failed.", "type": "server_error", "param": None, "code": None}},
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    chat.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body)
    )
    chat.say("Hello!")
    assert "It began" in chat.text()
    assert "The model failed." in chat.last.inner_text()


def test_a_message_too_long_for_the_context_can_be_shortened(chat):
    chat.say("far too long " * 60)
    problem = chat.last.inner_text()
    takes = re.search(r"This message takes (\d+) tokens. The model's context holds 128", problem)
    assert takes, problem
    assert int(takes[1]) > 180
    chat.last.get_by_role("button", name="Shorten the message").click()
    chat.until("document.activeElement.ariaLabel === 'Edit message'")  # before that, it moves the cursor
    chat.page.get_by_role("textbox", name="Edit message").fill("Short.")
    chat.page.keyboard.press("Enter")
    chat.has_said("Short.")
    chat.last.locator(".figures").wait_for()


def test_a_reply_that_filled_the_context_offers_what_helps_and_no_continuing(chat):
    chat.page.evaluate("network.endless = true")
    chat.say("Tell me a story.")
    chat.last.get_by_text("The context is full: this reply cannot grow any longer.").wait_for()
    assert chat.last.get_by_role("button", name=re.compile("Continue")).count() == 0
    chat.last.get_by_role("button", name="New conversation").click()
    chat.page.get_by_text("Say something to your model").wait_for()


def test_a_reply_that_filled_the_context_beside_older_turns_goes_on_without_them(chat):
    chat.answer_with({"content": "Fine."})
    chat.say("How are you?")
    chat.page.unroute_all()
    chat.page.evaluate("network.endless = true")
    chat.say("Tell me a story.")
    chat.last.get_by_text("The context is full: going on leaves out the oldest turns.").wait_for()
    chat.last.locator(".remedies").get_by_role("button", name="Continue").click()
    chat.page.get_by_text("The model no longer sees what is above").wait_for()
    # It has grown until what is left of the conversation fills the context, too.
    chat.last.get_by_text("The context is full: this reply cannot grow any longer.").wait_for()
    assert chat.last.get_by_role("button", name=re.compile("Continue")).count() == 0


def test_a_stopped_reply_goes_on_to_the_last_token_of_the_context(chat):
    chat.set_up({"Longest reply": 100})
    chat.page.evaluate("network.endless = true")
    chat.say("Hello!")
    chat.last.get_by_text("Cut off at the limit on tokens.").wait_for()
    chat.last.locator(".remedies").get_by_role("button", name="Continue").click()
    chat.last.get_by_text("The context is full").wait_for()
    assert "context 128 of 128" in chat.last.locator(".figures").inner_text()


def test_a_conversation_kept_whole_asks_when_the_context_is_full(chat):
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    chat.page.get_by_label("When the context is full").uncheck()
    chat.page.get_by_role("button", name="Close settings").click()
    for number in range(4):
        chat.say(f"Message number {number}: tell me something long, please.")
    assert "Leave out the oldest turns" in chat.last.inner_text()
    chat.last.get_by_role("button", name="Leave out the oldest turns").click()
    chat.page.get_by_text("The model no longer sees what is above").wait_for()


def test_a_key_is_asked_for_and_a_dead_server_is_noticed(new_page, start_server):
    """One server for both: it takes seconds to start."""
    from tests.browser.conftest import Chat

    server = start_server("--api-key", "open-sesame")
    chat = Chat(new_page(server.address), server.address)
    chat.page.clock.install()
    chat.page.goto(server.address)
    dialog = chat.page.get_by_role("dialog", name="This server asks for a key")
    dialog.wait_for()
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("button", name="Enter the key").click()
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("The server does not accept this key.").wait_for()
    dialog.get_by_label("Key", exact=True).fill("open-sesame")
    dialog.get_by_role("button", name="Use this key").click()
    server.wait_until_ready()
    chat.page.locator(".model-picker.is-ready").wait_for()
    chat.set_up({"Longest reply": 4})
    chat.say("Hello!")
    assert chat.text() != ""
    stored = chat.page.evaluate("[localStorage['chatsmith-key'] ?? null, sessionStorage['chatsmith-key']]")
    assert stored == [None, "open-sesame"], "the key outlives the tab only where a person says so"

    server.kill()
    chat.page.clock.fast_forward("01:00")  # by itself, with nothing asked, it looks again
    chat.page.get_by_text("not reachable").wait_for()
    chat.message.fill("Are you there?")
    chat.message.press("Enter")
    chat.last.get_by_text("The server cannot be reached. Is chatsmith serve still running?").wait_for()
    chat.page.get_by_text("not reachable").wait_for()
    chat.last.get_by_role("button", name="Try again").wait_for()
    chat.page.get_by_role("button", name="New conversation").click()
    chat.page.get_by_text("This page goes on trying.").wait_for()
