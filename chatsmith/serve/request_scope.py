"""Around every request: its id, its record, and a last resort for what nobody expected.

An ASGI layer of its own, outside the framework, so that nothing escapes it: every answer carries `X-Request-Id` (the
client's, if it sent a plain one), every request leaves one line in the log, and a fault of ours is a 500 with OpenAI's
error body while its traceback goes to the log.
"""

import re
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatsmith.serve.errors import internal
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.request_log import RequestRecord, log_failure
from chatsmith.serve.streaming import CLIENT_CLOSED, ClientGone

QUIET = ("/health", "/ready", "/metrics")
"""Asked every few seconds by programs; only what goes wrong there is logged."""

_PLAIN = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


class RequestScope:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        record = _record(scope)
        scope.setdefault("state", {})["record"] = record
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                record.status = record.status or message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = record.id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGone:
            record.status = CLIENT_CLOSED
        except Exception as error:
            log_failure("request_failed", error, request_id=record.id, path=record.path)
            record.error = "internal_error"
            if not has_started:
                await JSONResponse(internal().body(), 500)(scope, receive, send_with_id)
        finally:
            self._note(record, scope)

    def _note(self, record: RequestRecord, scope: Scope) -> None:
        route: Any = scope.get("route")
        handler = getattr(route, "path", "unmatched")
        status = record.status or CLIENT_CLOSED
        self._metrics.http_answered(handler, _known(record.method), status)
        if record.path not in QUIET or status >= 400:
            record.write()


def _record(scope: Scope) -> RequestRecord:
    wanted = Headers(scope=scope).get("x-request-id", "")
    id = wanted if _PLAIN.fullmatch(wanted) else f"req_{uuid.uuid4().hex}"
    client = scope.get("client")
    return RequestRecord(id, scope["method"], scope["path"][:256], client[0] if client else None)


def _known(method: str) -> str:
    """A client may invent methods; a metric has few labels."""
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
