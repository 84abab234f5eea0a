"""Tools that all programs share: threads, processes, files, data. They know no model.

Importing this package prepares the machine for Paddle (util/machine.py), which must happen before
Paddle is imported.
"""

from util import machine

machine.prepare()
