"""From files to batches: folder.py finds the pictures, pictures.py reads one, loader.py makes batches of them."""
