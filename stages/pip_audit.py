"""pip-audit: known vulnerabilities of the packages a lock names."""

from __future__ import annotations

import json

from gates.findings import Finding, Findings, Severity
from pipeline import Action, Blob, Project, Service, Stage, StageFailed, Tree, Work
from stages.acceptance import url
from stages.day import today
from stages.environment import Tool
from stages.sarif import fingerprint, rules_of, scan, told_apart
from stages.versions import version

REPORT = "report.json"


class PipAuditTool(Tool):
    """pip-audit, in the version Lockgate ships a lock for."""

    name: str = "pip-audit"


class PipAudit(Stage[Findings]):
    """Every known vulnerability of the packages in the lock with hashes `lock` of `source` is a finding of high severity.

    They are asked of the OSV service at `osv_url` (empty: the public one), or of `service`, an own one that
    speaks its protocol at `/v1/query`; then nothing else is reached. Without an answer the stage fails, so it
    does offline. Targets are the packages that apply to the platform.
    """

    source: Stage[Tree]
    lock: str = "requirements.lock"
    tool: Stage[Tree] = PipAuditTool()
    osv_url: str = ""
    service: Stage[Service] | None = None

    def observe(self, project: Project) -> str:
        return today()

    async def run(self, work: Work) -> Findings:
        tool = work[self.tool]
        service = work[self.service] if self.service else None
        lock = work.store.file(work[self.source], self.lock)
        result = await work.execute(audit_action(lock, tool, self.osv_url, service))
        if REPORT not in result.outputs or result.exit_code not in (0, 1):
            last = result.tail.strip().splitlines()[-1:] or ["it printed nothing"]
            raise StageFailed(
                f"pip-audit could not audit {self.lock}: {last[0]}",
                right="a lock with hashes, and a vulnerability service that answers",
                next="set osv_url= or service= to one that can be reached",
            )
        try:
            targets, found = from_json(result.outputs[REPORT].read(), self.lock)
        except ValueError as error:
            raise StageFailed(f"pip-audit's report cannot be used: {error}", right="its JSON report of every package") from error
        if bool(found) != (result.exit_code == 1):
            raise StageFailed(
                f"pip-audit reports {len(found)} findings and ends with {result.exit_code}", right="1 with findings, else 0"
            )
        name, security = version(work.store, tool, "pip-audit"), rules_of(found)
        return scan(work.store, tool=name, subject="packages", targets=targets, findings=found, security=security)


def audit_action(lock: Blob, tool: Tree, osv_url: str, service: Service | None) -> Action:
    """The command; it resolves nothing: the lock is taken as it is."""
    asked = f"{url(service)}/v1/query" if service else osv_url
    return Action(
        argv=(
            "python", "-m", "pip_audit", "--disable-pip", "--require-hashes", "--strict", "--format=json",
            f"--output={{root}}/{REPORT}", "--progress-spinner=off", "--cache-dir={root}/.tmp/cache", "--desc=on",
            "--vulnerability-service=osv", *((f"--osv-url={asked}",) if asked else ()), "--requirement=requirements.lock",
        ),
        inputs={"requirements.lock": lock},
        tools={"site": tool},
        env={"PYTHONPATH": "{root}/site"},
        outputs=(REPORT,),
        network=service is None,
        services=(service,) if service else (),
    )  # fmt: skip


def from_json(text: bytes, lock: str) -> tuple[int, tuple[Finding, ...]]:
    """How many packages were audited, and the vulnerabilities. Raises ValueError also for a package that was passed by."""
    try:
        packages = list(json.loads(text)["dependencies"])
        skipped = [f"{one['name']} ({one['skip_reason']})" for one in packages if "skip_reason" in one]
        found = [_finding(one, bad, lock) for one in packages if "vulns" in one for bad in one["vulns"]]
        audited = sum(isinstance(one["vulns"], list) for one in packages if "skip_reason" not in one)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is not what pip-audit writes: {type(error).__name__}: {error}") from error
    if skipped:
        raise ValueError(f"it passed by {', '.join(skipped)}")
    return audited, tuple(told_apart(found))


def _finding(package: dict[str, str], bad: dict[str, object], lock: str) -> Finding:
    name = f"{package['name']} {package['version']}"
    fixes = bad.get("fix_versions")
    fixed = f", fixed in {', '.join(map(str, fixes))}" if isinstance(fixes, list) and fixes else ""
    said = str(bad.get("description") or "no description").splitlines()[0][:200]
    return Finding(
        rule=str(bad["id"]),
        severity=Severity.HIGH,
        path=lock,
        line=0,
        message=f"{name}: {said}{fixed}",
        fingerprint=fingerprint(str(bad["id"]), lock, name),
    )
