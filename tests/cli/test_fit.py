import csv
import json
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mindvl.cli.loggers import csv_logger, default_loggers

STEP_KEYS = {
    "train/loss",
    "train/grad_norm",
    "train/supervised_tokens",
    "train/tokens",
    "train/images",
    "train/pack_fill_ratio",
    "train/skipped_samples",
    "lr/vision",
    "lr/projector",
    "lr/language",
    "throughput/tokens_per_s",
    "throughput/supervised_tokens_per_s",
    "throughput/images_per_s",
    "throughput/documents_per_s",
    "throughput/step_s",
    "throughput/data_wait_ratio",
    "throughput/model_flops_ratio",
    "packing/fill_ratio",
    "packing/waste_holes_ratio",
    "packing/waste_padding_ratio",
    "packing/waste_unfilled_ratio",
    "packing/documents_per_pack",
    "packing/images_per_pack",
    "packing/patches_fill_ratio",
    "packing/attention_area_ratio",
    "packing/longest_document_tokens",
    "packing/supervised_ratio",
    "packing/predicted_cost_max_over_mean",
    "packing/observed_forward_max_over_mean",
}


def test_a_run_leaves_a_model_a_checkpoint_and_an_offline_wandb_run(trained):
    assert {path.name for path in trained.model.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert (trained.root / "checkpoints" / "last.ckpt").is_file()
    (wandb,) = trained.root.glob("wandb/offline-run-*/*.wandb")
    assert wandb.stat().st_size > 0


def test_a_run_logs_the_documented_numbers_in_their_units(trained):
    *steps, last = trained.metrics
    assert [row["step"] for row in steps] == [4, 9, 14, 19, 24, 29, 34, 39]
    for row in steps:
        assert set(row) == {"step", "epoch"} | STEP_KEYS
        assert 0 < row["train/supervised_tokens"] < row["train/tokens"] <= 256
        assert row["train/pack_fill_ratio"] == pytest.approx(row["train/tokens"] / 256)
        assert row["train/images"] >= 1 and row["train/skipped_samples"] == 0
        assert 0 <= row["throughput/data_wait_ratio"] < 1 and 0 < row["throughput/model_flops_ratio"] < 1
    assert steps[-1]["train/loss"] < steps[0]["train/loss"]
    means = {f"validation/{kind}{of}" for kind in ("loss", "perplexity") for of in ("", "/ocr", "/counting")}
    assert set(last) == {"step", "epoch"} | means and last["step"] == 39
    assert last["validation/loss"] < 5.7  # a uniform guess over 272 tokens costs ln 272 = 5.6


def test_a_run_says_where_it_computes_and_shows_no_warning_of_libraries(trained):
    assert "precision 32-true" in trained.output
    assert "warning" not in trained.output.lower() and "litlogger" not in trained.output


def test_a_killed_run_goes_on_with_the_same_command_to_the_same_weights(trained, tmp_path, command, environment):
    root = tmp_path / "killed"
    checkpoints = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": str(root / "checkpoints"), "save_last": True, "every_n_train_steps": 5},
    }
    csv_alone = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(root)}}
    changes = {"trainer": {"default_root_dir": str(root), "callbacks": [checkpoints], "logger": csv_alone}}
    (tmp_path / "changes.yaml").write_text(yaml.safe_dump(changes))
    again = [*command, "fit", "-c", trained.config, "-c", tmp_path / "changes.yaml"]

    with (tmp_path / "first.txt").open("w") as output:
        first = subprocess.Popen(again, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 900
        while not (root / "checkpoints" / "last.ckpt").is_file():
            assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "first.txt").read_text()
            time.sleep(0.005)
        first.kill()
        assert first.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (root / "model").exists()
    stopped = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]

    second = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=900)
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"continuing from {root / 'checkpoints' / 'last.ckpt'}" in second.stdout
    assert "Warning" not in second.stderr
    assert 5 <= stopped < 40
    uninterrupted, resumed = (load_file(folder / "model" / "model.safetensors") for folder in (trained.root, root))
    assert uninterrupted.keys() == resumed.keys()
    different = [name for name in uninterrupted if not torch.equal(uninterrupted[name], resumed[name])]
    assert different == []


def test_a_finished_run_started_again_keeps_its_model_and_its_numbers(trained, mindvl):
    before, numbers = (trained.model / "model.safetensors").stat().st_mtime_ns, trained.metrics
    again = mindvl("fit", "-c", trained.config)
    assert again.status == 0
    assert (trained.model / "model.safetensors").stat().st_mtime_ns == before
    assert trained.metrics == numbers


def test_a_run_that_wants_no_progress_bar_begins_without_one(trained, mindvl):
    again = mindvl("fit", "-c", trained.config, "--trainer.logger=false", "--trainer.enable_progress_bar=false")
    assert again.status == 0, again.err


