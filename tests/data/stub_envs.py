"""Environments that behave, and that do not."""

import asyncio
import os
import time

from envs.base import Opening, Step
from rl.types import EndReason


class Patient:
    """Takes 0.2 s a turn."""

    async def reset(self, task):
        self.left = task.fields["turns"]
        self.heard = 0
        return Opening(messages=task.messages)

    async def step(self, message):
        await asyncio.sleep(0.2)
        self.heard += 1
        self.left -= 1
        if not self.left:
            return Step(end=EndReason.ENV_END)
        return Step(messages=[{"role": "user", "content": f"heard {self.heard}"}])

    async def close(self):
        pass


class Raises(Patient):
    async def step(self, message):
        raise RuntimeError("no door")


class Hangs(Patient):
    async def step(self, message):
        await asyncio.sleep(3600)


class Blocks(Patient):
    async def step(self, message):
        time.sleep(3600)


class Dies(Patient):
    async def step(self, message):
        os._exit(1)
