"""``python -m arpo_env.sandbox``: which sandbox tiers this machine gives. Exit code 1 when none isolates."""

from __future__ import annotations

import sys

from .check import describe_tiers, table


def main() -> int:
    reports = describe_tiers()
    print(table(reports))
    return 0 if any(r.available and r.name != "unsafe" for r in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
