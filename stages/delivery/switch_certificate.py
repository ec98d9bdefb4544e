"""Switching the certificate that users are shown, by itself: a deploy does it too."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from pipeline import Effect, Stage, WiringError, Work
from stages.delivery.certificate import Certified, Shown, show
from stages.delivery.deploy import OpensRouter
from stages.delivery.entrance import Entrance
from stages.delivery.lock import alone
from stages.delivery.probe import Ready


class SwitchCertificate(Stage[Shown]):
    """Has `router` show the certificate that its `tls` names, as it is now; no connection ends.

    The one before it is kept, and shown again when a stage below this one fails. Fails where the certificate is no good; then
    nothing was switched.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    router: OpensRouter
    ready: Ready = "/readyz"

    def __post_init__(self) -> None:
        if isinstance(self.router, Entrance) and self.router.tls is None:
            raise WiringError("SwitchCertificate: the router has no certificate", right="a router with tls=Tls(...)")

    async def run(self, work: Work) -> Shown:
        async with alone(work.state("deploy"), work.say):
            shown = await show(self.router.open(work, self.ready), work)
        if shown is None:
            raise WiringError("SwitchCertificate: the router shows no certificate", right="a router that ends TLS")
        return shown

    async def undo(self, work: Work, result: Any) -> str | None:
        """The one before, unless another one is shown by now."""
        router = self.router.open(work, self.ready)
        if not isinstance(router, Certified):
            return "the router shows no certificate any more"
        async with alone(work.state("deploy"), work.say):
            return await router.certify_back(result)

    async def recover(self, work: Work) -> Shown | None:
        """The certificate, where it is kept to be shown by now; the router is told once more, which does no harm."""
        begun = [event.data for event in work.attempted("router.certified")]
        router = self.router.open(work, self.ready)
        if not begun or not isinstance(router, Certified) or router.certified != begun[-1]["fingerprint"]:
            return None
        async with alone(work.state("deploy"), work.say):
            await router.certify()
        data = begun[-1]
        return Shown(fingerprint=data["fingerprint"], before=data["before"], until=datetime.fromisoformat(data["until"]))
