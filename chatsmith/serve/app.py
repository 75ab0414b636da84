"""The HTTP endpoints, and what they have in common: keys, bodies, errors.

Each handler reads and checks a request, hands a job to a `ServedModel`, and answers with JSON or a stream. The work
that grows with the request (parsing, rendering, tokenizing) leaves the event loop when it could be felt there.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

import chatsmith
from chatsmith.serve import metrics, openapi, tokens
from chatsmith.serve.answers import encoded
from chatsmith.serve.chat_completions import ChatReply, chat_job, chat_parameters
from chatsmith.serve.completions import COMPLETION_PARAMETERS, CompletionReply, completion_jobs
from chatsmith.serve.errors import ApiError, internal
from chatsmith.serve.http_body import read_body
from chatsmith.serve.json_body import parse_object, too_deep
from chatsmith.serve.page import add_page
from chatsmith.serve.protocol import Job
from chatsmith.serve.request_log import RequestRecord
from chatsmith.serve.request_scope import RequestScope
from chatsmith.serve.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from chatsmith.serve.responses import (
    ChatCompletion,
    Completion,
    Detokenization,
    Health,
    ModelCard,
    ModelList,
    Tokenization,
    TokenizerInfo,
)
from chatsmith.serve.served_model import ServedModel
from chatsmith.serve.service import Service, card
from chatsmith.serve.streaming import EventStream, unless_gone

LARGE_BODY = 16 * 1024
"""Bytes; a larger request is read in a thread, so that no other waits for it. Most are handled in a millisecond."""

RequestT = TypeVar("RequestT", bound=ChatRequest | CompletionRequest | TokenizeRequest | DetokenizeRequest)
PreparedT = TypeVar("PreparedT")


def create_app(service: Service, cors_origins: Sequence[str] = ()) -> ASGIApp:
    """The application. Web pages of other origins may use it only if they are named in `cors_origins`."""
    app = FastAPI(
        title="chatsmith",
        version=chatsmith.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.include_router(_public(service, app))
    app.include_router(_guarded(service))
    add_page(app)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_fault)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client sends half a dozen of its own
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return RequestScope(app, service.metrics)


# ---- endpoints that anyone may ask ----


def _public(service: Service, app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health", response_model=Health, responses=openapi.errors(503), summary="Is it alive?")
    async def health() -> Response:
        service.check_health()
        return JSONResponse({"status": service.status})

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", response_model=Health, responses=openapi.errors(503), summary="Does it take work?")
    async def ready() -> Response:
        service.check_ready()
        return JSONResponse({"status": service.status})

    @router.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        if app.openapi_schema is None:
            app.openapi_schema = await asyncio.to_thread(openapi.describe, app)
        return JSONResponse(app.openapi_schema)

    return router


# ---- endpoints that need a key, if there are keys ----


def _guarded(service: Service) -> APIRouter:
    bearer = HTTPBearer(auto_error=False, description="Needed if the server was given keys.")

    async def authorize(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> None:
        request.state.record.key = service.keys.name_of(request.headers.get("authorization"))

    router = APIRouter(dependencies=[Depends(authorize)])
    _add_generation(router, service)
    _add_tokens(router, service)
    _add_models(router, service)
    return router


def _add_generation(router: APIRouter, service: Service) -> None:
    @router.post(
        "/v1/chat/completions",
        responses=openapi.streamed(ChatCompletion) | openapi.generation_errors(),
        openapi_extra=openapi.takes(ChatRequest),
        summary="Continue a conversation",
    )
    async def chat_completions(http: Request) -> Response:
        record: RequestRecord = http.state.record
        request, model, job = await _read(http, service, ChatRequest, lambda r, m: chat_job(r, m.loaded))
        record.user = request.user or request.safety_identifier
        generation = model.generate([job], record, chat_parameters(request), request.prompt_cache_key)
        reply = ChatReply(request, job, model, generation, record)
        return await _answer(http, service, model, reply, [job])

    @router.post(
        "/v1/completions",
        responses=openapi.streamed(Completion) | openapi.generation_errors(),
        openapi_extra=openapi.takes(CompletionRequest),
        summary="Continue a text",
    )
    async def completions(http: Request) -> Response:
        record: RequestRecord = http.state.record
        request, model, jobs = await _read(
            http, service, CompletionRequest, lambda r, m: completion_jobs(r, m.loaded)
        )
        record.user = request.user
        generation = model.generate(jobs, record, COMPLETION_PARAMETERS)
        reply = CompletionReply(request, jobs, model, generation, record)
        return await _answer(http, service, model, reply, jobs)


def _add_tokens(router: APIRouter, service: Service) -> None:
    @router.post(
        "/tokenize",
        response_model=Tokenization,
        responses=openapi.body_errors(),
        openapi_extra=openapi.takes(TokenizeRequest),
        summary="The tokens of a text or a conversation",
    )
    async def tokenize(http: Request) -> Response:
        _, model, answer = await _read(
            http, service, TokenizeRequest, lambda r, m: tokens.tokenize(r, m.loaded)
        )
        return JSONResponse(answer | {"cached_tokens": await model.count_cached(answer["tokens"])})

    @router.post(
        "/detokenize",
        response_model=Detokenization,
        responses=openapi.body_errors(),
        openapi_extra=openapi.takes(DetokenizeRequest),
        summary="The text of tokens",
    )
    async def detokenize(http: Request) -> Response:
        _, _, answer = await _read(
            http, service, DetokenizeRequest, lambda r, m: tokens.detokenize(r, m.loaded)
        )
        return JSONResponse(answer)

    @router.get(
        "/tokenizer_info",
        response_model=TokenizerInfo,
        responses=openapi.errors(401, 404, 503),
        summary="About the tokenizer",
    )
    async def tokenizer_info(model: str | None = None) -> Response:
        return JSONResponse(tokens.tokenizer_info(service.model(model).loaded))


def _add_models(router: APIRouter, service: Service) -> None:
    @router.get(
        "/v1/models", response_model=ModelList, responses=openapi.errors(401, 503), summary="The models"
    )
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": service.cards()})

    @router.get(
        "/v1/models/{model_id:path}",
        response_model=ModelCard,
        responses=openapi.errors(401, 404, 503),
        summary="One model",
    )
    async def model(model_id: str) -> Response:
        return JSONResponse(card(service.model(model_id)))

    @router.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(service.metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})


# ---- what they share ----


async def _read(
    http: Request,
    service: Service,
    kind: type[RequestT],
    prepare: Callable[[RequestT, ServedModel], PreparedT],
) -> tuple[RequestT, ServedModel, PreparedT]:
    """The request, the model it names, and what `prepare` makes of both."""
    body = await read_body(http, service.limits)
    record: RequestRecord = http.state.record

    def understand() -> tuple[RequestT, ServedModel, PreparedT]:
        try:
            request = kind.read(parse_object(body))
            record.unknown_fields = request.unknown_fields
            model = service.model(request.model)
            record.model = model.name
            return request, model, prepare(request, model)
        except RecursionError as error:  # what could just be parsed may be too deep to be written again
            raise too_deep() from error

    understood = await asyncio.to_thread(understand) if len(body) > LARGE_BODY else understand()
    service.check_open()  # a signal may have come meanwhile
    if record.unknown_fields:
        service.metrics.unknown_fields(understood[1].name, len(record.unknown_fields))
    return understood


async def _answer(
    http: Request,
    service: Service,
    model: ServedModel,
    reply: ChatReply | CompletionReply,
    jobs: Sequence[Job],
) -> Response:
    record: RequestRecord = http.state.record
    record.is_stream = reply.is_stream
    if service.logs_prompts:
        record.prompt = "\n".join(model.loaded.tokenizer.decode(job.prompt_ids) for job in jobs)
        record.reply = reply.text
    if reply.is_stream:
        return EventStream(reply.events(), record, model.request_seconds + service.limits.read_seconds)
    answer = await unless_gone(http.receive, reply.plain())
    return Response(await encoded(answer), media_type="application/json")


async def _answer_api_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    http.state.record.error = error.code
    return JSONResponse(error.body(), error.status, error.headers())


async def _answer_http_error(http: Request, error: Exception) -> Response:
    """A path or a method that does not exist."""
    assert isinstance(error, HTTPException)
    said = f"{http.method} {http.url.path[:200]}: {error.detail}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    answer = ApiError(error.status_code, said, code=code)
    http.state.record.error = code
    return JSONResponse(answer.body(), error.status_code, dict(error.headers or {}))


async def _answer_fault(http: Request, error: Exception) -> Response:
    # The layer outside logs it.
    return JSONResponse(internal().body(), 500)
