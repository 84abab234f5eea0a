"""Flags of the programs that train, about several processes; util/flags.py has the other groups."""

import argparse


def sharding(p: argparse.ArgumentParser) -> None:
    """Add how several processes share the optimizer's memory."""
    g = p.add_argument_group('several processes')
    g.add_argument(
        '--shard_optimizer',
        action='store_true',
        help='save memory: each process keeps an equal part of the state of AdamW or LARS (ZeRO-1)',
    )
