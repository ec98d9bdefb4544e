"""A machine of the tests' own, with a real systemd that is reached by a real SSH: namespaces above a copy of this one's disk.

What it changes of its files is in memory, and gone with it. It shares this machine's network, and listens on loopback alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.engines.local import free_port

PROGRAMS = {"/lib/systemd/systemd": "systemd", "/usr/sbin/sshd": "openssh-server", "/usr/bin/ssh": "openssh-client"}

LEFT_OUT = (
    "systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket"
    " systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service systemd-random-seed.service"
    " systemd-hwdb-update.service systemd-remount-fs.service systemd-firstboot.service systemd-machine-id-commit.service"
    " systemd-logind.service systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-pstore.service"
    " dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount"
    " sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount"
)
"""What would look after hardware, or settings of the kernel, which is this machine's."""

# What this machine's root has its shell do at each start would be done at each command there too, and what generates units, at
# each reload: together most of what these tests cost.

BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
cd "$PLACE/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for one in null zero full random urandom tty; do
    touch "dev/$one"
    mount --bind "/dev/$one" "dev/$one"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
rm -rf etc/systemd/system
mkdir -p etc/systemd/system run/sshd var/lib
for one in $LEFT_OUT; do ln -s /dev/null "etc/systemd/system/$one"; done
mkdir etc/systemd/system-generators
for one in lib/systemd/system-generators/*; do ln -s /dev/null "etc/systemd/system-generators/${one##*/}"; done
cp -r "$GIVEN/system/." etc/systemd/system/
mount -t tmpfs -o mode=700 tmpfs root
mkdir root/.ssh
cp "$GIVEN/key.pub" root/.ssh/authorized_keys
chmod 700 root/.ssh
mkdir old
pivot_root . old
umount -l old
exec env -i container=lockgate PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=machine.target
"""


@dataclass(frozen=True)
class Machine:
    """How it is reached: its name for ssh, and ssh's settings."""

    host: str
    config: Path

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        argv = ["ssh", "-F", str(self.config), self.host, command]
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """One that was started and answers; skips where this machine lets none run."""
    missing = [package for program, package in PROGRAMS.items() if not Path(program).exists()]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"a machine with systemd takes root, and Debian's {', '.join(missing or PROGRAMS.values())}")
    place = Path(tempfile.mkdtemp(prefix="lockgate-machine-"))
    try:
        with _started(place, free_port()) as found:
            yield found
    finally:
        shutil.rmtree(place)


@contextlib.contextmanager
def _started(place: Path, port: int) -> Iterator[Machine]:
    found = _written(place, port)
    env = {**os.environ, "PLACE": str(place / "disk"), "GIVEN": str(place), "LEFT_OUT": LEFT_OUT}
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([*apart, "sh", "-c", BOOT], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while found("true").returncode != 0:
            if process.poll() is not None or time.monotonic() > until:
                pytest.skip(f"systemd does not start here: {(place / 'log').read_text(errors='replace').splitlines()[-3:]}")
            time.sleep(0.1)
        yield found
    finally:
        process.send_signal(signal.SIGKILL)  # and with it all that runs there
        process.wait(30)


def _written(place: Path, port: int) -> Machine:
    """Keys, settings and units of a machine that is to be."""
    (place / "disk").mkdir()
    units = place / "system"
    units.mkdir()
    for key in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
    (units / "machine.target").write_text(
        "[Unit]\nRequires=sysinit.target sshd.service\nAfter=sysinit.target\nAllowIsolate=yes\n"
    )
    (units / "multi-user.target").write_text("[Unit]\nRequires=machine.target\n")
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": "/etc/systemd/system/host",
        "AuthorizedKeysFile": "/root/.ssh/authorized_keys",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "MaxStartups": "100",
    }
    shutil.copy(place / "host", units / "host")
    words = " ".join(f"-o {name}={value}" for name, value in options.items())
    (units / "sshd.service").write_text(f"[Service]\nExecStart=/usr/sbin/sshd -D -e -f /dev/null {words}\nKillMode=process\n")
    known = (place / "host.pub").read_text().split()
    (place / "known").write_text(f"[127.0.0.1]:{port} {known[0]} {known[1]}\n")
    config = place / "config"
    settings = {
        "IdentityFile": place / "key",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": place / "known",
        "LogLevel": "ERROR",
    }
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return Machine(f"ssh://root@127.0.0.1:{port}", config)
