"""The live page and its assets."""

import json
import re
from os import PathLike, stat_result
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"

_REFERENCE = re.compile(r'(?<="/static/)[^"]+')


def manifest(static: Path) -> dict[str, str]:
    """Fingerprinted name of each asset: {"app.js": "app.3f2a1c.js"}; empty without the file."""
    path = static / "manifest.json"
    names: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return names


def render(static: Path) -> str:
    """The page, with its assets under the names the manifest gives them."""
    names = manifest(static)
    source = (static / "index.html").read_text()
    return _REFERENCE.sub(lambda match: names.get(match[0], match[0]), source)


class Assets(StaticFiles):
    """Static files, of which fingerprinted ones may be cached for good."""

    def __init__(self, static: Path) -> None:
        super().__init__(directory=static)
        self._fingerprinted = {str(static / name) for name in manifest(static).values()}

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        forever = str(full_path) in self._fingerprinted
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if forever else "no-cache"
        )
        return response
