"""The pages in Japanese: chosen by the browser or by hand, written with an input method, and as wide as the screen."""

from collections.abc import Callable

import pytest

from tests.browser.conftest import Chat, Server
from tests.browser.test_access import serious_findings
from tests.browser.test_runs import opened
from tests.browser.test_typing import press_while_composing
from tests.browser.test_views import DESKTOP, PHONE, TABLET

pytestmark = pytest.mark.browser

JAPANESE = {"locale": "ja-JP"}
ENGLISH_LEFT = """
() => {
  const isTheSame = /^(chatsmith|English|[/][a-z]+|tiny.*|Top-p|Top-k|Min-p|Enter|Shift|Esc|Ctrl)$|^[[]?{"/;
  const isJapanese = /[\\u3040-\\u30ff\\u4e00-\\u9fff]/;
  const passedOver = "script, style, option, code, pre, .markdown *, .bubble, .token, .suggestions *";
  const found = [...document.querySelectorAll(`body *:not(${passedOver})`)].flatMap((element) => [
    ...[...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent),
    ...["aria-label", "title", "placeholder"].map((name) => element.getAttribute(name) ?? ""),
  ]);
  const texts = new Set(found.map((text) => text.trim()));
  return [...texts].filter((text) => /[A-Za-z]{3}/.test(text) && !isJapanese.test(text) && !isTheSame.test(text));
}"""


@pytest.fixture
def open_chat(new_page: Callable, server: Server) -> Callable[..., Chat]:
    def open_it(**options) -> Chat:
        return Chat(new_page(server.address, **options), server.address).open()

    return open_it


def no_wider_than_the_screen(chat: Chat) -> bool:
    """By the device: on a phone the inner width grows with what is too wide."""
    return chat.page.evaluate("document.documentElement.scrollWidth") <= chat.page.viewport_size["width"]


def test_a_conversation_in_japanese(open_chat, shoot):
    chat = open_chat(**JAPANESE, **DESKTOP)
    page = chat.page
    assert page.locator("html").get_attribute("lang") == "ja"
    chat.reads(page.locator("h1"), "モデルに話しかけてみましょう")
    files = page.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    assert any("/ja-" in file for file in files) and not any("/en-" in file for file in files), (
        "one language is loaded"
    )
    shoot(chat, "ja-beginning")
    field = page.get_by_role("textbox", name="メッセージ", exact=True)
    field.focus()
    # The input method offers words; the Enter that takes one must not send.
    typing = page.context.new_cdp_session(page)
    typing.send("Input.imeSetComposition", {"text": "こんにちは", "selectionStart": 5, "selectionEnd": 5})
    press_while_composing(field, "Enter")
    assert page.locator(".said").count() == 0
    typing.send("Input.insertText", {"text": "こんにちは。お元気ですか。"})
    assert field.input_value() == "こんにちは。お元気ですか。"
    page.keyboard.press("Enter")
    chat.has_said("こんにちは。お元気ですか。")
    chat.last.wait_for()
    page.get_by_role("button", name="停止", exact=True).wait_for(state="detached")
    chat.last.get_by_role("button", name="再生成").wait_for()
    assert "トークン" in chat.last.locator(".figures").inner_text()
    chat.reads(page.locator(".conversations h2"), "今日")
    page.get_by_role("button", name="内部を見る").click()
    chat.last.locator(".token").first.hover()
    chat.last.locator(".alternative").first.wait_for()
    shoot(chat, "ja-tokens")
    page.mouse.move(640, 5)
    page.get_by_role("button", name="設定", exact=True).click()
    page.get_by_role("spinbutton", name="温度").wait_for()
    shoot(chat, "ja-settings")
    assert page.evaluate(ENGLISH_LEFT) == []
    assert serious_findings(chat) == []


def test_the_language_is_chosen_in_the_settings_and_remembered(open_chat):
    chat = open_chat()
    page = chat.page
    chat.say("Hello")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Language").select_option("ja")
    page.get_by_label("表示言語").wait_for()
    chat.until(
        "document.activeElement?.matches('.language-choice select') && document.documentElement.lang === 'ja'"
    )
    assert chat.replies.count() == 1, "what was open stays open"
    page.reload()
    page.get_by_role("textbox", name="メッセージ", exact=True).wait_for()
    page.get_by_role("button", name="設定", exact=True).click()
    page.get_by_label("表示言語").select_option("")
    page.get_by_label("Language").wait_for()
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_language_that_cannot_be_loaded_leaves_english(new_page, server):
    page = new_page(server.address, **JAPANESE)
    page.route("**/assets/ja-*", lambda route: route.abort())
    page.goto(server.address)
    page.get_by_role("heading", name="Say something to your model").wait_for()


@pytest.mark.parametrize("view", ["beginning", "conversation", "settings", "prompt", "drawer", "commands"])
def test_japanese_fits_a_phone(open_chat, shoot, view):
    chat = open_chat(**JAPANESE, **PHONE)
    page = chat.page
    if view == "conversation":
        page.get_by_role("textbox", name="メッセージ", exact=True).fill("日本語で自己紹介をしてください。")
        page.get_by_role("button", name="送信").click()
        chat.last.wait_for()
        page.get_by_role("button", name="停止", exact=True).wait_for(state="detached")
    elif view in ("settings", "prompt"):
        page.get_by_role("button", name="プロンプトと設定").click()
        page.get_by_role("menuitem", name="設定" if view == "settings" else "プロンプト").click()
        for group in page.locator(".setting-group summary").all():
            group.click()
    elif view == "drawer":
        page.get_by_role("button", name="会話の一覧を表示").click()
        page.get_by_role("searchbox").wait_for()
    elif view == "commands":
        page.get_by_role("textbox", name="メッセージ", exact=True).fill("/")
        page.get_by_role("option").first.wait_for()
    assert no_wider_than_the_screen(chat)
    clipped = """
      [...document.querySelectorAll("button:not(.entry-title), .setting-name, h1, h2, .gauge span")]
        .filter((one) => !one.matches(".visually-hidden") && one.checkVisibility())
        .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0)
        .map((one) => one.textContent)"""
    assert page.evaluate(clipped) == [], "no label is cut off"
    assert page.evaluate(ENGLISH_LEFT) == []
    shoot(chat, f"ja-{view}-390")


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "device",
    [PHONE, pytest.param(TABLET, marks=LONG), pytest.param(DESKTOP, marks=LONG)],
    ids=["390", "768", "1280"],
)
def test_the_training_page_in_japanese(new_page, watched, shoot, device):
    for view, path in (("list", "runs"), ("done", "runs#/done"), ("stopped", "runs#/stopped/with/done")):
        page = opened(new_page, watched, path, **JAPANESE, **device)
        assert page.page.locator("html").get_attribute("lang") == "ja"
        assert no_wider_than_the_screen(page)
        if view == "stopped":
            page.reads(page.page.locator("h1"), "pretrain のステップ 400 / 1,000 で停止")
            assert "損失（nats/トークン）" in page.page.locator(".chart h3").all_inner_texts()
            page.page.get_by_label("表示言語").select_option("en")
            page.reads(page.page.locator("h1"), "Stopped at step 400 of 1,000, pretrain")
            page.page.get_by_label("Language").select_option("ja")
            page.page.get_by_label("表示言語").wait_for()
        shoot(page, f"ja-runs-{view}-{device['viewport']['width']}", full_page=True)
