#!/usr/bin/env python3
"""How fast the OCCI server is: reads, creations of sensors with five mixins, the query interface with 200 mixins of clients, what 1,000 collectors and a
two-level tree of sensors cost while they run, and how long 1,000 collectors take to be deployed and one of them to be changed, here and on a probe.

Needs Linux, and the Debian packages nginx-light and wrk for the reads:

    cargo build --release && python3 benches/occi.py [reads] [creations] [query] [tree] [deploy] [probe]

All parts are measured when none is named. Client and server share the machine; the record of the daemon lies in the directory for temporary files
(`TMPDIR` names another, for another disk). Baselines stand in the same run: nginx with the same bytes for reads, the native API with the policies that the
sensors are for creations, and for the tree a policy by hand that measures the same.
"""

# Requirement: R0-10, R1-01

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from proxy import nginx
from running import Programs, arguments, describe, free_ports, percentile, processor_time, resident

SENSOR = "http://schemas.ogf.org/occi/monitoring#sensor"
COLLECTOR = "http://schemas.ogf.org/occi/monitoring#collector"
JSON = "application/occi+json"
PARTS = ["reads", "creations", "query", "tree", "deploy", "probe"]


def mixin(stage, term):
    return f"http://example.com/occi/monitoring/{stage}#{term}"


def of(term, **values):
    return {f"com.example.occi.monitoring.{term}.{name}": value for name, value in values.items()}


def uuid(kind, number):
    return f"urn:uuid:{kind:08x}-0000-4000-8000-{number:012x}"


def collector(number, source, metric, period, values, target="urn:uuid:machine"):
    return {
        "kind": COLLECTOR, "id": uuid(2, number), "mixins": [mixin("metric", metric)], "source": {"location": source}, "target": {"location": target},
        "attributes": {"occi.collector.period": period, **of(metric, **values)},
    }


def five_mixins(number, period=60):
    """A sensor with an average, the greatest, a colour and a line in the log, and its collector: five mixins."""
    attributes = {
        "occi.sensor.period": period, **of("EWMA", instream="a", outstream="b", gain=16), **of("Maximum", instream="a,b", outstream="c"),
        **of("Colour", instream="c", outstream="d", yellow=70, red=90), **of("Log", in_msg="d"),
    }
    mixins = [mixin("aggregator", "EWMA"), mixin("aggregator", "Maximum"), mixin("aggregator", "Colour"), mixin("publisher", "Log")]
    link = collector(number, uuid(1, number), "CPUPercent", period, {"out": "a"})
    return {"kind": SENSOR, "id": uuid(1, number), "mixins": mixins, "attributes": attributes, "links": [link]}


