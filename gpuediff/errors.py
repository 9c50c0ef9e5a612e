"""The one family of errors a script has to catch.

Every message says what is wrong, where (file, field, value) and how to go on.
"""


class GpuediffError(Exception):
    """Base of every error that gpuediff raises on purpose."""


class InvalidConfig(GpuediffError):
    """A run's TOML file has an unknown key or a value out of range."""


class InvalidStructure(GpuediffError):
    """A crystal structure that cannot be simulated; the message is the reason in the run's report."""


class InvalidStructureSource(GpuediffError):
    """A folder, table or database from which no structures can be read."""


class InvalidPeaks(GpuediffError):
    """A peak list with a value that no pattern can have."""


class InvalidLibrary(GpuediffError):
    """A pattern library that is damaged, of another schema, or made by another configuration."""


class InvalidFeatures(GpuediffError, ValueError):
    """A feature matrix, or the labels, groups or crystal systems given with it, that a model cannot take."""


class InvalidBundle(GpuediffError):
    """A model bundle that is damaged, incomplete or of another schema."""


class InvalidScan(GpuediffError):
    """A 4D-STEM file that cannot be read, or is not calibrated."""


class DeviceUnavailable(GpuediffError):
    """The device asked for is not there."""
