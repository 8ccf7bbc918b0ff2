"""What a run counts of the engines and services that it lost."""

from types import SimpleNamespace

import pytest

from rl.launch import _health


def pool(lost, serving):
    return SimpleNamespace(metrics=lambda: {"fault/engines": lost, "rollout/engines": serving})


@pytest.mark.parametrize(("critic", "lost"), [(None, 1.0), (pool(2.0, 4.0), 3.0)])
def test_the_critics_own_engines_count_too_but_sample_no_rollouts(critic, lost):
    services = SimpleNamespace(metrics=lambda: {"fault/env_service": 5.0})
    workers = SimpleNamespace(pool=pool(1.0, 3.0), critic_pool=critic, env_pool=services)
    assert _health(workers) == {"fault/engines": lost, "rollout/engines": 3.0, "fault/env_service": 5.0}
