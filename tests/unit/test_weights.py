"""The checkpoint engine's parts: layout, digests, every transport with both its ends, direct copies, and the proof."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import PrefixStore, TCPStore

from rl.config import Transport
from rl.errors import TransferError, WeightMismatchError
from rl.types import Loaded, Sample, WeightVersion
from rl.weights.digest import as_text, digest
from rl.weights.direct import Copies, CopyRecorder, fingerprint
from rl.weights.layout import Shape, fill, plan_buckets, unpack
from rl.weights.publish import TOGETHER, Publisher, first_difference
from rl.weights.receive import WeightReceiver
from rl.weights.send import LAST, WeightSender
from rl.weights.transports.base import Route, Seat, give_up
from rl.weights.transports.object_store import StoreReceiver

TENSORS = {
    "a": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "experts": torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0)),
    "b": torch.ones(700, dtype=torch.float32),
    "c": torch.tensor(3.0),
}


def convert(state):
    """As transformers does it: a layer's experts are one parameter, and in a checkpoint each has two tensors."""
    out = {}
    for name, tensor in state.items():
        if name == "experts":
            for e, expert in enumerate(tensor):
                gate, up = (half.contiguous() for half in expert.chunk(2))
                out |= {f"experts.{e}.gate": gate, f"experts.{e}.up": up}
        else:
            out[name] = tensor
    return out


def plans_of(bucket_bytes, convert=convert):
    shapes = [Shape(name=name, dtype=t.dtype, shape=tuple(t.shape)) for name, t in TENSORS.items()]
    return plan_buckets(shapes, convert, bucket_bytes=bucket_bytes)


@given(st.integers(1, 5000))
def test_what_lies_in_buckets_is_what_the_checkpoint_holds(bucket_bytes):
    back = {}
    for plan in plans_of(bucket_bytes):
        buffer = torch.full((plan.spec.nbytes,), 255, dtype=torch.uint8)
        fill(buffer, plan, TENSORS)
        back |= {name: tensor.clone() for name, tensor in unpack(buffer, plan.spec)}
    wanted = convert(TENSORS)
    assert set(back) == set(wanted)
    for name, tensor in wanted.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0)


def test_a_parameter_may_be_put_in_its_place_by_others():
    plan = plans_of(10**6)[0]
    at_once, in_turns = (torch.full((plan.spec.nbytes,), 255, dtype=torch.uint8) for _ in range(2))
    fill(at_once, plan, TENSORS)
    source = next(s for s in plan.sources if s.name == "experts")
    source.place(in_turns).view(TENSORS["experts"].dtype).view(TENSORS["experts"].shape).copy_(TENSORS["experts"])
    fill(in_turns, plan, {name: tensor for name, tensor in TENSORS.items() if name != "experts"})
    fill(in_turns, plan, {})
    assert torch.equal(at_once, in_turns)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda state: {n: t.T.contiguous() if n == "a" else t for n, t in state.items()}, "a is no stretch of a"),
        (lambda state: {n: t[:1] if n == "a" else t for n, t in state.items()}, "are not all of a"),
    ],
)
def test_a_model_that_cannot_be_sent_by_stretches_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        plans_of(100, wrong)


@given(st.integers(0, 2**19 * 8), st.integers(0, 7), st.integers(1, 3))
def test_a_digest_sees_every_bit(position, bit, flips):
    data = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 2**19 * 8 + 256, dtype=np.uint8))
    flipped = data.clone()
    for step in range(flips):
        flipped[(position + step * 8) % len(data)] ^= 1 << bit
    assert as_text(digest(flipped)) != as_text(digest(data))


