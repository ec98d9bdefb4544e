"""Dynamic updates of a zone (RFC 2136) signed by a shared key (TSIG, RFC 8945), as BIND, Knot, PowerDNS and others take them.

An update has prerequisites (RFC 2136 section 2.4): the server makes it only where the name still has the records that were read
before, so that nothing is overwritten that somebody else has put there meanwhile, and sending it twice does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from pipeline import BrokenOff, StageFailed, WiringError, Work
from stages.delivery.dns import alias_in_the_way, changed, check_zone, need_dnspython
from stages.delivery.nameserver import Nameserver, addresses, host_names, told
from stages.delivery.records import Records, Type, within, written

if TYPE_CHECKING:
    import dns.message
    import dns.tsig
    import dns.update

ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
"""Of RFC 8945 section 6, without those that it advises against."""

UNLESS = ("NXDOMAIN", "YXDOMAIN", "NXRRSET", "YXRRSET")
"""What a server answers when a prerequisite does not hold (RFC 2136 section 3.2); nothing was changed then."""

PATIENCE = 30.0
"""Seconds in which it has to be found out what came of an update that was not answered."""

AGAIN = 0.2
"""Seconds before a server that did not answer is asked again."""


@dataclass(frozen=True, kw_only=True)
class Rfc2136:
    """The zone `zone` on its primary `server`, a host or an address, that takes updates signed by the key named `key`.

    `secret` is the environment variable with the key's secret in base64, as `tsig-keygen` writes it. The servers of the zone are
    asked on `port` too. `timeout` is how many seconds the primary may take for one answer.
    """

    server: str
    zone: str
    key: str
    secret: str
    port: int = 53
    algorithm: str = "hmac-sha256"
    timeout: float = 5.0

    def __post_init__(self) -> None:
        check_zone("Rfc2136", self.zone, self.port)
        if self.algorithm not in ALGORITHMS:
            raise WiringError(f"Rfc2136: algorithm is {self.algorithm!r}", right=f"one of: {', '.join(ALGORITHMS)}")
        if not (self.server and self.key and self.secret.isidentifier()):
            raise WiringError(
                f"Rfc2136: server is {self.server!r}, key is {self.key!r}, secret is {self.secret!r}",
                right="a host, the name of a key, and the name of the environment variable that has its secret",
            )
        if not self.timeout > 0:
            raise WiringError(f"Rfc2136: timeout is {self.timeout:g}", right="seconds above 0")

    def open(self, work: Work) -> UpdatedZone:
        return UpdatedZone(self, work.project.secret(self.secret))


class Unanswered(Exception):
    """Nothing came back; `sent` says whether the server may have got what was sent."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass(frozen=True)
