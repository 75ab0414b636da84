"""POST /v1/chat/completions: from a checked request to a job, and from its outputs to messages or chunks.

Streaming and not, the same `ChatChoice` turns outputs into deltas; a plain message is what its deltas add up to.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from chatsmith.engine.request import RequestError
from chatsmith.serve.chunks import ChunkWriter
from chatsmith.serve.errors import invalid
from chatsmith.serve.generation import Generation
from chatsmith.serve.prompt import chat_prompt, check_fits
from chatsmith.serve.protocol import Job, Output
from chatsmith.serve.request_log import RequestRecord
from chatsmith.serve.requests import ChatRequest
from chatsmith.serve.served_model import LoadedModel, ServedModel
from chatsmith.serve.streaming import DONE, KEEP_ALIVE, KEEP_ALIVE_SECONDS
from chatsmith.serve.token_texts import TokenTexts
from chatsmith.serve.tool_calls import CallReader, reply_constraint
from chatsmith.serve.usage import Usage


def chat_job(request: ChatRequest, model: LoadedModel) -> Job:
    """What the engine has to do. Raises ApiError (400)."""
    prompt = chat_prompt(request, model.tokenizer, model.info.vocab_size)
    check_fits(prompt, model.info.context_length, "messages")
    limits = {request.max_completion_tokens, request.max_tokens} - {None}
    if len(limits) > 1:
        raise invalid("max_tokens and max_completion_tokens differ; send one of them", "max_tokens")
    longest = next(iter(limits), model.defaults.max_tokens)
    choice = request.tool_choice
    constraint = reply_constraint(request.response_format, request.tools, choice, request.parallel_tool_calls)
    try:
        sampling = request.sampling(model.defaults, longest, request.reported_logprobs)
    except RequestError as error:
        raise invalid(str(error), error.parameter, error.code) from error
    return Job(tuple(prompt), sampling, request.replies, constraint=constraint)


def chat_parameters(request: ChatRequest) -> Mapping[str, str]:
    """What the engine's parameters are called in a chat request."""
    form = "response_format" if request.response_format and not request.tools else "tools"
    return {"prompt": "messages", "stop_ids": "stop_token_ids", "constraint": form}


