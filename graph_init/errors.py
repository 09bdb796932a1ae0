"""Every error a user can meet, with the exit status that the command line gives it."""

from __future__ import annotations


class GraphInitError(Exception):
    """Base class of all errors that graph-init raises on purpose."""

    exit_status = 1


class UsageError(GraphInitError):
    """An option or argument is wrong."""

    exit_status = 2


class ModelFileError(GraphInitError):
    """A file is missing, unreadable or not valid ONNX."""

    exit_status = 3


class UnsupportedModelError(GraphInitError):
    """The model is valid but cannot be done; the message names node, operator and remedy."""

    exit_status = 4


class NumericalError(GraphInitError):
    """The numbers failed: a loss, gradient or deviation is not finite."""

    exit_status = 5


class OutputError(GraphInitError):
    """An output cannot be written: the disk is full, the folder is read-only, and the like."""

    exit_status = 1


class EngineError(GraphInitError):
    """The installed onnxruntime is missing or is not a training build."""

    exit_status = 1


class MissingExtraError(GraphInitError):
    """What a frontend needs is not installed; the message names the extra."""

    exit_status = 1
