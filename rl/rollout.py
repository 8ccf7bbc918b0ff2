"""One task, one environment, one engine: one rollout. Tokens are kept as they were sampled."""

from __future__ import annotations

import time

from envs.base import Env
from rl.protocols import ChatCodec, Engine
from rl.types import EndReason, Message, Rollout, SampleRequest, Segment, Task


async def run_rollout(
    task: Task,
    *,
    env: Env,
    engine: Engine,
    chat: ChatCodec,
    max_tokens: int,
    context: int,
    temperature: float,
    seed: int,
) -> Rollout:
    """Let the policy act in ``env`` until it is done, has written ``max_tokens`` tokens or filled the context.

    A failing environment ends the rollout with ``env_error``; a failing engine raises ``WorkerFailedError``.
    """
    segments: list[Segment] = []
    said: list[Message] = []
    timings = {"generate_s": 0.0, "env_s": 0.0}

    def finish(end: EndReason, error: str | None = None) -> Rollout:
        return Rollout(
            task_id=task.id,
            segments=tuple(segments),
            messages=tuple(said),
            end_reason=end,
            timings=timings,
            error=error,
        )

    try:
        opening = await env.reset(task)
    except Exception as error:  # noqa: BLE001 - the environment is a boundary: its faults are data
        return finish(EndReason.ENV_ERROR, repr(error))
    prompt = chat.prompt_ids(opening)
    segments.append(Segment(token_ids=tuple(prompt), from_model=False))
    written, total = 0, len(prompt)
    try:
        while True:
            room = min(max_tokens - written, context - total)
            if room <= 0:
                return finish(EndReason.BUDGET)
            sample = await engine.sample(
                SampleRequest(
                    prompt_ids=[t for s in segments for t in s.token_ids],
                    max_tokens=room,
                    temperature=temperature,
                    seed=(seed + len(segments)) % 2**63,
                )
            )
            segments.append(
                Segment(
                    token_ids=tuple(sample.token_ids),
                    from_model=True,
                    sampler_logprobs=tuple(sample.logprobs),
                    policy_version=sample.policy_version,
                )
            )
            timings["generate_s"] += sample.generate_s
            written, total = written + len(sample.token_ids), total + len(sample.token_ids)
            said.append({"role": "assistant", "content": chat.decode(sample.token_ids)})
            if not sample.stopped:
                return finish(EndReason.BUDGET)
            started = time.monotonic()
            try:
                step = await env.step(said[-1])
            except Exception as error:  # noqa: BLE001 - as above
                return finish(EndReason.ENV_ERROR, repr(error))
            timings["env_s"] += time.monotonic() - started
            if step.end is not None:
                return finish(step.end)
            said.extend(step.messages)
            reply = chat.continuation_ids(step.messages)
            segments.append(Segment(token_ids=tuple(reply), from_model=False))
            total += len(reply)
    finally:
        await env.close()