class ChatReply:
    """The answer to one chat request, in the making."""

    def __init__(
        self,
        request: ChatRequest,
        job: Job,
        model: ServedModel,
        generation: Generation,
        record: RequestRecord,
    ) -> None:
        self._request = request
        self._job = job
        self._generation = generation
        self._usage = Usage([job], record)
        self._writer = ChunkWriter(
            f"chatcmpl-{uuid.uuid4().hex}",
            "chat.completion.chunk",
            int(time.time()),
            model.name,
            model.loaded.info.fingerprint,
            request.stream_options,
            self._usage,
        )
        texts = model.loaded.texts if request.logprobs else None
        reads_calls = bool(request.tools) and request.tool_choice != "none"
        must_call = request.tool_choice not in (None, "none", "auto")
        self.choices = [
            ChatChoice(
                number, CallReader(must_call) if reads_calls else None, texts, bool(request.return_token_ids)
            )
            for number in range(job.n)
        ]

    @property
    def is_stream(self) -> bool:
        """Are events asked for?"""
        return bool(self._request.stream)

    def text(self) -> str:
        """What the replies say so far."""
        return "\n".join(choice.content for choice in self.choices)

    async def plain(self) -> dict[str, Any]:
        """The whole answer."""
        async with self._generation:
            async for batch in self._generation.batches():
                for number, output in batch:
                    self._usage.add(number, output)
                    self.choices[number].chunks(output)
        answer = {
            **self._writer.fields("chat.completion"),
            "choices": [choice.to_json() for choice in self.choices],
            "usage": self._usage.to_json(),
        }
        return answer | self._prompt_ids()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events."""
        is_first = True
        async with self._generation:
            async for batch in self._generation.batches(KEEP_ALIVE_SECONDS):
                if not batch:
                    yield KEEP_ALIVE
                    continue
                chunks: list[bytes] = []
                for number, output in batch:
                    self._usage.add(number, output)
                    if is_first:
                        chunks += self._beginning()
                        is_first = False
                    chunks += [self._writer.chunk(choice) for choice in self.choices[number].chunks(output)]
                if chunks:
                    yield b"".join(chunks)
        yield self._writer.end() + DONE

    def _beginning(self) -> list[bytes]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        first, *others = [_choice(choice.number, delta) for choice in self.choices]
        return [self._writer.chunk(first, self._prompt_ids()), *map(self._writer.chunk, others)]

    def _prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": list(self._job.prompt_ids)} if self._request.return_token_ids else {}


@dataclass
class _Part:
    kind: str
    text: str


class ChatChoice:
    """One of the replies, as a message and as deltas."""

    def __init__(
        self, number: int, reader: CallReader | None, texts: TokenTexts | None, with_ids: bool
    ) -> None:
        """`texts` shows the tokens of log-probabilities; None if none are asked for."""
        self.number = number
        self.content = ""
        self._reader = reader
        self._texts = texts
        self._with_ids = with_ids
        self._parts: list[_Part] = []
        self._entries: list[dict[str, Any]] = []
        self._ids: list[int] = []
        self._finish_reason: str | None = None

    def chunks(self, output: Output) -> list[dict[str, Any]]:
        """What an output adds, as the choices of chunks."""
        made = self._pieces(output)
        extras = self._extras(output)
        if extras and not made:
            made = [_choice(self.number, {"content": ""})]
        if extras:
            made[0] |= extras
        if self._finish_reason is not None:
            made.append(_choice(self.number, {}, self._finish_reason))
        return made

    def _pieces(self, output: Output) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for is_text, group in groupby(output.parts, key=lambda part: part.kind == "text"):
            parts = list(group)
            for part in parts:
                self._add_part(part.kind, part.text)
            if is_text:
                made += self._said("".join(part.text for part in parts))
            else:
                # Beside the delta, not in it: OpenAI's clients put deltas together, and would not know how with these.
                shown = [{"kind": part.kind, "text": part.text} for part in parts]
                made.append(_choice(self.number, {}) | {"chatsmith": {"parts": shown}})
        if output.finish_reason is not None:
            made += self._counted(self._reader.finish()) if self._reader else []
            has_called = self._reader is not None and bool(self._reader.calls)
            self._finish_reason = (
                "tool_calls" if has_called and output.finish_reason == "stop" else output.finish_reason
            )
        return made

    def to_json(self) -> dict[str, Any]:
        """The choice of a plain answer."""
        calls = self._reader.calls if self._reader else []
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not self.content else self.content,
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = [call.to_json() for call in calls]
        if any(part.kind != "text" for part in self._parts):
            message["chatsmith"] = {"parts": [{"kind": one.kind, "text": one.text} for one in self._parts]}
        choice: dict[str, Any] = {
            "index": self.number,
            "message": message,
            "logprobs": {"content": self._entries, "refusal": None} if self._texts else None,
            "finish_reason": self._finish_reason,
        }
        return choice | ({"token_ids": self._ids} if self._with_ids else {})

    def _said(self, text: str) -> list[dict[str, Any]]:
        return self._counted(self._reader.push(text) if self._reader else [{"content": text}] if text else [])

    def _counted(self, deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.content += "".join(delta.get("content", "") for delta in deltas)
        return [_choice(self.number, delta) for delta in deltas]

    def _add_part(self, kind: str, text: str) -> None:
        # An empty text is the beginning of a part, which may be of the same kind as the one before.
        if text and self._parts and self._parts[-1].kind == kind:
            self._parts[-1].text += text
        else:
            self._parts.append(_Part(kind, text))

    def _extras(self, output: Output) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self._texts is not None and output.logprobs is not None:
            entries = self._texts.chat_entries(output.ids, output.logprobs)
            self._entries += entries
            if entries:
                extras["logprobs"] = {"content": entries, "refusal": None}
        if self._with_ids and output.ids:
            self._ids += output.ids
            extras["token_ids"] = list(output.ids)
        return extras


def _choice(number: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
