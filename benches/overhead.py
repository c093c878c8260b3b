#!/usr/bin/env python3
"""What monitoring costs a service's calls: bare, wrapped without monitoring, and with each way to observe a property. (R4-29)

Needs Linux with two cores, and the Debian packages nginx-light and wrk:

    cargo build --release && python3 benches/overhead.py [--seconds 5] [--rate 10] [--properties 10]

homeostat is pinned to one core; the service (nginx with a fixed answer), the client (wrk) and the observers share the other, so that what the service
does is never homeostat's neighbour. In every monitored mode the same number of values reaches the observer each second:

    none      wrapped, nothing is looked at beyond the count and time of every call
    polling   an observer asks for each property, `rate` times a second
    interval  an observer is called back with each property, `rate` times a second
    change    each property changes `rate` times a second, and an observer is called back

Properties are the service's own words (its admin endpoint), so that polling and interval cost it a request each; changes are made in a file, whose
notifications come by themselves. `--source file` keeps all of them in files. Modes are measured in turn, three rounds, and the middle round counts.
"""

# Requirement: R4-29

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import sys
import time

from proxy import BODY, middle, nginx, wrk
from running import Programs, arguments, describe, free_ports, processor_time, request

MODES = ("bare", "none", "polling", "interval", "change")
OBSERVERS = 1


def service(mode, ports, options, files):
    """The policy of one mode."""
    endpoint, listen, manage = ports
    text = f"service: it\nendpoint: 127.0.0.1:{endpoint}\nlisten: 127.0.0.1:{listen}\n"
    if mode in ("bare", "none"):
        return text
    in_files = mode == "change" or options.source == "file"
    text += f'manage:\n  listen: "127.0.0.1:{manage}"\n  properties:\n'
    for n, path in enumerate(files):
        place = f"file: {{ path: {json.dumps(path)}, pointer: /v }}" if in_files else "http: { url: /admin, pointer: /v }"
        text += f"    p{n}: {{ type: number, {place} }}\n"
    return text


class Told(asyncio.Protocol):
    """Is called back, and counts."""

    def __init__(self, count):
        self.count, self.held = count, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.held += data
        while True:
            head, found, rest = self.held.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            self.held = rest[length:]
            self.count[0] += 1
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def poll(manage, n, rate, count):
    """Asks for one property over a connection that stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", manage)
    loop, due = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    while True:
        writer.write(f"GET /_mon/properties/p{n} HTTP/1.1\r\nHost: 127.0.0.1:{manage}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        count[0] += 1
        due = max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())


async def change(path, rate):
    number = 0
    loop, due = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    while True:
        number += 1
        with open(path + ".new", "w") as file:
            file.write('{"v": %d}' % number)
        os.rename(path + ".new", path)
        due = max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())


def observe(mode, manage, callback, options, files, pipe):
    """The observing program: does what its mode asks for until it is told to stop, and answers how many values came a second."""
    os.sched_setaffinity(0, {OBSERVERS})
    count = [0]

    async def run():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Told(count), "127.0.0.1", callback)
        for n in range(len(files)):
            if mode in ("interval", "change"):
                wish = {"mode": mode, "callback": f"http://127.0.0.1:{callback}/"}
                if mode == "interval":
                    wish["interval"] = f"{1000 // options.rate}ms"
                status, answer = await loop.run_in_executor(None, request, manage, "POST", f"/_mon/properties/p{n}/subscriptions", wish)
                if status != 201:
                    raise RuntimeError(answer)
        tasks = [loop.create_task(poll(manage, n, options.rate, count)) for n in range(len(files)) if mode == "polling"]
        tasks += [loop.create_task(change(path, options.rate)) for path in files if mode == "change"]
        pipe.send("ready")
        begin = time.monotonic()
        while not pipe.poll():
            await asyncio.sleep(0.1)
            for task in tasks:
                if task.done():
                    task.result()
        seconds = time.monotonic() - begin
        server.close()
        for task in tasks:
            task.cancel()
        return count[0] / seconds

    pipe.send(asyncio.run(run()))


def hear(pipe):
    """What the observer says next."""
    try:
        return pipe.recv()
    except EOFError:
        sys.exit("the observer has ended; see above")


def one(mode, options, backend, programs):
    """One round of one mode: per number of connections (requests/s, 99th percentile in microseconds), values per second, processor time per second."""
    files = [os.path.join(programs.directory, f"p{n}.json") for n in range(options.properties)]
    for path in files:
        with open(path, "w") as file:
            file.write('{"v": 0}')
    if mode == "bare":
        return {c: wrk(backend, c, options.seconds) for c in options.connections}, 0.0, 0.0
    listen, manage, callback = free_ports(3)
    daemon, _ = programs.homeostat(options.binary, service(mode, (backend, listen, manage), options, files), core=0)
    ours, theirs = multiprocessing.Pipe()
    observer = multiprocessing.Process(target=observe, args=(mode, manage, callback, options, files, theirs), daemon=True)
    if mode != "none":
        observer.start()
        theirs.close()  # so that its end is seen here
        hear(ours)
    figures, used, begin = {}, processor_time(daemon.pid), time.monotonic()
    for connections in options.connections:
        figures[connections] = wrk(listen, connections, options.seconds)
    used = (processor_time(daemon.pid) - used) / (time.monotonic() - begin)
    values = 0.0
    if mode != "none":
        ours.send("stop")
        values = hear(ours)
        observer.join()
    programs.end(daemon)
    return figures, values, used


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rate", type=int, default=10, help="values per second of each property")
    parser.add_argument("--properties", type=int, default=10)
    parser.add_argument("--source", choices=("http", "file"), default="http", help="where polling and interval find the properties")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    options = arguments(parser)
    for program in ("taskset", "wrk", "nginx"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; see the head of this file")
    describe(options.binary)
    with Programs("overhead") as programs:
        (backend,) = free_ports(1)
        answers = f"""server {{ listen 127.0.0.1:{backend}; location / {{ return 200 "{BODY}"; }}
location /admin {{ default_type application/json; return 200 '{{"v": $msec}}'; }} }}"""
        programs.start(nginx(programs.directory, "backend", backend, answers), backend, core=1)
        rounds = {mode: [] for mode in MODES}
        for _ in range(options.rounds):
            for mode in MODES:
                rounds[mode].append(one(mode, options, backend, programs))
        print(f"{options.properties} properties, {options.rate} values per second each; middle of {options.rounds} rounds of {options.seconds} s; 1 KiB answers, keep-alive")
        for connections in options.connections:
            print(f"{connections} connections")
            none = middle([figures[connections][0] for figures, _, _ in rounds["none"]])
            for mode in MODES:
                rate = middle([figures[connections][0] for figures, _, _ in rounds[mode]])
                p99 = middle([figures[connections][1] for figures, _, _ in rounds[mode]])
                values, used = (middle([r[i] for r in rounds[mode]]) for i in (1, 2))
                print(f"  {mode:9} {rate:9.0f} requests/s ({rate / none:.2f} of none)   99 % within {p99:7.0f} us   {values:6.1f} values/s   {used * 100:4.0f} % of a core")


if __name__ == "__main__":
    main()
