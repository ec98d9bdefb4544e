"""Configuration files of a release, and flags read by OpenFeature's own provider in its instances."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from gates import Check, Verification, all_probes_passed
from pipeline import Journal, Pipeline, Project, Store, WiringError
from pipeline.engines.local import free_port
from pipeline.run import Outcome
from stages.delivery.deploy import Deploy
from stages.delivery.files import ConfigurationFile, Flags, wrong
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.model import Deployment
from stages.environment import PythonEnvironment
from stages.image import BuildImage, Placed
from stages.smoke import Request, SmokeChecks
from stages.source import WorkingCopy
from tests.running import run_pipeline
from tests.stages.delivery.small import gated
from tests.web import PLAIN

LOCK = Path(__file__).parents[1] / "locks" / "flags.lock"

SERVICE = """
import http.server, os, urllib.parse
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.evaluation_context import EvaluationContext

api.set_provider_and_wait(FlagdProvider())
client = api.get_client()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        about = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        context = EvaluationContext(about.get("user", ""), about)
        text = str(client.get_boolean_value("new-detector", False, context)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *values):
        pass

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def flags(percent: int) -> str:
    """A flag that is on for so many percent of users, and for all of one site."""
    share = {
        "fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "targetingKey"}]}, ["on", percent], ["off", 100 - percent]]
    }
    flag = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"if": [{"==": [{"var": "site"}, "hall"]}, "on", share]},
    }
    return json.dumps({"flags": {"new-detector": flag}})


class Flagged:
    """A service with flags, deployed again and again."""

    def __init__(self, project: Project, store: Store, journal: Journal) -> None:
        self.project, self.store, self.journal, self.port = project, store, journal, free_port()
        (project.root / "service.py").write_text(SERVICE)
        shutil.copy(LOCK, project.root / "requirements.lock")

    def deploy(self, percent: int, wanted: str = "") -> Outcome:
        (self.project.root / "flags.json").write_text(flags(percent))
        code, lock = WorkingCopy(include=("service.py",)), WorkingCopy(include=("requirements.lock",))
        site = PythonEnvironment(source=lock)
        image = BuildImage(
            layers=(Placed(tree=site, at="/site"), Placed(tree=code, at="/app")),
            entrypoint=("python", "/app/service.py"),
            env=(("PYTHONPATH", "/site"),),
        )
        source = WorkingCopy(include=("flags.json",))
        deploy = Deploy(
            release=gated(image),
            target=LocalProcesses(name="app", patience=10),
            router=HAProxy(name="app", port=self.port),
            files=(Flags(source=source),),
        )
        smoke = SmokeChecks(deployment=deploy, requests=(Request(path="/", contains=wanted),))
        verified: Verification[Deployment] = Verification(
            deployment=deploy, checks=(Check(evidence=smoke, rule=all_probes_passed),)
        )
        gate: Any = deploy.release
        pipeline = Pipeline(
            "flagged",
            code=code,
            lock=lock,
            flags_source=source,
            layers=image.layers,
            checks=gate.checks,
            deploy=deploy,
            verification=verified.checks,
            verified=verified,
        )
        return run_pipeline(pipeline, self.project, self.store, self.journal)[0]

    def on(self, users: int = 200, **about: str) -> set[str]:
        """The users for whom the flag is on."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, verify=PLAIN) as client:
            asked = {f"u{number}" for number in range(users)}
            return {user for user in asked if client.get("/", params={"user": user, **about}).text == "True"}


def test_flags_change_with_the_release_and_go_back_with_it(project: Project, store: Store, journal: Journal) -> None:
    flagged = Flagged(project, store, journal)
    assert flagged.deploy(10).failed == {}
    few = flagged.on()
    assert 5 <= len(few) <= 40
    assert flagged.on(site="hall") == {f"u{number}" for number in range(200)}
    assert flagged.deploy(50).failed == {}
    half = flagged.on()
    assert few < half
    assert 70 <= len(half) <= 130
    assert sorted(flagged.deploy(100, "not to be found").failed) == ["verified"]
    assert flagged.on() == half


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no json", "it holds no flags"),
        ("[]", "it holds no flags"),
        ('{"flags": {"a": 1}}', "a: it is no object"),
        ('{"flags": {"a": {"state": "ENABLED", "variants": {}}}}', "a: it has no variants"),
        ('{"flags": {"a": {"state": "ON", "variants": {"on": true}}}}', "a: its state is 'ON'"),
        ('{"flags": {"a": {"state": "ENABLED", "variants": {"on": true, "off": "no"}}}}', "a: its variants are of several"),
        (
            '{"flags": {"a": {"state": "ENABLED", "variants": {"on": true}, "defaultVariant": "of"}}}',
            "a: its default 'of' is none",
        ),
        (flags(10).replace('["on", 10]', '["onn", 10]'), "new-detector: a share is of ['onn', 10]"),
        (flags(10).replace('["on", 10]', '["on", "many"]'), "new-detector: the share of on is 'many'"),
    ],
)
def test_flags_that_nobody_could_read_are_refused(text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in wrong(text.encode())), wrong(text.encode())


@pytest.mark.parametrize("percent", [0, 1, 100])
def test_flags_as_they_should_be_have_nothing_wrong(percent: int) -> None:
    assert wrong(flags(percent).encode()) == []


def test_a_file_or_a_variable_without_a_name_is_refused() -> None:
    with pytest.raises(WiringError, match="variable is 'a b'"):
        ConfigurationFile(source=WorkingCopy(), path="a", variable="a b")
