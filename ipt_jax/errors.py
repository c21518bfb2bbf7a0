"""What a command turns into one line and an exit code."""


class UserError(ValueError):
    """Something asked for that cannot be done as it was asked; exit code 2."""


class RunError(RuntimeError):
    """A fault while running; what was saved is whole, and the run can be started again. Exit code 1."""
