#!/usr/bin/env python3
"""homeostat on another processor: built for 64-bit ARM, and run there, by emulation if need be. (R4-27)

Needs the Debian packages gcc-aarch64-linux-gnu and qemu-user, and the target of the toolchain:

    rustup target add aarch64-unknown-linux-gnu && python3 benches/portable.py [--binary FILE]

Builds (into target/aarch64-unknown-linux-gnu, which takes as long as a first build) unless a binary is given; then lets it check and try all policies, run a policy whose service
is a program, and answer over HTTP. Ends with 0 only if all of that is right.
"""

# Requirement: R4-27

import argparse
import glob
import os
import platform
import subprocess
import sys
import tempfile
import time

from running import ROOT, Programs, free_ports, request

TARGET = "aarch64-unknown-linux-gnu"
POLICY = """service: web
endpoint: 127.0.0.1:{endpoint}
listen: 127.0.0.1:{listen}
process: {{ command: [python3, -m, http.server, "{endpoint}", --bind, 127.0.0.1], ready: {{ port: "127.0.0.1:{endpoint}" }} }}
monitor: {{ sensors: {{ rate: {{ proxy: {{ what: requests, every: 1s }} }} }} }}
"""


def built():
    linker = {"CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc"}
    subprocess.run(["cargo", "build", "--locked", "--target", TARGET], cwd=ROOT, env={**os.environ, **linker}, check=True)
    return os.path.join(ROOT, "target", TARGET, "debug", "homeostat")


def counted(answer):
    status, metric = answer
    return status == 200 and metric.get("reading", metric).get("value", 0) >= 1


def await_answer(until, what, right):
    last = None
    while time.monotonic() < until:
        try:
            if right():
                return
        except OSError as error:
            last = error
        time.sleep(0.2)
    sys.exit(f"{what} does not come: {last}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="one that is built already")
    options = parser.parse_args()
    binary = os.path.abspath(options.binary) if options.binary else built()
    with open(binary, "rb") as file:
        machine = int.from_bytes(file.read(20)[18:20], "little")
    if machine != 183:  # EM_AARCH64
        sys.exit(f"{binary} is for machine {machine} of ELF, not for aarch64 (183)")
    here = platform.machine() in ("aarch64", "arm64")
    command = [binary] if here else ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", binary]
    print(f"{subprocess.check_output([*command, '--version'], text=True).strip()} for aarch64, on {platform.machine()}, {os.path.getsize(binary) >> 20} MiB")
    policies = sorted(glob.glob(os.path.join(ROOT, "policies", "*/")))
    for policy in policies:
        subprocess.run([*command, "check", policy], check=True, stdout=subprocess.DEVNULL)
    out = subprocess.run([*command, "test", *policies], check=True, capture_output=True, text=True).stdout
    print(f"all policies are right: {out.strip().splitlines()[-1]}")
    with Programs("portable") as programs, tempfile.TemporaryDirectory() as folder:
        api, endpoint, listen = free_ports(3)
        with open(os.path.join(folder, "web.yaml"), "w") as file:
            file.write(POLICY.format(endpoint=endpoint, listen=listen))
        programs.start([*command, "run", folder, "--listen", f"127.0.0.1:{api}"], api, seconds=120)
        until = time.monotonic() + 60
        await_answer(until, "the service in front of which homeostat stands", lambda: request(listen, "GET", "/")[0] == 200)
        await_answer(until, "the count of its calls", lambda: counted(request(api, "GET", "/v1/services/web/metrics/rate")))
        print("a program was started, its calls were relayed and counted, and the API answers")


if __name__ == "__main__":
    main()
