"""uvicorn's HTTP/1.1 protocol with limits on how long, and how much, a client may say before its request begins.

uvicorn waits for the headers of a connection's first request for ever and keeps whatever comes; a few thousand silent
connections would then use up every file descriptor (the "slowloris" attack).
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chatsmith.serve.errors import ApiError

MAX_HEADER_BYTES = 64 * 1024


def connection_class(header_seconds: float) -> type[asyncio.Protocol]:
    """The protocol for uvicorn; headers must be complete within `header_seconds` of their first byte."""

    class Connection(HttpToolsProtocol):
        """One connection of a client."""

        _overdue: asyncio.TimerHandle | None = None
        _header_bytes = 0
        _in_headers = True

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_headers:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self._refuse(ApiError(431, f"The headers are larger than {MAX_HEADER_BYTES} bytes."))

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers = True
            if self._overdue is None:
                self._await_headers()

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            self._in_headers = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._header_bytes = 0

        def send_400_response(self, msg: str) -> None:
            self._refuse(ApiError(400, f"This is not HTTP: {msg}", code="invalid_http"))

        def _await_headers(self) -> None:
            self._overdue = self.loop.call_later(header_seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, error: ApiError) -> None:
            body: Any = json.dumps(error.body()).encode()
            self.transport.write(
                b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (error.status, len(body), body)
            )
            self.transport.close()

    return Connection
