"""Settings under a name, those that new conversations begin with, and the forms and biases of replies."""

import json

import pytest

from tests.browser.conftest import requests_of

pytestmark = pytest.mark.browser


def open_settings(chat) -> None:
    chat.page.get_by_role("button", name="Settings", exact=True).click()


def save_preset(chat, name: str) -> None:
    choose(chat, "Save as a preset")
    chat.until("document.activeElement.closest('.presets') && document.activeElement.matches('input')")
    chat.page.keyboard.type(name)
    chat.page.keyboard.press("Enter")


def choose(chat, item: str) -> None:
    chat.page.get_by_role("button", name="Presets", exact=True).click()
    chat.page.get_by_role("menuitem", name=item).click()


def test_presets_are_saved_taken_over_and_deleted(chat):
    open_settings(chat)
    system = chat.page.get_by_label("System prompt")
    system.press_sequentially("Answer like a pirate.")
    temperature = chat.page.get_by_role("spinbutton", name="Temperature", exact=True)
    temperature.press_sequentially("1.5")
    chat.page.keyboard.press("Tab")
    save_preset(chat, "Pirate")
    presets = chat.page.get_by_role("combobox", name="Preset")
    chat.holds(presets, "Pirate")
    chat.page.get_by_role("button", name="Back to the model’s defaults").click()
    chat.holds(system, "")
    chat.holds(presets, "")
    chat.page.reload()
    open_settings(chat)
    presets.select_option("Pirate")
    chat.holds(system, "Answer like a pirate.")
    chat.holds(temperature, "1.5")
    choose(chat, "Delete this preset")
    presets.wait_for(state="detached")
    assert system.input_value() == "Answer like a pirate.", "the conversation keeps its settings"


def test_new_conversations_begin_with_the_settings_that_were_kept_for_them(chat):
    sent = requests_of(chat)
    chat.answer_with({"content": "Yes."})
    open_settings(chat)
    chat.page.get_by_role("spinbutton", name="Top-k", exact=True).press_sequentially("7")
    chat.page.keyboard.press("Tab")
    choose(chat, "Use for new conversations")
    chat.page.keyboard.press("Escape")
    chat.say("One")
    chat.begin()
    chat.say("Two")
    chat.page.reload()
    chat.has_said("Two")
    chat.begin()
    chat.say("Three")
    assert [body["top_k"] for body in sent] == [7, 7, 7]
    open_settings(chat)
    choose(chat, "Begin new ones as the model says")
    chat.page.keyboard.press("Escape")
    chat.begin()
    chat.say("Four")
    assert "top_k" not in sent[3]


def test_penalties_biases_and_a_schema_are_typed_and_obeyed(chat):
    sent = requests_of(chat)
    open_settings(chat)
    assert chat.page.locator(".is-marked").count() == 0
    chat.page.get_by_text("Penalties and biases", exact=True).click()
    typed = {"Repetition penalty": "1.1", "Frequency penalty": "-0.5", "Presence penalty": "0.25"}
    for name, text in typed.items():
        field = chat.page.get_by_role("spinbutton", name=name)
        field.press_sequentially(text)
        chat.page.keyboard.press("Tab")
        assert field.input_value() == text
    bias = chat.page.get_by_label("Logit bias")
    bias.press_sequentially("65 -100\nthe 5")
    chat.page.get_by_text("“the 5” is no id and number").wait_for()
    for _ in "\nthe 5":
        bias.press("Backspace")
    assert bias.input_value() == "65 -100"
    chat.page.get_by_text("Form and tools", exact=True).click()
    schema = {
        "type": "object",
        "properties": {"sum": {"enum": [95]}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    field = chat.page.get_by_label("JSON schema")
    text = json.dumps(schema)
    field.press_sequentially(text[:-1])
    chat.page.get_by_text("This is not JSON yet. Not used until it is.").wait_for()
    field.press_sequentially(text[-1])
    assert field.input_value() == text
    chat.page.keyboard.press("Escape")
    chat.until("document.querySelectorAll('.is-marked').length === 1")
    chat.say("What is 37 plus 58?")
    assert json.loads(chat.text()) == {"sum": 95}
    wanted = {
        "repetition_penalty": 1.1,
        "frequency_penalty": -0.5,
        "presence_penalty": 0.25,
        "logit_bias": {"65": -100},
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}},
    }
    assert {name: sent[0].get(name) for name in wanted} == wanted


def test_tools_are_called_by_the_model_and_answered_by_the_person(chat):
    sent = requests_of(chat)
    open_settings(chat)
    chat.page.get_by_text("Form and tools", exact=True).click()
    field = chat.page.get_by_label("Tools")
    field.press_sequentially('[{"name": "get weather"}]')
    chat.page.get_by_text("Every tool needs a name of letters").wait_for()
    field.fill('[{"name": "get_weather", "parameters": {"type": "object"}}]')
    # The tiny model's context has no room for the description of a tool.
    chat.page.get_by_role("checkbox", name="When the context is full").uncheck()
    chat.page.keyboard.press("Escape")
    called = {"name": "get_weather", "arguments": '{"city": '}
    piece = {"index": 0, "id": "call_1", "type": "function", "function": called}
    rest = {"index": 0, "function": {"arguments": '"Paris"}'}}
    chat.answer_with({"tool_calls": [piece]}, {"tool_calls": [rest]})
    chat.say("How is the weather in Paris?")
    assert sent[0]["tools"][0]["function"]["name"] == "get_weather"
    assert chat.last.locator(".call code").inner_text() == '{"city": "Paris"}'
    chat.page.unroute_all()
    chat.answer_with({"content": "It is warm."})
    answer = chat.page.get_by_role("textbox", name="What get_weather answers")
    answer.press_sequentially("18 degrees")
    chat.page.keyboard.press("Enter")
    chat.has_said("How is the weather in Paris?", "18 degrees")
    chat.reads(chat.last.locator(".markdown"), "It is warm.")
    chat.wait()
    assert chat.last.get_by_role("alert").count() == 0
    roles = [message["role"] for message in sent[1]["messages"]]
    assert roles == ["user", "assistant", "tool"]
    assert sent[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    chat.page.reload()
    chat.page.get_by_text("18 degrees").wait_for()
