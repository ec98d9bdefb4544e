"""SARIF 2.1.0: findings out of what any tool reports, and findings written the same way for all tools."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from gates.findings import Finding, Findings, Severity
from pipeline import Stage, StageFailed, Store, Tree, Work
from pipeline.digest import canonical

LARGEST = 256 << 20
"""Bytes of the largest report that is read."""

LEVELS = {"none": Severity.NOTE, "note": Severity.LOW, "warning": Severity.MEDIUM, "error": Severity.HIGH}
NAMES = {
    Severity.NOTE: "none",
    Severity.LOW: "note",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "error",
}
SCORES = {Severity.NOTE: "0.0", Severity.LOW: "2.0", Severity.MEDIUM: "5.0", Severity.HIGH: "8.0", Severity.CRITICAL: "9.5"}
NOT_FOUND = frozenset({"pass", "notApplicable", "informational"})
"""Kinds of results that say that nothing is wrong."""

T = TypeVar("T")


class ImportSarif(Stage[Findings]):
    """The findings in the SARIF file `path` of a tree, from a tool that Lockgate does not know.

    What the tool looked at is counted from the artifacts its report lists; where it lists none, `targets` says
    how many there were. A clean report that tells neither vouches for nothing: it counts no target.
    """

    source: Stage[Tree]
    path: str
    subject: str = "files"
    targets: int = 0

    async def run(self, work: Work) -> Findings:
        tree = work[self.source]
        text = work.store.read(work.store.file(tree, self.path))
        files = frozenset(entry.path for entry in work.store.entries(tree))
        try:
            found = findings_from_sarif(text, files)
            tool, listed, security = tools(text), artifacts(text), scored(text)
        except ValueError as error:
            raise unreadable(self.path, error) from error
        targets = listed or self.targets or len({finding.path for finding in found if finding.path})
        return scan(work.store, tool=tool, subject=self.subject, targets=targets, findings=found, security=security)


def scan(
    store: Store, *, tool: str, subject: str, targets: int, findings: Iterable[Finding], security: frozenset[str] = frozenset()
) -> Findings:
    """A piece of evidence, its report written by `to_sarif`."""
    ordered = tuple(sorted(findings, key=lambda f: (f.path, f.line, f.rule, f.message, f.fingerprint)))
    report = store.put(to_sarif(tool, ordered, security))
    return Findings(tool=tool, subject=subject, targets=targets, findings=ordered, report=report)


def unreadable(what: str, error: ValueError) -> StageFailed:
    return StageFailed(f"the report cannot be used: {error}", where=what, right="a report in SARIF 2.1.0 of a scan that finished")


def to_sarif(tool: str, findings: Iterable[Finding], security: frozenset[str] = frozenset()) -> bytes:
    """The findings as SARIF 2.1.0; equal findings give equal bytes.

    `security` are the rules whose findings are about security: only those have a `security-severity`, by which
    GitHub shows a finding as a security alert. All have a level.
    """
    listed = list(findings)
    name, _, number = tool.rpartition(" ")
    worst: dict[str, Severity] = {}
    for finding in listed:
        worst[finding.rule] = max(finding.severity, worst.get(finding.rule, Severity.NOTE))
    rules = [{"id": rule} | _score(rule, severity, security) for rule, severity in sorted(worst.items())]
    driver = {"name": name or tool, "rules": rules} | ({"version": number} if name else {})
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_result(finding, security) for finding in listed]}],
    }
    return canonical(document)


def rules_of(findings: Iterable[Finding]) -> frozenset[str]:
    """The rules that were broken."""
    return frozenset(finding.rule for finding in findings)


def _score(rule: str, severity: Severity, security: frozenset[str]) -> dict[str, Any]:
    return {"properties": {"security-severity": SCORES[severity]}} if rule in security else {}


def _result(finding: Finding, security: frozenset[str]) -> dict[str, Any]:
    region = {"region": {"startLine": finding.line}} if finding.line else {}
    place = {"physicalLocation": {"artifactLocation": {"uri": finding.path}, **region}}
    return {
        "ruleId": finding.rule,
        "level": NAMES[finding.severity],
        "message": {"text": finding.message},
        "locations": [place] if finding.path else [],
        "partialFingerprints": {"lockgate/v1": finding.fingerprint},
        **_score(finding.rule, finding.severity, security),
    }


def findings_from_sarif(text: bytes, files: frozenset[str] = frozenset()) -> tuple[Finding, ...]:
    """What a report in SARIF 2.1.0 finds; suppressed results and those that say `pass` are left out.

    `files` are the paths of what was scanned: a place named absolutely becomes the one it ends with. Severity is
    the `security-severity` of the result or its rule, else the level. Raises ValueError, with a sentence, when
    this is no SARIF 2.1.0, when it holds no run, and when a tool says that it did not finish.
    """
    found = [one for run in _runs(text) for one in _of_run(run, files)]
    return tuple(told_apart(found))


def tools(text: bytes) -> str:
    """The names and versions of the tools of a report."""
    drivers = [_get(_get(run, "tool", dict, {}), "driver", dict, {}) for run in _runs(text)]
    names = [
        f"{_get(one, 'name', str, 'a tool')} {_get(one, 'version', str, '') or _get(one, 'semanticVersion', str, '')}".strip()
        for one in drivers
    ]
    return ", ".join(dict.fromkeys(names))


def artifacts(text: bytes) -> int:
    """How many artifacts the runs of a report list."""
    return sum(len(_get(run, "artifacts", list, [])) for run in _runs(text))


def scored(text: bytes) -> frozenset[str]:
    """The rules of a report to which it gives a `security-severity`, themselves or by a result."""
    found: set[str] = set()
    for run in _runs(text):
        rules = _rules(run)
        for result in _get(run, "results", list, []):
            name = _rule(result, rules)
            if any("security-severity" in _get(of, "properties", dict, {}) for of in (result, rules.get(name, {}))):
                found.add(name)
    return frozenset(found)


def fingerprint(rule: str, path: str, message: str, context: str = "") -> str:
    """Names a finding by what it says and where, but not by its line."""
    return hashlib.sha256(canonical([rule, path, message, context.strip()])).hexdigest()


def told_apart(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The same findings; of several with one fingerprint the second, third, ... have one of their own."""
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.fingerprint] += 1
        number = seen[finding.fingerprint]
        if number == 1:
            yield finding
        else:
            yield finding.model_copy(update={"fingerprint": f"{finding.fingerprint}-{number}"})


