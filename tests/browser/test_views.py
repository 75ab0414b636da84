"""The main views, each looked at: what has to be in it is in it, and a screenshot is taken.

Screenshots go where `--screenshots FOLDER` says, else into the test's own folder; `--demo-run RUN` has them made with
a model that has something to say, like those in docs/images.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Chat

pytestmark = pytest.mark.browser

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
TABLET = {"viewport": {"width": 768, "height": 1024}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
QUESTIONS = ("Hello! Who are you?", "What is 37 plus 58?", "Tell me a story.")
SEED = 14
IN_DOUBT = 0.6  # the heat of a token that had good alternatives
MOST_BYTES = 200_000


@pytest.fixture
def talked(new_page: Callable, server) -> Callable[..., Chat]:
    """Opens the page and holds the conversation of the pictures."""

    def talk(**options) -> Chat:
        chat = Chat(new_page(server.address, **options), server.address).open()
        chat.set_up({"Seed": SEED})
        for question in QUESTIONS:
            chat.say(question)
        chat.page.mouse.move(640, 5)
        return chat

    return talk


def test_the_beginning(new_page, server, shoot):
    chat = Chat(new_page(server.address, **DESKTOP), server.address).open()
    suggestions = chat.page.get_by_role("list", name="Suggestions")
    suggestions.wait_for()  # of the model's card, which comes later than the model
    suggestions.get_by_role("button").nth(5).wait_for()
    shoot(chat, "chat-beginning")


@pytest.mark.parametrize("width", ["", "-768"])
def test_conversation_tokens_prompt_and_settings(talked, shoot, width, request):
    if width and not request.config.getoption("--screenshots", default=None):
        pytest.skip("to be looked at: --screenshots")
    chat = talked(**(TABLET if width else DESKTOP))
    assert chat.page.locator(".bubble").count() == 3
    shoot(chat, f"chat-conversation{width}")
    chat.page.get_by_role("button", name="Look inside").click()
    heats = chat.last.locator(".token").evaluate_all("""
        (tokens) => tokens.map((token) => Number(token.style.getPropertyValue("--heat")))""")
    in_doubt = min(range(len(heats)), key=lambda index: abs(heats[index] - IN_DOUBT))
    chat.last.locator(".token").nth(in_doubt).hover()
    chat.last.locator(".alternative").nth(7).wait_for()
    shoot(chat, f"chat-tokens{width}")
    chat.page.mouse.move(640, 5)
    chat.last.locator(".inspector").wait_for(state="detached")
    chat.page.get_by_role("button", name="Look inside").click()
    chat.page.get_by_role("button", name="Prompt", exact=True).click()
    chat.page.locator(".prompt-messages").wait_for()
    shoot(chat, f"chat-prompt{width}")
    if width:
        chat.page.keyboard.press("Escape")  # a sheet lies over the page there
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    chat.page.get_by_role("slider").nth(4).wait_for()
    shoot(chat, f"chat-settings{width}")
    if width:
        chat.page.keyboard.press("Escape")
    chat.message.fill("/")
    chat.page.get_by_role("option").first.wait_for()
    shoot(chat, f"chat-commands{width}")


def test_markdown_and_a_problem(new_page, server, shoot):
    chat = Chat(new_page(server.address, **DESKTOP), server.address).open()
    chat.answer_with(
        {"chatsmith": {"parts": [{"kind": "python", "text": "37+58"}, {"kind": "output", "text": "95"}]}},
        {
            "content": "Adding is **repeated counting**:\n\n| a | b | sum |\n|--:|--:|--:|\n| 37 | 58 | 95 |\n\n"
        },
        {"content": "```python\ndef add(a: int, b: int) -> int:\n    return a + b  # that is all\n```\n\n"},
        {"content": "For many numbers, $\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}$."},
    )
    chat.say("How do you add?")
    chat.last.locator(".tool-card summary").click()
    chat.last.locator(".katex").wait_for()
    chat.last.locator(".hljs-keyword").first.wait_for()
    shoot(chat, "chat-markdown")
    chat.page.unroute_all()
    chat.page.route("**/v1/chat/completions", lambda route: route.abort())
    chat.page.route("**/v1/models", lambda route: route.abort())
    chat.say("And are you still there?")
    chat.last.get_by_role("button", name="Try again").wait_for()
    shoot(chat, "chat-problem")


def test_a_phone(talked, shoot):
    chat = talked(**PHONE)
    shoot(chat, "chat-phone")
    chat.message.fill("/")
    chat.page.get_by_role("option").first.wait_for()
    shoot(chat, "chat-phone-commands")
    chat.message.fill("")
    chat.page.get_by_role("button", name="Look inside").tap()
    chat.last.locator(".token").nth(3).tap()
    chat.last.locator(".alternative").first.wait_for()
    shoot(chat, "chat-phone-tokens")
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("button", name="Show conversations").tap()
    chat.page.get_by_role("dialog", name="Conversations").wait_for()
    shoot(chat, "chat-phone-conversations")


@pytest.mark.long
@pytest.mark.parametrize(("width", "options"), [(390, PHONE), (768, TABLET), (1280, DESKTOP)])
def test_side_by_side_settings_ratings_and_the_card(new_page, server, shoot, width, options):
    chat = Chat(new_page(server.address, **options), server.address).open()
    chat.set_up({"Seed": SEED, "Longest reply": 40})
    chat.message.fill("/settings")
    chat.message.press("Enter")
    if chat.page.get_by_role("textbox", name="System prompt").is_hidden():
        chat.page.get_by_role("button", name="Send").click()
    chat.page.get_by_text("Side by side", exact=True).click()
    field = chat.page.get_by_role("spinbutton", name="Replies at once")
    field.fill("3")
    chat.page.get_by_role("button", name="Presets", exact=True).click()
    chat.page.get_by_role("menuitem", name="Save as a preset").click()
    chat.until("document.activeElement.closest('.presets') && document.activeElement.matches('input')")
    chat.page.keyboard.type("Three at once")
    chat.page.keyboard.press("Enter")
    chat.page.get_by_role("combobox", name="Preset").wait_for()
    chat.page.locator(".notice").wait_for(state="detached")
    shoot(chat, f"chat-settings-{width}")
    for group in ("Penalties and biases", "Form and tools"):
        chat.page.get_by_text(group, exact=True).click()
    chat.page.get_by_label("JSON schema").scroll_into_view_if_needed()
    shoot(chat, f"chat-more-settings-{width}")
    chat.page.get_by_role("button", name="Close settings").click()
    for question in ("What is the opposite of day?", "Tell me a story."):
        chat.message.fill(question)
        chat.page.get_by_role("button", name="Send").click()
        chat.page.locator(".said", has_text=question).wait_for()
        chat.wait_for_all()
    round = chat.page.locator(".round").last
    round.get_by_role("button", name="Good reply").first.click()
    round.get_by_role("button", name="Bad reply").nth(1).click()
    round.get_by_role("button", name="Go on from this").nth(1).click()
    chat.page.mouse.move(640, 5)
    shoot(chat, f"chat-side-by-side-{width}")
    round.get_by_role("button", name="Actions for this reply").nth(1).click()
    shoot(chat, f"chat-reply-menu-{width}")
    chat.page.get_by_role("menuitem", name="Edit reply").click()
    shoot(chat, f"chat-edit-reply-{width}")
    chat.page.keyboard.press("Escape")
    for command, name in (("/rated", "Rated replies"), ("/model", "About the model")):
        chat.message.fill(command + " ")
        chat.page.get_by_role("button", name="Send").click()
        chat.page.get_by_role("heading", name=name).wait_for()
        chat.page.wait_for_timeout(300)
        shoot(chat, f"chat-{command[1:]}-{width}")
        chat.page.keyboard.press("Escape")
    if width < 1280:
        chat.page.get_by_role("button", name="Show conversations").click()
    chat.page.get_by_role("button", name="All conversations").click()
    chat.page.get_by_role("menuitem", name="Choose several").click()
    chat.page.get_by_role("checkbox").first.check()
    shoot(chat, f"chat-choosing-{width}")


def test_the_pictures_of_the_pages_are_small():
    folder = Path(__file__).parents[2] / "docs" / "images"
    assert [path.name for path in folder.glob("chat-*.png") if path.stat().st_size > MOST_BYTES] == []
