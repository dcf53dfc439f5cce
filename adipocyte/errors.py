"""What can go wrong. Every error says what was found, and what to do about it."""


class AdipocyteError(Exception):
    """A mistake that the user can correct. Entry points print it and exit with status 2.

    `found` says what is wrong; `remedy` says what is needed, or the next command to type ("" where
    `found` says it all). `str(error)` is both, as one paragraph.
    """

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found, remedy)  # both in `args`, so that the error survives pickling
        self.found, self.remedy = found, remedy

    def __str__(self) -> str:
        return f"{self.found}: {self.remedy}" if self.remedy else self.found


class ConfigError(AdipocyteError, ValueError):
    """A setting is unknown, misspelt or outside its range."""


class ImageError(AdipocyteError, ValueError):
    """One image or stack cannot be used: wrong dtype, number of planes, size or bytes."""


class MemoryLimitError(ImageError):
    """A field would take more memory than is allowed."""


class PlateError(AdipocyteError, ValueError):
    """A raw plate cannot be used: files are missing, duplicated or unreadable."""


class StoreError(AdipocyteError, LookupError):
    """There is no prepared store, it is not complete, or it lacks what is asked of it."""


class RunError(AdipocyteError, LookupError):
    """No finished run or registered model has what is asked for."""


class MissingFilesError(RunError):
    """The files of a registered model are no longer where they were recorded."""


class OutputError(AdipocyteError, OSError):
    """A place to write to cannot be reached, is full or refuses the write."""


class ResourceError(AdipocyteError):
    """The machine has run out of something or refuses it: memory, disk, a database, a compiler."""


class BundleError(AdipocyteError, ValueError):
    """A saved network, training state or bundle is damaged, incomplete or of another kind."""


class NewerBundleError(BundleError):
    """Newer code than this made the bundle."""


class DivergedError(AdipocyteError, ArithmeticError):
    """A loss or a gradient of a training is no longer a number."""


class StoppedError(AdipocyteError):
    """A training stopped at the end of a step, because SIGTERM or Ctrl-C asked for it."""


class WorkerError(AdipocyteError):
    """A process that was given work was killed."""


class ServiceError(AdipocyteError):
    """The served model refused a request, or answered with something else."""


class UnreachableError(ServiceError):
    """No server answers at the address."""
