#!/usr/bin/env python3
"""A probe container for OCCI sensors in thirty lines: `python3 examples/probe.py PORT`.

A sensor posts {"collector": ..., "output": "a", "sensor": "HOST:PORT"} to /collectors; the probe connects there and writes lines {"id": "a", "value": ...}.
This one measures the load average of a minute whatever the collector says. The sensor asks again when the connection breaks."""
import json, os, socket, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

running = set()


def measure(order, period):
    host, port = order["sensor"].rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=10) as sensor:
            while True:
                line = json.dumps({"id": order["output"], "value": 100 * os.getloadavg()[0]})
                sensor.sendall(line.encode() + b"\n")
                time.sleep(period)
    except OSError as why:
        print("the sensor is gone:", why)
    running.discard(json.dumps(order, sort_keys=True))


class Control(BaseHTTPRequestHandler):
    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = json.dumps(order, sort_keys=True)
        new = key not in running
        if new:
            running.add(key)
            period = order["collector"]["attributes"]["occi.collector.period"]
            threading.Thread(target=measure, args=(order, period), daemon=True).start()
        self.send_response(201 if new else 200)
        self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Control)
print("listens on 127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
