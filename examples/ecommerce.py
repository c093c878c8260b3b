#!/usr/bin/env python3
"""The web shop of Tower 4Clouds as a load generator: it registers its machines and methods, asks what to send, and sends that, in a quiet, a slow and a quiet phase.

    homeostat run policies/ecommerce --tower 127.0.0.1:8170
    python3 examples/ecommerce.py --manager http://127.0.0.1:8170 --phase 300

While methods take more than 10 s, the rules have the memory of the Frontend machines sent as well, and only then: what it sends per second rises and falls again. Python's own library is all it needs.
With `--rules FILE` it installs rules first, for a server that has none.
"""

import argparse
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request

CLOUDS = ("amazon", "flexiant")
METHODS = ("register", "login", "checkout")


def model():
    """The resources of the shop, as collectors describe them."""
    resources = []
    for cloud in CLOUDS:
        frontend = {"clazz": "VM", "type": "Frontend", "id": f"{cloud}-frontend1", "cloudProvider": cloud}
        methods = [{"clazz": "Method", "type": method, "id": f"{cloud}-{method}1"} for method in METHODS]
        webapp = {
            "clazz": "InternalComponent",
            "type": "Webapp",
            "id": f"{cloud}-webapp1",
            "requiredComponents": [frontend["id"]],
            "providedMethods": [method["id"] for method in methods],
        }
        resources += [{"clazz": "CloudProvider", "type": "IaaS", "id": cloud}, frontend, webapp, *methods]
    return resources


class Shop:
    def __init__(self, manager):
        self.manager, self.asked, self.slow = manager.rstrip("/"), {}, False
        self.bytes = 0
        self.resources = model()
        offers = {
            "ResponseTime": [r for r in self.resources if r["clazz"] == "Method"],
            "MemUsed": [r for r in self.resources if r["clazz"] == "VM"],
        }
        descriptor = {"monitoredResourcesByMetric": offers, "resources": self.resources, "keepAlive": 60, "configSyncPeriod": 30}
        self.id = self.call("POST", "/v1/data-collectors", descriptor)[0]["id"]

    def call(self, method, url, body=None, headers=None):
        """The JSON that it is answered with, if any, and the headers."""
        if url.startswith("/"):
            url = self.manager + url
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json; charset=UTF-8", **(headers or {})}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text.strip() else None, answer.headers

    def ask(self, wait):
        """What is to be sent: at first, and when it differs from what was known, at the latest after `wait` seconds. A server that does not know how to wait is asked as often."""
        headers = {}
        while True:
            begin = time.monotonic()
            try:
                self.asked, answered = self.call("GET", f"/v1/data-collectors/{self.id}/configuration", headers=headers)
                waits = answered.get("Preference-Applied") or not headers
                if answered.get("ETag"):
                    headers = {"If-None-Match": answered["ETag"], "Prefer": f"wait={wait}"}
            except urllib.error.HTTPError as error:
                if error.code != 304:
                    raise
                waits = True
            if not waits:
                time.sleep(max(0, wait - (time.monotonic() - begin)))

    def value(self, metric):
        if metric == "MemUsed":
            return random.uniform(2e9, 6e9)
        return random.uniform(11_000, 15_000) if self.slow and random.random() < 0.2 else random.uniform(200, 1_500)

    def send(self):
        """One round: a datum of each resource that each configuration is about."""
        for metric, configurations in list(self.asked.items()):
            for configuration in configurations:
                targets = configuration["targetResources"]
                about = [
                    r["id"]
                    for r in self.resources
                    if any(all(want in (None, have) for want, have in zip(t, (r["clazz"], r.get("type"), r["id"]))) for t in targets)
                ]
                data = json.dumps([{"resourceId": id, "metric": metric, "value": self.value(metric)} for id in about]).encode()
                self.call("POST", configuration["daUrl"], data)
                self.bytes += len(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manager", default="http://127.0.0.1:8170")
    parser.add_argument("--rules", help="a file of rules that are installed first")
    parser.add_argument("--phase", type=float, default=300, help="seconds that each of the three phases takes")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two rounds of data")
    options = parser.parse_args()
    try:
        shop = Shop(options.manager)
        if options.rules:
            with open(options.rules, "rb") as file:
                shop.call("POST", "/v1/monitoring-rules", file.read(), {"Content-Type": "text/xml"})
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url}: {error.code} {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{options.manager}: {error}")
    threading.Thread(target=shop.ask, args=(30,), daemon=True).start()
    for phase in ("quiet", "slow", "quiet again"):
        shop.slow, seen = phase == "slow", set()
        begin = time.monotonic()
        while time.monotonic() < begin + options.phase / 2:
            shop.send()
            time.sleep(options.pause)
        # The second half shows what the phase has led to.
        half, rounds, shop.bytes = time.monotonic(), 0, 0
        while time.monotonic() < begin + options.phase:
            seen.update(shop.asked)
            shop.send()
            rounds += 1
            time.sleep(options.pause)
        rate = shop.bytes / (time.monotonic() - half)
        print(f"{phase}: asked for {', '.join(sorted(seen)) or 'nothing'}; {rate:.0f} bytes/s, {shop.bytes / rounds:.0f} bytes a round", flush=True)


if __name__ == "__main__":
    main()