def test_a_digest_sees_what_moved_and_is_the_same_everywhere():
    data = torch.arange(4096, dtype=torch.int64).view(torch.uint8)
    words = data.view(torch.int64)
    swapped = words.clone()
    swapped[[0, 9]] = words[[9, 0]]
    assert as_text(digest(swapped.view(torch.uint8))) != as_text(digest(data))
    # By hand: one word, its factor the first number of splitmix64, its row's factor the first of the rows'.
    (first, row) = (0xE220A8397B1DCDAF, int(as_text(digest(torch.tensor([1]).view(torch.uint8)))[:16], 16))
    assert as_text(digest(torch.tensor([3]).view(torch.uint8)))[:16] == f"{3 * row % 2**64:016x}"
    assert row % 2 == 1
    assert row * pow(first | 1, -1, 2**64) % 2 == 1


class Model:
    """An engine's model: it keeps gate and up of all experts in one tensor, as vLLM does."""

    device = torch.device("cpu")

    def __init__(self):
        self.held = {
            "a": torch.zeros(2, 3, dtype=torch.bfloat16),
            "w13": torch.zeros(4, 6, 5),
            "b": torch.zeros(700),
            "c": torch.zeros(()),
        }

    def load(self, tensors):
        for name, tensor in tensors:
            if name.startswith("experts."):
                _, e, part = name.split(".")
                half = self.held["w13"][int(e)].narrow(0, 0 if part == "gate" else 3, 3)
                half.copy_(tensor)
            else:
                self.held[name].copy_(tensor)

    def reload(self, tensors):
        self.load(list(tensors))
        return set(self.held)

    def parameters(self):
        return self.held

    tensors = parameters


def test_copies_do_what_the_loader_did_and_few_are_left():
    plans, model = plans_of(400), Model()
    recorder = CopyRecorder(model.parameters())
    buffers = []
    with recorder:
        for index, plan in enumerate(plans):
            buffer = torch.zeros(plan.spec.nbytes, dtype=torch.uint8)
            fill(buffer, plan, TENSORS)
            recorder.enter_bucket(index, buffer)
            model.load(unpack(buffer, plan.spec))
            buffers.append(buffer)
    assert recorder.faithful
    assert recorder.filled == set(model.held)
    wanted = fingerprint(model.tensors())
    for tensor in model.held.values():
        tensor.zero_()
    copies = Copies(recorder.copies)
    for index, buffer in enumerate(buffers):
        copies.run(index, buffer)
    assert fingerprint(model.tensors()) == wanted
    torch.testing.assert_close(model.held["w13"], TENSORS["experts"], rtol=0, atol=0)
    assert sum(map(len, copies._copies.values())) == 4, "eight tensors of experts lie in one stretch on both sides"


def test_a_tensor_parallel_engine_copies_its_columns_and_rows():
    plan = plans_of(10**6)[0]
    buffer = torch.zeros(plan.spec.nbytes + 64, dtype=torch.uint8)[64:]
    fill(buffer, plan, TENSORS)
    held = {"a": torch.zeros(2, 2, dtype=torch.bfloat16), "b": torch.zeros(300)}
    recorder = CopyRecorder(held)
    recorder.enter_bucket(0, buffer)
    with recorder:
        for name, tensor in unpack(buffer, plan.spec):
            if name == "a":
                held[name].copy_(tensor.narrow(1, 1, 2))
            elif name == "b":
                held[name].copy_(tensor.narrow(0, 400, 300))
    assert recorder.faithful
    for tensor in held.values():
        tensor.zero_()
    Copies(recorder.copies).run(0, buffer)
    assert torch.equal(held["a"], TENSORS["a"][:, 1:])
    assert torch.equal(held["b"], TENSORS["b"][400:])


def test_a_loader_that_does_more_than_copy_is_noticed():
    plan, model = plans_of(10**6)[0], Model()
    buffer = torch.zeros(plan.spec.nbytes, dtype=torch.uint8)
    fill(buffer, plan, TENSORS)
    recorder = CopyRecorder(model.parameters())
    with recorder:
        recorder.enter_bucket(0, buffer)
        model.load((name, tensor * 2) for name, tensor in unpack(buffer, plan.spec))
    assert not recorder.faithful


