"""A Python interpreter that remembers, inside a sandbox of its own. Standard library only.

    session.py FD

Answers ``{"do": "python", "code": …}`` with what the code printed, its last expression's value and its traceback, and
``shell``, ``write``, ``text`` and ``read`` for work on files below ``/tmp``. Nothing here is trusted by the other side.
"""

import os
import stat
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire
from judged import limit

HOME = "/tmp"  # noqa: S108 - the sandbox's own
MOST = 2 * 2**20
"""Bytes of files in one answer: as JSON they grow sixfold at worst, and must fit into a message."""


def main():
    fd = int(sys.argv[1])
    link = wire.Descriptor(fd)
    limits = wire.receive(link)
    sys.path[:] = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))] + limits["paths"]
    limit(limits)
    os.environ.update(HOME=HOME, PATH="/usr/bin:/bin", LANG="C.UTF-8", PYTHONDONTWRITEBYTECODE="1")
    session = Session(limits["output_kib"] * 1024)
    wire.send(link, {"ready": True})
    while True:
        try:
            request = wire.receive(link)
        except EOFError:
            return
        try:
            reply = getattr(session, request.pop("do"))(**request)
        except BaseException as error:  # noqa: BLE001 - every request is answered
            reply = {"output": "", "error": f"{type(error).__name__}: {error}"}
        wire.send(link, reply)


class Session:
    def __init__(self, most):
        self.most = most
        self.names = {"__name__": "__main__"}

    def python(self, code):
        """Run statements; a last expression is printed as the interactive interpreter would."""
        import ast
        import traceback

        def run():
            try:
                tree = ast.parse(code, "<code>")
                last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
                exec(compile(tree, "<code>", "exec"), self.names)  # noqa: S102 - what this is for
                if last is not None:
                    value = eval(compile(ast.Expression(last.value), "<code>", "eval"), self.names)  # noqa: S307
                    if value is not None:
                        sys.stdout.write(f"{value!r}\n")
            except SystemExit:
                pass
            except BaseException as error:  # noqa: BLE001 - the traceback is the output
                found = traceback.TracebackException.from_exception(error)
                found.stack = traceback.StackSummary.from_list([f for f in found.stack if f.filename == "<code>"])
                sys.stderr.write("".join(found.format()))

        return {"output": self.captured(run)}

    def shell(self, command, cwd):
        import subprocess

        status = []

        def run():
            shell = ["/bin/sh", "-c", command]
            status.append(subprocess.run(shell, cwd=cwd, stdin=subprocess.DEVNULL, check=False).returncode)  # noqa: S603

        return {"output": self.captured(run), "status": status[0] if status else 1}

    def captured(self, run):
        """What ``run`` and the processes that it starts write to standard output and error."""
        at = os.memfd_create("output")
        kept = os.dup(1), os.dup(2)
        try:
            os.dup2(at, 1)
            os.dup2(at, 2)
            try:
                run()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                os.dup2(kept[0], 1)
                os.dup2(kept[1], 2)
            size = os.lseek(at, 0, os.SEEK_END)
            start, end = os.pread(at, self.most, 0), b""
            if size > self.most:
                start, end = start[: self.most // 2], os.pread(at, self.most // 2, size - self.most // 2)
            gap = "\n[...]\n" if end else ""
            return start.decode(errors="replace") + gap + end.decode(errors="replace")
        finally:
            for number in (at, *kept):
                os.close(number)

    def write(self, files):
        for path, text in files.items():
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        return {}

    def text(self, path):
        """One text file."""
        return {"text": content(path, MOST).decode()}

    def read(self, folder):
        """All text files below a folder, by relative path. Raises ``ValueError`` if they are too much for an answer."""
        found, left = {}, MOST
        for base, folders, names in os.walk(folder):
            folders[:] = sorted(f for f in folders if f not in ("__pycache__", ".git", ".pytest_cache"))
            for name in sorted(names):
                path = os.path.join(base, name)
                left -= len(name)
                try:
                    data = content(path, left)
                    found[os.path.relpath(path, folder)] = data.decode()
                except (OSError, UnicodeDecodeError):
                    continue  # what is no text is not work on the code
                left -= len(data)
        return {"files": found}


def content(path, most):
    """A file's bytes. Refuses what is no regular file: a pipe would be waited for, a device read without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a file")
    with open(path, "rb") as file:
        data = file.read(max(0, most) + 1)
    if len(data) > most:
        raise ValueError(f"files must have at most {MOST} bytes together")
    return data


if __name__ == "__main__":
    main()
