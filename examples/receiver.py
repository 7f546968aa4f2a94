"""A receiver to play with: prints what arrives on http://127.0.0.1:9000 and answers 200. Needs nothing but Python."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    def receive(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        print(f"{self.command} {self.path}  attempt {self.headers['Upstash-Retried']}  {body.decode()}", flush=True)  # noqa: T201
        self.send_response(500 if self.path.startswith("/fail") else 200)
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = receive  # noqa: N815  the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet but for what `receive` prints."""


ThreadingHTTPServer(("127.0.0.1", 9000), Receiver).serve_forever()