class Ends:
    """A sender and two engine processes on one route, as the channel would connect them."""

    def __init__(self, kind, *, deadline_s=20.0, bucket_bytes=1000):
        def lay(plan, buffer):
            fill(buffer, plan, TENSORS)

        self.sender = WeightSender(plans_of(bucket_bytes), lay, rank=0, device=torch.device("cpu"), takes_part=False)
        port = self.sender.listen("127.0.0.1")
        self.route = Route(
            name="r", kind=kind, host="127.0.0.1", port=port, deadline_s=deadline_s, specs=self.sender.specs, size=3,
            readers={0: 2},
        )  # fmt: skip
        self.models = [Model(), Model()]
        self.receivers = [WeightReceiver(model) for model in self.models]
        self.parcels = [StoreReceiver(self.route) if kind is Transport.object_store else None for _ in range(2)]
        with ThreadPoolExecutor(3) as pool:
            opening = pool.submit(self.sender.open, self.route)
            # A group forms when all have come; handles are there at once.
            handles = opening.result() if kind is Transport.cuda_ipc else None
            seats = [Seat(number=i + 1, rank=0, reader=i, handles=handles) for i in range(2)]
            coming = [pool.submit(r.open, self.route, seat) for r, seat in zip(self.receivers, seats, strict=True)]
            for call in [opening, *coming]:
                call.result()

    def transfer(self, serial, engines=(0, 1)):
        """Digests as sent, and what each engine says or raises."""
        with ThreadPoolExecutor(3) as pool:
            taking = [pool.submit(self.receivers[i].receive, "r", serial, self.parcels[i]) for i in engines]
            sent = None
            for number, parcel in self.sender.send("r", serial):
                if number == LAST:
                    sent = parcel
                else:
                    for i in engines:
                        self.parcels[i].deliver(serial, number, parcel)
            return sent, [call.result() for call in taking]

    def give_up(self):
        give_up(PrefixStore("r", TCPStore(self.route.host, self.route.port, is_master=False)))

    def close(self):
        self.sender.close("r")
        for receiver in self.receivers:
            receiver.close("r")


@pytest.fixture(params=[Transport.object_store, Transport.nccl, Transport.cuda_ipc])
def ends(request):
    ends = Ends(request.param)
    yield ends
    ends.close()


def test_every_transport_brings_every_byte_to_every_engine_many_times(ends):
    original = {name: tensor.clone() for name, tensor in TENSORS.items()}
    try:
        for serial in range(1, 6):
            for tensor in TENSORS.values():
                tensor.add_(1)
            sent, answers = ends.transfer(serial)
            assert len(sent) > 2, "more buckets than buffers"
            for answer, model in zip(answers, ends.models, strict=True):
                assert answer == Loaded(digests=sent, empty=())
                torch.testing.assert_close(model.held["w13"], TENSORS["experts"], rtol=0, atol=0)
                torch.testing.assert_close(model.held["a"], TENSORS["a"], rtol=0, atol=0)
    finally:
        for name, tensor in TENSORS.items():
            tensor.copy_(original[name])


class Doubling(Model):
    """Its kernel wants twice the weights, which the whole way of loading sees to."""

    def reload(self, tensors):
        return super().reload((name, tensor * 2) for name, tensor in tensors)


class Unloadable(Model):
    """Cannot load where its parameters are."""

    def load(self, tensors):
        next(iter(tensors))
        raise NotImplementedError

    def reload(self, tensors):
        Model.load(self, list(tensors))
        return set(self.held)


