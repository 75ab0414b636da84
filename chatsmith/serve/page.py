"""The chat page at /: files that `make web` built into `static/`, under a policy that lets them do little.

Everything comes from this server and nothing runs inline, so that a reply shown as HTML could not run a script even if
the page's own cleaning failed. Without a built page, / says how to build one. The page itself needs no key.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, Response
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

_MISSING = """<!doctype html>
<html lang="en">
<title>chatsmith</title>
<h1>chatsmith is running</h1>
<p>The API is at <code>/v1</code>. The chat page was not built: run <code>make web</code>, then start again.</p>
</html>
"""


class _Assets(StaticFiles):
    """Files whose names change with their content, so that they can be kept for ever."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"})
        return response


def add_page(app: FastAPI, static: Path = STATIC) -> None:
    """Serve the page in the folder `static`, if it was built."""
    index = static / "index.html"

    async def show_page(_: Request) -> Response:
        headers = HEADERS | {"Cache-Control": "no-cache"}
        if not index.is_file():
            return HTMLResponse(_MISSING, headers=headers)
        return FileResponse(index, headers=headers, media_type="text/html")

    app.add_route("/", show_page, include_in_schema=False)
    if (static / "assets").is_dir():
        app.mount("/assets", _Assets(directory=static / "assets"))
    # Icons, a manifest.
    files = {file.name: file for file in static.glob("*") if file.is_file() and file != index}

    async def show_file(http: Request) -> Response:
        return FileResponse(files[http.url.path[1:]], headers=HEADERS | {"Cache-Control": "no-cache"})

    for name in files:
        app.add_route(f"/{name}", show_file, include_in_schema=False)
