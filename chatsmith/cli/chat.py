"""`chatsmith chat`: talk to a model in the terminal.

The reply streams as it is written; Ctrl-C stops it, and only it. The calculator runs when the model calls it,
and what it worked out is shown. The engine keeps the conversation's keys and values between turns, so that only
what is new is computed. When the conversation outgrows the model's context, its oldest turns are dropped.

With `--documents FOLDER`, passages that share words with the question are put before it, and named under the reply.

With `--prompt`, or with lines on stdin, replies alone go to stdout. It saves nothing and trains nothing.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TextIO

from chatsmith.adapt.passages import read_documents
from chatsmith.adapt.search import PassageIndex
from chatsmith.cli.config import ChatConfig as Config
from chatsmith.cli.settings import expanded
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.llm import LLM
from chatsmith.runtime.console import printable
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.signals import receiving
from chatsmith.text.chat import Message, Part, render_prompt

HELP = """\
/help            this list
/system TEXT     start over with TEXT as the system message; without TEXT, with none
/reset           start over
/quit            leave, as Ctrl-D does
Ctrl-C           stop the reply"""

SAMPLE_QUESTIONS = (
    "Hello! Who are you?",
    "What can you do?",
    "What is 37 plus 58?",
    'How many letters are in "banana"?',
    "What is the opposite of hot?",
)

SAMPLING_FLAGS = ("seed", "temperature", "top_k", "top_p", "max_tokens")


def main(config: Config) -> None:
    """Answer `--prompt`, or the lines on stdin, or talk in the terminal. Raises UserError for what cannot be."""
    for stream in (sys.stdin, sys.stdout):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a stray byte is no reason to stop talking
    talk = open_talk(config)
    if config.prompt is not None:
        sys.stdout.write(talk.ask(config.prompt).text + "\n")
        if talk.sources:
            sys.stderr.write(f"{talk.sources}\n")
    elif sys.stdin.isatty() and sys.stdout.isatty():
        screen = Screen(sys.stdout, is_terminal=True)
        screen.notice(f"{talk.llm.bundle.path}. /help lists what you can type; Ctrl-D leaves.")
        screen.notice(talk.llm.engine.describe())
        if talk.llm.bundle.provenance.get("stage") == "pretrain" and not config.complete:
            screen.notice(
                "This model was not taught to converse yet: `chatsmith sft` does that, and --complete has it continue "
                "what you write."
            )
        converse(talk, typed_lines(screen), screen)
    else:
        screen = Screen(sys.stdout, shows_calls=False)  # the replies alone, for programs
        if not converse(talk, (line.rstrip("\r\n") for line in sys.stdin), screen):
            raise UserError(
                "there is no terminal and nothing to answer on stdin; give a question with --prompt"
            )


def show_sample(config: Config, questions: Iterable[str] = SAMPLE_QUESTIONS) -> None:
    """Print a short conversation: each question and the model's reply. The same every time."""
    talk = open_talk(replace(config, seed=config.seed or 0, temperature=0.0))
    screen = Screen(sys.stdout)
    for question in questions:
        screen.write(f"You:   {question}\nModel: ")
        talk.ask(question, on_part=screen.show)
        screen.end()


def open_talk(config: Config) -> "Talk":
    """Load the model and begin a conversation with it. Raises UserError if there is none, or it is damaged."""

    llm = LLM(
        config.run,
        device=config.device,
        dtype=config.dtype,
        quantize=None if config.quantize == "none" else config.quantize,
        # Room for two contexts: one conversation is decoded, and what it was before turns were dropped stays cached.
        max_running=2,
    )
    sampling = llm.sampling(**{name: getattr(config, name) for name in SAMPLING_FLAGS})
    index = PassageIndex(read_documents(expanded(config.documents)).passages) if config.documents else None
    return Talk(llm, sampling, config.system, continues=config.complete, index=index)


