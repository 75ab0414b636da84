"""Looking inside: tokens by probability, their alternatives, going on from one, and the prompt as it was rendered."""

import re

import pytest

pytestmark = pytest.mark.browser


def look_inside(chat):
    chat.page.get_by_role("button", name="Look inside").click()
    return chat.last.locator(".token")


def test_a_reply_is_its_tokens_tinted_by_probability(chat):
    chat.set_up({"Longest reply": 12, "Seed": 3})
    chat.say("Hello!")
    said = chat.last.locator(".markdown").inner_text()
    tokens = look_inside(chat)
    assert tokens.count() == 12
    heats = [
        float(token.evaluate("token => token.style.getPropertyValue('--heat')")) for token in tokens.all()
    ]
    assert all(0 <= heat <= 1 for heat in heats)
    assert max(heats) > 0, "an untrained model is surprised by what it says"
    assert all(re.search(r"%$", token.get_attribute("aria-label") or "") for token in tokens.all())
    assert look_inside(chat).count() == 0
    assert chat.last.locator(".markdown").inner_text() == said


def test_pointing_at_a_token_shows_what_else_it_might_have_been(chat):
    chat.set_up({"Longest reply": 8})
    chat.say("Hello!")
    token = look_inside(chat).nth(3)
    token.hover()
    inspector = chat.last.locator(".inspector")
    inspector.wait_for()
    inspector.locator(".alternative").nth(7).wait_for()
    shares = inspector.locator(".alternative span").all_inner_texts()
    assert len(shares) == 8
    numbers = [float(re.search(r"[\d.]+", share)[0]) for share in shares]
    assert numbers == sorted(numbers, reverse=True)
    chat.page.mouse.move(5, 5)
    inspector.wait_for(state="detached")


def test_choosing_an_alternative_goes_on_from_it_in_a_new_branch(chat):
    sent: list[dict] = []
    chat.page.on(
        "request", lambda asked: sent.append(asked.post_data_json) if "completions" in asked.url else None
    )
    chat.set_up({"Longest reply": 8, "Seed": 5})
    chat.say("Hello!")
    tokens = look_inside(chat)
    before = tokens.all_inner_texts()
    tokens.nth(3).click()
    other = chat.last.locator(".alternative:not(.is-chosen):enabled code:not(.is-special)").first
    other.click()
    chat.last.get_by_text("2/2").wait_for()
    chat.wait()
    after = tokens.all_inner_texts()
    assert after[:3] == before[:3]
    assert after[3] != before[3]
    assert len(after) == 12, "four tokens were given, eight more were written"
    assert len(sent[-1]["assistant_prefix_ids"]) == 4
    assert chat.last.locator(".token.is-picked").count() == 1
    # The text is that of the tokens, those that were given included.
    chat.page.get_by_role("button", name="Look inside").click()
    letters = "".join(token for token in after[:3] if "⟨" not in token)
    assert chat.last.locator(".markdown").inner_text().strip().startswith(letters.strip()[:3])
    chat.button("Earlier version").click()
    assert look_inside(chat).all_inner_texts() == before


def test_tokens_by_keyboard_alone(chat):
    chat.set_up({"Longest reply": 6})
    chat.say("Hello!")
    tokens = look_inside(chat)
    tokens.first.focus()
    chat.page.keyboard.press("ArrowRight")
    chat.page.keyboard.press("ArrowRight")
    assert chat.page.evaluate("document.activeElement.dataset.index") == "2"
    chat.last.locator(".inspector").wait_for()
    chat.page.keyboard.press("Enter")
    chat.until("document.activeElement.classList.contains('alternative')")
    chat.page.keyboard.press("Escape")
    assert chat.page.evaluate("document.activeElement.dataset.index") == "2"
    chat.page.keyboard.press("Enter")
    chat.until("document.activeElement.classList.contains('alternative')")
    chat.page.keyboard.press("Enter")
    chat.last.get_by_text("2/2").wait_for()


def test_a_conversation_of_before_keeps_its_tokens(chat):
    chat.set_up({"Longest reply": 5})
    chat.say("Hello!")
    chat.page.reload()
    chat.last.wait_for()
    assert look_inside(chat).count() == 5


def test_the_prompt_shows_marks_messages_and_what_was_cached(chat):
    chat.set_up({"Longest reply": 20})
    chat.say("Hello there, my friend, how are you on this fine day?")
    chat.page.get_by_role("button", name="Prompt", exact=True).click()
    sheet = chat.page.get_by_role("complementary", name="Prompt")
    sheet.locator(".prompt-messages").wait_for()
    assert [h3.split()[0] for h3 in sheet.locator("h3").all_inner_texts()] == [
        "beginning",
        "user",
        "assistant",
    ]
    marks = sheet.locator(".prompt-messages .is-special").all_inner_texts()
    assert marks == ["bos", "user_start", "user_end", "assistant_start", "assistant_end"]
    total, cached, context = map(int, sheet.locator("dd").all_inner_texts())
    counts = [
        int(text)
        for text in re.findall(r"(\d+) tokens?", " ".join(sheet.locator("h3 span").all_inner_texts()))
    ]
    assert sum(counts) == total
    assert context == 128
    assert 0 < cached < total
    assert sheet.locator(".prompt-messages .is-cached").count() == cached
    chat.last.hover()
    chat.act("Show its prompt")
    sheet.get_by_text("What the model was given before it wrote that reply.").wait_for()
    sheet.get_by_role("heading", name="reply to come").wait_for()
