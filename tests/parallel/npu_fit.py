"""`mindvl fit` in a process whose device is the double, once per config: npu_fit.py CONFIG..."""

import functools
import json
import sys
from pathlib import Path

import lightning as L
import npu_double
import torch


class Watch(L.Callback):
    """Writes what a training step has seen of the device: {name: values} in a JSON file, each with no repetition."""

    def __init__(self, file: str):
        self.file = file
        self.seen: dict[str, set[str]] = {}

    def note(self, name: str, value) -> None:
        self.seen.setdefault(name, set()).add(str(value))

    def on_train_start(self, trainer, pl_module):
        def look(module, inputs, output):
            self.note("matmul_device", output.device)
            if output.ndim:  # the head returns its loss, a sum in fp32
                self.note("matmul_dtype", output.dtype)
            self.note("autocast", torch.is_autocast_enabled("npu"))

        for module in pl_module.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(look)
        trainer.optimizers[0].register_step_pre_hook(lambda optimizer, *_: self.look_at_step(optimizer, pl_module))

    def look_at_step(self, optimizer, pl_module):
        for tensor in (*pl_module.parameters(), *pl_module.buffers()):
            self.note("parameter_device", tensor.device)
            if tensor.grad is not None:
                self.note("gradient_device", tensor.grad.device)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for tensor in (batch.input_ids, batch.targets, batch.cu_seqlens, batch.vision.patches):
            self.note("batch_device", tensor.device)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        for tensor in checkpoint["state_dict"].values():
            self.note("checkpoint_device", tensor.device)

    def on_train_end(self, trainer, pl_module):
        for state in trainer.optimizers[0].state.values():
            self.note("moment_device", state["exp_avg"].device)
        model = pl_module.model
        self.note("tied", model.get_input_embeddings().weight is model.get_output_embeddings().weight)
        self.note("strategy", type(trainer.strategy).__name__)
        self.note("precision", trainer.precision)
        for name, value in trainer.accelerator.get_device_stats(trainer.strategy.root_device).items():
            self.note(name, value)
        Path(self.file).write_text(json.dumps({name: sorted(values) for name, values in self.seen.items()}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = npu_double.install()
    from mindvl.cli import lightning_cli
    from mindvl.cli.main import main

    # The yardstick of accelerators multiplies 8,192 x 8,192 matrices.
    lightning_cli.matmul_peak = functools.partial(lightning_cli.matmul_peak, size=16)
    for config in sys.argv[1:]:
        assert main(["fit", "-c", config]) == 0
