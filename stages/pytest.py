"""Tests with pytest: unit tests, and integration tests with services beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gates.tests import Case, Status, TestReport
from pipeline import Action, ActionResult, Blob, CommandFailed, Service, Stage, StageFailed, Store, Tree, Work
from stages.scripts import measure
from stages.versions import version

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NO_TESTS = 5
"""pytest's exit code when it collected nothing."""

BAD = (Status.FAILED, Status.ERROR)

DATA = "measured/data"
"""Where an action leaves the coverage data, relative to its directory."""

STARTS = b"import coverage\ncoverage.process_startup()\n"
"""The `sitecustomize` module that begins to measure in each Python process."""


class UnitTests(Stage[TestReport]):
    """pytest over `source`, with the packages of `environment`; a failing test is evidence, not an error.

    `paths` are the directories of the source on PYTHONPATH, `packages` further site-packages trees (a wheel as
    it is installed), `tests` what pytest is given, `markers` its `-m` expression. `services` run beside the
    tests, which find each at NAME_HOST and NAME_PORT; in the values of `env` `{NAME_HOST}` stands for the same.

    `cover` names packages or directories whose coverage (lines and branches, child processes included) is
    measured; the environment must hold `coverage`. Failing tests are run again on their own up to `reruns`
    times: one that then passes is flaky, and keeps the message of its first failure.

    A crash of pytest, a usage error, an unreadable report or missing coverage data fails the stage.
    """

    source: Stage[Tree]
    environment: Stage[Tree]
    tests: tuple[str, ...] = ("tests",)
    paths: tuple[str, ...] = ("src",)
    packages: tuple[Stage[Tree], ...] = ()
    markers: str = ""
    args: tuple[str, ...] = ()
    services: tuple[Stage[Service], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cover: tuple[str, ...] = ()
    reruns: int = 0

    async def run(self, work: Work) -> TestReport:
        marked = ("-m", self.markers) if self.markers else ()
        services, env = self.beside(work)
        action = pytest_action(
            work[self.source],
            work[self.environment],
            packages=tuple(work[package] for package in self.packages),
            paths=self.paths,
            args=(*marked, *self.args),
            env=env,
            services=services,
        )
        return await report(
            work,
            action,
            self.tests,
            source=work[self.source],
            environment=work[self.environment],
            cover=self.cover,
            reruns=self.reruns,
        )

    def beside(self, work: Work) -> tuple[tuple[Service, ...], dict[str, str]]:
        """The services that run beside the tests, and what the tests find in their environment."""
        return tuple(work[service] for service in self.services), dict(self.env)


class IntegrationTests(UnitTests):
    """The same with a name of its own: tests of the code together with the real `services` it needs."""


def pytest_action(
    source: Tree,
    environment: Tree,
    *,
    packages: tuple[Tree, ...] = (),
    paths: tuple[str, ...] = (),
    args: tuple[str, ...] = (),
    env: Mapping[str, str],
    services: tuple[Service, ...] = (),
) -> Action:
    """The command, without the tests: pytest from the source's directory, its report in `junit.xml`."""
    further = {f"packages/{number}": tree for number, tree in enumerate(packages)}
    places = [*(f"src/{path}" for path in paths), *further, "site"]
    return Action(
        argv=(
            "python", "-m", "pytest", "-p", "no:cacheprovider", "-o", "junit_family=xunit2", "--junit-xml={root}/junit.xml",
            "--rootdir={root}/src", "--color=no", *args,
        ),
        inputs={"src": source},
        tools={"site": environment, **further},
        env={"PYTHONPATH": ":".join(f"{{root}}/{place}" for place in places), "PYTHONHASHSEED": "0", **env},
        cwd="src",
        outputs=("junit.xml",),
        services=services,
    )  # fmt: skip


async def report(
    work: Work,
    action: Action,
    tests: tuple[str, ...],
    *,
    source: Tree,
    environment: Tree,
    cover: tuple[str, ...] = (),
    reruns: int = 0,
) -> TestReport:
    """Run pytest on `tests`, and again what failed; what came of it. Raises CommandFailed when pytest did not report."""
    tool = version(work.store, environment, "pytest")
    files = frozenset(entry.path for entry in work.store.entries(source))
    first = with_tests(action, tests)
    if cover:
        version(work.store, environment, "coverage")
        first = measured(first, cover, files, work.store)
    result = await work.execute(first)
    if result.exit_code == NO_TESTS:
        return TestReport(tool=tool, cases=(), report=work.store.put(b""))
    cases = read_report(result, files)
    data = _data(result) if cover else None
    for _ in range(reruns):
        if bad := tuple(dict.fromkeys(node(case) for case in cases if case.status in BAD)):
            cases = await _again(work, with_tests(action, bad), cases, files)
    return TestReport(tool=tool, cases=cases, report=result.output("junit.xml").blob, coverage=data)


def with_tests(action: Action, tests: tuple[str, ...]) -> Action:
    return replace(action, argv=(*action.argv, *tests))


def read_report(result: ActionResult, files: frozenset[str]) -> tuple[Case, ...]:
    """The cases pytest reports, when its report and its exit code agree. Raises CommandFailed otherwise."""
    result.require(1)
    try:
        cases = from_junit(result.output("junit.xml").read(), files)
    except ValueError as error:
        raise CommandFailed(result.action.argv, result.exit_code, result.tail, expected=f"a JUnit report: {error}") from error
    bad = any(case.status in BAD for case in cases)
    if bad != (result.exit_code == 1):
        wanted = "no failed test" if bad else "a failed test"
        raise CommandFailed(result.action.argv, result.exit_code, result.tail, expected=f"{wanted} in the report")
    return cases


def measured(action: Action, cover: tuple[str, ...], files: frozenset[str], store: Store) -> Action:
    """The same action with the coverage of `cover` measured into DATA."""
    settings = coverage_settings(cover, files)
    return replace(
        action,
        argv=("python", "{root}/measure.py", f"{{root}}/{DATA}", *action.argv[2:]),
        inputs={
            **action.inputs,
            "measure.py": store.put_file(Path(measure.__file__)),
            "measured/settings": store.put(settings.encode()),
            "starts/sitecustomize.py": store.put(STARTS),
        },
        env={
            **action.env,
            "PYTHONPATH": "{root}/starts:" + action.env["PYTHONPATH"],
            "COVERAGE_PROCESS_START": "{root}/measured/settings",
            "COVERAGE_PLACE": "{root}",
        },
        outputs=(*action.outputs, DATA),
    )


def coverage_settings(cover: tuple[str, ...], files: frozenset[str]) -> str:
    """What coverage.py reads: directories are named in full, since child processes may run elsewhere."""
    sources = (f"${{COVERAGE_PLACE}}/src/{item}" if _is_directory(item, files) else item for item in cover)
    return "\n".join(
        [
            "[run]",
            "branch = true",
            "parallel = true",
            "sigterm = true",
            "relative_files = true",
            f"data_file = ${{COVERAGE_PLACE}}/{DATA}",
            "source =",
            *(f"    {source}" for source in sources),
            "[paths]",
            "source =",
            "    .",
            "    ${COVERAGE_PLACE}/src",
            "",
        ]
    )


def _is_directory(item: str, files: frozenset[str]) -> bool:
    return any(file.startswith(f"{item.rstrip('/')}/") for file in files)


def _data(result: ActionResult) -> Blob:
    if DATA not in result.outputs:
        raise StageFailed("no coverage was measured", right="packages or directories that the tests import in `cover`")
    return result.outputs[DATA].blob


async def _again(work: Work, action: Action, cases: tuple[Case, ...], files: frozenset[str]) -> tuple[Case, ...]:
    """Run what failed once more on the same inputs; what passes now is flaky. Without a report nothing changes."""
    result = await work.execute(action)
    try:
        second = read_report(result, files)
    except CommandFailed as error:
        work.say(f"the failed tests could not be run again: {error}")
        return cases
    return with_second_try(cases, second)


def with_second_try(cases: tuple[Case, ...], second: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases, those flaky that failed at first and of which a second run reports nothing but passes."""
    verdicts: dict[str, list[bool]] = {}
    for case in second:
        verdicts.setdefault(node(case), []).append(case.status is Status.PASSED)
    return tuple(
        case.model_copy(update={"status": Status.FLAKY})
        if case.status in BAD and all(verdicts.get(node(case), [False]))
        else case
        for case in cases
    )


def node(case: Case) -> str:
    """What pytest calls the test."""
    return f"{case.file}::{case.name}"


def from_junit(text: bytes, files: frozenset[str] = frozenset()) -> tuple[Case, ...]:
    """The cases of a JUnit report; `files` are those the tests lie in. Raises ValueError when it is none."""
    from defusedxml import ElementTree

    try:
        root = ElementTree.fromstring(text)
    except Exception as error:
        raise ValueError(f"not readable as XML: {error}") from error
    if root.tag not in ("testsuites", "testsuite"):
        raise ValueError(f"the root element is <{root.tag}>, not <testsuites>")
    modules = {file.removesuffix(".py").replace("/", "."): file for file in sorted(files) if file.endswith(".py")}
    return tuple(_case(element, modules) for element in root.iter("testcase"))


def _case(element: Element, modules: Mapping[str, str]) -> Case:
    status, message = Status.PASSED, ""
    for child in element:
        if child.tag in ("failure", "error", "skipped"):
            status = {"failure": Status.FAILED, "error": Status.ERROR, "skipped": Status.SKIPPED}[child.tag]
            message = f"{child.get('message') or ''}\n{child.text or ''}".strip()
            break
    file, classes = place(element.get("classname", ""), modules)
    return Case(
        name="::".join([*classes, element.get("name", "")]),
        file=element.get("file") or file,
        status=status,
        seconds=float(element.get("time") or 0.0),
        message=message[:4000],
    )


def place(classname: str, modules: Mapping[str, str]) -> tuple[str, list[str]]:
    """The file and the classes that a dotted class name of a report stands for.

    >>> place("tests.test_sum.TestSmall", {"tests.test_sum": "tests/test_sum.py"})
    ('tests/test_sum.py', ['TestSmall'])
    """
    parts = classname.split(".")
    for end in range(len(parts), 0, -1):
        if file := modules.get(".".join(parts[:end])):
            return file, parts[end:]
    return classname.replace(".", "/"), []
