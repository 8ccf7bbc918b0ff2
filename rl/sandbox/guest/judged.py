"""Runs the judged program inside its sandbox and lets the tests, which are elsewhere, call it. Standard library only.

Nothing here is trusted by the other side: the program may do with this process what it likes. All it can do is answer
calls with data.
"""

import builtins
import os
import resource
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire

KEPT = 100_000
"""References handed out at most."""


def main():
    fd = int(sys.argv[1])
    limits = wire.receive(wire.Descriptor(fd))
    sys.path.extend(limits["paths"])
    limit(limits)
    Program(fd, limits).serve()


def limit(limits):
    """Hard limits, for this process and what it starts; none can be raised again."""
    for name, value in (
        ("RLIMIT_CPU", limits["cpu_s"]),
        ("RLIMIT_AS", limits["memory_mib"] * 2**20),
        ("RLIMIT_FSIZE", limits["disk_mib"] * 2**20),
        ("RLIMIT_NPROC", limits["processes"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.setrecursionlimit(5000)


class Program:
    def __init__(self, fd, limits):
        self.link = wire.Descriptor(fd)
        self.limits = limits
        self.kept = []
        self.names = {"__name__": "solution"}

    def serve(self):
        while True:
            try:
                request = wire.receive(self.link)
            except EOFError:
                return
            try:
                reply = {"value": self.answer(request)}
            except BaseException as error:  # noqa: BLE001 - the tests decide what an exception means
                reply = {"raised": self.describe(error)}
            try:
                wire.send(self.link, reply)
            except (ValueError, RecursionError, MemoryError) as error:
                wire.send(self.link, {"raised": self.describe(error)})

    def answer(self, request):
        operation = request["do"]
        if operation == "load":
            exec(compile(request["source"], "solution.py", "exec"), self.names)  # noqa: S102 - what this is for
            return None
        if operation == "run":
            return self.run(request["source"], request["stdin"])
        args = [wire.unpack(a, self.resolve) for a in request["args"]]
        if operation == "name":
            return wire.pack(self.names[args[0]], self.refer)
        if operation == "call":
            target, *args = args
            kwargs = {k: wire.unpack(v, self.resolve) for k, v in request["kwargs"].items()}
            before = [wire.pack(a, self.refer) for a in args]
            result = wire.pack(target(*args, **kwargs), self.refer)
            after = [wire.pack(a, self.refer) for a in args]
            changed = [[i, new] for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
            return {"result": result, "changed": changed}
        return wire.pack(OPERATIONS[operation](*args), self.refer)

    def refer(self, value):
        if len(self.kept) >= KEPT:
            raise MemoryError("too many objects")
        self.kept.append(value)
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        return {
            "reference": len(self.kept) - 1,
            "type": type(value).__name__,
            "exceptions": [c.__name__ for c in value.__mro__] if is_error else [],
        }

    def resolve(self, data):
        if "builtin" in data:
            return getattr(builtins, data["builtin"])
        return self.kept[data["reference"]]

    def describe(self, error):
        return {"types": [c.__name__ for c in type(error).__mro__], "text": repr(error)[:500]}

    def run(self, source, stdin):
        """Run the program as a script, in a process of its own; returns its standard output and its exit status."""
        into, out = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(into[0], 0)
            os.dup2(out[1], 1)
            os.closerange(3, 64)
            status = 1
            try:
                exec(compile(source, "solution.py", "exec"), {"__name__": "__main__"})  # noqa: S102
                status = 0
            except SystemExit as end:
                status = 0 if end.code in (None, 0) else 1
            except BaseException:  # noqa: BLE001 - the exit status says it
                status = 1
            finally:
                try:
                    sys.stdout.flush()
                finally:
                    os._exit(status)
        os.close(into[0])
        os.close(out[1])
        try:
            return self.converse(child, into[1], out[0], stdin.encode())
        finally:
            os.close(out[0])

    def converse(self, child, into, out, data):
        import select

        most, got, deadline = self.limits["output_kib"] * 1024, b"", time.monotonic() + self.limits["test_s"]
        os.set_blocking(into, False)
        while time.monotonic() < deadline and len(got) <= most:
            wanted = [into] if data is not None else []
            readable, writable, _ = select.select([out], wanted, [], max(0.0, deadline - time.monotonic()))
            if writable:
                try:
                    data = data[os.write(into, data[:65536]) :]
                except BrokenPipeError:
                    data = b""
                if not data:
                    os.close(into)
                    data = None
            if readable:
                part = os.read(out, 65536)
                if not part:
                    break
                got += part
        status = self.reap(child, deadline)
        return {"output": got[: most + 1].decode(errors="replace"), "status": status, "cut": len(got) > most}

    def reap(self, child, deadline):
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid or time.monotonic() >= deadline:
                break
            time.sleep(0.002)
        try:
            os.killpg(child, 9)
        except ProcessLookupError:
            pass
        if not pid:
            os.waitpid(child, 0)
            return "timeout"
        return os.waitstatus_to_exitcode(status)


OPERATIONS = {
    "get": getattr,
    "set": setattr,
    "item": lambda target, key: target[key],
    "put": lambda target, key, value: target.__setitem__(key, value),
    "len": len,
    "iter": iter,
    "next": next,
    "str": str,
    "repr": repr,
}

if __name__ == "__main__":
    main()
