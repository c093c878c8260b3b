#!/usr/bin/env python3
"""How many data a Tower 4Clouds server takes in over HTTP, in batches of 100, while a rule averages them by machine. (R2-09)

Needs Linux with two cores, and the Debian packages nginx-light and wrk:

    cargo build --release && python3 benches/tower.py [--seconds 3] [--machines 1000]

The client (wrk, one thread) and the server share both cores. The baseline is nginx, which answers the same requests and reads nothing of what they say.
Every datum that was answered with 200 must be counted by the server: otherwise the figure is not one.
"""

# Requirement: R2-09

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse

from proxy import nginx
from running import Programs, arguments, describe, free_ports, request

STREAM = "/streams/" + urllib.parse.quote("http://www.modaclouds.eu/streams/CPUUtilization", safe="")
RULE = """<monitoringRules xmlns="http://www.modaclouds.eu/xsd/1.0/monitoring_rules_schema">
<monitoringRule id="AverageCPU" timeStep="60" timeWindow="60"><monitoredTargets><monitoredTarget class="VM"/></monitoredTargets>
<collectedMetric metricName="CPUUtilization"><parameter name="samplingTime">10</parameter></collectedMetric>
<metricAggregation aggregateFunction="Average" groupingClass="VM"/>
<actions><action name="OutputMetric"><parameter name="metric">AverageCPUUtilization</parameter></action></actions></monitoringRule></monitoringRules>"""
SCRIPT = """local bodies, n = {}, 0
init = function(args)
  for batch = 0, %d - 1 do
    local data = {}
    for i = 1, 100 do
      data[i] = string.format('{"resourceId":"vm%%d","metric":"CPUUtilization","value":%%.3f}', (batch * 100 + i) %% %d, math.random())
    end
    bodies[#bodies + 1] = wrk.format("POST", "%s", { ["Content-Type"] = "application/json; charset=UTF-8" }, "[" .. table.concat(data, ",") .. "]")
  end
end
request = function() n = n + 1; return bodies[n %% #bodies + 1] end
"""


def load(port, script, seconds, connections=8):
    """Requests/s and the 99th percentile, as wrk says it."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"http://127.0.0.1:{port}{STREAM}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    errors = re.search(r"Socket errors:.*|Non-2xx.*", out)
    if errors:
        sys.exit(f"port {port}: {errors.group()}")
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    return requests, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), re.search(r"^\s+99%\s+(\S+)", out, re.MULTILINE).group(1)


def taken(port):
    """How many data shards took or refused, as the daemon counts them."""
    status, text = request(port, "GET", "/metrics")
    if status != 200:
        sys.exit(f"/metrics answers {status}")
    return {name: float(value) for name, value in re.findall(r"^(homeostat_samples\w*?)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="of each round; a rule holds 20 million data, so that longer rounds fill its window")
    parser.add_argument("--machines", type=int, default=1000)
    options = arguments(parser)
    for program in ("wrk", "nginx"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; see the head of this file")
    describe(options.binary)
    with Programs("tower") as programs:
        script = os.path.join(programs.directory, "data.lua")
        with open(script, "w") as file:
            file.write(SCRIPT % (options.machines // 100, options.machines, STREAM))
        api, tower, baseline = free_ports(3)
        empty = os.path.join(programs.directory, "policies")
        os.makedirs(empty)
        with open(os.path.join(empty, "nothing.yaml"), "w") as file:
            file.write("service: nothing\n")
        programs.start([options.binary, "run", empty, "--listen", f"127.0.0.1:{api}", "--tower", f"127.0.0.1:{tower}"], tower)
        config = f"server {{ listen 127.0.0.1:{baseline}; location / {{ client_max_body_size 1m; return 200; }} }}"
        programs.start(nginx(programs.directory, "baseline", baseline, config), baseline)
        machines = [{"clazz": "VM", "type": "Frontend", "id": f"vm{n}"} for n in range(options.machines)]
        descriptor = {"monitoredResourcesByMetric": {"CPUUtilization": machines}, "resources": machines, "keepAlive": 0, "configSyncPeriod": 30}
        status, answer = request(tower, "POST", "/v1/data-collectors", descriptor)
        if status != 201:
            sys.exit(f"the collector was not registered: {status} {answer}")
        install(tower)
        rounds = []
        for name, port in (("nginx, which reads nothing", baseline), ("homeostat", tower)) * 3:
            before = taken(api)
            requests, rate, p99 = load(port, script, options.seconds)
            time.sleep(1)
            after = taken(api)
            counted = {key: after[key] - before.get(key, 0) for key in after}
            rounds.append((name, rate, p99, requests, counted))
        for name in ("nginx, which reads nothing", "homeostat"):
            rate, p99, requests, counted = sorted(r[1:] for r in rounds if r[0] == name)[1]
            print(f"{name:28} {rate * 100:10.0f} data/s in batches of 100; 99 % answered within {p99}; sent {requests * 100}, counted {counted}")
            if name == "homeostat" and counted.get("homeostat_samples_total", 0) < requests * 100:
                sys.exit("not all of them were taken: the figure is not one")


def install(port):
    """Installs the rule."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/monitoring-rules", RULE, {"Content-Type": "text/xml"})
    answer = connection.getresponse()
    if answer.status != 204:
        sys.exit(f"the rule was not installed: {answer.status} {answer.read().decode()}")
    connection.close()


if __name__ == "__main__":
    main()
