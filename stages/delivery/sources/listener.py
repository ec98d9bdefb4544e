"""A server for what is sent to us, a thread for each connection."""

from __future__ import annotations

import http.server
import sys
from typing import Any


class Listener(http.server.ThreadingHTTPServer):
    """Who goes away in the middle is no news; what else goes wrong is told on standard error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
