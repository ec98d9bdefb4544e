"""Another machine, by the OpenSSH client: with the configuration, the keys and the known hosts of whoever runs the pipeline.

One connection is kept for all commands of a run, and a little longer (`ControlMaster`, ssh_config(5)).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import anyio

from pipeline import StageFailed
from pipeline.digest import of_text
from stages.delivery.private import private, sockets

KEPT = 30
"""Seconds for which a connection is kept after the last command."""

HEARD = ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""A machine of which nothing is heard for 15 seconds is not reached any more."""

UNREACHED = 255
"""The exit code of ssh itself, where a command's own is passed on (ssh(1))."""


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code, what it said, and what it said of errors."""

    code: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")

    @property
    def said(self) -> str:
        """Its last words, of errors where there are any."""
        lines = (self.errors.strip() or self.output.strip()).decode(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True)
class Ssh:
    """A machine by the name that `ssh` knows: `user@address`, or a `Host` of ~/.ssh/config. `state` tells targets apart."""

    host: str
    state: Path
    config: str = ""
    """The file of settings in the place of ~/.ssh/config, where there is another one."""

    async def run(self, script: str, given: bytes | Path = b"") -> Done:
        """Run a script of the remote shell; `given` is what it reads. Raises StageFailed where the machine is not reached."""
        private(sockets(self.state), "ssh")
        argv = [self._program(), *self._options(), "--", self.host, f"sh -euc {shlex.quote(script)}"]
        if isinstance(given, Path):
            with given.open("rb") as file:
                done = await anyio.run_process(argv, stdin=file, check=False, stderr=subprocess.PIPE)
        elif given:
            done = await anyio.run_process(argv, input=given, check=False, stderr=subprocess.PIPE)
        else:  # what is there to be read is somebody else's
            done = await anyio.run_process(argv, stdin=subprocess.DEVNULL, check=False, stderr=subprocess.PIPE)
        found = Done(done.returncode, done.stdout, done.stderr)
        if found.code == UNREACHED:
            raise StageFailed(
                f"{self.host} is not reached: {found.said}",
                where=self.host,
                right="a machine that ssh reaches without a password, whose key is known",
                next=f"ssh {shlex.quote(self.host)} true",
            )
        return found

    async def must(self, script: str, given: bytes | Path = b"") -> str:
        """What a script says that has to succeed. Raises StageFailed."""
        done = await self.run(script, given)
        if done.code != 0:
            raise StageFailed(f"{self.host}: {done.said}", where=self.host, right="a user who may do this there, as root may")
        return done.text

    async def close(self) -> None:
        """End the connection that is kept, where there is one."""
        argv = [self._program(), *self._options(), "-O", "exit", "--", self.host]
        await anyio.run_process(argv, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(sockets(self.state), ignore_errors=True)

    def _options(self) -> list[str]:
        socket = sockets(self.state) / of_text(f"{self.host} {self.config}")[:12]
        kept = ("ControlMaster=auto", f"ControlPath={socket}", f"ControlPersist={KEPT}")
        settings = ["-F", self.config] if self.config else []
        return settings + [word for option in ("BatchMode=yes", *HEARD, *kept) for word in ("-o", option)]

    def _program(self) -> str:
        found = shutil.which("ssh", path=os.environ.get("PATH", os.defpath))
        if found is None:
            raise StageFailed("ssh is not here", right="the OpenSSH client", next="apt-get install openssh-client")
        return found
