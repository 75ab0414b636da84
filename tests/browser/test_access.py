"""For everyone: by keyboard, by screen reader, on a phone, in the dark, and without the network."""

import gzip
import re
from pathlib import Path

import pytest

from tests.browser.conftest import STATIC, Chat

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
FIRST_LOAD_BYTES = 350_000


def serious_findings(chat) -> list[str]:
    """What axe finds serious or critical on the page as it stands."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: make web")
    if not chat.page.evaluate("'axe' in window"):
        chat.page.evaluate(AXE.read_text())
    found = chat.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:160]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def say_with_everything(chat) -> None:
    table = "| a | b |\n|--|--|\n| 1 | [x](https://example.org) |"
    code = "```python\n# no\nx = 'a' + 1\n```"
    chat.answer_with(
        {"chatsmith": {"parts": [{"kind": "python", "text": "1+1"}, {"kind": "output", "text": "2"}]}},
        {"content": f"# Two\n\n{table}\n\n{code}\n"},
    )
    chat.say("Show me.")
    chat.last.locator(".hljs-string").wait_for()
    chat.page.unroute_all()
    chat.set_up({"Longest reply": 8})
    chat.say("And now you.")


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_axe_finds_nothing_serious_beside_the_main_views(new_page, server, scheme):
    """Replies side by side, one rated and one edited; what can be done with many; the rarely used settings."""
    chat = Chat(new_page(server.address, color_scheme=scheme), server.address).open()
    chat.set_up({"Longest reply": 8})
    found: dict[str, list[str]] = {}
    chat.page.get_by_role("button", name="Settings", exact=True).click()
    for group in ("Side by side", "Penalties and biases", "Form and tools"):
        chat.page.get_by_text(group, exact=True).click()
    chat.page.get_by_role("spinbutton", name="Replies at once").fill("2")
    chat.page.get_by_label("Logit bias").fill("none")
    found["all settings"] = serious_findings(chat)
    chat.page.get_by_role("button", name="Close settings").click()
    chat.message.fill("Twice.")
    chat.message.press("Enter")
    chat.page.locator(".round .markdown").nth(1).wait_for()
    chat.wait_for_all()
    chat.page.locator(".round").get_by_role("button", name="Good reply").first.click()
    found["side by side"] = serious_findings(chat)
    chat.page.locator(".round").get_by_role("button", name="Actions for this reply").nth(1).click()
    found["menu"] = serious_findings(chat)
    chat.page.get_by_role("menuitem", name="Edit reply").click()
    found["edited reply"] = serious_findings(chat)
    chat.page.keyboard.press("Escape")
    for command, name in (("/rated", "Rated replies"), ("/model", "About the model")):
        chat.message.fill(command)
        chat.message.press("Enter")
        chat.page.get_by_role("heading", name=name).wait_for()
        chat.page.wait_for_timeout(100)
        found[name] = serious_findings(chat)
        chat.page.keyboard.press("Escape")
    chat.page.get_by_role("button", name="All conversations").click()
    chat.page.get_by_role("menuitem", name="Choose several").click()
    found["choosing"] = serious_findings(chat)
    assert "\n".join(f"{view}: {finding}" for view, findings in found.items() for finding in findings) == ""


# Each theme in a page of its own: right after a change of theme, axe still finds colours of the one before.
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_axe_finds_nothing_serious_in_any_view(new_page, server, scheme):
    chat = Chat(new_page(server.address, color_scheme=scheme), server.address).open()
    found = {"beginning": serious_findings(chat)}
    say_with_everything(chat)
    found["conversation"] = serious_findings(chat)
    chat.page.get_by_role("button", name="Look inside").click()
    chat.last.locator(".token").first.click()
    found["tokens"] = serious_findings(chat)
    chat.page.keyboard.press("Escape")
    for sheet in ("Prompt", "Settings"):
        chat.page.get_by_role("button", name=sheet, exact=True).click()
        chat.page.get_by_role("complementary", name=sheet).locator("p, span").first.wait_for()
        found[sheet] = serious_findings(chat)
    chat.message.fill("/")
    found["commands"] = serious_findings(chat)
    chat.message.fill("/keys")
    chat.message.press("Enter")
    chat.page.get_by_role("dialog", name="Keyboard shortcuts").wait_for()
    found["shortcuts"] = serious_findings(chat)
    assert "\n".join(f"{view}: {finding}" for view, findings in found.items() for finding in findings) == ""


def test_a_conversation_by_keyboard_alone(chat):
    chat.until("document.activeElement.id === 'message'")
    chat.page.keyboard.type("/temperature 0")
    chat.page.keyboard.press("Enter")
    chat.page.keyboard.type("First line")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("second line")
    chat.page.keyboard.press("Enter")
    chat.wait()
    assert chat.page.locator(".bubble").text_content() == "First line\nsecond line"
    chat.page.keyboard.press("ArrowUp")
    chat.until("document.activeElement.value === 'First line\\nsecond line'")
    chat.page.keyboard.press("Escape")
    chat.until("document.activeElement.id === 'message'")
    chat.page.keyboard.press("ArrowUp")
    chat.until("document.activeElement.ariaLabel === 'Edit message'")
    chat.page.keyboard.press("Control+A")
    chat.page.keyboard.type("Edited")
    chat.page.keyboard.press("Enter")
    chat.page.locator(".said").get_by_text("2/2").wait_for()
    chat.wait()
    chat.page.keyboard.press("Control+k")
    chat.until("document.activeElement.id === 'search'")
    chat.page.keyboard.press("Control+Shift+o")
    chat.page.get_by_text("Say something to your model").wait_for()
    chat.until("document.activeElement.id === 'message'")
    chat.page.evaluate("document.activeElement.blur()")
    chat.page.keyboard.press("/")
    chat.until("document.activeElement.id === 'message'")
    assert chat.message.input_value() == "/"


def test_the_focus_goes_through_the_page_in_order_and_back_to_where_it_was(chat):
    chat.until("document.activeElement.id === 'message'")
    chat.page.keyboard.press("Tab")  # from the field, whatever comes after it …
    chat.page.evaluate("document.activeElement.blur()")
    chat.page.keyboard.press("Tab")
    assert chat.page.evaluate("document.activeElement.className") == "skip"
    chat.page.keyboard.press("Enter")
    chat.until("document.activeElement.id === 'message'")
    order = chat.page.evaluate("""
        [...document.querySelectorAll("button, input, textarea, select, a[href], [tabindex='0']")]
          .filter((element) => element.tabIndex >= 0 && !element.disabled && element.checkVisibility())
          .map((element) => (element.closest("aside, header, .transcript, .composer") ?? element).className)
    """)
    groups = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert groups == ["skip", "sidebar", "header", "transcript", "composer"]
    chat.page.get_by_role("button", name="Settings", exact=True).focus()
    chat.page.keyboard.press("Enter")
    chat.until("document.activeElement.closest('.sheet') !== null")
    chat.page.keyboard.press("Escape")
    chat.until("document.activeElement.ariaLabel === 'Settings'")


def test_a_reply_is_announced_once_when_it_is_whole(chat):
    chat.set_up({"Longest reply": 6})
    chat.page.evaluate("""
        window.heard = [];
        const region = document.querySelector("#app > .visually-hidden[role=status]");
        new MutationObserver(() => heard.push(region.textContent)).observe(region,
          { childList: true, characterData: true, subtree: true });
    """)
    chat.say("Hello!")
    chat.until("heard.length > 0")
    heard = list(filter(None, chat.page.evaluate("heard")))
    assert len(heard) == 1
    assert heard[0].startswith("Reply")


@pytest.mark.parametrize("width", [320, 375])
def test_on_a_small_phone_nothing_lies_over_the_models_name(new_page, server, width):
    small = PHONE | {"viewport": {"width": width, "height": 640}}
    chat = Chat(new_page(server.address, **small), server.address)

    def two_models(route) -> None:
        listed = route.fetch().json()
        listed["data"] = [listed["data"][0] | {"id": name} for name in ("kindergarten", "fine-tuned-only")]
        route.fulfill(json=listed)

    chat.page.route("**/v1/models", two_models)
    chat.open()
    header = chat.page.locator(".header")
    name, arrow = header.get_by_role("combobox", name="Model"), header.locator(".model-choice .icon")
    left, right = name.bounding_box(), header.locator(".header-tools").bounding_box()
    on_name = arrow.bounding_box()
    assert left and right and on_name
    assert left["x"] + left["width"] <= right["x"]
    assert right["x"] + right["width"] <= width
    padding = name.evaluate("(select) => parseFloat(getComputedStyle(select).paddingRight)")
    end = left["x"] + left["width"]
    assert end - padding <= on_name["x"] and on_name["x"] + on_name["width"] <= end
    assert left["width"] - padding >= 60, "enough to tell it from another"
    fits = chat.message.evaluate("""(field) => {
      const pen = document.createElement("canvas").getContext("2d");
      pen.font = getComputedStyle(field).font;
      return pen.measureText(field.placeholder).width <= field.clientWidth;
    }""")
    assert fits, "the hint in the message field is cut"


@pytest.mark.parametrize("width", [320, 375])
def test_on_a_small_phone_what_is_wrong_is_said_in_the_header_whole(new_page, server, width):
    small = PHONE | {"viewport": {"width": width, "height": 640}}
    chat = Chat(new_page(server.address, **small), server.address)
    refusal = {"error": {"message": "A key is needed.", "type": "server_error", "param": None, "code": None}}
    chat.page.route("**/v1/models", lambda route: route.fulfill(status=401, json=refusal))
    chat.page.goto(server.address)
    chat.page.get_by_role("dialog", name="This server asks for a key").wait_for()
    chat.page.keyboard.press("Escape")
    chat.reads(chat.page.locator(".model-picker"), "needs a key")
    state, tools = (
        chat.page.locator(part).bounding_box() for part in (".model-state", ".header .header-tools")
    )
    assert state and tools
    assert state["x"] + state["width"] <= tools["x"]
    assert chat.page.locator(".model-state").evaluate("(state) => state.scrollWidth <= state.clientWidth")


def test_on_a_phone_everything_fits_and_can_be_reached(new_page, server):
    chat = Chat(new_page(server.address, **PHONE), server.address).open()

    def overflow() -> int:
        return chat.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert overflow() <= 0
    chat.answer_with(
        {
            "content": "| "
            + " | ".join("abcdefghij")
            + " |\n|"
            + "--|" * 10
            + "\n\n```\n"
            + "x" * 200
            + "\n```"
        }
    )
    chat.say("Something wide, with_a_word_that_has_no_place_to_be_broken_" + "x" * 60)
    chat.page.unroute_all()
    assert overflow() <= 0
    chat.set_up({"Longest reply": 6})
    chat.say("Hello!")
    chat.page.get_by_role("button", name="Look inside").tap()
    chat.last.locator(".token").nth(2).tap()
    chat.page.wait_for_timeout(500)  # it stays, though the finger has left
    box = chat.last.locator(".inspector").bounding_box()
    assert box is not None
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844
    chat.last.locator(".figures").tap()
    chat.last.locator(".inspector").wait_for(state="detached")
    chat.last.locator(".token").nth(2).tap()
    chat.last.locator(".alternative").first.tap()
    chat.last.get_by_text("2/2").wait_for()
    chat.page.get_by_role("button", name="Show conversations").tap()
    drawer = chat.page.get_by_role("dialog", name="Conversations")
    drawer.get_by_role("button", name="New conversation").tap()
    drawer.wait_for(state="detached")
    chat.page.get_by_text("Say something to your model").wait_for()
    assert overflow() <= 0


def test_the_chosen_theme_holds_from_the_first_paint(chat):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = chat.page.evaluate(paper)
    chat.page.get_by_role("radio", name="Dark").check(force=True)
    chat.until(f"{paper} !== '{light}'")
    chat.page.route("**/assets/*.js", lambda route: route.abort())  # only what runs before the first paint
    chat.page.reload()
    assert chat.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_once_opened_it_opens_without_the_server(new_page, server):
    """Conversations can be read; what needs the model says so."""
    chat = Chat(new_page(server.address, service_workers="allow"), server.address).open()
    chat.set_up({"Longest reply": 5})
    chat.say("Remember this")
    said = chat.text()
    chat.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    chat.until("navigator.serviceWorker.controller !== null")
    chat.page.context.set_offline(True)
    chat.page.reload()
    chat.last.wait_for()
    assert chat.text() == said
    chat.page.get_by_text("not reachable").wait_for()
    chat.page.context.set_offline(False)
    chat.page.locator(".model-picker.is-ready").wait_for()


def test_the_first_load_is_small():
    """Formulas and colours of code come when they are needed."""
    index = (STATIC / "index.html").read_text() if (STATIC / "index.html").is_file() else None
    if index is None:
        pytest.skip("the web chat is not built: make web")
    files = set(re.findall(r'(?:src|href)="\./(assets/[^"]+|theme\.js)"', index))
    assert any(name.endswith(".js") for name in files) and any(name.endswith(".css") for name in files)
    size = sum(len(gzip.compress((STATIC / name).read_bytes())) for name in files)
    assert size <= FIRST_LOAD_BYTES
    assert "https://" not in index and "http://" not in index


def test_there_is_a_heading_of_the_first_rank_at_all_times(chat):
    chat.reads(chat.page.locator("h1"), "Say something to your model")
    chat.answer_with({"content": "Fine."})
    chat.say("Hello!")
    chat.reads(chat.page.locator("h1"), "Hello!")
    chat.page.locator(".said").hover()
    chat.page.get_by_role("button", name="Delete message").click()
    chat.page.get_by_text("Nothing is said here any more.").wait_for()
    chat.reads(chat.page.locator("h1"), "Hello!")


@pytest.mark.parametrize("size", [(1280, 600), (640, 400)])  # the second is 1280 by 800 at 200 %
def test_the_inspector_fits_a_low_window(new_page, server, size):
    width, height = size
    chat = Chat(new_page(server.address, viewport={"width": width, "height": height}), server.address).open()
    chat.set_up({"Longest reply": 40})
    chat.say("Hello!")
    chat.page.get_by_role("button", name="Look inside").click()
    token = chat.last.locator(".token").nth(2)
    token.scroll_into_view_if_needed()
    token.click()
    box = chat.last.locator(".inspector").bounding_box()
    assert box is not None
    assert box["y"] >= 0 and box["y"] + box["height"] <= height
    last = chat.last.locator(".inspector-hint")
    last.scroll_into_view_if_needed()
    at = last.bounding_box()
    assert at is not None and at["y"] + at["height"] <= box["y"] + box["height"] + 1


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_with_forced_colors_the_heat_of_tokens_is_still_seen(new_page, server, scheme):
    page = new_page(server.address, forced_colors="active", color_scheme=scheme)
    chat = Chat(page, server.address).open()
    chat.set_up({"Longest reply": 12, "Seed": 3})
    chat.say("Hello!")
    chat.page.get_by_role("button", name="Look inside").click()
    grounds = chat.last.locator(".token").evaluate_all(
        "(tokens) => tokens.map((token) => getComputedStyle(token).backgroundColor)"
    )
    assert len(set(grounds)) > 3
    assert (
        chat.page.locator(".bubble").evaluate("(bubble) => getComputedStyle(bubble).borderTopStyle")
        == "solid"
    )
    pressed = chat.page.get_by_role("button", name="Look inside")
    assert pressed.evaluate("(button) => getComputedStyle(button).outlineStyle") == "solid"


def test_the_prompt_says_when_it_is_more_than_the_model_is_given(chat):
    chat.answer_with(
        {"content": "A long answer, which takes many tokens of what the model can see at once. " * 4}
    )
    chat.say("Hello!")
    chat.page.get_by_role("button", name="Prompt", exact=True).click()
    chat.page.get_by_text("The model will be given the newest turns only").wait_for()
