"""Trainers without a command line, on the double: npu_trainers.py FOLDER writes FOLDER/outcomes.json."""

import json
import sys
from pathlib import Path

import lightning as L
import npu_double
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn


class Dropped(L.LightningModule):
    """Two layers that share their weight, and dropout, so that every step draws from the device's numbers."""

    def __init__(self, *, tied: bool = True):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if tied:
            self.second.weight = self.first.weight
        self.seen: set[str] = set()

    def training_step(self, batch, batch_idx):
        self.seen |= {f"{self.first.weight.device} {self.first.weight.dtype}", f"tied {self.is_tied}"}
        hidden = self.first(batch)
        self.seen.add(f"computed in {hidden.dtype}")
        return self.second(nn.functional.dropout(hidden, 0.5)).square().mean()

    def validation_step(self, batch, batch_idx):
        nn.functional.dropout(batch, 0.5)

    @property
    def is_tied(self) -> bool:
        return self.first.weight is self.second.weight

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def main(folder: Path) -> dict:
    from mindvl.parallel.npu import process_group_backend
    from mindvl.parallel.npu_strategy import NPUSingleDevice
    from mindvl.parallel.npu_trainer import trainer_arguments
    from mindvl.parallel.random_state import KeepRandomState

    def fit(module=None, *, steps=6, keep=True, ckpt_path=None, **settings):
        module = module or Dropped()
        torch.manual_seed(0)
        trainer = L.Trainer(
            **{
                "devices": 1,
                "max_steps": steps,
                "callbacks": [KeepRandomState()] if keep else [],
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "default_root_dir": folder,
                **settings,
            }
        )
        batches = torch.utils.data.DataLoader(list(torch.ones(6, 4)), batch_size=1)
        trainer.fit(module, batches, batches, ckpt_path=ckpt_path)
        return trainer, module

    def weights(run):
        return torch.cat([parameter.detach().flatten().cpu() for parameter in run[1].parameters()])

    def complaint(**settings):
        try:
            fit(**settings)
        except ValueError as error:
            return str(error)
        return "none"

    ours = trainer_arguments(devices=1)
    outcomes: dict = {}
    whole = fit(**ours, limit_val_batches=0)
    outcomes["fp32"] = sorted(whole[1].seen)
    outcomes["tied_after"] = whole[1].is_tied
    for precision in ("bf16-mixed", "bf16-true"):
        outcomes[precision] = sorted(fit(**trainer_arguments(devices=1, precision=precision))[1].seen)

    class SaveAt3(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(folder / "3.ckpt")

    again = fit(**trainer_arguments(devices=1), limit_val_batches=0, callbacks=[KeepRandomState(), SaveAt3()])
    outcomes["saving_changes_nothing"] = torch.equal(weights(again), weights(whole))
    resumed = fit(**trainer_arguments(devices=1), limit_val_batches=0, ckpt_path=folder / "3.ckpt")
    outcomes["resumed_equals_whole"] = torch.equal(weights(resumed), weights(whole))
    forgot = fit(**trainer_arguments(devices=1), limit_val_batches=0, ckpt_path=folder / "3.ckpt", keep=False)
    outcomes["resumed_without_random_state_equals_whole"] = torch.equal(weights(forgot), weights(whole))
    for keep, name in ((True, "sanity_check_changes_nothing"), (False, "sanity_check_changes_nothing_by_itself")):
        sanity = {"num_sanity_val_steps": 1, "limit_val_batches": 1, "val_check_interval": 6}
        checked = fit(**trainer_arguments(devices=1), **sanity, keep=keep)
        outcomes[name] = torch.equal(weights(checked), weights(whole))

    plain = {"accelerator": "npu"}
    outcomes["refused"] = {
        "cpu": complaint(**plain),
        "autocast": complaint(**plain, strategy=NPUSingleDevice(), precision="bf16-mixed"),
        "ties": complaint(**plain, strategy=SingleDeviceStrategy(device="npu:0")),
        "ddp": complaint(**plain, strategy=DDPStrategy(process_group_backend=process_group_backend())),
        "devices": complaint(**plain, devices=2),
    }
    untied = fit(Dropped(tied=False), **plain, strategy=SingleDeviceStrategy(device="npu:0"))
    outcomes["stock_single_device_without_ties"] = sorted(untied[1].seen)
    return outcomes


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = npu_double.install()
    target = Path(sys.argv[1])
    (target / "outcomes.json").write_text(json.dumps(main(target)))
