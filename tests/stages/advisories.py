"""A database of vulnerabilities as Trivy reads it: a bbolt file, written here page by page.

bbolt's format: go.etcd.io/bbolt, page.go and bucket.go. Trivy's buckets: github.com/aquasecurity/trivy-db, schema version 2.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

PAGE = 4096
META, FREELIST, LEAF = 0x04, 0x10, 0x02
NESTED = 1
MAGIC, VERSION = 0xED0CDAED, 2

Bucket = Mapping[str, "Bucket | bytes"]

SOURCE = "pip::GitHub Security Advisory pip"


def database(advisories: Mapping[str, Mapping[str, dict[str, Any]]], about: Mapping[str, dict[str, Any]]) -> bytes:
    """`advisories` maps a Python package to vulnerabilities and the versions they are in; `about` says what each is."""
    source = {"ID": "ghsa", "Name": SOURCE.removeprefix("pip::"), "URL": "https://example.org/advisories"}
    top: Bucket = {
        "data-source": {SOURCE: packed(source)},
        SOURCE: {name: {key: packed(value) for key, value in found.items()} for name, found in advisories.items()},
        "vulnerability": {key: packed(value) for key, value in about.items()},
    }
    return bolt(top).ljust(1 << 20, b"\0")  # a real one is much larger, and a small one is taken for half a download


def packed(value: object) -> bytes:
    return json.dumps(value).encode()


def bolt(top: Bucket) -> bytes:
    """A bbolt file of nested buckets, a page of its own for each of them (or several, where it is larger)."""
    pages: list[bytes] = []

    def leaf(bucket: Bucket) -> int:
        """Write a bucket after those in it; the number of its page."""
        items: list[tuple[int, bytes, bytes]] = []
        for key in sorted(bucket):
            value = bucket[key]
            nested = not isinstance(value, bytes)
            stored = struct.pack("<QQ", leaf(value), 0) if not isinstance(value, bytes) else value
            items.append((NESTED if nested else 0, key.encode(), stored))
        number, position = 3 + len(pages), 16 * len(items)
        elements, data = b"", b""
        for place, (flag, name, stored) in enumerate(items):
            elements += struct.pack("<IIII", flag, position + len(data) - 16 * place, len(name), len(stored))
            data += name + stored
        size = 16 + len(elements) + len(data)
        more = (size - 1) // PAGE
        page = struct.pack("<QHHI", number, LEAF, len(items), more) + elements + data
        pages.extend(page.ljust((more + 1) * PAGE, b"\0")[start : start + PAGE] for start in range(0, (more + 1) * PAGE, PAGE))
        return number

    root = leaf(top)
    free = struct.pack("<QHHI", 2, FREELIST, 0, 0).ljust(PAGE, b"\0")
    return b"".join([*(meta(number, root, 3 + len(pages)) for number in (0, 1)), free, *pages])


def meta(number: int, root: int, pages: int) -> bytes:
    """A page that tells where everything is, with its FNV-1a checksum."""
    text = struct.pack("<IIIIQQQQQ", MAGIC, VERSION, PAGE, 0, root, 0, 2, pages, number)
    checksum = 0xCBF29CE484222325
    for byte in text:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    return (struct.pack("<QHHI", number, META, 0, 0) + text + struct.pack("<Q", checksum)).ljust(PAGE, b"\0")
