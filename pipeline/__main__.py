"""`python -m pipeline`."""

import atexit
import gc
import os
import signal
import sys


def leave(*_: object) -> None:
    """Say so and be gone: where no run is at work, nothing is under way that has to be ended or taken back.

    A KeyboardInterrupt would unwind from the middle of an import, which makes other errors of it, or loses it.
    """
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # called last: what the process ends with is settled then
    gc.disable()  # what is imported stays: to look for garbage in it takes a tenth of the time to plan; a run looks again

    from pipeline.cli.main import main
    from pipeline.cli.output import take_over

    take_over()
    code = main(sys.argv[1:])
    gc.freeze()  # nor need anybody look for it at the end, when the system takes all of it back
    sys.exit(code)
