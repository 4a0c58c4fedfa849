"""Why there is no Ascend NPU here, in one sentence.

    torch_npu is not installed            ModuleNotFoundError from `import torch_npu`
    it is, but its CANN libraries are not ImportError or OSError that names libhccl.so
        the same, found by torch          RuntimeError from `import torch`, which loads packages like torch_npu
    both are, but no device is visible    no error: `torch.npu.device_count()` is 0

This module imports neither torch nor torch_npu, since either may be what has failed.
"""

from __future__ import annotations

_INSTALL_CANN = "install CANN, source its set_env.sh in this shell"
NO_DEVICE = (
    "torch_npu is loaded but sees no device: `npu-smi info` lists what the driver has, and ASCEND_RT_VISIBLE_DEVICES "
    "names those that a process may use"
)


def missing_npu(error: ImportError | OSError) -> str:
    """What `import torch_npu` has failed on, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name == "torch_npu":
        return (
            "accelerator npu needs torch_npu, which is not installed here; on a machine with Ascend NPUs and CANN: "
            'pip install "mindvl[npu]"'
        )
    return f"torch_npu is installed but does not load ({_first_line(error)}): {_INSTALL_CANN}, or uninstall torch_npu"


def failed_autoload(error: BaseException) -> str | None:
    """What has kept `import torch` from loading torch_npu, and what to do; None for other errors."""
    if "Failed to load the backend extension: torch_npu" not in str(error):
        return None
    cause = "" if error.__cause__ is None else f" ({_first_line(error.__cause__)})"
    return (
        f"torch cannot load torch_npu, which is installed here{cause}: {_INSTALL_CANN}, or go on without NPUs with "
        "TORCH_DEVICE_BACKEND_AUTOLOAD=0"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
