"""Graphs of tasks: for each task, by number, the tasks before it whose results it takes. The same seed gives the same graph."""

from __future__ import annotations

import random
from collections.abc import Callable

Graph = tuple[tuple[int, ...], ...]

Shape = Callable[[int, random.Random], Graph]
"""About so many tasks of one shape."""

WIDTH = 50
"""Tasks in a layer of `layered`."""


def layered(count: int, *, seed: int = 1, width: int = WIDTH) -> Graph:
    """Layers of `width` tasks; each task takes one to three of the layer before, those of the first layer none."""
    rng = random.Random(seed)
    tasks: list[tuple[int, ...]] = []
    for number in range(count):
        layer = number // width
        before = range((layer - 1) * width, layer * width) if layer else range(0)
        tasks.append(tuple(sorted(rng.sample(before, min(len(before), rng.randint(1, 3))))))
    return tuple(tasks)


def layers(count: int, rng: random.Random) -> Graph:
    return layered(count, seed=rng.getrandbits(32), width=rng.randint(2, 12))


def fork_join(count: int, rng: random.Random) -> Graph:
    """One task, some that take it, one that takes all of those, and so on."""
    tasks: list[tuple[int, ...]] = [()]
    while len(tasks) < count:
        fork, many = len(tasks) - 1, rng.randint(2, 16)
        tasks += [(fork,)] * many
        tasks.append(tuple(range(fork + 1, fork + 1 + many)))
    return tuple(tasks)


def chains(count: int, rng: random.Random) -> Graph:
    """Ways of different lengths that have nothing to do with each other."""
    tasks: list[tuple[int, ...]] = []
    while len(tasks) < count:
        length = rng.randint(1, 12)
        tasks += [(len(tasks) + number - 1,) if number else () for number in range(length)]
    return tuple(tasks)


def scattered(count: int, rng: random.Random) -> Graph:
    """Each task takes up to three of the twenty before it."""
    return tuple(
        tuple(sorted(rng.sample(range(max(0, number - 20), number), min(number, rng.randint(0, 3))))) for number in range(count)
    )


SHAPES: tuple[Shape, ...] = (layers, fork_join, chains, scattered)


def below(graph: Graph) -> tuple[list[int], ...]:
    """For each task those that take its result."""
    found: tuple[list[int], ...] = tuple([] for _ in graph)
    for number, inputs in enumerate(graph):
        for one in inputs:
            found[one].append(number)
    return found
