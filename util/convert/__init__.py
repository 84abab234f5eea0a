"""Weights from other code bases, and weights for them; `python -m util.convert` is the program.

No model is built: names and shapes are data, in names.py.
"""

from util.convert.reading import read, read_and_report, reported
from util.convert.report import Report
from util.convert.writing import REFUSED, renamed, write

__all__ = ['REFUSED', 'Report', 'read', 'read_and_report', 'renamed', 'reported', 'write']