def _runs(text: bytes) -> list[dict[str, Any]]:
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} bytes, more than {LARGEST:,}")
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    _need(document, dict, "the document")
    if _get(document, "version", str, "") != "2.1.0":
        raise ValueError(f"its version is {document.get('version')!r}, not '2.1.0'")
    runs = _get(document, "runs", list, [])
    if not runs:
        raise ValueError("it holds no run")
    return [_need(run, dict, "a run") for run in runs]


def _of_run(run: dict[str, Any], files: frozenset[str]) -> Iterator[Finding]:
    for invocation in _get(run, "invocations", list, []):
        _check_finished(_need(invocation, dict, "an invocation"))
    results = run.get("results")
    if results is None:
        raise ValueError("a run has no `results`: the tool did not scan")
    rules = _rules(run)
    for result in _need(results, list, "`results`"):
        if _counts(_need(result, dict, "a result")):
            yield _finding(result, rules, files)


def _check_finished(invocation: dict[str, Any]) -> None:
    if invocation.get("executionSuccessful") is False:
        raise ValueError("the tool says that it did not finish (executionSuccessful is false)")
    for kind in ("toolExecutionNotifications", "toolConfigurationNotifications"):
        for notice in _get(invocation, kind, list, []):
            if _get(_need(notice, dict, "a notification"), "level", str, "warning") == "error":
                places = ", ".join(filter(None, (_uri(place) for place in _places(notice))))
                said = _text(notice)
                raise ValueError(f"the tool reports an error: {f'{places}: ' if places else ''}{said}")


def _counts(result: dict[str, Any]) -> bool:
    """Whether a result says that something is wrong now and nobody has accepted it."""
    if _get(result, "kind", str, "fail") in NOT_FOUND or _get(result, "baselineState", str, "new") == "absent":
        return False
    suppressed = [_need(one, dict, "a suppression") for one in _get(result, "suppressions", list, [])]
    return not any(_get(one, "status", str, "accepted") == "accepted" for one in suppressed)


