"""`python -m pipeline`."""

import gc
import sys

gc.disable()  # what is imported stays: to look for garbage in it takes a tenth of the time to plan; a run looks again

from pipeline.cli.main import main  # noqa: E402

if __name__ == "__main__":
    code = main(sys.argv[1:])
    gc.freeze()  # nor need anybody look for it at the end, when the system takes all of it back
    sys.exit(code)
