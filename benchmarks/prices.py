"""What tokens cost: a table that the user gives, since prices change and differ by contract.

A TOML file, US dollars per million tokens::

    [qwen3-8b]
    input = 0.05
    output = 0.40
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

from arpo_algo.errors import ConfigError, unknown
from benchmarks.scores import Price


def read_price(file: Path, model: str) -> Price:
    """The price of ``model``.

    Raises:
        ConfigError: no such file, broken TOML, no such model, or no proper prices.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"price table {str(file)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"price table {str(file)!r} is not TOML: {error}") from None
    if model not in table:
        raise unknown(f"model in {file}", model, table)
    entry = table[model]
    keys = set(entry) if isinstance(entry, dict) else set()
    if keys != {"input", "output"} or not all(_is_price(entry[key]) for key in keys):
        raise ConfigError(
            f"[{model}] in {file} must hold input and output, dollars per million tokens (>= 0), got {entry!r}"
        )
    return Price(float(entry["input"]), float(entry["output"]))


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
