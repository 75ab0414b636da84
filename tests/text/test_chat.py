"""Conversations: the order of roles, the ids of each turn, what is learned, and the way back to text."""

import itertools

import jinja2
import jinja2.sandbox
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.text.chat import (
    Message,
    Part,
    Rendered,
    StreamDecoder,
    chat_template,
    conversation_to_json,
    parse_conversation,
    render,
    render_prompt,
    unknown_keys,
)
from chatsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer

CALCULATION = Message(
    "assistant",
    (Part("text", "Let me see: "), Part("python", "6*7"), Part("output", "42"), Part("text", "It is 42.")),
)
LONG = (
    Message.of("system", "Be brief."),
    Message.of("user", "What is 6 times 7?"),
    CALCULATION,
    Message.of("user", "And the weather?"),
    Message.of("assistant", "I ask."),
    Message.of("tool", "sunny"),
    Message.of("tool", ""),
    Message.of("assistant", "It is sunny. 🙂"),
)


def spelled(tokenizer: Tokenizer, *pieces: tuple[str, int]) -> Rendered:
    """What `render` should give, from (text or name of a special token, mask) written by hand."""
    rendered = Rendered()
    for text, mask in pieces:
        ids = [tokenizer.special(text)] if text in SPECIAL_TOKENS else tokenizer.encode(text)
        rendered.ids.extend(ids)
        rendered.mask.extend([mask] * len(ids))
    return rendered


