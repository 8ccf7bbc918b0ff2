"""Pausing rollouts between iterations: an engine with a gate in front that can be shut."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

from rl.protocols import Engine
from rl.types import Sample, SampleRequest


@dataclass(kw_only=True)
class Gate:
    """Lets requests through to ``engine`` while it is open, and each rollout at most ``allowance`` tokens an opening.

    What is under way when the gate shuts, or has used up its allowance, comes back ``interrupted`` with the tokens that
    there are; the rollout's next request then waits for the next opening. (K1.5 §2.6.2.)
    """

    engine: Engine
    allowance: int | None = None
    waiting: set[str] = field(default_factory=set, init=False)
    """Rollouts whose next request waits for the next opening."""
    news: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set whenever a request starts to wait, and by whoever else has something to tell the one who shuts the gate."""
    _is_open: bool = field(default=False, init=False)
    _opening: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set at the next opening, for everyone who waits for it."""
    _left: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set whenever an answer comes."""
    _inside: set[str] = field(default_factory=set, init=False)
    _used: Counter[str] = field(default_factory=Counter, init=False)

    def open(self) -> None:
        """Let requests through, with a new allowance for everyone."""
        self._used.clear()
        self.waiting.clear()
        self._is_open = True
        self._opening.set()
        self._opening, self.news, self._left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def shut(self) -> None:
        """Keep new requests waiting, and have those under way answered with what there is of them."""
        self._is_open = False
        await self.engine.interrupt(set(self._inside))
        while self._inside:
            self._left.clear()
            await self._left.wait()

    async def sample(self, request: SampleRequest) -> Sample:
        """See ``rl.protocols.Engine``; one rollout has one request at a time."""
        left = await self._admission(request.session)
        cut = left is not None and left < request.max_tokens
        self._inside.add(request.session)
        try:
            sample = await self.engine.sample(replace(request, max_tokens=left) if cut and left else request)
        finally:
            self._inside.discard(request.session)
            self._left.set()
        self._used[request.session] += len(sample.token_ids)
        return replace(sample, interrupted=True) if cut and not (sample.stopped or sample.repetitive) else sample

    async def _admission(self, session: str) -> int | None:
        """Wait until the rollout may go on; returns how many tokens it may still sample, None for any number."""
        while not self._is_open or (self.allowance is not None and self._used[session] >= self.allowance):
            self.waiting.add(session)
            self.news.set()
            try:
                await self._opening.wait()
            finally:
                self.waiting.discard(session)
        return None if self.allowance is None else self.allowance - self._used[session]

    async def interrupt(self, sessions: set[str]) -> None:
        """See ``rl.protocols.Engine``."""
        await self.engine.interrupt(sessions)
