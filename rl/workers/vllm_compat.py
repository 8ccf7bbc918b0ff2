"""vLLM's engine, and all that depends on its version. Serves vLLM 0.25 to 0.32.

The engine runs in the calling process and is driven by :meth:`Engine.step`. Work that must happen beside the
model (receiving weights) is in ``rl.workers.vllm_weights``, which vLLM mixes into each of its workers.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from rl.errors import WeightMismatchError
from rl.types import Loaded, SampleRequest
from rl.weights.transports.base import Receiver, Route, Seat
from rl.weights.transports.object_store import StoreReceiver

REPEATED = (16, 64)
"""Tokens of a stretch that makes a loop when it is repeated: at least, at most. A shorter one counts as several of it
together, so a row of dashes is no loop yet."""


def prepare_environment(*, threads: int | None) -> None:
    """Set what vLLM reads from the environment. Call before vLLM is imported, in the process that will run it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # vLLM looks for a free port, and listens there a while later: engines that start together at times found the same
    # one. So each process begins to look elsewhere, below what systems hand out to connections.
    os.environ.setdefault("VLLM_PORT", str(10_000 + os.getpid() % 2_000 * 10))
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if not torch.cuda.is_available():
        # vLLM compiles one small function (the rank of a logprob) with inductor, which takes a C++ compiler a quarter
        # of a minute on the first call of a new machine; plain torch computes it as fast.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What the engine says of a request that ended."""

    request_id: str
    token_ids: list[int]
    logprobs: list[float]
    stopped: bool
    interrupted: bool
    cached_tokens: int
    """How much of the prompt was not computed again."""
    repetitive: bool = False


def unbegun(request_id: str) -> Finished:
    """The answer to a request that is interrupted before the engine began with it."""
    return Finished(request_id=request_id, token_ids=[], logprobs=[], stopped=False, interrupted=True, cached_tokens=0)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is started with; see ``RolloutConfig`` and ``ModelConfig`` for the meaning."""

    model: str
    dtype: str
    context: int
    concurrency: int
    stop_token_ids: Sequence[int]
    kv_cache_gib: float | None
    gpu_memory_share: float
    tensor_parallel: int
    enforce_eager: bool
    seed: int
    threads: int | None
    repetitions: int | None = None
    """So often in a row must a stretch of ``REPEATED`` tokens come for a request to be cut; None cuts none."""
    sleeps: bool = False
    """Whether the engine can let go of its GPU memory; see ``Engine.sleep``."""
    constrains: bool = False
    """Whether requests may have a ``structure``; the engine then needs the tokenizer."""
    filled: bool = False
    """Whether the trainer will fill the engine; it then starts with made-up weights and reads none from disk."""
    seeded: bool = True
    """Whether each request draws from its own seed: repeatable, but on a GPU a Python loop over requests every step."""


def engine_arguments(options: EngineOptions) -> dict[str, Any]:
    """Keyword arguments for vLLM's ``EngineArgs`` or ``LLM``."""
    arguments: dict[str, Any] = dict(
        model=options.model,
        skip_tokenizer_init=not options.constrains,
        generation_config="vllm",
        dtype=options.dtype,
        seed=options.seed,
        max_model_len=options.context,
        max_num_seqs=options.concurrency,
        max_num_batched_tokens=max(options.context, 8192),
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        enforce_eager=options.enforce_eager,
        load_format="dummy" if options.filled else "auto",
        tensor_parallel_size=options.tensor_parallel,
        # With a cache of a given size the share is only what must be free at the start.
        gpu_memory_utilization=options.gpu_memory_share if options.kv_cache_gib is None else 0.01,
        enable_sleep_mode=options.sleeps,
        worker_extension_cls="rl.workers.vllm_weights.WorkerExtension",
    )
    if options.kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gib * 2**30)
    if not torch.cuda.is_available():
        # Prompts are never cut into chunks: on a CPU, vLLM 0.32 cannot combine chunks with per-request seeds.
        arguments["enable_chunked_prefill"] = False
        # vLLM's 128 on CPUs would share no prompt that is shorter, and so compute a group's prompt for each rollout.
        arguments["block_size"] = 32
        if options.tensor_parallel == 1:
            arguments["distributed_executor_backend"] = "uni"
        if _has_latent_attention(options.model):
            # vLLM 0.32's CPU kernel rotates only the first head of the [tokens, heads, size] queries that latent
            # attention hands it; torch's own operators rotate all of them.
            arguments["compilation_config"] = {"custom_ops": ["-rotary_embedding"]}
    return arguments


