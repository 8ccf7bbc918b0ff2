"""Instruction following: IFEval's checks, the division of labour with the judge, and claims that are not true."""

import json

import pytest

from rewards.instructions import falsely_claimed, follows, ifeval_checks, instructions
from rewards.scoring import evaluate
from rl.errors import ToolMissingError
from rl.types import EndReason, Fault, Rollout, Task


def installed():
    try:
        return bool(ifeval_checks())
    except ToolMissingError:
        return False


pytestmark = pytest.mark.skipif(not installed(), reason="lm-eval or NLTK's sentence tables are missing")

VERDICTS = [
    ("punctuation:no_comma", {}, "No pauses here.", True),
    ("punctuation:no_comma", {}, "Well, one pause.", False),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 5}, "one two three four five", True),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 5}, "one two three four five", False),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 2},
        "It rains. Dr. Lee left.",
        True,
    ),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 2}, "It rains. Go in.", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, "one\n***\ntwo", False),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First this.\n\nThen that.",
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "then"},
        "First this.\n\nThen that.",
        False,
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name] of [town]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}, "Dear [name] of [town]", False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Feed the cat.", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* one\n* two", False),
    ("detectable_format:constrained_response", {}, "My answer is yes.", True),
    ("detectable_format:constrained_response", {}, "Sure thing.", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a b* and *c d*", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}, "*a b* and *c d*", False),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        True,
    ),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 3}, "Part 1\na", False),
    ("detectable_format:json_format", {}, '{"a": 1}', True),
    ("detectable_format:json_format", {}, "a: 1", False),
    ("detectable_format:title", {}, "<<The Sea>>\nIt is wide.", True),
    ("detectable_format:title", {}, "The Sea", False),
    ("keywords:existence", {"keywords": ["salt", "wave"]}, "Salt in every wave.", True),
    ("keywords:existence", {"keywords": ["salt", "sand"]}, "Salt in every wave.", False),
    ("keywords:frequency", {"keyword": "wave", "frequency": 2, "relation": "at least"}, "wave after wave", True),
    ("keywords:frequency", {"keyword": "wave", "frequency": 2, "relation": "less than"}, "wave after wave", False),
    ("keywords:forbidden_words", {"forbidden_words": ["sand"]}, "Salt and foam.", True),
    ("keywords:forbidden_words", {"forbidden_words": ["foam"]}, "Salt and foam.", False),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "jazz", True),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "no!", False),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "no! no!", True),
    ("language:response_language", {"language": "de"}, "Das Meer ist heute ganz ruhig und blau.", True),
    ("language:response_language", {"language": "de"}, "The sea is calm and blue today.", False),
    ("combination:two_responses", {}, "One way.\n******\nAnother way.", True),
    ("combination:two_responses", {}, "Only one way.", False),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Name a fish."}, "Name a fish. Trout.", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Name a fish."}, "Trout.", False),
    ("startend:end_checker", {"end_phrase": "Over and out."}, "We land at nine. Over and out.", True),
    ("startend:end_checker", {"end_phrase": "Over and out."}, "Over and out. Not yet.", False),
    ("startend:quotation", {}, '"All of it is quoted."', True),
    ("startend:quotation", {}, "None of it is.", False),
    ("change_case:english_capital", {}, "THE SEA IS CALM AND BLUE TODAY.", True),
    ("change_case:english_capital", {}, "The sea is calm and blue today.", False),
    ("change_case:english_lowercase", {}, "the sea is calm and blue today.", True),
    ("change_case:english_lowercase", {}, "The sea is calm.", False),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "GO NOW", True),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "GO NOW", False),
]


def test_every_kind_of_constraint_has_both_verdicts():
    assert {name for name, *_ in VERDICTS} == set(ifeval_checks())
    assert len(ifeval_checks()) == 25


@pytest.mark.parametrize(("name", "arguments", "reply", "verdict"), VERDICTS)
def test_verdicts(name, arguments, reply, verdict):
    assert follows(name, arguments, "Name a fish.", reply) is verdict


def test_the_loose_measure_forgives_wrapping():
    reply = "Sure, here it is:\nno pauses here\nHope that helps, friend"
    assert not follows("punctuation:no_comma", {}, "", reply)
    assert follows("punctuation:no_comma", {}, "", reply, loose=True)


def judged(reply, credit="all", **fields):
    fields = {"constraints": ["punctuation:no_comma"], "arguments": [{}]} | fields
    task = Task(id="t", kind="instruct", messages=({"role": "user", "content": "Write."},), fields=fields)
    messages = ({"role": "assistant", "content": reply},)
    rollout = Rollout(task_id="t", segments=(), messages=messages, end_reason=EndReason.STOP)
    return evaluate(lambda t, r: instructions(t, r, credit=credit), task, rollout)


