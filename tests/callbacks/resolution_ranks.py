"""One rank of a resolution search, started twice by test_resolution_callback.py: resolution_ranks.py FOLDER"""

import faulthandler
import json
import sys
from dataclasses import asdict
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from mindvl_callbacks import ResolutionSearch, SearchSample

EVERYONE = [SearchSample(str(number), "docs") for number in range(80)]


def main(folder: Path) -> None:
    asked: list[tuple[str, int]] = []

    def score(module, samples, budget):
        asked.extend((sample.key, budget[1]) for sample in samples)
        wrong = {1: (0, 1, 2), 4: (0, 1), 9: (0,)}[budget[1]]
        return [int(sample.key) % 4 not in wrong for sample in samples]

    def search(samples, **settings):
        return ResolutionSearch(
            score,
            grid_of=lambda sample, budget: ((budget[1], 1),),
            samples=samples,
            budgets=[(1, 1), (4, 4), (9, 9)],
            **settings,
        )

    callback = search(lambda trainer: (EVERYONE[:41], EVERYONE[41:]), cache_folder=folder / "scores", batch_size=8)
    L.seed_everything(0)
    model = BoringModel()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        default_root_dir=folder,
    )
    trainer.validate(model, verbose=False)
    rank = trainer.global_rank
    if rank == 0:
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, folder / "model.pt")
    result = {"asked": list(asked), "result": asdict(callback.results["docs"]), "refused": ""}
    others = search(lambda trainer: (EVERYONE[: 21 - rank], EVERYONE[41:]))  # the second rank has one sample less
    try:
        others.on_validation_end(trainer, model)
    except ValueError as error:
        result["refused"] = str(error)
    (folder / f"result.{rank}").write_text(json.dumps(result))
    torch.distributed.barrier()  # a rank that is gone early takes the others' connections with it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
