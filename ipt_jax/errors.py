"""What a command turns into one line and an exit code."""


class UserError(ValueError):
    """Something asked for that cannot be done as it was asked; exit code 2."""


class RunError(RuntimeError):
    """A fault while running; what was saved is whole, and the run can be started again. Exit code
    1.
    """


class DataError(UserError):
    """Data that is missing or unusable; the message is one line and meant for the user."""


class DecodeError(DataError):
    """Bytes that are not a whole, readable picture."""


class ConfigError(UserError):
    """A config that cannot be run; the message names the key and what it may be."""


class WeightsError(UserError):
    """Weights that are not there, or do not hold what they should; the message lists all that is
    wrong.
    """


class CheckpointError(RunError):
    """A checkpoint could not be saved or restored, or is not what was asked for; the message says
    which.
    """


class Locked(UserError):
    """The folder belongs to a run that is alive; the message names it."""


class WorkerError(DataError):
    """A process that makes batches died; the message has its exit code."""


class Stalled(DataError):
    """No item came for a long time. What makes them may hang for ever, and with it this process's
    end.
    """


class ExportError(RunError):
    """What was written does not compute what the model does; nothing is left of it."""


class VideoError(RunError):
    """ffmpeg is missing, or failed; the message is its last line."""


class StartError(UserError):
    """A start on several processes that cannot work as it was asked for; the message names the
    flag.
    """


class Lost(RunError):
    """Another process of the run is missing, has gone, or reported an error; the message names
    it.
    """


class UsageError(UserError):
    """Something asked for that does not exist or does not go together; the message is one line for
    the user.
    """
