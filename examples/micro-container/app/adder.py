"""A service that was never designed to be monitored: it adds numbers, as often as its configuration allows."""

import json
import pathlib
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONFIG = pathlib.Path(__file__).with_name("config.json")


class Adder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        terms = urllib.parse.parse_qs(url.query).get("n", [])
        if url.path != "/add" or len(terms) > json.loads(CONFIG.read_text())["most"]:
            return self.answer(400, {"error": "GET /add?n=1&n=2, and not too many"})
        self.answer(200, {"sum": sum(int(n) for n in terms)})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", 9100), Adder).serve_forever()
