"""The HTTP interface of a `Service`, by FastAPI."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

import mobilette
from mobilette.engines.predictor import TOP
from mobilette.errors import InputError, shown, visible
from mobilette.limits import CLASSES
from mobilette.serving import documents
from mobilette.serving.bodies import Refused
from mobilette.serving.metrics import CONTENT_TYPE
from mobilette.serving.middleware import Around
from mobilette.serving.refusals import RETRY_AFTER, refusal
from mobilette.serving.service import Service

INDEX = "index.html"
PAGE = Path(__file__).with_name("page.html")

Top = Annotated[int, Query(ge=1, le=int(CLASSES.highest), description="Guesses of an answer.")]
Named = Annotated[str | None, Query(alias="model", description="A name; by default the first.")]
Given = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
_PREDICT = documents.problems(400, 404, 408, 413, 415, 422, 500, 503)


def create_app(service: Service, *, token: str | None = None) -> FastAPI:
    """Return the application; with a ``token``, only who knows it gets answers."""
    app = FastAPI(
        title="Mobilette",
        version=mobilette.__version__,
        description="Images in, classes out: the same answers as `mobilette predict`.",
        redoc_url=None,
    )
    guarded = [] if token is None else [Depends(_guard(token))]
    also = {} if token is None else documents.problems(401)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_starlette)
    app.add_exception_handler(InputError, _failed)
    app.add_exception_handler(ClientDisconnect, _left)
    _add_predict(app, service, dependencies=guarded, also=also)
    _add_facts(app, service, dependencies=guarded, also=also)
    _add_state(app, service, dependencies=guarded)
    _add_page(app, service, own=token is not None)
    app.add_middleware(Around, service=service)
    return app


def _add_predict(app: FastAPI, service: Service, *, dependencies: Any, also: Any) -> None:
    async def answer(request: Request, model: str | None, top: int) -> Response:
        served, answers, status = await service.predict(
            request.stream(),
            content_type=request.headers.get("content-type", ""),
            declared=request.headers.get("content-length"),
            model=model,
            top=top,
        )
        values: dict[str, Any] = {"model": served.name, "answers": answers}
        if status != 200:
            values = {"error": answers[0]["error"], "answers": answers}
        return Response(json.dumps(values), status, media_type="application/json")

    async def predict(request: Request, model: Named = None, top: Top = TOP) -> Response:
        """Classify one image or several."""
        return await answer(request, model, top)

    async def predict_with(request: Request, name: str, top: Top = TOP) -> Response:
        """Classify one image or several, by the artifact of this name."""
        return await answer(request, name, top)

    for path, endpoint in (("/v1/predict", predict), ("/v1/models/{name}/predict", predict_with)):
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            openapi_extra=documents.BODY,
            responses={200: {"model": documents.Answers}, **_PREDICT, **also},
            dependencies=dependencies,
        )


def _add_facts(app: FastAPI, service: Service, *, dependencies: Any, also: Any) -> None:
    async def model(model: Named = None) -> Response:
        """Say what an artifact is: its classes, its input, how its answers are made."""
        return JSONResponse({**service.choose(model).facts(), "limits": service.limits_said()})

    async def model_with(name: str) -> Response:
        """Say what the artifact of this name is."""
        return JSONResponse({**service.choose(name).facts(), "limits": service.limits_said()})

    async def models() -> Response:
        """Return the names of the artifacts."""
        return JSONResponse({"models": list(service.served)})

    known = {**documents.problems(404, 422), **also}
    for path, endpoint, shape, responses in (
        ("/v1/model", model, documents.Facts, known),
        ("/v1/models", models, documents.Names, also),
        ("/v1/models/{name}", model_with, documents.Facts, known),
    ):
        app.add_api_route(
            path,
            endpoint,
            responses={200: {"model": shape}, **responses},
            dependencies=dependencies,
        )


def _add_state(app: FastAPI, service: Service, *, dependencies: Any) -> None:
    async def healthz() -> Response:
        """Say that the server runs."""
        return JSONResponse({"status": "running"})

    async def readyz() -> Response:
        """Say whether the server takes requests: 503 from the moment that it is told to end."""
        if service.draining:
            return JSONResponse({"error": "ending"}, 503, headers=RETRY_AFTER)
        return JSONResponse({"status": "ready"})

    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    app.add_api_route("/healthz", healthz, responses={200: {"model": documents.State}})
    ready = {200: {"model": documents.State}, **documents.problems(503)}
    app.add_api_route("/readyz", readyz, responses=ready)
    app.add_api_route("/metrics", metrics, include_in_schema=False, dependencies=dependencies)


def _add_page(app: FastAPI, service: Service, *, own: bool) -> None:
    """Add the page of the first artifact, if it is one for browsers, or else our ``own``.

    Its files are looked up when they are asked for: what a reload opens may have others.
    """

    def files() -> Mapping[str, bytes | Path]:
        return {} if own else next(iter(service.served.values())).files

    async def page(_: Request) -> Response:
        content = files().get(INDEX, PAGE)
        return _file(INDEX, content)

    async def others(scope: Scope, receive: Receive, send: Send) -> None:
        content = files().get(scope["path"].removeprefix("/"))
        if content is None or scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404)
        await _file(scope["path"], content)(scope, receive, send)

    app.add_route("/", page, include_in_schema=False)
    app.router.default = others


def _file(name: str, content: bytes | Path) -> Response:
    kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
    if isinstance(content, Path):
        return FileResponse(content, media_type=kind)
    return Response(content, media_type=kind)


_TYPES = {"html": "text/html", "js": "text/javascript", "mjs": "text/javascript"}
_TYPES |= {"json": "application/json", "webmanifest": "application/manifest+json"}
_TYPES |= {"txt": "text/plain", "wasm": "application/wasm", "png": "image/png"}
_TYPES |= {"svg": "image/svg+xml", "css": "text/css"}


def _guard(token: str) -> Any:
    """Return the dependency that lets only those in who know the ``token``."""
    expected = token.encode()

    async def check(given: Given) -> None:
        credentials = "" if given is None else given.credentials
        if not hmac.compare_digest(credentials.encode("utf-8", "surrogatepass"), expected):
            raise Refused(401, "the token is missing or wrong: Authorization: Bearer TOKEN")

    return check


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name, value = first["loc"][-1], first.get("input")
    return JSONResponse({"error": f"{name} {shown(value)}: {first['msg']}"}, 422)


async def _of_starlette(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": visible(str(error))}, 500)


async def _left(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the client left"}, 400)  # nobody reads it
