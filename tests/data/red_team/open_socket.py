"""Uses the network: connects out, listens, sends datagrams and looks up names."""

import contextlib
import socket
import sys

for address in (("1.1.1.1", 443), ("8.8.8.8", 53), ("10.0.0.1", 80), ("2606:4700:4700::1111", 443)):
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=0.5):
        print("closedloop_escaped: connected to", address, file=sys.stderr)
with contextlib.suppress(OSError):
    print("closedloop_escaped: looked up", socket.getaddrinfo("example.com", 80)[0][4], file=sys.stderr)
with contextlib.suppress(OSError):
    listener = socket.create_server(("0.0.0.0", 48613))
for kind, protocol in ((socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, socket.IPPROTO_ICMP)):
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET, kind, protocol).sendto(b"closedloop_escaped", ("192.0.2.1", 9))


def add(a, b):
    return 0
