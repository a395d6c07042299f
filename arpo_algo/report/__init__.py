"""What a run did, for people: one self-contained HTML page, a live view of a running run, trees in the terminal.

Reads run folders only; never imports torch, so that a report can be made on a laptop from copied files.
"""

from arpo_algo.report.build import build_report
from arpo_algo.report.data import RunFolderError, read_run

__all__ = ["RunFolderError", "build_report", "read_run"]
