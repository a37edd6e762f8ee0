"""What a user can cause. The command lines print these without a traceback."""


class FMNetError(Exception):
    """Anything a user can cause and mend: the message says what was found and what to do."""


class InputError(FMNetError, ValueError):
    """A file of a case cannot be used."""


class StoreError(FMNetError):
    """The store is missing, incomplete, corrupt, or held by another run."""


class ConfigError(FMNetError, ValueError):
    """A manifest, a preset or a `--set` override does not say what it must."""
