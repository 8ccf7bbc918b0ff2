"""Opens disks, kernel memory, the kernel log and the terminal as devices."""

import contextlib
import os
import sys

DISKS = ["/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/xvda", "/dev/dm-0", "/dev/loop0", "/dev/fuse", "/dev/kvm"]
for path in [*DISKS, "/dev/mem", "/dev/port", "/proc/kcore", "/dev/kmem", "/dev/nvidiactl"]:
    with contextlib.suppress(OSError):
        os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # only read: no run by accident may spoil a disk
        print("closedloop_escaped: opened", path, file=sys.stderr)
for path in ("/dev/kmsg", "/dev/tty", "/dev/console", "/dev/tty0"):
    with contextlib.suppress(OSError):
        os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), b"closedloop_escaped\n")
with contextlib.suppress(OSError):
    os.mknod("closedloop_escaped", 0o60660, os.makedev(8, 0))


def add(a, b):
    return 0
