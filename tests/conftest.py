"""What all tests share."""

import os
import tempfile

# The user's own cache is neither read nor written; one folder serves the processes of a test run.
os.environ.setdefault("GPUEDIFF_CACHE", os.path.join(tempfile.gettempdir(), f"gpuediff-tests-{os.getuid()}"))
