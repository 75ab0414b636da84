"""The HTTP endpoints, and what they have in common: keys, bodies, errors, streams, the log.

Each handler gets a checked request, and answers with JSON or a stream. The work that grows with the request (parsing,
rendering, tokenizing) leaves the event loop when it could be felt there.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import chatsmith
from chatsmith.serve import metrics, ollama, prompts, protocol
from chatsmith.serve.auth import HostNames
from chatsmith.serve.completions import ChatReply, Reply, TextReply
from chatsmith.serve.errors import CLIENT_CLOSED, ApiError, ClientGone, known
from chatsmith.serve.log import RequestRecord, log_failure
from chatsmith.serve.models import ServedModel, Service, bundle_card, card
from chatsmith.serve.page import add_page
from chatsmith.serve.protocol import answer
from chatsmith.serve.responses import ResponsesReply, ResponsesRequest

LARGE_BODY = 16 * 1024
"""Bytes; a larger request is read in a thread, so that no other waits for it. Most are handled in a millisecond."""

DISCARDED = 16
"""A body that is too large is read and dropped, up to this many times the limit: a client that is still sending would
see its connection break instead of the answer."""

QUIET = ("/health", "/ready", "/metrics")
"""Requested every few seconds by programs; only what goes wrong there is logged."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")

RequestT = TypeVar("RequestT", bound=protocol.ModelRequest)
T = TypeVar("T")


