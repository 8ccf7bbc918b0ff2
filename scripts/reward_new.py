"""``closedloop reward new``: a package with a reward, its configuration, a test and sample rows, to be changed."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parent / "templates" / "reward"
LAYOUT = {
    "reward.py.txt": "{module}/reward.py",
    "config.yaml.txt": "conf/reward/{name}.yaml",
    "test_reward.py.txt": "tests/test_{name}.py",
    "pyproject.toml.txt": "pyproject.toml",
    "rows.jsonl.txt": "rows.jsonl",
    "README.md.txt": "README.md",
}
"""Template to the file it becomes."""


def new_reward(name: str, parent: Path) -> Path:
    """Write the package into a new folder below ``parent``; returns the folder.

    Raises ``ValueError`` if the name is no Python name or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"NAME must be a Python name in lower case, such as my_reward, got {name!r}")
    folder = parent / name
    if folder.exists():
        raise ValueError(f"NAME must not be taken, got {name}: {folder} exists")
    module = f"{name}_plugin"
    words = {
        "name": name,
        "module": module,
        "folder": folder.name,
        "distribution": f"closedloop-{name.replace('_', '-')}",
    }
    texts = {
        folder / target.format(**words): Template((TEMPLATES / source).read_text()).substitute(words)
        for source, target in LAYOUT.items()
    }
    for path, text in {**texts, folder / module / "__init__.py": ""}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
