"""Speak to an image registry (OCI distribution specification 1.1). Standard library only, beside oci.py.

    python -m stages.scripts.registry pull NAME@sha256:... OUT
    python -m stages.scripts.registry push LAYOUT NAME TAG... [--mount REPOSITORY]

`pull` writes the image for this machine's platform as a layout. `push` sends the image of a layout, leaves out
the blobs the registry has, and writes the digest the registry confirmed to the file `digest`. Credentials come
in REGISTRY_USERNAME and REGISTRY_PASSWORD. Registries on this machine are spoken to in plain HTTP, all others in
HTTPS. What was wrong is the last line printed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urljoin, urlsplit

from stages.scripts import oci

INDEXES = (oci.INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = (oci.MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
LARGEST = 4 << 20
"""The largest manifest that is read, in bytes; what the specification asks registries to accept."""
PIECE = 8 << 20
"""How much of a blob is sent at once, in bytes."""


class Refused(Exception):
    """The registry said no, or something that does not fit."""


class Registry:
    """One repository of one registry, as one user."""

    def __init__(self, name: str, username: str, password: str) -> None:
        self.host, self.repository = split(name)
        local = self.host.rpartition(":")[0] or self.host
        self.base = f"{'http' if local in ('127.0.0.1', 'localhost', '[::1]') else 'https'}://{self.host}"
        self._basic = base64.b64encode(f"{username}:{password}".encode()).decode() if username else ""
        self._authorization = ""

    def url(self, path: str) -> str:
        return f"{self.base}/v2/{self.repository}/{path}"

    def send(self, method: str, url: str, *, data: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """The registry's answer, after logging in where it asks for that. Raises Refused for an error."""
        answer = self._once(method, url, data, headers or {})
        if answer.status == HTTPStatus.UNAUTHORIZED:
            answer.close()
            self._log_in(answer.headers.get("WWW-Authenticate", ""), url)
            answer = self._once(method, url, data, headers or {})
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES and not (method == "HEAD" and answer.status == HTTPStatus.NOT_FOUND):
            raise Refused(f"{method} {urlsplit(url).path} at {self.host}: {answer.status} {answer.message()}")
        if method != "GET":
            answer.close()
        return answer

    def _once(self, method: str, url: str, data: bytes | None, headers: dict[str, str]) -> Answer:
        import urllib.error
        import urllib.request

        request = urllib.request.Request(self._safe(url), data=data, headers=headers, method=method)  # noqa: S310 - made safe
        own = urlsplit(url).netloc == self.host
        if self._authorization and own:  # neither a redirection nor an upload elsewhere is to see it
            request.add_unredirected_header("Authorization", self._authorization)
        opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if self.base.startswith("http:") else []))
        try:
            found = opener.open(request, timeout=60)
        except urllib.error.HTTPError as error:
            found = error
        except OSError as error:
            raise Refused(f"{self.host}: {getattr(error, 'reason', error)}") from error
        return Answer(found)

    def _log_in(self, challenge: str, url: str) -> None:
        """Answer a challenge: with the credentials themselves, or with a token for them."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._basic:
            self._authorization = f"Basic {self._basic}"
            return
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or "realm" not in fields:
            raise Refused(f"{self.host} asks to log in for {urlsplit(url).path}; expected a username and a password as secrets")
        realm = fields.pop("realm")
        self._authorization = f"Bearer {self._token(realm, fields)}"

    def _safe(self, url: str) -> str:
        """An address the registry gave. Raises Refused for a local file, and for plain HTTP where it spoke HTTPS itself."""
        if urlsplit(url).scheme not in {"https", urlsplit(self.base).scheme}:
            raise Refused(f"{self.host} sends on to {url}; expected https")
        return url

    def _token(self, realm: str, fields: dict[str, str]) -> str:
        import urllib.error
        import urllib.request

        query = urlencode([(key, fields[key]) for key in ("service", "scope") if key in fields])
        request = urllib.request.Request(f"{self._safe(realm)}?{query}")  # noqa: S310 - made safe
        if self._basic:
            request.add_unredirected_header("Authorization", f"Basic {self._basic}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 # nosec B310 - as above
                found = json.loads(answer.read(LARGEST))
        except urllib.error.HTTPError as error:
            error.close()
            raise Refused(f"{urlsplit(realm).netloc} gives no token: {error.code}") from error
        except OSError as error:
            raise Refused(f"{urlsplit(realm).netloc}: {getattr(error, 'reason', error)}") from error
        return str(found.get("token") or found["access_token"])


class Answer:
    """What a registry answered."""

    def __init__(self, found: Any) -> None:
        self.status: int = found.status
        self.headers = found.headers
        self.url: str = found.url
        self._body: IO[bytes] = found

    def close(self) -> None:
        self._body.close()

    def read(self) -> bytes:
        with self._body:
            data = self._body.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise Refused(f"{urlsplit(self.url).path} is larger than {LARGEST:,} bytes")
        return data

    def pieces(self) -> Iterator[bytes]:
        with self._body:
            while piece := self._body.read(oci.CHUNK):
                yield piece

    def message(self) -> str:
        """The registry's own words."""
        try:
            (first, *_) = json.loads(self.read())["errors"]
            return f"{first.get('code', '')} {first.get('message', '')}".strip()
        except (ValueError, KeyError, TypeError, Refused):
            return ""


def split(name: str) -> tuple[str, str]:
    """Registry and repository of a name, as Docker reads it: without a registry it is Docker Hub's.

    >>> split("python")
    ('registry-1.docker.io', 'library/python')
    >>> split("localhost:5000/team/app")
    ('localhost:5000', 'team/app')
    """
    first, slash, rest = name.partition("/")
    if slash and (":" in first or "." in first or first == "localhost"):
        host = "registry-1.docker.io" if first in ("docker.io", "index.docker.io") else first
        return host, rest if host != "registry-1.docker.io" or "/" in rest else f"library/{rest}"
    return "registry-1.docker.io", name if slash else f"library/{name}"


