"""Trivy as stages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from gates import MaxFindings, Ruling, Severity, no_findings
from pipeline import Entry, Project, Stage, Store, Tree, Work
from stages.image import BuildImage, Placed
from stages.source import WorkingCopy
from stages.trivy import TrivyConfig, TrivyFileSystem, TrivyImage, TrivySecrets
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.advisories import database

KEY = "AKIA" + "IOSFODNN7" + "QWERTYU"
"""Put together here, so that no scanner takes this file for a leak."""


def write(project: Project, **files: str) -> WorkingCopy:
    for name, text in files.items():
        path = project.root / "files" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return WorkingCopy(include=("files",))


def test_a_key_in_a_file_is_found_and_not_repeated(project: Project, run_stage: RunStage, store: Store) -> None:
    found = run_stage(TrivySecrets(source=write(project, keys_dot_py=f"key = '{KEY}'\n", clean_dot_py="number = 1234567\n")))
    assert [(f.rule, f.severity, f.path, f.line) for f in found.findings] == [
        ("aws-access-key-id", Severity.CRITICAL, "files/keys.py", 1)
    ]
    assert found.targets == 2
    assert found.tool.startswith("trivy 0.76.0+sha256.")
    assert KEY not in found.model_dump_json()
    assert MaxFindings()(found).ruling is Ruling.FAILED
    assert b"security-severity" in store.read(found.report)


def test_files_without_secrets_pass(project: Project, run_stage: RunStage) -> None:
    assert no_findings(run_stage(TrivySecrets(source=write(project, clean_dot_py="number = 1234567\n")))).passed


def test_no_file_that_could_hold_a_secret_is_no_pass(project: Project, run_stage: RunStage) -> None:
    found = run_stage(TrivySecrets(source=write(project, logo_dot_png=KEY)))
    assert found.targets == 0
    assert no_findings(found).ruling is Ruling.ERROR


def test_a_bad_dockerfile_is_found(project: Project, run_stage: RunStage) -> None:
    found = run_stage(TrivyConfig(source=write(project, Dockerfile="FROM debian:latest\nRUN apt-get install curl\nADD . /\n")))
    assert {"DS-0001", "DS-0002"} <= {finding.rule for finding in found.findings}
    assert {finding.path for finding in found.findings} == {"files/Dockerfile"}
    assert found.targets == 1
    assert MaxFindings()(found).ruling is Ruling.FAILED


def test_a_comment_in_the_file_silences_a_check_of_configuration_and_a_file_of_settings_does_not(
    project: Project, run_stage: RunStage
) -> None:
    latest = "FROM debian:latest\nUSER 1000\n"
    settings = {"_dot_trivyignore": "DS-0001\n", "trivy_dot_yaml": "severity: [CRITICAL]\n"}
    loud = run_stage(TrivyConfig(source=write(project, Dockerfile=latest, **settings)))
    assert "DS-0001" in {finding.rule for finding in loud.findings}
    quiet = run_stage(TrivyConfig(source=write(project, Dockerfile=f"#trivy:ignore:DS-0001\n{latest}", **settings)))
    assert {finding.rule for finding in loud.findings} - {finding.rule for finding in quiet.findings} == {"DS-0001"}


def test_no_comment_silences_a_secret(project: Project, run_stage: RunStage) -> None:
    text = f"#trivy:ignore:aws-access-key-id\nkey = '{KEY}'  #trivy:ignore:aws-access-key-id\n"
    found = run_stage(TrivySecrets(source=write(project, keys_dot_py=text)))
    assert [finding.rule for finding in found.findings] == ["aws-access-key-id"]


def test_a_good_dockerfile_is_a_target_without_findings(project: Project, run_stage: RunStage) -> None:
    text = 'FROM debian:13.2\nHEALTHCHECK CMD true\nUSER nobody\nCMD ["true"]\n'
    found = run_stage(TrivyConfig(source=write(project, Dockerfile=text)))
    assert (found.findings, found.targets) == ((), 1)
    assert no_findings(found).passed


def test_nothing_to_configure_is_no_pass(project: Project, run_stage: RunStage) -> None:
    assert no_findings(run_stage(TrivyConfig(source=write(project, a_dot_py="x = 1\n")))).ruling is Ruling.ERROR


def test_secrets_in_a_root_file_system_are_found(project: Project, run_stage: RunStage) -> None:
    found = run_stage(TrivyImage(image=write(project, opt__settings_dot_py=f"key = '{KEY}'\n"), scanners=("secret",)))
    assert [finding.rule for finding in found.findings] == ["aws-access-key-id"]


def test_secrets_in_the_layers_of_an_image_are_found(project: Project, run_stage: RunStage) -> None:
    layer = Placed(tree=write(project, settings_dot_py=f"key = '{KEY}'\n", other_dot_py="number = 1234567\n"), at="/opt")
    found = run_stage(TrivyImage(image=BuildImage(layers=(layer,), entrypoint=("true",)), scanners=("secret",)))
    assert [finding.rule for finding in found.findings] == ["aws-access-key-id"]
    assert found.findings[0].path == "/opt/files/settings.py"
    assert found.targets == 3  # two files, and the configuration of the image


def test_vulnerabilities_without_a_database_are_an_error(project: Project, run_stage: RunStage) -> None:
    source = write(project, requirements_dot_txt="django==1.0\n")
    for stage in (TrivyFileSystem(source=source), TrivyImage(image=source)):
        with pytest.raises(StageDidNotPass, match="no database of vulnerabilities"):
            run_stage(stage)


class Database(Stage[Tree]):
    """A database of the given files."""

    files: tuple[tuple[str, str], ...]

    async def run(self, work: Work) -> Tree:
        blobs = [(name, work.store.put(text.encode())) for name, text in self.files]
        return work.store.tree(Entry(name, "file", blob.digest, blob.size) for name, blob in blobs)


LARGE = "no database" * 100_000


def metadata(age: timedelta) -> str:
    updated = (datetime.now(UTC) - age).isoformat()
    return json.dumps({"Version": 2, "UpdatedAt": updated, "NextUpdate": updated, "DownloadedAt": updated})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((("metadata.json", "{}"),), "not whole"),
        ((("metadata.json", metadata(timedelta(days=1))), ("trivy.db", "")), "not whole"),
        ((("metadata.json", "{}"), ("trivy.db", LARGE)), "age .* is unknown"),
        ((("metadata.json", metadata(timedelta(days=30))), ("trivy.db", LARGE)), r"is 30\.0 days old"),
        ((("metadata.json", metadata(timedelta(days=1))), ("trivy.db", LARGE)), "trivy could not scan"),
    ],
    ids=["no database", "an empty one", "of unknown age", "old", "unreadable"],
)
def test_a_database_that_is_not_whole_and_fresh_is_an_error(
    files: tuple[tuple[str, str], ...], said: str, project: Project, run_stage: RunStage
) -> None:
    stage = TrivyFileSystem(source=write(project, requirements_dot_txt="django==1.0\n"), database=Database(files=files))
    with pytest.raises(StageDidNotPass, match=said):
        run_stage(stage)


def test_known_vulnerabilities_of_locked_packages_are_found_with_the_version_that_mends_them(
    project: Project, run_stage: RunStage
) -> None:
    advisories = {
        "django": {"CVE-2099-0001": {"PatchedVersions": ["2.0"], "VulnerableVersions": ["<2.0"]}},
        "flask": {"CVE-2099-0002": {"PatchedVersions": ["1.0"], "VulnerableVersions": ["<1.0"]}},
    }
    about = {
        "CVE-2099-0001": {"Title": "Django gives everything away", "Severity": "CRITICAL"},
        "CVE-2099-0002": {"Title": "Flask does too", "Severity": "LOW"},
    }
    base = Advisories(content=database(advisories, about), described=metadata(timedelta(days=1)))
    source = write(project, requirements_dot_txt="django==1.0\nflask==3.0\n")
    found = run_stage(TrivyFileSystem(source=source, database=base))
    assert found.targets == 2
    (one,) = found.findings
    assert (one.rule, one.severity, one.path) == ("CVE-2099-0001", Severity.CRITICAL, "files/requirements.txt")
    assert one.message == "django 1.0: Django gives everything away, fixed in 2.0"
    assert MaxFindings(severity=Severity.HIGH)(found).ruling is Ruling.FAILED

    mended = run_stage(TrivyFileSystem(source=write(project, requirements_dot_txt="django==2.0\nflask==3.0\n"), database=base))
    assert (mended.targets, mended.findings) == (2, ())


class Advisories(Stage[Tree]):
    """A database as Trivy downloads it."""

    content: bytes
    described: str

    async def run(self, work: Work) -> Tree:
        parts = {"trivy.db": work.store.put(self.content), "metadata.json": work.store.put(self.described.encode())}
        return work.store.overlay(parts)