class UpdatedZone:
    """A zone that is asked and changed at its primary."""

    config: Rfc2136
    secret: str = field(repr=False)

    async def look(self, name: str, type: Type) -> Records:  # noqa: A002 - the word of the DNS
        try:
            return await self._look(name, type)
        except Unanswered as error:
            raise self._unreachable(error) from error

    async def change(self, old: Records, new: Records) -> None:
        """An answer that was lost is made up for by a look: what is not done yet is sent again, as its prerequisites allow."""
        import dns.rcode

        until = anyio.current_time() + PATIENCE
        lost: Unanswered | None = None
        while True:
            try:
                answer = await self._exchange(update(self.config.zone, old, new))
            except Unanswered as error:
                if not error.sent and lost is None:
                    raise self._unreachable(error) from error
                lost, done = error, ""
            else:
                done = dns.rcode.to_text(answer.rcode())
            if done == "NOERROR":
                return
            if done and done not in UNLESS and lost is None:
                raise self._refused(done)
            found = await self._found_out(new, until)
            if found.same(new):
                return
            if found.values != old.values:
                raise changed(found, old)
            if done:
                raise self._another(new) if done in UNLESS else self._refused(done)
            if anyio.current_time() > until:
                raise BrokenOff(f"{self._where} does not answer updates: {lost}", next=self._dig)

    async def nameservers(self) -> tuple[Nameserver, ...]:
        try:
            names = await self._names()
            found = [Nameserver(name, await self._addresses(name), self.config.port) for name in names]
        except Unanswered as error:
            raise BrokenOff(f"nobody knows the servers of {self.config.zone}: {error}", next=self._dig) from error
        return tuple(found)

    async def _names(self) -> list[str]:
        """What the zone names as its servers."""
        import dns.rdatatype

        answer = await self._ask(self.config.zone, "NS")
        return host_names(one for rrset in answer.answer if rrset.rdtype == dns.rdatatype.NS for one in rrset)

    async def _addresses(self, host: str) -> tuple[str, ...]:
        """As the zone itself says, where the host is in it."""
        if not within(host, self.config.zone):
            return await addresses(host)
        found = [await self._look(host, "A"), await self._look(host, "AAAA")]
        return tuple(value for one in found for value in one.values)

    async def _found_out(self, new: Records, until: float) -> Records:
        """What the name has by now. Raises BrokenOff where nobody can say in time."""
        while True:
            await anyio.sleep(AGAIN)
            try:
                return await self._look(new.name, new.type)
            except Unanswered as error:
                if anyio.current_time() > until:
                    raise BrokenOff(
                        f"nobody knows whether {new.name} is {new.said}: the update was sent, and {error}",
                        where=self._where,
                        next=f"{self._dig.rsplit(maxsplit=2)[0]} {new.name} {new.type}; the next run finds out by itself",
                    ) from error

    async def _look(self, name: str, type: Type) -> Records:  # noqa: A002 - the word of the DNS
        answer = await self._ask(name, type)
        found = told(answer, Records(name=name, type=type, ttl=0, values=()))
        if found.values:
            return found
        if alias := _alias(answer):
            raise alias_in_the_way(name, alias, type)
        return found.model_copy(update={"ttl": _negative(answer)})

    async def _ask(self, name: str, kind: str) -> dns.message.Message:
        """The primary's answer about its own zone; signed too: others may see something else. Raises Unanswered, StageFailed."""
        import dns.flags
        import dns.message
        import dns.rcode

        question = dns.message.make_query(name, kind)
        question.flags &= ~dns.flags.RD
        answer = await self._exchange(question)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise self._refused(dns.rcode.to_text(answer.rcode()))
        if not answer.flags & dns.flags.AA:
            raise self._refused("no authoritative answer")
        return answer

    async def _exchange(self, message: dns.message.Message) -> dns.message.Message:
        """The answer to a signed message, over TCP: what is sent once arrives once.

        Raises Unanswered, and StageFailed where one side does not take the other's signature.
        """
        import dns.exception
        import dns.message

        key = self._key()
        message.use_tsig(key)
        wire = message.to_wire()
        sent = False
        try:
            with anyio.fail_after(self.config.timeout):
                async with await anyio.connect_tcp(self.config.server, self.config.port) as stream:
                    sent = True
                    await stream.send(len(wire).to_bytes(2, "big") + wire)
                    received = BufferedByteReceiveStream(stream)
                    length = int.from_bytes(await received.receive_exactly(2), "big")
                    content = await received.receive_exactly(length)
        except TimeoutError as error:
            raise Unanswered(f"{self._where} did not answer within {self.config.timeout:g} s", sent=sent) from error
        except (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
            why = "closed the connection without an answer" if sent else f"does not answer: {error}"
            raise Unanswered(f"{self._where} {why}", sent=sent) from error
        try:
            answer = dns.message.from_wire(content, keyring=key, request_mac=message.mac)
        except dns.exception.DNSException as error:
            raise self._bad_key(error) from error
        if not answer.had_tsig:
            raise self._unsigned(answer)
        return answer

    def _key(self) -> dns.tsig.Key:
        import binascii

        need_dnspython()
        import dns.tsig

        try:
            return dns.tsig.Key(self.config.key, self.secret.strip(), self.config.algorithm)
        except binascii.Error as error:
            raise StageFailed(
                f"{self.config.secret} is no secret of a TSIG key: {error}", right="base64, as `tsig-keygen` writes it"
            ) from error

    def _bad_key(self, error: Exception) -> StageFailed:
        """What is wrong with a key, by the server's word or the answer's signature."""
        import dns.tsig

        config = self.config
        said = {
            dns.tsig.PeerBadKey: f"it knows no key {config.key} for {config.algorithm}",
            dns.tsig.PeerBadSignature: f"the secret in {config.secret} is not that of its key {config.key}",
            dns.tsig.PeerBadTime: "its clock and that of this machine differ too much",
        }
        why = next(
            (text for kind, text in said.items() if isinstance(error, kind)), f"its answer is not signed by {config.key}: {error}"
        )
        return StageFailed(
            f"{self._where} does not take what is signed by {config.key}: {why}",
            right=f"key {config.key} with algorithm {config.algorithm} on both sides, and clocks that agree to 5 minutes",
            next="named-checkconf -px on the server, which shows its keys",
        )

    def _unsigned(self, answer: dns.message.Message) -> StageFailed:
        """Who does not sign may be anybody: nothing he says is believed."""
        import dns.rcode

        return StageFailed(
            f"{self._where} answers {dns.rcode.to_text(answer.rcode())} without a signature",
            right=f"a server that signs with key {self.config.key}",
            next=self._dig,
        )

    def _refused(self, rcode: str) -> StageFailed:
        """By the meaning of codes in RFC 2136 section 2.2; surely nothing was changed."""
        config = self.config
        why = {
            "NOTAUTH": f"it is no primary of {config.zone}",
            "no authoritative answer": f"it is no server of {config.zone}",
            "REFUSED": f"it does not let key {config.key} do this in {config.zone}",
            "NOTZONE": f"the name is not in {config.zone}",
            "NOTIMP": "it takes no updates",
            "SERVFAIL": f"it could not do it with {config.zone} (is its file writable?)",
        }.get(rcode, "that is no answer to an update")
        return StageFailed(
            f"{self._where} answers {rcode}: {why}",
            right=f"the primary of {config.zone}, with allow-update or update-policy for key {config.key}",
            next=self._dig,
        )

    def _another(self, new: Records) -> StageFailed:
        """The records are as they were read, and the server says that they are not."""
        return StageFailed(
            f"{new.name} answers as before, and {self._where} says that it has no such records: is it an answer of a wildcard, "
            "or does the name have records of other types?",
            right="a name that has records of its own of this type, or none of any",
            next=f"{self._dig.rsplit(maxsplit=2)[0]} {new.name} ANY",
        )

    def _unreachable(self, error: Unanswered) -> StageFailed:
        return StageFailed(
            f"{error}, and nothing was changed", right=f"the primary of {self.config.zone}, reachable over TCP", next=self._dig
        )

    @property
    def _where(self) -> str:
        return f"{self.config.server} port {self.config.port}"

    @property
    def _dig(self) -> str:
        return f"dig +tcp @{self.config.server} -p {self.config.port} {self.config.zone} SOA"


def update(zone: str, old: Records, new: Records) -> dns.update.UpdateMessage:
    """`new` in the place of `old`, where `old` is still there. Pure.

    Where there was none, a name that gets a CNAME has to be without any records, and one that gets others without a CNAME:
    nothing may stand beside one, and a server drops what would without a word (RFC 2136 section 3.4.2.2).
    """
    import dns.update

    message = dns.update.UpdateMessage(zone)
    name = f"{new.name}."
    if old.values:
        for value in old.values:
            message.present(name, old.type, written(old.type, value))
    elif new.type == "CNAME":
        message.absent(name)
    else:
        message.absent(name, new.type)
        message.absent(name, "CNAME")
    message.delete(name, new.type)
    for value in new.values:
        message.add(name, new.ttl, new.type, written(new.type, value))
    return message


def _alias(answer: dns.message.Message) -> str:
    """What the name is an alias of; empty where it is none."""
    import dns.rdatatype

    found = [one for rrset in answer.answer if rrset.rdtype == dns.rdatatype.CNAME for one in rrset]
    return found[0].to_text().removesuffix(".") if found else ""


def _negative(answer: dns.message.Message) -> int:
    """For how many seconds resolvers remember that there is nothing (RFC 2308 section 5)."""
    import dns.rdatatype

    found = [(rrset.ttl, one.minimum) for rrset in answer.authority if rrset.rdtype == dns.rdatatype.SOA for one in rrset]
    return min(found[0]) if found else 0
