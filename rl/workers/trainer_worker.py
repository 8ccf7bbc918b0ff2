"""A trainer rank: one DeepSpeed engine in one Ray actor."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.attention import end_to_end
from rl.batch import MicroBatch
from rl.logprobs import token_logprobs
from rl.losses import LossInputs, LossOutputs, cross_entropy, importance
from rl.precision import fp32_arithmetic, fp32_residual
from rl.types import BucketSpec
from rl.weights.send import WeightSender
from rl.weights.transports.base import Route
from rl.workers import expert_parallel
from rl.workers.offload import TrainingState
from rl.workers.trainer_weights import TrainerWeights, persistent_tensors


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What a rank is started with; see ``TrainerConfig`` for the meaning."""

    model: str
    ranks: int
    zero_stage: int
    expert_parallel: int = 1
    learning_rate: float
    adam_betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool
    loss: Callable[[LossInputs], LossOutputs]
    importance_cap: float | None
    seed: int
    threads: int | None


class TrainerWorker:
    """The actor. Every method is called on all ranks at once, because each takes part in collectives."""

    def __init__(self, rank: int, options: TrainerOptions) -> None:
        self._rank = rank
        self._options = options
        self._sender: WeightSender | None = None
        if options.threads is not None:
            torch.set_num_threads(options.threads)

    def address(self) -> tuple[str, int]:
        """Host and a free port of this rank, for the others to meet at."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def place(self) -> tuple[str, str]:
        """The node, and the GPU there, that this rank was given."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def start(self, host: str, port: int) -> None:
        """Join the other ranks, load the model and shard it. Raises ``ValueError`` for a model that cannot load."""
        options = self._options
        on_gpu = torch.cuda.is_available()
        os.environ.update(
            RANK=str(self._rank), WORLD_SIZE=str(options.ranks), LOCAL_RANK="0", MASTER_ADDR=host, MASTER_PORT=str(port)
        )
        if not on_gpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        # DeepSpeed would compile a shared-memory collective on a new machine, half a minute long; training uses gloo's.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
        torch.manual_seed(options.seed)
        model = load_policy(options.model, gradient_checkpointing=options.gradient_checkpointing)
        names = {name for name, _ in persistent_tensors(model)}
        divided = options.expert_parallel > 1
        if divided:
            expert_parallel.check(model, options.expert_parallel)
        elif options.zero_stage == 3:
            _keep_experts_whole(model)

        def optimizer(parameters: Iterable[Any]) -> torch.optim.Optimizer:
            groups = expert_parallel.parameter_groups(parameters) if divided else parameters
            return torch.optim.AdamW(
                groups, lr=options.learning_rate, betas=options.adam_betas, weight_decay=options.weight_decay
            )

        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            model_parameters=list(model.parameters()),
            config=_deepspeed_config(options),
        )
        self._device = torch.device(self._engine.device)
        self._weights = TrainerWeights(self._engine.module, sharded=options.zero_stage == 3, divided=divided)
        if divided:
            expert_parallel.compute_exactly(self._engine.module)
            if renamed := names ^ set(self._weights.names):
                raise ValueError(
                    f"trainer.expert_parallel must be 1 for {options.model}, got {options.expert_parallel}: DeepSpeed "
                    f"renames {sorted(renamed)[:4]}"
                )
        self._state = TrainingState(self._engine.optimizer, self._engine.module, self._device)

    def rest(self) -> None:
        """Let go of what only learning needs, until the next update."""
        self._state.leave()

    def update(self, batches: Sequence[Sequence[MicroBatch]], rates: Sequence[float]) -> dict[str, float]:
        """One optimizer step per batch, at the learning rates given; returns this rank's share of the metrics.

        ``batches[i]`` are this rank's micro-batches of update i. pi_old is the policy as it is now: for the first
        update it is the policy being differentiated, for the others its logprobs are computed before the first step.
        """
        started = time.monotonic()
        self._state.back()
        self._engine.eval()
        with torch.no_grad():
            later = [[self._logprobs(micro) for micro in batch] for batch in batches[1:]]
        self._engine.train()
        olds: list[list[Tensor] | None] = [None, *later]
        sums = _Sums()
        for batch, old, rate in zip(batches, olds, rates, strict=True):
            for group in self._engine.optimizer.param_groups:
                group["lr"] = rate
            for step, micro in enumerate(batch):
                self._engine.set_gradient_accumulation_boundary(step == len(batch) - 1)
                logprobs_T = self._logprobs(micro)
                old_T = logprobs_T.detach() if old is None else old[step]
                outputs = self._loss(micro, logprobs_T, old_T)
                # DeepSpeed averages gradients over ranks; the loss is a sum over all of them.
                self._engine.backward(outputs.loss * self._options.ranks)
                self._engine.step()
                sums.add(outputs, old_T, torch.from_numpy(micro.sampler_logprobs_T).to(self._device), micro)
            sums.grad_norms.append(float(self._engine.get_global_grad_norm() or 0.0))
        return sums.metrics() | {"busy_s": time.monotonic() - started}

    def _logprobs(self, micro: MicroBatch) -> Tensor:
        ids_N, at_T, sampled_T = (
            torch.from_numpy(array).to(self._device)
            for array in (micro.token_ids_N, micro.predict_at_T, micro.sampled_T)
        )
        temperatures_T = torch.from_numpy(micro.temperatures_S[micro.seq_ids_T]).to(self._device)
        logits_TV = self._forward(ids_N, micro.rows, at_T)
        return token_logprobs(logits_TV, sampled_T, temperature=temperatures_T)

    def _forward(self, ids_N: Tensor, spans: Sequence[Sequence[range]], at_T: Tensor) -> Tensor:
        from rl.attention import packed_rows

        rows = packed_rows(spans, self._device)
        logits: Tensor = self._engine(
            input_ids=ids_N[None],
            position_ids=rows.positions[None],
            packed_rows=rows,
            logits_to_keep=at_T,
            use_cache=False,
        ).logits[0]
        return logits

    def _loss(self, micro: MicroBatch, logprobs_T: Tensor, old_T: Tensor) -> LossOutputs:
        """The objective's loss of sampled sequences plus the cross-entropy of supervised ones."""
        seq_ids_T = torch.from_numpy(micro.seq_ids_T).to(self._device)
        weights_S = torch.from_numpy(micro.weights_S).to(self._device)
        sampler_T, cap = torch.from_numpy(micro.sampler_logprobs_T).to(self._device), self._options.importance_cap
        supervised_S = torch.from_numpy(micro.supervised_S).to(self._device)
        outputs = self._options.loss(
            LossInputs(
                logprobs_T=logprobs_T,
                old_logprobs_T=old_T,
                seq_ids_T=seq_ids_T,
                advantages_S=torch.from_numpy(micro.advantages_S).to(self._device),
                weights_S=weights_S * ~supervised_S,
                correction_T=None if cap is None else importance(old_T, sampler_T, cap=cap),
            )
        )
        if not micro.supervised_S.any():
            return outputs
        entropy = cross_entropy(logprobs_T, seq_ids_T, weights_S * supervised_S)
        return LossOutputs(
            loss=outputs.loss + entropy, metrics={**outputs.metrics, "loss/supervised": entropy.detach()}
        )

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Logprobs at temperature 1 of each continuation after its prompt, free of bf16 rounding."""
        self._engine.eval()
        ids = [[*prompt, *continuation] for prompt, continuation in sequences]
        starts = np.cumsum([0, *map(len, ids)])
        at = [
            starts[i] + len(prompt) - 1 + t
            for i, (prompt, continuation) in enumerate(sequences)
            for t in range(len(continuation))
        ]
        ids_N, at_T = (
            torch.tensor([token for row in ids for token in row]).to(self._device),
            torch.tensor(at).to(self._device),
        )
        with torch.no_grad(), fp32_arithmetic(self._engine.module):
            logits_TV = self._forward(ids_N, end_to_end([len(row) for row in ids]), at_T)
            flat = token_logprobs(logits_TV, ids_N[at_T + 1], temperature=1.0).tolist()
        parts = iter(flat)
        return [[next(parts) for _ in continuation] for _, continuation in sequences]

    def trace(self, token_ids: Sequence[int]) -> dict[str, Tensor]:
        """Output of every sub-module for one prompt, by module name."""
        outputs: dict[str, Tensor] = {}

        def recorder(name: str) -> Callable[..., None]:
            def hook(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) else output
                if isinstance(first, Tensor):
                    outputs[name] = first.detach().float().cpu()

            return hook

        modules = [(name, module) for name, module in self._engine.module.named_modules() if name]
        hooks = [module.register_forward_hook(recorder(name)) for name, module in modules]
        self._engine.eval()
        ids_N = torch.tensor(token_ids).to(self._device)
        with torch.no_grad(), fp32_arithmetic(self._engine.module):
            self._forward(ids_N, end_to_end([len(ids_N)]), torch.arange(len(ids_N)).to(self._device))
        for hook in hooks:
            hook.remove()
        return outputs

    def layout(self, bucket_bytes: int) -> tuple[tuple[BucketSpec, ...], str, int]:
        """How weights lie in buckets, and the host and port where engines meet the trainer."""
        import ray

        if self._sender is None:
            self._sender = self._weights.sender(rank=self._rank, bucket_bytes=bucket_bytes, device=self._device)
        host = ray.util.get_node_ip_address()
        return self._sender.specs, host, self._sender.listen(host) if self._rank == 0 else 0

    def open_route(self, route: Route) -> list[bytes] | None:
        """See ``WeightSender.open``."""
        return self._sending.open(route)

    def close_route(self, name: str) -> None:
        self._sending.close(name)

    def send(self, name: str, serial: int) -> Iterator[Any]:
        """See ``WeightSender.send``. Number and bytes come one after the other, so that bytes need not be looked at."""
        for number, parcel in self._sending.send(name, serial):
            yield number
            yield parcel

    @property
    def _sending(self) -> WeightSender:
        assert self._sender is not None, "the layout comes first"
        return self._sender

    def memory(self) -> dict[str, float]:
        """GiB of GPU memory in tensors: the most since the last call, and now. Empty without a GPU."""
        if self._device.type != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return {"peak_gib": peak / 2**30, "now_gib": torch.cuda.memory_allocated(self._device) / 2**30}

    def save(self, folder: str) -> None:
        """Write optimizer state and fp32 weights, each rank its share; rank 0 adds a Hugging Face folder, ``model``."""
        from transformers import AutoTokenizer

        self._state.back()
        self._engine.save_checkpoint(folder, tag="trainer")
        gathered = self._whole_weights()
        if self._rank == 0:
            self._engine.module.save_pretrained(f"{folder}/model", state_dict=gathered)
            AutoTokenizer.from_pretrained(self._options.model).save_pretrained(f"{folder}/model")

    def _whole_weights(self) -> dict[str, Tensor]:
        """Copies of all weights; on ranks other than 0 only the gathering happens."""
        copies = {}
        for name in self._weights.names:
            with self._weights.whole(name) as gathered:
                if self._rank == 0:
                    copies[name] = gathered.clone()
        return copies

    def load(self, folder: str) -> None:
        """Read what ``save`` wrote with the same number of ranks, ZeRO stage and division of experts."""
        self._state.back()
        path, _ = self._engine.load_checkpoint(folder, tag="trainer")
        if path is None:
            raise ValueError(f"{folder} must hold a checkpoint of this trainer, got none that can be read")


class _Sums:
    """Metrics of one rank, as sums and maxima that the driver adds up."""

    def __init__(self) -> None:
        self._loss: dict[str, float] = {"loss/total": 0.0}
        self._gap = self._gap_max = 0.0
        self._count = 0
        self.grad_norms: list[float] = []

    def add(self, outputs: LossOutputs, old_T: Tensor, sampler_T: Tensor, micro: MicroBatch) -> None:
        self._loss["loss/total"] += float(outputs.loss.detach())
        for name, value in outputs.metrics.items():
            self._loss[name] = self._loss.get(name, 0.0) + float(value)
        if not micro.weights_S.any():
            return
        sampled_T = torch.from_numpy(~micro.supervised_S[micro.seq_ids_T]).to(old_T.device)
        gaps_T = (old_T - sampler_T).abs()[sampled_T]
        if not len(gaps_T):
            return
        self._gap += float(gaps_T.sum())
        self._gap_max = max(self._gap_max, float(gaps_T.max()))
        self._count += len(gaps_T)

    def metrics(self) -> dict[str, float]:
        return {
            **self._loss,
            "gap_sum": self._gap,
            "gap_max": self._gap_max,
            "gap_count": float(self._count),
            "grad_norm": sum(self.grad_norms) / len(self.grad_norms),
        }


def load_policy(path: str, *, gradient_checkpointing: bool) -> Any:
    """The policy in bf16, with an fp32 residual stream, packed attention and grouped expert matrix products."""
    from transformers import AutoModelForCausalLM

    from rl import attention, experts

    attention.register()
    experts.register()
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="packed")
    except OSError as error:
        raise ValueError(f"model.path must be a model that transformers can load, got {path}: {error}") from error
    if any(name.endswith(".experts") for name, _ in model.named_modules()):
        model.set_experts_implementation("sorted" if torch.cuda.is_available() else "grouped_mm")
    fp32_residual(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _keep_experts_whole(model: torch.nn.Module) -> None:
    """Let ZeRO-3 gather a MoE block as one: ranks route differently, so finer hooks would wait for each other."""
    from deepspeed.utils import set_z3_leaf_modules

    blocks = {type(module) for module in model.modules() if hasattr(module, "experts")}
    if blocks:
        set_z3_leaf_modules(model, list(blocks))


def _deepspeed_config(options: TrainerOptions) -> Mapping[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": options.zero_stage},
        "expert_parallel": expert_parallel.settings(options.expert_parallel),
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        # DeepSpeed would round summed gradients to bf16 to send them, at ZeRO 1 even on a single rank.
        "communication_data_type": "fp32",
        "gradient_clipping": options.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
