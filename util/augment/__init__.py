"""Augmentations, one file per family.

Each draws from the generator that it is given and from nothing else.
"""
