"""ExecuTorch's Python runtime on the CPU."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.silence import silence

METHOD, DELEGATE = "forward", "XnnpackBackend"
# Field slots in ExecuTorch's program.fbs: a program's, a plan's (two), a delegate's.
PLANS, NAME, DELEGATES, ID = 6, 4, 18, 4
MOST_TABLES = 100_000
HEADER = 64  # bytes, extended header included

_ALONE = threading.Lock()


class ExecuTorchPredictor(ArtifactPredictor):
    """An ExecuTorch artifact, executed by the XNNPACK delegate.

    Threads may share it; the calls of all such predictors in a process take turns, because
    ExecuTorch has one thread pool. ``threads`` sets its size for all of them; 0 leaves it as it is.

    A program with forged hashes, whose header, size and first tables are valid, can still crash the
    process: neither ExecuTorch nor XNNPACK checks what lies deeper.
    """

    engine = "ExecuTorch"

    def open(self) -> Any:
        """Return the program, checked by its header and by ExecuTorch."""
        with needs("executorch", f"{self.where}: running it with ExecuTorch"), silence():
            from executorch.extension.pybindings import portable_lib
        model = self.artifact.read_model()
        check_program(model, where=self.where)
        with _ALONE, silence():
            if self.threads and portable_lib._threadpool_get_thread_count() != self.threads:
                portable_lib._unsafe_reset_threadpool(self.threads)
            try:
                program = portable_lib._load_for_executorch_from_buffer(
                    model,
                    program_verification=portable_lib.Verification.InternalConsistency,
                )
                contract = _contract(program)
            except RuntimeError as error:
                raise self.refused(error) from error
        self.model = model  # the program reads it while it lives
        self.check_embedded(contract)
        self.largest_batch = self._largest_batch(program)
        with silence():  # the first call prints the processor to stderr
            self._outputs(program, np.zeros((1, *self.contract.input.shape), np.uint8))
        return program

    def _largest_batch(self, program: Any) -> int:
        meta = program.method_meta(METHOD).input_tensor_meta(0)
        batch, *shape = meta.sizes()
        if tuple(shape) != self.contract.input.shape or batch < 1:
            raise InputError(f"{self.where}: its input is not the contract's")
        return int(batch)

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits, and features if there are any, for one batch of ``pixels``."""
        with self.session() as program:
            return self._outputs(program, pixels)

    def _outputs(self, program: Any, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        inputs, size = torch.from_numpy(np.ascontiguousarray(pixels)), self.largest_batch
        parts = [inputs[first : first + size] for first in range(0, len(inputs), size)]
        try:
            with _ALONE:
                # cloned, because the next call overwrites them
                answers = [program.forward((part,), clone_outputs=True) for part in parts]
        except RuntimeError as error:
            raise self.failed(error) from error
        outputs = [torch.cat(rows).numpy() for rows in zip(*answers, strict=True)]
        if len(outputs) != len(self.output_names):
            raise InputError(f"{self.where}: its outputs are not the contract's")
        return outputs


def _contract(program: Any) -> bytes | None:
    if METADATA_KEY not in program.method_names():
        return None
    (text,) = program.run_method(METADATA_KEY, ())
    return bytes(text.numpy())


def check_program(model: bytes, *, where: str) -> None:
    """Raise `InputError` unless ``model`` is a whole ExecuTorch program, as far as that is checked.

    It checks the header, the size, and the tables down to the methods' names and delegates, which
    released builds of ExecuTorch trust.
    """
    with needs("executorch", f"{where}: reading it"):
        from mobilette.formats.tflite.flatbuffer import root
    if len(model) < HEADER or model[4:8] != b"ET12" or model[8:12] != b"eh00":
        raise InputError(f"{where}: not an ExecuTorch program, or cut short")
    program, base, data = (int.from_bytes(model[at : at + 8], "little") for at in (16, 24, 32))
    if max(program, base + data) > len(model):
        raise InputError(f"{where}: cut short, {len(model):,} of {base + data:,} bytes")
    try:
        plans = root(model[:program], identifier=b"ET12").tables(PLANS, most=MOST_TABLES)
        delegates = {d.text(ID) for p in plans for d in p.tables(DELEGATES, most=MOST_TABLES)}
        names = {plan.text(NAME) for plan in plans}
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if METHOD not in names or not delegates <= {DELEGATE}:
        raise InputError(f"{where}: expected a method {METHOD!r} with {DELEGATE}")
