"""The chat page at / and the training page at /runs: files that `make web` built into `static/`, under a policy that
lets them do little.

Everything comes from this server and nothing runs inline, so that a reply shown as HTML could not run a script even if
the page's own cleaning failed. Without a built page, / says how to build one. The page itself needs no key.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"

POLICY = "; ".join(
    (
        *("default-src 'self'", "img-src 'self' data: blob:", "style-src 'self' 'unsafe-inline'"),
        *("connect-src 'self'", "font-src 'self' data:", "script-src 'self'", "worker-src 'self'"),
        *("object-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}

_MISSING = Path(__file__).with_name("missing.html")


class _Assets(StaticFiles):
    """Files whose names change with their content, so that they can be kept for ever."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"})
        return response


def add_page(app: FastAPI, static: Path = STATIC, *, has_chat: bool = True, has_runs: bool = False) -> None:
    """Serve the pages in the folder `static`, if they were built. Where there is no chat, / leads to the runs."""
    pages = {"/": static / "index.html", "/runs": static / "runs.html"}

    async def show_page(http: Request) -> Response:
        headers = HEADERS | {"Cache-Control": "no-cache"}
        page = pages[http.url.path]
        if http.url.path == "/" and not has_chat:
            return RedirectResponse("runs", headers=headers)
        if not page.is_file():
            return HTMLResponse(_MISSING.read_text(encoding="utf-8"), headers=headers)
        return FileResponse(page, headers=headers, media_type="text/html")

    app.add_route("/", show_page, include_in_schema=False)
    if has_runs:
        app.add_route("/runs", show_page, include_in_schema=False)
    if (static / "assets").is_dir():
        app.mount("/assets", _Assets(directory=static / "assets"))
    # Icons, a manifest.
    files = {file.name: file for file in static.glob("*") if file.is_file() and file not in pages.values()}

    async def show_file(http: Request) -> Response:
        return FileResponse(files[http.url.path[1:]], headers=HEADERS | {"Cache-Control": "no-cache"})

    for name in files:
        app.add_route(f"/{name}", show_file, include_in_schema=False)
