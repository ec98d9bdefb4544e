"""Pictures of a pipeline: text, Mermaid, DOT, SVG and JSON; dashed is what leads to a stage that always runs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.dag import Pipeline
from pipeline.stage import Effect, Stage

COLOURS = {
    Effect.PURE: ("#eef4ff", "#3b6fd4"),
    Effect.RETRYABLE: ("#fff6e5", "#c98a1b"),
    Effect.ONCE: ("#ffeceb", "#c9372c"),
}
"""Fill and border by effect."""


def text(pipeline: Pipeline) -> str:
    """One line a stage, indented by its depth, with what it needs."""
    depth = levels(pipeline)
    lines = []
    for stage in sorted(pipeline, key=lambda stage: (depth[stage], pipeline.name_of(stage))):
        needs = ", ".join(map(pipeline.name_of, pipeline.inputs(stage)))
        always = " (always)" if stage.always else ""
        lines.append(f"{'  ' * depth[stage]}{pipeline.name_of(stage)}{' <- ' + needs if needs else ''}{always}")
    return "\n".join(lines)


def mermaid(pipeline: Pipeline) -> str:
    number = {stage: f"s{index}" for index, stage in enumerate(pipeline)}
    lines = ["graph LR"]
    for stage in pipeline:
        opening, closing = {Effect.PURE: ("[", "]"), Effect.RETRYABLE: ("(", ")"), Effect.ONCE: ("([", "])")}[stage.effect]
        lines.append(f'    {number[stage]}{opening}"{pipeline.name_of(stage)}"{closing}')
    for stage in pipeline:
        arrow = "-.->" if stage.always else "-->"
        lines += [f"    {number[source]} {arrow} {number[stage]}" for source in pipeline.inputs(stage)]
    return "\n".join(lines)


def dot(pipeline: Pipeline) -> str:
    lines = [f"digraph {json.dumps(pipeline.name)} {{", '    rankdir=LR; node [shape=box, style="rounded,filled"];']
    for stage in pipeline:
        fill, border = COLOURS[stage.effect]
        lines.append(f'    {json.dumps(pipeline.name_of(stage))} [fillcolor="{fill}", color="{border}"];')
    for stage in pipeline:
        to = json.dumps(pipeline.name_of(stage)) + (" [style=dashed]" if stage.always else "")
        lines += [f"    {json.dumps(pipeline.name_of(source))} -> {to};" for source in pipeline.inputs(stage)]
    return "\n".join([*lines, "}"])


def as_json(pipeline: Pipeline) -> str:
    stages = [
        {
            "name": pipeline.name_of(stage),
            "type": type(stage).__name__,
            "effect": stage.effect.value,
            "always": stage.always,
            "inputs": [pipeline.name_of(source) for source in pipeline.inputs(stage)],
        }
        for stage in pipeline
    ]
    return json.dumps({"pipeline": pipeline.name, "stages": stages}, indent=2)


def levels(pipeline: Pipeline) -> dict[Stage[Any], int]:
    """For each stage the length of the longest way from a source."""
    depth: dict[Stage[Any], int] = {}
    for stage in pipeline:
        depth[stage] = max((depth[source] + 1 for source in pipeline.inputs(stage)), default=0)
    return depth


WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 34, 60, 14, 20


def svg(pipeline: Pipeline) -> str:
    """A drawing in columns from sources to deployments; each box is titled with its stage's type."""
    depth = levels(pipeline)
    places = _places(pipeline, depth)
    wide = MARGIN * 2 + (max(depth.values()) + 1) * (WIDTH + GAP_X) - GAP_X
    high = MARGIN * 2 + max(y for _, y in places.values()) + HEIGHT
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high:.0f}" width="{wide}" height="{high:.0f}" '
            'font-family="system-ui, sans-serif" font-size="13">'
        ),
        f"<title>{escape(pipeline.name)}</title>",
        f'<rect width="{wide}" height="{high:.0f}" fill="#ffffff"/>',
    ]
    for stage in pipeline:
        lines += [_curve(places[source], places[stage], dashed=stage.always) for source in pipeline.inputs(stage)]
    lines += [_box(pipeline, stage, places[stage]) for stage in pipeline]
    return "\n".join([*lines, "</svg>"])


def _places(pipeline: Pipeline, depth: Mapping[Stage[Any], int]) -> dict[Stage[Any], tuple[float, float]]:
    """The upper left corner of each box: a column a level, each box near the middle of its inputs."""
    columns: list[list[Stage[Any]]] = [[] for _ in range(max(depth.values()) + 1)]
    for stage in pipeline:
        columns[depth[stage]].append(stage)
    places: dict[Stage[Any], tuple[float, float]] = {}
    for number, column in enumerate(columns):

        def middle(stage: Stage[Any]) -> float:
            inputs = pipeline.inputs(stage)
            return sum(places[source][1] for source in inputs) / len(inputs) if inputs else 0.0

        free = 0.0
        for stage in sorted(column, key=lambda stage: (middle(stage), pipeline.name_of(stage))):
            y = max(free, middle(stage) if len(column) <= len(pipeline.inputs(stage)) else free)
            places[stage] = (number * (WIDTH + GAP_X), y)
            free = y + HEIGHT + GAP_Y
    return {stage: (x + MARGIN, y + MARGIN) for stage, (x, y) in places.items()}


def _curve(start: tuple[float, float], end: tuple[float, float], *, dashed: bool) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    half = (x2 - x1) / 2
    path = f"M{x1:.0f},{y1:.1f} C{x1 + half:.0f},{y1:.1f} {x2 - half:.0f},{y2:.1f} {x2:.0f},{y2:.1f}"
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="#9aa5b4" stroke-width="1.2"{dashes}/>'


def _box(pipeline: Pipeline, stage: Stage[Any], place: tuple[float, float]) -> str:
    fill, border = COLOURS[stage.effect]
    name = pipeline.name_of(stage)
    shown = name if len(name) <= 20 else name[:19] + "…"
    return (
        f'<g><title>{escape(name)}: {escape(type(stage).__name__)}</title><rect x="{place[0]:.0f}" y="{place[1]:.1f}" '
        f'width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="{border}"/><text x="{place[0] + WIDTH / 2:.0f}" '
        f'y="{place[1] + HEIGHT / 2 + 4.5:.1f}" text-anchor="middle" fill="#1c2733">{escape(shown)}</text></g>'
    )
