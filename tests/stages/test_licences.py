"""Licences as a stage."""

from __future__ import annotations

import pytest

from gates import AllowedLicences, Licensed, Ruling
from pipeline import Entry, Stage, Tree, Work
from stages.environment import Tool
from stages.licences import Licences, expression, of_metadata
from tests.conftest import RunStage


class Site(Stage[Tree]):
    """A site-packages tree with the metadata it was given."""

    packages: tuple[tuple[str, str], ...]

    async def run(self, work: Work) -> Tree:
        blobs = [(name, work.store.put(f"Metadata-Version: 2.1\nName: {name}\n{text}".encode())) for name, text in self.packages]
        return work.store.tree(Entry(f"{name}-1.dist-info/METADATA", "file", blob.digest, blob.size) for name, blob in blobs)


def test_a_licence_that_is_not_allowed_is_found(run_stage: RunStage) -> None:
    site = Site(packages=(("good", "Version: 1\nLicense-Expression: MIT\n"), ("bad", "Version: 2\nLicense: GPL-3.0-only\n")))
    report = run_stage(Licences(environment=site))
    assert report.packages == (
        Licensed(name="bad", version="2", licence="GPL-3.0-only", stated="GPL-3.0-only"),
        Licensed(name="good", version="1", licence="MIT", stated="MIT"),
    )
    judged = AllowedLicences(allowed=frozenset({"MIT"}))(report)
    assert judged.ruling is Ruling.FAILED
    assert judged.facts == ("bad 2: GPL-3.0-only (says 'GPL-3.0-only')",)


def test_the_licences_of_a_real_environment_are_known(run_stage: RunStage) -> None:
    report = run_stage(Licences(environment=Tool(name="pytest")))
    assert {package.name: package.licence for package in report.packages} == {
        "coverage": "Apache-2.0",
        "iniconfig": "MIT",
        "packaging": "Apache-2.0 OR BSD-2-Clause",
        "pluggy": "MIT",
        "Pygments": "BSD-2-Clause",
        "pytest": "MIT",
    }
    assert AllowedLicences(allowed=frozenset({"MIT", "Apache-2.0", "BSD-2-Clause"}))(report).passed


def test_an_environment_without_packages_is_no_pass(run_stage: RunStage) -> None:
    report = run_stage(Licences(environment=Site(packages=())))
    assert AllowedLicences(allowed=frozenset({"MIT"}))(report).ruling is Ruling.ERROR


@pytest.mark.parametrize(
    ("stated", "field", "classifiers", "licence"),
    [
        ("MIT", "GPL-3.0-only", (), "MIT"),
        ("mit AND apache-2.0", "", (), "MIT AND Apache-2.0"),
        ("no such licence", "MIT", (), ""),
        ("", "apache-2.0", ("MIT License",), "Apache-2.0"),
        ("", "Apache License,  Version 2.0", (), "Apache-2.0"),
        ("", "BSD", ("BSD License",), ""),
        ("", "see LICENSE", ("MIT License",), "MIT"),
        ("", "", ("OSI Approved", "MIT License"), "MIT"),
        ("", "", ("MIT License", "GNU General Public License v3 (GPLv3)"), "MIT AND GPL-3.0-only"),
        ("", "", ("MIT License", "Other/Proprietary License"), ""),
        ("", "", ("OSI Approved",), ""),
        ("", "", (), ""),
    ],
)
def test_what_is_not_surely_one_licence_is_unknown(stated: str, field: str, classifiers: tuple[str, ...], licence: str) -> None:
    assert expression(stated, field, classifiers) == licence


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"License: UNKNOWN\n", b"Name: x\nLicense-Expression: MIT OR\n"])
def test_metadata_that_say_nothing_are_an_unknown_licence(text: bytes) -> None:
    assert of_metadata(text).licence == ""
