"""Errors a user can act on: one sentence that names the key, file or code at fault and the way out."""


class SpaceEvoError(Exception):
    """Base class of every error that is shown to people as one sentence, without a traceback."""


class ParamsError(SpaceEvoError):
    """A key of params.yaml is unknown, missing, of the wrong type or out of range."""


class CodeError(SpaceEvoError):
    """A space or subnet code does not parse, or lies outside its hyperspace or space."""


class ArtifactError(SpaceEvoError):
    """An artifact is missing, corrupt, truncated, or of another kind or schema version."""


class CheckpointError(SpaceEvoError):
    """A published checkpoint cannot be read, would run code, or does not fit the space it is imported for."""


class DataError(SpaceEvoError):
    """A dataset cannot be read or is not usable for training."""


class DeviceError(SpaceEvoError):
    """A device file is wrong, or a device's runtime cannot be used here."""


class BudgetError(SpaceEvoError):
    """No subnet meets a latency budget; the sentence states the smallest latency reachable."""


class TrainingError(SpaceEvoError):
    """Training cannot go on: a non-finite loss, or a checkpoint of another run."""


class ExportError(SpaceEvoError):
    """An exported file disagrees with the network it came from, or holds a float kernel."""
