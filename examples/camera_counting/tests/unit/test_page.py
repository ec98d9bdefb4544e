import json
import re
import shutil
from pathlib import Path

import pytest
from starlette.types import Scope

from camera_counting import page

pytestmark = pytest.mark.unit

REFERENCE = re.compile(r'"/static/([^"]+)"')


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A copy of the assets in which app.js has been fingerprinted."""
    shutil.copytree(page.STATIC, tmp_path / "static")
    (tmp_path / "static/app.js").rename(tmp_path / "static/app.3f2a1c.js")
    (tmp_path / "static/manifest.json").write_text(json.dumps({"app.js": "app.3f2a1c.js"}))
    return tmp_path / "static"


def test_every_asset_the_page_names_exists() -> None:
    names = REFERENCE.findall(page.render(page.STATIC))
    assert names
    for name in names:
        assert (page.STATIC / name).is_file()


def test_the_page_names_fingerprinted_assets_from_the_manifest(static: Path) -> None:
    names = REFERENCE.findall(page.render(static))
    assert "app.3f2a1c.js" in names
    assert "app.js" not in names
    assert "app.css" in names


@pytest.mark.parametrize(
    ("name", "caching"), [("app.3f2a1c.js", "immutable"), ("app.css", "no-cache")]
)
def test_only_fingerprinted_assets_are_cached_for_good(
    static: Path, name: str, caching: str
) -> None:
    path = static / name
    scope: Scope = {"type": "http", "method": "GET", "headers": []}
    response = page.Assets(static).file_response(path, path.stat(), scope)
    assert caching in response.headers["Cache-Control"]
