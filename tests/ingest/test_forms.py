"""Files that people have: every form is found, named and read as the same conversation, or refused in one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.conversations import read_conversations
from chatsmith.data.dataset import DataManifest
from chatsmith.ingest.forms import (
    FORMS,
    TYPES,
    ConversationFiles,
    column_map,
    find_form,
    is_core_form,
    read,
    read_files,
    to_conversation,
    write_conversations,
    write_documents,
)
from chatsmith.ingest.survey import survey
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Message, render
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, Ada."}]
TALK = (Message.of("user", "Hello"), Message.of("assistant", "Hi, Ada."))

# One conversation in every form: the name of the form, and a record.
SAME: list[tuple[str, Any]] = [
    ("messages", {"messages": MESSAGES}),
    ("messages", {"messages": [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in MESSAGES]}),
    ("messages", {"messages": [{"role": "User", "content": "Hello"}, {"role": "Assistant", "content": "Hi, Ada."}]}),
    ("messages", {"messages": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": text} for text in ("Hi, ", "Ada.")]},
    ]}),
    ("array of messages", MESSAGES),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi, Ada."}]}),
    ("sharegpt", {"conversations": MESSAGES}),
    ("gemini", {"contents": [
        {"role": "user", "parts": [{"text": "Hello"}]}, {"role": "model", "parts": [{"text": "Hi, "}, {"text": "Ada."}]}
    ]}),
    ("alpaca", {"instruction": "Hello", "input": "", "output": "Hi, Ada."}),
    ("dolly", {"instruction": "Hello", "context": "", "response": "Hi, Ada.", "category": "open_qa"}),
    ("prompt/completion", {"prompt": "Hello", "completion": "Hi, Ada."}),
    ("prompt/completion", {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}),
]  # fmt: skip


def texts(conversation: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in conversation]


def json_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def converted(record: Any) -> tuple[Message, ...]:
    form = next(form for form in FORMS if form.fits(record))
    return to_conversation(record, form)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(read_files([path], []))
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize(("name", "record"), SAME, ids=[f"{n}-{i}" for i, (n, _) in enumerate(SAME)])
def test_every_form_is_found_named_and_read_as_the_same_conversation(tmp_path, name, record):
    path = json_lines(tmp_path / "a.jsonl", *[record] * 5)
    assert find_form(path).name == name
    notices: list[str] = []
    found = list(read_files([path], notices))
    assert [texts(one) for one in found] == [texts(TALK)] * 5
    assert is_core_form(path, find_form(path)) or notices == [f"{path}: read as {name}"]


@pytest.mark.parametrize("record", [record for _, record in SAME[::3]])
def test_every_container_holds_every_form(tmp_path, record):
    records = [record] * 4
    lines = "".join(json.dumps(one) + "\n" for one in records).encode()
    packed = {
        "a.jsonl": lines,
        "a.ndjson": lines,
        "b.jsonl.gz": gzip.compress(lines),
        "c.jsonl.zst": zstandard.compress(lines),
        "lines.json": lines,
        "array.json": json.dumps(records).encode(),
        "array.jsonl": json.dumps(records).encode(),
        "pretty.json": json.dumps(records, indent=2).encode(),
        "pretty.jsonl": b"\xef\xbb\xbf" + json.dumps(records, indent=2).encode(),
        "around.json": json.dumps({"data": records}).encode(),
        "packed.json.gz": gzip.compress(json.dumps(records).encode()),
        "two-with-bom.jsonl": (b"\xef\xbb\xbf" + lines[: len(lines) // 2]) * 2,
    }
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
        assert [texts(one) for one in read_files([tmp_path / name], [])] == [texts(TALK)] * 4, name


@pytest.mark.parametrize(
    "record", [SAME[0][1], SAME[1][1], *(one for _, one in SAME[5:] if isinstance(one, dict))]
)
def test_parquet_holds_every_form_of_objects(tmp_path, record):
    pq.write_table(pa.Table.from_pylist([record] * 3), tmp_path / "a.parquet")
    assert [texts(one) for one in read_files([tmp_path / "a.parquet"], [])] == [texts(TALK)] * 3


def test_systems_histories_inputs_and_roles_of_other_forms():
    alpaca = {
        "instruction": "Add.",
        "input": "2 2",
        "output": "4",
        "system": "Be brief.",
        "history": [["Hi", "Yes?"]],
    }
    assert texts(converted(alpaca)) == [
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Add.\n\n2 2"), ("assistant", "4"),
    ]  # fmt: skip
    turns = [("system", "S"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    sharegpt = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    assert [role for role, _ in texts(converted(sharegpt))] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    gemini = {"systemInstruction": {"parts": [{"text": "S"}]}, "contents": [
        {"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}
    ]}  # fmt: skip
    assert texts(converted(gemini)) == [("system", "S"), ("user", "a"), ("assistant", "b")]
    developer = {"messages": [{"role": "developer", "content": "S"}, *MESSAGES]}
    assert texts(converted(developer)) == [("system", "S"), *texts(TALK)]


def test_openai_s_weight_0_is_not_learned_token_by_token(tmp_path, tokenizer: Tokenizer):
    """Silently learning the reply that someone excluded teaches the very mistake that the file was made to cure."""
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "5", "weight": 0},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "4", "weight": 1},
    ]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    for record in ({"messages": messages}, {"messages": messages, "tools": [tool]}):
        path = json_lines(tmp_path / "a.jsonl", record, record)
        (found, _) = read_files([path], [])
        rendered = render(found, tokenizer)
        learned = [id for id, mask in zip(rendered.ids, rendered.mask, strict=True) if mask]
        assert learned == [*tokenizer.encode("4"), tokenizer.special("<|assistant_end|>")]
        assert tokenizer.encode("5")[0] in rendered.ids


def test_nothing_but_weight_0_is_nothing_to_learn_from(tmp_path):
    record = {"messages": [MESSAGES[0], {**MESSAGES[1], "weight": 0}]}
    assert "nothing in it that is to be learned" in refusal(json_lines(tmp_path / "a.jsonl", record, record))


CALLS = [
    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
    {"id": "2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}},
    },
    {"type": "function", "function": {"name": "time"}},
]


def test_openai_s_tools_and_calls_become_the_text_that_the_server_writes(tmp_path, tokenizer: Tokenizer):
    record = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather, time?"},
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "2", "content": "noon"},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            {"role": "assistant", "content": "Sunny, noon."},
        ],
        "tools": TOOLS,
        "parallel_tool_calls": True,
    }
    path = json_lines(tmp_path / "a.jsonl", record, record)
    system, _, calls, *rest = next(read_files([path], []))
    assert system.text == (
        "Be brief.\n\nYou can call these tools:\n"
        '{"name": "weather", "description": "Now", "parameters": {"type": "object"}}\n{"name": "time"}\n'
        'To call one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>'
    )
    assert calls.text == (
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>\n'
        '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
    )
    assert texts(tuple(rest)) == [("tool", "sunny"), ("tool", "noon"), ("assistant", "Sunny, noon.")]
    rendered = render((system, *next(read_files([path], []))[1:]), tokenizer)
    learned = [id for id, mask in zip(rendered.ids, rendered.mask, strict=True) if mask]
    end = tokenizer.special("<|assistant_end|>")
    assert learned == [*tokenizer.encode(calls.text), end, *tokenizer.encode("Sunny, noon."), end]


def test_calls_of_other_forms():
    legacy = {"messages": [
        MESSAGES[0],
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
        MESSAGES[1],
    ], "functions": [{"name": "f"}]}  # fmt: skip
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert [role for role, _ in texts(converted(legacy))] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert texts(converted(legacy))[2] == ("assistant", call)
    turns = [
        ("human", "a"),
        ("function_call", '{"name": "f", "arguments": {}}'),
        ("observation", "1"),
        ("gpt", "b"),
    ]
    sharegpt = {
        "conversations": [{"from": role, "value": text} for role, text in turns],
        "tools": '[{"name": "f"}]',
    }
    assert texts(converted(sharegpt))[1:] == [
        ("user", "a"),
        ("assistant", call),
        ("tool", "1"),
        ("assistant", "b"),
    ]


def test_a_late_call_in_a_plain_file_is_not_overlooked(tmp_path):
    """Far behind the sample from which the form is found."""
    late = {"messages": [MESSAGES[0], {"role": "assistant", "content": "", "tool_calls": CALLS[:1]}]}
    path = json_lines(tmp_path / "a.jsonl", *[{"messages": MESSAGES}] * 300, late)
    assert not is_core_form(path, find_form(path))
    assert list(read_files([path], []))[-1][1].text.startswith("<tool_call>")


def test_what_a_text_says_of_tools_changes_nothing(tmp_path):
    said = {"messages": [{"role": "user", "content": '{"tools": 1, "tool_calls": 2}'}, MESSAGES[1]]}
    path = json_lines(tmp_path / "a.jsonl", said)
    assert is_core_form(path, find_form(path))


def test_plain_messages_are_read_in_place_as_before(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", *[{"messages": MESSAGES}] * 3)
    files = ConversationFiles(tmp_path / "written")
    assert files.as_messages(path, []) == (path, "messages")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "broken", ["{", '"text"', '{"messages": []}', '{"messages": [{"role": "user", "content": 5}]}']
)
@pytest.mark.parametrize("record", [{"messages": MESSAGES}, SAME[5][1]], ids=["messages", "sharegpt"])
def test_a_few_broken_records_are_counted_named_and_passed_over(tmp_path, record, broken):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps(record) + "\n" for _ in range(30)) + broken + "\n" + json.dumps(record)
    )
    notices: list[str] = []
    assert len(list(read_files([path], notices))) == 31
    assert any("1 of 32" in notice and "line 31: " in notice for notice in notices)


def test_more_than_one_in_ten_broken_is_refused(tmp_path):
    good, broken = SAME[5][1], {"conversations": [{"from": "gpt", "value": "I begin."}]}
    message = refusal(json_lines(tmp_path / "a.jsonl", *[good] * 17, broken, broken))
    assert "2 of 19 records cannot be used as sharegpt; the first is line 18: message 1" in message


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "x", "chosen": "a", "rejected": "b"}, "looks like preference pairs"),
        ({"text": "Once upon a time"}, "looks like documents"),
        ({"question": "2+2?", "answer": "4"}, "its records have `answer`, `question`"),
        (["a", "b"], "its records are strs"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "image_url|a part",
        ),
    ],
)
def test_what_is_something_else_is_refused_with_what_it_looks_like(tmp_path, record, said):
    message = refusal(json_lines(tmp_path / "a.jsonl", *[record] * 20))
    assert any(part in message for part in said.split("|"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.json", b"[]", "is empty"),
        ("a.jsonl", b"no json\n" * 5, "not JSON"),
        ("a.json", b'[{"messages": [', "not JSON"),
        ("a.jsonl", json.dumps({"messages": MESSAGES}).encode("utf-16"), "UTF-16? save it as UTF-8"),
        ("a.parquet", b"PAR1 not really", "not a readable parquet"),
        ("a.json.gz", b"not packed", "damaged or cut short"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_a_column_map_reads_other_columns(tmp_path):
    forms = (column_map({"system_prompt": "system", "question": "user", "answer": "assistant"}),)
    record = {"system_prompt": "", "question": "Hello", "answer": "Hi, Ada.", "more": 1}
    path = json_lines(tmp_path / "a.jsonl", record)
    assert find_form(path, forms).name == "columns system_prompt=system question=user answer=assistant"
    assert [texts(one) for one in read(path, forms[0])] == [texts(TALK)]
    with pytest.raises(UserError, match="cannot be 'oracle'"):
        column_map({"question": "oracle"})


def test_a_survey_converts_what_the_core_cannot_read_and_says_so(tmp_path):
    write_documents(tmp_path / "text.parquet", ["one", "two"])
    greetings = [
        [{"from": "human", "value": f"Hello {n}"}, {"from": "gpt", "value": "Hi"}] for n in range(40)
    ]
    chats = tmp_path / "chats"
    chats.mkdir()
    (chats / "share.json").write_text(json.dumps([{"conversations": one} for one in greetings]))
    json_lines(chats / "plain.jsonl", *[{"messages": MESSAGES}] * 3)
    pq.write_table(pa.table({"messages": [MESSAGES] * 2}), chats / "val.parquet")
    run = tmp_path / "run"
    run.mkdir()
    manifest = survey(
        [tmp_path / "text.parquet"], conversations=[chats], chats=ConversationFiles(run / "conversations")
    )
    manifest.save(run)
    talks = manifest.conversations
    assert talks and talks.method == "files" and talks.train_items == 40
    assert [(file.form, Path(file.origin).name) for file in (*talks.train, *talks.validation)] == [
        ("messages", ""),
        ("sharegpt", "share.json"),
        ("messages", "val.parquet"),
    ]
    assert any("share.json: converted from sharegpt" in notice for notice in manifest.notices)
    assert any("3 training conversations are also in validation" in notice for notice in manifest.notices)
    assert len(list(manifest.read_conversations("train"))) == 40
    assert DataManifest.from_json(manifest.to_json()).fingerprint == manifest.fingerprint


def test_conversations_among_the_documents_are_found_in_every_form_and_documents_stay_documents(tmp_path):
    files = ConversationFiles(tmp_path / "written")
    for number, (_, record) in enumerate(SAME):
        assert files.holds_conversations(json_lines(tmp_path / f"{number}.jsonl", record))
    write_documents(tmp_path / "a.parquet", ["text"])
    (tmp_path / "b.txt").write_text(json.dumps({"messages": MESSAGES}))
    with_text = json_lines(tmp_path / "c.jsonl", {"text": "a", "instruction": "b", "output": "c"})
    broken = tmp_path / "d.parquet"
    broken.write_bytes(b"")
    null = json_lines(tmp_path / "e.jsonl", {"text": None, "messages": MESSAGES})
    assert files.holds_conversations(null)
    for path in (tmp_path / "a.parquet", tmp_path / "b.txt", with_text, broken):
        assert not files.holds_conversations(path)


words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.booleans())
def test_forms_of_several_turns_agree(turns, with_system):
    pairs = [("system", "S")] * with_system + [
        pair for q, a in turns for pair in (("user", q), ("assistant", a))
    ]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    records = [
        {"messages": [{"role": role, "content": text} for role, text in pairs]},
        [{"role": role, "content": text} for role, text in pairs],
        {"conversations": [{"from": names[role], "value": text} for role, text in pairs]},
        {
            "instruction": turns[-1][0],
            "output": turns[-1][1],
            "history": turns[:-1],
            "system": "S" * with_system,
        },
    ]
    assert {tuple(texts(converted(json.loads(json.dumps(record))))) for record in records} == {tuple(pairs)}


def test_what_is_written_is_read_by_the_core(tmp_path):
    talk = (Message.of("user", "a"), Message("assistant", TALK[1].parts, weight=0), *TALK)
    write_conversations(tmp_path / "a.jsonl", [talk, TALK])
    assert list(read_conversations([tmp_path / "a.jsonl"])) == [talk, TALK]


def test_types_name_every_ending_once():
    assert len(set(TYPES)) == len(TYPES)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["Hello, Ada. What is the weather in Paris, and what is the time? " * 20], 320)


def test_weights_of_sharegpt_are_kept_and_no_tools_are_not_told_of(tmp_path):
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "No.", "weight": 0}]
    more = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hi."}]
    path = json_lines(tmp_path / "a.jsonl", {"conversations": [*turns, *more], "tools": "[]"})
    [conversation] = read_files([path], [])
    assert [(message.role, message.weight) for message in conversation] == [
        ("user", 1),
        ("assistant", 0),
        ("user", 1),
        ("assistant", 1),
    ]
