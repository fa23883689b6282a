"""One line of progress now and then."""

import time


class Progress:
    """Print ``name step/total, seconds a step, time left`` and figures, at most every `every` seconds."""

    def __init__(self, name: str, total: int, *, done: int = 0, every: float = 20.0) -> None:
        self.name, self.total, self.every = name, total, every
        self.first, self.began = done, time.monotonic()
        self.told = self.began

    def tell(self, done: int, **figures: float) -> None:
        """Say how far things are, if it is time to or if this was the last step."""
        now = time.monotonic()
        if now - self.told < self.every and done < self.total:
            return
        self.told = now
        pace = (now - self.began) / max(1, done - self.first)
        values = " ".join(f"{key} {value:.4f}" for key, value in figures.items())
        left = pace * (self.total - done) / 60.0
        print(f"{self.name} {done}/{self.total} {pace:.3f} s/step, {left:.1f} min left {values}", flush=True)
