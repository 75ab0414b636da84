"""Finding and keeping: the bundle's card, search hits, links, pins, many at once, print, other programs' files."""

import json
import re
import time

import pytest

pytestmark = pytest.mark.browser


def say(chat, text: str, reply: str) -> None:
    chat.page.unroute_all()
    chat.answer_with({"content": reply})
    chat.say(text)


def test_the_card_of_the_bundle_is_shown_and_its_suggestions_are_said(chat):
    answer = {"card": "# k, sft\n\n## Scores\n\n| | |\n|-|-|\n| exam | 91 % |\n\n## Use\n\n    run it\n"}
    chat.page.route(
        "**/model_card*",
        lambda route: route.fulfill(json={**answer, "suggestions": ["Wie heißt du?", "Say <b>."]}),
    )
    chat.page.reload()
    chat.page.get_by_role("button", name="About the model").click()
    sheet = chat.page.get_by_role("complementary", name="About the model")
    sheet.get_by_role("heading", name="Scores").wait_for()
    assert sheet.get_by_role("cell", name="91 %").count() == 1
    assert sheet.get_by_text("run it").count() == 0
    chat.page.keyboard.press("Escape")
    sheet.wait_for(state="detached")
    suggestions = chat.page.get_by_role("list", name="Suggestions").get_by_role("button")
    chat.reads(suggestions, "Wie heißt du?", "Say <b>.")
    chat.answer_with({"content": "Tiny."})
    suggestions.first.focus()
    chat.page.keyboard.press("Enter")
    chat.has_said("Wie heißt du?")


def test_a_search_hit_is_gone_to_also_in_another_branch(chat):
    say(chat, "First", "The Zebra is here.")
    say(chat, "Second", "Lines.\n\n" * 60)
    chat.page.unroute_all()
    chat.answer_with({"content": "Nothing.\n\n" * 60})
    chat.replies.first.get_by_role("button", name="Regenerate").click()
    chat.page.get_by_label("Version 2 of 2").wait_for()
    chat.wait()
    chat.begin()
    say(chat, "Third", "Nothing to be found.")
    chat.page.keyboard.press("Control+K")
    chat.until("document.activeElement.id === 'search'")
    chat.page.keyboard.type("zebra")
    chat.until("document.querySelectorAll('[data-conversation]').length === 1")
    chat.page.locator("[data-conversation]").click()
    chat.page.get_by_text("The Zebra is here.").wait_for()
    chat.until("[...(CSS.highlights.get('found') ?? [])].map(String).join() === 'Zebra'")
    within = """(() => { const box = document.querySelector('.reply').getBoundingClientRect();
                return box.bottom > 0 && box.top < innerHeight; })()"""
    chat.until(within)
    chat.page.get_by_label("Version 1 of 2").wait_for()


def test_a_link_leads_to_its_message(chat, new_page):
    say(chat, "First", "Here.")
    say(chat, "Second", "Lines.\n\n" * 80)
    chat.replies.first.hover()
    chat.replies.first.get_by_role("button", name="Actions for this reply").click()
    chat.page.get_by_role("menuitem", name="Copy a link to it").click()
    chat.page.get_by_text("Copied.").wait_for()
    link = chat.page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(re.escape(chat.address) + r"#/c/[0-9a-f]+/[0-9a-f]+", link)
    chat.page.goto("about:blank")
    chat.page.goto(link)
    chat.page.get_by_text("Here.").wait_for()
    chat.until("document.querySelector('.reply').getBoundingClientRect().top > 0")
    chat.until("document.querySelector('.transcript').scrollTop < 400")


def test_pinned_conversations_stand_first_and_several_are_deleted_and_brought_back(chat):
    for text in ("One", "Two", "Three"):
        chat.begin()
        say(chat, text, "Yes.")
    titles = chat.page.locator(".conversations .entry-title")
    chat.reads(titles, "Three", "Two", "One")
    chat.page.get_by_role("button", name="Actions for One").click()
    chat.page.get_by_role("menuitem", name="Pin", exact=True).click()
    chat.reads(titles, "One", "Three", "Two")
    chat.page.get_by_role("heading", name="Pinned").wait_for()
    chat.page.reload()
    chat.reads(titles, "One", "Three", "Two")
    chat.page.get_by_role("button", name="All conversations").click()
    chat.page.get_by_role("menuitem", name="Choose several").click()
    for name in ("One", "Two"):
        chat.page.get_by_role("checkbox", name=name).focus()
        chat.page.keyboard.press("Space")
    chat.page.get_by_text("2 chosen").wait_for()
    chat.page.get_by_role("button", name="Delete chosen").click()
    chat.reads(titles, "Three")
    chat.page.get_by_role("button", name="Undo").click()
    chat.reads(titles, "One", "Three", "Two")


def test_a_conversation_is_printed_without_the_page_around_it(chat):
    say(chat, "Hello", "Lines.\n\n" * 80)
    chat.page.evaluate("window.print = () => (window.printed = true)")
    chat.page.get_by_role("button", name="This conversation").click()
    chat.page.get_by_role("menuitem", name="Print").click()
    chat.until("window.printed")
    chat.page.emulate_media(media="print")
    for gone in (".sidebar", ".header", ".composer", ".actions"):
        assert not chat.page.locator(gone).first.is_visible()
    # The whole of it, not what a window of the screen's height shows.
    assert chat.page.evaluate("document.documentElement.scrollHeight > 1.5 * innerHeight")


def test_exports_of_other_programs_are_taken_in(chat, tmp_path):
    node = {"role": "user", "content": "Capital of Peru?"}
    reply = {"role": "assistant", "content": "Lima."}
    at = time.time()
    chatgpt = {
        "title": "From ChatGPT",
        "create_time": at,
        "current_node": "b",
        "mapping": {
            "a": {
                "parent": None,
                "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hi"]}},
            },
            "b": {
                "parent": "a",
                "message": {
                    "author": {"role": "assistant"},
                    "content": {"content_type": "text", "parts": ["Ho"]},
                },
            },
        },
    }
    (tmp_path / "conversations.json").write_text(json.dumps([chatgpt]))
    (tmp_path / "messages.jsonl").write_text(json.dumps({"messages": [node, reply]}) + "\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with chat.page.expect_file_chooser() as chooser:
        chat.page.get_by_role("button", name="All conversations").click()
        chat.page.get_by_role("menuitem", name="Import from files").click()
    chooser.value.set_files([str(path) for path in sorted(tmp_path.glob("*.json*"))])
    chat.page.get_by_text("2 conversations imported. Left out: other.json").wait_for()
    titles = chat.page.locator(".conversations .entry-title")
    for title in ("Capital of Peru?", "From ChatGPT"):
        titles.filter(has_text=title).wait_for()
    titles.filter(has_text="From ChatGPT").click()
    chat.has_said("Hi")
    chat.reads(chat.page.locator(".reply .markdown"), "Ho")
