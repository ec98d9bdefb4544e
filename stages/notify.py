"""Notices to people, by Apprise: one address format for mail, chat and a hundred others."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pipeline import Effect, Result, Stage, StageFailed, Work


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
    only when `optional`.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    subject: Stage[Any]
    title: str
    secret: str = "NOTIFY_URLS"  # noqa: S105 - the name of a secret, not one
    optional: bool = False

    async def run(self, work: Work) -> Notified:
        subject = work[self.subject]
        body = subject.summary() if isinstance(subject, Result) else str(subject)
        addresses = os.environ.get(self.secret, "").split()
        if not addresses and not self.optional:
            raise StageFailed(f"nobody to tell: {self.secret} is not set", right="Apprise addresses, as in json://localhost:8000")
        told = await send(addresses, self.title, body)
        return Notified(title=self.title, body=body, told=told)


async def send(addresses: list[str], title: str, body: str) -> tuple[str, ...]:
    """Send to every address. Raises StageFailed with those that could not be told."""
    if not addresses:
        return ()
    try:
        import apprise
    except ImportError as error:
        raise StageFailed("Apprise is not installed", next="pip install 'lockgate[notify]'") from error
    failed: list[str] = []
    told: list[str] = []
    for address in addresses:
        notice = apprise.Apprise.instantiate(address)
        if notice is None:
            failed.append(f"{address.partition(':')[0]}://...")
            continue
        shown = str(notice.url(privacy=True)).partition("?")[0]  # type: ignore[no-untyped-call]  # Apprise is not typed here
        done = await notice.async_notify(body=body, title=title)
        (told if done else failed).append(shown)
    if failed:
        raise StageFailed(f"could not tell {', '.join(failed)}", right="addresses that Apprise understands and that answer")
    return tuple(told)
