"""An agent that has imported torch beforehand and waits for a launch: a lost group is back the sooner."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from vinf_server.config import ServeConfig

SPARE_FLAG = "--spare"
"""Tells the agent's shim to wait for a line with a launch."""


class SpareAgent:
    """One process, used once or ended."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self.folder = folder
        """For sockets of its own; whoever ends it removes it."""

    @classmethod
    async def start(
        cls, config: ServeConfig, log: Path, *, environment: dict[str, str], start_method: str
    ) -> SpareAgent:
        """Start it from this thread, the main one, as an agent is started; OSError when that is not possible.

        Args:
            config: of the server.
            log: takes what it writes until it is launched; its folder is private to this front.
            environment: all of it until then.
            start_method: how its ranks will come to be.
        """
        folder = new_agent_folder(log.parent)
        with open(log, "wb") as file:  # noqa: ASYNC230  # an empty file
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", config.agent_module, str(os.getpid()), str(folder)),
                *(SPARE_FLAG, start_method),
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return cls(process, folder)

    async def launch(
        self, arguments: list[str], environment: dict[str, str], log: Path
    ) -> asyncio.subprocess.Process | None:
        """Turn it into an agent: the process, from now on the caller's; None when it has died meanwhile.

        Args:
            arguments: for torchrun.
            environment: all of it.
            log: takes what the agent writes from now on.
        """
        stdin = self._process.stdin
        if self._process.returncode is not None or stdin is None:
            await self.stop()
            return None
        order = {"arguments": arguments, "environment": environment, "log": str(log)}
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            await stdin.drain()
            stdin.close()
            await stdin.wait_closed()
        except OSError:
            await self.stop()
            return None
        return self._process

    def kill_now(self) -> None:
        """SIGKILL it without waiting."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End it; nothing of it is left afterwards."""
        self.kill_now()
        await self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def new_agent_folder(private_folder: Path) -> Path:
    """Make a folder for the sockets of one agent."""
    return Path(tempfile.mkdtemp(prefix="agent-", dir=private_folder))
