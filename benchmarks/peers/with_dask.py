"""`delayed` tasks of Dask under one of its schedulers in one process: GRAPH SCHEDULER -> seconds to build and to run."""

import json
import sys
import time
from pathlib import Path

import dask

tasks = json.loads(Path(sys.argv[1]).read_text())


def add(number, *inputs):
    return (number + sum(inputs)) % 1_000_003


began = time.perf_counter()
step = dask.delayed(add, pure=False)
made = []
for number, inputs in enumerate(tasks):
    made.append(step(number, *(made[one] for one in inputs)))
built = time.perf_counter()
dask.compute(*made, scheduler=sys.argv[2])
print(json.dumps({"build": built - began, "run": time.perf_counter() - built}))
