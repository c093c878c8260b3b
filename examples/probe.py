#!/usr/bin/env python3
"""A probe container for OCCI sensors in forty lines: `python3 examples/probe.py PORT`. Its interface is in docs/components.md.

A sensor posts {"collector": ..., "output": "a", "sensor": "HOST:PORT"} to /collectors; the probe connects there and writes lines {"id": "a", "value": ...}.
This one measures the load average of a minute whatever the collector says. The sensor asks again when the connection breaks."""
import json, os, socket, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

running = set()


def measure(key, output, sensor, period):
    try:
        with socket.create_connection(sensor, timeout=10) as sensor:
            while True:
                line = json.dumps({"id": output, "value": 100 * os.getloadavg()[0]})
                sensor.sendall(line.encode() + b"\n")
                time.sleep(period)
    except OSError as why:
        print("the sensor is gone:", why)
    running.discard(key)


class Control(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
            host, port = order["sensor"].rsplit(":", 1)
            what = (order["output"], (host, int(port)), float(order["collector"]["attributes"]["occi.collector.period"]))
        except (ValueError, KeyError, TypeError) as why:
            return self.send_error(400, "expected a collector, an output and a sensor: " + repr(why))
        key = json.dumps(order, sort_keys=True)
        new = key not in running
        if new:
            running.add(key)
            threading.Thread(target=measure, args=(key, *what), daemon=True).start()
        self.send_response(201 if new else 200)
        self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Control)
print("listens on 127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
