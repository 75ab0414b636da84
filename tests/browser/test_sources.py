"""Replies from documents: the passages stand under the reply as cards, and stay with it."""

import pytest

pytest.importorskip("bm25s")
pytestmark = pytest.mark.browser


def test_passages_stand_under_the_reply_as_cards(new_page, start_server, tmp_path):
    from tests.browser.conftest import Chat

    (tmp_path / "pumps.md").write_text("# Care\n\nA pump needs oil once a year.\n")
    server = start_server("--documents", str(tmp_path))
    server.wait_until_ready()
    page = new_page(server.address)
    chat = Chat(page, server.address).open()
    chat.say("What does a pump need?")
    card = chat.last.get_by_role("region", name="Sources").locator("details")
    chat.reads(card.locator(".tool-name"), "[1] pumps.md, Care")
    assert not card.get_by_text("needs oil once a year").is_visible()
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    card.get_by_text("needs oil once a year").wait_for()
    page.reload()
    chat.reads(chat.last.locator(".source .tool-name"), "[1] pumps.md, Care")
    chat.say("zzzz")
    chat.last.get_by_text("No passage of the documents went with the question").wait_for()
