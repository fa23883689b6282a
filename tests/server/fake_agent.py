"""An elastic agent that starts in no time: same shim, same arguments, same summary, no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from vinf_server.agent_shim import die_with_parent


def main(argv: list[str]) -> int:
    die_with_parent(int(argv[0]))
    arguments = argv[2:]  # behind the private folder
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    count = int(options["--nproc-per-node"])
    world_size = count * int(options["--nnodes"])
    # Two hosts at most, with as many ranks each: the one with the rendezvous has the first ones.
    start = count if "is_host=0" in options.get("--rdzv-conf", "") else 0
    ranks = {}
    for rank in range(start, start + count):
        folder = Path(options["--log-dir"], "run", "attempt_0", str(rank))
        folder.mkdir(parents=True)
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        with open(folder / "stderr.log", "wb") as log:
            command = [sys.executable, "-m", options["-m"]]
            ranks[rank] = subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)
    while None in [process.poll() for process in ranks.values()]:  # every one of them is asked
        failed = [rank for rank, process in ranks.items() if process.returncode]
        if failed:
            break
        time.sleep(0.02)
    else:
        failed = [rank for rank, process in ranks.items() if process.returncode]
    codes = {rank: ranks[rank].returncode for rank in failed}
    for process in ranks.values():
        process.kill()
        process.wait()
    if failed:
        # Where the others have noticed already, the one that was killed.
        rank = min(failed, key=lambda failed_rank: codes[failed_rank])
        print(f"failed (exitcode: {ranks[rank].returncode}) local_rank: {rank} (pid: {ranks[rank].pid})", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
