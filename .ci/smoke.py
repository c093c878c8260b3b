"""Runs the main command of the README, looks at it through its API and its command line, and stops it with Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

CARGO = ["cargo", "run", "--locked", "--quiet", "--release", "--"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_for(what, question, daemon, seconds):
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer[0]:
            return answer[1]
        if daemon.poll() is not None:
            sys.exit(f"the daemon ended with {daemon.returncode} before {what}")
        if time.monotonic() > end:
            sys.exit(f"not {what} within {seconds} s: {answer[1]}")
        time.sleep(0.1)


def ready(base):
    status, text = get(f"{base}/readyz")
    return status == 200, text


def fresh(base, metric):
    status, text = get(f"{base}/v1/services/host/metrics/{metric}")
    return status == 200 and '"fresh"' in text, text


def main():
    address = f"127.0.0.1:{free_port()}"
    base = f"http://{address}"
    daemon = subprocess.Popen(CARGO + ["run", "policies/host", "--listen", address])
    try:
        wait_for("ready", lambda: ready(base), daemon, 60)
        status, services = get(f"{base}/v1/services")
        names = [service["name"] for service in json.loads(services)]
        assert status == 200 and names == ["host"], services
        reading = wait_for("measured", lambda: fresh(base, "memory_used"), daemon, 30)
        print(f"memory_used: {reading}")
        shown = subprocess.run(CARGO + ["status", "--url", base], check=True, timeout=30, stdout=subprocess.PIPE, text=True)
        print(shown.stdout)
        assert "host" in shown.stdout
        daemon.send_signal(signal.SIGINT)
        code = daemon.wait(30)
        assert code == 0, f"after Ctrl-C it ended with {code}"
        print("it ran, answered, and stopped in order")
    finally:
        if daemon.poll() is None:
            daemon.kill()


main()