def fetch_manifest(registry: Registry, digest: str) -> tuple[Any, bytes]:
    """A manifest or index, parsed and as it was sent. Raises Refused when it is not the one that was asked for."""
    accept = ", ".join((*MANIFESTS, *INDEXES))
    data = registry.send("GET", registry.url(f"manifests/{digest}"), headers={"Accept": accept}).read()
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise Refused(f"{registry.host} sent something else than {digest}")
    return json.loads(data), data


def for_platform(index: Any, architecture: str) -> str:
    """The digest of the manifest for Linux on this architecture. Raises Refused with the platforms there are."""
    platforms = [(entry.get("platform") or {}, entry["digest"]) for entry in index["manifests"]]
    for platform, digest in platforms:
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return str(digest)
    known = ", ".join(sorted({f"{p.get('os')}/{p.get('architecture')}" for p, _ in platforms})) or "none"
    raise Refused(f"there is no image for linux/{architecture}; expected one of: {known}")


def pull(registry: Registry, digest: str, out: Path) -> None:
    """Write the image with this digest, or the one for this machine in the index with this digest."""
    document, data = fetch_manifest(registry, digest)
    if "manifests" in document:
        digest = for_platform(document, oci.architecture())
        document, data = fetch_manifest(registry, digest)
    for descriptor in (document["config"], *document["layers"]):
        pull_blob(registry, descriptor, out)
    oci.blob_path(out, digest).write_bytes(data)
    config = oci.read_json(out, document["config"]["digest"])
    kind = document.get("mediaType") or oci.MANIFEST
    platform = {"architecture": config["architecture"], "os": config["os"]}
    oci.write_index(out, {"mediaType": kind, "digest": digest, "size": len(data), "platform": platform})


def pull_blob(registry: Registry, descriptor: dict[str, Any], out: Path) -> None:
    """Write a blob. Raises Refused when its bytes are not those of its digest."""
    place = oci.blob_path(out, descriptor["digest"])
    place.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    with place.open("wb") as file:
        for piece in registry.send("GET", registry.url(f"blobs/{descriptor['digest']}")).pieces():
            hasher.update(piece)
            file.write(piece)
            if file.tell() > descriptor["size"]:
                break
    if place.stat().st_size != descriptor["size"] or f"sha256:{hasher.hexdigest()}" != descriptor["digest"]:
        raise Refused(f"{registry.host} sent other bytes than those of {descriptor['digest']}")


def push(registry: Registry, layout: Path, tags: list[str], mount: str) -> str:
    """Send the image of a layout under its digest and every tag; the digest the registry confirmed for all of them."""
    described = oci.only_manifest(layout)
    manifest = oci.read_json(layout, described["digest"])
    for descriptor in (manifest["config"], *manifest["layers"]):
        push_blob(registry, layout, descriptor["digest"], mount)
    data = oci.blob_path(layout, described["digest"]).read_bytes()
    confirmed = set()
    for name in (described["digest"], *tags):
        registry.send("PUT", registry.url(f"manifests/{name}"), data=data, headers={"Content-Type": described["mediaType"]})
        answer = registry.send("GET", registry.url(f"manifests/{name}"), headers={"Accept": described["mediaType"]})
        confirmed.add(f"sha256:{hashlib.sha256(answer.read()).hexdigest()}")
    if len(confirmed) != 1:
        raise Refused(f"{registry.host} holds different images under the names of one: {', '.join(sorted(confirmed))}")
    return confirmed.pop()


def push_blob(registry: Registry, layout: Path, digest: str, mount: str) -> None:
    """Send a blob, unless the registry has it here or in the repository `mount`."""
    if registry.send("HEAD", registry.url(f"blobs/{digest}")).status == HTTPStatus.OK:
        print(f"present {digest}")
        return
    query = f"?{urlencode({'mount': digest, 'from': mount})}" if mount else ""
    answer = registry.send("POST", registry.url(f"blobs/uploads/{query}"), data=b"")
    if answer.status == HTTPStatus.CREATED:
        print(f"mounted {digest}")
        return
    place, sent = urljoin(registry.base, answer.headers["Location"]), 0
    with oci.blob_path(layout, digest).open("rb") as file:
        while piece := file.read(PIECE):
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{sent}-{sent + len(piece) - 1}",
                "Content-Length": str(len(piece)),
            }
            answer = registry.send("PATCH", place, data=piece, headers=headers)
            place, sent = urljoin(registry.base, answer.headers["Location"]), sent + len(piece)
    closing = "&" if urlsplit(place).query else "?"
    registry.send("PUT", f"{place}{closing}{urlencode({'digest': digest})}", data=b"")
    print(f"sent {digest}, {sent:,} bytes")


def main(command: str, *arguments: str) -> int:
    username, password = os.environ.get("REGISTRY_USERNAME", ""), os.environ.get("REGISTRY_PASSWORD", "")
    try:
        if command == "pull":
            name, _, digest = arguments[0].partition("@")
            name = re.sub(r":[\w][\w.-]*$", "", name)  # a tag beside the digest says nothing
            pull(Registry(name, username, password), digest, Path(arguments[1]))
        else:
            layout, name, *tags = arguments
            mount = tags[tags.index("--mount") + 1] if "--mount" in tags else ""
            tags = tags[: tags.index("--mount")] if "--mount" in tags else tags
            Path("digest").write_text(push(Registry(name, username, password), Path(layout), tags, mount))
    except (Refused, ValueError, KeyError, OSError) as error:
        print(error if isinstance(error, Refused) else f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
