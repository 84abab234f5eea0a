"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Wrong flag, file or size. Its text names it, says what was found and what to do; programs print it in one line."""
