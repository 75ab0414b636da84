"""Ways to write: files that go along, the next message while a reply is written, other words in a reply, raw text."""

import json

import pytest

from tests.browser.conftest import requests_of

pytestmark = pytest.mark.browser

DROP = """(box, files) => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
  const kind = %s;
  const init = { bubbles: true, cancelable: true };
  box.dispatchEvent(kind === "drop" ? new DragEvent("drop", { ...init, dataTransfer: data })
                                    : new ClipboardEvent("paste", { ...init, clipboardData: data }));
}"""


def give(chat, kind: str, **files: bytes) -> None:
    """Drop files on the message field, or paste them into it."""
    named = [[name.replace("_", "."), list(content)] for name, content in files.items()]
    chat.message.evaluate(DROP % json.dumps(kind), named)


def edit(chat, text: str) -> None:
    """Write another text in the place of the last reply's, which is not yet kept."""
    chat.act("Edit reply")
    chat.until("document.activeElement.ariaLabel === 'Edit reply'")  # before that, it moves the cursor
    chat.page.keyboard.press("Control+A")
    chat.page.keyboard.type(text)


def test_text_files_go_along_by_drop_and_paste_and_others_are_refused(chat):
    sent = requests_of(chat)
    chat.answer_with({"content": "I see."})
    give(chat, "drop", notes_txt="Grüße,\n```\ncode\n```\n".encode(), photo_jpg=b"\xff\xd8\xff\x00")
    chat.page.get_by_text("photo.jpg: only text files up to 8 MB can go along.").wait_for()
    give(chat, "paste", more_md=b"# More")
    chat.page.get_by_text("more.md").wait_for()
    chat.page.get_by_role("button", name="Remove more.md").click()
    give(chat, "paste", last_md=b"# Last")
    chat.page.get_by_text("last.md").wait_for()
    chat.message.press_sequentially("Read this.")
    chat.page.keyboard.press("Enter")
    chat.wait()
    assert sent[0]["messages"][-1]["content"] == (
        "Read this.\n\nnotes.txt\n````\nGrüße,\n```\ncode\n```\n````\n\nlast.md\n```\n# Last\n```"
    )
    assert chat.page.locator(".pasted").count() == 0


def test_the_next_message_waits_for_the_reply_or_comes_back_when_that_is_stopped(chat):
    chat.page.evaluate("network.holds = (_, event) => event > 3; network.endless = true")
    chat.set_up({"Longest reply": 24})
    chat.message.press_sequentially("Tell me a story.")
    chat.page.keyboard.press("Enter")
    chat.page.get_by_role("button", name="Stop", exact=True).wait_for()
    chat.message.press_sequentially("And another.")
    chat.page.keyboard.press("Enter")
    chat.page.locator(".queued").wait_for()
    chat.holds(chat.message, "")
    chat.page.evaluate("network.holds = (request, event) => request > 1 && event > 3")
    chat.has_said("Tell me a story.", "And another.")
    chat.page.locator(".queued").wait_for(state="detached")
    chat.message.press_sequentially("Never mind.")
    chat.page.keyboard.press("Enter")
    chat.page.locator(".queued").wait_for()
    chat.page.keyboard.press("Escape")
    chat.until("document.querySelector('#message').value === 'Never mind.'")
    chat.has_said("Tell me a story.", "And another.")


def test_a_reply_is_put_in_other_words_and_gone_on_from(chat):
    sent = requests_of(chat)
    chat.answer_with({"content": "The cat sat."})
    chat.say("Tell me a story.")
    chat.page.unroute_all()
    chat.answer_with({"content": " and slept."})
    edit(chat, "The dog sat")
    chat.page.keyboard.press("Enter")
    chat.reads(chat.page.locator(".reply .markdown"), "The dog sat and slept.")
    assert sent[1]["messages"][-1] == {"role": "assistant", "content": "The dog sat"}
    assert sent[1]["continue_final_message"] is True
    chat.page.get_by_label("Version 2 of 2").wait_for()
    # Kept as it is written, without the model.
    chat.wait()
    edit(chat, "The end.")
    chat.page.get_by_role("button", name="Keep").click()
    chat.page.get_by_label("Version 3 of 3").wait_for()
    chat.reads(chat.page.locator(".reply .markdown"), "The end.")
    assert len(sent) == 2
    chat.say("And then?")
    assert [message["content"] for message in sent[2]["messages"]] == [
        "Tell me a story.",
        "The end.",
        "And then?",
    ]


def test_an_edited_reply_is_gone_on_from_by_the_model_itself_and_shows_its_tokens(chat):
    chat.set_up({"Longest reply": 6})
    chat.say("Tell me a story.")
    edit(chat, "Once there was a")
    chat.page.keyboard.press("Enter")
    chat.page.get_by_label("Version 2 of 2").wait_for()
    chat.wait()
    assert chat.text().startswith("Once there was a")
    chat.button("Show tokens").click()
    assert chat.last.locator(".token").count() == 1 + 6
    chat.last.locator(".token").first.click()
    chat.page.get_by_text("You wrote this.").wait_for()


def test_raw_text_is_gone_on_from_as_it_stands(chat):
    sent = requests_of(chat)
    chat.set_up({"Longest reply": 8})
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    chat.page.get_by_text("Form and tools", exact=True).click()
    chat.page.get_by_role("checkbox", name="Go on from the text itself").check()
    chat.page.keyboard.press("Escape")
    field = chat.page.get_by_placeholder("The text to go on from")
    field.press_sequentially("The sun is ")
    chat.page.keyboard.press("Enter")
    chat.wait()
    assert sent[0]["prompt"] == "The sun is " and "messages" not in sent[0] and sent[0]["max_tokens"] == 8
    said = chat.last.locator(".raw").text_content()
    assert said
    chat.button("Show tokens").click()
    assert 1 <= chat.last.locator(".token").count() <= 8  # a text may end before
    chat.last.locator(".token").first.click()
    chat.last.locator(".alternative:not(.is-chosen):enabled").first.click()
    chat.page.get_by_label("Version 2 of 2").wait_for()
    chat.wait()
    picked = chat.last.locator(".token.is-picked").text_content().replace("↵", "\n")
    assert sent[1]["prompt"] == "The sun is " + picked
    chat.button("Show tokens").click()
    before = chat.last.locator(".raw").text_content()
    field.press_sequentially(" So")
    chat.page.keyboard.press("Enter")
    chat.page.locator(".said").nth(1).wait_for()
    chat.wait()
    assert sent[2]["prompt"] == f"The sun is {before} So"
