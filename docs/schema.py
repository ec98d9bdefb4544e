"""Writes docs/pipeline.schema.json, the JSON Schema of [tool.pipeline]: python docs/schema.py. With --check it only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pipeline.settings import Settings  # noqa: E402 - it is found only now

FILE = HERE / "pipeline.schema.json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> str:
    """The schema as pydantic makes it, with the draft it is written in."""
    return json.dumps({"$schema": DRAFT, **Settings.model_json_schema()}, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        FILE.write_text(schema(), encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == schema():
        return 0
    print(f"{FILE.name} is out of date; write it anew by: python docs/schema.py")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
