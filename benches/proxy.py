#!/usr/bin/env python3
"""The membrane against haproxy and nginx as reverse proxies: equal work, one core each, in one run.

Needs Linux with two cores, the Debian packages haproxy, nginx-light and wrk, and a release build:

    cargo build --release && python3 benches/proxy.py [SECONDS]

The proxy under test is pinned to one core; the backend (nginx with a fixed answer) and the client (wrk) share the other, so the
backend is never the proxy's neighbour. Each proxy is measured in turn, three rounds, and the middle round counts.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys

from running import Programs, arguments, describe, free_ports

BODY = "x" * 1024


def nginx(directory, name, port, server):
    path = os.path.join(directory, name)
    os.makedirs(path)
    config = os.path.join(path, "nginx.conf")
    with open(config, "w") as file:
        file.write(
            f"""daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log crit;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {path}/a; proxy_temp_path {path}/b;
fastcgi_temp_path {path}/c; uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
{server}
}}"""
        )
    return ["nginx", "-p", path, "-e", f"{path}/error.log", "-c", config]


def microseconds(text):
    found = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    if not found:
        sys.exit(f"wrk says {text}")
    number, unit = found.groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def wrk(port, connections, seconds):
    out = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    errors = re.search(r"Socket errors:.*|Non-2xx.*", out)
    if errors:
        sys.exit(f"port {port}: {errors.group()}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    p99 = microseconds(re.search(r"^\s+99%\s+(\S+)", out, re.MULTILINE).group(1))
    return rate, p99


def middle(rounds):
    return sorted(rounds)[len(rounds) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=int, nargs="?", default=5)
    options = arguments(parser)
    seconds = options.seconds
    for program in ("taskset", "wrk", "nginx", "haproxy"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; see the head of this file")
    describe(options.binary)
    with Programs("proxies") as programs:
        directory = programs.directory
        backend, ours, theirs, other = free_ports(4)
        command = nginx(directory, "backend", backend, f'server {{ listen 127.0.0.1:{backend}; location / {{ return 200 "{BODY}"; }} }}')
        programs.start(command, backend, core=1)
        programs.homeostat(options.binary, f"service: it\nendpoint: 127.0.0.1:{backend}\nlisten: 127.0.0.1:{ours}\n", core=0)
        config = os.path.join(directory, "haproxy.cfg")
        with open(config, "w") as file:
            file.write(
                f"""global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:{theirs}
  default_backend back
backend back
  server one 127.0.0.1:{backend}
"""
            )
        programs.start(["haproxy", "-db", "-f", config], theirs, core=0)
        server = f"""upstream back {{ server 127.0.0.1:{backend}; keepalive 256; }}
server {{ listen 127.0.0.1:{other}; location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}"""
        programs.start(nginx(directory, "proxy", other, server), other, core=0)
        for connections in (1, 32, 128):
            rounds = {}
            for _ in range(3):
                for name, port in (("bare", backend), ("homeostat", ours), ("haproxy", theirs), ("nginx", other)):
                    rounds.setdefault(name, []).append(wrk(port, connections, seconds))
            rate = {name: middle([r for r, _ in all]) for name, all in rounds.items()}
            p99 = {name: middle([p for _, p in all]) for name, all in rounds.items()}
            print(f"{connections} connections, 1 KiB answers, keep-alive; middle of 3 rounds of {seconds} s")
            for name in rounds:
                added = p99[name] - p99["bare"]
                print(
                    f"  {name:9}  {rate[name]:9.0f} requests/s ({rate[name] / rate['haproxy']:.2f} of haproxy)"
                    f"   99 % within {p99[name]:7.0f} us (added {added:7.0f} us)"
                )


if __name__ == "__main__":
    main()
