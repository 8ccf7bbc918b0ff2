"""Search in a small corpus, and what is not one."""

import asyncio
import json

import pytest

from envs import retrieval
from envs.retrieval import OpenDocument, Search, read_corpus, snippet
from envs.tools import ToolEnv, ToolError
from rl.tool_calls import STARTER, read_turn
from rl.types import Task

ROWS = [
    {"id": "1", "title": "Bees", "text": "Bees make honey. They live in hives and dance to show where flowers are."},
    {"id": "2", "title": "Wasps", "text": "Wasps make no honey, but paper for their nests."},
    {"id": "3", "title": "The letter Ä", "text": "Größe und Äpfel " + "x " * 3000},
]
TASK = Task(id="t", kind="tools", messages=({"role": "user", "content": "Who makes honey?"},))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def said(tool, **arguments):
    async def work():
        await tool.open(TASK)
        try:
            return await tool.call(arguments)
        finally:
            await tool.close()

    return asyncio.run(work())


def ids(text):
    return [line[1 : line.index("]")] for line in text.splitlines() if line.startswith("[")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("honey", ["2", "1"]),
        ("HONEY from hives", ["1", "2"]),
        ("paper nests", ["2"]),
        ("größe", ["3"]),
        ("bees", ["1"]),
    ],
)
def test_the_best_come_first_and_only_those_with_a_word_of_the_query(corpus, query, found):
    assert ids(said(Search(corpus=corpus), query=query)) == found


def test_an_answer_is_bounded_and_shows_where_the_words_are(corpus):
    answer = said(Search(corpus=corpus, count=1, snippet_chars=40), query="flowers")
    assert answer == "[1] Bees\nhives and dance to show where flowers ar"
    assert snippet("a  b\nc", set(), 100) == "a b c"


@pytest.mark.parametrize("query", ["", "?!", "zebra"])
def test_nothing_found_comes_back_to_the_policy(corpus, query):
    with pytest.raises(ToolError, match="no document has any of these words"):
        said(Search(corpus=corpus), query=query)


def test_equally_good_documents_keep_the_order_of_the_corpus(tmp_path):
    for name in "cab":
        (tmp_path / f"{name}.md").write_text("same words")
    assert ids(said(Search(corpus=str(tmp_path)), query="words")) == ["a.md", "b.md", "c.md"]


def test_documents_are_opened_page_by_page(corpus):
    text = ROWS[2]["text"]
    tool = OpenDocument(corpus=corpus, page_chars=4000)
    assert said(tool, id="3") == f"The letter Ä (page 1 of 2)\n{text[:4000]}"
    assert said(tool, id="3", page=2) == f"The letter Ä (page 2 of 2)\n{text[4000:]}"
    with pytest.raises(ToolError, match="3 has pages 1 to 2, asked for 3"):
        said(tool, id="3", page=3)
    with pytest.raises(ToolError, match="there is no document 9"):
        said(tool, id="9")


def test_a_folder_is_a_corpus_of_its_text_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "night.md").write_text("stars")
    (tmp_path / "day.txt").write_text("sun")
    (tmp_path / "ignored.py").write_text("stars")
    assert ids(said(Search(corpus=str(tmp_path)), query="stars sun")) == ["day.txt", "deep/night.md"]
    assert said(OpenDocument(corpus=str(tmp_path)), id="deep/night.md") == "night (page 1 of 1)\nstars"


def test_a_corpus_is_read_once_for_all(corpus, monkeypatch):
    read = []
    rows = retrieval.read_rows
    monkeypatch.setattr(retrieval, "read_rows", lambda path: read.append(path) or rows(path))

    async def many():
        tools = [Search(corpus=corpus) for _ in range(8)] + [OpenDocument(corpus=corpus)]
        await asyncio.gather(*(tool.open(TASK) for tool in tools))

    asyncio.run(many())
    assert len(read) == 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"id": "1", "title": "x"}\n', "c.jsonl:1: a row must have id, title and text, all text"),
        ('{"id": 1, "title": "x", "text": "y"}\n', "c.jsonl:1: a row must have id, title and text, all text"),
        ("nonsense\n", "c.jsonl:1: every line must be a JSON object"),
        ('{"id": "1", "title": "x", "text": "y"}\n' * 2, "c.jsonl:2: id must be another for every document, got '1'"),
        ('{"id": "1", "title": "", "text": "?"}\n', "corpus must hold at least one document with words"),
        ("", "corpus must hold at least one document with words"),
    ],
)
def test_what_is_no_corpus(tmp_path, content, error):
    path = tmp_path / "c.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=error.replace(".", r"\.")):
        read_corpus(str(path))


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match=r"corpus must be a \.jsonl file or a folder of \.txt and \.md files, got "):
        read_corpus(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(ValueError, match="count and snippet_chars must be at least 1, got 0, 200"):
        Search(corpus="x", count=0)
    with pytest.raises(ValueError, match="page_chars must be at least 1, got 0"):
        OpenDocument(corpus="x", page_chars=0)


def test_both_in_an_environment(corpus):
    tools = [{"_target_": f"envs.retrieval.{name}", "corpus": corpus} for name in ("Search", "OpenDocument")]

    async def work():
        env = ToolEnv(tools=tools)
        opening = await env.reset(TASK)
        calls = (
            '<|call|>{"name": "search", "arguments": {"query": "hives"}}<|/call|>'
            '<|call|>{"name": "open_document", "arguments": {"id": "1"}}<|/call|>'
        )
        step = await env.step(read_turn(calls, STARTER, number=0))
        await env.close()
        return [tool["function"]["name"] for tool in opening.tools], [m["content"] for m in step.messages]

    names, (found, shown) = asyncio.run(work())
    assert names == ["search", "open_document"]
    assert found.startswith("[1] Bees\n")
    assert shown.endswith(ROWS[0]["text"])
