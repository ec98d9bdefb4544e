"""An action on its way."""

from __future__ import annotations

import pickle
from dataclasses import fields

from pipeline import Action, Blob, Service, Tree
from pipeline.workers.parcel import Parcel, named, travels

BLOB, TREE = Blob(digest="a" * 64, size=1), Tree(digest="b" * 64, files=1, size=2)
OTHER, TOOL = Blob(digest="c" * 64, size=3), Tree(digest="d" * 64, files=4, size=5)
ACTION = Action(
    argv=("run", "\udcff"),
    inputs={"in": BLOB, "src": TREE},
    tools={"site": TOOL},
    env={"A": "{root}"},
    outputs=("out",),
    image="an-image",
    cwd="src",
    network=True,
    services=(Service(name="db", argv=("serve",), port=1, inputs={"in": OTHER}),),
    dockerfile="Dockerfile",
    caches={"cache": "of-all"},
)


def test_an_action_is_the_same_where_it_arrives() -> None:
    parcel = pickle.loads(pickle.dumps(Parcel.of(ACTION, "key", {BLOB.digest: 1})))
    assert parcel.action() == ACTION
    unset = {field.name for field in fields(Action) if not getattr(ACTION, field.name)}
    assert unset == {"secrets"}  # every other field is looked at here


def test_all_that_an_action_and_its_services_need_is_named() -> None:
    assert set(named(ACTION)) == {BLOB, TREE, TOOL, OTHER}


def test_an_action_with_a_secret_does_not_travel() -> None:
    assert travels(ACTION)
    assert not travels(Action(argv=("run",), secrets={"A": "B"}))
