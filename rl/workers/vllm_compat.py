"""Everything that depends on vLLM's version, in one place. Serves vLLM 0.25 to 0.32.

The engine runs in the calling process and is driven by :meth:`Engine.step`. Work that must happen beside the
model (receiving weights) is in :class:`WeightReceiver`, which vLLM mixes into each of its workers, so that it
also reaches tensor-parallel workers in other processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch

from rl.types import SampleRequest

REPEATED = (16, 64)
"""Tokens of a stretch that makes a loop when it is repeated: at least, at most. A shorter one counts as several of it
together, so a row of dashes is no loop yet."""


def prepare_environment(*, threads: int | None) -> None:
    """Set what vLLM reads from the environment. Call before vLLM is imported, in the process that will run it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
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


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is started with; see ``RolloutConfig`` and ``ModelConfig`` for the meaning."""

    model: str
    dtype: str
    context: int
    concurrency: int
    stop_token_ids: Sequence[int]
    kv_cache_gib: float
    gpu_memory_share: float
    tensor_parallel: int
    enforce_eager: bool
    seed: int
    threads: int | None
    repetitions: int | None = None
    """So often in a row must a stretch of ``REPEATED`` tokens come for a request to be cut; None cuts none."""
    constrains: bool = False
    """Whether requests may have a ``structure``; the engine then needs the tokenizer."""


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
        # Prompts are never cut into chunks: on a CPU, vLLM 0.32 cannot combine chunks with per-request seeds.
        enable_chunked_prefill=False,
        max_num_batched_tokens=max(options.context, 8192),
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        enforce_eager=options.enforce_eager,
        tensor_parallel_size=options.tensor_parallel,
        gpu_memory_utilization=options.gpu_memory_share,
        worker_extension_cls="rl.workers.vllm_compat.WeightReceiver",
    )
    if not torch.cuda.is_available():
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gib * 2**30)
        # vLLM's 128 on CPUs would share no prompt that is shorter, and so compute a group's prompt for each rollout.
        arguments["block_size"] = 32
        if options.tensor_parallel == 1:
            arguments["distributed_executor_backend"] = "uni"
        if _has_latent_attention(options.model):
            # vLLM 0.32's CPU kernel rotates only the first head of the [tokens, heads, size] queries that latent
            # attention hands it; torch's own operators rotate all of them.
            arguments["compilation_config"] = {"custom_ops": ["-rotary_embedding"]}
    return arguments


class Engine:
    """A vLLM engine that takes and returns tokens."""

    def __init__(self, options: EngineOptions) -> None:
        from vllm import EngineArgs, LLMEngine

        _inspect_models_here()
        self._engine = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(options)))
        self._stop_token_ids = list(options.stop_token_ids)
        self._repetitions = options.repetitions

    def add(self, request_id: str, request: SampleRequest) -> None:
        """Queue a request. The id must be new."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = SamplingParams(
            temperature=request.temperature,
            seed=request.seed if request.temperature > 0 else None,
            max_tokens=request.max_tokens,
            stop_token_ids=[] if request.ignore_eos else self._stop_token_ids,
            ignore_eos=request.ignore_eos,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            repetition_detection=None if request.ignore_eos else self._loops(),
            structured_outputs=None
            if request.structure is None
            else StructuredOutputsParams(structural_tag=request.structure),
        )
        self._engine.add_request(request_id, {"prompt_token_ids": list(request.prompt_ids)}, params)

    def _loops(self) -> Any:
        from vllm.sampling_params import RepetitionDetectionParams

        if self._repetitions is None:
            return None
        shortest, longest = REPEATED
        return RepetitionDetectionParams(
            min_pattern_size=shortest, max_pattern_size=longest, min_count=self._repetitions
        )

    def step(self) -> list[Finished]:
        """Advance every running request by one token; return those that ended."""
        finished = []
        for output in self._engine.step():
            if not output.finished:
                continue
            answer = output.outputs[0]
            finished.append(
                Finished(
                    request_id=output.request_id,
                    token_ids=list(answer.token_ids),
                    logprobs=_chosen_logprobs(answer.logprobs, len(answer.token_ids)),
                    stopped=answer.finish_reason == "stop",
                    repetitive=answer.finish_reason == "repetition",
                    interrupted=False,
                    cached_tokens=output.num_cached_tokens or 0,
                )
            )
        return finished

    def interrupt(self, request_ids: Set[str] | None = None) -> list[Finished]:
        """End these requests, or all, as far as they are unfinished; returns what there is of each."""
        finished = []
        for state in self._engine.output_processor.request_states.values():
            request_id = getattr(state, "external_req_id", state.request_id)
            if request_ids is not None and request_id not in request_ids:
                continue
            token_ids = list(state.detokenizer.output_token_ids)
            finished.append(
                Finished(
                    request_id=request_id,
                    token_ids=token_ids,
                    logprobs=_chosen_logprobs(state.logprobs_processor.logprobs, len(token_ids)),
                    stopped=False,
                    interrupted=True,
                    cached_tokens=state.num_cached_tokens or 0,
                )
            )
        self._engine.abort_request([answer.request_id for answer in finished])
        return finished

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._engine.has_unfinished_requests())

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Replace the weights, given under their checkpoint names.

        Returns the names of engine parameters that received nothing. Must not be called while ``busy``. Cached
        prefixes of the old weights are dropped.
        """
        missing = self._engine.collective_rpc("receive_weights", args=(tensors,))
        self._forget_prefixes()
        return sorted({name for worker in missing for name in worker})

    def trace(self, token_ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """Output of every sub-module for every token of one prompt, by module name; to find where two models part."""
        self._forget_prefixes()  # of what is cached, nothing would be computed
        self._engine.collective_rpc("start_trace")
        self.add("trace", SampleRequest(prompt_ids=token_ids, max_tokens=1, temperature=0.0, seed=0))
        while self.busy:
            self.step()
        return dict(self._engine.collective_rpc("stop_trace")[0])

    def _forget_prefixes(self) -> None:
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


def _chosen_logprobs(logprobs: Any, count: int) -> list[float]:
    """The sampled tokens' logprobs out of vLLM's flat list, where each token may be followed by the top one."""
    starts = getattr(logprobs, "start_indices", None)
    if starts is None:
        raise RuntimeError("the engine returned no flat logprobs: this vLLM version is not supported")
    return [logprobs.logprobs[start] for start in starts[:count]]


DERIVED = ("W_UV", "W_UK_T")
"""Parameters that vLLM computes from others after loading (latent attention's two halves of ``kv_b_proj``)."""


class WeightReceiver:
    """Mixed into vLLM's workers: replaces the model's weights in place."""

    model_runner: Any

    def receive_weights(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Load checkpoint-format tensors; return the names of parameters that received nothing."""
        model = self.model_runner.get_model()
        expected = {name for name, _ in model.named_parameters()}
        loaded: set[str] = set()
        load_weights = model.load_weights

        def recording(weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
            loaded.update(load_weights(weights))
            return loaded

        model.load_weights = recording
        try:
            self.model_runner.reload_weights(weights_iterator=iter(tensors.items()))
        finally:
            del model.load_weights
        self._repack_experts(model)
        return sorted(name for name in expected - loaded if name.rpartition(".")[2] not in DERIVED)

    @staticmethod
    def _repack_experts(model: torch.nn.Module) -> None:
        # vLLM packs the experts into the kernel's own layout when the kernel is built, and does not do it again
        # on a reload (seen in 0.32 on CPU): without this the experts would stay those of the first load.
        for module in model.modules():
            kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
            experts = getattr(kernel, "fused_experts", None)
            if experts is not None and hasattr(experts, "process_weights_after_loading"):
                experts.process_weights_after_loading(module)

    def start_trace(self) -> None:
        self._trace: dict[str, torch.Tensor] = {}
        self._hooks = [
            module.register_forward_hook(self._record(name))
            for name, module in self.model_runner.get_model().named_modules()
            if name
        ]

    def _record(self, name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                self._trace[name] = first.detach().float().cpu().clone()

        return hook

    def stop_trace(self) -> dict[str, torch.Tensor]:
        for hook in self._hooks:
            hook.remove()
        return self._trace
