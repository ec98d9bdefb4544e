"""Acceptance tests: the shipped image as it runs, asked from outside."""

from __future__ import annotations

from pipeline import Service, Stage, Work
from stages.pytest import UnitTests


class AcceptanceTests(UnitTests):
    """pytest, as in UnitTests, against `service`: the image that is to be released, started.

    The tests find it at the URL in the environment variable `variable`. `services` (a database) are up before it
    and it finds them at NAME_HOST and NAME_PORT; in the values of its environment `{NAME_HOST}` and
    `{NAME_PORT}` stand for the same. A service that does not become ready fails the stage with its last words.
    """

    service: Stage[Service]
    tests: tuple[str, ...] = ("tests/acceptance",)
    variable: str = "APP_URL"

    def beside(self, work: Work) -> tuple[tuple[Service, ...], dict[str, str]]:
        before, env = super().beside(work)
        service = work[self.service]
        return (*before, service), {self.variable: url(service), **env}


def url(service: Service) -> str:
    """The address of a service as it is written in the environment or command line of an action."""
    name = service.name.upper()
    return f"http://{{{name}_HOST}}:{{{name}_PORT}}"
