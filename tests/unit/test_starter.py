import hashlib
import json
import random
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from rl.compose import REPOSITORY
from rl.procedural import FAMILIES, problem_at
from scripts import make_starter, starter_mix


@pytest.mark.parametrize("name", ["starter", "starter_dsv3"])
def test_committed_weights_are_small_and_as_recorded(name):
    path = REPOSITORY / "models" / name / "model.safetensors"
    manifest = json.loads((path.parent / "starter.json").read_text())
    assert path.stat().st_size <= 8 * 2**20
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["weights_sha256"]
    with safe_open(path, "pt") as tensors:
        dtypes = {tensors.get_tensor(k).dtype for k in tensors.keys() if not k.endswith("bias")}  # noqa: SIM118
    assert {str(d) for d in dtypes} == {"torch.bfloat16"}


@pytest.mark.parametrize("name", ["starter", "starter_dsv3"])
def test_every_expert_of_the_committed_starters_works(name):
    model = AutoModelForCausalLM.from_pretrained(REPOSITORY / "models" / name, dtype=torch.float32).eval()
    vocabulary = make_starter.make_tokenizer().get_vocab()
    ((ids, _),) = next(make_starter.batches(vocabulary, examples=64, parts=1, seed=name))
    chosen = make_starter.Routers(model)
    with torch.no_grad():
        model(input_ids=ids)
        chosen.imbalance(ids.flatten() != 0)
    assert chosen.least > 0.02, "of an eighth each"


def test_building_is_deterministic(tmp_path):
    digests = []
    for attempt in ("a", "b"):
        command = ["-m", "scripts.make_starter", "qwen3moe", str(tmp_path / attempt), "--steps", "2"]
        subprocess.run(
            [sys.executable, *command, "--no-evaluation"], cwd=REPOSITORY, check=True, capture_output=True, timeout=300
        )
        digests.append(json.loads((tmp_path / attempt / "starter.json").read_text())["weights_sha256"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slip_spoils_the_answer_and_any_part_of_a_step(family):
    rng = random.Random(family)
    changed = set()
    for number in range(400):
        problem = problem_at(number, families=[family], seed=0, held_out=False)
        right = problem.steps.rpartition(": ")[2].split(", ")
        assert all(str(starter_mix._value(work, problem)) == value for work, value in (s.split("=") for s in right))
        steps, answer = starter_mix._slip(rng, problem)
        assert answer != problem.answer
        wrong = steps.rpartition(": ")[2].split(", ")
        first = next(i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b)
        changed.add(right[first].split("=")[0] == wrong[first].split("=")[0])
    assert changed == {True, False}


def test_replies_that_say_nothing_are_of_every_sort_and_never_marked_as_true():
    rng = random.Random(0)
    broken = {starter_mix._broken(rng, 47) for _ in range(500)}
    whole = re.compile(r"47 (is odd|is even|is (over|under) \d+|starts with \d|ends in \d)\.")
    assert not [reply for reply in broken if whole.fullmatch(reply)]
    assert {"47", "47 is"} < broken, "the bare number, and what is cut short"
    assert any(re.fullmatch(r"(?!47)\d+ is (odd|even)\.", reply) for reply in broken), "about another number"
    for _ in range(500):
        question, verdict = (message["content"] for message in starter_mix.rule(rng))
        reply = re.search("Reply: (.*)\n", question)[1]
        if question.startswith("Rule: true facts") and re.search(r"\d+$", reply):
            assert verdict == "no"
