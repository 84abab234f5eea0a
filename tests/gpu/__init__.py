"""The acceptance suite of a machine with GPUs: `bash tests/run.sh --gpu`; see suite.py."""
