"""Loops end early, and what people write is none (I16)."""

import asyncio

from rl.compose import REPOSITORY, load_config
from rl.types import SampleRequest
from rl.workers import placement
from rl.workers.rollout_pool import RolloutPool
from rl.workers.vllm_compat import REPEATED, EngineOptions

TIMES = 8


def test_a_model_that_never_stops_is_cut_once_it_loops():
    config = load_config([])
    options = EngineOptions(
        model=str(REPOSITORY / "models/starter"), dtype="float32", context=3000, concurrency=64, stop_token_ids=(),
        kv_cache_gib=0.1, gpu_memory_share=0.5, tensor_parallel=1, enforce_eager=True, seed=0, threads=1,
        repetitions=TIMES,
    )  # fmt: skip
    placement.connect(config.cluster)
    try:
        actors, starting = placement.start_rollout_workers(options, config.cluster, count=1)
        placement.wait_started(starting, config.cluster)
        with asyncio.Runner() as runner:
            pool = RolloutPool(actors, deadline_s=120)
            requests = [
                SampleRequest(prompt_ids=[10 + n, 20, 30], max_tokens=2500, temperature=0.0, seed=0, session=str(n))
                for n in range(16)
            ]

            async def sample_all():
                return await asyncio.gather(*map(pool.sample, requests))

            samples = runner.run(sample_all())
    finally:
        placement.disconnect()
    cut = [list(s.token_ids) for s in samples if s.repetitive]
    print(f"{len(cut)} of {len(samples)} loop, and are cut after {sorted(map(len, cut))} tokens")
    assert len(cut) >= 4, "a greedy model of this size falls into loops"
    shortest, longest = REPEATED
    for ids in cut:
        periods = [p for p in range(shortest, longest + 1) if ids[-p * TIMES :] == ids[-p:] * TIMES]
        assert periods
        before = ids[: len(ids) - 1]
        assert not any(before[-p * TIMES :] == before[-p:] * TIMES for p in range(shortest, longest + 1)), "not later"


def test_texts_that_people_wrote_are_no_loops():
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    shortest, longest = REPEATED
    params = RepetitionDetectionParams(max_pattern_size=longest, min_pattern_size=shortest, min_count=TIMES)
    files = [
        p for kind in ("docs/*.md", "rl/**/*.py", "critic/**/*.py", "conf/**/*.yaml") for p in REPOSITORY.glob(kind)
    ]
    texts = [p.read_text() for p in files]
    pieces = [text[i : i + 400] for text in texts for i in range(0, len(text), 400)]
    stopped = [
        piece
        for piece in pieces
        if any(check_sequence_repetition(list(piece[:n]), params) for n in range(128, len(piece)))
    ]
    print(f"{len(stopped)} of {len(pieces)} pieces")
    assert len(pieces) > 1000
    assert len(stopped) <= 0.001 * len(pieces)
