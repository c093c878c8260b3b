"""What the benchmarks written in Python share: programs that are started and ended, free ports, small requests, and what a figure must be read with."""

import http.client
import json
import math
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASE = os.path.join(ROOT, "target", "release", "homeostat")


def arguments(parser):
    """Those of the command line; every benchmark takes the program to be measured."""
    parser.add_argument("--binary", default=RELEASE, help="the homeostat that is measured; the release build, when absent")
    options = parser.parse_args()
    options.binary = os.path.abspath(options.binary)
    if not os.path.exists(options.binary):
        sys.exit(f"{options.binary} is not there; build it first: cargo build --release")
    return options


def describe(binary):
    """The machine, the commit and the build, without which figures mean nothing."""
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    model = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    build = "release build" if f"{os.sep}release{os.sep}" in binary else "perhaps no release build: figures say nothing"
    print(f"{os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}; commit {commit or 'unknown'}, {build}", flush=True)


def allow_descriptors():
    """As many as this user may have; programs that are started inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_ports(count):
    """Different ones: all are held until all are chosen."""
    held = [socket.socket() for _ in range(count)]
    try:
        for s in held:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in held]
    finally:
        for s in held:
            s.close()


def await_port(port, process, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args} does not listen on {port}")


class Programs:
    """Programs that end with the benchmark, and a directory that goes with them."""

    def __init__(self, name):
        self.directory = tempfile.mkdtemp(prefix=name)
        self.running, self.started = [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            end(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, command, port=None, core=None, seconds=30):
        """On one core, if it is named; waits until it listens on a port, if that is."""
        pinned = ["taskset", "-c", str(core)] if core is not None else []
        self.started += 1
        log = open(os.path.join(self.directory, f"{self.started}.log"), "w")
        process = subprocess.Popen([*pinned, *command], stdout=log, stderr=log, start_new_session=True)
        log.close()
        self.running.append(process)
        if port is not None:
            await_port(port, process, seconds)
        return process

    def homeostat(self, binary, policy, core=None):
        """A daemon with this policy, once it is ready; answers it and its port."""
        folder = os.path.join(self.directory, f"policy{self.started}")
        os.makedirs(folder)
        with open(os.path.join(folder, "policy.yaml"), "w") as file:
            file.write(policy)
        (port,) = free_ports(1)
        daemon = self.start([binary, "run", folder, "--listen", f"127.0.0.1:{port}"], port, core, seconds=60)
        until = time.monotonic() + 60
        while request(port, "GET", "/readyz")[0] != 200:
            if time.monotonic() > until:
                sys.exit(f"homeostat is not ready: {request(port, 'GET', '/readyz')}")
            time.sleep(0.05)
        return daemon, port

    def end(self, process):
        self.running.remove(process)
        end(process)


def end(process):
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def request(port, method, path, body=None):
    """The status and the JSON (or text) that one request is answered with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text
    finally:
        connection.close()


def percentile(values, percent):
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def resident(pid):
    """Bytes of memory that a process holds."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def processor_time(pid):
    """Seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
