"""Writes docs/reference/*.md from the docstrings of the code: python docs/reference.py. With --check it only compares.

Standard library only; the code is parsed, not imported. Public is what `pipeline` and `gates` name in `__all__`,
and of `stages` every class whose name has no underscore in front (what runs inside actions, `stages/scripts`, is left out).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
INSIDE = ("scripts",)
"""Directories below `stages` that hold no stages."""

DECLARED = frozenset({"run", "undo", "observe", "origin", "vouching", "result_type", "summary", "concern", "reusable", "open"})
"""Methods that a base class declares: without a docstring of their own they have nothing to add."""


@dataclass(frozen=True)
class Module:
    """One source file. `name` is dotted."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[bytes]:
        """Columns of nodes are counted in bytes."""
        return self.text.encode().splitlines()

    def source(self, node: ast.expr | ast.stmt) -> str:
        """The source of a node on one line: as `ast.get_source_segment`, which splits the whole text each time."""
        end = node.end_lineno or node.lineno
        lines = self.lines[node.lineno - 1 : end]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return " ".join(b"\n".join(lines).decode().split())

    def before_body(self, node: Definition) -> str:
        """`def name(...) -> type`, as it is written, on one line."""
        lines = self.text.splitlines()[node.lineno - 1 : node.body[0].lineno]
        inline = node.body[0].lineno == node.lineno
        head = lines[0][: node.body[0].col_offset] if inline else "\n".join(lines[:-1])
        plain = re.sub(r"\s+# .*$", "", head, flags=re.MULTILINE)
        return re.sub(r",? \)", ")", re.sub(r"\( ", "(", " ".join(plain.split()))).removesuffix(":")


def module(name: str) -> Module:
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return Module(name, file.read_text(encoding="utf-8"))


def pages() -> dict[str, str]:
    """File name to text of every page."""
    kinds = [name for name in modules("stages") if not name.startswith("stages.delivery")]
    delivery = [name for name in modules("stages") if name.startswith("stages.delivery")]
    return {
        "index.md": index(),
        "pipeline.md": package("pipeline", "What a pipeline and a stage are made of, importable from `pipeline`."),
        "gates.md": package("gates", "Evidence, rules, verdicts and gates, importable from `gates`."),
        "stages.md": listing("stages", "Everything else than delivery; each class is imported from its module.", kinds),
        "delivery.md": listing("stages.delivery", "Deployment: stages, targets, routers, strategies.", delivery),
    }


def index() -> str:
    lines = ["- [pipeline](pipeline.md): the machine", "- [gates](gates.md): judgement", "- [stages](stages.md): the tools"]
    lines += ["- [stages.delivery](delivery.md): deployment"]
    return "\n".join([NOTE, "", "# Reference", "", *lines, ""])


NOTE = "<!-- Written by docs/reference.py from the docstrings; edit those. -->"


def modules(package_: str) -> list[str]:
    """The modules of a package that hold stages, by name."""
    root = ROOT / package_
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted(root.rglob("*.py")) if path.name != "__init__.py")
    return [".".join(path.parts) for path in paths if not set(path.parts) & set(INSIDE)]


def package(name: str, about: str) -> str:
    """The page of a package whose `_HOMES` says where each public name is defined."""
    homes: dict[str, str] = {}
    for node in module(name).tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_HOMES":
            homes = ast.literal_eval(node.value)
    sections = []
    for public in sorted(homes, key=str.lower):
        home = module(f"{name}.{homes[public]}")
        sections.append("\n".join(described(home, public)).replace("###", "##", 1))
    return "\n\n".join([NOTE, f"# {name}", about, *sections]) + "\n"


def listing(title: str, about: str, names: list[str]) -> str:
    """The page of modules that are imported one by one."""
    sections = []
    for name in names:
        found = module(name)
        public = [node for node in found.tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        if public:
            sections += [f"## {name}", document(found.tree)]
            sections += ["\n".join(of_class(found, node)) for node in public]
    return "\n\n".join([NOTE, f"# {title}", about, *sections]) + "\n"


def described(home: Module, name: str) -> list[str]:
    """The section of one public name: a class, a function, or a value with the text below it."""
    for node, below in with_next(home.tree.body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return of_class(home, node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return [f"### {name}", "", f"`{home.before_body(node)}`", "", document(node)]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return [f"### {name}", "", f"`{home.source(node)}`", "", text_of(below)]
    raise SystemExit(f"{home.name} does not define {name}")


def of_class(home: Module, node: ast.ClassDef) -> list[str]:
    """Bases, docstring, fields and public methods of a class."""
    bases = ", ".join(home.source(base).replace('"', "") for base in node.bases)
    lines = [f"### {node.name}", "", f"`class {node.name}{f'({bases})' if bases else ''}`"]
    if text := document(node):
        lines += ["", text]
    members = [*fields(home, node), *methods(home, node)]
    return [*lines, "", *members] if members else lines


def fields(home: Module, node: ast.ClassDef) -> Iterator[str]:
    """One item for each field, with its type, default and the text below it; members of an enum likewise."""
    for item, below in with_next(node.body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name = item.target.id
        elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            name = item.targets[0].id
        else:
            continue
        if not name.startswith("_") and name != "model_config":
            text = text_of(below)
            yield f"- `{home.source(item)}`{f': {text}' if text else ''}"


def methods(home: Module, node: ast.ClassDef) -> Iterator[str]:
    """One item for each public method and property; not for those that only fill in what a base class declares."""
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        said = document(item)
        shown = item.name in ("__getitem__", "__call__") or not item.name.startswith("_")
        if not shown or (item.name == "__call__" and not said) or (not said and item.name in DECLARED):
            continue
        head = home.before_body(item)
        if any(isinstance(mark, ast.Name) and mark.id in ("property", "cached_property") for mark in item.decorator_list):
            head = re.sub(r"^def (\w+)\(self\)(?: -> )?", r"\1: ", head)
        text = " ".join(said.split())
        yield f"- `{head}`{f': {text}' if text else ''}"


def with_next(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    yield from zip(body, [*body[1:], None], strict=True)


def document(node: ast.Module | Definition) -> str:
    """The docstring; examples as code."""
    return fenced(ast.get_docstring(node) or "")


def fenced(text: str) -> str:
    """Indented blocks as they are; examples (`>>>`) in a code block."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith(">>>") and not inside:
            inside = True
            lines.append("```python")
        elif inside and not line.strip():
            inside = False
            lines.append("```")
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


def text_of(node: ast.stmt | None) -> str:
    """The text that stands below a field, on one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        PAGES.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (PAGES / name).write_text(text, encoding="utf-8")
        return 0
    found = pages()
    stale = [name for name, text in found.items() if not (PAGES / name).exists() or (PAGES / name).read_text("utf-8") != text]
    stale += sorted({path.name for path in PAGES.glob("*.md")} - found.keys())
    if stale:
        print(f"out of date: {', '.join(stale)}; write them anew by: python docs/reference.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
