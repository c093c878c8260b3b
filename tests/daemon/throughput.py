"""Generates traffic over the loopback interface of a network of its own, and lets a sensor measure it: `unshare -rn python3 throughput.py HOMEOSTAT`.

Prints {"measured": Mb/s, "generated": Mb/s}. What the sensor reports itself goes over the same interface: a few hundred bytes a second."""
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PAYLOAD, HEADERS, EVERY = 30_000, 14 + 20 + 8, 0.01
GENERATED = 2 * (PAYLOAD + HEADERS) / EVERY * 8 / 1e6  # both ways: what is sent over it is received over it
MONITORING, MIXIN = "http://schemas.ogf.org/occi/monitoring#", "http://example.com/occi/monitoring/"
P = "com.example.occi.monitoring."

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
shown = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
shown.bind(("127.0.0.1", 0))
shown.settimeout(20)
directory = tempfile.TemporaryDirectory()
with open(directory.name + "/policy.yaml", "w") as policy:
    policy.write("service: none\n")
daemon = subprocess.Popen(
    [sys.argv[1], "run", directory.name, "--listen", "127.0.0.1:0", "--occi", "127.0.0.1:0", "--log"],
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
try:
    occi = next(line.split("occi=")[1].split()[0] for line in daemon.stdout if "occi=" in line)
    threading.Thread(target=daemon.stdout.read, daemon=True).start()
    document = {
        "resources": [{"kind": MONITORING + "sensor", "id": "urn:uuid:s", "mixins": [MIXIN + "publisher#SendUDP"], "attributes": {
            "occi.sensor.period": 1, P + "SendUDP.input": "a", P + "SendUDP.udpAddr": "127.0.0.1:%d" % shown.getsockname()[1]}}],
        "links": [{"kind": MONITORING + "collector", "source": {"location": "urn:uuid:s"}, "target": {"location": "urn:here"},
            "mixins": [MIXIN + "metric#NetworkThroughput"], "attributes": {
                "occi.collector.period": 1, P + "NetworkThroughput.out": "a", P + "NetworkThroughput.interface": "lo"}}]}
    request = urllib.request.Request(f"http://{occi}/", json.dumps(document).encode(), {"Content-Type": "application/occi+json"})
    urllib.request.urlopen(request, timeout=20).read()
    shown.recv(200)

    def generate():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.bind(("127.0.0.1", 0))
        sender, begin, count = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), time.monotonic(), 0
        while True:
            sender.sendto(b"x" * PAYLOAD, sink.getsockname())
            sink.recv(65536)
            count += 1
            time.sleep(max(0, begin + count * EVERY - time.monotonic()))

    threading.Thread(target=generate, daemon=True).start()
    values = [float(shown.recv(200).decode().removeprefix("Data: ")) for _ in range(8)][1:]
    print(json.dumps({"measured": statistics.median(values), "generated": GENERATED, "all": values}))
finally:
    daemon.kill()
