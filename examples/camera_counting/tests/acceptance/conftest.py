import os
from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    url = os.environ.get("APP_URL")
    if not url:
        pytest.skip("APP_URL is not set")
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client