@dataclass(kw_only=True, slots=True)
class _Running:
    """What there is of an unfinished request."""

    request_id: str
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cached_tokens: int = 0

    def ended(self, *, reason: str | None) -> Finished:
        """The answer, for vLLM's name of a reason; None is an interruption."""
        if len(self.logprobs) != len(self.token_ids):
            raise RuntimeError("the engine returned tokens without logprobs: this vLLM version is not supported")
        return Finished(
            request_id=self.request_id,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            stopped=reason == "stop",
            repetitive=reason == "repetition",
            interrupted=reason is None,
            cached_tokens=self.cached_tokens,
        )


class Engine:
    """A vLLM engine that takes and returns tokens.

    It keeps its own account of what each request has sampled, which takes 0.3 ms for a step of 512 sequences. vLLM's
    output processor, made to stream text, takes 4 ms, as a small model on a GPU does.
    """

    def __init__(self, options: EngineOptions) -> None:
        from vllm import EngineArgs, LLMEngine

        _inspect_models_here()
        self._engine = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(options)))
        self._stop_token_ids = list(options.stop_token_ids)
        self._repetitions = options.repetitions
        self._seeded = options.seeded
        self._tensor_parallel = options.tensor_parallel
        # What is there now stays: the collector need not walk through it again and again between steps.
        gc.collect()
        gc.freeze()
        self._running: dict[str, _Running] = {}
        """Unfinished requests by vLLM's own id, in the order in which they came."""

    def add(self, request_id: str, request: SampleRequest) -> None:
        """Queue a request. The id must be new."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import StructuredOutputsParams

        params = SamplingParams(
            temperature=request.temperature,
            seed=request.seed if self._seeded and request.temperature > 0 else None,
            max_tokens=request.max_tokens,
            stop_token_ids=[] if request.ignore_eos else self._stop_token_ids,
            ignore_eos=request.ignore_eos,
            logprobs=0,
            detokenize=False,
            repetition_detection=None if request.ignore_eos else self._loops(),
            structured_outputs=None
            if request.structure is None
            else StructuredOutputsParams(structural_tag=request.structure),
        )
        engine = self._engine
        prompt = tokens_input(list(request.prompt_ids))
        queued = engine.input_processor.process_inputs(request_id, prompt, params, engine.get_supported_tasks())
        # Gives it an id that the engine never saw: what a batch in flight has of an interrupted request of the same
        # name would else be this one's.
        engine.input_processor.assign_request_id(queued)
        engine.engine_core.add_request(queued)
        self._running[queued.request_id] = _Running(request_id=request_id)

    def _loops(self) -> Any:
        from vllm.sampling_params import RepetitionDetectionParams

        if self._repetitions is None:
            return None
        shortest, longest = REPEATED
        return RepetitionDetectionParams(
            min_pattern_size=shortest, max_pattern_size=longest, min_count=self._repetitions
        )

    def step(self) -> list[Finished]:
        """Advance every running request by one token; return those that ended.

        With async scheduling, vLLM's choice on GPUs, a step begins the next batch and returns what came of the one
        before, if there was any.
        """
        finished = []
        for output in self._engine.engine_core.get_output().outputs:
            running = self._running.get(output.request_id)
            if running is None:
                continue  # interrupted while its batch was computed
            running.token_ids.extend(output.new_token_ids)
            if output.new_logprobs is not None:
                # A row for each token: the sampled one's logprob, then maybe the most likely one's.
                running.logprobs.extend(output.new_logprobs.logprobs[:, 0].tolist())
            if output.prefill_stats is not None:
                running.cached_tokens = output.prefill_stats.num_cached_tokens
            if output.finish_reason is not None:
                finished.append(self._running.pop(output.request_id).ended(reason=str(output.finish_reason)))
        return finished

    def interrupt(self, request_ids: Set[str] | None = None) -> list[Finished]:
        """End these requests, or all, as far as they are unfinished; returns what there is of each."""
        chosen = [
            vllm_id
            for vllm_id, running in self._running.items()
            if request_ids is None or running.request_id in request_ids
        ]
        self._engine.engine_core.abort_requests(chosen)
        return [self._running.pop(vllm_id).ended(reason=None) for vllm_id in chosen]

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._running)

    def open_route(self, route: Route, seats: Sequence[Seat]) -> None:
        """Let each of the engine's processes take its seat on a route for weights."""
        self._engine.collective_rpc("open_route", args=(route, list(seats)))

    def close_route(self, name: str) -> None:
        self._engine.collective_rpc("close_route", args=(name,))

    def receive_weights(self, name: str, serial: int, carried: Receiver | None) -> Loaded:
        """Load transfer ``serial`` of a route. Must not be called while ``busy``. Cached prefixes are dropped.

        Raises ``TransferError``; the weights are then a mixture. Raises ``WeightMismatchError`` if the engine's
        processes do not all have the same bytes.
        """
        self._drain()
        if isinstance(carried, StoreReceiver) and self._tensor_parallel > 1:
            carried = carried.whole(serial)
        answers: list[Loaded] = self._engine.collective_rpc("receive_weights", args=(name, serial, carried))
        self._forget_prefixes()
        if len({answer.digests for answer in answers}) > 1:
            raise WeightMismatchError(f"the processes of one engine received different bytes: {answers}")
        return Loaded(
            digests=answers[0].digests,
            empty=tuple(sorted({name for answer in answers for name in answer.empty})),
            again=any(answer.again for answer in answers),
        )

    def sleep(self) -> None:
        """Let go of weights and cache on the GPU. Must not be called while ``busy``."""
        self._drain()
        self._engine.sleep(level=2)

    def wake(self, what: str) -> None:
        """Take memory for ``weights``, whose content is lost, or for ``kv_cache``."""
        self._engine.wake_up(tags=[what])

    def trace(self, token_ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """Output of every sub-module for every token of one prompt, by module name; to find where two models part."""
        self._forget_prefixes()  # of what is cached, nothing would be computed
        self._engine.collective_rpc("start_trace")
        self.add("trace", SampleRequest(prompt_ids=token_ids, max_tokens=1, temperature=0.0, seed=0))
        while self.busy:
            self.step()
        return dict(self._engine.collective_rpc("stop_trace")[0])

    def _drain(self) -> None:
        """Wait for the batch that async scheduling began before it knew that the last requests ended."""
        assert not self.busy, "tokens of running requests would be lost"
        client = self._engine.engine_core
        while client.engine_core.batch_queue:
            client.get_output()

    def _forget_prefixes(self) -> None:
        self._drain()
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("the engine kept its prefix cache, because requests were still running")


def _inspect_models_here() -> None:
    """Let vLLM look at the model's class in this process instead of a fresh one, which saves its import on a CPU.

    The detour through a process exists to keep CUDA uninitialised; without a GPU there is nothing to keep.
    """
    from vllm.model_executor.models import registry

    if not torch.cuda.is_available() and hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda look: look()


def _has_latent_attention(model: str) -> bool:
    from transformers import AutoConfig

    return getattr(AutoConfig.from_pretrained(model), "kv_lora_rank", None) is not None
