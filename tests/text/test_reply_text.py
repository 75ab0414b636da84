"""Ids become text as they stream: whole characters, whole parts, and never a piece of a stop string."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatsmith.text.chat import Message, Part, PartKind, ReplyText, StreamDecoder, render, render_prompt
from chatsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer

MARKS = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>", "<|user_start|>")


def joined(parts: list[Part]) -> list[Part]:
    """Streamed pieces put together: neighbours of one kind, unless a new part was announced by an empty one."""
    result: list[Part] = []
    for part in parts:
        if result and result[-1].kind == part.kind and part.text:
            result[-1] = Part(part.kind, result[-1].text + part.text)
        else:
            result.append(part)
    return result


def parts_at_once(ids: list[int], tokenizer: Tokenizer) -> list[Part]:
    """The plain reference: the parts of a whole reply, read without holding anything back."""
    parts: list[Part] = []
    kind: PartKind = "text"
    decoder = StreamDecoder(tokenizer)
    written: list[str] = []

    def finish_part() -> None:
        text = "".join(written) + decoder.flush()
        written.clear()
        asked_for = kind != "output" or (bool(parts) and parts[-1].kind == "python")
        if not asked_for or (kind == "text" and not text):
            return
        if kind == "text" and parts and parts[-1].kind == "text":
            parts[-1] = Part("text", parts[-1].text + text)
        else:
            parts.append(Part(kind, text))

    marks: dict[int, PartKind] = {
        tokenizer.special("<|python_start|>"): "python",
        tokenizer.special("<|python_end|>"): "text",
        tokenizer.special("<|output_start|>"): "output",
        tokenizer.special("<|output_end|>"): "text",
    }
    for id in ids:
        if id in marks:
            finish_part()
            kind = marks[id]
        else:
            written.append(decoder.push(id))
    finish_part()
    return parts


def stream(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[Part], ReplyText]:
    text = ReplyText(tokenizer, stop)
    given_out = [part for id in ids for part in text.push(id)]
    return given_out + text.finish(), text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=4), st.sampled_from(MARKS), st.integers(0, 255)), max_size=12))
@example([126, "<|user_start|>", 94])  # half a character, a mark, the other half
def test_streamed_parts_are_those_of_the_whole_reply(tokenizer: Tokenizer, pieces: list[str | int]) -> None:
    """Including lone bytes, which are no character, and marks in places where they mean nothing."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, int):
            ids.append(piece)
        else:
            ids += [tokenizer.special(piece)] if piece in MARKS else tokenizer.encode(piece)
    given_out, text = stream(tokenizer, ids)
    assert text.parts == parts_at_once(ids, tokenizer)
    assert joined(given_out) == text.parts


@settings(max_examples=50, deadline=None)
@given(st.text("abcé", max_size=12), st.lists(st.text("abcé", min_size=1, max_size=3), max_size=3))
def test_a_stop_string_ends_the_text_wherever_tokens_cut_it(
    tokenizer: Tokenizer, words: str, stops: list[str]
) -> None:
    ids = [byte for char in words for byte in tokenizer.encode(char)]
    found = [words.index(stop) for stop in stops if stop in words]
    # Of two that overlap, the one that is complete first counts.
    ends = [words.index(stop) + len(stop) for stop in stops if stop in words]
    first = min(ends, default=None)
    given_out, text = stream(tokenizer, ids, tuple(stops))
    streamed = "".join(part.text for part in given_out)
    assert text.stopped == bool(found)
    assert streamed == "".join(part.text for part in text.parts)
    if first is None:
        assert streamed == words
    else:
        complete = [words[:first].index(stop) for stop in stops if stop in words[:first]]
        assert streamed == words[: min(complete)]


def test_only_what_could_become_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    text = ReplyText(tokenizer, ("stop",))
    pushed = [[part.text for part in text.push(id)] for char in "a st stx" for id in tokenizer.encode(char)]
    assert pushed == [["a"], [" "], [], [], ["st "], [], [], ["stx"]]


def test_held_text_is_flushed_at_the_end_and_before_a_call(tokenizer: Tokenizer) -> None:
    given_out, _ = stream(tokenizer, tokenizer.encode("a st"), ("stop",))
    assert "".join(part.text for part in given_out) == "a st"
    text = ReplyText(tokenizer, ("stop",))
    for id in tokenizer.encode("st"):
        text.push(id)
    assert text.push(tokenizer.special("<|python_start|>")) == [Part("text", "st"), Part("python", "")]


def test_half_a_character_before_a_mark_stops_nothing_that_may_not_stop_yet(tokenizer: Tokenizer) -> None:
    text = ReplyText(tokenizer, ("\ufffd",))
    for id in (tokenizer.encode("🦉")[0], tokenizer.special("<|python_start|>")):
        text.push(id, may_stop=False)
    assert not text.stopped and text.parts == [Part("text", "\ufffd"), Part("python", "")]


def test_a_stop_string_within_a_call_is_not_one(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special("<|python_start|>"), *tokenizer.encode("1+1")]
    _, text = stream(tokenizer, ids, ("+",))
    assert not text.stopped
    assert text.parts == [Part("python", "1+1")]


def test_a_character_of_several_tokens_comes_out_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦉é")
    assert len(ids) > 2
    given_out, _ = stream(tokenizer, ids)
    assert [part.text for part in given_out] == ["🦉", "é"]


CALCULATION = (
    Part("text", "Let me see: "),
    Part("python", "6*7"),
    Part("output", "42"),
    Part("text", "It is 42."),
)


@pytest.mark.parametrize("parts", [CALCULATION, (Part("text", "Hi 🙂"),)])
def test_a_reply_is_read_back_as_it_was_written(tokenizer: Tokenizer, parts: tuple[Part, ...]) -> None:
    question = (Message.of("user", "?"),)
    written = render((*question, Message("assistant", parts)), tokenizer).ids
    _, text = stream(tokenizer, written[len(render_prompt(question, tokenizer)) : -1])
    assert tuple(text.parts) == parts


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_reply_can_be_read_and_rendered_again(tokenizer: Tokenizer, data: st.DataObject) -> None:
    some_special = st.sampled_from([tokenizer.special(name) for name in SPECIAL_TOKENS])
    ids = data.draw(st.lists(st.one_of(some_special, st.integers(0, tokenizer.vocab_size - 1))))
    _, text = stream(tokenizer, ids)
    if any(part.text for part in text.parts):
        render((Message.of("user", "?"), Message("assistant", tuple(text.parts))), tokenizer)
