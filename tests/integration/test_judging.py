"""Real engines judge; one of them dies at it."""

import asyncio

import ray

from critic.critic import Critic
from critic.judge import Judge
from critic.pairs import AllPairs
from rl.compose import load_config
from rl.prepare import prepare
from rl.types import EndReason, Rollout, RolloutGroup, Score, Task
from rl.workers import placement
from rl.workers.rollout_pool import RolloutPool
from rl.workers.vllm_compat import EngineOptions


def said(task, text):
    messages = ({"role": "assistant", "content": text},)
    return Rollout(task_id=task.id, segments=(), messages=messages, end_reason=EndReason.STOP)


def groups(count):
    made = []
    for number in range(10, 10 + count):
        messages = ({"role": "user", "content": f"Tell me about {number}."},)
        task = Task(id=f"fact-{number}", kind="chat", messages=messages)
        replies = [f"{number} is {word}." for word in ("odd", "even", "over 20", "under 30")]
        scores = (Score(value=0.0),) * len(replies)
        made.append(RolloutGroup(task=task, rollouts=tuple(said(task, r) for r in replies), scores=scores))
    return made


def test_an_engine_that_dies_while_judging_costs_no_judgement():
    config = load_config([])
    parts = prepare(config)
    made = parts.critic
    options = EngineOptions(
        model=config.model.path, dtype="float32", context=512, concurrency=4, stop_token_ids=parts.chat.stop_token_ids,
        kv_cache_gib=0.25, gpu_memory_share=0.5, tensor_parallel=1, enforce_eager=True, seed=0, threads=1,
    )  # fmt: skip
    placement.connect(config.cluster)
    try:
        engines, up = placement.start_rollout_workers(options, config.cluster, count=2)
        placement.wait_started(up, config.cluster)
        with asyncio.Runner() as runner:
            pool = RolloutPool(engines, deadline_s=60)
            judge = Judge(
                engine=pool, chat=parts.chat, prompts=made.prompts, rubrics=made.rubrics, context=512, max_tokens=80,
                temperature=0.0, graded=False,
            )  # fmt: skip
            critic = Critic(
                judge=judge, kinds=frozenset({"chat"}), schedule=AllPairs(), ranking=made.ranking, refresh=made.refresh,
                guard=made.guard, pass_value=1.0, learns=True,
            )  # fmt: skip

            async def judged_while_one_dies():
                ranking = asyncio.gather(*(critic.rank(group) for group in groups(16)))
                while not judge.tokens:
                    await asyncio.sleep(0.01)
                ray.kill(engines[0])
                return await ranking

            ranked = runner.run(judged_while_one_dies())
            metrics = critic.metrics([])
            assert pool.metrics()["fault/engines"] == 1
            assert metrics["critic/judgements"] > 0
            assert metrics["fault/critic/engine"] == 0, "what it owed was asked of the other one"
            assert len(ranked) == 16
            # The next round is whole, too.
            (again,) = runner.run(asyncio.wait_for(asyncio.gather(critic.rank(groups(1)[0])), timeout=60))
            assert critic.metrics([])["fault/critic/engine"] == 0
            assert len(again.scores) == 4
    finally:
        placement.disconnect()