class Client:
    """One connection that is kept; as little of HTTP as there must be, so that the client costs little."""

    def __init__(self, port):
        self.port, self.rest = port, b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, path, body=None, kind=JSON, accept=JSON):
        """Status, head and body."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: {kind}\r\nAccept: {accept}\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)
        while b"\r\n\r\n" not in self.rest:
            self.more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head).group(1))
        while len(self.rest) < length:
            self.more()
        body, self.rest = self.rest[:length], self.rest[length:]
        return int(head[9:12]), head, body

    def more(self):
        more = self.socket.recv(1 << 20)
        if not more:
            sys.exit("the server closed the connection")
        self.rest += more

    def expect(self, status, method, path, body=None, **how):
        got, _, answer = self.ask(method, path, body, **how)
        if got != status:
            sys.exit(f"{method} {path} is answered with {got}: {answer.decode()[:500]}")
        return answer


def daemon(programs, binary, record=True):
    """A daemon with nothing but the OCCI server; answers it, its port for OCCI and its native one."""
    api, occi = free_ports(2)
    folder = tempfile.mkdtemp(dir=programs.directory)
    os.makedirs(os.path.join(folder, "policies"))
    with open(os.path.join(folder, "policies", "nothing.yaml"), "w") as file:
        file.write("service: nothing\n")
    command = [binary, "run", os.path.join(folder, "policies"), "--listen", f"127.0.0.1:{api}", "--occi", f"127.0.0.1:{occi}"]
    if record:
        command += ["--data-dir", os.path.join(folder, "state")]
    return programs.start(command, occi), occi, api


def told(what, measured, target=None, met=None):
    """A line of the result; whether the target is met stands at its end."""
    verdict = "" if target is None else f"   (target: {target}; {'met' if met else 'MISSED'})"
    print(f"{what:74} {measured}{verdict}", flush=True)


# ---- reads -----------------------------------------------------------------------------------------------------------


def wrk(port, path, accept, seconds, connections=8):
    """Requests/s and the 99th percentile, as wrk says it."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Accept: {accept}", f"http://127.0.0.1:{port}{path}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    errors = re.search(r"Socket errors:.*|Non-2xx.*", out)
    if errors:
        sys.exit(f"port {port}: {errors.group()}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), re.search(r"^\s+99%\s+(\S+)", out, re.MULTILINE).group(1)


def reads(programs, options):
    for program in ("wrk", "nginx"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; see the head of this file")
    process, port, _ = daemon(programs, options.binary)
    client = Client(port)
    for number in range(100):
        client.expect(201, "POST", "/sensor/", five_mixins(number))
    place = f"/sensor/{uuid(1, 42)[9:]}"
    (static,) = free_ports(1)
    same = client.expect(200, "GET", place).decode()
    if "'" in same or "$" in same:
        sys.exit(f"nginx would read something else: {same}")
    programs.start(nginx(programs.directory, "static", static, f"server {{ listen {static}; location / {{ return 200 '{same}'; }} }}"), static)
    base, _ = wrk(static, place, JSON, options.seconds)
    for name, accept in (("JSON", JSON), ("text/plain", "text/plain")):
        rate, p99 = wrk(port, place, accept, options.seconds)
        told(f"reads of a sensor with five mixins and its collector, {name}", f"{rate:8.0f}/s, 99 % within {p99}, {rate / base:.2f} of nginx's", "2,000/s", rate >= 2000)
    told("   the same bytes, said by nginx", f"{base:8.0f}/s")
    programs.end(process)


# ---- creations -------------------------------------------------------------------------------------------------------


def in_parallel(port, clients, count, make):
    """`count` requests over some connections; answers how many a second, and the times of each in ms."""
    numbers, times, lock = iter(range(count)), [], threading.Lock()
    requests = [make(number) for number in range(count)]

    def work():
        client = Client(port)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            method, path, body, kind, wanted = requests[number]
            begin = time.perf_counter()
            status, _, answer = client.ask(method, path, body, kind=kind)
            times.append(1e3 * (time.perf_counter() - begin))
            if status not in wanted:
                print(f"{method} {path}: {status} {answer.decode()[:300]}", file=sys.stderr)
                os._exit(1)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - begin), times


def creations(programs, options):
    count = options.creations

    def creation(number):
        return "POST", "/sensor/", json.dumps(five_mixins(number)).encode(), JSON, (201,)

    for record in (True, False):
        for clients in (1, 8):
            process, port, _ = daemon(programs, options.binary, record)
            rate, times = in_parallel(port, clients, count, creation)
            where = "recorded on disk" if record else "recorded in memory"
            what = f"creations of sensors with five mixins, {clients} at once, {where}"
            told(what, f"{rate:8.0f}/s of {count}; median {statistics.median(times):.1f} ms, 99 % within {percentile(times, 99):.1f} ms", "500/s", rate >= 500)
            programs.end(process)
        process, _, api = daemon(programs, options.binary, record)
        body = json.dumps(native_policy()).encode()
        some = min(count, 300)
        rate, _ = in_parallel(api, 1, some, lambda n: ("PUT", f"/v1/services/native-{n}", body, "application/json", (200, 201, 204)))
        told(f"   the same policy by the native API, 1 at once, {'on disk' if record else 'in memory'}", f"{rate:8.0f}/s of {some}")
        programs.end(process)


def native_policy():
    """What the sensor with five mixins is, written by hand."""
    return {
        "class": "sensor",
        "monitor": {
            "sensors": {"cpu": {"host": {"what": "cpu", "every": "60s"}}},
            "metrics": {
                "a": "cpu", "b": {"of": "a", "aggregate": "ewma32(16)"}, "c": "percentile(100, a, b)", "worst": "percentile(100, c)",
                "d": "if worst >= 90 { 2 } else { if worst >= 70 { 1 } else { 0 } }",
            },
            "publish": {"Log": {"metric": "d", "to": {"log": {"text": "{metric} {value}"}}}},
        },
    }


# ---- the query interface ---------------------------------------------------------------------------------------------


def query(programs, options):
    process, port, _ = daemon(programs, options.binary)
    client = Client(port)
    mixins = [
        {"term": f"tag{n}", "scheme": "http://example.org/tags#", "title": f"Tag {n}", "location": f"/tags/tag{n}/"}
        for n in range(200)
    ]
    status, _, answer = client.ask("POST", "/-/", {"mixins": mixins})
    if status != 200:
        sys.exit(f"the mixins were not taken: {status} {answer.decode()[:500]}")
    for name, accept in (("JSON", JSON), ("text/plain", "text/plain")):
        times = []
        for _ in range(200):
            begin = time.perf_counter()
            answer = client.expect(200, "GET", "/-/", accept=accept)
            times.append(1e3 * (time.perf_counter() - begin))
        told(f"/-/ with 200 mixins of clients, {name}, {len(answer) // 1024} KiB", f"median {statistics.median(times):.1f} ms, 99 % within {percentile(times, 99):.1f} ms", "5 ms", statistics.median(times) <= 5)
    programs.end(process)


# ---- a tree that runs ------------------------------------------------------------------------------------------------


def lower(number, each, metric="CPUPercent", target="urn:uuid:machine"):
    """One of the lower sensors, with its collectors, and the mean of them."""
    here = uuid(3, number)
    attributes = {"occi.sensor.period": 1, **of("ArithmeticMean", instream="a", outstream="m")}
    resource = {"kind": SENSOR, "id": here, "mixins": [mixin("aggregator", "ArithmeticMean")], "attributes": attributes}
    return resource, [collector(number * each + n, here, metric, 1, {"out": "a"}, target) for n in range(each)]


def whole_tree(sink, sensors=10, each=100):
    """1,000 collectors of ten sensors, and one sensor above them that sends their mean."""
    top = uuid(4, 0)
    attributes = {"occi.sensor.period": 1, **of("ArithmeticMean", instream="l", outstream="all"), **of("SendUDP", input="all", udpAddr=sink)}
    resources = [{"kind": SENSOR, "id": top, "mixins": [mixin("aggregator", "ArithmeticMean"), mixin("publisher", "SendUDP")], "attributes": attributes}]
    links = []
    for number in range(sensors):
        resource, collectors = lower(number, each)
        resources.append(resource)
        links += collectors
        links.append(collector(1_000_000 + number, top, "Label", 1, {"label": "m", "out": "l"}, uuid(3, number)))
    return {"resources": resources, "links": links}


def used(process, seconds):
    """The part of one core that a process uses, and the most memory that it has held."""
    begin, before, most = time.perf_counter(), processor_time(process.pid), 0
    while time.perf_counter() - begin < seconds:
        time.sleep(1)
        most = max(most, resident(process.pid))
    return (processor_time(process.pid) - before) / (time.perf_counter() - begin), most


def received(sink, seconds):
    """How many datagrams come in so long."""
    count, until = 0, time.monotonic() + seconds
    sink.settimeout(0.2)
    while time.monotonic() < until:
        try:
            sink.recv(500)
            count += 1
        except TimeoutError:
            pass
    return count


def samples(api):
    """How many samples shards have taken, as the daemon counts them."""
    text = Client(api).expect(200, "GET", "/metrics", accept="text/plain").decode()
    return sum(float(value) for value in re.findall(r"^homeostat_samples_total(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE))


def tree(programs, options):
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    process, port, api = daemon(programs, options.binary)
    idle, empty = used(process, 3)
    Client(port).expect(201, "POST", "/", whole_tree(f"127.0.0.1:{sink.getsockname()[1]}"))
    time.sleep(3)
    counts = []
    counting = threading.Thread(target=lambda: counts.append(received(sink, options.tree)))
    counting.start()
    before = samples(api)
    part, most = used(process, options.tree)
    counting.join()
    taken = (samples(api) - before) / options.tree
    told("1,000 collectors of ten sensors below one, every second: processor", f"{100 * part:5.1f} % of one core (idle: {100 * idle:.1f} %)", "15 %", part <= 0.15)
    told("   memory", f"{most / 1e6:5.0f} MB (idle: {empty / 1e6:.0f} MB)", "100 MB", most <= 100e6)
    told("   values that came out at the top, and samples that were taken in", f"{counts[0]} in {options.tree} s; {taken:.0f}/s")
    if counts[0] < options.tree - 1 or taken < 950:
        sys.exit("the tree did not run: the figures are none")
    programs.end(process)
    # The same by hand: ten services with a hundred sensors each, and one that reads their means.
    sensors = {f"c{n}": {"host": {"what": "cpu", "every": "1s"}} for n in range(100)}
    names = ", ".join(sensors)
    policies = [{"service": f"low{n}", "monitor": {"sensors": sensors, "metrics": {"m": f"mean({names})"}}} for n in range(10)]
    means = ", ".join(f"r{n}.m" for n in range(10))
    top = {"service": "top", "references": {f"r{n}": {"service": f"low{n}"} for n in range(10)}, "monitor": {"metrics": {"all": f"mean({means})"}}}
    top["monitor"]["publish"] = {"out": {"metric": "all", "every": "1s", "to": {"udp": {"address": f"127.0.0.1:{sink.getsockname()[1]}", "text": "{value}\n"}}}}
    byhand, _ = programs.homeostat(options.binary, "\n---\n".join(json.dumps(p) for p in [*policies, top]))
    time.sleep(3)
    part, most = used(byhand, options.tree)
    told("   the same as a policy by hand, without the OCCI server", f"{100 * part:5.1f} % of one core, {most / 1e6:.0f} MB")
    programs.end(byhand)


# ---- deploying -------------------------------------------------------------------------------------------------------


def deploy(programs, options):
    for sensors, each in ((1, 1000), (10, 100)):
        process, port, _ = daemon(programs, options.binary)
        client = Client(port)
        document = {"resources": [], "links": []}
        for number in range(sensors):
            resource, links = lower(number, each)
            document["resources"].append(resource)
            document["links"] += links
        body = json.dumps(document).encode()
        begin = time.perf_counter()
        client.expect(201, "POST", "/", body)
        took = time.perf_counter() - begin
        told(f"1,000 collectors of {sensors} sensor(s) in one document, until it is answered", f"{took:6.2f} s", "10 s", took <= 10)
        times = []
        for number in range(20):
            change = {"attributes": {"occi.collector.period": 2 + number}}
            begin = time.perf_counter()
            client.expect(200, "POST", f"/collector/{uuid(2, 50 * number)[9:]}", change)
            times.append(1e3 * (time.perf_counter() - begin))
        told("   a change of one of them", f"median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms", "500 ms", max(times) <= 500)
        programs.end(process)


def probe(programs, options):
    (control,) = free_ports(1)
    runner = programs.start([options.binary, "probe", "--listen", f"127.0.0.1:{control}"], control)
    process, port, _ = daemon(programs, options.binary)
    client = Client(port)
    machine = {"kind": "http://schemas.ogf.org/occi/infrastructure#compute", "id": uuid(5, 0), "mixins": [mixin("resource", "MetricContainer")],
               "attributes": of("MetricContainer", url=f"http://127.0.0.1:{control}/collectors")}
    resource, links = lower(0, 1000, "MemoryUsed", uuid(5, 0))
    begin = time.perf_counter()
    client.expect(201, "POST", "/", {"resources": [machine, resource], "links": links})
    answered = time.perf_counter() - begin
    asks, running = Client(control), 0
    while running < 1000 and time.perf_counter() - begin < 120:
        time.sleep(0.1)
        running = len(json.loads(asks.expect(200, "GET", "/collectors", accept="application/json")))
    took = time.perf_counter() - begin
    told("1,000 collectors that a probe runs, until it runs them all", f"{took:6.2f} s ({running} of 1,000; answered after {answered:.2f} s)", "10 s", running == 1000 and took <= 10)
    time.sleep(3)
    part, most = used(runner, 10)
    told("   the probe, every second", f"{100 * part:5.1f} % of one core, {most / 1e6:.0f} MB")
    part, most = used(process, 10)
    told("   the server that takes what it sends", f"{100 * part:5.1f} % of one core, {most / 1e6:.0f} MB")
    programs.end(process)
    programs.end(runner)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS) + "; all, when absent")
    parser.add_argument("--seconds", type=int, default=5, help="of each round of reads")
    parser.add_argument("--creations", type=int, default=2000, help="how many sensors are created")
    parser.add_argument("--tree", type=int, default=30, help="for how many seconds the tree is looked at")
    options = arguments(parser)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    describe(options.binary)
    with Programs("occi") as programs:
        for part in options.parts or PARTS:
            globals()[part](programs, options)


if __name__ == "__main__":
    main()
