"""The demo: the service with a page in the browser, which may keep corrections."""

import secrets
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from vitlora.errors import nearest, shown
from vitlora.evaluation.figures import draw_looked_at
from vitlora.metrics.confidence import NEVER
from vitlora.pages.page import render, shared_script
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.pooled_adapter import PooledAdapter
from vitlora.serving.app import application
from vitlora.serving.bodies import Bodies, Held
from vitlora.serving.corrections import Corrected, Corrections
from vitlora.serving.limits import Refusal
from vitlora.serving.service import Service, Upload

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_POLICY = (
    "default-src 'none'; img-src data:; connect-src 'self'; script-src 'nonce-{0}'; "
    "style-src 'nonce-{0}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def demo_application(service: Service, token: str, corrections: Corrections | None) -> FastAPI:
    """Returns the service with the page at ``/``, as an ASGI application.

    The page is the same for everyone and holds no data: what it shows, it asks for with the token,
    which it reads behind the ``#`` of its address.

    Args:
        service: Answers the pictures.
        token: What every request but that for the page must bring.
        corrections: Keeps corrected pictures; None if nobody may correct.
    """
    app = application(service, token, more=partial(_routes, service, corrections))
    script = f"{shared_script()}\n{Path(__file__).with_name('demo.js').read_text('utf-8')}"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        content = render("demo.html", nonce=nonce, title="vitlora demo", script=script)
        return HTMLResponse(
            content, headers={**_HEADERS, "Content-Security-Policy": _POLICY.format(nonce)}
        )

    return app


def _routes(service: Service, corrections: Corrections | None, bodies: Bodies) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    async def picture(request: Request, held: Held) -> Upload:
        uploads = await bodies.in_time(bodies.uploads(request, held))
        if len(uploads) != 1:
            raise Refusal(422, f"the request has {len(uploads)} pictures; expected one")
        return uploads[0]

    @routes.get("/demo")
    async def about() -> Response:
        pool, kept = service.pool, corrections.folders if corrections else {}
        described = [
            {"name": name, **_described(pool.adapter(name)), "corrections": str(kept.get(name, ""))}
            for name in pool.names
        ]
        return JSONResponse({"adapters": described})

    @routes.post("/where")
    async def where(
        request: Request, label: Annotated[str, Query(alias="class")], adapter: str | None = None
    ) -> Response:
        service.check_room()
        with bodies.holding() as held:
            upload = await picture(request, held)
            look = partial(_look, service.pool, label)
            seen, heat = await service.open(upload, adapter, look)
        return JSONResponse({"seen": seen, "map": heat})

    @routes.post("/corrections")
    async def correct(
        request: Request, label: Annotated[str, Query(alias="class")], adapter: str | None = None
    ) -> Response:
        if (keeping := corrections) is None:
            raise Refusal(403, "this demo keeps no corrections")
        service.check_room()
        with bodies.holding() as held:
            upload = await picture(request, held)
            name = adapter or service.pool.names[0]

            def keep(chosen: PooledAdapter, _: torch.Tensor) -> Corrected:
                return keeping.keep(upload, name, label, chosen.judge.classes)

            kept = await service.open(upload, adapter, keep)
        said = {"place": str(kept.place), "class": kept.label, "new": kept.new}
        return JSONResponse(said, 201)

    return routes


def _described(adapter: PooledAdapter) -> dict[str, object]:
    known = adapter.judge.confidence
    return {
        "classes": list(adapter.judge.classes),
        "calibrated": known is not None,
        "unproven": known is not None and known.unsure_below >= NEVER,
    }


def _look(
    pool: AdapterPool, label: str, adapter: PooledAdapter, tensor: torch.Tensor
) -> tuple[str, str]:
    """Returns a picture as the network saw it, and where a class comes from, as data URIs."""
    classes = adapter.judge.classes
    if label not in classes:
        raise Refusal(422, f"there is no class {shown(label)}{nearest(label, classes)}")
    asked = torch.tensor([classes.index(label)])
    images = tensor[None].to(pool.device, torch.float32)
    return draw_looked_at(pool.plain(adapter), images, asked, adapter.preprocessing)[0]
