#!/usr/bin/env python3
"""Many wrapped services on one machine, each with one notification per second: are any lost, how late are they, and what does a service cost? (R4-26)

    cargo build --release && python3 benches/notify.py [--services 500] [--seconds 30] [--channel any own shared]

Each service has a port in front of it, a management listener, one metric over its response times, and one property in a file of its own. A program
writes each file once a second (beside, then renamed), evenly spread over the second; the value is a number and the monotonic time just before the
rename. The time at which the callback arrives is taken by another program, which keeps connections open and does nothing else. Latency is the
difference of the two, so it holds the rename, the file system's notification, reading the file, the call back, and the receiver itself: what
that takes alone is measured first, with bare requests at the same rate.

Memory is what the daemon holds (VmRSS) after the notifications, with 1, 100 and all services; the slope is that of one service.
"""

# Requirement: R4-25, R4-26

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import sys
import time

from running import Programs, allow_descriptors, arguments, describe, free_ports, percentile, processor_time, request, resident

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver(asyncio.Protocol):
    """Takes callbacks as cheaply as it can: a head, a length, a body; what it says is looked at afterwards."""

    def __init__(self, arrived, opened):
        self.arrived, self.opened, self.held = arrived, opened, b""

    def connection_made(self, transport):
        self.transport = transport
        self.opened.append(1)

    def data_received(self, data):
        now = time.monotonic_ns()
        self.held += data
        while True:
            head, found, rest = self.held.partition(b"\r\n\r\n")
            if not found:
                return
            if head.startswith(b"PRI * HTTP/2.0"):
                # It speaks HTTP/1.1 only, and says so by hanging up.
                self.opened.pop()
                self.transport.close()
                return
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            self.arrived.append((now, rest[:length]))
            self.held = rest[length:]
            self.transport.write(OK)


def receive(port, pipe):
    """The receiving program. Answers (connections, [(arrival, body)]) when it is told to stop."""
    arrived, opened = [], []

    async def run():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Receiver(arrived, opened), "127.0.0.1", port, backlog=4096)
        pipe.send("ready")
        while True:
            await loop.run_in_executor(None, pipe.poll, None)
            if pipe.recv() == "stop":
                break
            # What was brought until now does not count.
            arrived.clear()
            pipe.send("cleared")
        server.close()

    asyncio.run(run())
    pipe.send((len(opened), arrived))


def paced(count, seconds, act):
    """Acts `count` times a second, evenly; answers by how many seconds the latest was late, at most."""
    begin, late = time.monotonic(), 0.0
    for i in range(count * seconds):
        due = begin + i / count
        while (left := due - time.monotonic()) > 0:
            time.sleep(left)
        late = max(late, -left)
        act(i % count, i // count + 1)
    return late


def write(files, seconds, pipe):
    """The program that changes values."""

    def change(service, number):
        path = files[service]
        beside = path + ".new"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, json.dumps({"state": {"n": number, "at": time.monotonic_ns()}}).encode())
        os.close(descriptor)
        os.rename(beside, path)

    pipe.send(paced(len(files), seconds, change))


def bare(port, count, seconds, pipe):
    """The same number of requests to the receiver, with nothing between."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(service, number):
        new = {"n": number, "at": time.monotonic_ns()}
        body = json.dumps({"service": f"s{service}", "property": "state", "old": None, "new": new}).encode()
        connections[service].sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    pipe.send(paced(count, seconds, post))


def policy(ports, files, backend):
    """Each service like any other."""
    one = """service: s{n}
endpoint: 127.0.0.1:{backend}
listen: 127.0.0.1:{front}
manage: {{ listen: "127.0.0.1:{manage}", properties: {{ state: {{ type: object, file: {{ path: {path}, pointer: /state }} }} }} }}
monitor:
  sensors: {{ latency: {{ proxy: response_time }} }}
  metrics: {{ p99: {{ of: latency, aggregate: p99, over: 60s }} }}