def create_app(service: Service, hosts: HostNames, cors_origins: Sequence[str] = ()) -> ASGIApp:
    """The application. Web pages of other origins may use it only if they are named in `cors_origins`.

    Without keys, only requests to one of the names in `hosts` are answered.
    """
    app = FastAPI(
        title="chatsmith",
        version=chatsmith.__version__,
        description="An OpenAI-compatible API, and what goes beyond it.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.include_router(_public_routes(service, app))
    app.include_router(_guarded_routes(service))
    add_page(app, has_chat=bool(service.models), has_runs=service.runs is not None)
    for kind in (HTTPException, RequestValidationError, RecursionError):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(Exception, _answer_fault)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client sends half a dozen of its own
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return RequestScope(app, service, hosts)


# ---- endpoints ----


def _public_routes(service: Service, app: FastAPI) -> APIRouter:
    """Endpoints that need no key."""
    router = APIRouter(responses=protocol.ERRORS)

    @router.head("/health", include_in_schema=False)
    @router.get("/health", responses=answer("Health"), summary="Is it alive?")
    async def health() -> Response:
        service.check_health()
        return JSONResponse({"status": service.status})

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", responses=answer("Health"), summary="Does it take work?")
    async def ready() -> Response:
        service.check_ready()
        return JSONResponse({"status": service.status})

    @router.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return JSONResponse(await asyncio.to_thread(described, app))

    return router


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: requests as their models say, answers as answers.toml does."""
    document = app.openapi()
    document["components"]["schemas"] |= protocol.ANSWERS
    return document


def _guarded_routes(service: Service) -> APIRouter:
    """Endpoints that need a key, if there are keys."""

    class GuardedRoute(APIRoute):
        """Checks the key before the body is read, and hands on a request whose body is read within its limits."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(http: Request) -> Response:
                http.state.record.key = service.keys.name_of(http.headers.get("authorization"))
                return await handle(JSONRequest(http.scope, http.receive, service))

            return guarded

    # The dependency checks nothing: it describes the key in /openapi.json.
    bearer = HTTPBearer(auto_error=False, description="Needed if the server was given keys.")
    router = APIRouter(route_class=GuardedRoute, dependencies=[Depends(bearer)], responses=protocol.ERRORS)

    @router.post(
        "/v1/chat/completions",
        responses=answer("ChatCompletion", streamed=True),
        summary="Continue a conversation",
    )
    async def chat_completions(http: Request, request: protocol.ChatRequest) -> Response:
        return await _generate(http, service, request, ChatReply)

    @router.post("/v1/completions", responses=answer("Completion", streamed=True), summary="Continue a text")
    async def completions(http: Request, request: protocol.CompletionRequest) -> Response:
        return await _generate(http, service, request, TextReply)

    @router.post(
        "/v1/responses",
        responses=answer("ResponseObject", streamed=True),
        summary="Continue a conversation, as items",
    )
    async def responses(http: Request, request: ResponsesRequest) -> Response:
        return await _generate(http, service, request, ResponsesReply)

    @router.post(
        "/tokenize",
        responses=answer("Tokenization"),
        summary="The tokens of a text or a conversation",
    )
    async def tokenize(http: Request, request: protocol.TokenizeRequest) -> Response:
        model = _model_of(http, service, request)
        answer = await _prepare(http, service, lambda: prompts.tokenize(request, model.loaded))
        return JSONResponse(answer | {"cached_tokens": await model.count_cached(answer["tokens"])})

    @router.post("/detokenize", responses=answer("Detokenization"), summary="The text of tokens")
    async def detokenize(http: Request, request: protocol.DetokenizeRequest) -> Response:
        model = _model_of(http, service, request)
        return JSONResponse(await _prepare(http, service, lambda: prompts.detokenize(request, model.loaded)))

    @router.get("/tokenizer_info", responses=answer("TokenizerInfo"), summary="About the tokenizer")
    async def tokenizer_info(model: str | None = None) -> Response:
        return JSONResponse(prompts.tokenizer_info(service.model(model).loaded))

    @router.get("/model_card", responses=answer("BundleCard"), summary="What a bundle says of itself")
    async def model_card(model: str | None = None) -> Response:
        return JSONResponse(bundle_card(service.model(model)))

    @router.get("/v1/models", responses=answer("ModelList"), summary="The models")
    async def models() -> Response:
        cards = [card(model) for model in service.models.values()]
        return JSONResponse({"object": "list", "data": cards})

    @router.get("/v1/models/{model_id:path}", responses=answer("ModelCard"), summary="One model")
    async def model(model_id: str) -> Response:
        return JSONResponse(card(service.model(model_id)))

    @router.post("/api/chat", responses=ollama.answer("OllamaChat"), summary="Ollama: a conversation")
    @router.post("/api/generate", responses=ollama.answer("OllamaText"), summary="Ollama: one prompt")
    async def ollama_reply(http: Request, request: ollama.OllamaRequest) -> Response:
        return await _generate(http, service, request, ollama.OllamaReply)

    @router.post("/api/show", responses=ollama.answer("OllamaModel"), summary="Ollama: one model")
    async def ollama_show(request: protocol.ModelRequest) -> Response:
        return JSONResponse(ollama.describe(service.model(request.model)))

    @router.get("/api/tags", responses=ollama.answer("OllamaModels"), summary="Ollama: the models")
    async def ollama_tags() -> Response:
        return JSONResponse({"models": [ollama.describe(model) for model in service.models.values()]})

    @router.get("/api/version", responses=ollama.answer("OllamaVersion"), summary="Ollama: its version")
    async def ollama_version() -> Response:
        return JSONResponse({"version": ollama.VERSION})

    if service.runs is not None:
        service.runs.add_routes(router)

    @router.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(service.metrics_text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    return router


async def _generate(
    http: Request,
    service: Service,
    request: RequestT,
    make_reply: Callable[[RequestT, ServedModel, RequestRecord], Reply],
) -> Response:
    record: RequestRecord = http.state.record
    model = _model_of(http, service, request)
    reply = await _prepare(http, service, lambda: make_reply(request, model, record))
    record.stream = reply.is_stream or None
    if service.logs_prompts:
        record.prompt = "\n".join(model.loaded.tokenizer.decode(job.prompt_ids) for job in reply.jobs)
        record.reply = reply.text
    pieces = reply.pieces()
    # What goes wrong before the first piece is an ordinary error answer.
    first = await unless_gone(http.receive, anext(pieces))
    if reply.is_stream:
        return EventStream(reply, first, pieces, model.request_seconds + service.read_seconds)
    await pieces.aclose()
    return Response(first, media_type="application/json")


def _model_of(http: Request, service: Service, request: protocol.ModelRequest) -> ServedModel:
    """The model that a request names."""
    record: RequestRecord = http.state.record
    record.unknown_fields = request.unknown_fields
    model = service.model(request.model)
    record.model = model.name
    if record.unknown_fields:
        service.metrics.at("unknown_request_fields", model.name).inc(len(record.unknown_fields))
    return model


async def _prepare(http: Request, service: Service, work: Callable[[], T]) -> T:
    """The result of `work`, which is done in a thread if the request is large, or documents are searched."""
    searches = any(model.passages for model in service.models.values())
    is_long = len(await http.body()) > LARGE_BODY or searches
    result = await asyncio.to_thread(work) if is_long else work()
    service.check_open()  # a signal may have come meanwhile
    return result


# ---- bodies ----


class JSONRequest(Request):
    """A request whose body is JSON, read within limits of size and time."""

    def __init__(self, scope: Scope, receive: Receive, service: Service) -> None:
        super().__init__(scope, receive)
        self._service = service

    async def body(self) -> bytes:
        """The body. Raises ApiError: 413 too large, 408 too slow, 415 not JSON; and ClientGone."""
        if not hasattr(self, "_body"):
            seconds = self._service.read_seconds
            try:
                async with asyncio.timeout(seconds):
                    body = await self._read(self._service.max_body_bytes)
            except ClientDisconnect:
                raise ClientGone from None
            except TimeoutError:
                raise known("request_timeout", seconds=seconds) from None
            self._check_type(body)
            self._body = body
        return self._body

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises ApiError (400)."""
        body, parse = await self.body(), protocol.parse_object
        return await asyncio.to_thread(parse, body) if len(body) > LARGE_BODY else parse(body)

    def _check_type(self, body: bytes) -> None:
        encoding = self.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise known("encoded_body", encoding=encoding[:40])
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        # Also a guard: a web page may send other types to this server unasked, but JSON only with its consent (CORS).
        if body and kind != "application/json":
            raise known("not_json")
        if not body:
            protocol.parse_object(body)  # FastAPI would call it a missing field

    async def _read(self, most: int) -> bytes:
        too_large = known("body_too_large", most=most)
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most * DISCARDED:
            raise too_large
        body = bytearray()
        num_read = 0
        async for piece in self.stream():
            num_read += len(piece)
            if num_read <= most:
                body += piece
            elif num_read > most * DISCARDED:
                raise too_large
        if num_read > most:
            raise too_large
        return bytes(body)


# ---- errors ----


async def _answer_error(http: Request, error: Exception) -> Response:
    """Whatever is the client's fault or passes by itself, as OpenAI's error body."""
    if isinstance(error, RequestValidationError):
        error = protocol.explain(error.errors(), error.body)
    elif isinstance(error, RecursionError):  # what could just be parsed may be too deep to be written again
        error = protocol.too_deep()
    assert isinstance(error, HTTPException)
    if not isinstance(error, ApiError):  # a path or a method that does not exist
        message = f"{http.method} {http.url.path[:200]}: {error.detail}"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        headers, error = error.headers, ApiError(error.status_code, message, code=code)
        error.headers = dict(headers or {})
    http.state.record.error = error.code
    return JSONResponse(error.body(http.url.path), error.status, error.headers)


async def _answer_fault(http: Request, error: Exception) -> Response:
    # RequestScope logs it.
    return JSONResponse(known("internal_error").body(http.url.path), 500)


# ---- streams ----


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled if the client goes away. Raises ClientGone.

    The request's body must have been read, so that nothing but the end of the connection can arrive.
    """

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(until_gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events, or lines: a reply while it is written, until it ends or the client leaves.

    Its first piece is there, so the status is decided: what goes wrong from now on is an event, `data: {"error": …}`,
    and the stream ends without `[DONE]`.
    """

    def __init__(self, reply: Reply, first: bytes, rest: AsyncGenerator[bytes, None], seconds: float) -> None:
        """`seconds` bounds the whole, sending included: a client that reads nothing holds no reply for ever."""
        # X-Accel-Buffering: nginx would otherwise collect events before it passes them on.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(first, rest), headers=headers, media_type=reply.media_type)
        self._reply, self._rest, self._seconds = reply, rest, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or the client leaves."""
        try:
            async with asyncio.timeout(self._seconds), aclosing(self._rest):
                await unless_gone(receive, self.stream_response(send))
        except ClientGone:
            self._reply.record.status = CLIENT_CLOSED
        except TimeoutError:
            self._reply.record.error = "deadline_exceeded"

    async def _events(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        yield first
        try:
            async for event in rest:
                yield event
        except Exception as failure:
            if not isinstance(failure, ApiError):
                log_failure("stream_failed", failure, request_id=self._reply.record.request_id)
            error = failure if isinstance(failure, ApiError) else known("internal_error")
            self._reply.record.error = error.code
            yield self._reply.failed(error)


# ---- around every request ----


class RequestScope:
    """The outermost layer of the application, outside the framework, so that nothing escapes it.

    Every answer carries `X-Request-Id` (the client's, if it sent a plain one), every request leaves one line in the
    log, and a fault of ours is a 500 with OpenAI's error body while its traceback goes to the log.
    """

    def __init__(self, app: ASGIApp, service: Service, hosts: HostNames) -> None:
        self._app = app
        self._service = service
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        wanted = headers.get("x-request-id", "")
        id = wanted if _PLAIN_ID.fullmatch(wanted) else f"req_{uuid.uuid4().hex}"
        client = scope.get("client")
        record = RequestRecord(id, scope["method"], scope["path"][:256], client[0] if client else None)
        scope.setdefault("state", {})["record"] = record

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = record.status or message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = record.request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        strange = [host for host in headers.getlist("host") if not self._hosts.allow(host)]
        try:
            if strange and not self._service.keys.are_required:
                error = known("host_not_allowed", host=strange[0][:100])
                record.error = error.code
                await JSONResponse(error.body(record.path), error.status)(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except Exception as error:
            log_failure("request_failed", error, request_id=record.request_id, path=record.path)
            record.error = "internal_error"
        finally:
            handler = getattr(scope.get("route"), "path", "unmatched")
            # A client may invent methods; a metric has few labels.
            method = record.method if record.method in METHODS else "other"
            status = record.status or CLIENT_CLOSED
            self._service.metrics.at("http_requests", handler, method, str(status)).inc()
            if record.path not in QUIET or status >= 400:
                record.write()
