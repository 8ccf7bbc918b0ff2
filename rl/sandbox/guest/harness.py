"""Runs the tests against a judged program that lives in another sandbox. Standard library only, pytest where asked for.

Stays alive in a sandbox of its own and forks for every job, so that a job costs no interpreter start. The judged
program is present as proxies: calls travel to it, plain data comes back.
"""

import array
import ast
import builtins
import os
import resource
import signal
import socket
import sys
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire

MEMORY = 2**30
"""Bytes that a job's tests may use; what a program returns can be large."""


def main():
    control = socket.socket(fileno=int(sys.argv[1]))
    sys.path.extend(sys.argv[2:])
    if sys.argv[2:]:
        import pytest  # noqa: F401 - takes seconds: once, and not in every fork
    wire.send(control, {"ready": True})
    while True:
        try:
            job, link = receive_job(control)
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            signal.alarm(int(job["wall_s"]) + 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            try:
                Harness(control, link, job).run()
            finally:
                os._exit(0)
        os.close(link)
        os.waitpid(child, 0)
        wire.send(control, {"done": True})


def receive_job(control):
    """A job, and the descriptor of the socket to its judged program, which travels with an extra byte before it."""
    fds = array.array("i")
    byte, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
    if not byte:
        raise EOFError
    fds.frombytes(ancillary[0][2][: fds.itemsize])
    return wire.receive(control), fds[0]


class Harness:
    def __init__(self, control, link, job):
        self.control = control
        self.job = job
        self.solution = Solution(socket.socket(fileno=link))

    def run(self):
        try:
            self.solution.ask({"do": "load", "source": self.job["source"]})
        except BaseException as error:  # noqa: BLE001 - a program that cannot be loaded fails every test
            self.report("load", False, error)
            return
        if self.job["style"] == "pytest":
            self.pytest()
        else:
            self.asserts()

    def report(self, name, passed, error=None):
        detail = "" if error is None else f"{type(error).__name__}: {error}"[:300]
        wire.send(self.control, {"test": name, "passed": passed, "detail": detail})

    def asserts(self):
        """Every test is a piece of code that raises if it fails. The setup runs once, before them."""
        names = {"__name__": "tests"}
        own = [self.job["setup"], *self.job["tests"]]
        wanted, modules = undefined_names(own)
        try:
            names |= {name: __import__(name) for name in modules}
            if not self.job["entry_points"]:
                self.borrow(wanted, names)
            exec(compile(self.job["setup"], "setup", "exec"), names)  # noqa: S102 - the task's own code
            self.borrow(self.job["entry_points"], names)
        except BaseException as error:  # noqa: BLE001 - as below
            self.report("setup", False, error)
            return
        for number, test in enumerate(self.job["tests"]):
            try:
                exec(compile(test, f"test {number}", "exec"), names)  # noqa: S102 - the task's own code
            except BaseException as error:  # noqa: BLE001 - any exception is a failed test
                self.report(str(number), False, error)
            else:
                self.report(str(number), True)

    def borrow(self, wanted, names):
        for name in wanted:
            try:
                names[name] = self.solution.named(name)
            except (KeyError, NameError):
                continue

    def pytest(self):
        """The tests are a pytest file that imports the program as a module."""
        import pytest

        module = types.ModuleType(self.job["module"])
        module.__getattr__ = self.attribute
        sys.modules[self.job["module"]] = module
        path = "/tmp/test_solution.py"  # noqa: S108 - a file system of its own
        with open(path, "w") as file:
            file.write("\n".join([self.job["setup"], *self.job["tests"]]))
        harness = self

        class Reporter:
            def pytest_runtest_logreport(self, report):
                if report.when == "call" or not report.passed:
                    ok = report.when == "call" and report.passed and not hasattr(report, "wasxfail")
                    error = None if ok else AssertionError(str(report.longrepr)[-300:])
                    harness.report(report.nodeid.partition("::")[2], ok, error)

            def pytest_collectreport(self, report):
                if report.failed:
                    harness.report("collection", False, ImportError(str(report.longrepr)[-300:]))

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir=/tmp", "-c", "/dev/null", path], plugins=[Reporter()])

    def attribute(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.solution.named(name)
        except KeyError:
            raise AttributeError(name) from None


def undefined_names(sources):
    """Names that the code uses but does not define: those the program must define, and standard modules.

    A module's name is never looked up in the program, or a program with a ``math`` of its own could decide what
    ``math.isclose`` says; unless the code calls it, which no one does with a module.
    """
    used, called, defined = set(), set(), set(dir(builtins))
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.alias):
                defined.add((node.asname or node.name).partition(".")[0])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called.add(node.func.id)
    modules = (used - defined - called) & set(sys.stdlib_module_names)
    # Tests that use no name of the program's own must be about a function called like a built-in one.
    wanted = used - defined - modules or called & set(dir(builtins))
    return sorted(wanted), sorted(modules)


class Solution:
    """The judged program, from afar."""

    def __init__(self, link):
        self.link = link
        self.errors = {}

    def named(self, name):
        return self.do("name", name)

    def do(self, operation, *args):
        return wire.unpack(self.ask({"do": operation, "args": [self.pack(a) for a in args]}), self.resolve)

    def call(self, target, args, kwargs):
        reply = self.ask(
            {
                "do": "call",
                "args": [self.pack(target), *(self.pack(a) for a in args)],
                "kwargs": {k: self.pack(v) for k, v in kwargs.items()},
            }
        )
        for index, data in reply["changed"]:
            write_back(args[index], wire.unpack(data, self.resolve))
        return wire.unpack(reply["result"], self.resolve)

    def ask(self, request):
        wire.send(self.link, request)
        reply = wire.receive(self.link)
        if "raised" in reply:
            raise self.error(reply["raised"])
        return reply["value"]

    def pack(self, value):
        return wire.pack(value, self.refer)

    @staticmethod
    def refer(value):
        if isinstance(value, Remote):
            return {"reference": object.__getattribute__(value, "_number")}
        name = getattr(value, "__name__", "")
        if name and getattr(builtins, name, None) is value:
            return {"builtin": name}
        raise TypeError(f"tests can hand plain data to the program, not {type(value).__name__}")

    def resolve(self, data):
        number = int(data["reference"])
        if data["exceptions"]:
            return self.errors.setdefault(data["exceptions"][0], mirrored(data["exceptions"]))
        if data["type"] == "module":
            raise KeyError(number)
        return Remote(self, number)

    def error(self, raised):
        kind = self.errors.get(raised["types"][0]) or mirrored(raised["types"])
        return kind(raised["text"])


def mirrored(names):
    """An exception class like the program's own: below the nearest built-in ``Exception`` that it derives from."""
    for name in names:
        found = getattr(builtins, str(name), None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found if name == names[0] else type(str(names[0]), (found,), {})
    return RuntimeError


def write_back(mine, theirs):
    """Carry what a call did to its argument over to the caller's own object."""
    if type(mine) is not type(theirs):
        return
    if isinstance(mine, list | bytearray):
        mine[:] = theirs
    elif isinstance(mine, set | dict):
        mine.clear()
        mine.update(theirs)


class Remote:
    """An object of the judged program. It equals only itself, so no answer of the program decides a comparison."""

    __slots__ = ("_number", "_solution")

    def __init__(self, solution, number):
        object.__setattr__(self, "_solution", solution)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name):
        return self._solution.do("get", self, name)

    def __setattr__(self, name, value):
        self._solution.do("set", self, name, value)

    def __call__(self, *args, **kwargs):
        return self._solution.call(self, args, kwargs)

    def __getitem__(self, key):
        return self._solution.do("item", self, key)

    def __setitem__(self, key, value):
        self._solution.do("put", self, key, value)

    def __len__(self):
        return self._solution.do("len", self)

    def __iter__(self):
        return self._solution.do("iter", self)

    def __next__(self):
        return self._solution.do("next", self)

    def __str__(self):
        return self._solution.do("str", self)

    def __repr__(self):
        return self._solution.do("repr", self)


if __name__ == "__main__":
    main()
