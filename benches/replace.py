#!/usr/bin/env python3
"""A hundred `replace` in a row while requests flow: does any fail, and does the old service answer any after its replacement was reported complete?

    cargo build --release && python3 benches/replace.py [--replacements 100] [--rate 2000] [--connections 16]

Two services, `old` and `new`, behind the reference `r` of the service `user`; a client sends requests to the local port of the reference, at a fixed
rate whatever the answers do, over connections that stay open. Every twentieth request takes its service 5 ms, and every fiftieth comes on a
connection of its own. Each answer says who gave it and when, by the monotonic clock that all programs of a machine share; services, client and
operator are programs of their own. The operator sends `replace` over the API, there and back again, and notes when he was told that it is done.

Late is an answer that a service began to give after the `replace` away from it was reported complete, and before the next one back to it was sent.
"""

# Requirement: R3-62

import argparse
import asyncio
import json
import multiprocessing
import sys
import time

from running import Programs, arguments, describe, free_ports, percentile, request


class Service(asyncio.Protocol):
    """Says its name and the time."""

    def __init__(self, name):
        self.name, self.held = name.encode(), b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.held += data
        while True:
            head, found, rest = self.held.partition(b"\r\n\r\n")
            if not found:
                return
            self.held = rest
            if head.startswith(b"GET /slow"):
                asyncio.get_running_loop().call_later(0.005, self.answer)
            else:
                self.answer()

    def answer(self):
        body = b"%s %d" % (self.name, time.monotonic_ns())
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def serve(name, port, pipe):
    async def run():
        server = await asyncio.get_running_loop().create_server(lambda: Service(name), "127.0.0.1", port, backlog=1024)
        pipe.send("ready")
        await server.serve_forever()

    asyncio.run(run())


class Client(asyncio.Protocol):
    """One connection; answers come in the order of the requests."""

    def __init__(self, results, once=False):
        self.results, self.once = results, once
        self.waiting, self.held = [], b""

    def connection_made(self, transport):
        self.transport = transport

    def send(self, path, due):
        self.waiting.append(due)
        close = "Connection: close\r\n" if self.once else ""
        self.transport.write(f"GET {path} HTTP/1.1\r\nHost: r\r\n{close}\r\n".encode())

    def data_received(self, data):
        self.held += data
        while True:
            head, found, rest = self.held.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            body, self.held = rest[:length], rest[length:]
            due = self.waiting.pop(0)
            name, at = (body.decode().split() + [""])[:2] if head.startswith(b"HTTP/1.1 200") else (None, "")
            why = None if name else head.split(b"\r\n", 1)[0].decode() + " " + body.decode(errors="replace")
            self.results.append((due, time.monotonic_ns(), name, int(at or 0), why))

    def connection_lost(self, error):
        for due in self.waiting:
            self.results.append((due, time.monotonic_ns(), None, 0, f"the connection ended: {error}"))
        self.waiting.clear()


def ask(port, rate, connections, pipe):
    """Sends at a fixed rate until it is told to stop. Answers [(due, answered, by whom, when, why not)], and how many were sent."""
    results = []

    async def run():
        loop = asyncio.get_running_loop()
        kept = [(await loop.create_connection(lambda: Client(results), "127.0.0.1", port))[1] for _ in range(connections)]
        pipe.send("ready")

        async def once(due):
            try:
                _, client = await loop.create_connection(lambda: Client(results, once=True), "127.0.0.1", port)
                client.send("/", due)
            except OSError as error:
                results.append((due, time.monotonic_ns(), None, 0, f"cannot connect: {error}"))

        begin, sent, tasks = time.monotonic_ns(), 0, set()
        while not pipe.poll():
            behind = (time.monotonic_ns() - begin) * rate // 1_000_000_000 - sent
            for _ in range(behind):
                due = begin + sent * 1_000_000_000 // rate
                sent += 1
                if sent % 50 == 0:
                    task = loop.create_task(once(due))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    continue
                client = kept[sent % connections]
                if client.transport.is_closing():
                    client = (await loop.create_connection(lambda: Client(results), "127.0.0.1", port))[1]
                    kept[sent % connections] = client
                client.send("/slow" if sent % 20 == 0 else "/", due)
            await asyncio.sleep(0.0005)
        seconds = (time.monotonic_ns() - begin) / 1e9
        for _ in range(1000):
            if len(results) >= sent:
                break
            await asyncio.sleep(0.01)
        return sent, seconds

    sent, seconds = asyncio.run(run())
    pipe.send((results, sent, seconds))


