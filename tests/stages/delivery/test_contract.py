"""What only older releases needed is taken away when none of them can serve again, and not before."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gates import Check, Verification, all_probes_passed
from pipeline import Journal, Pipeline, Project, Stage, Store, Work
from pipeline.engines.local import free_port
from pipeline.run import Outcome
from stages.delivery.clean_up import Cleaned, CleanUp
from stages.delivery.contract import Contract
from stages.delivery.local import LocalTarget
from stages.delivery.model import Deployment
from stages.smoke import Request, SmokeChecks
from tests.running import run_pipeline
from tests.stages.delivery.small import delivery, deployment

TAKE_AWAY = ("python", "-c", "print('taken away')")


class SaysSo(Stage[Cleaned]):
    """Says that all was ended, and ends nothing."""

    deployment: Stage[Deployment]

    async def run(self, work: Work) -> Cleaned:
        return Cleaned(groups=(), served=work[self.deployment].group)


class Older:
    """A release that serves, with the one before it kept warm or at rest."""

    def __init__(self, project: Project, store: Store, journal: Journal, target: LocalTarget) -> None:
        self.project, self.store, self.journal, self.target, self.port = project, store, journal, target, free_port()

    def deploy(self, version: str, strategy: str) -> None:
        outcome, _ = self._run(delivery(deployment(self.port, version, strategy=strategy), version))
        assert outcome.failed == {}

    def contract(self, version: str, strategy: str, *, cleaned: bool) -> tuple[Outcome, dict[str, Any]]:
        """Deploy a release whose contract comes after a clean-up, or after somebody who only says so."""
        deploy = deployment(self.port, version, strategy=strategy)
        smoke = SmokeChecks(deployment=deploy, requests=(Request(path="/"),))
        verified: Verification[Deployment] = Verification(
            deployment=deploy, checks=(Check(evidence=smoke, rule=all_probes_passed),)
        )
        ended: Stage[Cleaned] = (
            CleanUp(verified=verified, target=deploy.target, router=deploy.router, warm=0)
            if cleaned
            else SaysSo(deployment=deploy, after=(verified,))
        )
        contract = Contract(release=deploy.release, target=deploy.target, command=TAKE_AWAY, cleaned=ended)
        gate: Any = deploy.release
        return self._run(
            Pipeline(
                "older",
                checks=gate.checks,
                deploy=deploy,
                verification=verified.checks,
                verified=verified,
                ended=ended,
                contract=contract,
            )
        )

    def _run(self, pipeline: Pipeline) -> tuple[Outcome, dict[str, Any]]:
        return run_pipeline(pipeline, self.project, self.store, self.journal)


@pytest.fixture
def older(project: Project, store: Store, journal: Journal, target: LocalTarget) -> Older:
    return Older(project, store, journal, target)


@pytest.mark.parametrize("strategy", ["blue-green", "recreate"])
def test_once_what_is_older_is_ended_the_contract_runs_and_nothing_is_left_to_go_back_to(older: Older, strategy: str) -> None:
    older.deploy("one", strategy)
    outcome, found = older.contract("two", strategy, cleaned=True)
    assert outcome.failed == {}
    assert found["contract"].output == "taken away\n"
    assert set(anyio.run(older.target.groups)) | anyio.run(older.target.resting) == {found["deploy"].group}


@pytest.mark.parametrize("strategy", ["blue-green", "recreate"])
def test_nothing_is_taken_away_while_an_older_release_runs_or_could_be_started_again(older: Older, strategy: str) -> None:
    older.deploy("one", strategy)
    (before,) = anyio.run(older.target.groups)
    outcome, found = older.contract("two", strategy, cleaned=False)
    assert sorted(outcome.failed) == ["contract"]
    assert f"{before} may still need what the migration takes away" in outcome.failed["contract"]
    assert "contract" not in found
