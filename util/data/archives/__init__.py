"""Images inside archives, read in place: ImageNet's own tar files, tar shards, parquet.

places.py says which archives a path means. imagenet.py, shards.py and parquet.py list the images of
one archive; index.py keeps that list in a file. members.py holds the lists of all archives in
memory, as a sequence that gives the name and the bytes of image number i.

No reader runs code from a file, and a name inside an archive is never used as a path.
"""
