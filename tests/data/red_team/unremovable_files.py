"""Leaves directories without permissions, odd names, set-uid files and locks, so that cleaning up fails."""

import contextlib
import fcntl
import os
import shutil

with contextlib.suppress(OSError):
    os.makedirs("locked/inner", exist_ok=True)
    for name in ("-rf", "new\nline", "\udcff\udcfe", "n" * 255, " "):
        with contextlib.suppress(OSError), open(os.path.join("locked/inner", name), "w") as odd:
            odd.write("closedloop")
    shutil.copy("/bin/true", "locked/setuid")
    os.chmod("locked/setuid", 0o6755)
    lock = os.open("locked/lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.chmod("locked/inner", 0)
    os.chmod("locked", 0)


def add(a, b):
    return 0
