"""What can go wrong, in words that name what was found, what was needed and the next command to type."""


class AdipocyteError(Exception):
    """A mistake that the person at the keyboard can mend. Entry points print it and exit with status 2."""


class ConfigError(AdipocyteError, ValueError):
    """A setting is unknown, misspelt or outside its range."""


class ImageError(AdipocyteError, ValueError):
    """One image or stack cannot be used: wrong dtype, number of planes, size or bytes."""


class MemoryLimitError(ImageError):
    """A field would take more memory than is allowed."""


class PlateError(AdipocyteError, ValueError):
    """A raw plate cannot be used: files missing, doubled or unreadable."""


class StoreError(AdipocyteError, LookupError):
    """There is no prepared store, it is not whole, or it lacks what is asked of it."""


class RunError(AdipocyteError, LookupError):
    """No finished run or registered model has what is asked for."""


class OutputError(AdipocyteError, OSError):
    """A place to write to does not do its part: it cannot be reached, is full or refuses."""


class BundleError(AdipocyteError, ValueError):
    """A saved network, training state or bundle is damaged, incomplete or of another kind."""


class NewerBundleError(BundleError):
    """A bundle was made by newer code than this."""


class DivergedError(AdipocyteError, ArithmeticError):
    """A loss or a gradient of a training is no longer a number."""


class StoppedError(AdipocyteError):
    """A training was asked to stop, by SIGTERM or Ctrl-C, and did so at the end of a step."""
