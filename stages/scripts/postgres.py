"""Run PostgreSQL on HOST and PORT until told to end.

    python postgres.py PROGRAMS

PROGRAMS is the directory with `initdb` and `postgres`. The data lie in the directory named by PGDATA, else in
`data` beside this file; they are made when there are none. The superuser is `postgres`, nobody needs a password.
PostgreSQL refuses to run as root: started as root, it is run as `postgres` or `nobody`. SIGTERM and SIGINT end
it in good order, without waiting for open sessions.
"""

import os
import pwd
import signal
import stat
import subprocess
import sys
from pathlib import Path

OTHERS = ("postgres", "nobody")
"""The users to run as instead of root; the first that exists."""


def main(programs: str) -> int:
    binaries = Path(programs).resolve()
    data = Path(os.environ.get("PGDATA") or Path(__file__).parent / "data").absolute()
    data.mkdir(parents=True, exist_ok=True)
    os.chmod(data, 0o700)
    if os.geteuid() == 0:
        become_other_user(data, binaries)
    os.chdir(data)
    made = prepare(binaries, data)
    if made.returncode != 0:
        print(f"{Path(made.args[0]).name} ended with {made.returncode}:\n{made.stdout.decode(errors='replace')}")
        return 1
    return serve([str(binaries / "postgres"), "-D", str(data), *settings(os.environ.get("HOST", ""), os.environ.get("PORT", ""))])


def settings(host: str, port: str) -> list[str]:
    values = {
        "listen_addresses": host or "127.0.0.1",
        "port": port or "5432",
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]


def prepare(binaries: Path, data: Path) -> "subprocess.CompletedProcess[bytes]":
    """Make the data directory, or recover the one that is there: the port opens only when sessions can be served."""
    if (data / "PG_VERSION").exists():
        command = [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"]
    else:
        command = [
            str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8",
            "--no-sync", "--no-instructions",
        ]  # fmt: skip
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 0:
        (data / "pg_hba.conf").write_text("local all all trust\nhost all all all trust\n")
    return done


def serve(command: list[str]) -> int:
    """Run the server; a request to end becomes a fast shutdown, which does not wait for sessions."""
    server: subprocess.Popen[bytes] | None = None

    def stop(number: int, _: object) -> None:
        if server is None:
            sys.exit(128 + number)
        server.send_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    code = server.wait()
    return 128 - code if code < 0 else code


def become_other_user(data: Path, binaries: Path) -> None:
    """Give the data to another user, let them reach what they need, and go on as that user."""
    user = next((found for name in OTHERS if (found := known(name))), None)
    if user is None:
        sys.exit(f"PostgreSQL does not run as root, and this system has no user {' or '.join(OTHERS)}")
    for base, _, files in os.walk(data):
        for name in ("", *files):
            os.chown(os.path.join(base, name), user.pw_uid, user.pw_gid, follow_symlinks=False)
    for place in (data, binaries):
        let_in(place, user)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def known(name: str) -> "pwd.struct_passwd | None":
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def let_in(place: Path, user: pwd.struct_passwd) -> None:
    """Let the user pass through what lies above `place`, where that is the private part of a temporary directory."""
    for above in place.resolve().parents:
        if may_pass(above.stat(), user):
            continue
        if not any(parent.stat().st_mode & stat.S_ISVTX for parent in above.parents):
            sys.exit(
                f"PostgreSQL does not run as root, and the user {user.pw_name} may not pass through {above}: "
                f"chmod o+x {above}, or keep the files elsewhere, or start this as an ordinary user"
            )
        above.chmod(stat.S_IMODE(above.stat().st_mode) | stat.S_IXOTH)


def may_pass(found: os.stat_result, user: pwd.struct_passwd) -> bool:
    if found.st_uid == user.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == user.pw_gid else stat.S_IXOTH))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
