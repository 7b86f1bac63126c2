"""The page's files, and all of it as one file: a snapshot to keep or to send, which needs no server."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from batchwright_worker.dashboard.history import History
from batchwright_worker.dashboard.overview import Overview
from batchwright_worker.dashboard.updates import encoded, update

TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
}
POLICY: Final = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_LINKED: Final = {
    "style": '<link rel="stylesheet" href="dashboard.css">',
    "script": '<script src="dashboard.js" defer></script>',
}


@cache
def content(name: str) -> bytes:
    """A file of the page, one of TYPES; also from a package that is a zip file."""
    return files("batchwright_worker.dashboard").joinpath("static", name).read_bytes()


def policy(*, script: str = "'self'", style: str = "'self'") -> str:
    """The Content-Security-Policy: nothing but the page's own files, and no address but its own."""
    return POLICY.format(script=script, style=style)


def snapshot(overview: Overview, history: History) -> str:
    """The page with its files and this state inside, as HTML."""
    style, script = content("dashboard.css").decode(), content("dashboard.js").decode()
    told = {"history": history.as_json(), "update": msgspec.Raw(update(None, encoded(overview), overview.time))}
    # In HTML a script ends at the first `</script`, whatever the JSON around it means.
    data = msgspec.json.encode(told).decode().replace("<", "\\u003c")
    script = script.replace("</script", "<\\/script")
    rule = policy(script=_hash(script), style=_hash(style))
    return (
        content("index.html")
        .decode()
        .replace(
            _LINKED["style"], f'<meta http-equiv="Content-Security-Policy" content="{rule}"><style>{style}</style>'
        )
        .replace(_LINKED["script"], "")
        .replace(
            "</body>",
            f'<script type="application/json" id="snapshot">{data}</script><script>{script}</script></body>',
        )
    )


def _hash(text: str) -> str:
    """As a policy names what stands inside a page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
