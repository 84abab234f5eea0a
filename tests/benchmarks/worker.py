"""One case with one framework, in a process of its own.

    python worker.py paddle|torch '{"name": ..., "kind": ..., ...}'

The case is one of cases.py as a dict, with `size` (of models_sizes), `products` (see floor.py) and
`scratch`, a folder that all cases share. The process prints a line of JSON about the machine. Then,
for each number that it reads, it does that many steps and prints a line with their seconds, the
process's peak of memory in MB, and further facts.
"""

import importlib
import json
import os
import sys

# kinds that are whole programs, timed from outside
OUTSIDE = ('startup', 'convert', 'folder', 'processes')
MODULES = {
    'load': '{}_load',
    'segment': '{}_segment',
    'detect': '{}_detect',
    'epoch': '{}_epoch',
    **dict.fromkeys(OUTSIDE, 'programs'),
}


def main(side, case):
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # the output of programs must not mix with answers
    case['framework'] = side
    module = importlib.import_module(MODULES.get(case['kind'], '{}_steps').format(side))
    turn, about = getattr(module, case['kind'])(case)
    if case['kind'] not in OUTSIDE:
        about = importlib.import_module(f'{side}_steps').about(case) | about

    def tell(**values):
        print(json.dumps(values), file=answers, flush=True)

    tell(**about)
    for line in sys.stdin:
        tell(**turn(int(line)))


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]))
