"""What an engine's process is given before vLLM is imported."""

import os

import pytest

from rl.workers.vllm_compat import prepare_environment

OUTGOING = 32_768
"""From here on Linux hands out ports to connections."""


def first_port(monkeypatch, pid, **given):
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(os, "getpid", lambda: pid)
    prepare_environment(threads=None)
    return int(os.environ["VLLM_PORT"])


@pytest.mark.parametrize("pid", [1, 1_999, 2_000, 4_194_304])
def test_engines_that_start_together_look_for_ports_in_different_places(monkeypatch, pid):
    ports = [first_port(monkeypatch, pid + i) for i in range(100)]
    assert len(set(ports)) == 100
    assert all(1_024 < port < OUTGOING - 10 for port in ports)


def test_a_port_that_the_user_chose_stays(monkeypatch):
    assert first_port(monkeypatch, 7, VLLM_PORT="4711") == 4711
