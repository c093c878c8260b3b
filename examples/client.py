#!/usr/bin/env python3
"""A thin client of managed services, with nothing but the standard library: invokes a service, reads its properties, subscribes, and shows what comes.

    homeostat run POLICIES &
    python3 examples/client.py http://127.0.0.1:8081 http://127.0.0.1:8082 --call http://127.0.0.1:8080/ --watch workers --set workers=8

It knows the addresses of management listeners (`manage: { listen: … }`) and nothing of the services behind them: names, types and what may be done come
from there. Ends with 0 when everything that was asked for was done and, with `--watch`, a notification came.
"""

import argparse
import http.client
import json
import sys
import threading
import urllib.parse


class Service:
    """Any managed service, by the address of its management listener."""

    def __init__(self, address, patience):
        parts = urllib.parse.urlsplit(address)
        self.host, self.patience = parts.netloc, patience

    def ask(self, method, path, body=None):
        """The answer's JSON. Raises what homeostat says is wrong."""
        connection = http.client.HTTPConnection(self.host, timeout=self.patience)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/_mon/{path}", text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read() or b"null")
            if answer.status >= 400:
                raise RuntimeError(f"{self.host} answers {answer.status}: {found.get('detail')}")
            return found
        finally:
            connection.close()

    def properties(self):
        return self.ask("GET", "properties")

    def value(self, name):
        return self.ask("GET", f"properties/{urllib.parse.quote(name)}")["value"]

    def set(self, name, value):
        self.ask("PUT", f"properties/{urllib.parse.quote(name)}", {"value": value})

    def invoke(self, method, params):
        return self.ask("POST", f"invoke/{urllib.parse.quote(method)}", {"params": params})["result"]

    def changes(self, name):
        """Subscribes to a property, and yields (event, data) as they come; leaving off unsubscribes."""
        connection = http.client.HTTPConnection(self.host, timeout=self.patience)
        try:
            connection.request("GET", f"/_mon/properties/{urllib.parse.quote(name)}/events?mode=change")
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{self.host} answers {answer.status}: {answer.read().decode()}")
            event = "message"
            for line in answer:
                field, _, text = line.decode().rstrip("\r\n").partition(": ")
                if field == "event":
                    event = text
                elif field == "data":
                    yield event, json.loads(text)
        finally:
            connection.close()


def show(service, polls):
    """Whatever service it is: every property, asked for again and again by what the list says."""
    listed = service.properties()
    print(f"{listed['service']} ({service.host})")
    for described in listed["properties"]:
        if "error" in described:
            print(f"  {described['name']}: {described['error']}")
            continue
        values = [service.value(described["name"]) for _ in range(polls)]
        may = "may be set" if described["settable"] else "read only"
        print(f"  {described['name']} ({described['type']}, {may}): {', '.join(json.dumps(value) for value in values)}")
    return [described["name"] for described in listed["properties"]]


def watch(service, name, subscribed, count, told):
    for event, data in service.changes(name):
        if event == "subscribed":
            print(f"subscribed to {name}; changes are {data.get('detection')}")
            subscribed.set()
        elif event == "value":
            print(f"{data['timestamp']} {data['service']}.{name}: {json.dumps(data['old'])} -> {json.dumps(data['new'])}")
            told.append(data)
            if len(told) >= count:
                return


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manage", nargs="+", help="addresses of management listeners; `--set`, `--invoke` and `--watch` go to the one that offers what they name")
    parser.add_argument("--call", help="a URL of the service itself, called as any client does")
    parser.add_argument("--polls", type=int, default=1, help="how often each property is asked for")
    parser.add_argument("--invoke", nargs="+", metavar=("METHOD", "PARAM"), help="a method, and its parameters as JSON")
    parser.add_argument("--watch", metavar="NAME", help="a property whose changes are shown")
    parser.add_argument("--count", type=int, default=1, help="how many changes are waited for")
    parser.add_argument("--set", metavar="NAME=VALUE", help="sets a property, after subscribing")
    parser.add_argument("--patience", type=float, default=30, help="seconds that anything may take")
    options = parser.parse_args()
    services = [Service(address, options.patience) for address in options.manage]
    if options.call:
        parts = urllib.parse.urlsplit(options.call)
        connection = http.client.HTTPConnection(parts.netloc, timeout=options.patience)
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        print(f"{options.call} answers {answer.status}: {answer.read().decode(errors='replace').strip()}")
        if answer.status >= 400:
            return 1
    offered = {}
    for service in services:
        for name in show(service, options.polls):
            offered.setdefault(name, service)
    if options.invoke:
        method, *params = options.invoke
        able = [s for s in services if method in [m["name"] for m in s.ask("GET", "methods")["methods"]]]
        if not able:
            raise RuntimeError(f"nobody offers the method {method}")
        print(f"{method}({', '.join(params)}) = {json.dumps(able[0].invoke(method, [parsed(p) for p in params]))}")
    told, watching = [], None
    if options.watch:
        subscribed = threading.Event()
        arguments = (offered[options.watch], options.watch, subscribed, options.count, told)
        watching = threading.Thread(target=watch, args=arguments, daemon=True)
        watching.start()
        if not subscribed.wait(options.patience):
            raise RuntimeError(f"no subscription to {options.watch}")
    if options.set:
        name, _, value = options.set.partition("=")
        offered[name].set(name, parsed(value))
        print(f"{name} is set to {json.dumps(offered[name].value(name))}")
    if watching:
        watching.join(options.patience)
        return 0 if len(told) >= options.count else 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        sys.exit(f"client: {type(error).__name__}: {error}")
