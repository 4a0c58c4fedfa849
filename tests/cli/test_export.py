"""`mindvl export`: from any kind of checkpoint, whole or not at all, with a card that says what is known."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from safetensors.torch import load_file, save_file

from mindvl.cli.export import TARGET_NAMES
from mindvl.cli.export_source import config_of_checkpoint, open_source
from mindvl.cli.main import main
from mindvl.model.export.classes import TARGETS
from mindvl.phases.answering import Answerer, Prompt
from mindvl.phases.decoding import Decoding

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # what dcp.save says


def weights_of(folder):
    return {name: its for file in sorted(folder.glob("*.safetensors")) for name, its in load_file(file).items()}


def same_weights(one, other):
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """The trained model as an EXAONE-4.5 folder, and what was printed."""
    out = tmp_path_factory.mktemp("exported") / "deep" / "hf"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["export", str(trained.model), str(out)]) == 0
    return out, printed.getvalue()


def test_an_export_says_how_it_was_checked_and_where_it_is(exported):
    out, printed = exported
    lines = printed.splitlines()
    assert re.fullmatch(r"\d+ tensors are those of the checkpoint, bit for bit", lines[0])
    found = re.fullmatch(r"largest difference of a logit: (\S+) \(the largest logit is (\S+)\)", lines[1])
    assert 0 < float(found[1]) <= 1e-5 * max(1, float(found[2]))
    as_trained = re.fullmatch(r"from the picture's bytes, as MindVL is trained: (\S+)", lines[2])
    assert 0 < float(as_trained[1]) <= 2e-5 * max(1, float(found[2]))
    assert lines[3].endswith(f"in 1 files of weights are in {out}") and len(lines) == 4


def test_the_cards_code_gives_mindvls_answer_in_a_process_that_knows_transformers_alone(
    make_model, tokenizer, tmp_path, picture
):
    model, image = make_model(seed=3), picture(56, 140, seed=1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    (tmp_path / "picture.png").write_bytes(image)
    given = {"FOLDER": str(tmp_path / "out"), "PICTURE": str(tmp_path / "picture.png"), "QUESTION": "read the text."}
    names = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    check = "\nimport sys\nassert not any(name.startswith('mindvl') for name in sys.modules)\n"
    run = subprocess.run([sys.executable, "-c", names + code + check], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": given["QUESTION"]}]}]
    answerer = Answerer(model, tokenizer)
    (answer,) = answerer.answer([Prompt(messages, (image,))], Decoding(max_new_tokens=64))
    assert run.stdout == answer.text + "\n" and len(answer.text) > 20


def test_the_card_knows_the_run_and_its_data(exported, trained):
    text = (exported[0] / "README.md").read_text()
    assert f"- `{trained.model}`: phase Multitask; optimizer steps 40; sequence length 256." in text
    consumed = json.loads((trained.root / "consumed.json").read_text())["consumed"]
    for source in ("ocr", "counting"):
        its = consumed[source]
        row = f"| {source} | {its['samples']:,} | {its['drawn']:,} | {its['epochs']:,} | {its['tokens']:,} |"
        assert row in text
    assert "brought between 784 and 50,176 pixels" in text
    assert "pipeline_tag: image-text-to-text" in text and "not checked" not in text


@pytest.mark.parametrize("kind", ["ckpt", "sharded"])
def test_other_kinds_of_checkpoints_of_the_run_give_the_same_folder(kind, trained, exported, mindvl, tmp_path):
    checkpoint = trained.root / "checkpoints" / "last.ckpt"
    if kind == "sharded":
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        shutil.copytree(trained.root / "csv", tmp_path / "run" / "csv")
        checkpoint = tmp_path / "run" / "checkpoints" / "step-40.ckpt"
        checkpoint.parent.mkdir()
        dcp.save({"state_dict": state, "optimizer_0": {"x": torch.ones(3)}}, checkpoint_id=checkpoint, no_dist=True)
    done = mindvl("export", checkpoint, tmp_path / "out")
    assert done.status == 0, done.err
    assert same_weights(tmp_path / "out", exported[0])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in exported[0].iterdir()}
    for name in names - {"README.md", "model.safetensors"}:
        assert (tmp_path / "out" / name).read_bytes() == (exported[0] / name).read_bytes(), name
    assert "phase Multitask" in (tmp_path / "out" / "README.md").read_text()


def test_adapters_are_merged_on_the_way(trained, mindvl, tmp_path):
    from mindvl.model.lora import merged_state

    state = torch.load(trained.root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    layer = "model.language_model.model.layers.0.self_attn.q_proj"
    weight = state.pop(f"{layer}.weight")
    torch.manual_seed(0)
    adapted = {
        **state,
        f"{layer}.base_layer.weight": weight,
        f"{layer}.lora_A.default.weight": torch.randn(2, weight.shape[1]),
        f"{layer}.lora_B.default.weight": torch.randn(weight.shape[0], 2),
    }
    config = yaml.safe_load((trained.root / "csv" / "config.yaml").read_text())
    config["model"]["init_args"]["model"]["lora"] = {"rank": 2, "alpha": 8.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"state_dict": adapted, "global_step": 1}, tmp_path / "lora.ckpt")
    assert mindvl("export", tmp_path / "lora.ckpt", tmp_path / "out").status == 0
    merged = merged_state(adapted, 4.0)[f"{layer}.weight"]
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(weights_of(tmp_path / "out")[name], merged) and not torch.equal(merged, weight)

    refused = mindvl("export", tmp_path / "lora.ckpt", tmp_path / "again", "--config", trained.model)
    assert refused.status == 2 and "holds LoRA adapters" in refused.complaint


def test_an_average_names_its_sources_and_their_runs(trained, mindvl, tmp_path):
    other = shutil.copytree(trained.root, tmp_path / "other", ignore=shutil.ignore_patterns("wandb", "checkpoints"))
    state = {name: 2 * tensor for name, tensor in load_file(other / "model" / "model.safetensors").items()}
    save_file(state, other / "model" / "model.safetensors", metadata={"format": "pt"})
    mean = tmp_path / "mean"
    assert mindvl("average", trained.model, other / "model", "-o", mean, "--weights", 3, 1).status == 0
    assert mindvl("export", mean, tmp_path / "out", "--to", "split").status == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"- `{mean}`: weighted mean of `{trained.model}` (0.75), `{other / 'model'}` (0.25)." in text
    assert text.count("phase Multitask") == 2


def test_an_existing_folder_is_replaced_on_purpose_alone(exported, trained, mindvl, tmp_path):
    out = shutil.copytree(exported[0], tmp_path / "out")
    (out / "mark").touch()
    refused = mindvl("export", trained.model, out)
    assert refused.status == 2
    assert refused.complaint.endswith("choose another folder, or replace it on purpose (--overwrite)")
    assert (out / "mark").exists()
    assert mindvl("export", trained.model, out, "--overwrite").status == 0
    assert not (out / "mark").exists() and same_weights(out, exported[0]) and leftovers(tmp_path) == []


def test_a_folder_that_is_no_export_is_never_replaced(trained, mindvl, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refused = mindvl("export", trained.model, tmp_path, "--overwrite")
    assert refused.status == 2 and "is no export; it would be lost" in refused.complaint
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_does_not_replace_what_it_is_made_of(trained, mindvl):
    refused = mindvl("export", trained.model, trained.model, "--overwrite")
    assert refused.status == 2 and "which it is made of" in refused.complaint
    assert (trained.model / "model.safetensors").is_file()


def test_a_checkpoint_without_a_config_says_where_one_was_looked_for(trained, mindvl, tmp_path):
    checkpoint = tmp_path / "alone" / "last.ckpt"
    checkpoint.parent.mkdir()
    shutil.copy(trained.root / "checkpoints" / "last.ckpt", checkpoint)
    refused = mindvl("export", checkpoint, tmp_path / "out")
    assert refused.status == 2
    assert f"{checkpoint.parent}/csv/config.yaml" in refused.complaint and "--config" in refused.complaint
    assert not (tmp_path / "out").exists()
    for config in (trained.model, trained.root / "csv" / "config.yaml"):
        source = open_source(checkpoint, config=config)
        assert source.config.text_config.hidden_size == 32 and source.config.max_pixels == 64 * 28 * 28


def test_a_runs_config_is_found_from_its_checkpoints(trained, tmp_path):
    last = trained.root / "checkpoints" / "last.ckpt"
    assert config_of_checkpoint(last) == trained.root / "csv" / "config.yaml"
    assert config_of_checkpoint(trained.model) == trained.model
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(trained.model, tmp_path / "model")
    assert config_of_checkpoint(tmp_path / "checkpoints" / "last.ckpt") == tmp_path / "model"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is no YAML file"),
        ("- 1", "holds no mapping"),
        ("model: {class_path: x}", "is no config of a phase with a model: KeyError"),
        ("model: {init_args: {model: {depth: 3}}}", "is no config of a phase with a model: TypeError"),
    ],
)
def test_a_config_that_is_none_of_a_phase_is_refused(content, message, trained, mindvl, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    call = (
        "export",
        trained.root / "checkpoints" / "last.ckpt",
        tmp_path / "out",
        "--config",
        tmp_path / "config.yaml",
    )
    refused = mindvl(*call)
    assert refused.status == 2 and message in refused.complaint


def test_a_config_of_another_size_is_refused_with_both_shapes(trained, mindvl, tmp_path):
    config = yaml.safe_load((trained.root / "csv" / "config.yaml").read_text())
    config["model"]["init_args"]["model"]["language"]["intermediate_size"] = 64
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    call = (
        "export",
        trained.root / "checkpoints" / "last.ckpt",
        tmp_path / "out",
        "--config",
        tmp_path / "config.yaml",
    )
    refused = mindvl(*call)
    assert refused.status == 2
    assert "has shape (48, 32), the model of its config (64, 32)" in refused.complaint


def test_a_folder_of_another_model_is_refused_by_its_type(mindvl, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    refused = mindvl("export", tmp_path, tmp_path / "out")
    assert refused.status == 2 and "holds a model of type qwen3, not mindvl" in refused.complaint


def test_values_that_are_not_finite_are_exported_with_a_warning(trained, mindvl, tmp_path):
    broken = shutil.copytree(trained.model, tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    state["language_model.model.norm.weight"][3] = float("nan")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    done = mindvl("export", broken, tmp_path / "out")
    assert done.status == 0, done.err
    assert "warning: model.language_model.norm.weight holds values that are not finite" in done.err
    assert "no logit is finite" in done.out
    assert "**1 tensors hold values that are not finite**" in (tmp_path / "out" / "README.md").read_text()


def test_a_result_that_differs_never_appears(trained, mindvl, tmp_path, monkeypatch):
    monkeypatch.setattr("mindvl.model.export.verifying.ALLOWED_RATIO", 0.0)
    refused = mindvl("export", trained.model, tmp_path / "out")
    assert refused.status == 2 and "logits of the exported model differ from MindVL's by up to" in refused.complaint
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_was_written_wrong_is_named(trained, mindvl, tmp_path, monkeypatch):
    import mindvl.cli.export_writing as writing

    monkeypatch.setattr(writing, "_bytes_of", lambda flat, plain=writing._bytes_of: plain(flat * 1.0001))
    refused = mindvl("export", trained.model, tmp_path / "out")
    assert refused.status == 2
    assert "of the exported tensor are not those of the checkpoint" in refused.complaint
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_killed_leaves_no_folder_and_the_next_one_tidies_up(trained, mindvl, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; import mindvl.cli.export_job as job\n"
        "job._verify = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "job.export(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, trained.model, tmp_path / "out"], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out").exists() and len(leftovers(tmp_path)) == 1
    assert mindvl("export", trained.model, tmp_path / "out").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_its_flag_skips_the_verification_and_the_card_says_so(trained, mindvl, tmp_path, monkeypatch):
    monkeypatch.setattr("mindvl.cli.export_job._verify", lambda *_: pytest.fail("it was verified"))
    done = mindvl("export", trained.model, tmp_path / "out", "--skip-verification", "--max-shard-gb", 0.0002)
    assert done.status == 0 and "not verified (--skip-verification)" in done.out
    assert "It was **not** checked" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()


def test_a_size_of_nothing_is_refused(trained, mindvl, tmp_path):
    refused = mindvl("export", trained.model, tmp_path / "out", "--max-shard-gb", 0)
    assert refused.status == 2 and "--max-shard-gb is 0" in refused.complaint


def test_the_verbs_targets_are_those_that_exist():
    assert tuple(TARGETS) == TARGET_NAMES
