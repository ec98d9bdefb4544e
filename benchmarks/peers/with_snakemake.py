"""Jobs of Snakemake in threads of one process, as `snakemake --cores 2 --force-use-threads --quiet` runs them:
seconds to read the Snakefile, and to run (its graph of jobs is built as part of that)."""

import json
import time
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import DAGSettings, ExecutionSettings, OutputSettings, ResourceSettings

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    began = time.perf_counter()
    workflow = api.workflow(resource_settings=ResourceSettings(cores=2), snakefile=Path("Snakefile"), workdir=Path.cwd())
    dag = workflow.dag(DAGSettings())
    built = time.perf_counter()
    dag.execute_workflow(executor="local", execution_settings=ExecutionSettings(use_threads=True))
    print(json.dumps({"build": built - began, "run": time.perf_counter() - built}))
