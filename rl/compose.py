"""Hydra: from command-line overrides to a checked ``Config``, or one line that says what is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rl.config import Config

REPOSITORY = Path(__file__).resolve().parent.parent
CONF = REPOSITORY / "conf"


def load_config(overrides: Sequence[str], *, config_dir: str | None = None) -> Config:
    """Compose ``conf/config.yaml`` with overrides as on Hydra's command line.

    ``config_dir`` is searched before ``conf/`` for group files and experiments. Raises ``ValueError`` in one line.
    """
    OmegaConf.register_new_resolver("repository", lambda path: str(REPOSITORY / path), replace=True)
    ConfigStore.instance().store(name="schema", node=Config)
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ValueError(f"--config-dir must be a folder, got {config_dir}")
    search = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", overrides=[*search, *overrides])
        config = OmegaConf.to_object(composed)
    except (HydraException, ConfigCompositionException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error)) from error
    assert isinstance(config, Config)
    return config


def option_paths(cls: type = Config, prefix: str = "") -> list[str]:
    """Every settable field, dotted."""
    paths = []
    for field in fields(cls):
        path = prefix + field.name
        kind: Any = field.default_factory
        paths += option_paths(kind, path + ".") if isinstance(kind, type) and is_dataclass(kind) else [path]
    return paths


def _explain(error: BaseException) -> str:
    """Hydra's message in one line, with the nearest thing that exists where a name is wrong."""
    chain: list[BaseException] = []
    node: BaseException | None = error
    while node is not None:
        chain.append(node)
        node = node.__cause__ or node.__context__
    text = "; ".join(dict.fromkeys(" ".join(str(e).split()) for e in reversed(chain) if str(e).strip()))
    text = re.sub(r"full_key: (\S+) object_type=\S+", r"at \1", text)
    wanted = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if wanted:
        name = wanted.group(1).lstrip("+~")
        near = difflib.get_close_matches(name, option_paths(), n=1, cutoff=0.5)
        return f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "; see closedloop train --help")
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing and "/" in missing.group(1):
        group, name = missing.group(1).rsplit("/", 1)
        there = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
        return f"{group}={name} does not exist; choose one of {', '.join(there)}"
    return text