def test_checkable_constraints_never_go_to_the_judge():
    assert judged("fine").questions == ()
    assert judged("fine").value == 1
    broken = judged("not, fine", nuanced=["is friendly"])
    assert (broken.value, broken.questions) == (0, ())
    asked = judged("fine", nuanced=["is friendly", "is short"])
    assert asked.value == 0
    assert [q.weight for q in asked.questions] == [0.5, 0.5]
    assert "is friendly" in asked.questions[0].task.messages[0]["content"]
    assert "comma" not in json.dumps([q.task.messages[0]["content"] for q in asked.questions])


def test_share_of_constraints():
    both = ["punctuation:no_comma", "change_case:english_lowercase"]
    fields = {"constraints": both, "arguments": [{}, {}]}
    assert judged("The sea is calm", credit="share", **fields).value == 0.5
    score = judged("the sea is calm", credit="share", nuanced=["is friendly"], **fields)
    assert score.value == pytest.approx(2 / 3)
    assert [q.weight for q in score.questions] == [pytest.approx(1 / 3)]


def test_unknown_constraints_are_the_datas_fault():
    score = judged("x", constraints=["no:such"])
    assert score.fault is Fault.EXCEPTION
    assert "no:such" in score.error


CLAIMS = [
    ("punctuation:no_comma", "Red, green, blue. This response contains no commas."),
    ("punctuation:no_comma", "Red, green, blue. I have avoided commas throughout."),
    ("punctuation:no_comma", "As requested, I wrote this without any commas."),
    ("punctuation:no_comma", "Well, here: the text above is free of commas, so it meets all your requirements."),
    ("length_constraints:number_words", "Short text. (Word count: 300)"),
    ("length_constraints:number_words", "Short text. This answer has exactly 300 words."),
    ("length_constraints:number_words", "I made sure to write at least 300 words."),
    ("length_constraints:number_sentences", "One. I have written exactly five sentences."),
    ("length_constraints:number_sentences", "One. My response consists of five sentences, as you asked."),
    ("detectable_format:number_bullet_lists", "- a\nI used exactly 4 bullet points."),
    ("detectable_format:number_bullet_lists", "This response includes four bullets."),
    ("change_case:english_lowercase", "Hello. I kept everything in lowercase as instructed."),
    ("change_case:english_lowercase", "Hello. My entire answer is in lower case letters."),
    ("change_case:english_capital", "hello. This text is written in all capital letters."),
    ("keywords:forbidden_words", "Sand. I did not use the forbidden word, following your instructions."),
    ("keywords:existence", "Nothing. I have included the keywords salt and wave."),
    ("keywords:frequency", "Wave. I mentioned the word wave four times."),
    ("detectable_format:json_format", "a: 1. The output is valid JSON."),
    ("detectable_format:title", "No title. I have included a title in double angular brackets."),
    ("startend:end_checker", "So it ends. I ended with the phrase you gave."),
    ("startend:quotation", "Plain. I wrapped the whole response in quotation marks."),
    ("detectable_content:postscript", "Bye. I included a postscript as specified."),
    ("detectable_content:number_placeholders", "Dear you. I used at least 3 placeholders."),
    ("language:response_language", "Hello. I have written the response entirely in German."),
    ("combination:two_responses", "One. I have given two different responses as required."),
    ("length_constraints:number_paragraphs", "One. The answer has three paragraphs, per your request."),
]

HONEST = [
    "The sea, the sky and the shore.",
    "Here is a letter, as short as I could make it.",
    "I think, therefore I am.",
    "The word sea comes from Old English.",
    "You may use commas, but sparingly.",
    "A sentence has a subject, usually.",
    "My answer, in short: go home.",
    "The capital of France, Paris, is large.",
    "In this poem the wind speaks, then sleeps.",
    "There are three ways, and all of them are long.",
    "I could not avoid commas here, sorry.",
    "He wrote a title, then a page.",
    "We followed the river, then the road.",
    "It ends, as it began, with rain.",
    "Use JSON, or use YAML.",
    "First, boil water. Second, add salt.",
    "The teacher asked for quiet, and got it.",
    "I have lived in Rome, Oslo and Bern.",
    "She has kept the letter, unopened.",
    "No, thank you.",
]


def test_claims_that_are_not_true_are_flagged():
    missed = [reply for name, reply in CLAIMS if not falsely_claimed(reply, [name])]
    assert len(missed) <= len(CLAIMS) // 10, missed


def test_honest_replies_are_not_flagged():
    flagged = [reply for reply in HONEST if falsely_claimed(reply, ["punctuation:no_comma"])]
    assert len(flagged) <= len(HONEST) // 20, flagged
    assert not any(falsely_claimed(reply, []) for _, reply in CLAIMS), "a claim that is true"


def test_a_flagged_reply_never_scores_above_an_unflagged_failure():
    both = ["punctuation:no_comma", "change_case:english_lowercase"]
    fields = {"constraints": both, "arguments": [{}, {}]}
    for credit in ("all", "share"):
        honest = judged("The sea, the sky.", credit=credit, **fields)
        liar = judged("the sea, the sky. this response contains no commas.", credit=credit, **fields)
        assert liar.parts["false_claim"] == 1
        assert liar.value <= honest.value
