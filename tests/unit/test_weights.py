"""Buckets, digests, and the proof that stops a run when an engine does not hold what was published."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.errors import WeightMismatchError
from rl.types import Sample
from rl.weights.buckets import bucket_digest, describe, pack, unpack
from rl.weights.publish import Publisher, first_difference

TENSORS = {
    "a": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "b": torch.ones(700, dtype=torch.float32),
    "c": torch.tensor(3.0),
}


@given(st.integers(1, 5000))
def test_pack_and_unpack_are_inverse(bucket_bytes):
    packed = list(pack(TENSORS.items(), bucket_bytes=bucket_bytes))
    back = {name: tensor for spec, data in packed for name, tensor in unpack(spec, data)}
    assert list(back) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0)


def test_digest_sees_every_byte_and_every_name():
    ((spec, data),) = pack(TENSORS.items(), bucket_bytes=10**6)
    assert bucket_digest(spec.tensors, data) == spec.digest
    flipped = data.copy()
    flipped[4] ^= 1
    assert bucket_digest(spec.tensors, flipped) != spec.digest
    ((renamed, _),) = pack([("x", TENSORS["a"]), *list(TENSORS.items())[1:]], bucket_bytes=10**6)
    assert renamed.digest != spec.digest


class FakeTrainer:
    """Publishes TENSORS; says -1 for every logprob."""

    def export(self):
        packed = list(pack(TENSORS.items(), bucket_bytes=10**6))
        return describe(7, [spec for spec, _ in packed]), [data for _, data in packed]

    def logprobs(self, sequences):
        return [[-1.0] * len(continuation) for _, continuation in sequences]

    def trace(self, token_ids):
        return {"a": torch.ones(3), "b": torch.ones(3)}


class FakeEngine:
    def __init__(self, *, digest=None, empty=(), logprob=-1.0, b=1.0):
        self.digest, self.empty, self.logprob, self.b = digest, list(empty), logprob, b

    def load_weights(self, version, handles):
        return [(self.digest or version.digest, self.empty)]

    def probe(self, requests):
        sample = Sample(token_ids=[5], logprobs=[self.logprob], stopped=True, policy_version=7, generate_s=0.0)
        return [[sample for _ in requests]]

    def trace(self, engine, token_ids):
        return {"a": torch.ones(3), "b": torch.full((3,), self.b)}


def publish(engine):
    return Publisher(
        source=FakeTrainer(), sink=engine, probe_prompts=[[1, 2]], probe_tokens=1,
        max_mean_difference=0.01, max_difference=0.05,
    ).publish()  # fmt: skip


def test_agreement_is_measured():
    version, metrics = publish(FakeEngine(logprob=-1.004))
    assert version.number == 7
    assert metrics["weights/probe_max_abs_diff"] == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (FakeEngine(digest="0"), "engine 0 holds 0, but version 7 is"),
        (FakeEngine(empty=["b"]), "received nothing for 1 parameters of version 7: b"),
        (FakeEngine(logprob=-1.02, b=2.0), "first block to differ is b"),
        (FakeEngine(logprob=float("nan")), "every block agrees"),
    ],
)
def test_a_mismatch_stops_the_run_and_names_the_tensors(engine, message):
    with pytest.raises(WeightMismatchError, match=message):
        publish(engine)


def test_first_difference_looks_at_blocks_in_order():
    names = ("model.embed", "model.layers.0.mlp.act", "model.layers.0.mlp", "model.layers.0", "model.norm")
    ours = {name: torch.ones(2) for name in names}
    theirs = ours | {name: torch.zeros(2) for name in names[1:]}
    assert first_difference(ours, theirs) == "model.layers.0.mlp"
    assert first_difference(ours, ours) is None
