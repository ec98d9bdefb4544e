"""Optimize the assets of a web site: python optimize.py IN OUT URL. Beside minify, zopfli and brotli.

Every file but the pages is given the name of its content (app.js becomes app.3f2a1c9d.js); references between
pages, style sheets and modules follow; what is text is minified, and compressed beside itself where that is smaller.
OUT/manifest.json maps names to names. The file `summary.json` holds the sizes, or what was wrong.
gzip is written by zopfli: its bytes do not depend on the machine's zlib.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

TYPES = {
    ".css": "text/css",
    ".js": "application/javascript",
    ".mjs": "application/javascript",
    ".html": "text/html",
    ".htm": "text/html",
    ".json": "application/json",
    ".webmanifest": "application/json",
    ".svg": "image/svg+xml",
}
"""What is minified, by the file's extension."""

PAGES = (".html", ".htm")
"""What keeps its name, since people and servers ask for it."""

PLAIN = (*TYPES, ".txt", ".xml", ".map", ".wasm", ".ttf", ".otf", ".ico")
"""What is worth compressing; pictures and WOFF fonts are compressed already."""

URL = re.compile(r"""(?P<before>url\(\s*["']?)(?P<target>[^"')\s]+)""")
IMPORT = re.compile(r"""(?P<before>@import\s+["'])(?P<target>[^"']+)""")
ATTRIBUTE = re.compile(r"""(?P<before>\b(?:src|href|poster|data)\s*=\s*["']?)(?P<target>[^"'\s>]+)""", re.IGNORECASE)
MODULE = re.compile(r"""(?P<before>\b(?:from|import)\s*\(?\s*["'])(?P<target>\.{1,2}/[^"']+)""")
REFERENCES = {
    ".css": (URL, IMPORT),
    ".html": (ATTRIBUTE, URL),
    ".htm": (ATTRIBUTE, URL),
    ".js": (MODULE,),
    ".mjs": (MODULE,),
    ".svg": (ATTRIBUTE, URL),
}
"""How a file names others, by its extension."""

MANIFEST = "manifest.json"


class Unusable(Exception):
    """An asset cannot be optimized: `file` and what is wrong with it."""

    def __init__(self, file: str, wrong: str) -> None:
        super().__init__(wrong)
        self.file, self.wrong = file, wrong


class Site:
    """The assets of one directory, each finished after those it names."""

    def __init__(self, source: Path, out: Path, url: str) -> None:
        self.source, self.out, self.url = source, out, url.rstrip("/") + "/"
        self.names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
        self.known = frozenset(self.names)
        self.finished: dict[str, str] = {}
        self.under_way: list[str] = []
        self.before = self.after = 0

    def finish(self, name: str) -> str:
        """Write an asset and all it names; the name it is given."""
        if name in self.finished:
            return self.finished[name]
        if name in self.under_way:
            circle = " -> ".join([*self.under_way[self.under_way.index(name) :], name])
            raise Unusable(name, f"names itself in a circle ({circle}), so it cannot be named by its content")
        self.under_way.append(name)
        data = (self.source / name).read_bytes()
        small = self.minified(name, self.rewritten(name, data))
        given = name if name.endswith(PAGES) else fingerprinted(name, small)
        place = self.out / given
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(small)
        if name.endswith(PLAIN):
            compress(place, small)
        self.before, self.after = self.before + len(data), self.after + len(small)
        self.under_way.pop()
        self.finished[name] = given
        return given

    def rewritten(self, name: str, data: bytes) -> bytes:
        """The asset with the names of others as they are given."""
        patterns = REFERENCES.get(posixpath.splitext(name)[1].lower(), ())
        if not patterns:
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise Unusable(name, f"is not UTF-8: {error}") from error
        for pattern in patterns:
            text = pattern.sub(self._reference(name), text)
        return text.encode()

    def _reference(self, name: str) -> Callable[[re.Match[str]], str]:
        def replaced(match: re.Match[str]) -> str:
            target = match["target"]
            path = re.split(r"[?#]", target, maxsplit=1)[0]
            found = self.resolved(name, path)
            if found is None or found == name:
                return match[0]
            given = self.finish(found)
            return (
                match["before"]
                + path[: len(path) - len(posixpath.basename(path))]
                + posixpath.basename(given)
                + target[len(path) :]
            )

        return replaced

    def resolved(self, name: str, target: str) -> str | None:
        """The asset that a reference in `name` means; None for one that means something else."""
        if target.startswith(self.url):
            path = target.removeprefix(self.url)
        elif target.startswith("/") or ":" in target:
            return None
        else:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return path if path in self.known else None

    def minified(self, name: str, data: bytes) -> bytes:
        """The asset with nothing in it that a browser does without; as it was when that is no shorter."""
        kind = TYPES.get(posixpath.splitext(name)[1].lower())
        if kind is None or not data:
            return data
        before, after = Path("before"), Path("after")
        before.write_bytes(data)
        try:
            import_module("minify").file(kind, str(before), str(after))
        except ValueError as error:
            raise Unusable(name, " ".join(str(error).split())) from error
        small = after.read_bytes()
        return small if len(small) < len(data) else data


def fingerprinted(name: str, data: bytes) -> str:
    """The name of an asset by its content: css/app.css becomes css/app.3f2a1c9d.css."""
    stem, end = posixpath.splitext(name)
    return f"{stem}.{hashlib.sha256(data).hexdigest()[:8]}{end}"


def compress(place: Path, data: bytes) -> None:
    """Lay name.gz and name.br beside a file, where they are smaller than it."""
    packed = {
        ".gz": import_module("zopfli.gzip").compress(data),
        ".br": import_module("brotli").compress(data, quality=11),
    }
    for end, small in packed.items():
        if len(small) < len(data):
            place.with_name(place.name + end).write_bytes(small)


def optimize(source: Path, out: Path, url: str) -> dict[str, int]:
    """Write the optimized site; its bytes before and after, without what is compressed beside."""
    site = Site(source, out, url)
    if MANIFEST in site.known:
        raise Unusable(MANIFEST, "has the name of the list this makes; expected another, as in app.webmanifest")
    for name in site.names:
        site.finish(name)
    manifest = {name: given for name, given in sorted(site.finished.items()) if name != given}
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return {"before": site.before, "after": site.after}


def main(source: str, out: str, url: str) -> int:
    try:
        summary: dict[str, int] | dict[str, str] = optimize(Path(source), Path(out), url)
    except Unusable as error:
        summary = {"file": error.file, "wrong": error.wrong}
    Path("summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return 1 if "wrong" in summary else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
