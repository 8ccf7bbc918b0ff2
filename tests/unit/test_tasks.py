import json
import re

import pytest

from rl.chat import Chat
from rl.compose import REPOSITORY
from rl.dataset_tasks import DatasetTasks
from rl.functions import FUNCTIONS, numbered_functions
from rl.procedural import FAMILIES, add_steps, mul_steps, problem_at, sub_steps
from rl.tasks import FunctionTasks, MixedTasks, ProceduralTasks, TaskStream, check_prompts, first_tasks


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


def test_functions_and_their_tests_agree():
    for task in first_tasks(FunctionTasks(seed=2), 300):
        function = next(f for f in every_function() if f.question == task.messages[0]["content"])
        names = {}
        exec(f"def {function.name}({function.params}):\n    return {function.body}", names)
        for test in task.fields["tests"]:
            exec(test, names)
        assert task.fields["entry_points"] == (function.name,)


def every_function():
    return [*FUNCTIONS, *(f for k in range(2, 100) for f in numbered_functions(k))]


def test_function_splits_are_disjoint():
    train = {t.messages[0]["content"] for t in first_tasks(FunctionTasks(seed=1), 1000)}
    held_out = {t.messages[0]["content"] for t in first_tasks(FunctionTasks(seed=1, held_out=True), 1000)}
    assert not train & held_out
    assert len(held_out) >= 20


def test_a_mixture_keeps_its_shares_and_walks_through_each_source(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": f"q{i}", "a": i} for i in range(4)])
    rows = {"_target_": "rl.dataset_tasks.DatasetTasks", "path": path, "prompt": "{q}", "fields": {"answer": "{a}"}}
    code = {"_target_": "rl.tasks.FunctionTasks"}
    mixture = MixedTasks(sources={"rows": {"source": rows, "share": 2}, "code": {"source": code}})
    tasks = first_tasks(mixture, 12)
    assert [t.kind for t in tasks] == ["math", "code", "math"] * 4
    ids = [t.id for t in tasks if t.kind == "math"]
    assert sorted(ids[:4]) == sorted(ids[4:]) == [f"a-{i}" for i in range(4)]
    assert [t.id for t in tasks if t.kind == "code"] == [f"function-{i}" for i in range(4)]
    with pytest.raises(ValueError, match=r"sources\.code must have a source, and a share that is a whole number"):
        MixedTasks(sources={"code": {"source": code, "share": 0.5}})


def test_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match=f"{sorted(FAMILIES)[0]}.*got \\['sums'\\]"):
        ProceduralTasks(families=["sums"])


def test_stream_resumes_exactly(tmp_path):
    source = dataset(write(tmp_path / "a.jsonl", [{"q": f"q{i}", "a": i} for i in range(7)]))
    whole = TaskStream(source, seed=5)
    ids = [t.id for _ in range(6) for t in whole.take(4)]
    first = TaskStream(source, seed=5)
    head = [t.id for _ in range(3) for t in first.take(4)]
    rest = TaskStream(source, seed=5)
    rest.restore(first.state())
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
    assert [str(t.fields["answer"]) for t in first_tasks(dataset(str(path)), 2)] == ["2", "4"]


def test_columns_keep_their_type_and_are_checked(tmp_path):
    rows = [{"q": "x", "a": ["assert f(1) == 2"]}, {"q": "y", "a": "assert"}]
    path = write(tmp_path / "a.jsonl", rows)
    source = dataset(path, rows=[0, 1], columns={"a": "list"}, constants={"test_style": "asserts"}, tags=["q"])
    task = source.task_at(0)
    assert task.fields == {"test_style": "asserts", "answer": ["assert f(1) == 2"]}
    assert (source.size, task.tags) == (1, ("x",))
    with pytest.raises(ValueError, match=r"a\.jsonl:2: column 'a' must be list, got str 'assert'"):
        dataset(path, columns={"a": "list"})
    with pytest.raises(ValueError, match="columns must have types out of str, int"):
        dataset(path, columns={"a": "text"})


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
