"""A receiver to play with: prints what arrives and its signature; paths that begin with /fail get 500, others 200.

`python3 examples/receiver.py [port]` listens on 127.0.0.1, port 9000 unless told otherwise. Needs nothing but Python.
"""

# ruff: noqa: T201

import contextlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    def receive(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        print(f"{self.command} {self.path}  attempt {self.headers.get('Upstash-Retried', '?')}  {body}")
        print(f"  Upstash-Signature: {self.headers.get('Upstash-Signature', 'none')}", flush=True)
        self.send_response(500 if self.path.startswith("/fail") else 200)
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = receive  # noqa: N815  the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet but for what `receive` prints."""


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server, contextlib.suppress(KeyboardInterrupt):
    print(f"Listening on http://127.0.0.1:{server.server_port}. Stop with Ctrl-C.", flush=True)
    server.serve_forever()
