"""What an instance may use, as data."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import WiringError

MOST = 1 << 30
"""More than any machine has of anything that is limited (a petabyte of memory), so that it could be no limit."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one instance may use: MiB of memory, cores, processes, open files; None: what the machine has."""

    memory: int | None = None
    cpu: float | None = None
    pids: int | None = None
    open_files: int | None = None

    def __post_init__(self) -> None:
        if any(value is not None and not 0 < value <= MOST for value in vars(self).values()):
            raise WiringError(f"{self}", right=f"more than 0 of everything that is limited, and no more than {MOST:,}")
        if not all(isinstance(value, int | None) for value in (self.memory, self.pids, self.open_files)):
            raise WiringError(f"{self}", right="whole numbers of MiB, processes and open files")

    @property
    def given(self) -> dict[str, int | float]:
        """Those that limit anything."""
        return {name: value for name, value in vars(self).items() if value is not None}


UNLIMITED = Limits()


def bounded(argv: tuple[str, ...], limits: Limits) -> tuple[str, ...]:
    """The program held to those limits that the system keeps for each process (setrlimit(2)): address space and open files.

    Its children have the same limits, each for itself.
    """
    kept = {"-v": limits.memory * 1024 if limits.memory else None, "-n": limits.open_files}
    said = " && ".join(f"ulimit {option} {value}" for option, value in kept.items() if value is not None)
    return ("/bin/sh", "-c", f'{said} && exec "$@"', "sh", *argv) if said else argv


def unbounded(limits: Limits) -> dict[str, str]:
    """Which limits `bounded` does not hold a program to, or not as they are meant, and why."""
    why = {
        "memory": "each process of an instance has so much address space, which is more than it uses; together they may use more",
        "cpu": "plain processes share all cores",
        "pids": "the system counts processes of a user, not of an instance",
    }
    return {name: why[name] for name in limits.given if name in why}
