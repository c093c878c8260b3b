#!/usr/bin/env python3
"""How long it takes from enabling a rule of Tower 4Clouds to the first datum of a collector that keeps a connection open for changes; and how long
10,000 rules take to be installed over HTTP, in one batch. (R2-34)

    cargo build --release && python3 benches/enable.py [--rounds 20] [--rules 10000]

A collector that does not wait learns of it at its next request for the configuration, one period later at most: `configSyncPeriod`, 60 s in the original.
"""

# Requirement: R2-34

import argparse
import http.client
import json
import os
import statistics
import sys
import threading
import time
import urllib.parse

from running import Programs, arguments, describe, free_ports, request

STREAM = "/streams/" + urllib.parse.quote("http://www.modaclouds.eu/streams/MemUsed", safe="")
HEAD = '<monitoringRules xmlns="http://www.modaclouds.eu/xsd/1.0/monitoring_rules_schema">'
RULE = """<monitoringRule id="{id}" timeStep="60" timeWindow="60" startEnabled="{on}"><monitoredTargets><monitoredTarget class="VM"/></monitoredTargets>
<collectedMetric metricName="MemUsed"><parameter name="samplingTime">10</parameter></collectedMetric>
<metricAggregation aggregateFunction="Average" groupingClass="VM"/>
<actions><action name="OutputMetric"><parameter name="metric">{id}_out</parameter></action></actions></monitoringRule>"""


def install(port, rules):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/monitoring-rules", HEAD + "".join(rules) + "</monitoringRules>", {"Content-Type": "text/xml"})
    answer = connection.getresponse()
    if answer.status != 204:
        sys.exit(f"the rules were not installed: {answer.status} {answer.read().decode()[:300]}")
    connection.close()


class Collector(threading.Thread):
    """Waits for changes of its configuration, and sends a datum as soon as MemUsed is asked for."""

    def __init__(self, port, name):
        super().__init__(daemon=True)
        self.port, self.name, self.sent = port, name, threading.Event()

    def run(self):
        try:
            self.wait()
        except (ConnectionError, http.client.HTTPException):
            """The server has ended."""

    def wait(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        tag, asked = None, False
        while True:
            headers = {"Prefer": "wait=30"}
            if tag:
                headers["If-None-Match"] = tag
            connection.request("GET", f"/v1/data-collectors/{self.name}/configuration", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 304:
                continue
            tag = answer.headers.get("ETag")
            wanted = bool(json.loads(body).get("MemUsed"))
            if wanted and not asked:
                datum = json.dumps([{"resourceId": "vm1", "metric": "MemUsed", "value": 1.0}])
                connection.request("POST", STREAM, datum, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.sent.set()
            asked = wanted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rules", type=int, default=10_000)
    options = arguments(parser)
    describe(options.binary)
    with Programs("enable") as programs:
        api, tower = free_ports(2)
        empty = os.path.join(programs.directory, "policies")
        os.makedirs(empty)
        with open(os.path.join(empty, "nothing.yaml"), "w") as file:
            file.write("service: nothing\n")
        programs.start([options.binary, "run", empty, "--listen", f"127.0.0.1:{api}", "--tower", f"127.0.0.1:{tower}"], tower)
        machine = {"clazz": "VM", "type": "Frontend", "id": "vm1"}
        descriptor = {"monitoredResourcesByMetric": {"MemUsed": [machine]}, "resources": [machine], "keepAlive": 0, "configSyncPeriod": 60}
        status, answer = request(tower, "POST", "/v1/data-collectors", descriptor)
        if status != 201:
            sys.exit(f"the collector was not registered: {status} {answer}")
        install(tower, [RULE.format(id="Switched", on="false")])
        collector = Collector(tower, answer["id"])
        collector.start()
        times = []
        for _ in range(options.rounds):
            time.sleep(0.2)
            collector.sent.clear()
            begin = time.perf_counter()
            status, answer = request(tower, "GET", "/v1/monitoring-rules/Switched?enabled=true")
            if status != 204 or not collector.sent.wait(30):
                sys.exit(f"no datum came: {status} {answer}")
            times.append(1e3 * (time.perf_counter() - begin))
            request(tower, "GET", "/v1/monitoring-rules/Switched?enabled=false")
        times.sort()
        print(f"from enabling to the first datum, of a collector that waits: median {statistics.median(times):.1f} ms, longest {times[-1]:.1f} ms of {options.rounds}")
        begin = time.perf_counter()
        install(tower, [RULE.format(id=f"R{n}", on="true") for n in range(options.rules)])
        print(f"{options.rules} rules were installed in one batch in {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