def spawn(target, *args):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    if ours.recv() != "ready":
        sys.exit(f"{target} did not begin")
    return process, ours


def replace(port, a, b):
    """One replacement: (sent, told that it is done), and whether it was."""
    begin = time.monotonic_ns()
    status, outcome = request(port, "POST", "/v1/services/user/actions", {"replace": {"from": a, "to": b}})
    return begin, time.monotonic_ns(), status == 200 and outcome.get("status") == "done", outcome


def late(results, moves):
    """Answers of a service between the end of the move away from it and the beginning of the next one back."""
    found = []
    for i, (_, done, _, away) in enumerate(moves):
        back = moves[i + 1][0] if i + 1 < len(moves) else float("inf")
        found += [r for r in results if r[2] == away and done < r[3] < back]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replacements", type=int, default=100)
    parser.add_argument("--rate", type=int, default=2000, help="requests per second")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds from one replacement to the next")
    options = arguments(parser)
    describe(options.binary)
    with Programs("replace") as programs:
        old, new, reference = free_ports(3)
        programs_of = [spawn(serve, "old", old), spawn(serve, "new", new)]
        policy = f"""service: user
references: {{ r: {{ service: old, candidates: [new], listen: "127.0.0.1:{reference}" }} }}
execute: {{}}
---
service: old
endpoint: 127.0.0.1:{old}
---
service: new
endpoint: 127.0.0.1:{new}
"""
        daemon, port = programs.homeostat(options.binary, policy)
        client, heard = spawn(ask, reference, options.rate, options.connections)
        time.sleep(1)
        moves, refused, (a, b) = [], [], ("old", "new")
        for _ in range(options.replacements):
            begin, done, good, outcome = replace(port, a, b)
            if good:
                moves.append((begin, done, b, a))
                a, b = b, a
            else:
                refused.append(outcome)
            time.sleep(options.pause)
        time.sleep(0.5)
        heard.send("stop")
        results, sent, seconds = heard.recv()
        client.join()
        failed = [r for r in results if r[2] is None]
        after = late(results, moves)
        times = [(done - begin) / 1e6 for begin, done, _, _ in moves]
        waits = [(r[1] - r[0]) / 1e6 for r in results if r[2]]
        by = {name: sum(r[2] == name for r in results) for name in ("old", "new")}
        print(f"{options.replacements} replacements, {sent / seconds:.0f} requests/s for {seconds:.1f} s over {options.connections} connections and new ones")
        print(f"  replacements done          {len(moves):8} of {options.replacements}")
        print(f"  requests                   {sent:8} ({by['old']} answered by old, {by['new']} by new)")
        print(f"  failed                     {len(failed) + sent - len(results):8}")
        print(f"  answered by the old one after its replacement was reported {len(after)}")
        if times:
            print(f"  a replacement takes        {percentile(times, 50):8.2f} ms, 99 % within {percentile(times, 99):.2f} ms")
        print(f"  an answer takes            {percentile(waits, 50):8.2f} ms, 99 % within {percentile(waits, 99):.2f} ms, longest {max(waits):.2f} ms")
        for why in [json.dumps(outcome) for outcome in refused[:3]] + [r[4] for r in failed[:3]] + [str(r) for r in after[:3]]:
            print(f"    such as: {why}")
        sys.exit(0 if not failed and not after and not refused and len(results) == sent else 1)


if __name__ == "__main__":
    main()
