"""Make a video and save it: python examples/save_video.py "a red ball bouncing over the sea" ball.mp4"""

import sys

from vinf_client import Client, VinfError


def main(prompt: str, path: str) -> int:
    try:
        with Client() as client, client.generate(prompt, frames=48, seed=7) as video:
            print(f"{video.frame_count} frames of {video.width}x{video.height} to {video.save(path)}")
    except VinfError as error:
        print(f"save_video: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
