"""What the command line reports as one line instead of a traceback."""


class UsageError(ValueError):
    """Something that the user can put right: a flag, a file, a folder. The message says how. Exit code 2."""


class Stopped(Exception):
    """The run was stopped by a signal and has saved its state. `exit_code` is 128 + the signal, as shells have it."""

    def __init__(self, exit_code: int):
        super().__init__(f"stopped by signal {exit_code - 128}")
        self.exit_code = exit_code
