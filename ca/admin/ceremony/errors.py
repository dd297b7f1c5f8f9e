"""Why a ceremony is not held, or its outputs are not believed. Each message is one line that says what to do."""


class CeremonyError(Exception):
    """Root of what this package raises on purpose; a token raises `hsm.errors.HsmError`."""


class PlanError(CeremonyError):
    """The plan cannot be carried out; the message names file, key and expected form."""


class LintError(CeremonyError):
    """The linter objects; the message has every finding."""


class CheckError(CeremonyError):
    """An object does not verify. It must not be used."""


class OutputError(CeremonyError):
    """The directory cannot be written, or is not what a ceremony released."""


class RefusedError(OutputError):
    """A ceremony is held once: its outputs, or what an interrupted run left, are there already."""


class RecordError(CeremonyError):
    """The database holds something else under the same name."""
