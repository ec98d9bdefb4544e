"""`python -m benchmarks.peak FILE WORDS...`: run `python -m pipeline WORDS...`, and leave its peak memory in KiB in FILE.

What the system tells a parent of its child's memory counts that of the parent before the child began; this asks from inside.
"""

from __future__ import annotations

import atexit
import runpy
import sys
from pathlib import Path


def tell(file: Path) -> None:
    with open("/proc/self/status") as status:
        most = next(line for line in status if line.startswith("VmHWM:"))
    file.write_text(most.split()[1])


if __name__ == "__main__":
    atexit.register(tell, Path(sys.argv.pop(1)))
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
