"""Which files of a folder are read: as diffusers and transformers choose, whatever else lies there."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sana_core.checkpoint import files as reading
from sana_core.checkpoint.files import component_folder, read_checkpoint
from sana_core.checkpoint.load import load_transformer
from sana_core.errors import CheckpointError
from sana_core.text.load import load_text_encoder

STEM = "diffusion_pytorch_model"
# Each file holds a number of its own under "a", and its second part under "b".
INDEX = {
    f"{STEM}.safetensors.index.json": (f"{STEM}-00001-of-00002.safetensors", f"{STEM}-00002-of-00002.safetensors"),
    f"{STEM}.safetensors.index.fp16.json": (
        f"{STEM}.fp16-00001-of-00002.safetensors", f"{STEM}.fp16-00002-of-00002.safetensors"
    ),
}  # fmt: skip


def write(folder, *names, number=1.0):
    folder.mkdir(exist_ok=True)
    for name in names:
        if name in INDEX:
            parts = dict(zip("ab", INDEX[name]))
            (folder / name).write_text(json.dumps({"weight_map": parts}))
        elif name.endswith(".safetensors"):
            save_file({"b" if "00002-of" in name else "a": torch.tensor([number])}, folder / name)
        elif name.endswith((".bin", ".pth", ".pt", ".ckpt")):
            torch.save({"a": torch.tensor([number])}, folder / name)
        else:
            (folder / name).write_bytes(b"\0anything")
    return folder


PLAIN, FP16, BF16 = f"{STEM}.safetensors", f"{STEM}.fp16.safetensors", f"{STEM}.bf16.safetensors"
PARTS, FP16_PARTS = INDEX.values()
INDEXED, FP16_INDEXED = INDEX


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([PLAIN], [INDEXED, *PARTS]),
        ([FP16, FP16_INDEXED, *FP16_PARTS], [INDEXED, *PARTS]),
        ([FP16, FP16_INDEXED, *FP16_PARTS], [PLAIN]),
        ([FP16_INDEXED, *FP16_PARTS, "pytorch_model.bin"], [PLAIN]),
        ([INDEXED], [FP16]),  # an index without its files, as a download of a variant leaves it
        ([INDEXED, PARTS[0]], [FP16_INDEXED, *FP16_PARTS]),
        ([INDEXED], [PLAIN]),
        ([FP16], [BF16]),  # the range of bfloat16 is safe for every SANA
        ([], list(PARTS)),  # without an index
        ([FP16], list(PARTS)),
        (["pytorch_model.bin"], [PLAIN]),
        (
            ["optimizer.bin", "scheduler.bin", "random_states_0.pkl", "training_args.bin", "scaler.pt"],
            ["pytorch_model.bin"],
        ),
        (["._model.safetensors", ".DS_Store", "._pytorch_model.bin", "README.md"], ["model.safetensors"]),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], ["mp_rank_00_model_states.pt"]),
        ([], ["epoch_1_step_10.pth"]),
        ([], ["SANA1.5_1.6B_1024px.safetensors"]),
    ],
)
def test_the_right_files_are_chosen(tmp_path, others, chosen):
    folder = write(write(tmp_path / "f", *others, number=1.0), *chosen, number=2.0)
    found = read_checkpoint(folder)
    assert {tensor.item() for tensor in found.tensors.values()} == {2.0}
    assert set(found.tensors) == ({"a", "b"} if any("00002" in name for name in chosen) else {"a"})


@pytest.mark.parametrize(
    "names",
    [
        ["cat.safetensors", "dogs.safetensors"],
        ["epoch_1.pth", "epoch_2.pth"],
        ["sana.v1.safetensors", "sana.v2.safetensors"],
    ],
)
def test_several_models_are_no_choice(tmp_path, names):
    with pytest.raises(CheckpointError, match=r"holds several models \(.*\): name the file"):
        read_checkpoint(write(tmp_path / "f", *names))


def test_a_second_name_of_a_file_is_no_second_model(tmp_path):
    folder = write(tmp_path / "f", "epoch_1.pth")
    (folder / "latest.pth").symlink_to("epoch_1.pth")
    assert read_checkpoint(folder).tensors["a"].item() == 1.0


def test_missing_parts_are_named(tmp_path):
    folder = write(tmp_path / "f", INDEXED, PARTS[0])
    with pytest.raises(CheckpointError, match=rf"needs files that are not there \({PARTS[1]}\): download"):
        read_checkpoint(folder)
    (folder / INDEXED).unlink()
    with pytest.raises(CheckpointError, match=PARTS[1]):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", PARTS)
def test_one_part_is_read_with_the_others_or_called_a_part(tmp_path, name):
    folder = write(tmp_path / "f", *PARTS)
    assert set(read_checkpoint(folder / name).tensors) == {"a", "b"}
    other = next(part for part in PARTS if part != name)
    (folder / other).unlink()
    number = 1 + PARTS.index(name)
    with pytest.raises(CheckpointError, match=rf"part {number} of 2, and {other} is not beside it"):
        load_transformer(folder / name)


WEIGHT_MAPS = ["{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../x.safetensors"}}',
               '{"weight_map": {"a": "/etc/x"}}', '{"weight_map": {"a": ".."}}', '{"weight_map": null}']  # fmt: skip


@pytest.mark.parametrize("text", WEIGHT_MAPS)
def test_an_index_lists_files_of_its_folder(tmp_path, text):
    folder = write(tmp_path / "f", PLAIN)
    (folder / INDEXED).write_text(text)
    with pytest.raises(CheckpointError, match="lists no files of this folder"):
        read_checkpoint(folder)


def test_where_the_weights_of_a_folder_without_any_are(tmp_path):
    write(write(tmp_path / "run", "config.yaml", "train.log") / "checkpoints", "epoch_1.pth", "epoch_2.pth")
    with pytest.raises(CheckpointError, match="there are some in checkpoints"):
        read_checkpoint(tmp_path / "run")
    write(tmp_path / "state", "__0_0.distcp", ".metadata")
    with pytest.raises(CheckpointError, match="dcp_to_torch_save"):
        read_checkpoint(tmp_path / "state")


def test_a_folder_of_a_training_named_whole(tmp_path):
    write(
        write(tmp_path / "checkpoint-500", "optimizer.bin", "scheduler.bin", "random_states_0.pkl") / "transformer",
        PLAIN,
    )
    assert component_folder(tmp_path / "checkpoint-500", "transformer") == tmp_path / "checkpoint-500" / "transformer"
    own = write(tmp_path / "own", PLAIN)
    write(own / "transformer", PLAIN)
    assert component_folder(own, "transformer") == own, "a folder with weights of its own is the component"


LOADS = (read_checkpoint, load_transformer, load_text_encoder)


@pytest.mark.parametrize("load", LOADS)
def test_links_to_nothing(tmp_path, load):
    """A snapshot of the Hugging Face cache whose blobs were deleted."""
    for name, target in ((PLAIN, "../../blobs/gone"), ("config.json", "../../blobs/gone"), (INDEXED, "../gone")):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        if name != PLAIN:
            write(folder, PLAIN)
        (folder / name).symlink_to(target)
        with pytest.raises(CheckpointError, match=r"gone|cannot be read") as error:
            load(folder)
        assert name in str(error.value)
    with pytest.raises(CheckpointError, match=r"is a link to .*gone, which is not there"):
        load(tmp_path / PLAIN.replace(".", "_") / PLAIN)


@pytest.mark.parametrize("load", LOADS)
def test_paths_that_are_no_files(tmp_path, load):
    for path in (tmp_path / "nothing", "x" * 5000, "a\0b", "", "/dev/null"):
        with pytest.raises(CheckpointError):
            load(path)
    folder = tmp_path / "f"
    (folder / PLAIN).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        load(folder)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError):
        load(tmp_path / "loop")


def test_what_may_not_be_read(tmp_path, monkeypatch):
    folder = write(tmp_path / "f", PLAIN)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("_reader", "weight_files", "_check_file"):
        with monkeypatch.context() as patch:
            patch.setattr(reading, name, forbidden)
            with pytest.raises(CheckpointError, match=r"cannot be read .Permission denied"):
                read_checkpoint(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'{"a": "\xe9"}', b"[1]", b"", b"{"])
def test_a_config_that_cannot_be_decoded(tmp_path, content):
    folder = write(tmp_path / "f", PLAIN)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_checkpoint(folder)


def test_null_in_a_config_states_nothing(tmp_path):
    import tiny

    save_file(tiny.transformer().state_dict(), tmp_path / PLAIN)
    names = (
        "interpolation_scale",
        "sample_size",
        "num_cross_attention_heads",
        "position",
        "hidden_size",
        "depth",
        "fp16_trained",
    )
    (tmp_path / "config.json").write_text(json.dumps(dict.fromkeys(names)))
    assert load_transformer(tmp_path).config == load_transformer(tmp_path / PLAIN).config
