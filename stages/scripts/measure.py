"""Run a module and its child processes under coverage.py, and combine what they measured into one file.

    python measure.py DATA MODULE ARGUMENT...

`sitecustomize` starts the measuring in every Python process, as COVERAGE_PROCESS_START says. The exit code is
the module's (128 + n for signal n); without data the file is not made.
"""

import os
import subprocess
import sys
from pathlib import Path

START = "COVERAGE_PROCESS_START"


def main(data: str, *command: str) -> int:
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    pieces = sorted(str(path) for path in Path(data).parent.glob(f"{Path(data).name}.*"))
    if pieces:
        env = {name: value for name, value in os.environ.items() if name != START}
        combine = [sys.executable, "-m", "coverage", "combine", "--quiet", f"--data-file={data}", f"--rcfile={os.environ[START]}"]
        combined = subprocess.run([*combine, *pieces], check=False, env=env)
        if combined.returncode != 0:
            Path(data).unlink(missing_ok=True)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