def test_a_finished_run_started_again_says_that_nothing_is_left_to_train(trained, mindvl):
    again = mindvl("fit", "-c", trained.config, "--trainer.logger", "false")
    last = trained.root / "checkpoints" / "last.ckpt"
    assert f"nothing left to train: max_steps=40 reached by {last}" in again.out and "continuing from" not in again.out


def test_a_run_says_at_its_end_where_its_model_and_its_checkpoint_lie(trained):
    assert f"\nmodel in {trained.model}, checkpoint {trained.root}/checkpoints/last.ckpt\n" in trained.output


@pytest.mark.parametrize("max_steps", [40, 50], ids=["nothing left", "steps left"])
def test_an_attempt_that_fails_leaves_the_config_of_the_run_as_it_was(trained, mindvl, max_steps):
    saved = (trained.root / "csv" / "config.yaml").read_text()
    wrong = "--model.init_args.model.operators.packed_attention=cuda_varlen"
    refused = mindvl("fit", "-c", trained.config, f"--trainer.max_steps={max_steps}", wrong)
    assert refused.status == 2 and "cuda_varlen" in refused.complaint
    assert (trained.root / "csv" / "config.yaml").read_text() == saved


def test_what_was_edited_in_the_config_since_the_stop_is_said(trained, mindvl):
    again = mindvl(
        "fit", "-c", trained.config, "--trainer.logger", "false", "--model.init_args.rates.warmup_steps", "7"
    )
    assert again.status == 0
    assert "the config has changed since: model.init_args.rates.warmup_steps: 4 -> 7" in again.err


def test_a_checkpoint_of_another_model_is_refused_with_both_shapes(trained, mindvl):
    wider = "--model.init_args.model.language.intermediate_size"
    refused = mindvl("fit", "-c", trained.config, "--trainer.logger", "false", "--trainer.max_steps", "50", wider, "64")
    assert refused.status == 2
    assert re.search(
        r"the checkpoint holds another model: \S+ has shape \(.*\), the configured one \(", refused.complaint
    )


def test_the_record_of_consumed_data_is_left_in_the_run_and_told_by_the_front_door(trained, mindvl):
    told = mindvl("data", "consumed", trained.root)
    assert told.status == 0, told.err
    assert re.match(r"plan [0-9a-f]{16}: 40 packs of 256 tokens\nsource ", told.out)
    record = json.loads(mindvl("data", "consumed", trained.root / "checkpoints" / "last.ckpt", "--json").out)
    assert record == json.loads((trained.root / "consumed.json").read_text())
    assert all(source["drawn"] > 0 for source in record["consumed"].values()) and record["skipped"] == []


def test_a_run_whose_shards_are_gone_is_refused_before_training_by_name(trained, mindvl, tmp_path):
    shards = ["--data.init_args.train", json.dumps({"ocr": {"shards": str(tmp_path / "gone-*.tar")}})]
    refused = mindvl("fit", "-c", trained.config, "--trainer.default_root_dir", tmp_path / "run", *shards)
    assert refused.status == 2 and f"no shards at {tmp_path}/gone-*.tar: 0 files match" in refused.complaint


def test_a_run_killed_between_its_last_checkpoint_and_its_model_still_writes_the_model(trained, mindvl):
    saved = load_file(trained.model / "model.safetensors")
    trained.model.rename(trained.root / "taken_away")
    try:
        assert mindvl("fit", "-c", trained.config, "--trainer.logger", "false").status == 0
        written = load_file(trained.model / "model.safetensors")
    finally:
        if not trained.model.exists():
            (trained.root / "taken_away").rename(trained.model)
    assert all(torch.equal(saved[name], written[name]) for name in saved)


def test_a_printed_config_is_a_config_and_says_the_same(trained, mindvl, tmp_path):
    printed = mindvl("fit", "--print_config", "-c", trained.config)
    assert printed.status == 0
    (tmp_path / "printed.yaml").write_text(printed.out)
    again = mindvl("fit", "--print_config", "-c", tmp_path / "printed.yaml")
    assert again.status == 0
    assert yaml.safe_load(again.out) == yaml.safe_load(printed.out)
    given = yaml.safe_load(trained.config.read_text())
    assert yaml.safe_load(printed.out)["trainer"]["max_steps"] == given["trainer"]["max_steps"]


@pytest.fixture
def broken_wandb(monkeypatch):
    def broken(**settings):
        raise RuntimeError("no room on the disk")

    monkeypatch.setattr("mindvl.cli.loggers.WandbLogger", broken)


