"""Combine data of coverage.py and report on them as JSON, with the settings of the project it is run in.

    python combine.py REPORT.json DATA...

Names in the data are relative to the project, whatever its own settings are. Needs coverage.py.
"""

import sys
from pathlib import Path


def main(report: str, *pieces: str) -> int:
    from coverage import Coverage
    from coverage.exceptions import CoverageException

    found = Coverage(data_file=str(Path(report).with_suffix(".data")))
    found.set_option("run:relative_files", True)
    try:
        found.combine(list(pieces), strict=True, keep=True)
        found.json_report(outfile=report)
    except CoverageException as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
