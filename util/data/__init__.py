"""From files to batches.

folder.py finds the images, pictures.py reads one of them, loader.py makes batches of them.
"""
