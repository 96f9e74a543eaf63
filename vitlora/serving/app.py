"""The service over HTTP, by FastAPI: routes, who may use them, and how answers look."""

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitlora import __version__
from vitlora.errors import UsageError, nearest, printable, shown
from vitlora.metrics.prediction import Prediction
from vitlora.serving.bodies import Bodies, content_type
from vitlora.serving.limits import Refusal
from vitlora.serving.schema import ADAPTER, ADDING, ANSWERS, BODIES, responses
from vitlora.serving.service import Service, Upload

_READ_ON = 2.0  # seconds
_THIS_MACHINE = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_GONE = 499  # for the counts: the client did not wait; nginx's number


def application(
    service: Service,
    token: str | None = None,
    local: bool = False,
    more: Callable[[Bodies], APIRouter] | None = None,
) -> FastAPI:
    """Returns the service as an ASGI application.

    Args:
        service: Answers the pictures; is started and closed with the application.
        token: What ``Authorization: Bearer`` must bring for all but ``/health``; None for no check.
        local: Whether only this machine reaches it. Then, without a token, requests must name this
            machine: the page of another site could reach it by way of its own name server.
        more: Makes further routes, which have the same guards.
    """

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    # no pages: they would load scripts from other hosts
    app = FastAPI(
        title="vitlora", version=__version__, lifespan=running, docs_url=None, redoc_url=None
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(UsageError, _refused)  # an adapter that has just been removed
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_middleware(_Outermost, service=service)

    @app.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, object]:
        return {"status": "ok", "adapters": len(service.pool.names), "waiting": service.waiting}

    guard = _Token(token) if token else _names_this_machine if local else None
    guards = [*([Depends(guard)] if guard else []), Depends(_known_parameters)]
    bodies = Bodies(service.limits)
    for made in (_routes(service, bodies), *([more(bodies)] if more else [])):
        app.include_router(made, dependencies=guards)
    return app


