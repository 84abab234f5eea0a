"""How a program ends: its exit codes, and the exceptions that it prints in one line."""

# Exit codes of every program; 0 means that it did its work
NON_FINITE_LOSS = 1
BAD_INPUT = 2  # something that the user can put right; argparse uses the same code
STOPPED = 75  # by a signal, after saving: EX_TEMPFAIL of sysexits.h, "try again later"
INTERRUPTED = 130  # by Ctrl-C: 128 + SIGINT, as in a shell
OUTPUT_CLOSED = 141  # nobody reads the output any more: 128 + SIGPIPE


class InputError(ValueError):
    """A flag, file or size that the user can put right.

    The text names what was asked for, what was found and what to do.
    """

    exit_code = BAD_INPUT


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite. Every process raises it in the same iteration."""

    exit_code = NON_FINITE_LOSS
