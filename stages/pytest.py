"""Tests with pytest: unit tests, and integration tests with services beside them."""

from __future__ import annotations

from gates.tests import Case, Status, TestReport
from pipeline import Action, Blob, CommandFailed, Service, Stage, Tree, Work

NO_TESTS = 5
"""pytest's exit code when it collected nothing."""


class UnitTests(Stage[TestReport]):
    """pytest over `source`, with the packages of `environment`; a failing test is evidence, not an error.

    `paths` are the directories on PYTHONPATH, `tests` what pytest is given, `markers` its `-m` expression.
    A crash of pytest, a usage error or an unreadable report fails the stage.
    """

    source: Stage[Tree]
    environment: Stage[Tree]
    tests: tuple[str, ...] = ("tests",)
    paths: tuple[str, ...] = ("src",)
    markers: str = ""
    args: tuple[str, ...] = ()
    services: tuple[Stage[Service], ...] = ()

    async def run(self, work: Work) -> TestReport:
        services = tuple(work[service] for service in self.services)
        action = pytest_action(
            work[self.source], work[self.environment], tests=self.tests, paths=self.paths, markers=self.markers, args=self.args
        )
        return await report(work, with_services(action, services))


def pytest_action(
    source: Tree, environment: Tree, *, tests: tuple[str, ...], paths: tuple[str, ...], markers: str, args: tuple[str, ...]
) -> Action:
    """The command: pytest from the source's directory, its report in `junit.xml`."""
    marked = ("-m", markers) if markers else ()
    return Action(
        argv=(
            "python", "-m", "pytest", "-p", "no:cacheprovider", "-o", "junit_family=xunit2", "--junit-xml={root}/junit.xml",
            "--color=no", *marked, *args, *tests,
        ),
        inputs={"src": source},
        tools={"site": environment},
        env={"PYTHONPATH": ":".join([*(f"{{root}}/src/{path}" for path in paths), "{root}/site"]), "PYTHONHASHSEED": "0"},
        cwd="src",
        outputs=("junit.xml",),
    )  # fmt: skip


def with_services(action: Action, services: tuple[Service, ...]) -> Action:
    from dataclasses import replace

    return replace(action, services=services) if services else action


async def report(work: Work, action: Action) -> TestReport:
    """Run pytest and read what it reports. Raises CommandFailed when it did not report."""
    result = await work.execute(action)
    if result.exit_code == NO_TESTS:
        return TestReport(tool="pytest", cases=(), report=work.store.put(b""))
    result.require(1)
    output = result.output("junit.xml")
    try:
        cases = from_junit(output.read())
    except ValueError as error:
        raise CommandFailed(action.argv, result.exit_code, result.tail, expected=f"a JUnit report: {error}") from error
    return _report(cases, output.blob, result.exit_code, action, result.tail)


def _report(cases: tuple[Case, ...], blob: Blob, exit_code: int, action: Action, tail: str) -> TestReport:
    """The report, when it and the exit code agree."""
    found = TestReport(tool="pytest", cases=cases, report=blob)
    if exit_code == 1 and not found.bad():
        raise CommandFailed(action.argv, exit_code, tail, expected="a failed test in the report")
    return found


def from_junit(text: bytes) -> tuple[Case, ...]:
    """The cases of a JUnit report. Raises ValueError when it is none."""
    from defusedxml import ElementTree

    try:
        root = ElementTree.fromstring(text)
    except Exception as error:
        raise ValueError(f"not readable as XML: {error}") from error
    if root.tag not in ("testsuites", "testsuite"):
        raise ValueError(f"the root element is <{root.tag}>, not <testsuites>")
    return tuple(_case(element) for element in root.iter("testcase"))


def _case(element: object) -> Case:
    from xml.etree.ElementTree import Element

    assert isinstance(element, Element)
    status, message = Status.PASSED, ""
    for child in element:
        if child.tag in ("failure", "error", "skipped"):
            status = {"failure": Status.FAILED, "error": Status.ERROR, "skipped": Status.SKIPPED}[child.tag]
            message = f"{child.get('message') or ''}\n{child.text or ''}".strip()
            break
    return Case(
        name=element.get("name", ""),
        file=(element.get("file") or element.get("classname", "").replace(".", "/")),
        status=status,
        seconds=float(element.get("time") or 0.0),
        message=message[:4000],
    )
