"""The exceptions that programs print in one line."""


class InputError(ValueError):
    """A flag, file or size that the user can put right. Its text names it, says what was found and what to do."""


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite. Every process raises it in the same iteration."""