@pytest.mark.parametrize(("model", "copies"), [(Model, True), (Doubling, False), (Unloadable, False)])
def test_as_on_a_gpu_copies_are_enough_if_they_leave_behind_what_the_loader_does(model, copies):
    ends = Ends(Transport.object_store)
    ends.models[0] = model()
    ends.receivers[0] = WeightReceiver(ends.models[0])
    ends.receivers[0]._undecided = True
    ends.receivers[0].open(ends.route, Seat(number=1))
    sent, (answer,) = ends.transfer(1, engines=[0])
    assert answer.digests == sent
    assert answer.again
    assert not ends.transfer(2, engines=[0])[1][0].again
    wanted = fingerprint(ends.models[0].tensors())
    whole_way = ends.models[0].reload
    called = []
    ends.models[0].reload = lambda tensors: called.append(1) or whole_way(tensors)
    for tensor in ends.models[0].held.values():
        tensor.zero_()
    (answer,) = ends.transfer(3, engines=[0])[1]
    assert answer == Loaded(digests=sent, empty=())
    assert fingerprint(ends.models[0].tensors()) == wanted
    assert bool(called) is not copies
    ends.close()


@pytest.mark.parametrize("kind", [Transport.nccl, Transport.cuda_ipc])
def test_an_engine_that_never_comes_ends_the_transfer_in_time_and_at_once_when_it_is_given_up(kind):
    slow, told = Ends(kind, deadline_s=2.0), Ends(kind, deadline_s=60.0)
    with pytest.raises(TransferError, match=r"longer than 2 s \(weights.deadline_s\)"):
        list(slow.sender.send("r", 1))
    threading.Timer(0.2, told.give_up).start()
    with pytest.raises(TransferError, match="given up"):
        list(told.sender.send("r", 1))
    threading.Timer(0.2, told.give_up).start()
    with pytest.raises(TransferError, match="given up"):
        told.receivers[0].receive("r", 2, None)
    for ends in (slow, told):
        ends.close()


def test_buckets_that_are_not_delivered_end_the_wait():
    ends = Ends(Transport.object_store, deadline_s=0.2)
    with pytest.raises(TransferError, match="bucket 0 took longer"):
        ends.receivers[0].receive("r", 1, ends.parcels[0])
    ends.parcels[0].deliver(2, 0, None)
    with pytest.raises(TransferError, match="given up"):
        ends.receivers[0].receive("r", 2, ends.parcels[0])


VERSION = WeightVersion(number=7, digest="d", digests=("x", "y"), nbytes=100)
FINE = Loaded(digests=("x", "y"), empty=())


class FakeTrainer:
    """Says -1 for every logprob."""

    version = 7
    exclusive = contextlib.nullcontext()

    def __init__(self):
        self.asked = []

    def logprobs(self, sequences):
        self.asked.append(len(sequences))
        return [[-1.0] * len(continuation) for _, continuation in sequences]

    def trace(self, token_ids):
        return {"a": torch.ones(3), "b": torch.ones(3)}

    def rest(self):
        self.resting = True


class FakeEngines:
    """Answers are taken from ``says`` in turn, the last one for ever; each may differ by engine."""

    def __init__(self, *says, logprob=-1.0, b=1.0):
        self.says, self.logprob, self.b = list(says) or [{"0": FINE}], logprob, b
        self.accepted, self.dropped, self.transfers = [], [], []

    def transfer(self, only=None):
        self.transfers.append(only)
        answers = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(answers, Exception):
            raise answers
        return VERSION, {name: a for name, a in answers.items() if only in (None, name)}

    def probe(self, engines, requests):
        sample = Sample(token_ids=[5], logprobs=[self.logprob], stopped=True, policy_version=7, generate_s=0.0)
        return {engine: [sample for _ in requests] for engine in engines}

    def trace(self, engine, token_ids):
        return {"a": torch.ones(3), "b": torch.full((3,), self.b)}

    def tensor_names(self, module):
        return [f"{module}.weight"]

    def accept(self, engines):
        self.accepted += engines

    def drop(self, engine, error):
        self.dropped.append((engine, str(error)))


def publisher(engines):
    return Publisher(
        source=FakeTrainer(), sink=engines, probe_prompts=[[1, 2]], probe_tokens=1,
        max_mean_difference=0.01, max_difference=0.05,
    )  # fmt: skip


