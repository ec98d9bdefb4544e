"""Tasks of doit that write a file each, in one process, nothing printed: seconds to run; it builds its tasks as part of that."""

import json
import sys
import time

from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain

sys.path.insert(0, ".")
import dodo

began = time.perf_counter()
code = DoitMain(ModuleTaskLoader(dodo)).run(["run", "--reporter", "zero"])
seconds = time.perf_counter() - began
if code:
    sys.exit(f"doit ended with {code}")
print(json.dumps({"build": 0.0, "run": seconds}))
