"""pip-audit as a stage, against a service of our own that speaks the protocol of OSV."""

from __future__ import annotations

import dataclasses

import pytest

from gates import MaxFindings, Ruling, no_findings
from pipeline import Project, Service, Stage, Store, Work
from stages.environment import shipped
from stages.pip_audit import PipAudit, from_json
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

OSV = r"""
import http.server, json, os

KNOWN = {("pytest", "9.0.2"): {
    "schema_version": "1.6.0", "id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "modified": "2026-01-02T00:00:00Z",
    "published": "2026-01-01T00:00:00Z", "summary": "It runs what it is given", "details": "All of it.",
    "affected": [{"package": {"name": "pytest", "ecosystem": "PyPI", "purl": "pkg:pypi/pytest"}, "ranges": [
        {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.0.3"}]}], "versions": ["9.0.2"]}],
}}
FAULT = os.environ.get("FAULT", "")

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/query" and asked["package"]["ecosystem"] == "PyPI"
        found = KNOWN.get((asked["package"]["name"], asked["version"]))
        body = b"<html>" if FAULT == "html" else json.dumps({"vulns": [found]} if found else {}).encode()
        self.send_response(503 if FAULT == "down" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answers).serve_forever()
"""


class Osv(Stage[Service]):
    """An OSV service with one vulnerability; `fault` is what is wrong with the service itself."""

    fault: str = ""

    async def run(self, work: Work) -> Service:
        script = work.store.put(OSV.encode())
        return Service(
            name="osv", argv=("python", "{root}/osv.py"), port=8080, inputs={"osv.py": script}, env={"FAULT": self.fault}
        )


def audit(project: Project, lock: str, fault: str = "") -> PipAudit:
    (project.root / "requirements.lock").write_text(lock)
    return PipAudit(source=WorkingCopy(), service=Osv(fault=fault))


def test_a_known_vulnerability_is_found(project: Project, run_stage: RunStage, store: Store) -> None:
    found = run_stage(audit(project, shipped("pytest")))
    assert [(f.rule, f.path, f.message) for f in found.findings] == [
        ("PYSEC-2026-1", "requirements.lock", "pytest 9.0.2: It runs what it is given, fixed in 9.0.3")
    ]
    assert found.targets == 6
    assert found.tool.startswith("pip-audit 2.")
    assert MaxFindings()(found).ruling is Ruling.FAILED
    assert b"security-severity" in store.read(found.report)


def test_a_lock_without_known_vulnerabilities_passes(project: Project, run_stage: RunStage) -> None:
    found = run_stage(audit(project, shipped("ruff")))
    assert (found.findings, found.targets) == ((), 1)
    assert no_findings(found).passed


def test_an_empty_lock_is_no_pass(project: Project, run_stage: RunStage) -> None:
    assert no_findings(run_stage(audit(project, ""))).ruling is Ruling.ERROR


@pytest.mark.parametrize("fault", ["down", "html"])
def test_a_service_that_does_not_answer_as_it_should_is_no_pass(fault: str, project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="could not audit"):
        run_stage(audit(project, shipped("ruff"), fault))


def test_no_service_at_all_is_no_pass(project: Project, run_stage: RunStage) -> None:
    stage = dataclasses.replace(audit(project, shipped("ruff")), service=None, osv_url="http://127.0.0.1:9/v1/query")
    with pytest.raises(StageDidNotPass, match="could not audit"):
        run_stage(stage)


def test_a_lock_without_hashes_is_refused(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="could not audit"):
        run_stage(audit(project, "ruff==0.1.0\n"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"dependencies": [{"name": "a", "version": "1"}]}',
        b'{"dependencies": [{"name": "a", "skip_reason": "not on the index"}]}',
        b'{"dependencies": [{"name": "a", "version": "1", "vulns": [{}]}]}',
    ],
)
def test_a_report_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not what pip-audit writes|passed by"):
        from_json(text, "lock")
