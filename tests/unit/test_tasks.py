import json
import re

import pytest

from rl.chat import Chat
from rl.compose import REPOSITORY
from rl.procedural import FAMILIES, add_steps, mul_steps, problem_at, sub_steps
from rl.tasks import DatasetTasks, ProceduralTasks, TaskStream, check_prompts, first_tasks


def write(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def dataset(path, **options):
    return DatasetTasks(path=path, prompt="{q}", fields={"answer": "{a}"}, **options)


def test_steps_by_hand():
    assert add_steps(47, 38) == "7+8=15, 4+3+1=8"
    assert sub_steps(83, 47) == "13-7=6, 8-4-1=3"
    assert mul_steps(47, 6) == "7*6=42, 4*6+4=28"


def test_procedural_answers_are_right():
    for index in range(500):
        problem = problem_at(index, families=["add", "subtract", "multiply", "chain"], seed=3, held_out=False)
        expression = re.search(r"[\d+*-]{3,}", problem.question).group()
        assert int(problem.answer) == eval(expression), problem


def test_procedural_splits_are_disjoint_whatever_the_seeds():
    train = {t.messages[0]["content"] for t in first_tasks(ProceduralTasks(seed=1), 2000)}
    held_out = {t.messages[0]["content"] for t in first_tasks(ProceduralTasks(seed=1, held_out=True), 2000)}
    assert not train & held_out
    assert len(held_out) > 500


def test_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match=f"{sorted(FAMILIES)[0]}.*got \\['sums'\\]"):
        ProceduralTasks(families=["sums"])


def test_stream_resumes_exactly(tmp_path):
    source = dataset(write(tmp_path / "a.jsonl", [{"q": f"q{i}", "a": i} for i in range(7)]))
    whole = TaskStream(source, seed=5)
    ids = [t.id for _ in range(6) for t in whole.take(4)]
    first = TaskStream(source, seed=5)
    head = [t.id for _ in range(3) for t in first.take(4)]
    rest = TaskStream(source, seed=5, position=first.position)
    assert head + [t.id for _ in range(3) for t in rest.take(4)] == ids
    assert sorted(ids[:7]) == sorted(ids[7:14]), "an epoch takes every row once"
    assert ids[:7] != ids[7:14], "epochs differ in order"


def test_dataset_parts_are_disjoint_and_complete(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": f"q{i}", "a": i} for i in range(300)])
    parts = [{t.id for t in first_tasks(dataset(path, part=part), 300)} for part in ("train", "held_out")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 300
    assert 15 <= len(parts[1]) <= 50


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_other_file_types(tmp_path, suffix):
    import pandas

    path = tmp_path / f"a.{suffix}"
    getattr(pandas.DataFrame({"q": ["1+1", "2+2"], "a": ["2", "4"]}), f"to_{suffix}")(path, index=False)
    assert [t.fields["answer"] for t in first_tasks(dataset(str(path)), 2)] == ["2", "4"]


def test_pattern_takes_the_last_match(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": "x", "a": "12 apples\n#### 1,200"}])
    assert dataset(path, patterns={"answer": "#### (.+)"}).task_at(0).fields["answer"] == "1,200"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"q": "x", "a": 1}, "{broken\n"], r"a\.jsonl:2: every line must be a JSON object"),
        ([{"q": "x", "a": 1}, "[1]\n"], r"a\.jsonl:2: every line must be a JSON object"),
        ([{"q": "x"}], r"a\.jsonl:1: column 'a' must have a value"),
        ([], r"must hold at least one row"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        dataset(write(tmp_path / "a.jsonl", rows))


def test_missing_file():
    with pytest.raises(ValueError, match=r"nowhere\.jsonl, which does not exist"):
        dataset("nowhere.jsonl")


def test_prompt_longer_than_the_context(tmp_path):
    source = dataset(write(tmp_path / "a.jsonl", [{"q": "x" * 50, "a": 1}]))
    with pytest.raises(ValueError, match=r"a-0: the prompt must be shorter than model\.context \(40 tokens\)"):
        check_prompts(first_tasks(source, 1), Chat(str(REPOSITORY / "models/starter")), context=40)
