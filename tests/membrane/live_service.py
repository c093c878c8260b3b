"""A service that knows nothing of homeostat: HTTP/1.1 with kept connections, `/stream` answers in slow chunks, everything else at once.

Arguments: the address, and `workers=N` (processes that share the socket), `reuseaddr=no`, `v6only`.
"""

import ctypes
import os
import socket
import sys
import threading
import time

# Where only ancestors may look into a process (yama 1), whoever tests this is let in.
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)

host, words = sys.argv[1], sys.argv[2:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.socket(family)
if "reuseaddr=no" not in words:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int("v6only" in words))
listener.bind((host, int(next((w[5:] for w in words if w.startswith("port=")), "0"))))
listener.listen(1024)
for word in words:
    if word.startswith("workers="):
        for _ in range(int(word[8:]) - 1):
            if os.fork() == 0:
                # It ends with its parent.
                ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
                break
        else:
            print(listener.getsockname()[1], flush=True)
        break
else:
    print(listener.getsockname()[1], flush=True)


def serve(client):
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = client.makefile("rb")
    while True:
        line = file.readline()
        if not line:
            return
        close = False
        while True:
            header = file.readline()
            if header in (b"\r\n", b""):
                break
            close |= header.lower().startswith(b"connection: close")
        if b"/deaf" in line:
            # It stops listening, and keeps the socket.
            listener.shutdown(socket.SHUT_RDWR)
        if b"/stream" in line:
            client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(int(line.split()[1].split(b"/")[-1])):
                client.sendall(b"3\r\n%03d\r\n" % number)
                time.sleep(0.02)
            client.sendall(b"0\r\n\r\n")
        else:
            body = b"%d %s" % (os.getpid(), client.getpeername()[0].encode())
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        if close:
            client.shutdown(socket.SHUT_WR)
            return


while True:
    try:
        client, _ = listener.accept()
    except OSError:
        time.sleep(600)

    def run(client=client):
        try:
            serve(client)
        except OSError:
            pass
        client.close()

    threading.Thread(target=run, daemon=True).start()
