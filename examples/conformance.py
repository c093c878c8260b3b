#!/usr/bin/env python3
"""Says whether a component speaks as its interface says (docs/components.md). Needs Python 3.9, nothing else.

    conformance.py probe http://HOST:12312/collectors [--with websocket,pull,manage]
    conformance.py sensor http://HOST:8787
    conformance.py dashboard HOST:8888
    conformance.py documents http://HOST:PORT ID...

A line for each check; exit status 0 when all passed, 1 when one failed."""
import argparse, base64, hashlib, json, queue, socket, struct, sys, threading, time, urllib.error, urllib.parse, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MONITORING, MIXIN = "http://schemas.ogf.org/occi/monitoring#", "http://example.com/occi/monitoring/"
ATTRIBUTE = "com.example.occi.monitoring."
PATIENCE, PERIOD = 15, 0.5


class Failed(Exception):
    pass


def must(right, why):
    if not right:
        raise Failed(why)


def request(method, url, body=None, kind="application/json"):
    """The status and the body of an answer."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(url, data, {"Content-Type": kind, "Accept": "application/occi+json, application/json"}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        raise Failed(f"{method} {url}: {error}")


def listen(host):
    """A socket that waits for a connection on the address that `host` would see."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((host, 9))
        own = way.getsockname()[0]
    listener = socket.create_server((own, 0))
    listener.settimeout(PATIENCE)
    return listener, "%s:%d" % listener.getsockname()


def accept(listener):
    try:
        stream, _ = listener.accept()
    except socket.timeout:
        raise Failed(f"nobody connected within {PATIENCE} s")
    stream.settimeout(PATIENCE)
    return stream


def measurement(text, output):
    """A number out of {"id": "a", "value": 397.99}."""
    try:
        line = json.loads(text)
    except ValueError:
        raise Failed(f"`{text!r}` is no JSON")
    must(isinstance(line, dict) and line.get("id") == output, f"`{text!r}` has not the id `{output}`")
    must(isinstance(line.get("value"), (int, float, bool)), f"`{text!r}` has no number as its value")
    return float(line["value"])


def at_the_period(times):
    passed = (times[-1] - times[0]) / (len(times) - 1)
    must(PERIOD / 3 < passed < PERIOD * 4, f"the period is {PERIOD} s, and a value came every {passed:.2f} s")


# ---- a probe: it takes collectors, measures, and connects to the sensor --------------------------------------------------


