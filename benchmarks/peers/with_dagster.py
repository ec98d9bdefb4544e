"""Ops of Dagster in one process with an ephemeral instance and its log turned off: GRAPH -> seconds to build and to run."""

import json
import sys
import time
from pathlib import Path

from dagster import (
    DagsterInstance,
    DependencyDefinition,
    GraphDefinition,
    In,
    MultiDependencyDefinition,
    NodeInvocation,
    in_process_executor,
    op,
)

tasks = json.loads(Path(sys.argv[1]).read_text())


@op
def first() -> int:
    return 1


@op(ins={"inputs": In(list[int])})
def add(inputs) -> int:
    return (1 + sum(inputs)) % 1_000_003


began = time.perf_counter()
dependencies = {}
for number, inputs in enumerate(tasks):
    node = NodeInvocation("add" if inputs else "first", alias=f"step_{number}")
    sources = MultiDependencyDefinition([DependencyDefinition(f"step_{one}") for one in inputs])
    dependencies[node] = {"inputs": sources} if inputs else {}
job = GraphDefinition("steps", node_defs=[first, add], dependencies=dependencies).to_job(executor_def=in_process_executor)
built = time.perf_counter()
with DagsterInstance.ephemeral() as instance:
    outcome = job.execute_in_process(
        instance=instance, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    )
if not outcome.success:
    sys.exit("the job did not pass")
print(json.dumps({"build": built - began, "run": time.perf_counter() - built}))
