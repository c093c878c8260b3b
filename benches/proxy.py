#!/usr/bin/env python3
"""The membrane against haproxy and nginx as reverse proxies: equal work, one core each, in one run.

Needs Linux with two cores, the Debian packages haproxy, nginx-light and wrk, and a release build:

    cargo build --release && python3 benches/proxy.py [SECONDS]

The proxy under test is pinned to one core; the backend (nginx with a fixed answer) and the client (wrk) share the other, so the
backend is never the proxy's neighbour. Each proxy is measured in turn, three rounds, and the middle round counts.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOMEOSTAT = os.path.join(ROOT, "target", "release", "homeostat")
BODY = "x" * 1024


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_port(port, process):
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args} does not listen on {port}")


def start(core, command, port):
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    await_port(port, process)
    return process


def end(process):
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for program in ("taskset", "wrk", "nginx", "haproxy"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; see the head of this file")
    if not os.path.exists(HOMEOSTAT):
        sys.exit("build it first: cargo build --release")
    directory = tempfile.mkdtemp(prefix="proxies")
    running = []
    try:
        backend, ours, manage, theirs, other = (free_port() for _ in range(5))
        command = nginx(directory, "backend", backend, f'server {{ listen 127.0.0.1:{backend}; location / {{ return 200 "{BODY}"; }} }}')
        running.append(start(1, command, backend))
        command = [HOMEOSTAT, "wrap", "--listen", f"127.0.0.1:{ours}", "--to", f"127.0.0.1:{backend}"]
        command += ["--manage", f"127.0.0.1:{manage}", "--", "sleep", "1000000"]
        running.append(start(0, command, ours))
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
        running.append(start(0, ["haproxy", "-db", "-f", config], theirs))
        server = f"""upstream back {{ server 127.0.0.1:{backend}; keepalive 256; }}
server {{ listen 127.0.0.1:{other}; location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}"""
        running.append(start(0, nginx(directory, "proxy", other, server), other))
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
    finally:
        for process in running:
            end(process)
        shutil.rmtree(directory, ignore_errors=True)


main()
