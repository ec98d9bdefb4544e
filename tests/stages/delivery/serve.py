"""A small service for tests, standard library only: what it does is said by its environment.

Tests start it thousands of times: half of its start would be the import of `http.server`.

VERSION is its answer; UNREADY: it never gets ready; BROKEN: `/` answers 500; FAILS: one in so many requests for `/` does;
SOURS: after so many all do; DROPS: of one in so many the connection is closed without an answer; WAITS: `/` takes so many
seconds; STUBBORN: it ignores SIGTERM; GIVES_UP: of one in so many orders (a GET of `/`) nothing comes, though it answers 200,
which `/metrics` and its log tell; CRASHES: it ends at once; POSTS: the file in which it notes every POST; TOKEN: a secret that
it gives away; READY: where it is asked whether it is ready; SEATS: a directory of directories, of which an instance has to take
one away to get ready; TOTAL: a value in the document `/json`, beside one that is never twice the same. `/env?NAME` tells a
variable of its environment, `/header?NAME` a header of the request, `/kept?JSON` the version and a number of its own with such
headers, `/pid` its number; `/exit?CODE` ends it at once. HANGS: the file that, as long as it is there, `/livez` does not answer
with 200 for.
"""

import itertools
import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time

asked = itertools.count(1)
orders = {"all": 0, "given up": 0}
lock = threading.Lock()


def order() -> None:
    with lock:
        orders["all"] += 1
        gone = "GIVES_UP" in os.environ and orders["all"] % int(os.environ["GIVES_UP"]) == 0
        orders["given up"] += gone
        print(f"order {orders['all']} {'given up' if gone else 'done'}", flush=True)


class Handler(socketserver.StreamRequestHandler):
    wbufsize = -1  # an answer leaves in one piece
    timeout = 5
    path: str
    headers: dict[str, str]
    stays: bool

    def handle(self) -> None:
        """One request after the other, as long as the connection is to stay (HTTP/1.1)."""
        self.stays = True
        try:
            while self.stays and (line := self.rfile.readline()):
                self.ask(*line.decode("latin-1").split())
        except TimeoutError:
            pass

    def ask(self, method: str, path: str, protocol: str) -> None:
        lines = iter(self.rfile.readline, b"\r\n")
        said = (line.decode("latin-1").partition(":") for line in itertools.takewhile(bool, lines))
        self.path, self.headers = path, {name.lower(): value.strip() for name, _, value in said}
        self.stays = protocol == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"
        known = {"GET": self.get, "POST": self.post}
        known.get(method, lambda: self.answer(501, f"no {method}"))()
        self.wfile.flush()

    def get(self) -> None:
        if self.path == os.environ.get("READY", "/readyz"):
            self.answer(503 if "UNREADY" in os.environ else 200, os.environ.get("TOKEN", "ready?"))
        elif self.path == "/livez":
            self.answer(503 if os.path.exists(os.environ.get("HANGS", "")) else 200, "alive?")
        elif self.path == "/pid":
            self.answer(200, str(os.getpid()))
        elif self.path.startswith("/exit"):
            os._exit(int(self.path.partition("?")[2]))
        elif self.path == "/metrics":
            self.answer(200, f"orders_total {orders['all']}\norders_given_up_total {orders['given up']}\n", "text/plain")
        elif self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("?")[2]))
            self.answer(200, os.environ["VERSION"])
        elif self.path.startswith("/env"):
            self.answer(200, os.environ.get(self.path.partition("?")[2], ""))
        elif self.path.startswith("/header"):
            self.answer(200, self.headers.get(self.path.partition("?")[2].lower(), ""))
        elif self.path.startswith("/kept"):
            from urllib.parse import unquote

            headers = json.loads(unquote(self.path.partition("?")[2]))
            self.answer(200, f"{os.environ['VERSION']} {next(asked)}", **headers)
        elif self.path.startswith("/json"):
            said = {"total": os.environ.get("TOTAL"), "at": [{"nanosecond": time.time_ns(), "request": next(asked)}]}
            self.answer(200, json.dumps(said), kind="application/json")
        elif "DROPS" in os.environ and next(asked) % int(os.environ["DROPS"]) == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.stays = False
        else:
            time.sleep(float(os.environ.get("WAITS", "0")))
            fails = "FAILS" in os.environ and next(asked) % int(os.environ["FAILS"]) == 0
            fails = fails or ("SOURS" in os.environ and next(asked) > int(os.environ["SOURS"]))
            order()
            self.answer(500 if fails or "BROKEN" in os.environ else 200, os.environ["VERSION"])

    def post(self) -> None:
        with open(os.environ["POSTS"], "ab", buffering=0) as file:
            file.write(self.rfile.read(int(self.headers["content-length"])) + b"\n")
        self.answer(200, os.environ["VERSION"])

    def answer(self, status: int, text: str, kind: str = "text/html", **headers: str) -> None:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        more |= {"Server": "serve", "Content-Type": kind, "Content-Length": str(len(text.encode()))}
        head = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        self.wfile.write(f"HTTP/1.1 {status} so\r\n{head}\r\n{text}".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


def seated() -> bool:
    """Whether there was a seat left."""
    for seat in os.scandir(os.environ["SEATS"]):
        try:
            os.rmdir(seat.path)
        except FileNotFoundError:
            continue
        return True
    return False


if "SEATS" in os.environ and not seated():
    os.environ["UNREADY"] = "all seats are taken"
if "CRASHES" in os.environ:
    sys.exit("cannot go on" + os.environ.get("TOKEN", ""))
server = Server((os.environ["HOST"], int(os.environ["PORT"])), Handler)
if "STUBBORN" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(0.05)
server.server_close()  # returns when the requests in flight are answered
