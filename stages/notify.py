"""Notices to people, by Apprise: one address format for mail, chat and a hundred others."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from pipeline import Effect, Result, Stage, StageFailed, Work
from pipeline.digest import of_json
from pipeline.frozen import Frozen


class Notified(Result):
    """Who was told what. Addresses are shown without what is secret in them."""

    title: str
    body: str
    told: tuple[str, ...]

    def summary(self) -> str:
        return f"told {', '.join(self.told)}: {self.title}" if self.told else "nobody to tell"


class Notify(Stage[Notified]):
    """Tells people about `subject` once it has passed; a failed run tells nobody here (see `docs/ci.md` for that).

    `secret` names the environment variable that holds Apprise addresses, separated by spaces: they contain
    passwords and tokens, so they are never part of the configuration. An empty list of addresses is allowed
    only when `optional`. Where some could not be told, the next attempt tells only those.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    subject: Stage[Any]
    title: str
    secret: str = "NOTIFY_URLS"  # noqa: S105 - the name of a secret, not one
    optional: bool = False

    async def run(self, work: Work) -> Notified:
        subject = work[self.subject]
        body = (subject.summary() if isinstance(subject, Result) else str(subject)).strip() or self.title
        addresses = os.environ.get(self.secret, "").split()
        if not addresses and not self.optional:
            raise StageFailed(f"nobody to tell: {self.secret} is not set", right="Apprise addresses, as in json://localhost:8000")
        told = await send(addresses, Notice(title=self.title, body=body), told_before(work), partial(work.record, TOLD))
        return Notified(title=self.title, body=body, told=told)


TOLD = "notify.told"


class Notice(Frozen):
    """What is to be told."""

    title: str
    body: str

    def to(self, address: str) -> str:
        """Names that this was told to an address, without saying either."""
        return of_json([address, self.title, self.body])


def told_before(work: Work) -> frozenset[str]:
    """What earlier attempts told, as `Notice.to` names it, since the stage last told all of them: nobody is told it twice."""
    done = max((event.seq for event in work.events("stage.finished")), default=0)
    return frozenset(event.data["notice"] for event in work.events(TOLD) if event.seq > done)


async def send(addresses: list[str], notice: Notice, before: frozenset[str], told: Callable[..., None]) -> tuple[str, ...]:
    """Send to every address that was not told `before`, and say so to `told`; all of them, without what is secret in them.

    Raises StageFailed with those that could not be told.
    """
    if not addresses:
        return ()
    try:
        import apprise
    except ImportError as error:
        raise StageFailed("Apprise is not installed", next="pip install apprise") from error
    failed: list[str] = []
    done: list[str] = []
    for address in addresses:
        service = apprise.Apprise.instantiate(address)
        if service is None:
            failed.append(f"{address.partition(':')[0]}://...")
            continue
        shown = str(service.url(privacy=True)).partition("?")[0]  # type: ignore[no-untyped-call]  # Apprise is not typed here
        name = notice.to(address)
        if name not in before:
            if not await service.async_notify(body=notice.body, title=notice.title):
                failed.append(shown)
                continue
            told(notice=name, address=shown)
        done.append(shown)
    if failed:
        raise StageFailed(f"could not tell {', '.join(failed)}", right="addresses that Apprise understands and that answer")
    return tuple(done)
