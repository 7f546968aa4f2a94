"""/docs: the OpenAPI document to look at and to try, with nothing from elsewhere and nothing put into it."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def serve_docs(app: FastAPI) -> None:
    """Add the page, its script and its style sheet; a browser lets the page use these alone, and nobody frame it."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Postroad API",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="data:,",
    ).body
    headers = {
        "Content-Security-Policy": _policy(bytes(page)),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }
    spec = find_spec("fastapi_swagger")
    assert spec is not None
    assert spec.origin is not None
    resources = Path(spec.origin).parent / "resources"

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return Response(page, headers=headers, media_type="text/html")

    @app.get("/docs/assets/swagger-ui-bundle.js", include_in_schema=False)
    async def script() -> Response:
        return FileResponse(resources / "swagger-ui-bundle.js", media_type="text/javascript")

    @app.get("/docs/assets/swagger-ui.css", include_in_schema=False)
    async def style() -> Response:
        return FileResponse(resources / "swagger-ui.css", media_type="text/css")


def _policy(page: bytes) -> str:
    """What the page may do: its own scripts, of which one stands in it, and calls of this server."""
    hashes = [f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in _SCRIPT.findall(page)]
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {' '.join(hashes)}",
            "style-src 'self' 'unsafe-inline'",  # It sets the style of what it draws.
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
