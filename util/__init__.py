"""The tools below the models: they know no model, and only this package touches threads, processes, files and data.

Importing it prepares the machine for Paddle (util/machine.py), which must happen before Paddle itself is imported.
"""

from util import machine

machine.prepare()
