"""Run a program and keep what it writes: python capture.py STDOUT STDERR PROGRAM ARGUMENT...

`-` in place of a file leaves that stream alone. The exit code is the program's (128 + n for signal n).
"""

import contextlib
import subprocess
import sys
from typing import IO


def main(stdout: str, stderr: str, *command: str) -> int:
    with contextlib.ExitStack() as stack:

        def kept(path: str) -> IO[bytes] | None:
            return None if path == "-" else stack.enter_context(open(path, "wb"))

        code = subprocess.run(command, stdout=kept(stdout), stderr=kept(stderr), check=False).returncode
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
