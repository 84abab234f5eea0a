"""Start a program on several machines with Paddle's launcher, and start it again after a failure.

    python -m util.launch --nnodes 2 --rank 0 --master FIRST_HOST:8765 main_pretrain.py ...

The flags are those of `python -m paddle.distributed.launch`, with three differences. Names are
resolved and checked on each machine, --host is found out, and the machines meet before they start,
so what does not fit ends in one line. --restarts starts a failed training again on all machines;
the program resumes if it has --resume auto. With --nnodes 1:2 one machine is enough when the other
does not come back within --wait seconds.
"""

import os
import signal
import subprocess
import sys
from functools import partial

from util import cli, dist, hosts, machine, rendezvous
from util.errors import BAD_INPUT, INTERRUPTED, InputError

LAUNCHER = 'paddle.distributed.launch'
FINAL = (0, BAD_INPUT, INTERRUPTED)  # exit codes after which another attempt would end the same way


def main(words: list[str]) -> int:
    """Run a command line of launcher and program; returns the exit code of the last attempt."""
    before, program = split(words)
    args, others = PARSER.parse_known_args(before)
    meeting = meeting_of(args)
    for attempt in range(args.restarts + 1):
        flags = [] if meeting is None else flags_of(meeting, args)
        command = [sys.executable, '-m', LAUNCHER, *flags, *others, *program]
        code, stopped = run(command)
        if code in FINAL or stopped or attempt == args.restarts:
            break
        left = args.restarts - attempt - 1
        print(f'the training ended with code {code}; starting it again ({left} left)', flush=True)
    return code


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """The launcher's words, and those that begin with the program; InputError without one."""
    for number, word in enumerate(words):
        if word.endswith('.py'):
            return words[:number], words[number:]
    raise InputError('name a program that ends with .py, such as main_pretrain.py')


def meeting_of(args) -> rendezvous.Meeting | None:
    """Where and how the machines meet; None for one machine. InputError for what does not fit."""
    least, _, most = args.nnodes.partition(':')
    counts = [least, most or least]
    if not all(count.isdecimal() for count in counts):
        raise InputError(f'--nnodes {args.nnodes}: expected a number, or two such as 1:2')
    least, most = map(int, counts)
    if not 1 <= least <= most:
        raise InputError(f'--nnodes {args.nnodes}: expected at least 1, the smaller number first')
    if most == 1:
        return None
    if not 0 <= args.rank < most:
        raise InputError(f'--rank {args.rank}: give each machine its own, from 0 to {most - 1}')
    name, _, port = args.master.rpartition(':')
    if not name or not port.isdecimal():
        raise InputError(f'--master {args.master!r}: expected HOST:PORT of the machine of rank 0')
    address = hosts.resolve(name, '--master')
    if hosts.is_loopback(address) and name not in hosts.LOOPBACK:
        raise InputError(
            f'--master {name} is {address} on this machine, which the others cannot reach; give '
            'its address in the network'
        )
    return rendezvous.Meeting(address, int(port), least, most, args.wait)


def flags_of(meeting: rendezvous.Meeting, args) -> list[str]:
    """Paddle's flags about machines, once all have met."""
    if args.host:
        own = hosts.resolve(args.host, '--host')
        hosts.require_own(own, '--host')
    else:
        own = hosts.address_towards(meeting.address)
    number, count = rendezvous.attend(meeting, args.rank)
    if count == 1:
        return []
    place = ['--nnodes', str(count), '--rank', str(number)]
    return [*place, '--master', str(meeting), '--host', own]


def run(command: list[str]) -> tuple[int, bool]:
    """Run the launcher; returns its exit code, and whether a signal to this process stopped it."""
    stopped = False
    end_with_us = partial(dist.end_with_parent, signal.SIGTERM)
    process = subprocess.Popen(command, env=machine.ENVIRONMENT, preexec_fn=end_with_us)

    def stop(number, frame):
        nonlocal stopped
        stopped = True
        process.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code < 0:
        code = 128 - code  # as a shell reports a process that a signal has killed
    return code, stopped


PARSER = cli.parser(__doc__)
PARSER.usage = 'python -m util.launch [flags of the launcher] PROGRAM.py [flags of the program]'
PARSER.add_argument('--nnodes', default='1', metavar='N', help='machines, or MIN:MAX')
PARSER.add_argument(
    '--master', default='', metavar='HOST:PORT', help='name or address of the machine of rank 0'
)
PARSER.add_argument('--rank', type=int, default=-1, help='of this machine, from 0')
PARSER.add_argument(
    '--host', default='', help="name or address of this machine (default: towards the first's)"
)
PARSER.add_argument(
    '--wait',
    type=cli.number(float, 1),
    default=600.0,
    metavar='SECONDS',
    help='how long machines wait for each other',
)
PARSER.add_argument(
    '--restarts',
    type=cli.number(int, 0),
    default=0,
    help='how often a failed training is started again',
)

if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f'util.launch: error: {error}', file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
