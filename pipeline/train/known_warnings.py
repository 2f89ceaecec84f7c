"""Silences the messages of torch and torchrec that are known to be harmless here, and no others.

Call `silence()` in every process before torchrec builds anything. Messages that matter ("will NOT be pipelined",
planner warnings) stay.
"""

import logging
import warnings

_WARNINGS = (
    (r"Please use DTensor instead and we are deprecating ShardedTensor", FutureWarning),
    (r"`broadcast_buffers` is deprecated", FutureWarning),
    (r"HeuristicalStorageReservation is known to cause issues", FutureWarning),
    (
        r"torch.distributed is disabled, unavailable or uninitialized, assuming the intent is to load",
        UserWarning,
    ),
    (r"`torch.distributed.(reduce_scatter|all_gather_into)_tensor` is deprecated", FutureWarning),
    # Tables that are data-parallel, on the CPU; tests compare their gradients.
    (r"fbgemm::dense_embedding_codegen_lookup_function: an autograd kernel was not registered", UserWarning),
    # Read-only Arrow memory becomes tensors that are never written to.
    (r"The given NumPy array is not writable", UserWarning),
)

_LOG_LINES = {
    "torchrec.distributed.planner.types": ("The topology was constructed directly rather than via TopologyFactory",),
    "torchrec.distributed.planner.storage_reservations": ("There is a known issue with TorchRec's dense tensor size",),
    "torchrec.distributed.utils": ("Sharding Type is data_parallel, caching params will be ignored",),
    "torchrec.distributed.comm": ("TORCHREC_RESOLVED_POD_SIZE not set", "[Connection] "),
    "torch.fx._symbolic_trace": ("is_fx_tracing will return true for both",),
    None: ("Sharding spec not found for",),
}


class _Drop(logging.Filter):
    def __init__(self, starts: tuple[str, ...]) -> None:
        super().__init__()
        self.starts = starts

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.starts)


def silence() -> None:
    """Installs the filters, once per process; a second call changes nothing."""
    for message, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    for name, starts in _LOG_LINES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(present, _Drop) and present.starts == starts for present in logger.filters):
            logger.addFilter(_Drop(starts))
