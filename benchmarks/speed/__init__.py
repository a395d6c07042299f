"""Speed measurements: each module prints a table and, with ``--json``, writes what it measured."""
