"""How a process is shut in: bubblewrap, or nothing at all where the user insists."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rl.errors import ToolMissingError

GUEST = Path(__file__).parent / "guest"
NOBODY = 65534

MEND = (
    "install bubblewrap (apt-get install bubblewrap) and allow user namespaces, or accept the risk of running the "
    "policy's programs as they are with allow_unsandboxed=true"
)

_PROBE = """
import errno, os, resource, socket, sys
assert not any(map(os.path.exists, ("/etc/shadow", "/root", "/home"))), "sees the machine's files"
assert len([p for p in os.listdir("/proc") if p.isdigit()]) <= 2, "sees other processes"
assert os.listdir("/tmp") == [], "sees the machine's temporary files"
try:
    socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    sys.exit("has a network")
except OSError as error:
    assert error.errno == errno.ENETUNREACH, "has a network"
resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))
children = []
try:
    for _ in range(64):
        child = os.fork()
        if child == 0:
            os.read(0, 1)
            os._exit(0)
        children.append(child)
    sys.exit("may start any number of processes")
except BlockingIOError:
    print("isolated")
"""


def bubblewrap(arguments: Sequence[str], *, disk_mib: int, paths: Sequence[str] = ()) -> list[str]:
    """The command that runs Python with ``arguments`` fully unshared.

    The root is read-only and holds the system's libraries, Python, the guest programs and ``paths``; ``/tmp`` is an
    empty file system of ``disk_mib``. No network, no other processes, no capabilities, no further namespaces.
    """
    command = [*_drop_root(), _bwrap(), "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    command += ["--new-session", "--clearenv", "--cap-drop", "ALL", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    command += ["--hostname", "sandbox"]
    for path in _system_folders():
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        else:
            command += ["--ro-bind", str(path), str(path)]
    # The new /tmp comes before what is shown of the machine, some of which may lie below its /tmp.
    command += ["--size", str(disk_mib * 2**20), "--tmpfs", "/tmp"]  # noqa: S108 - a new one
    for folder in dict.fromkeys([str(Path(python()).parent.parent), *paths]):
        if folder != "/usr":
            command += ["--ro-bind", folder, folder]
    command += ["--ro-bind", str(GUEST), "/guest", "--proc", "/proc", "--dev", "/dev"]
    command += ["--size", str(2**20), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    command += ["--chdir", "/tmp", "--remount-ro", "/"]  # noqa: S108
    return [*command, "--", python(), "-I", "-S", "-B", *arguments]


def unsandboxed(arguments: Sequence[str]) -> list[str]:
    """The command that runs Python with ``arguments`` with no isolation at all."""
    return [python(), "-I", "-S", "-B", *arguments]


@functools.cache
def python() -> str:
    """The interpreter for guests: this one's base, or the system's where a guest may not read that one's folder."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for candidate in (own, Path("/usr/bin/python3"), Path("/usr/local/bin/python3")):
        if candidate.exists() and (os.geteuid() != 0 or _open_to_all(candidate.resolve())):
            return str(candidate.resolve())
    raise ToolMissingError(f"the sandbox needs a Python that every user may run, and {own} is not: {MEND}")


def _open_to_all(path: Path) -> bool:
    return all(p.stat().st_mode & 0o001 for p in (path, *path.parents))


@functools.cache
def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise ToolMissingError(f"the sandbox needs bubblewrap, which is not installed: {MEND}")
    return found


@functools.cache
def _drop_root() -> tuple[str, ...]:
    """Become nobody first: the limit on processes does not hold for root, whatever it is called inside."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ToolMissingError(f"the sandbox needs setpriv (util-linux) when it is started by root: {MEND}")
    return (setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


@functools.cache
def _system_folders() -> tuple[Path, ...]:
    names = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives")
    return tuple(path for path in map(Path, names) if path.exists())


@functools.cache
def problem() -> str | None:
    """Why programs cannot be isolated on this machine, or None if they can: tried out, not guessed."""
    try:
        command = bubblewrap(["-c", _PROBE], disk_mib=1)
    except ToolMissingError as error:
        return str(error)
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here: {error}: {MEND}"
    if done.stdout.strip() != "isolated":
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return f"bubblewrap does not isolate here: {said}: {MEND}"
    return None


if __name__ == "__main__":
    sys.exit(problem())
