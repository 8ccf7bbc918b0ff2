"""Constrained decoding: with it every tool call is valid, at a temperature at which hardly any is without (G10)."""

import asyncio

import pytest

from envs.calculator import Calculator
from envs.tools import Toolbox
from rl.compose import load_config
from rl.prepare import prepare
from rl.processes import engine_options
from rl.tool_calls import HERMES, K2, STARTER, calls_in, structure
from rl.types import SampleRequest
from rl.workers import placement
from rl.workers.rollout_pool import RolloutPool

TOOLS = [Calculator().declaration]


def called(config):
    """What 48 hot samples call, and whether the calculator would accept it, with and without the constraint."""
    parts = prepare(config)
    prompt = parts.chat.prompt_ids([{"role": "user", "content": "What is 8151+6348?"}], TOOLS)
    found = {}
    placement.connect(config.cluster)
    try:
        actors, starting = placement.start_rollout_workers(engine_options(config, parts), config.cluster, count=1)
        placement.wait_started(starting, config.cluster)
        with asyncio.Runner() as runner:
            pool = RolloutPool(actors, deadline_s=120)
            for form in (None, parts.chat.call_structure(TOOLS)):

                async def sample(seed, form=form):
                    request = SampleRequest(
                        prompt_ids=prompt, max_tokens=120, temperature=1.7, seed=seed, structure=form, session=str(seed)
                    )
                    return await pool.sample(request)

                async def all_samples(sample=sample):
                    return await asyncio.gather(*map(sample, range(48)))

                calls = [
                    c for s in runner.run(all_samples()) if s.stopped for c in calls_in(parts.chat.read(s.token_ids))
                ]
                found[form is not None] = [
                    c.error is None and Toolbox([Calculator()])._problem(c) is None for c in calls
                ]
    finally:
        placement.disconnect()
    return found


def test_all_calls_are_valid_with_it_and_not_without():
    config = load_config(["tasks=tools", "reward=math", "evaluation.constrain_calls=true"])
    found = called(config)
    print({name: (len(valid), sum(valid)) for name, valid in found.items()})
    assert len(found[True]) >= 5
    assert all(found[True])
    assert not all(found[False])


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (HERMES, '<tool_call>{"name": "calculator", "arguments": {"expression": "1+1"}}</tool_call>', '<tool_call>{"x'),
        (STARTER, 'Hm. <|call|>{"name": "calculator", "arguments": {"expression": "2"}}<|/call|>', "<|call|>2"),
        (
            K2,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.calculator:0<|tool_call_argument_begin|>"
            '{"expression": "1+1"}<|tool_call_end|><|tool_calls_section_end|>',
            "<|tool_call_begin|>functions.other:0",
        ),
    ],
)
def test_each_format_accepts_its_own_calls_and_no_others(form, right, wrong):
    import xgrammar

    letters = xgrammar.TokenizerInfo([chr(code) for code in range(256)], vocab_type=xgrammar.VocabType.RAW)
    grammar = xgrammar.GrammarCompiler(letters).compile_structural_tag(structure(form, TOOLS))
    assert xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True).accept_string(right)
    assert not xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True).accept_string(wrong)
