"""Wait until services answer 200: python ready.py SECONDS URL... Standard library only; run in a container."""

import sys
import time
import urllib.request


def main(seconds: float, urls: list[str]) -> int:
    """0 once every URL answered 200; 1, with the last answer, when one did not in time."""
    until = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for url in urls:
        last, pause = "no answer", 0.05
        while True:
            try:
                with opener.open(url, timeout=2) as answer:
                    if answer.status == 200:
                        break
                    last = f"status {answer.status}"
            except OSError as error:
                last = str(error)
            if time.monotonic() > until:
                print(f"{url} was not ready within {seconds:g} s: {last}")
                return 1
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