class Probe:
    def __init__(self, url, more):
        self.url, self.more, self.host = url.rstrip("/"), more, urllib.parse.urlparse(url).hostname
        self.count = 0

    def order(self, sensor=None):
        self.count += 1
        collector = {"kind": MONITORING + "collector", "id": f"urn:uuid:conformance-{time.time_ns()}-{self.count}",
            "source": {"location": "/sensor/conformance"}, "target": {"location": "urn:conformance"},
            "mixins": [MIXIN + "metric#LoadAverage"],
            "attributes": {"occi.collector.period": PERIOD, ATTRIBUTE + "LoadAverage.out": "a"}}
        return {"collector": collector, "output": "a", **({"sensor": sensor} if sensor else {})}

    def post(self, order, *expected):
        status, said = request("POST", self.url, order)
        must(status in expected, f"POST was answered with {status}, not {expected}: {said}")
        return said

    def checks(self):
        yield "takes a collector, connects to the sensor and writes lines of JSON, one a period", self.lines
        yield "is asked for the same again, and goes on as before", self.again
        yield "is asked by a sensor that was started anew, and connects there", self.anew
        yield "refuses what is no order, and lives on", self.garbage
        for name in self.more:
            yield {"websocket": "sends the same as messages over a WebSocket", "pull": "answers when it is asked for a value",
                "manage": "lists its collectors, and ends one when it is told to"}[name], getattr(self, name)

    def read(self, stream, count):
        lines, times = stream.makefile("rb"), []
        for _ in range(count):
            text = lines.readline()
            must(text.endswith(b"\n"), f"`{text!r}` is no line")
            measurement(text, "a")
            times.append(time.monotonic())
        return times

    def lines(self):
        listener, own = listen(self.host)
        self.post(self.order(own), 200, 201)
        stream = accept(listener)
        at_the_period(self.read(stream, 5))
        stream.close()

    def again(self):
        listener, own = listen(self.host)
        order = self.order(own)
        self.post(order, 200, 201)
        stream = accept(listener)
        self.read(stream, 2)
        self.post(order, 200)
        self.read(stream, 3)
        listener.settimeout(3 * PERIOD)
        try:
            listener.accept()
        except socket.timeout:
            return
        finally:
            stream.close()
        raise Failed("it connected a second time")

    def anew(self):
        listener, own = listen(self.host)
        order = self.order(own)
        self.post(order, 200, 201)
        accept(listener).close()
        listener.close()
        listener, order["sensor"] = listen(self.host)
        self.post(order, 200, 201)
        stream = accept(listener)
        self.read(stream, 2)
        stream.close()

    def garbage(self):
        for body in ["", "no JSON", "[]", "{}"]:
            status, _ = request("POST", self.url, body)
            must(400 <= status < 500, f"`{body}` was answered with {status}")
        self.lines()

    def websocket(self):
        listener, own = listen(self.host)
        self.post(self.order(f"ws://{own}/"), 200, 201)
        stream = accept(listener)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = stream.recv(1)
            must(byte, "the connection ended in the middle of the handshake")
            head += byte
        keys = [line.split(":", 1)[1].strip() for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-key:")]
        must(keys, f"`{head!r}` asks for no WebSocket")
        hashed = hashlib.sha1((keys[0] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(hashed) + b"\r\n\r\n")
        times, frames = [], stream.makefile("rb")
        while len(times) < 4:
            kind, length = frames.read(2)
            must(kind == 0x81 and length & 0x80 and length & 0x7F < 126, f"frame {kind:#x} {length}: expected a short masked text")
            mask = frames.read(4)
            text = bytes(byte ^ mask[n % 4] for n, byte in enumerate(frames.read(length & 0x7F)))
            measurement(text, "a")
            times.append(time.monotonic())
        at_the_period(times)
        stream.close()

    def pull(self):
        said = self.post(self.order(), 200, 201)
        name = json.loads(said).get("name")
        must(name, f"`{said}` does not say the name of the collector")
        begin = time.monotonic()
        while True:
            status, text = request("GET", f"{self.url}/{name}/value")
            if status == 200:
                measurement(text, "a")
                break
            must(status == 503, f"it was asked for a value and answered {status}: {text}")
            must(time.monotonic() < begin + PATIENCE, "there was no value in time")
            time.sleep(PERIOD)
        status, _ = request("GET", f"{self.url}/nobody/value")
        must(status == 404, f"it was asked for the value of nobody and answered {status}")

    def manage(self):
        listener, own = listen(self.host)
        order = self.order(own)
        name = json.loads(self.post(order, 200, 201))["name"]
        stream = accept(listener)
        listed = {one["name"]: one for one in json.loads(request("GET", self.url)[1])}
        must(name in listed, f"`{name}` is not among {list(listed)}")
        must(listed[name]["collector"]["id"] == order["collector"]["id"], f"{listed[name]}")
        must(request("DELETE", f"{self.url}/{name}")[0] == 204, "it was not deleted")
        while stream.recv(4096):
            pass


# ---- a sensor: it hands collectors to probes, and publishes what it makes of what they send ------------------------------


class Sensor:
    """The kit is the probe and the dashboard."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        host = urllib.parse.urlparse(url).hostname
        probe_socket, own = listen(host)
        probe_socket.close()
        self.orders = orders = queue.Queue()

        class Control(BaseHTTPRequestHandler):
            def do_POST(self):
                orders.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(201)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.probe = ThreadingHTTPServer((own.rsplit(":", 1)[0], 0), Control)
        threading.Thread(target=self.probe.serve_forever, daemon=True).start()
        self.dashboard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.dashboard.bind((own.rsplit(":", 1)[0], 0))
        self.dashboard.settimeout(PATIENCE)
        self.id = "conformance-%d" % time.time_ns()

    def checks(self):
        yield "knows sensors and collectors", self.discovery
        yield "takes documents, and hands the collector to the probe", self.hands_over
        yield "takes lines from the probe, and publishes their average", self.average
        yield "asks again when the channel breaks", self.channel_breaks
        yield "ends when it is deleted", self.deleted

    def discovery(self):
        status, said = request("GET", self.url + "/-/")
        must(status == 200, f"GET /-/ was answered with {status}")
        kinds = [kind["scheme"] + kind["term"] for kind in json.loads(said)["kinds"]]
        must(MONITORING + "sensor" in kinds and MONITORING + "collector" in kinds, f"there are {kinds}")

    def hands_over(self):
        names = {"period": "occi.sensor.period", "container": ATTRIBUTE + "MetricContainer.url"}
        document = {"resources": [
            {"kind": "http://schemas.ogf.org/occi/infrastructure#compute", "id": "urn:uuid:machine-" + self.id,
                "mixins": [MIXIN + "resource#MetricContainer"],
                "attributes": {names["container"]: "http://%s:%d/collectors" % self.probe.server_address}},
            {"kind": MONITORING + "sensor", "id": "urn:uuid:" + self.id,
                "mixins": [MIXIN + "aggregator#EWMA", MIXIN + "publisher#SendUDP"],
                "attributes": {names["period"]: PERIOD, ATTRIBUTE + "EWMA.gain": 16, ATTRIBUTE + "EWMA.instream": "a",
                    ATTRIBUTE + "EWMA.outstream": "b", ATTRIBUTE + "SendUDP.input": "b",
                    ATTRIBUTE + "SendUDP.udpAddr": "%s:%d" % self.dashboard.getsockname()}}],
            "links": [{"kind": MONITORING + "collector", "id": "urn:uuid:collector-" + self.id,
                "source": {"location": "urn:uuid:" + self.id}, "target": {"location": "urn:uuid:machine-" + self.id},
                "mixins": [MIXIN + "metric#LoadAverage"],
                "attributes": {"occi.collector.period": PERIOD, ATTRIBUTE + "LoadAverage.out": "a"}}]}
        status, said = request("POST", self.url + "/", document, "application/occi+json")
        must(status == 201, f"the documents were answered with {status}: {said}")
        self.connect()

    def connect(self):
        try:
            order = self.orders.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failed("the probe was asked for nothing")
        must(order.get("output") == "a", f"the order has not the output `a`: {order}")
        must(order.get("collector", {}).get("kind") == MONITORING + "collector", f"the order has no collector: {order}")
        host, port = order["sensor"].rsplit(":", 1)
        self.channel = socket.create_connection((host, int(port)), timeout=PATIENCE)

    def shown(self):
        try:
            return self.dashboard.recv(200).decode()
        except socket.timeout:
            raise Failed("the dashboard got nothing")

    def average(self):
        # The second line is for somebody else, and the third is none.
        self.channel.sendall(b'{"id": "a", "value": 397.998046875}\n{"id": "z", "value": 1}\nno JSON\n')
        must(self.shown() == "Data: 397.99805\n", "the first value is not shown as `Data: 397.99805`")
        self.channel.sendall(b'{"id": "a", "value": 390.13671875}\n')
        must(self.shown() == "Data: 397.5356\n", "the second value is not shown as `Data: 397.5356`: (x + 16 v) / 17")

    def channel_breaks(self):
        self.channel.close()
        self.connect()
        self.channel.sendall(b'{"id": "a", "value": 390.13671875}\n')
        must(self.shown() == "Data: 397.10037\n", "the third value is not shown as `Data: 397.10037`")

    def deleted(self):
        status, _ = request("DELETE", f"{self.url}/sensor/{self.id}")
        must(status == 200, f"DELETE was answered with {status}")
        request("DELETE", f"{self.url}/compute/machine-{self.id}")
        must(self.channel.recv(1) == b"", "the channel stays open")


# ---- a dashboard: it receives datagrams ----------------------------------------------------------------------------------


class Dashboard:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.to = (host, int(port))

    def checks(self):
        yield "listens, and takes what a sensor sends", lambda: self.survives(b"Data: 397.5356\n")
        yield "survives what is nothing it knows", lambda: self.survives(b"", b"Data: \n", b"\xff\xfe", b"x" * 9000)

    def survives(self, *datagrams):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(self.to)
            try:
                # Where nobody listens, the second attempt says so.
                for datagram in [*datagrams, b"Data: 1.0\n", b"Data: 2.0\n"]:
                    sender.send(datagram)
                    time.sleep(0.1)
            except ConnectionRefusedError:
                raise Failed(f"nobody listens at {self.to[0]}:{self.to[1]}")


# ---- a server of documents -----------------------------------------------------------------------------------------------


class Documents:
    def __init__(self, url, ids):
        self.url, self.ids = url.rstrip("/"), ids

    def checks(self):
        for one in self.ids:
            yield f"has the document of {one}", lambda one=one: self.document(one)
        yield "says 404 for what it has not", self.absent

    def document(self, one):
        status, said = request("GET", f"{self.url}/{one}")
        must(status == 200, f"it was answered with {status}")
        text = json.dumps(json.loads(said))
        must(one in text or one.rsplit(":", 1)[-1] in text, "the document does not say its id")

    def absent(self):
        status, _ = request("GET", self.url + "/urn:uuid:nobody")
        must(status == 404, f"it was answered with {status}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("component", choices=["probe", "sensor", "dashboard", "documents"])
    parser.add_argument("address")
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--with", dest="more", default="", help="of a probe, what it can besides: websocket, pull, manage")
    said = parser.parse_args()
    more = [name for name in said.more.split(",") if name]
    component = {"probe": lambda: Probe(said.address, more), "sensor": lambda: Sensor(said.address),
        "dashboard": lambda: Dashboard(said.address), "documents": lambda: Documents(said.address, said.ids)}[said.component]()
    failed = 0
    for what, check in component.checks():
        try:
            check()
            print(f"ok {said.component}: {what}", flush=True)
        except (Failed, OSError, ValueError, KeyError, TypeError, AttributeError) as why:
            failed += 1
            print(f"FAILED {said.component}: {what}\n  {type(why).__name__ + ': ' if not isinstance(why, Failed) else ''}{why}", flush=True)
    sys.exit(1 if failed else 0)


main()