def _routes(service: Service, bodies: Bodies) -> APIRouter:
    routes = APIRouter()

    @routes.post(
        "/predict",
        summary="The class of each picture, with its confidence",
        openapi_extra=BODIES,
        responses=responses(ANSWERS, 401, 404, 408, 413, 422, 503, 504),
    )
    async def predict(
        request: Request,
        adapter: Annotated[str | None, Query(description="needed if there are several")] = None,
        top_k: Annotated[int, Query(ge=1, description="classes to list")] = 3,
    ) -> Response:
        service.check_room()
        with bodies.holding() as held:
            uploads = await bodies.in_time(bodies.uploads(request, held))
            answers = await service.predict(uploads, adapter, top_k)
        results = [_as_json(answer, one) for answer, one in zip(answers, uploads, strict=True)]
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        if len(refused) == len(answers):
            raise refused[0] if len(refused) == 1 else _Refused(refused[0].status, results)
        return JSONResponse({"results": results})

    @routes.get(
        "/adapters",
        summary="The adapters in memory, with their classes",
        responses=responses({"type": "array", "items": ADAPTER}, 401),
    )
    async def adapters() -> Response:
        return JSONResponse([_described(service, name) for name in service.pool.names])

    @routes.post(
        "/adapters",
        summary="Loads an adapter",
        status_code=201,
        openapi_extra=ADDING,
        responses=responses(ADAPTER, 401, 403, 408, 409, 413, 415, 422, status=201),
    )
    async def load(request: Request) -> Response:
        kind = content_type(request)
        if kind != "application/json":  # which no page of another site may send unasked
            raise Refusal(415, f"the body is {printable(kind) or 'of no type'}; expected JSON")
        with bodies.holding() as held:
            body = await bodies.in_time(bodies.whole(request, held))
        try:
            asked = _Adding.model_validate_json(body)
        except ValidationError as error:
            raise _misread(error.errors()) from None
        await service.load(asked.name, asked.path)
        return JSONResponse(_described(service, asked.name), 201)

    @routes.delete(
        "/adapters/{name}",
        summary="Removes an adapter, once the pictures that use it are answered",
        responses=responses({"type": "object"}, 401, 403, 404),
    )
    async def remove(name: str) -> Response:
        await service.remove(name)
        return JSONResponse({"removed": name})

    @routes.get("/metrics", summary="Counts, for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        now = {"adapters": len(service.pool.names), "waiting_pictures": service.waiting}
        return Response(service.counts.to_text(now), media_type="text/plain; version=0.0.4")

    return routes


class _Adding(BaseModel):
    """The body of ``POST /adapters``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    path: str


class _Token(HTTPBearer):
    """Lets those pass who bring the token."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False)
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        brought = await super().__call__(request)
        given = brought.credentials.encode("utf-8", "surrogateescape") if brought else b""
        if not hmac.compare_digest(given, self._token):
            raise Refusal(401, "expected the header 'Authorization: Bearer TOKEN' with the token")
        return brought


class _Refused(Refusal):
    """The answer to several pictures, none of which got a prediction."""

    def __init__(self, status: int, results: list[dict[str, object]]) -> None:
        super().__init__(status, "no picture got a prediction")
        self.results = results


class _Outermost:
    """Counts requests by the status of their answer, and reads on before it refuses one.

    A client that is still sending when the connection is closed may never see its answer.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        more, waits = True, any(name == b"expect" for name, _ in scope["headers"])

        async def noted() -> Message:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.counts.request(message["status"])
                left = self._service.limits.body if message["status"] >= 400 and not waits else 0
                with suppress(TimeoutError):
                    async with asyncio.timeout(_READ_ON):
                        while more and left > 0:
                            left -= len((await noted()).get("body", b"")) + 1
            await send(message)

        await self._app(scope, noted, counted)


async def _names_this_machine(request: Request) -> None:
    """Refuses a request whose ``Host`` is a name that another name server could have given."""
    host = request.headers.get("host", "")
    if not _THIS_MACHINE.fullmatch(host):
        raise Refusal(
            403,
            f"the request is for the host {shown(host)}; expected localhost or its address. Behind "
            "a proxy, set a token in VITLORA_TOKEN or --token-file",
        )


async def _known_parameters(request: Request) -> None:
    """Refuses parameters in the URL that the route does not have; FastAPI ignores them."""
    route: Any = request.scope["route"]
    known = [one.alias for one in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise Refusal(422, f"there is no parameter {shown(name)}{nearest(name, known)}")


async def _gone(_: Request, error: Exception) -> Response:
    """Returns what nobody receives: the client has left."""
    return Response(status_code=_GONE)


async def _refused(_: Request, error: Exception) -> Response:
    """Returns an error as JSON, in one line."""
    if isinstance(error, RequestValidationError):
        error = _misread(error.errors())
    status = error.status if isinstance(error, Refusal) else 404
    headers = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    results = {"results": error.results} if isinstance(error, _Refused) else {}
    return JSONResponse({"detail": str(error), **results}, status, headers)


def _misread(errors: Any) -> Refusal:
    """Returns pydantic's first complaint in one line."""
    first: Mapping[str, Any] = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
    got = f" is {shown(first['input'])}" if first["type"] not in ("missing", "json_invalid") else ""
    return Refusal(422, f"{printable(where) or 'the body'}{got}: {printable(first['msg'])}")


def _as_json(answer: Prediction | Refusal, upload: Upload) -> dict[str, object]:
    if isinstance(answer, Refusal):
        return {"path": upload.name, "status": answer.status, "detail": str(answer)}
    return answer.to_json()


def _described(service: Service, name: str) -> dict[str, object]:
    judge = service.pool.adapter(name).judge
    return {
        "name": name,
        "classes": list(judge.classes),
        "calibrated": judge.confidence is not None,
    }