def test_a_run_without_wandb_goes_on_with_the_csv_alone(broken_wandb, tmp_path, caplog):
    (logger,) = default_loggers(tmp_path, name="run")
    assert logger.log_dir == str(tmp_path / "csv")
    assert f"W&B did not start (no room on the disk); numbers go to {tmp_path}/csv alone" in caplog.text


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.parametrize(
    ("first_step", "steps"), [(10, ["4", "9", "9", "10"]), (0, ["10"])], ids=["continued", "started anew"]
)
def test_a_continued_run_keeps_its_rows_up_to_the_checkpoint(tmp_path, first_step, steps):
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text("a,b,step\n1.5,,4\n1.4,,9\n,7,9\n1.3,,14\n")
    logger = csv_logger(tmp_path, first_step=first_step)
    logger.log_metrics({"c": 2.0}, step=10)
    logger.save()
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == steps
    assert rows[-1]["c"] == "2.0"
    assert not first_step or [(row["a"], row["b"]) for row in rows[:3]] == [("1.5", ""), ("1.4", ""), ("", "7")]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("--trainer.max_stepz", "4"), "trainer.max_stepz"),
        (("--data.init_args.sequence_lenght", "4"), "sequence_lenght"),
    ],
)
def test_a_misspelt_option_is_refused_by_name(trained, mindvl, arguments, key):
    refused = mindvl("fit", "-c", trained.config, *arguments)
    assert refused.status == 2
    assert key in refused.err


@pytest.mark.parametrize(
    ("where", "key"),
    [(("trainer",), "max_stepz"), (("model", "init_args", "rates"), "visoin"), (("data", "init_args"), "trian")],
)
def test_a_misspelt_key_of_a_config_is_refused_by_name(trained, mindvl, tmp_path, where, key):
    config = yaml.safe_load(trained.config.read_text())
    part = config
    for name in where:
        part = part[name]
    part[key] = 1
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    refused = mindvl("fit", "-c", tmp_path / "fit.yaml")
    assert refused.status == 2
    assert key in refused.err


@pytest.fixture
def refusal(trained, mindvl, tmp_path):
    """The one line that `fit` says when a changed config cannot work."""

    def of(*changes):
        silent = ("--trainer.logger", "false", "--trainer.default_root_dir", tmp_path / "refused")
        refused = mindvl("fit", "-c", trained.config, *silent, *changes)
        assert refused.status == 2
        assert "Traceback" not in refused.err
        return refused.complaint

    return of


def train_on(shards):
    return ("--data.init_args.train", yaml.safe_dump({"made": {"shards": str(shards)}}, default_flow_style=True))


def test_a_missing_shard_folder_is_named(refusal, tmp_path):
    said = refusal(*train_on(tmp_path / "none" / "ocr-*.tar"))
    assert said == f"mindvl fit: no shards at {tmp_path}/none/ocr-*.tar: the folder {tmp_path}/none does not exist"


def test_an_empty_shard_is_named_with_its_size(refusal, tmp_path):
    (tmp_path / "empty.tar").touch()
    assert refusal(*train_on(tmp_path / "empty.tar")) == f"mindvl fit: shard {tmp_path}/empty.tar is empty: 0 bytes"


def test_a_shard_that_has_an_index_and_is_not_there_is_named(refusal, corpus, tmp_path):
    for shard in (corpus / "train").glob("ocr-*.tar"):
        shutil.copy(shard, tmp_path)
    (tmp_path / "ocr-000009.tar.index.npz").touch()
    said = refusal(*train_on(tmp_path))
    assert said.startswith(f"mindvl fit: 1 of 1 indexed shards are missing: {tmp_path}/ocr-000009.tar is not there")


def test_samples_longer_than_the_sequence_are_told_with_the_length(refusal):
    said = refusal("--data.init_args.sequence_length", "4")
    assert "has 0 usable samples" in said
    assert re.search(
        r"left out 20 samples of (\w+): longer than the sequence of 4 tokens \(such as \1-train-000000 in", said
    )


def test_weights_of_another_shape_are_refused_with_both_shapes(refusal, trained):
    start = ("--model.init_args.model.start_from", trained.model)
    said = refusal(*start, "--model.init_args.model.language.hidden_size", 64)
    assert str(trained.model) in said and "embed_tokens.weight" in said
    assert "has shape (272, 32), the configured model (272, 64)" in said


def test_weights_of_another_depth_are_refused_with_the_missing_keys(refusal, trained):
    start = ("--model.init_args.model.start_from", trained.model)
    said = refusal(*start, "--model.init_args.model.language.num_hidden_layers", 3)
    assert f"{trained.model} does not hold this model" in said and "layers.2" in said


def test_a_start_folder_that_is_no_model_is_named(refusal, tmp_path):
    said = refusal("--model.init_args.model.start_from", tmp_path)
    assert said == f"mindvl fit: {tmp_path} is no saved model, it has no config.json"
