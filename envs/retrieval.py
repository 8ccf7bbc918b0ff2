"""Search in a local corpus, and its documents page by page: two tools for ``envs.tools.ToolEnv``.

A corpus is a ``.jsonl`` file with ``id``, ``title`` and ``text`` in every row, or a folder of ``.txt`` and ``.md``
files. It is read once per process, whatever the number of tools and rollouts.
"""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from envs.tools import ToolError
from rl.dataset_tasks import read_rows
from rl.tool_calls import declaration
from rl.types import Task

BEFORE = 30
"""Characters that a snippet shows of what stands before the word that was asked for."""
_WORD = re.compile(r"\w+")
_READING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Document:
    id: str
    title: str
    text: str


class Corpus:
    """Documents, and how well they fit a query by BM25 over the words of title and text."""

    def __init__(self, documents: Mapping[str, Document]) -> None:
        self.documents = documents
        self._ids = list(documents)
        self._index = bm25s.BM25()
        words = [_words(f"{document.title}\n{document.text}") for document in documents.values()]
        self._index.index(words, show_progress=False)

    def best(self, query: str, count: int) -> list[Document]:
        """The best documents that have a word of the query, best first; equally good ones in the corpus's order."""
        words = _words(query)
        if not words:
            return []
        scores_D = self._index.get_scores(words)
        order = np.argsort(-scores_D, kind="stable")[:count]
        return [self.documents[self._ids[i]] for i in order if scores_D[i] > 0]


def _words(text: str) -> list[str]:
    return [word[0].lower() for word in _WORD.finditer(text)]


def read_corpus(path: str) -> Corpus:
    """The corpus at a path. Raises ``ValueError``, naming file and line, for what is none."""
    with _READING:
        return _read_corpus(str(Path(path).resolve()))


@functools.cache
def _read_corpus(path: str) -> Corpus:
    found = _folder(Path(path)) if Path(path).is_dir() else _rows(path)
    documents: dict[str, Document] = {}
    for where, document in found:
        if document.id in documents:
            raise ValueError(f"{where}: id must be another for every document, got {document.id!r} again")
        documents[document.id] = document
    if not any(_words(document.title + document.text) for document in documents.values()):
        raise ValueError(f"corpus must hold at least one document with words, got none in {path}")
    return Corpus(documents)


def _folder(folder: Path) -> list[tuple[str, Document]]:
    """The text files below a folder, called by their relative paths."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".txt", ".md") and file.is_file())
    documents = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: a document must be UTF-8 text: {error}") from error
        documents.append((str(file), Document(id=str(file.relative_to(folder)), title=file.stem, text=text)))
    return documents


def _rows(path: str) -> list[tuple[str, Document]]:
    if not (path.endswith(".jsonl") and Path(path).is_file()):
        raise ValueError(f"corpus must be a .jsonl file or a folder of .txt and .md files, got {path}")
    documents = []
    for where, row in read_rows(path):
        parts = {name: row.get(name) for name in ("id", "title", "text")}
        if not all(isinstance(part, str) for part in parts.values()):
            raise ValueError(f"{where}: a row must have id, title and text, all text, got {str(dict(row))[:80]}")
        documents.append((where, Document(**{name: str(part) for name, part in parts.items()})))
    return documents


class _Reading:
    """A tool that reads a corpus."""

    def __init__(self, corpus: str) -> None:
        self._path = corpus
        self._corpus: Corpus

    async def open(self, task: Task) -> None:
        self._corpus = await asyncio.to_thread(read_corpus, self._path)

    async def close(self) -> None:
        pass


class Search(_Reading):
    """Lists the documents that fit a query best: id, title, and how the text goes where the query's words begin.

    Args:
        corpus: path of the corpus.
        count: most documents in an answer.
        snippet_chars: most characters of a document's text in it.

    """

    declaration = declaration(
        "search",
        "Finds documents by the words in them.",
        {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    )

    def __init__(self, *, corpus: str, count: int = 5, snippet_chars: int = 200) -> None:
        if count < 1 or snippet_chars < 1:
            raise ValueError(f"count and snippet_chars must be at least 1, got {count}, {snippet_chars}")
        super().__init__(corpus)
        self._count, self._snippet_chars = count, snippet_chars

    async def call(self, arguments: Mapping[str, Any]) -> str:
        found = await asyncio.to_thread(self._corpus.best, arguments["query"], self._count)
        if not found:
            raise ToolError("no document has any of these words")
        words = set(_words(arguments["query"]))
        return "\n\n".join(
            f"[{document.id}] {document.title}\n{snippet(document.text, words, self._snippet_chars)}"
            for document in found
        )


def snippet(text: str, words: set[str], limit: int) -> str:
    """A stretch of at most ``limit`` characters, in one line, from shortly before the first of the words."""
    line = " ".join(text.split())
    first = next((word.start() for word in _WORD.finditer(line) if word[0].lower() in words), 0)
    start = line.rfind(" ", 0, max(0, first - BEFORE)) + 1
    return line[start : start + limit]


class OpenDocument(_Reading):
    """Shows a document that a search has found, one page at a time.

    Args:
        corpus: path of the corpus.
        page_chars: characters of a page.

    """

    declaration = declaration(
        "open_document",
        "Shows a page of a document.",
        {
            "type": "object",
            "properties": {"id": {"type": "string"}, "page": {"type": "integer", "minimum": 1}},
            "required": ["id"],
        },
    )

    def __init__(self, *, corpus: str, page_chars: int = 2000) -> None:
        if page_chars < 1:
            raise ValueError(f"page_chars must be at least 1, got {page_chars}")
        super().__init__(corpus)
        self._page_chars = page_chars

    async def call(self, arguments: Mapping[str, Any]) -> str:
        document = self._corpus.documents.get(arguments["id"])
        if document is None:
            raise ToolError(f"there is no document {arguments['id']}")
        pages = max(1, -(-len(document.text) // self._page_chars))
        page = arguments.get("page", 1)
        if page > pages:
            raise ToolError(f"{document.id} has pages 1 to {pages}, asked for {page}")
        start = (page - 1) * self._page_chars
        return f"{document.title} (page {page} of {pages})\n{document.text[start : start + self._page_chars]}"
