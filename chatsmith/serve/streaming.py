"""Server-sent events: a reply while it is written; and leaving off when nobody listens any more.

A stream's status is decided by its first event: what goes wrong before is an ordinary error answer. Afterwards an error
is an event, `data: {"error": …}`, and the stream ends without `[DONE]`. Comments keep a silent connection open.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from chatsmith.serve.errors import ApiError, internal
from chatsmith.serve.request_log import RequestRecord, log_failure

KEEP_ALIVE_SECONDS = 10.0
"""A comment is sent after so long without an event: proxies close what is silent for a minute."""

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

CLIENT_CLOSED = 499
"""The status in the log of a request whose client left (nginx's)."""

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection before it had the whole answer."""


def event(content: Any) -> bytes:
    """One event, with JSON as its data."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client goes away. Raises ClientGone.

    The request's body must have been read, so that nothing but the end of the connection can arrive.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response made of events."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], record: RequestRecord, seconds: float) -> None:
        """`seconds` bounds the whole, sending included: a client that reads nothing holds no reply for ever."""
        # X-Accel-Buffering: nginx would otherwise collect events before it passes them on.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._record = record
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or the client leaves."""
        try:
            async with asyncio.timeout(self._seconds), aclosing(self._events):
                await unless_gone(receive, self._send_all(scope, receive, send))
        except ClientGone:
            self._record.status = CLIENT_CLOSED
        except TimeoutError:
            self._record.error = "deadline_exceeded"

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._events)
        except ApiError as error:
            self._record.error = error.code
            answer = JSONResponse(error.body(), error.status, error.headers())
            await answer(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as failure:
            if not isinstance(failure, ApiError):
                log_failure("stream_failed", failure, request_id=self._record.id)
            error = failure if isinstance(failure, ApiError) else internal()
            self._record.error = error.code
            await send({"type": "http.response.body", "body": event(error.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
