"""Makes hard links to files outside and opens them for writing under their new names."""

import contextlib
import os
import sys

for number, path in enumerate(("/etc/passwd", "/etc/hosts", "/usr/bin/env", sys.executable, os.__file__)):
    with contextlib.suppress(OSError):
        os.link(path, f"link{number}")
        os.close(os.open(f"link{number}", os.O_WRONLY | os.O_APPEND))
        print("closedloop_escaped: may write", path, file=sys.stderr)


def add(a, b):
    return 0
