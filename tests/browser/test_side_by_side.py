"""Several replies to one message: of two stages of a run, or of one model several times."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Chat, Server, requests_of

pytestmark = pytest.mark.browser

SHORT = {"Longest reply": 12}


@pytest.fixture(scope="session")
def two_stages(start_server: Callable[..., Server], request: pytest.FixtureRequest) -> Server:
    """A server of a run's newest model and of the one that it was fine-tuned from."""
    run = request.config.getoption("--demo-run", default=None) or request.getfixturevalue("tiny_run")
    server = start_server("--name", "chat", "--model", f"base={Path(run) / 'pretrain'}")
    server.wait_until_ready()
    return server


@pytest.fixture
def stages(new_page: Callable, two_stages: Server) -> Chat:
    return Chat(new_page(two_stages.address), two_stages.address).open()


def compare(chat: Chat, first: str) -> None:
    """Have the model `first` and the model `base` answer two messages, the second after what `base` said."""
    sent = requests_of(chat)
    chat.set_up(SHORT)
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    chat.page.get_by_text("Side by side", exact=True).click()
    box = chat.page.get_by_role("checkbox", name="base", exact=True)
    box.focus()
    chat.page.keyboard.press("Space")
    chat.page.keyboard.press("Escape")
    assert chat.page.locator(".model-beside").inner_text() == "+ base"
    chat.message.press_sequentially("Hello!")
    chat.page.keyboard.press("Enter")
    round = chat.page.get_by_role("group", name="2 replies side by side")
    round.wait_for()
    chat.wait_for_all()
    assert round.locator(".round-head b").all_inner_texts() == [first, "base"]
    assert sorted(body["model"] for body in sent) == sorted([first, "base"])
    assert round.locator(".round-reply.is-chosen b").inner_text() == first
    base = round.locator(".round-reply").nth(1)
    said = base.locator(".markdown").inner_text()
    base.get_by_role("button", name="Go on from this").focus()
    chat.page.keyboard.press("Enter")
    round.locator(".round-reply.is-chosen b", has_text="base").wait_for()
    chat.message.fill("And then?")
    chat.page.keyboard.press("Enter")
    chat.page.locator(".said").nth(1).wait_for()
    chat.wait_for_all()
    for body in sent[2:]:
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
        assert body["messages"][1]["content"].strip() == said.strip()
    chat.page.reload()
    chat.page.locator(".round").nth(1).wait_for()
    assert chat.page.locator(".round").first.locator(".is-chosen b").inner_text() == "base"
    # Another round is a version of its own.
    chat.page.locator(".round").nth(1).get_by_role("button", name="Actions for this reply").first.click()
    chat.page.get_by_role("menuitem", name="Regenerate").click()
    chat.wait_for_all()
    chat.page.get_by_label("Version 2 of 2").wait_for()


def test_two_models_answer_the_same_message_and_one_is_gone_on_from(chat):
    """As the page sees it: one model under two names."""
    (model,) = chat.page.request.get(chat.address + "v1/models").json()["data"]

    def answer(route) -> None:
        name = route.request.post_data_json["model"]
        choice = {"index": 0, "delta": {"content": f"As {name}."}, "finish_reason": "stop"}
        body = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
        route.fulfill(content_type="text/event-stream", body=body)

    models = {"data": [model, {**model, "id": "base"}]}
    chat.page.route("**/v1/models", lambda route: route.fulfill(json=models))
    chat.page.route("**/v1/chat/completions", answer)
    chat.open()
    compare(chat, model["id"])


@pytest.mark.long
def test_two_stages_of_a_run_answer_the_same_message(stages):
    compare(stages, "chat")


def test_several_replies_at_once_stop_together_and_differ_by_their_seeds(chat):
    sent = requests_of(chat)
    chat.page.evaluate("network.endless = true; network.holds = (_, event) => event > 6")
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    chat.page.get_by_text("Side by side", exact=True).click()
    field = chat.page.get_by_role("spinbutton", name="Replies at once")
    field.click()
    chat.page.keyboard.type("3")
    seed = chat.page.get_by_role("spinbutton", name="Seed")
    seed.click()
    chat.page.keyboard.type("7")
    chat.page.keyboard.press("Escape")
    chat.message.fill("Tell me a story.")
    chat.page.keyboard.press("Enter")
    chat.page.get_by_role("group", name="3 replies side by side").wait_for()
    chat.until("document.querySelectorAll('.round .markdown').length === 3")
    chat.page.get_by_role("button", name="Stop", exact=True).click()
    chat.wait_for_all()
    assert chat.page.locator(".round").get_by_text("Stopped.").count() == 3
    assert sorted(body["seed"] for body in sent) == [7, 8, 9]
    # What a token might have been is not cut off by the round, which scrolls; in a low window it scrolls itself.
    chat.page.get_by_role("button", name="Look inside").click()
    chat.page.locator(".round .token").first.click()
    chat.page.locator(".inspector .alternative").nth(7).wait_for()
    chat.until("""(() => {
        const panel = document.querySelector(".inspector").getBoundingClientRect();
        return [...document.querySelectorAll(".inspector .alternative")].every((row) => {
            const { left, top, bottom, width, height } = row.getBoundingClientRect();
            const isScrolledAway = top < panel.top || bottom > panel.bottom;
            return isScrolledAway || row.contains(document.elementFromPoint(left + width / 2, top + height / 2));
        });
    })()""")
