"""Secrets are taken out of everything that is written, also where a write cuts them in two."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator

MASK = b"***"
SHORTEST = 4
"""A secret of fewer characters would take common words out of the log; `Project.secret` refuses it."""


class Masker:
    """Replaces secrets, raw and in the encodings in which they leak, in a stream of bytes."""

    def __init__(self, secrets: Iterable[str]) -> None:
        shapes = sorted({shape for secret in secrets for shape in encodings(secret)}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, shapes))) if shapes else None
        self._longest = len(shapes[0]) if shapes else 0
        self._kept = b""

    def mask(self, data: bytes) -> bytes:
        """`data` with every secret replaced; for text that is complete in itself."""
        return self._pattern.sub(MASK, data) if self._pattern else data

    def feed(self, piece: bytes) -> bytes:
        """What of the stream may be shown now; the end is kept back as long as a secret may begin there."""
        if self._pattern is None:
            return piece
        text = self._kept + piece
        shown, position = [], 0
        undecided = len(text) - self._longest + 1  # from here on a secret may go on in the next piece
        for match in self._pattern.finditer(text):
            if match.start() >= undecided:
                break
            shown += [text[position : match.start()], MASK]
            position = match.end()
        safe = max(position, undecided)
        shown.append(text[position:safe])
        self._kept = text[safe:]
        return b"".join(shown)

    def end(self) -> bytes:
        """What was kept back, once the stream has ended."""
        rest, self._kept = self.mask(self._kept), b""
        return rest


def encodings(secret: str) -> Iterator[bytes]:
    """The shapes of a secret: raw, trimmed, by line, URL, JSON, hexadecimal, and base64 at each of three offsets."""
    raw = secret.encode()
    pieces = {raw, raw.strip(), *(line.strip() for line in raw.splitlines())}
    for piece in pieces:
        if len(piece) < SHORTEST:
            continue
        yield piece
        yield urllib.parse.quote(piece, safe="").encode()
        yield urllib.parse.quote_plus(piece).encode()
        yield json.dumps(piece.decode(errors="replace"))[1:-1].encode()
        yield piece.hex().encode()
        yield piece.hex().upper().encode()
        for once in base64s(piece):
            yield once
            yield from base64s(once)


def base64s(data: bytes) -> Iterator[bytes]:
    """The parts of base64 text that depend on `data` alone, wherever in a longer text it was encoded."""
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * offset + data)
            start = (0, 2, 3)[offset]
            whole = (len(data) + offset) // 3 * 4
            core = text[start : whole if (len(data) + offset) % 3 else len(text)]
            if len(core) >= SHORTEST:
                yield core.rstrip(b"=")
