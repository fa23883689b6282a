"""Draw the loss curve of a finished run.

python -m training.sprites.curve /tmp/sprites/log.json training/sprites/loss.png
"""

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 640, 300, 44


def draw(panels: list[tuple[str, list[tuple[float, float]], float | None]], path: Path) -> None:
    """Draw panels of (title, points, x of a dividing line) side by side, the values on a logarithmic scale."""
    image = Image.new("RGB", (WIDTH * len(panels), HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    for n, (title, points, divide) in enumerate(panels):
        left, right = n * WIDTH + MARGIN, (n + 1) * WIDTH - 12
        top, bottom = 24, HEIGHT - MARGIN // 2
        last = max(x for x, _ in points)
        low, high = min(math.log(y) for _, y in points), max(math.log(y) for _, y in points)

        def place(x: float, y: float) -> tuple[float, float]:
            return (
                left + (right - left) * x / last,  # noqa: B023
                bottom - (bottom - top) * (math.log(y) - low) / (high - low),  # noqa: B023
            )

        pen.text((left, 6), title, fill="black")
        pen.rectangle((left, top, right, bottom), outline="gray")
        for value in (0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
            if low <= math.log(value) <= high:
                y = place(0, value)[1]
                pen.line((left, y, right, y), fill="lightgray")
                pen.text((left - 30, y - 6), f"{value:g}", fill="black")
        for part in range(5):
            x = place(last * part / 4, math.exp(low))[0]
            pen.text((x - 12 * (part > 0), bottom + 4), f"{last * part / 4:.0f}", fill="black")
        if divide:
            x = place(divide, math.exp(low))[0]
            pen.line((x, top, x, bottom), fill="orange")
            pen.text((x + 4, top + 2), "clips", fill="orange")
        pen.line([place(x, y) for x, y in points], fill="steelblue", width=2)
    image.quantize(32).save(path, optimize=True)


def smooth(points: list[tuple[float, float]], reach: int = 4) -> list[tuple[float, float]]:
    """Average each value with its neighbours."""
    values = [y for _, y in points]
    means = []
    for n, (x, _) in enumerate(points):
        near = values[max(0, n - reach) : n + reach + 1]
        means.append((x, sum(near) / len(near)))
    return means


def main() -> None:
    """Read the log, write the picture."""
    parser = argparse.ArgumentParser(description="Draw the loss curve of a finished run.")
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    log = json.loads(options.log.read_text())
    panels: list[tuple[str, list[tuple[float, float]], float | None]] = []
    if log.get("autoencoder"):
        points = smooth([(step + 1, loss) for step, loss, _ in log["autoencoder"]])
        panels.append(("autoencoder: loss by step", points, None))
    frames = [step for step, _, stage in log["denoiser"] if stage == "frames"]
    points = smooth([(step, loss) for step, loss, _ in log["denoiser"]])
    panels.append(("denoiser: velocity error by step", points, max(frames, default=None)))
    draw(panels, options.picture)


if __name__ == "__main__":
    main()
