"""ExecuTorch's Python runtime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.silence import silence

METHOD = "forward"


class ExecuTorchPredictor(ArtifactPredictor):
    """An ExecuTorch artifact, executed by the XNNPACK delegate.

    ExecuTorch has one pool of threads for the whole process: ``threads`` sets it for every such
    predictor, and 0 leaves it as it is.
    """

    engine = "ExecuTorch"

    def open(self) -> None:
        """Load the program; its integrity is checked by its header and by ExecuTorch."""
        with needs("executorch", f"{self.where}: running it with ExecuTorch"), silence():
            from executorch.extension.pybindings import portable_lib
        model = self.artifact.read_model()
        check_program(model, where=self.where)
        with silence():
            if self.threads and portable_lib._threadpool_get_thread_count() != self.threads:
                portable_lib._unsafe_reset_threadpool(self.threads)
            try:
                self.program: Any = portable_lib._load_for_executorch_from_buffer(
                    model,
                    program_verification=portable_lib.Verification.InternalConsistency,
                )
                methods = self.program.method_names()
            except RuntimeError as error:
                raise self.refused(error) from error
        self.model = model  # which the program reads as long as it lives
        self.check_embedded(self._contract() if METADATA_KEY in methods else None)
        self.largest_batch = self._largest_batch()
