"""Reading the body of a request: all of it, within limits of size and time."""

import asyncio

from starlette.requests import Request

from chatsmith.serve.errors import ApiError
from chatsmith.serve.service import HttpLimits
from chatsmith.serve.streaming import ClientGone

DISCARDED = 16
"""A body that is too large is read and dropped, up to so many times the limit: a client that is still sending would
see its connection break instead of the answer."""


async def read_body(http: Request, limits: HttpLimits) -> bytes:
    """The body. Raises ApiError: 413 too large, 408 too slow, 415 not JSON; and ClientGone."""
    try:
        async with asyncio.timeout(limits.read_seconds):
            body = await _read(http, limits.max_body_bytes)
    except TimeoutError:
        raise ApiError(
            408,
            f"The request did not arrive within {limits.read_seconds:g} seconds.",
            code="request_timeout",
        ) from None
    encoding = http.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ApiError(
            415, f"Send the body as it is, without Content-Encoding: {encoding[:40]}.", code="encoded_body"
        )
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also a guard: a web page may send other types to this server unasked, but JSON only with its consent (CORS).
    if body and kind != "application/json":
        raise ApiError(
            415, "Send the body as JSON, with the header Content-Type: application/json.", code="not_json"
        )
    return body


async def _read(http: Request, most: int) -> bytes:
    declared = http.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most * DISCARDED:
        raise _too_large(most)
    body = bytearray()
    num_read = 0
    while True:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        num_read += len(piece)
        if num_read <= most:
            body += piece
        elif num_read > most * DISCARDED:
            raise _too_large(most)
        if not message.get("more_body", False):
            break
    if num_read > most:
        raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is larger than {most} bytes.", code="body_too_large")
