"""Two ranks make one video: the whole of vinf in one call, with a picture that shows where one rank ends.

Leaves demo.mp4, demo.png (a contact sheet with the clips of the ranks marked) and demo.json (the figures).
"""

import argparse
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vinf_client.cli import main as vinf

PROMPT = "a red ball bouncing over the sea"


def main() -> int:
    """Generate, and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: %(default)s)")
    arguments, more = parser.parse_known_args()
    video, sheet, figures = (arguments.out / f"demo.{ending}" for ending in ("mp4", "png", "json"))

    command = ["generate", PROMPT, "--local", "--ranks", str(arguments.ranks), "--frames", str(arguments.frames)]
    command += ["--seed", str(arguments.seed), "-o", str(video), "--sheet", str(sheet), "--json", *more]
    line = io.StringIO()
    with redirect_stdout(line):
        code = vinf(command)
    if code:
        return code

    told = json.loads(line.getvalue())
    wanted = {
        "frames": told["frames"],
        "ranks": told["ranks"],
        "seconds_to_first_frame": told["seconds_to_first_frame"],
        "wall_seconds": told["seconds"],
        "frames_per_rank": told["clips"],
        "peak_memory_bytes": {
            "front": told.get("peak_front_memory_bytes"),
            **{f"rank {rank}": peak for rank, peak in enumerate(told["peak_rank_memory_bytes"])},
        },
        "generation": told,
    }
    figures.write_text(json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
    print(f"video          {video}")
    print(f"contact sheet  {sheet}")
    print(f"figures        {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
