"""The few errors that are told apart. Everything a user can mend is a ``ValueError`` with the mend in its text."""

from __future__ import annotations


class WorkerFailedError(RuntimeError):
    """A worker died, hung past its deadline or raised; the text names the worker and quotes what it said."""


class EngineLostError(WorkerFailedError):
    """An engine died with requests in flight, but others live: what it owed is lost, and the run can go on."""


class TransferError(RuntimeError):
    """Weights did not get across: the other side fell silent, gave up, or sent something else."""


class EnvLostError(RuntimeError):
    """The process that an environment ran in died; a new environment can be brought to where the rollout stands."""


class WeightMismatchError(RuntimeError):
    """An engine does not hold the weights that were published; the text names the tensors."""


class RunInterrupted(RuntimeError):
    """The run was stopped on request before its last iteration; everything up to here is saved."""


class ToolMissingError(RuntimeError):
    """A reward cannot do its work, because something that it depends on is missing or broken."""
