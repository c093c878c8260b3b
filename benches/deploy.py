#!/usr/bin/env python3
"""How long `homeostat deploy` takes for documents of 1,000 collectors, and `homeostat apply` for an edit of one.

    cargo build --release && python3 benches/deploy.py [--sensors 10] [--collectors 1000]

Ten sensors on ten containers, each with 100 collectors, as processes of this machine that only meet over the network. From the command to the moment at
which every sensor is what its documents say; and from when the probe has been handed all collectors. Targets: 10 s, and 500 ms.
"""
# Requirement: R0-10, R0-22
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request

S = "http://schemas.ogf.org/occi/monitoring#"
P = "com.example.occi.monitoring"
HOST = "127.0.0.1"
DOCUMENTS, CONTAINERS = 16789, 13000


def documents(directory, sensors, collectors):
    """One file for each entity."""
    each = collectors // sensors
    for s in range(sensors):
        write(directory, f"c{s}", {
            "id": f"urn:uuid:c{s}", "kind": "http://schemas.ogf.org/occi/infrastructure#compute",
            "attributes": {"occi": {"compute": {"MetricContainerIPAddress": HOST, "MetricContainerPort": CONTAINERS + s}}},
        })
        write(directory, f"s{s}", {
            "id": f"urn:uuid:s{s}", "kind": f"{S}sensor",
            "mixins": ["http://example.com/occi/monitoring/aggregator#ArithmeticMean", "http://example.com/occi/monitoring/publisher#SendUDP"],
            "attributes": {
                "occi.sensor.period": 1, f"{P}.ArithmeticMean.instream": "a", f"{P}.ArithmeticMean.outstream": "b",
                f"{P}.SendUDP.udpAddr": f"{HOST}:18888", f"{P}.SendUDP.input": "b",
            },
        })
        for k in range(each):
            collector(directory, s, k, 1)
    return each


def collector(directory, s, k, period):
    write(directory, f"k{s}-{k}", {
        "id": f"urn:uuid:k{s}-{k}", "kind": f"{S}collector",
        "source": {"location": f"urn:uuid:s{s}"}, "target": {"location": f"urn:uuid:c{s}"},
        "mixins": ["http://example.com/occi/monitoring/metric#LoadAverage"],
        "attributes": {"occi.collector.period": period, f"{P}.LoadAverage.out": "a"},
    })


def write(directory, name, value):
    with open(os.path.join(directory, name + ".json"), "w") as file:
        json.dump(value, file)


def handed(sensors):
    """How many collectors run in the containers."""
    total = 0
    for s in range(sensors):
        with urllib.request.urlopen(f"http://{HOST}:{CONTAINERS + s}/collectors") as answer:
            total += len(json.load(answer))
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/homeostat")
    parser.add_argument("--sensors", type=int, default=10)
    parser.add_argument("--collectors", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=10)
    options = parser.parse_args()
    program = os.path.abspath(options.program)
    with tempfile.TemporaryDirectory() as place:
        docs, state = os.path.join(place, "documents"), os.path.join(place, "state")
        os.mkdir(docs)
        each = documents(docs, options.sensors, options.collectors)
        begun = time.monotonic()
        deploy = [program, "deploy", docs, "--state", state, "--listen", f"{HOST}:{DOCUMENTS}", "--ports", "17000", "--detach"]
        subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)
        deployed = time.monotonic() - begun
        try:
            print(f"deploy: {each * options.sensors} collectors, {options.sensors} sensors: {deployed:.2f} s until every sensor is what its documents say (target 10 s)")
            while handed(options.sensors) < each * options.sensors:
                if time.monotonic() - begun > 120:
                    print(f"  only {handed(options.sensors)} collectors were handed over in 120 s")
                    break
                time.sleep(0.05)
            else:
                print(f"        {time.monotonic() - begun:.2f} s until all collectors run in their containers (target 10 s)")
            took, whole = [], []
            for i in range(options.edits):
                collector(docs, i % options.sensors, i, 2)
                begun = time.monotonic()
                said = subprocess.run([program, "--json", "apply", docs, "--state", state], check=True, capture_output=True, text=True).stdout
                whole.append(time.monotonic() - begun)
                took.append(json.loads(said)["seconds"])
            print(f"edit of one collector: median {statistics.median(took) * 1e3:.0f} ms, worst {max(took) * 1e3:.0f} ms from writing it down until the sensor has it")
            print(f"                       median {statistics.median(whole) * 1e3:.0f} ms, worst {max(whole) * 1e3:.0f} ms for the whole command (target 500 ms)")
        finally:
            subprocess.run([program, "undeploy", "--state", state], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
