"""Numbers as Grafana writes them, for the units that the dashboard uses."""

from __future__ import annotations

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL = ("B/s", "kB/s", "MB/s", "GB/s")
_TIMES = ((86400.0, "day"), (3600.0, "hour"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BEHIND = {"watt": " W", "celsius": " °C", "joule": " J", "reqps": " req/s"}


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """Write a value, such as ``0.0417`` seconds as ``41.7 ms``."""
    if unit == "percentunit":
        return f"{_short(100 * value, decimals)} %"
    if unit == "bytes":
        return _scaled(value, 1024.0, _BINARY, decimals)
    if unit == "Bps":
        return _scaled(value, 1000.0, _DECIMAL, decimals)
    if unit == "s":
        return _time(value, decimals)
    return f"{_short(value, decimals)}{_BEHIND.get(unit, '')}"


def _scaled(value: float, base: float, names: tuple[str, ...], decimals: int | None) -> str:
    step = 0
    while abs(value) >= base and step < len(names) - 1:
        value /= base
        step += 1
    return f"{_short(value, decimals)} {names[step]}"


def _time(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0 s"
    size, name = next((one for one in _TIMES if abs(value) >= one[0]), _TIMES[-1])
    return f"{_short(value / size, decimals)} {name}"


def _short(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text if "e" not in text else f"{value:.2g}"