@dataclass
class Talk:
    """A conversation with a model: what was said, and the making of the next reply."""

    llm: LLM
    sampling: SamplingParams
    system: str | None = None
    continues: bool = False
    """Each text is continued, without a conversation."""
    index: PassageIndex | None = None
    """What there is to look up; None: nothing."""
    history: list[Message] = field(default_factory=list)
    """The turns the model still sees: user and assistant, in pairs."""
    sources: str = ""
    """Which passages stood before the last question, in words."""
    num_dropped: int = 0
    """Turns that the last question pushed out of the context."""
    begins_to_drop: bool = False
    """Did the last question push turns out, and the one before it none?"""

    def reset(self) -> None:
        """Forget what was said, not the system message."""
        self.history = []
        self.num_dropped = 0

    def ask(
        self,
        text: str,
        on_part: Callable[[Part], object] = lambda part: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Completion:
        """The reply to `text`, which joins the conversation together with it.

        `on_part` is called with the parts of the reply as they are written; the reply ends early once `is_stopped` says
        so. Raises UserError, and forgets the question, if it does not fit the context or the model fails.
        """

        question = Message.of("user", text)
        handle = self.llm.engine.submit(Request(tuple(self._fitting_prompt(question)), self.sampling))
        completion: Completion | None = None
        try:
            while completion is None and not is_stopped():
                for event in self.llm.engine.step():
                    for part in event.parts:
                        on_part(part)
                    completion = event.completion
        finally:
            completion = completion or self.llm.engine.cancel(handle)
        assert completion is not None
        if completion.error is not None:
            raise UserError(f"the model could not reply: {completion.error}")
        # A reply without a word is no turn of a conversation.
        if any(part.text for part in completion.parts) and not self.continues:
            self.history += [question, Message("assistant", completion.parts)]
        return completion

    def _fitting_prompt(self, question: Message) -> list[int]:
        """The conversation up to and with the question as ids; drops the oldest turns until a reply fits too."""

        context = self.llm.engine.config.context_length
        room = min(self.sampling.max_tokens or context, context // 4)
        beginning = [Message.of("system", self.system)] if self.system else []
        kept = list(self.history)
        while True:
            prompt = render_prompt([*beginning, *kept, question], self.llm.tokenizer)
            if self.continues:
                prompt = [self.llm.tokenizer.bos_id, *self.llm.tokenizer.encode(question.text)]
            if len(prompt) + room <= context or not kept:
                break
            del kept[:2]
        if len(prompt) >= context:
            raise UserError(
                f"the message takes {len(prompt)} tokens, but the model's context holds {context}, "
                "the reply included: shorten it"
            )
        dropped_before = self.num_dropped
        self.num_dropped = (len(self.history) - len(kept)) // 2
        self.begins_to_drop = self.num_dropped > 0 and dropped_before == 0
        self.history = kept
        if self.index is None:
            return prompt

        def prompt_of(text: str) -> list[int]:
            return render_prompt((*beginning, *kept, Message.of("user", text)), self.llm.tokenizer)

        asked, used = self.index.put_before(
            question.text, lambda text: len(prompt_of(text)) <= context - room
        )
        names = "; ".join(f"[{number}] {one.name}" for number, one in enumerate(used, start=1))
        lack = f"the model's context of {context} tokens is too short for a passage besides the conversation"
        if not self.index.best(question.text):
            lack = "no passage shares a word with the question"
        self.sources = f"Sources: {names or 'none; ' + lack}"
        return prompt_of(asked)


class Screen:
    """Writes a conversation to a terminal, or plainly to anything else."""

    def __init__(self, out: TextIO, is_terminal: bool = False, shows_calls: bool = True) -> None:
        self.is_terminal = is_terminal
        self._shows_calls = shows_calls
        self._out = out
        self._has_style = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._at_line_start = True
        self._call: list[str] = []

    def write(self, text: str) -> None:
        """Text as it comes, shown at once."""
        if text:
            self._out.write(printable(text))  # a model may write what a terminal would obey
            self._out.flush()
            self._at_line_start = text.endswith("\n")

    def notice(self, text: str) -> None:
        """A dim line of our own, among what the model says; only in a terminal."""
        if self.is_terminal:
            self._dim_line(text)

    def show(self, part: Part) -> None:
        """A piece of the reply. A call of the calculator becomes a line once its result is there."""
        if part.kind == "text":
            self._show_call()
            self.write(part.text)
        elif part.text == "":  # a new part begins
            if part.kind == "python":
                self._show_call()
            self._call.append("")
        else:
            self._call[-1] += part.text

    def end(self) -> None:
        """The reply is over: the next line begins."""
        self._show_call()
        if not self._at_line_start:
            self.write("\n")

    def _show_call(self) -> None:
        if self._call and self._shows_calls:
            self._dim_line(" = ".join(self._call))
        self._call = []

    def _dim_line(self, text: str) -> None:
        if not self._at_line_start:
            self.write("\n")
        start, end = ("\x1b[2m", "\x1b[0m") if self._has_style else ("", "")
        self._out.write(f"{start}{printable(text)}{end}\n")
        self._out.flush()
        self._at_line_start = True


def converse(talk: Talk, lines: Iterable[str], screen: Screen) -> bool:
    """Answer each line, or in a terminal do what it commands, until they end. Returns whether there were any."""
    had_lines, pressed = False, threading.Event()
    signals = (signal.SIGINT,) if screen.is_terminal else ()  # Ctrl-C ends the reply alone
    for line in lines:
        text = line.strip()
        if not text:
            continue
        had_lines = True
        if screen.is_terminal and text == "/quit":
            break
        if screen.is_terminal and text.startswith("/"):
            _command(talk, text, screen)
            continue
        pressed.clear()
        try:
            with receiving(signals, lambda *_: pressed.set()):
                completion = talk.ask(text, screen.show, pressed.is_set)
        except UserError as error:
            screen.end()
            screen.notice(str(error))
            if not screen.is_terminal:
                raise
            continue
        screen.end()
        _after_reply(talk, completion, screen)
    return had_lines


def _after_reply(talk: Talk, completion: Completion, screen: Screen) -> None:
    if talk.sources:
        screen.notice(talk.sources)
        if not screen.is_terminal:
            sys.stderr.write(f"{talk.sources}\n")
    if completion.finish_reason == "cancelled":
        screen.notice("(stopped)")
    elif completion.finish_reason == "length":
        screen.notice("(cut off here: the reply reached its longest)")
    elif not completion.parts:
        screen.notice("(the model had nothing to say)")
    if talk.begins_to_drop:
        forgets = "the conversation has outgrown the model's context: it no longer sees the oldest turns"
        screen.notice(f"({forgets})")
        if not screen.is_terminal:
            sys.stderr.write(f"Note: {forgets}.\n")


def _command(talk: Talk, text: str, screen: Screen) -> None:
    name, _, rest = text.partition(" ")
    if name == "/help":
        screen.notice(HELP)
    elif name == "/reset":
        talk.reset()
        screen.notice("(a new conversation)")
    elif name == "/system":
        talk.system = rest.strip() or None
        talk.reset()
        screen.notice(f"(a new conversation, {'with this' if talk.system else 'without a'} system message)")
    else:
        screen.notice(f"{name} is not known; /help lists what is")


def typed_lines(screen: Screen) -> Iterator[str]:
    """What is typed at the prompt, line by line, until Ctrl-D. Ctrl-C gives up the line."""
    with suppress(ImportError):
        import readline  # noqa: F401  gives `input` its line editing and history
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            screen.write("\n")
            screen.notice("(Ctrl-D leaves)")
        except EOFError:
            screen.write("\n")
            return
