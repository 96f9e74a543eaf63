import dataclasses
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import train

from vitlora.adapters import Lora
from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.bundle.folder import newest_bundle
from vitlora.data.usage import used
from vitlora.errors import BundleError


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any, make_folder: Any) -> Path:
    where = tmp_path_factory.mktemp("made")
    root = make_folder(where / "data", classes=("Conservas de café", "tyre"))
    train(root, where / "bundle", adapter=Lora(rank=2))
    return where / "bundle"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def test_what_was_saved_is_loaded(bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(bundle)
    save_bundle(tmp_path / "again", first.record, first.tensors, first.peft, "run: 1\n")
    again = load_bundle(tmp_path / "again")
    assert again.record == first.record
    assert again.peft == first.peft
    assert again.record.classes == ("Conservas de café", "tyre")
    assert again.tensors.keys() == first.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, again.tensors[name])


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "config.yaml", "vitlora.json"]
)
def test_a_truncated_missing_or_changed_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    for damage in (content[: len(content) // 2], b"", content + b" x", bytes(flipped)):
        path.write_bytes(damage)
        with pytest.raises(BundleError) as caught:
            load_bundle(bundle)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    path.unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(bundle)


def test_changed_classes_are_noticed(bundle: Path) -> None:
    path = bundle / "vitlora.json"
    path.write_text(path.read_text("utf-8").replace('"tyre"', '"tire"'), "utf-8")
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_bundle(bundle)


def test_tensors_of_another_bundle_are_noticed(bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(bundle)
    other = {name: tensor + 1 for name, tensor in first.tensors.items()}
    save_bundle(tmp_path / "other", first.record, other, first.peft, "")
    shutil.copy(tmp_path / "other/adapter_model.safetensors", bundle)
    with pytest.raises(BundleError, match="truncated or changed"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "record", ["[]", "{}", "null", '{"digest": 1}', "\x00", '{"format": 99, "digest": ""}']
)
def test_a_record_that_is_no_bundles_is_refused(bundle: Path, record: str) -> None:
    (bundle / "vitlora.json").write_text(record)
    with pytest.raises(BundleError):
        load_bundle(bundle)


def test_foreign_folders_are_refused_by_what_they_are(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file; expected the bundle's folder"):
        load_bundle(tmp_path / "file")
    with pytest.raises(BundleError, match="no such folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="holds no vitlora bundle"):
        load_bundle(tmp_path)
    (bundle / "vitlora.json").unlink()
    with pytest.raises(BundleError, match="holds a PEFT adapter"):
        load_bundle(bundle)


def test_no_pickle_is_ever_run(bundle: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    for name in ("adapter_model.safetensors", "vitlora.json"):
        (bundle / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(BundleError):
            load_bundle(bundle)
    assert not (tmp_path / "exploded").exists()


def test_a_save_that_dies_half_way_leaves_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_bundle(bundle)
    calls = iter([None, OSError("disk full")])
    real = Path.open

    def failing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.endswith(".new") and isinstance(error := next(calls), OSError):
            raise error
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    changed = dataclasses.replace(first.record, classes=("x", "y"))
    with pytest.raises(OSError, match="disk full"):
        save_bundle(bundle, changed, first.tensors, first.peft, "")
    monkeypatch.undo()
    assert load_bundle(bundle).record == first.record


@pytest.mark.parametrize(
    "torn_at", ["vitlora.json", "adapter_model.safetensors", "adapter_config.json", "config.yaml"]
)
def test_a_save_torn_between_two_renames_loads_as_old_or_new(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, torn_at: str
) -> None:
    first = load_bundle(bundle)
    real = Path.replace

    def failing(path: Path, target: Path) -> Path:
        if target.name == torn_at:
            raise OSError("power cut")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    other = {name: tensor + 1 for name, tensor in first.tensors.items()}
    with pytest.raises(OSError, match="power cut"):
        save_bundle(bundle, first.record, other, first.peft, "")
    monkeypatch.undo()
    expected = first.tensors if torn_at == "vitlora.json" else other
    loaded = load_bundle(bundle).tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    save_bundle(bundle, first.record, first.tensors, first.peft, "again")
    again = load_bundle(bundle).tensors
    assert all(torch.equal(again[name], tensor) for name, tensor in first.tensors.items())


def test_a_record_cannot_name_files_elsewhere(bundle: Path) -> None:
    from vitlora.bundle.transaction import fields_digest

    fields = json.loads((bundle / "vitlora.json").read_text("utf-8"))
    fields.pop("digest")
    fields["files"]["../secret"] = "0" * 64
    fields["digest"] = fields_digest(fields)
    (bundle / "vitlora.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match="was changed"):
        load_bundle(bundle)


def test_the_newest_bundle_is_found_anywhere_below(bundle: Path, tmp_path: Path) -> None:
    import os

    first = load_bundle(bundle)
    for index, name in enumerate(("b", "a/deep", "c")):
        save_bundle(tmp_path / "all" / name, first.record, first.tensors, first.peft, "")
        stamp = 1_000_000_000 + (1000 if name == "a/deep" else index)
        os.utime(tmp_path / "all" / name / "vitlora.json", (stamp, stamp))
    assert newest_bundle(tmp_path / "all") == tmp_path / "all/a/deep"
    with pytest.raises(BundleError, match="no trained adapter under"):
        newest_bundle(tmp_path / "empty")


def test_record_is_readable_json_with_the_classes_spelt_out(bundle: Path) -> None:
    text = (bundle / "vitlora.json").read_text("utf-8")
    assert "Conservas de café" in text
    fields = json.loads(text)
    assert fields["format"] == 1
    assert fields["backbone"] == "vitlora/vit_micro_patch8_96"
    assert set(fields["metrics"]) == {"accuracy", "macro_f1", "loss", "images"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": "abc"}, "expected a list, got 'abc'"),
        ({"classes": ["a", 1]}, "classes 1 is 1; expected text"),
        ({"split": {}}, "split is incomplete"),
        ({"peft": [1]}, "adapter_config.json: holds [1]; expected PEFT's options"),
    ],
)
def test_fields_that_make_no_sense_are_refused_though_their_sums_are_right(
    bundle: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    read = load_bundle(bundle)
    peft: Any = change.pop("peft", read.peft)
    record = dataclasses.replace(read.record, **change)
    save_bundle(tmp_path / "odd", record, read.tensors, peft, "")
    with pytest.raises(BundleError, match=re.escape(message)):
        load_bundle(tmp_path / "odd")


def test_config_yaml_is_read_once_and_that_is_what_was_verified(bundle: Path) -> None:
    read = load_bundle(bundle)
    (bundle / "config.yaml").write_text("model: changed after it was verified\n")
    assert read.config == "model: {}\n"
    assert read.run() == {"model": {}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list\n",
        "text",
        "a: [",
        "a: !!python/object/apply:os.getcwd []\n",
        "a: !!bool x\n",
        "a: !!timestamp x\n",
        f"a: {'[' * 1500}",
        "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 99) if i else 1}]\n" for i in range(8)),
        "a: &a [*a]\n",
    ],
)
def test_a_run_that_is_no_mapping_is_one_line(bundle: Path, text: str, tmp_path: Path) -> None:
    read = load_bundle(bundle)
    save_bundle(tmp_path / "odd", read.record, read.tensors, read.peft, text)
    with pytest.raises(BundleError, match=r"config\.yaml describes no run") as caught:
        load_bundle(tmp_path / "odd").run()
    assert "\n" not in str(caught.value)


def test_a_bundle_that_is_written_while_it_is_read_is_read_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_bundle(bundle)
    real = Path.read_bytes
    saved: list[bool] = []

    def read(path: Path) -> bytes:
        content = real(path)
        if path.name == "vitlora.json" and not saved:
            saved.append(True)
            other = {name: tensor + 1 for name, tensor in first.tensors.items()}
            save_bundle(bundle, first.record, other, first.peft, "later: 1\n")
        return content

    monkeypatch.setattr(Path, "read_bytes", read)
    assert load_bundle(bundle).config == "later: 1\n"


def test_a_bundle_that_was_written_meanwhile_is_kept(bundle: Path) -> None:
    first = load_bundle(bundle)
    save_bundle(bundle, first.record, first.tensors, first.peft, "newer: 1\n")
    newer = load_bundle(bundle)
    words = (bundle, first.record, first.tensors, first.peft, "older: 1\n")
    with pytest.raises(BundleError, match="was written anew since it was read"):
        save_bundle(*words, replaces=first.digest)
    assert load_bundle(bundle).config == "newer: 1\n"
    save_bundle(*words, replaces=newer.digest)
    assert load_bundle(bundle).config == "older: 1\n"


def test_a_list_of_pictures_does_not_stay_beside_a_bundle_without_one(bundle: Path) -> None:
    first = load_bundle(bundle)
    words = (bundle, first.record, first.tensors, first.peft, "run: 1\n")
    save_bundle(*words, usage=used({"train": [b"12345"]}))
    assert (bundle / "pictures.safetensors").exists()
    save_bundle(*words)
    assert not (bundle / "pictures.safetensors").exists()
    assert load_bundle(bundle).usage is None
