"""Augmentations, one file per family. Each draws from the generator it is handed and from nothing else."""
