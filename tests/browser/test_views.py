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
def shoot(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Chat, str], None]:
    folder = request.config.getoption("--screenshots", default=None) or tmp_path

    def take(chat: Chat, name: str) -> None:
        for scheme in ("light", "dark"):
            chat.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            chat.page.wait_for_timeout(150)  # what fades has faded
            picture = chat.page.screenshot(path=folder / f"chat-{name}-{scheme}.png")
            assert len(picture) > 10_000, "an empty page makes a smaller picture"

    return take


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
    assert chat.page.get_by_role("list", name="Suggestions").get_by_role("button").count() == 6
    shoot(chat, "beginning")


def test_conversation_tokens_prompt_and_settings(talked, shoot):
    chat = talked(**DESKTOP)
    assert chat.page.locator(".bubble").count() == 3
    shoot(chat, "conversation")
    chat.page.get_by_role("button", name="Look inside").click()
    heats = chat.last.locator(".token").evaluate_all("""
        (tokens) => tokens.map((token) => Number(token.style.getPropertyValue("--heat")))""")
    in_doubt = min(range(len(heats)), key=lambda index: abs(heats[index] - IN_DOUBT))
    chat.last.locator(".token").nth(in_doubt).hover()
    assert chat.last.locator(".alternative").count() == 8
    shoot(chat, "tokens")
    chat.page.mouse.move(640, 5)
    chat.last.locator(".inspector").wait_for(state="detached")
    chat.page.get_by_role("button", name="Look inside").click()
    chat.page.get_by_role("button", name="Prompt", exact=True).click()
    chat.page.locator(".prompt-messages").wait_for()
    shoot(chat, "prompt")
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    assert chat.page.get_by_role("slider").count() == 5
    shoot(chat, "settings")


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
    shoot(chat, "markdown")
    chat.page.unroute_all()
    chat.page.route("**/v1/chat/completions", lambda route: route.abort())
    chat.page.route("**/v1/models", lambda route: route.abort())
    chat.say("And are you still there?")
    chat.last.get_by_role("button", name="Try again").wait_for()
    shoot(chat, "problem")


def test_a_phone(talked, shoot):
    chat = talked(**PHONE)
    shoot(chat, "phone")
    chat.page.get_by_role("button", name="Look inside").tap()
    chat.last.locator(".token").nth(3).tap()
    chat.last.locator(".alternative").first.wait_for()
    shoot(chat, "phone-tokens")
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("button", name="Show conversations").tap()
    chat.page.get_by_role("dialog", name="Conversations").wait_for()
    shoot(chat, "phone-conversations")


def test_the_pictures_of_the_pages_are_small():
    folder = Path(__file__).parents[2] / "docs" / "images"
    assert [path.name for path in folder.glob("chat-*.png") if path.stat().st_size > MOST_BYTES] == []