def test_a_question_and_its_answer_token_by_token(tokenizer: Tokenizer):
    conversation = (Message.of("user", "Hello."), Message.of("assistant", "Hi there."))
    assert render(conversation, tokenizer) == spelled(
        tokenizer,
        ("<|bos|>", 0),
        ("<|user_start|>", 0),
        ("Hello.", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("Hi there.", 1),
        ("<|assistant_end|>", 1),
    )


def test_a_message_of_weight_0_is_read_and_not_learned_token_by_token(tokenizer: Tokenizer):
    """OpenAI's fine-tuning files exclude a wrong reply from the loss this way."""
    weights = [None, 0, None, 1]
    texts = ["2+2?", "5", "Sure?", "4"]
    messages = [
        {"role": role, "content": text, **({} if weight is None else {"weight": weight})}
        for role, text, weight in zip(["user", "assistant"] * 2, texts, weights, strict=True)
    ]
    assert render(parse_conversation({"messages": messages}), tokenizer) == spelled(
        tokenizer,
        ("<|bos|>", 0),
        ("<|user_start|>", 0),
        ("2+2?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("5", 0),
        ("<|assistant_end|>", 0),
        ("<|user_start|>", 0),
        ("Sure?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("4", 1),
        ("<|assistant_end|>", 1),
    )


def test_system_tools_and_calculation_token_by_token(tokenizer: Tokenizer):
    assert render(LONG, tokenizer) == spelled(
        tokenizer,
        ("<|bos|>", 0),
        ("<|system_start|>", 0),
        ("Be brief.", 0),
        ("<|system_end|>", 0),
        ("<|user_start|>", 0),
        ("What is 6 times 7?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("Let me see: ", 1),
        ("<|python_start|>", 1),
        ("6*7", 1),
        ("<|python_end|>", 1),
        ("<|output_start|>", 0),
        ("42", 0),
        ("<|output_end|>", 0),
        ("It is 42.", 1),
        ("<|assistant_end|>", 1),
        ("<|user_start|>", 0),
        ("And the weather?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("I ask.", 1),
        ("<|assistant_end|>", 1),
        ("<|tool_start|>", 0),
        ("sunny", 0),
        ("<|tool_end|>", 0),
        ("<|tool_start|>", 0),
        ("<|tool_end|>", 0),
        ("<|assistant_start|>", 0),
        ("It is sunny. 🙂", 1),
        ("<|assistant_end|>", 1),
    )


def test_a_prompt_is_the_conversation_and_the_mark_at_which_the_assistant_begins(tokenizer: Tokenizer):
    for length in (2, 4, 6, 7):
        prompt = render_prompt(LONG[:length], tokenizer)
        assert prompt == [*render(LONG[:length], tokenizer).ids, tokenizer.special("<|assistant_start|>")]
    # What is learned comes after exactly what is asked for when chatting.
    whole = render(LONG, tokenizer)
    prompt = render_prompt(LONG[:-1], tokenizer)
    assert whole.ids[: len(prompt)] == prompt
    assert all(whole.mask[len(prompt) :])


@pytest.mark.parametrize("length", [1, 3, 5, 8])
def test_a_prompt_that_asks_nothing_is_refused(tokenizer: Tokenizer, length: int):
    with pytest.raises(ValueError, match="nothing for the assistant to answer"):
        render_prompt(LONG[:length], tokenizer)


def test_how_a_text_is_cut_into_parts_does_not_change_its_ids(tokenizer: Tokenizer):
    def conversation(*texts: str):
        return (Message.of("user", "?"), Message("assistant", tuple(Part("text", text) for text in texts)))

    assert render(conversation("the c", "at s", "", "at"), tokenizer) == render(
        conversation("the cat sat"), tokenizer
    )


hostile_text = st.lists(st.sampled_from([*SPECIAL_TOKENS, "a", " ", "🙂", "<|"]), min_size=1).map("".join)


@given(text=hostile_text)
@settings(max_examples=50, deadline=None)
def test_no_text_in_any_part_can_make_a_special_token(tokenizer: Tokenizer, text: str):
    conversation = (
        Message.of("system", text),
        Message.of("user", text),
        Message("assistant", (Part("text", text), Part("python", text), Part("output", text))),
        Message.of("tool", text),
    )
    plain = tuple(Message(m.role, tuple(Part(part.kind, "x") for part in m.parts)) for m in conversation)

    def specials(ids: list[int]) -> list[int]:
        return [id for id in ids if tokenizer.is_special(id)]

    assert specials(render_prompt(conversation, tokenizer)) == specials(render_prompt(plain, tokenizer))


def test_conversations_survive_json():
    assert parse_conversation(conversation_to_json(LONG)) == LONG
    assert conversation_to_json(LONG)["messages"][1] == {"role": "user", "content": "What is 6 times 7?"}
    unlearned = (LONG[0], LONG[1], Message("assistant", CALCULATION.parts, weight=0))
    assert parse_conversation(conversation_to_json(unlearned)) == unlearned
    extra = {"id": 7, "messages": [{"role": "user", "content": "hi", "name": "Ann", "weight": 0}]}
    assert parse_conversation(extra) == (Message.of("user", "hi"),)
    assert list(unknown_keys(extra)) == ["name"]
    assert CALCULATION.text == "Let me see: It is 42."


def of(*roles: str) -> dict:
    return {"messages": [{"role": role, "content": "text"} for role in roles]}


def saying(content: object, role: str = "user") -> dict:
    return {
        "messages": [{"role": "user", "content": "?"}, {"role": role, "content": content}][role == "user" :]
    }


def calling(content: object) -> dict:
    """As OpenAI writes a call."""
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": "?"}, message]}


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (None, 'a list "messages"'),
        ({"conversation": []}, 'a list "messages"'),
        (of(), "no messages"),
        (of("assistant"), "message 1: the first message must be from the system or the user"),
        (of("tool"), "message 1: the first message must be"),
        (of("system", "assistant"), "message 2: a message from the assistant cannot follow one"),
        (of("user", "user"), "message 2: a message from the user cannot follow one from the user"),
        (of("user", "assistant", "assistant"), "message 3: a message from the assistant cannot follow"),
        (of("user", "system"), "message 2: a system message may only be the first"),
        (of("system", "system"), "message 2: a system message may only be the first"),
        (of("user", "tool"), "message 2: a tool message must follow an assistant message"),
        (of("user", "assistant", "tool", "user"), "message 4: a message from the user cannot follow one"),
        (of("human"), "message 1 has the unknown role 'human'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role"),
        ({"messages": ["hello"]}, "message 1 must be an object"),
        ({"messages": [{"role": "user"}]}, r"message 1 \(user\) needs a content"),
        (saying(None), "needs a content"),
        (calling(None), r'message 2 \(assistant\) has "tool_calls" and no content; .* <tool_call>{"name": '),
        (calling(""), r"<tool_call>"),
        (saying(""), r"message 1 \(user\) is empty"),
        (saying([]), "is empty"),
        (saying([{"type": "text", "text": ""}], "assistant"), r"message 2 \(assistant\) is empty"),
        (saying([{"type": "image", "text": "x"}]), "unknown type 'image'"),
        (saying([{"type": "text"}]), "a string \"text\""),
        (saying([{"type": "python", "text": "1"}]), "only the assistant may have"),
        (saying([{"type": "output", "text": "1"}], "assistant"), "does not follow a python part"),
        ({"messages": [{"role": "user", "content": "x", "weight": 0.5}]}, "the weight 0.5; it must be 0 or 1"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused_in_plain_words(obj: object, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_conversation(obj)
    assert "\n" not in str(caught.value)


def test_rendering_refuses_a_wrong_order_too(tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="cannot follow"):
        render((Message.of("user", "a"), Message.of("user", "b")), tokenizer)


# Streaming.


@given(text=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_streamed_text_never_has_half_a_character(tokenizer: Tokenizer, text: str):
    decoder = StreamDecoder(tokenizer)
    so_far = ""
    for id in tokenizer.encode(text):
        so_far += decoder.push(id)
        assert text.startswith(so_far)
    assert so_far + decoder.flush() == text


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_streaming_any_ids_gives_what_decoding_them_at_once_gives(tokenizer: Tokenizer, data: st.DataObject):
    one_byte_or_any = st.one_of(st.integers(128, 255), st.integers(0, tokenizer.vocab_size - 1))
    ids = data.draw(st.lists(one_byte_or_any, max_size=30))
    decoder = StreamDecoder(tokenizer)
    streamed = "".join(map(decoder.push, ids)) + decoder.flush()
    runs = itertools.groupby(ids, key=tokenizer.is_special)
    assert streamed == "".join(tokenizer.decode(list(run)) for is_special, run in runs if not is_special)


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    return next(id for id in range(256) if tokenizer.decode_bytes([id]) == bytes([byte]))


def test_bytes_are_held_until_it_is_certain_what_they_are(tokenizer: Tokenizer):
    euro = [byte_id(tokenizer, byte) for byte in "€".encode()]
    letter = byte_id(tokenizer, ord("a"))
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(id) for id in euro] == ["", "", "€"]
    assert [decoder.push(euro[0]), decoder.push(euro[1]), decoder.push(letter)] == ["", "", "\ufffda"]
    assert [decoder.push(euro[2])] == ["\ufffd"], "a byte that begins no character is certain at once"
    assert [decoder.push(euro[0]), decoder.push(tokenizer.bos_id), decoder.push(letter)] == [
        "",
        "\ufffd",
        "a",
    ]
    assert [decoder.push(euro[0]), decoder.flush(), decoder.flush()] == ["", "\ufffd", ""]


# The template for other programs.


def refuse(message: str) -> None:
    raise ValueError(message)


def environments() -> list[jinja2.Environment]:
    """Jinja as it comes, and as `transformers` sets it up."""
    as_transformers = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return [jinja2.Environment(), as_transformers]


def template_text(environment: jinja2.Environment, obj: dict, add_generation_prompt: bool = False) -> str:
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(chat_template())
    return template.render(**obj, add_generation_prompt=add_generation_prompt)


innocent_text = st.text(min_size=1, max_size=20).filter(lambda text: "<|" not in text)
assistant_parts = st.lists(
    st.one_of(
        innocent_text.map(lambda text: (Part("text", text),)),
        st.tuples(innocent_text, st.text("0123456789.", max_size=5)).map(
            lambda pair: (Part("python", pair[0]), Part("output", pair[1]))
        ),
    ),
    min_size=1,
    max_size=4,
).map(lambda groups: tuple(itertools.chain(*groups)))


@st.composite
def conversations(draw) -> tuple[Message, ...]:
    messages = [Message.of("system", draw(innocent_text))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message.of("user", draw(innocent_text)))
        messages.append(Message("assistant", draw(assistant_parts)))
        if draw(st.booleans()):
            messages.append(Message.of("tool", draw(innocent_text)))
            messages.append(Message("assistant", draw(assistant_parts)))
    return tuple(messages)


@pytest.mark.parametrize("environment", environments(), ids=["plain", "transformers"])
@given(conversation=conversations())
@settings(max_examples=25, deadline=None)
def test_the_template_gives_the_ids_of_our_renderer(
    tokenizer: Tokenizer, environment: jinja2.Environment, conversation: tuple[Message, ...]
):
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    text = template_text(environment, conversation_to_json(conversation))
    assert library.encode(text).ids == render(conversation, tokenizer).ids
    prompt = template_text(environment, conversation_to_json(conversation[:-1]), add_generation_prompt=True)
    assert library.encode(prompt).ids == render_prompt(conversation[:-1], tokenizer)


def test_the_template_refuses_unknown_roles_and_parts():
    for obj in (
        of("human"),
        saying([{"type": "image", "text": "x"}]),
        saying([{"type": "python", "text": "1"}]),
    ):
        with pytest.raises(ValueError, match="unknown"):
            template_text(jinja2.Environment(), obj)
