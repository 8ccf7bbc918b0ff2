"""Rewards that a judge decides: what they ask, what its answers are worth, and how a reply becomes sentences."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.base import build_reward
from rewards.checklist import checklist, conversation
from rewards.combine import Combined
from rewards.faithfulness import faithful, sentences
from rewards.scoring import evaluate, settle
from rl.types import EndReason, Fault, Rollout, Task, Verdict

CONTEXT = "The Eiffel Tower opened in 1889. It is 330 m tall."
ASKED = ({"role": "user", "content": "Tell me about the tower."},)


def task(*messages, **fields):
    return Task(id="t", kind="chat", messages=messages or ASKED, fields=fields)


def said(text):
    message = {"role": "assistant", "content": text}
    return Rollout(task_id="t", segments=(), messages=(message,), end_reason=EndReason.STOP)


def judge_by(answers, version=3):
    """A judge that gives the first answer whose key the question contains, and 0 where there is none."""

    async def judge(question):
        (message,) = question.messages
        value = next((value for key, value in answers.items() if key in message["content"]), 0.0)
        return Verdict(value=value, version=version)

    return judge


def judged(function, task, rollout, judge, **settings):
    score = evaluate(lambda t, r: function(t, r, **settings), task, rollout)
    return asyncio.run(settle(score, judge))


def texts(score):
    return [q.task.messages[0]["content"] for q in score.questions]


# ---------------------------------------------------------------- checklist


def test_checklist_by_hand():
    criteria = ["is polite", {"text": "names a year", "weight": 2}, {"text": "is short"}]
    score = evaluate(checklist, task(criteria=criteria), said("It opened in 1889."))
    assert (score.fault, score.value) == (None, 0)
    assert [(q.name, q.weight) for q in score.questions] == [
        ("criterion/0", 0.25),
        ("criterion/1", 0.5),
        ("criterion/2", 0.25),
    ]
    first = score.questions[0].task
    assert (first.id, first.kind, first.messages[0]["role"]) == ("t/criterion/0", "judge", "user")
    assert all(x in texts(score)[0] for x in ("Tell me about the tower.", "It opened in 1889.", "is polite"))
    settled = asyncio.run(settle(score, judge_by({"is polite": 0.5, "names a year": 1.0})))
    assert settled.value == 0.25 * 0.5 + 0.5 * 1
    assert settled.verdicts == {"criterion/0": 0.5, "criterion/1": 1.0, "criterion/2": 0.0}
    assert settled.critic_version == 3


def test_the_setting_goes_before_the_tasks_own_criteria():
    score = checklist(task(criteria=["own"]), said("x"), criteria=["set"], prompt="{criterion}?")
    assert texts(score) == ["set?"]
    built = build_reward({"_target_": "rewards.checklist.checklist", "criteria": ["a", "b"]})
    assert [q.weight for q in evaluate(built, task(), said("x")).questions] == [0.5, 0.5]


@pytest.mark.parametrize("criteria", [None, [], "be kind", {"text": "be kind"}])
def test_a_task_needs_criteria(criteria):
    with pytest.raises(ValueError, match=r"task t: criteria must be a list.*or set reward\.criteria"):
        checklist(task(criteria=criteria), said("x"))
    assert evaluate(checklist, task(), said("x")).fault is Fault.EXCEPTION


@pytest.mark.parametrize(
    "entry",
    [
        "",
        3,
        {},
        {"text": 1},
        {"text": "a", "weight": 0},
        {"text": "a", "weight": -1},
        {"text": "a", "weight": float("nan")},
        {"text": "a", "weight": "2"},
        {"text": "a", "wieght": 2},
    ],
)
def test_criteria_of_another_form_are_refused(entry):
    with pytest.raises(ValueError, match="task t: a criterion must be a text, or a mapping"):
        checklist(task(criteria=[entry]), said("x"))


def test_only_the_template_is_a_format_string():
    braces = "{reply} {0} {criterion.x} {{ }"
    score = checklist(task({"role": "user", "content": braces}), said(braces), criteria=[braces])
    assert texts(score)[0].count(braces) == 3
    asked = faithful(task(context=braces), said(braces), prompt="{{}} {context}|{reply}|{sentence}")
    assert texts(asked) == [f"{{}} {braces}|{braces}|{braces}"]


@pytest.mark.parametrize("template", ["no names", "{reply}", "{criterion} {other}", "{criterion} {}", "{criterion} {"])
def test_wrong_templates_are_refused(template):
    with pytest.raises(ValueError, match=r"prompt must be a template with \{criterion\}"):
        checklist(task(criteria=["a"]), said("x"), prompt=template)
    with pytest.raises(ValueError, match=r"prompt must be a template with \{sentence\}"):
        faithful(task(), said(""), prompt=template)


def test_conversations_are_shown_with_their_roles():
    system = {"role": "system", "content": "Be brief."}
    called = {"role": "assistant", "content": None, "tool_calls": []}
    assert conversation(task()) == "Tell me about the tower."
    assert conversation(task(system, called, *ASKED)) == (
        "system: Be brief.\n\nassistant: \n\nuser: Tell me about the tower."
    )
    assert conversation(Task(id="t", kind="chat", messages=())) == ""


# ------------------------------------------------------------- faithfulness

REPLY = "Gladly! The tower opened in 1889. It was painted blue in 1925. It weighs 9 tons.\n---\nAnything else?"
PLANTED = {"reply is:\nIt was painted blue in 1925.": 1.0, "reply is:\nIt weighs 9 tons.": 0.75}


def test_planted_sentences_are_found_and_others_cost_nothing():
    score = judged(faithful, task(context=CONTEXT), said(REPLY), judge_by(PLANTED))
    assert score.fault is None
    assert score.verdicts == {
        "sentence/0": 0,
        "sentence/1": 0,
        "sentence/2": 1,
        "sentence/3": 0.75,
        "sentence/4": 0,
    }
    assert score.value == pytest.approx(1 - (1 + 0.75) / 5)
    assert score.parts["sentences"] == 5, "the rule between them says nothing"
    chatter = judged(faithful, task(context=CONTEXT), said("Gladly! Anything else?"), judge_by(PLANTED))
    assert chatter.value == 1
    worst = judged(faithful, task(), said("A. b.\nC.\nD."), judge_by({"": 1.0}))
    assert worst.value == pytest.approx(0)


def test_every_question_shows_context_reply_and_sentence():
    score = evaluate(faithful, task(context=CONTEXT), said(REPLY))
    assert (score.value, score.fault) == (1, None)
    assert all(CONTEXT in text and REPLY in text for text in texts(score))
    asked = score.questions[1]
    assert (asked.name, asked.weight) == ("sentence/1", -1 / 5)
    assert (asked.task.id, asked.task.kind) == ("t/sentence/1", "judge")


def test_without_its_field_the_messages_are_the_context():
    prompt = "{context}|{sentence}"
    assert texts(faithful(task(), said("Yes."), prompt=prompt)) == ["Tell me about the tower.|Yes."]
    assert texts(faithful(task(source="S"), said("Yes."), prompt=prompt, context="source")) == ["S|Yes."]


@pytest.mark.parametrize("reply", ["", " \n", "...", "---\n!?"])
def test_silence_does_not_pay(reply):
    score = evaluate(faithful, task(context=CONTEXT), said(reply))
    assert (score.value, score.questions, score.parts) == (0, (), {"sentences": 0})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three? Four… Five", 5),
        ("It costs 3.5 dollars. It was 4.0. Now less.", 3),
        ("Use fruit, e.g. Apples, i.e. Cox. Then stop.", 2),
        ("Dr. Smith met Mrs. Jones et al. (2020) in St. Louis. J. R. Tolkien left.", 2),
        ("See p. 5, fig. 2 and No. 7. On Jan. 3 it ended.", 2),
        ("I said no. Then I left.", 2),
        ("The U.S. Army vs. Cuba. End.", 2),
        ('He said "Stop." Then he left.', 2),
        ('"Why?" he asked. (It was late.) **Bold.** "Yes."', 4),
        ("Well... yes. Wait... No!", 3),
        ("line one\nline two\r\n\r\nline three", 3),
        ("Steps:\n1. Mix it. Stir.\n2. Bake it.\n- 3. Eat.\n### 4. Rest\na. Sleep", 7),
        ("Visit example.com. Or read v2.0.1 notes.", 2),
        ("今天下雨。你好吗？很好！", 3),  # noqa: RUF001
        ("「はい。」それから。次", 3),
        ("क्या हुआ। सब ठीक है।", 2),
        ("all in lower case. still going", 1),
        ("Really?! Yes!!! OK.", 3),
        ("So x = y. Then z = 3. Done.", 3),
        ("", 0),
    ],
)
def test_sentences(text, parts):
    assert len(sentences(text)) == parts, sentences(text)


def test_sentences_are_what_a_reader_would_say():
    text = "Dr. Lee paid $3.50.  He left.\n* One item\n* 次。終"
    assert sentences(text) == ["Dr. Lee paid $3.50.", "He left.", "* One item", "* 次。", "終"]


@given(st.text() | st.text(alphabet="aA1 .!?…。」\"'*()\n\r\x1c\u2028-"))
def test_sentences_lose_no_character(text):
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in found)


def test_endless_replies_are_split_at_once():
    for unit in (".", "A. ", "。", '"', "*.", "- ", " "):
        assert "".join("".join(sentences(unit * 100_000)).split()) == (unit * 100_000).replace(" ", "")


# ------------------------------------------------------------------- faults


@pytest.mark.parametrize("function", [checklist, faithful])
def test_no_answer_and_no_judge_are_faults(function):
    case = task(criteria=["is polite", "is short"])
    silent = judge_by({"is polite": None, "reply is:\nTwo.": None}, version=1)
    assert judged(function, case, said("One. Two."), silent).fault is Fault.CRITIC
    assert judged(function, case, said("One. Two."), None).fault is Fault.TOOL


def test_both_combine_by_weight():
    whole = Combined(
        parts={
            "list": {"weight": 0.5, "reward": {"_target_": "rewards.checklist.checklist", "criteria": ["is polite"]}},
            "true": {"weight": 2, "reward": {"_target_": "rewards.faithfulness.faithful"}},
        }
    )
    score = evaluate(whole, task(context=CONTEXT), said(REPLY))
    assert (score.value, score.fault) == (2, None)
    assert [(q.name, q.weight) for q in score.questions] == [
        ("list/criterion/0", 0.5),
        *((f"true/sentence/{n}", -2 / 5) for n in range(5)),
    ]
    settled = asyncio.run(settle(score, judge_by({"is polite": 0.5, **PLANTED})))
    assert settled.value == pytest.approx(0.5 * 0.5 + 2 * (1 - 1.75 / 5))
    assert settled.verdicts["list/criterion/0"] == 0.5
    assert settled.verdicts["true/sentence/2"] == 1
    assert settled.parts["true/sentences"] == 5


def test_a_judged_gate_is_refused():
    from rewards.combine import Combined

    gated = Combined(
        parts={
            "kept": {"reward": {"_target_": "rewards.checklist.checklist"}, "gate": True},
            "base": {"reward": {"_target_": "rewards.facts.true_facts"}},
        }
    )
    score = evaluate(gated, task(criteria=["is polite"], number=12), said("12 is even."))
    assert score.fault == "exception"
    assert "reward.parts.kept must not be a gate" in score.error