"""
    return "---\n".join(
        one.format(n=n, backend=backend, front=front, manage=manage, path=json.dumps(path))
        for n, ((front, manage), path) in enumerate(zip(ports, files))
    )


def spawn(target, *args):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    return process, ours


def figures(arrived, services, seconds):
    """Latencies in milliseconds, and how many of the expected notifications never came."""
    seen, latencies, twice = set(), [], 0
    for at, body in arrived:
        told = json.loads(body)
        # Several at once come as a batch of CloudEvents.
        for one in [event["data"] for event in told] if isinstance(told, list) else [told]:
            new = one["new"]
            if not isinstance(new, dict) or new["n"] == 0:
                continue
            key = (one["service"], new["n"])
            twice += key in seen
            seen.add(key)
            latencies.append((at - new["at"]) / 1e6)
    return latencies, services * seconds - len(seen), twice


def row(name, latencies, lost, connections, late):
    told = "  ".join(f"{p} % within {percentile(latencies, p):7.2f} ms" for p in (50, 99, 99.9))
    print(f"  {name:9} {len(latencies):6} brought, {lost} lost   {told}  longest {max(latencies):7.2f} ms   {connections} connections, pacing late by {late * 1e3:.1f} ms at most", flush=True)


def baseline(services, seconds):
    (port,) = free_ports(1)
    receiver, heard = spawn(receive, port)
    heard.recv()
    _, sent = spawn(bare, port, services, seconds)
    late = sent.recv()
    time.sleep(0.5)
    heard.send("stop")
    connections, arrived = heard.recv()
    receiver.join()
    latencies, lost, _ = figures(arrived, services, seconds)
    row("bare", latencies, lost, connections, late)


def measure(options, channel, services, seconds):
    """One daemon with so many services. Answers its memory at the end, how many notifications were lost, and the 99th percentile of latency."""
    with Programs("notify") as programs:
        numbers = free_ports(2 * services + 2)
        ports, (callback, backend) = list(zip(numbers[:services], numbers[services : 2 * services])), numbers[-2:]
        files = [os.path.join(programs.directory, f"s{n}", "state.json") for n in range(services)]
        for path in files:
            os.mkdir(os.path.dirname(path))
            with open(path, "w") as file:
                json.dump({"state": {"n": 0, "at": time.monotonic_ns()}}, file)
        daemon, port = programs.homeostat(options.binary, policy(ports, files, backend))
        receiver, heard = spawn(receive, callback)
        heard.recv()
        detections = {}
        for n, (_, manage) in enumerate(ports):
            wish = {"mode": "change", "callback": f"http://127.0.0.1:{callback}/told"}
            if channel:
                wish["channel"] = channel
            status, answer = request(manage, "POST", "/_mon/properties/state/subscriptions", wish)
            if status != 201:
                sys.exit(f"s{n} cannot be subscribed to: {status} {answer}")
            detections[answer["detection"]] = detections.get(answer["detection"], 0) + 1
        used = processor_time(daemon.pid)
        writer, written = spawn(write, files, seconds)
        late = written.recv()
        # Later than this is lost.
        time.sleep(2)
        used = (processor_time(daemon.pid) - used) / seconds
        memory = resident(daemon.pid)
        heard.send("stop")
        connections, arrived = heard.recv()
        writer.join()
        receiver.join()
        latencies, lost, twice = figures(arrived, services, seconds)
        if not latencies:
            sys.exit("nothing was brought at all")
        row(f"{services}", latencies, lost, connections, late)
        noticed = ", ".join(f"{count} {how}" for how, count in detections.items())
        doubled = f"; {twice} came twice" if twice else ""
        print(f"            changes are {noticed}; {used * 100:.0f} % of a core; {memory / 1e6:.1f} MB resident{doubled}", flush=True)
        return memory, lost, percentile(latencies, 99)


def channel(options, name):
    """All sizes over one kind of channel. Answers whether none was lost and all were in time."""
    print(f"channel: {name or 'any connection that is free'}", flush=True)
    counts = sorted({1, min(100, options.services), options.services})
    seen = {n: measure(options, name, n, options.seconds if n == options.services else min(options.seconds, 5)) for n in counts}
    few, many = counts[0], counts[-1]
    if few < many:
        slope = (seen[many][0] - seen[few][0]) / (many - few)
        print(f"  one wrapped service: {slope / 1024:.0f} KiB resident ({few} to {many})")
    _, lost, p99 = seen[many]
    print(f"  none lost: {'yes' if lost == 0 else 'NO'}; 99th percentile under 100 ms: {'yes' if p99 < 100 else 'NO'}", flush=True)
    return lost == 0 and p99 < 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--channel", choices=("any", "own", "shared"), nargs="+", default=["any", "own", "shared"], help="each of these in turn")
    options = arguments(parser)
    describe(options.binary)
    allow_descriptors()
    print(f"one notification per second and service for {options.seconds} s", flush=True)
    baseline(options.services, min(options.seconds, 10))
    good = [channel(options, None if name == "any" else name) for name in options.channel]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
