"""uvicorn's HTTP/1.1 protocol with limits on how long a request may take to arrive, and how much is said around it.

uvicorn waits for headers for ever and keeps whatever comes, and it waits as long for a body that no handler reads (one
that was refused): a few thousand silent connections would use up every file descriptor (the "slowloris" attack). It
also forgets a reply under way once the same connection has sent its next request (pipelining): if such a client
leaves, nobody is told. And it loses the body of a request that offers to go on in another protocol: Java's client
offers HTTP/2 with every first request.
"""

import asyncio
import json
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chatsmith.serve.errors import ApiError, known

MAX_OVERHEAD = 64 * 1024
"""Bytes of a request that are not its body: headers, the frames of chunks, trailers."""

FRAME_SHARE = 8
"""A body in chunks of one byte has six bytes around each; so much for every byte of a body is no overhead."""

BODY_SHARE = 2
"""Handlers give a body its time, and answer 408; only what no handler waits for stays longer, so much longer."""

MAX_PIPELINED = 16
"""Requests that may wait on a connection before it is read no further."""


def connection_class(header_seconds: float) -> type[asyncio.Protocol]:
    """The protocol for uvicorn; headers must be complete within `header_seconds` of their first byte."""

    class Connection(HttpToolsProtocol):
        """One connection of a client."""

        _overdue: asyncio.TimerHandle | None = None
        _overhead = 0
        _answered: RequestResponseCycle | None = None
        """The request that is being answered, or was last; with pipelining, others may have arrived since."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await(header_seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)
            if self._answered is not None and not self._answered.response_complete:
                self._answered.disconnected = True
                self._answered.message_event.set()

        def data_received(self, data: bytes) -> None:
            self._unset_keepalive_if_required()
            self._overhead += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._decline(data[offer.args[0] :])
            except httptools.HttpParserError:
                self._refuse(known("invalid_http"))
            if self._overhead > MAX_OVERHEAD and not self.transport.is_closing():
                self._refuse(known("headers_too_large", most=MAX_OVERHEAD))

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._overdue is None:
                self._await(header_seconds)

        def on_headers_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._stop_waiting()
            self._await(BODY_SHARE * header_seconds)
            super().on_headers_complete()
            if len(self.pipeline) < MAX_PIPELINED:
                self.flow.resume_reading()  # or the end of the connection would not be noticed

        def on_body(self, body: bytes) -> None:
            self._overhead = max(0, self._overhead - FRAME_SHARE * len(body))
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._stop_waiting()
            self._overhead = 0
            super().on_message_complete()

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._answered = cycle
            super()._start_asgi_task(cycle, app)

        def _decline(self, rest: bytes) -> None:
            """Read the request again, without its offer: the parser takes what follows for the other protocol."""
            if self.parser.get_method() == b"CONNECT":
                self._refuse(known("method_not_allowed"))
                return
            lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
            lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

        def _await(self, seconds: float) -> None:
            self._overdue = self.loop.call_later(seconds, self._give_up, seconds)

        def _stop_waiting(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _give_up(self, seconds: float) -> None:
            answered = self._answered
            if answered is not None and not answered.response_complete and not answered.more_body:
                # Half a request behind one that is being answered, whose reply is to be whole.
                self._await(seconds)
            elif not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, error: ApiError) -> None:
            body = json.dumps(error.body()).encode()
            self.transport.write(
                b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (error.status, len(body), body)
            )
            self.transport.close()

    return Connection