def test_agreement_is_measured_and_what_was_proven_is_known():
    engines = FakeEngines(logprob=-1.004)
    ours = publisher(engines)
    assert ours.digest == ""
    version, metrics = ours.publish()
    assert (version, ours.digest, engines.accepted) == (VERSION, "d", ["0"])
    assert metrics["weights/probe_max_abs_diff"] == pytest.approx(0.004)
    assert metrics["fault/publish"] == 0


def test_what_engines_answer_alike_the_trainer_computes_once():
    ours = publisher(FakeEngines({str(number): FINE for number in range(5)}))
    assert ours.publish()[1]["weights/engines"] == 5
    assert ours.source.asked == [1]


def test_the_trainer_computes_many_answers_in_parts():
    ours = publisher(FakeEngines())
    ours.probe_prompts = [[1, token] for token in range(TOGETHER + 8)]
    ours.publish()
    assert ours.source.asked == [TOGETHER, 8]


STALE = Loaded(digests=("x", "old"), empty=())


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        (FakeEngines({"0": STALE}), "0 holds other bytes than version 7 has, in buckets 1"),
        (FakeEngines({"0": Loaded(digests=("x",), empty=())}), "0 holds other bytes than version 7"),
        (FakeEngines({"0": Loaded(digests=("x", "y"), empty=("b",))}), "nothing for 1 parameters of version 7: b"),
        (FakeEngines(logprob=-1.02, b=2.0), r"first block to differ is b, tensors: b\.weight"),
        (FakeEngines(logprob=float("nan")), "every block agrees"),
    ],
)
def test_a_mismatch_that_stays_stops_the_run_and_names_the_tensors(engines, message):
    with pytest.raises(WeightMismatchError, match=message):
        publisher(engines).publish()
    assert engines.transfers == [None, None]
    assert not engines.accepted


def test_a_mismatch_that_goes_away_is_counted():
    engines = FakeEngines({"0": STALE}, {"0": FINE})
    assert publisher(engines).publish()[1]["fault/publish"] == 1
    engines = FakeEngines(TransferError("broken"), {"0": FINE})
    assert publisher(engines).publish()[1]["fault/publish"] == 1
    with pytest.raises(TransferError, match="broken"):
        publisher(FakeEngines(TransferError("broken"))).publish()


def test_the_one_engine_that_stays_wrong_is_given_up():
    engines = FakeEngines({"0": FINE, "1": STALE})
    _, metrics = publisher(engines).publish()
    assert metrics["weights/engines"] == 1
    assert engines.accepted == ["0"]
    ((engine, error),) = engines.dropped
    assert engine == "1"
    assert "other bytes" in error


def test_a_late_engine_is_served_alone_and_only_with_what_is_published():
    engines = FakeEngines({"0": FINE, "late": FINE})
    ours = publisher(engines)
    ours.admit("late")
    assert not engines.transfers, "nothing is published yet"
    ours.publish()
    ours.admit("late")
    assert engines.transfers == [None, "late"]
    assert engines.accepted == ["0", "late", "late"]
    ours.source.version = 8
    ours.admit("late")
    assert len(engines.transfers) == 2, "the trainer has moved on: the next publish serves it"
    ours.source.version = 7
    engines.says = [{"late": STALE}]
    ours.admit("late")
    assert engines.dropped[0][0] == "late"


def test_first_difference_looks_at_blocks_in_order():
    names = ("model.embed", "model.layers.0.mlp.act", "model.layers.0.mlp", "model.layers.0", "model.norm")
    ours = {name: torch.ones(2) for name in names}
    theirs = ours | {name: torch.zeros(2) for name in names[1:]}
    assert first_difference(ours, theirs, tolerance=0.1) == "model.layers.0.mlp"
    assert first_difference(ours, ours, tolerance=0.1) is None
