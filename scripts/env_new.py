"""``closedloop env new``: an environment in one file, and a test of it, to be changed."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parent / "templates" / "env"
LAYOUT = {"env.py.txt": "{name}.py", "test_env.py.txt": "test_{name}.py"}
"""Template to the file it becomes."""


def new_env(name: str, parent: Path) -> tuple[list[Path], str]:
    """Write the files into ``parent``; returns them and the environment's dotted path.

    Raises ``ValueError`` if the name is no Python name or one of the files exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"NAME must be a Python name in lower case, such as my_env, got {name!r}")
    words = {"name": name, "type": name.title().replace("_", "")}
    texts = {
        parent / target.format(**words): Template((TEMPLATES / source).read_text()).substitute(words)
        for source, target in LAYOUT.items()
    }
    for path in texts:
        if path.exists():
            raise ValueError(f"NAME must not be taken, got {name}: {path} exists")
    parent.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
    return list(texts), f"{name}.{words['type']}"
