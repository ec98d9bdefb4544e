"""A release as units of systemd, as text. Formats: systemd.unit(5), systemd.service(5), systemd.exec(5), of version 252."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline import StageFailed
from stages.delivery.limits import Limits
from stages.delivery.model import Release
from stages.rootfs import PATH

FILES = "/run/lockgate"
"""Where instances find the files of their release."""

RIGHTS = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETUID"
"""What an instance whose user is root may do of what root may."""

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""The names of variables that systemd takes from a file."""

ROOT = ("", "root", "0")
"""How an image says that its user is root. Another one is no user of the machine, and owns no file: systemd makes one up."""

CONTROLLERS = {"memory": "memory", "cpu": "cpu", "pids": "pids"}
"""The controller of control groups (cgroups(7)) that holds an instance to each limit; open files need none."""


def service(release: Release, place: str, patience: float) -> str:
    """The template of a group's instances, whose files lie below `place`; what stands behind the @ is one of them.

    Each has the image's own file system, and is started again as the release says.
    """
    lines = [
        "[Unit]",
        f"Description=Lockgate {release.group} %i",
        "Wants=network-online.target",  # instances listen on one address, which has to be there
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        *inside(release, place),
        f"EnvironmentFile={place}/%i.env",
        f"ExecStart={command(found(release, release.image.entrypoint))}",
        f"Restart={release.restart}",
        "RestartSec=100ms",
        f"TimeoutStopSec={seconds(patience)}",
        f"StandardOutput=append:{place}/%i.log",
        f"StandardError=append:{place}/%i.log",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join([*lines, ""])


def need_plain(release: Release) -> None:
    """Raises StageFailed where a release has what no unit can say."""
    if any(ord(character) < 32 for character in release.image.workdir):
        raise StageFailed(f"the working directory of the image is {release.image.workdir!r}", right="a path in one line")
    told = [name for one in release.files for name in (one.variable, *one.env)]
    names = [*release.image.env, *release.env, *release.secrets, *told]
    if wrong := [name for name in names if not VARIABLE.fullmatch(name)]:
        raise StageFailed(
            f"systemd gives an instance no variable with the name {wrong[0]!r}",
            right="letters, digits and `_`, the first of them no digit",
        )


def found(release: Release, argv: Sequence[str]) -> tuple[str, ...]:
    """A command whose program is an absolute path of the image, or a name that is looked for there."""
    program, *rest = argv
    if "/" in program:
        program = posixpath.normpath(posixpath.join("/", release.image.workdir, program))
    return (program, *rest)


def once(settings: Iterable[str], argv: Sequence[str], output: str, within: float | None = None) -> str:
    """A unit that runs a command to its end, `within` so many seconds; what it says is in the file `output`."""
    settings = [*settings, f"TimeoutStartSec={seconds(within) if within else 'infinity'}"]
    said = (f"StandardOutput=truncate:{output}", "StandardError=inherit")
    return "\n".join(["[Service]", "Type=oneshot", *settings, f"ExecStart={command(argv)}", *said, ""])


def inside(release: Release, place: str) -> list[str]:
    """Settings by which a process has the image's file system, environment, user and limits."""
    workdir = release.image.workdir or "/"
    return [
        f"RootDirectory={place}/rootfs",
        "MountAPIVFS=yes",
        f"BindReadOnlyPaths={place}/files:{FILES}",
        "BindReadOnlyPaths=-/etc/resolv.conf -/etc/hosts",
        f"WorkingDirectory={escaped(posixpath.normpath(workdir))}",
        *([] if release.image.user.partition(":")[0] in ROOT else ["DynamicUser=yes"]),
        f"ExecSearchPath={escaped(_searched(release.image.env.get('PATH', PATH)))}",
        f"EnvironmentFile={place}/env",
        f"CapabilityBoundingSet={RIGHTS}",
        "NoNewPrivileges=yes",
        "PrivateDevices=yes",
        *bounds(release.limits),
    ]


def bounds(limits: Limits) -> list[str]:
    """Limits of all processes of an instance together, memory without swap; open files are each process's."""
    found = []
    if limits.memory is not None:
        found += [f"MemoryMax={limits.memory}M", "MemorySwapMax=0"]
    if limits.cpu is not None:
        found.append(f"CPUQuota={max(1, round(100 * limits.cpu))}%")
    if limits.pids is not None:
        found.append(f"TasksMax={limits.pids}")
    if limits.open_files is not None:
        found.append(f"LimitNOFILE={limits.open_files}")
    return found


def command(argv: Sequence[str]) -> str:
    """A command line of ExecStart in which nothing is expanded."""
    return " ".join(f'"{escaped(_quoted(word)).replace("$", "$$")}"' for word in argv)


def environment(variables: Mapping[str, str]) -> str:
    """A file of variables (EnvironmentFile) in which nothing is expanded."""
    marked = str.maketrans({character: f"\\{character}" for character in '\\"`$'})
    return "".join(f'{name}="{value.translate(marked)}"\n' for name, value in sorted(variables.items()))


def escaped(text: str) -> str:
    """Text of a setting in which no specifier is expanded."""
    return text.replace("%", "%%")


def seconds(time: float) -> str:
    """A span of time, at least a millisecond: 0 is for ever there."""
    return f"{max(1, round(time * 1000))}ms"


def _searched(path: str) -> str:
    """The parts of a PATH that can be looked into."""
    return ":".join(part for part in path.split(":") if re.fullmatch(r"/[\x21-\x7e]*", part)) or PATH


def _quoted(word: str) -> str:
    """Within quotation marks; what would end the line is written as a number."""
    marked = word.replace("\\", "\\\\").replace('"', '\\"')
    return re.sub(r"[\x01-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", marked)
