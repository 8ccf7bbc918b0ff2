"""A small MCP server: sums, notes that it keeps, and ways to fail.

Its first argument is a folder in which it leaves its process id. ``late`` is never ready, ``stubborn`` does not end
when it is asked to, and ``http <port>`` speaks HTTP.
"""

import os
import signal
import sys
import time
from pathlib import Path

Path(sys.argv[1], str(os.getpid())).touch()

from mcp.server.mcpserver import Image, MCPServer  # noqa: E402 - takes so long that a start may be cut off in it
from mcp.server.mcpserver.exceptions import ToolError  # noqa: E402

server = MCPServer("small", log_level="ERROR")
notes = []


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def note(text: str) -> list[str]:
    """Keeps a note and returns all."""
    notes.append(text)
    return notes


@server.tool()
def refuse(why: str) -> str:
    """Never works."""
    raise ToolError(why)


@server.tool()
def draw():
    """Returns a picture between two words."""
    return ["before", Image(data=b"x", format="png"), "after"]


@server.tool()
def arguments() -> str:
    """What the server was started with."""
    return " ".join([*sys.argv[2:], os.environ.get("COLOUR", "no colour")])


@server.tool()
def die() -> str:
    """Ends the server."""
    sys.stderr.write("out of luck\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool()
def hang() -> str:
    """Says nothing for ten minutes."""
    time.sleep(600)
    return "at last"


if __name__ == "__main__":
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "late" in sys.argv:
        time.sleep(600)
    if "http" in sys.argv:
        server.run("streamable-http", port=int(sys.argv[3]))
    else:
        server.run()
