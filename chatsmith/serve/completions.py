"""POST /v1/chat/completions and POST /v1/completions: from a checked request to jobs, and from outputs to an answer.

Every endpoint answers in one way, that of `Reply`: outputs come in batches from `ServedModel.generate`, a choice turns
each into the choices of chunks, and a plain answer is what its chunks add up to. Chat choices are messages, with the
calls of a client's tools read out of the text; text choices are text, with echo and the log-probabilities of the
prompt, the first as null, since nothing predicts it.

Log-probabilities are the model's own, whatever the sampling: this is what evaluation harnesses read.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import groupby
from typing import Any, ClassVar

import msgspec

from chatsmith.engine.request import TokenLogprob
from chatsmith.serve.errors import ApiError, invalid
from chatsmith.serve.ipc import Job, Output
from chatsmith.serve.log import RequestRecord
from chatsmith.serve.models import KEEP_ALIVE_SECONDS, LoadedModel, ServedModel
from chatsmith.serve.prompts import chat_prompt, check_fits, text_prompts, with_passages
from chatsmith.serve.protocol import COMPLETION_MAX_TOKENS, ChatRequest, CompletionRequest
from chatsmith.serve.tools import CallReader, reply_constraint
from chatsmith.text.chat import ReplyText, StreamDecoder
from chatsmith.text.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

LONG_PROMPT = 256
"""Scored prompt tokens; more are written out in a thread, so that no other request waits for it."""

UNLIKELY = -9999.0
"""What JSON says for minus infinity, as OpenAI does."""

encode = json.JSONEncoder(separators=(",", ":")).encode
"""JSON of ASCII alone: some clients take U+2028 for the end of a line of events. `json.dumps` would make a new encoder
for every chunk."""

# ---- one request ----


class Reply:
    """The answer to one request, as it is made: a stream of server-sent events, or one object."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"
    media_type = "text/event-stream"
    """Of a stream."""

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        jobs: Sequence[Job],
        choices: Sequence["ChatChoice | TextChoice"],
        model: ServedModel,
        record: RequestRecord,
        outputs: AsyncGenerator[list[Output], None],
    ) -> None:
        self.is_stream = bool(request.stream)
        self.jobs = jobs
        self._choices = choices
        self._outputs = outputs
        self.record = record
        self._beside: dict[str, Any] = {}
        """What stands beside the choices, once: in the first event, or in the answer."""
        self._fields = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.kind,
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"fp_{model.loaded.info.fingerprint[:12]}"
            + f"+{model.adapter}" * bool(model.adapter),
        }
        # What all chunks of a stream have in common is encoded once.
        common = {**self._fields, "object": self.chunk_kind}
        self._head = b"data: " + encode(common)[:-1].encode() + b',"choices":['
        options = request.stream_options
        self._with_usage = bool(options and options.include_usage)
        self._in_every_chunk = bool(options and options.continuous_usage_stats)
        # The first reply of a job reads the prompt; the others find it in the cache, which saved the client nothing.
        starts = [sum(job.n for job in jobs[:index]) for index in range(len(jobs))]
        self._cached = dict.fromkeys(starts, 0)
        self._prompt_tokens = sum(len(job.prompt_ids) for job in jobs)
        self._completion_tokens = 0

    def text(self) -> str:
        """What the replies say so far."""
        return "\n".join(choice.content for choice in self._choices)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The whole answer as one piece, or its events as they come, and a comment in every long silence."""
        opening: Iterable[Any] = self._opening()
        spoke = time.monotonic()
        async with aclosing(self._outputs) as batches:
            async for batch in batches:
                events: list[bytes] = []
                for output in batch:
                    chunks = await self._chunks(output)
                    if self.is_stream:
                        events += map(self._event, (*opening, *chunks))
                        opening = ()
                is_silent = time.monotonic() - spoke >= KEEP_ALIVE_SECONDS
                if events or (self.is_stream and is_silent):
                    yield b"".join(events) or self._silence()
                    spoke = time.monotonic()
        yield self._ending() if self.is_stream else await self._whole()

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that cannot go on."""
        return b"data: " + encode(error.body()).encode() + b"\n\n"

    def _silence(self) -> bytes:
        """What tells a client that the stream is alive."""
        return KEEP_ALIVE

    def _opening(self) -> list[dict[str, Any]]:
        """Chunks before those of the first output."""
        return []

    async def _chunks(self, output: Output) -> list[Any]:
        """What an output adds, as the choices of chunks."""
        # Forced ids count, too: they take time and room like others.
        self._completion_tokens += len(output.ids)
        if output.index in self._cached:
            self._cached[output.index] = output.cached_tokens
            self.record.cached_tokens = sum(self._cached.values())
        choice = self._choices[output.index]
        # A long prompt with twenty alternatives a token takes a tenth of a second to write out.
        is_long = output.prompt_logprobs is not None and len(output.prompt_logprobs) > LONG_PROMPT
        return await asyncio.to_thread(choice.chunks, output) if is_long else choice.chunks(output)

    def _event(self, choice: Any) -> bytes:
        fields, self._beside = self._beside, {}
        if self._in_every_chunk:
            fields["usage"] = self.usage()
        elif self._with_usage:
            fields["usage"] = None
        tail = b"," + encode(fields)[1:].encode() if fields else b"}"
        return self._head + encode(choice).encode() + b"]" + tail + b"\n\n"

    def _ending(self) -> bytes:
        """The last events."""
        usage = b'],"usage":' + encode(self.usage()).encode() + b"}\n\n"
        return self._head + usage + DONE if self._with_usage else DONE

    async def _whole(self) -> bytes:
        """The answer, when it is not a stream."""
        choices: list[msgspec.Raw] = []
        for choice in self._choices:
            choices.append(msgspec.Raw(msgspec.json.encode(choice.to_json())))
            await asyncio.sleep(0)  # 150,000 log-probabilities take 30 ms, in which no other request is heard
        answer = {**self._fields, "choices": choices, "usage": self.usage(), **self._beside}
        return msgspec.json.encode(answer)

    def usage(self) -> dict[str, Any]:
        """Token counts so far."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }


# ---- chat ----


class ChatReply(Reply):
    """What answers a chat. Raises ApiError (400)."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    names: ClassVar[Mapping[str, str]] = {"prompt": "messages", "stop_ids": "stop_token_ids"}
    """What the client's request calls the engine's parameters, and the fields that ask for a form."""

    def __init__(self, request: ChatRequest, model: ServedModel, record: RequestRecord) -> None:
        loaded = model.loaded
        context = loaded.info.context_length
        limits = {one for one in (request.max_completion_tokens, request.max_tokens) if one is not None}
        if len(limits) > 1:
            raise invalid("max_tokens and max_completion_tokens differ; send one of them", "max_tokens")
        sources: list[dict[str, str]] = []
        if model.passages:
            room = context - min([*limits, context // 4])
            request, sources = with_passages(request, model.passages, loaded.tokenizer, room)
        prompt = chat_prompt(request, loaded.tokenizer, loaded.info.vocab_size)
        check_fits(prompt, context, "messages")
        constraint = reply_constraint(
            request.response_format, request.tools, request.tool_choice, request.parallel_tool_calls
        )
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        sampling = request.sampling(loaded.defaults, next(iter(limits), loaded.defaults.max_tokens), logprobs)
        job = Job(tuple(prompt), sampling, request.n or 1, constraint=constraint)
        form = "response_format" if request.response_format and not request.tools else "tools"
        choices = [ChatChoice(number, request, loaded) for number in range(job.n)]
        names = {**self.names, "constraint": self.names.get(form, form)}
        outputs = model.generate([job], record, names, request.prompt_cache_key)
        record.user = request.user or request.safety_identifier
        super().__init__(request, [job], choices, model, record, outputs)
        if request.return_token_ids:
            self._beside["prompt_token_ids"] = prompt
        if model.passages:
            self._beside["chatsmith"] = {"sources": sources}

    def _opening(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [_chat_chunk(number, delta) for number in range(len(self._choices))]


class ChatChoice:
    """One of the replies, as a message and as deltas."""

    def __init__(self, number: int, request: ChatRequest, model: LoadedModel) -> None:
        self.content = ""
        self._number = number
        reads_calls = bool(request.tools) and request.tool_choice != "none"
        must_call = request.tool_choice not in (None, "none", "auto")
        may_be_cut = bool(request.stop or request.stop_token_ids)
        self._reader = CallReader(must_call, whole=may_be_cut) if reads_calls else None
        self._texts = TokenTexts(model.tokenizer) if request.logprobs else None
        self._with_ids = bool(request.return_token_ids)
        self._parts: list[dict[str, str]] = []
        self._entries: list[dict[str, Any]] = []
        self._ids: list[int] = []
        self._finish_reason: str | None = None

    def chunks(self, output: Output) -> list[dict[str, Any]]:
        """What an output adds, as the choices of chunks."""
        made: list[dict[str, Any]] = []
        for is_text, group in groupby(output.parts, key=lambda part: part.kind == "text"):
            parts = list(group)
            for part in parts:
                self._add_part(part.kind, part.text)
            if is_text:
                made += self._say("".join(part.text for part in parts))
            else:
                # Next to the delta, not in it: OpenAI's clients merge deltas, and could not merge these.
                shown = [{"kind": part.kind, "text": part.text} for part in parts]
                made.append(_chat_chunk(self._number, {}) | {"chatsmith": {"parts": shown}})
        if output.finish_reason is not None:
            made += self._deltas(self._reader.finish()) if self._reader else []
            has_called = self._reader is not None and bool(self._reader.calls)
            is_call = has_called and output.finish_reason == "stop"
            self._finish_reason = "tool_calls" if is_call else output.finish_reason
        extras = self._extras(output)
        if extras:
            made = made or [_chat_chunk(self._number, {"content": ""})]
            made[0] |= extras
        if self._finish_reason is not None:
            made.append(_chat_chunk(self._number, {}, self._finish_reason))
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
            message["tool_calls"] = [call.model_dump() for call in calls]
        if any(part["kind"] != "text" for part in self._parts):
            message["chatsmith"] = {"parts": self._parts}
        choice: dict[str, Any] = {
            "index": self._number,
            "message": message,
            "logprobs": {"content": self._entries, "refusal": None} if self._texts else None,
            "finish_reason": self._finish_reason,
        }
        return choice | ({"token_ids": self._ids} if self._with_ids else {})

    def _say(self, text: str) -> list[dict[str, Any]]:
        if self._reader is not None:
            return self._deltas(self._reader.push(text))
        return self._deltas([{"content": text}]) if text else []

    def _deltas(self, deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.content += "".join(delta.get("content", "") for delta in deltas)
        return [_chat_chunk(self._number, delta) for delta in deltas]

    def _add_part(self, kind: str, text: str) -> None:
        # An empty text is the beginning of a part, which may be of the same kind as the one before.
        if text and self._parts and self._parts[-1]["kind"] == kind:
            self._parts[-1]["text"] += text
        else:
            self._parts.append({"kind": kind, "text": text})

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


def _chat_chunk(number: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


# ---- text ----


class TextReply(Reply):
    """What continues the prompts of a text completion, a job for each. Raises ApiError (400)."""

    def __init__(self, request: CompletionRequest, model: ServedModel, record: RequestRecord) -> None:
        loaded = model.loaded
        max_tokens = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        sampling = request.sampling(loaded.defaults, max_tokens, request.logprobs)
        jobs: list[Job] = []
        for prompt in text_prompts(request, loaded.tokenizer, loaded.info.vocab_size):
            check_fits(prompt, loaded.info.context_length, "prompt", only_scored=max_tokens == 0)
            score_from = 0 if request.echo and request.logprobs is not None else None
            if max_tokens == 0 and score_from is None:
                score_from = len(prompt) - 1  # the engine has to have something to do
            jobs.append(Job(tuple(prompt), sampling, request.n or 1, score_from))
        of_choices = [job for job in jobs for _ in range(job.n)]
        choices = [TextChoice(*one, request, loaded.tokenizer) for one in enumerate(of_choices)]
        outputs = model.generate(jobs, record, {"stop_ids": "stop_token_ids"})
        record.user = request.user
        super().__init__(request, jobs, choices, model, record, outputs)


class TextChoice:
    """One of the replies, as text and as chunks."""

    def __init__(self, number: int, job: Job, request: CompletionRequest, tokenizer: Tokenizer) -> None:
        self.content = ""
        self._number = number
        self._job = job
        self._texts = TokenTexts(tokenizer)
        self._tokenizer = tokenizer
        self._with_logprobs = request.logprobs is not None
        self._with_ids = bool(request.return_token_ids)
        self._echo = bool(request.echo)
        # A special token that the server put before the text is none of what the client sent.
        self._hidden = int(isinstance(request.prompts[0], str) and request.add_special_tokens is not False)
        self._held: list[Output] = []
        self._reply = ReplyText(tokenizer, ())
        self._logprobs = _no_logprobs()
        self._length = 0
        """Characters whose tokens have their log-probabilities."""
        self._ids: list[int] = []
        self._finish_reason: str | None = None

    def chunks(self, output: Output) -> list[dict[str, Any]]:
        """What an output adds, as the choices of chunks."""
        if self._echo and self._with_logprobs:  # the prompt's log-probabilities, which stand first, come last
            self._held.append(output)
            if output.finish_reason is None:
                return []
            output = _joined(self._held)
        new = _no_logprobs()
        text = self._prompt(output, new) if self._echo else ""
        self._echo = False
        text += "".join(part.text for part in output.parts if part.kind == "text")
        for id, logprob in zip(output.ids, output.logprobs or (), strict=False):
            # Calls of the calculator and their outputs are no part of the text.
            piece = "".join(part.text for part in self._reply.push(id) if part.kind == "text")
            self._add(new, id, logprob, piece)
        for name, entries in new.items():
            self._logprobs[name] += entries
        self._ids += output.ids
        self.content += text
        self._finish_reason = output.finish_reason
        if not (text or output.ids or self._finish_reason):
            return []
        return [self._choice(text, new, list(output.ids))]

    def to_json(self) -> dict[str, Any]:
        """The choice of a plain answer."""
        return self._choice(self.content, self._logprobs, self._ids)

    def _choice(self, text: str, logprobs: dict[str, list[Any]], ids: list[int]) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": self._number,
            "text": text,
            "logprobs": logprobs if self._with_logprobs else None,
            "finish_reason": self._finish_reason,
        }
        return choice | ({"token_ids": ids} if self._with_ids else {})

    def _prompt(self, output: Output, new: dict[str, list[Any]]) -> str:
        """The echo of the prompt; its log-probabilities go into `new`."""
        pieces = _pieces(self._job.prompt_ids, self._tokenizer)
        pieces[: self._hidden] = [""] * self._hidden
        if self._with_logprobs and output.prompt_logprobs is not None:
            for id, logprob, piece in zip(self._job.prompt_ids, output.prompt_logprobs, pieces, strict=True):
                self._add(new, id, logprob, piece)
        return "".join(pieces)

    def _add(self, new: dict[str, list[Any]], id: int, logprob: TokenLogprob | None, text: str) -> None:
        """One token, and the text that it completes."""
        new["tokens"].append(self._texts.key(id))
        new["token_logprobs"].append(None if logprob is None else finite(logprob.logprob))
        new["top_logprobs"].append(None if logprob is None else self._texts.top_by_key(id, logprob))
        new["text_offset"].append(self._length)
        self._length += len(text)


def _no_logprobs() -> dict[str, list[Any]]:
    """The four parallel lists of a text completion's log-probabilities."""
    return {name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}


def _joined(outputs: Sequence[Output]) -> Output:
    """Outputs of one reply as if they had come at once."""
    return msgspec.structs.replace(
        outputs[-1],
        ids=tuple(id for output in outputs for id in output.ids),
        parts=tuple(part for output in outputs for part in output.parts),
        logprobs=tuple(logprob for output in outputs for logprob in output.logprobs or ()),
    )


def _pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text of ids, cut where each completes a character; special tokens by name."""
    decoder = StreamDecoder(tokenizer)
    pieces = [
        decoder.flush() + tokenizer.decode([id]) if tokenizer.is_special(id) else decoder.push(id)
        for id in ids
    ]
    if pieces:
        pieces[-1] += decoder.flush()
    return pieces


# ---- single tokens ----


class TokenTexts:
    """Shows single tokens: their text, their bytes, and the entries of log-probabilities.

    A token may be a part of a character, so its text alone may not exist: it is shown with U+FFFD, its bytes say what
    it is, and where a text has to tell tokens apart it is `bytes:\\xe2\\x98`, as OpenAI writes it. Special tokens are
    shown by name and have no bytes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def key(self, id: int) -> str:
        """A text that no other token has."""
        raw = self._tokenizer.decode_bytes([id])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat_entries(
        self, ids: Sequence[int], logprobs: Iterable[TokenLogprob | None]
    ) -> list[dict[str, Any]]:
        """Entries of a chat's `logprobs.content`, with our `id`; ids that were not sampled have none."""
        return [
            {
                **self._entry(id, one.logprob),
                "top_logprobs": [self._entry(other, logprob) for other, logprob in one.top],
            }
            for id, one in zip(ids, logprobs, strict=True)
            if one is not None
        ]

    def top_by_key(self, id: int, logprob: TokenLogprob) -> dict[str, float]:
        """An entry of a text completion's `top_logprobs`: the likeliest tokens, and the chosen one."""
        top = {self.key(other): finite(value) for other, value in logprob.top}
        return {**top, self.key(id): finite(logprob.logprob)} if top else {}

    def _entry(self, id: int, logprob: float) -> dict[str, Any]:
        is_special = self._tokenizer.is_special(id)
        return {
            "token": self._tokenizer.decode([id]),
            "bytes": None if is_special else list(self._tokenizer.decode_bytes([id])),
            "logprob": finite(logprob),
            "id": id,
        }


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else UNLIKELY