def _rules(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    tool = _get(run, "tool", dict, {})
    parts = [_get(tool, "driver", dict, {}), *_get(tool, "extensions", list, [])]
    rules = [_need(rule, dict, "a rule") for part in parts for rule in _get(_need(part, dict, "an extension"), "rules", list, [])]
    return {_get(rule, "id", str, ""): rule for rule in rules}


def _finding(result: dict[str, Any], rules: Mapping[str, dict[str, Any]], files: frozenset[str]) -> Finding:
    rule = _rule(result, rules)
    path, line, context = "", 0, ""
    for place in _places(result):
        path = inside(_uri(place), files)
        region = _get(_get(place, "physicalLocation", dict, {}), "region", dict, {})
        line = max(0, _get(region, "startLine", int, 0))
        context = _get(_get(region, "snippet", dict, {}), "text", str, "")
        break
    message = _text(result)
    given = {**_get(result, "fingerprints", dict, {}), **_get(result, "partialFingerprints", dict, {})}
    named = fingerprint(rule, path, message, context) if not given else hashlib.sha256(canonical([rule, given])).hexdigest()
    return Finding(
        rule=rule,
        severity=_severity(result, rules.get(rule, {})),
        path=path,
        line=line,
        message=message,
        fingerprint=named,
    )


def _rule(result: dict[str, Any], rules: Mapping[str, dict[str, Any]]) -> str:
    rule = _get(result, "ruleId", str, "") or _get(_get(result, "rule", dict, {}), "id", str, "")
    index = _get(result, "ruleIndex", int, -1)
    return rule or (list(rules)[index] if 0 <= index < len(rules) else "unnamed")


def _severity(result: dict[str, Any], rule: dict[str, Any]) -> Severity:
    for properties in (_get(result, "properties", dict, {}), _get(rule, "properties", dict, {})):
        score = properties.get("security-severity")
        if score is not None:
            return by_score(score)
    level = _get(result, "level", str, "") or _get(_get(rule, "defaultConfiguration", dict, {}), "level", str, "warning")
    if level not in LEVELS:
        raise ValueError(f"a result has the level {level!r}, not one of {', '.join(LEVELS)}")
    return LEVELS[level]


def by_score(score: object) -> Severity:
    """The severity of a CVSS score, as its specification names the ranges. Raises ValueError for what is none."""
    try:
        number = float(score) if isinstance(score, str | int | float) else math.nan
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= 10.0:
        raise ValueError(f"a security-severity is {score!r}, not a number from 0 to 10")
    limits = ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM), (0.1, Severity.LOW))
    return next((severity for limit, severity in limits if number >= limit), Severity.NOTE)


def inside(uri: str, files: frozenset[str]) -> str:
    """The path in the scanned tree that a URI stands for: the longest end of it that is a file there."""
    path = unquote(urlsplit(uri).path if "://" in uri else uri)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for start in range(len(parts)):
        if "/".join(parts[start:]) in files:
            return "/".join(parts[start:])
    return "/".join(parts)


def _places(of: dict[str, Any]) -> list[dict[str, Any]]:
    return [_need(place, dict, "a location") for place in _get(of, "locations", list, [])]


def _uri(place: dict[str, Any]) -> str:
    return _get(_get(_get(place, "physicalLocation", dict, {}), "artifactLocation", dict, {}), "uri", str, "")


def _text(of: dict[str, Any]) -> str:
    message = _get(of, "message", dict, {})
    text = _get(message, "text", str, "") or _get(message, "markdown", str, "") or _get(message, "id", str, "") or "no message"
    return text.encode(errors="replace").decode()


def _get(of: Mapping[str, Any], name: str, kind: type[T], otherwise: T) -> T:
    """A property, `otherwise` where it is missing. Raises ValueError when it has another type."""
    value = of.get(name)
    return otherwise if value is None else _need(value, kind, f"`{name}`")


def _need(value: Any, kind: type[T], what: str) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{what} is a {type(value).__name__}, not a {kind.__name__}")
    return value
