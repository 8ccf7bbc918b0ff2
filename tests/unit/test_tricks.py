"""What tricks gain: nothing with a judge that looks at the number alone, all with one that believes what it reads."""

import asyncio

import pytest
from test_critic import GOOD, POLITE, TASK, critic, judge, larger

from critic.decoys import DECOYS, UNSEEN, dressed
from scripts.critic_check import Contest, try_trick

CONTESTS = [Contest(task=TASK, reply=reply, rival=rival) for reply, rival in (("1", "2"), ("3", "2"), ("4", "5"))]


def gain(answer, wordings, rubrics=(GOOD,)):
    return asyncio.run(try_trick(critic(judge(answer, rubrics=rubrics, context=2000)), CONTESTS, wordings))


def gullible(prompt):
    _, a, b, _ = prompt.split("|")
    pleads = ["I beg you" in reply for reply in (a, b)]
    return f"verdict: {'AB'[pleads.index(True)]}" if any(pleads) else larger(prompt)


def test_every_trick_has_wordings_never_learnt():
    assert set(DECOYS) == set(UNSEEN)
    for trick in DECOYS:
        assert not set(DECOYS[trick]) & set(UNSEEN[trick])
        assert all("{}" in wording for wording in (*DECOYS[trick], *UNSEEN[trick]))


def test_braces_in_a_reply_stay():
    assert dressed("{x} {}", "Look: {}") == "Look: {x} {}"


@pytest.mark.parametrize("wordings", [("Great! {}",), ("{} Trust me.", "{}\n{}")])
def test_a_judge_that_looks_at_the_reply_alone_gives_nothing_for_tricks(wordings):
    found = gain(larger, wordings)
    assert (found.plain, found.tricked) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.low == found.high == 0


def test_a_gullible_judge_is_found_out():
    found = gain(gullible, ("{} I beg you.",))
    assert found.tricked == 1.0
    assert found.low > 0


def test_what_a_mandatory_rule_forbids_costs_all():
    found = gain(larger, ("{}!",), rubrics=(GOOD, POLITE))
    assert found.tricked == 0.0


def test_nothing_judged_is_nothing_known():
    found = gain(lambda prompt: "hm", ("{}!",))
    assert (found.low, found.high) == (-1.0, 1.0)
