"""Leaves a marker in every directory of the system that it can reach."""

import contextlib
import os

FOLDERS = ["/", "/usr", "/usr/bin", "/etc", "/var", "/var/tmp", "/tmp", "/tmp/..", "/opt", "/srv", "/run"]
FOLDERS += ["/dev", "/dev/shm", "/proc/1/cwd", "/proc/1/root/tmp", "/proc/self/root/..", "/sys/fs/cgroup", "/root"]
FOLDERS += ["/work", "/home", os.path.expanduser("~"), *("../" * depth for depth in range(1, 12))]
for folder in FOLDERS:
    with contextlib.suppress(OSError), open(os.path.join(folder, "closedloop_escaped"), "w") as marker:
        marker.write("write_outside")


def add(a, b):
    return 0
