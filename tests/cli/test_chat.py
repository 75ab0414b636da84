"""The terminal chat, on a tiny random model: replies alone where a program reads, and a conversation that holds."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chatsmith.bundle import Bundle, save_bundle
from chatsmith.cli import chat
from chatsmith.cli.chat import Config, Screen, Talk, converse
from chatsmith.cli.main import main as command
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import SamplingParams
from chatsmith.llm import LLM, sampling_from
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Message, Part, render_prompt
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

CONTEXT = 256


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat; the dog sat on the cat. " * 3], vocab_size=300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    config = GPTConfig(tokenizer.vocab_size, context_length=CONTEXT, num_layers=2, num_heads=2, head_dim=8)
    model = GPT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: GPT, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("chat") / "bundle"
    save_bundle(path, model, tokenizer, generation={"temperature": 0.9, "max_tokens": 12}, card="# Tiny\n")
    return path


@pytest.fixture
def make_talk(model: GPT, tokenizer: Tokenizer) -> Callable[..., Talk]:
    def make(max_tokens: int = 10, system: str | None = None) -> Talk:
        sampling = SamplingParams(max_tokens=max_tokens, seed=5, ignore_end=True)
        bundle = Bundle(model, tokenizer, model.config, {}, {}, Path("bundle"))
        return Talk(LLM(bundle, max_running=2), sampling, system)

    return make


def test_prompt_prints_the_reply_alone_and_a_seed_repeats_it(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask(*more: str) -> str:
        assert command(["chat", str(bundle), "--prompt", "hello", "--device", "cpu", *more], {}) == 0
        captured = capfd.readouterr()
        assert captured.err == ""
        assert captured.out.endswith("\n")
        return captured.out

    assert ask("--seed", "1") == ask("--seed", "1")
    assert len({ask("--seed", str(seed)) for seed in range(3)}) > 1
    assert len({ask() for _ in range(4)}) > 1, "without a seed replies differ"


def test_questions_on_stdin_are_answered_line_by_line(
    bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("hello\n\nhow är you\n".encode() + b"\xff\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    chat.main(Config(bundle, seed=0, temperature=0.0, device="cpu", max_tokens=3))
    assert "\n" in capfd.readouterr().out


def test_documents_stand_before_the_question_and_are_named_under_the_reply(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bm25s")
    pytest.importorskip("datasketch")
    (tmp_path / "cats.md").write_text("# Cats\n\nthe cat sat on the mat\n")
    (tmp_path / "pumps.md").write_text("# Pumps\n\n" + "a pump in a long passage of its own " * 12)
    argv = ["chat", str(bundle), "--device", "cpu", "--documents", str(tmp_path)]
    prompts: list[list[int]] = []
    submit = Engine.submit
    monkeypatch.setattr(
        Engine,
        "submit",
        lambda engine, request: prompts.append(list(request.prompt_ids)) or submit(engine, request),
    )

    def sources(question: str) -> str:
        capfd.readouterr()
        assert command([*argv, "--prompt", question], {}) == 0
        said = capfd.readouterr()
        assert "Sources" not in said.out
        return said.err

    assert sources("where sat the cat?") == "Sources: [1] cats.md, Cats\n"
    assert "the cat sat on the mat" in Tokenizer.load(bundle).decode(prompts[-1])
    assert "no passage shares a word" in sources("xyzzy")
    assert f"context of {CONTEXT} tokens is too short" in sources("pump")
    monkeypatch.setattr("sys.stdin", io.StringIO("where sat the cat?\n"))
    assert command(argv, {}) == 0
    assert "[1] cats.md, Cats" in capfd.readouterr().err


def test_nothing_to_answer_is_a_user_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="--prompt"):
        chat.main(Config(bundle, device="cpu"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--top-k", "-1"], "top_k"),
        (["--top-p", "0"], "top_p"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--seed", str(2**64)], "seed"),
        (["--prompt", " "], "prompt is empty"),
        (["--prompt", "a" * 1000], "the model's context holds 256"),
        (["--device", "abacus"], "device"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    bundle: Path, flags: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(["chat", str(bundle), "--prompt", "hello", *flags], {}) == 2
    captured = capfd.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_missing_bundle_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(["chat", str(tmp_path / "no"), "--prompt", "hello"], {}) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_generation_config_of_nonsense_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"generation_config.json says top_k = 0.5"):
        sampling_from({"top_k": 0.5})
    with pytest.raises(UserError, match="temperature"):
        sampling_from({"temperature": "hot"})
    assert sampling_from({"top_k": 7, "eos_token_id": [1]}, top_k=3, seed=None).top_k == 3


def test_the_conversation_before_stays_cached(make_talk: Callable[..., Talk], tokenizer: Tokenizer) -> None:
    talk = make_talk(system="be a cat")
    first = talk.ask("the cat sat on the mat and the dog sat on the cat, and then?")
    second = talk.ask("on the mat")
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
    assert second.cached_tokens >= len(first.prompt_ids) // 16 * 16 > 0
    messages = [Message.of("system", "be a cat"), *talk.history[:2], Message.of("user", "on the mat")]
    assert list(second.prompt_ids) == render_prompt(messages, tokenizer)


def test_the_oldest_turns_drop_and_the_system_message_stays(
    make_talk: Callable[..., Talk], tokenizer: Tokenizer
) -> None:
    talk = make_talk(system="be a cat")
    dropped = 0
    for number in range(12):
        completion = talk.ask(f"question {number} about the dog and the mat")
        dropped += talk.num_dropped
        assert len(completion.prompt_ids) < CONTEXT
        system = render_prompt([Message.of("system", "be a cat"), Message.of("user", "x")], tokenizer)[:8]
        assert list(completion.prompt_ids[:8]) == system
    assert dropped > 0
    assert len(talk.history) == 2 * (12 - dropped)
    assert talk.history[-2].text.startswith("question 11")


def test_that_early_turns_fall_out_is_said_each_time_it_begins(
    make_talk: Callable[..., Talk], capsys: pytest.CaptureFixture[str]
) -> None:
    """In a terminal among the replies, else on stderr; not again as long as every question pushes turns out."""
    questions = [f"question {number} about the dog and the mat" for number in range(9)]
    lines = [*questions, "/reset", *questions]
    out = io.StringIO()
    converse(make_talk(), lines, Screen(out, is_terminal=True))
    before_reset, _, after_reset = out.getvalue().partition("(a new conversation)")
    for shown in (before_reset, after_reset):
        assert shown.count("no longer sees the oldest turns") == 1
    converse(make_talk(), questions, Screen(out, shows_calls=False))
    assert capsys.readouterr().err.count("no longer sees the oldest turns") == 1


def test_a_message_that_cannot_fit_is_refused_and_forgotten(make_talk: Callable[..., Talk]) -> None:
    talk = make_talk()
    with pytest.raises(UserError, match="shorten it"):
        talk.ask("x" * 400)
    assert talk.history == []
    assert talk.ask("hi").ids


def test_what_a_reply_streams_is_its_text(make_talk: Callable[..., Talk]) -> None:
    shown: list[Part] = []
    completion = make_talk(max_tokens=60).ask("hello", shown.append)
    assert "".join(part.text for part in shown if part.kind == "text") == completion.text


def test_ctrl_c_stops_the_reply_and_not_the_program(make_talk: Callable[..., Talk]) -> None:
    class Impatient(Screen):
        def show(self, part: Part) -> None:
            super().show(part)
            os.kill(os.getpid(), signal.SIGINT)

    talk = make_talk(max_tokens=200)
    out = io.StringIO()
    before = signal.getsignal(signal.SIGINT)
    assert converse(talk, ["hello", "again"], Impatient(out, is_terminal=True))
    assert out.getvalue().count("(stopped)") == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert talk.llm.engine.is_idle
    assert all(len(message.text) < 200 for message in talk.history)


def test_commands_do_what_help_says(make_talk: Callable[..., Talk]) -> None:
    talk = make_talk()
    out = io.StringIO()
    lines = ["/help", "hello", "/system be a dog", "/nonsense", "hello", "/reset", "/quit", "never asked"]
    converse(talk, lines, Screen(out, is_terminal=True))
    shown = out.getvalue()
    assert "/system TEXT" in shown
    assert "/nonsense is not known" in shown
    assert talk.system == "be a dog"
    assert talk.history == []
    converse(talk, ["/system", "hello"], Screen(out, is_terminal=True))
    assert talk.system is None
    assert [message.role for message in talk.history] == ["user", "assistant"]


def test_a_call_of_the_calculator_is_a_line_of_its_own() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for kind, text in (
        ("text", "So "),
        ("python", ""),
        ("python", "37+"),
        ("python", "58"),
        ("output", ""),
        ("output", "95"),
        ("text", "It is 95."),
        ("python", ""),
        ("python", "1+1"),
    ):
        screen.show(Part(kind, text))  # type: ignore[arg-type]
    screen.end()
    assert out.getvalue() == "So \n37+58 = 95\nIt is 95.\n1+1\n"


def test_for_programs_there_are_replies_alone(make_talk: Callable[..., Talk]) -> None:
    """No calls of the calculator; and what begins like a command is a question like any other."""
    out = io.StringIO()
    screen = Screen(out, shows_calls=False)
    for kind, text in (
        ("text", "So "),
        ("python", ""),
        ("python", "1+1"),
        ("output", "2"),
        ("text", "it is 2."),
    ):
        screen.show(Part(kind, text))  # type: ignore[arg-type]
    screen.end()
    assert out.getvalue() == "So it is 2.\n"
    talk = make_talk()
    assert converse(talk, ["/quit", "/nonsense"], Screen(out, shows_calls=False))
    asked = [message.text for message in talk.history if message.role == "user"]
    assert asked == ["/quit", "/nonsense"]


def test_control_characters_of_a_model_do_not_reach_the_terminal() -> None:
    out = io.StringIO()
    Screen(out, is_terminal=True).write("a\x1b[31m\tb\x00\x9b\n")
    assert out.getvalue() == "a\\x1b[31m\tb\\x00\\x9b\n"


def test_the_sample_conversation_is_the_same_every_time(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chat.show_sample(Config(bundle, device="cpu"), ["hello", "again"])
    first = capfd.readouterr().out
    chat.show_sample(Config(bundle, device="cpu"), ["hello", "again"])
    assert capfd.readouterr().out == first
    assert first.startswith("You:   hello\nModel: ")
    assert "You:   again\n" in first


def read_until(terminal: int, *wanted: str, seconds: float = 60.0) -> str:
    """What the terminal shows until `wanted` has come, one after the other, however it is cut into reads."""
    shown = b""
    pattern = re.compile(b".*".join(re.escape(text.encode()) for text in wanted), re.DOTALL)
    deadline = time.monotonic() + seconds
    while not pattern.search(shown):
        assert time.monotonic() < deadline, f"{wanted} never came; the terminal shows {shown!r}"
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096)
    return shown.decode(errors="replace")


def read(terminal: int) -> str:
    """What the terminal shows anew; empty if there is nothing for a moment."""
    return os.read(terminal, 4096).decode() if select.select([terminal], [], [], 0.2)[0] else ""


def press_until(press: Callable[[], object], happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Press, and again every two seconds: a key or signal in the moment in which `input` begins to wait is lost."""
    deadline = time.monotonic() + seconds
    pressed = 0.0
    while not happened():
        assert time.monotonic() < deadline, "nothing came of it"
        if time.monotonic() - pressed > 2:
            press()
            pressed = time.monotonic()
        time.sleep(0.05)


def test_in_a_real_terminal(bundle: Path) -> None:
    """Characters of several bytes are typed, Ctrl-C at the prompt gives up the line, Ctrl-D leaves."""
    ours, theirs = pty.openpty()
    program = [sys.executable, "-m", "chatsmith", "chat", str(bundle), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "TERM": "xterm"}
    process = subprocess.Popen(
        program,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    try:
        assert "/help" in read_until(ours, "> ")
        os.write(ours, "wie heißt du 🦉\n".encode())
        read_until(ours, "> ")
        os.write(ours, b"/system be brief\n")
        read_until(ours, "system message)", "> ")  # only at the prompt is Ctrl-C about the line
        shown: list[str] = []

        def is_told() -> bool:
            shown.append(read(ours))
            return "(Ctrl-D leaves)" in "".join(shown)

        press_until(lambda: process.send_signal(signal.SIGINT), is_told)
        press_until(lambda: os.write(ours, b"\x04"), lambda: process.poll() is not None)
        assert process.returncode == 0
    finally:
        process.kill()
        os.close(ours)
