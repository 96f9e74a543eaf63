import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones.families import FAMILIES, theirs
from peft import set_peft_model_state_dict
from PIL import Image
from runs import train
from torch import nn

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.backbones import features_and_logits, load_backbone
from vitlora.bundle.checkpoint import bundle_bytes, load_bundle, save_bundle
from vitlora.errors import BundleError, DataError, UsageError
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.predictor import Predictor
from vitlora.quantization import dequantize

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": Lora(rank=4, alpha=8)},
    "lora-last-block": {"adapter": Lora(rank=3, alpha=7, last_blocks=1, targets=["mlp.fc2"])},
    "lora-dropout": {"adapter": Lora(rank=4, dropout=0.5)},
    "lora-and-head": {"adapter": Lora(rank=2), "head": "lora"},
    "head-lora-alone": {"adapter": Lora(rank=4, alpha=16, targets=[]), "head": "lora"},
    "qlora": {"adapter": Lora(rank=4), "quantization": "nf4"},
    "qlora-head-lora": {
        "adapter": Lora(rank=4, alpha=8, targets=[]),
        "head": "lora",
        "quantization": "nf4",
    },
    "probe": {"adapter": LinearProbe()},
    "nf4-probe": {"adapter": LinearProbe(), "quantization": "nf4"},
    "full": {"adapter": FullFineTuning()},
    "checkpointing": {"adapter": Lora(rank=4), "checkpointing": True},
}


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.fixture(scope="module", params=METHODS)
def trained(request: Any, tmp_path_factory: Any, make_folder: Any) -> Any:
    where = tmp_path_factory.mktemp(request.param)
    root = make_folder(where / "data", classes=("a", "b", "c"))
    classifier = train(root, where / "bundle", **METHODS[request.param])
    return request.param, classifier, where / "bundle"


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_merged_logits_equal_the_trained_networks(trained: Any, images: torch.Tensor) -> None:
    _, classifier, bundle = trained
    with torch.no_grad():
        expected = classifier(images)
        got = Predictor(bundle, device="cpu").network(images)
    assert expected.std() > 1e-3
    assert relative(got, expected) <= 1e-4


def test_bundle_is_no_larger_than_what_was_trained(trained: Any) -> None:
    _, classifier, bundle = trained
    trainable = sum(p.numel() * 4 for p in classifier.network.parameters() if p.requires_grad)
    assert bundle_bytes(bundle) <= 1.05 * trainable + 8 * 1024


def test_bundle_holds_no_pickle_and_nothing_unnamed(trained: Any) -> None:
    method, _, bundle = trained
    lora = {"adapter_config.json"} if "probe" not in method and method != "full" else set()
    assert {path.name for path in bundle.iterdir()} == lora | {
        "adapter_model.safetensors",
        "vitlora.json",
        "config.yaml",
        "pictures.safetensors",
        "README.md",
    }


def test_plain_peft_opens_the_bundle_on_the_plain_model(trained: Any, images: torch.Tensor) -> None:
    from peft import PeftModel

    method, classifier, bundle = trained
    if not (bundle / "adapter_config.json").exists():
        pytest.skip(f"{method} has no LoRA")
    backbone = load_backbone("vitlora/vit_micro_patch8_96", 3, "none", 32)
    nn.init.normal_(backbone.module.head.weight)  # as random as a plain timm model's
    dequantize(backbone.module, load_bundle(bundle).record.storage)
    with torch.no_grad():
        peft = PeftModel.from_pretrained(backbone.module, str(bundle)).eval()
        assert relative(peft(images), classifier(images)) <= 1e-4


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_bf16_training_is_predicted_on_the_base_it_saw(
    quantization: Any, tmp_path: Path, make_folder: Any, images: torch.Tensor
) -> None:
    options: dict[str, Any] = {"adapter": Lora(rank=4), "quantization": quantization}
    classifier = train(
        make_folder(tmp_path / "data"), tmp_path / "bundle", precision="bf16-mixed", **options
    )
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.record.storage.dtype == "bfloat16"
    if quantization == "none":
        network = classifier.float()  # the rounded weights, computed in fp32
    else:  # what scores the bundle on a machine without bf16
        backbone = load_backbone("vitlora/vit_micro_patch8_96", 2, "none", 32)
        dequantize(backbone.module, bundle.record.storage)
        network = Lora(rank=4).inject(backbone, "full").eval()
        set_peft_model_state_dict(network, dict(bundle.tensors))
    with torch.no_grad():
        expected = network(images)
        got = Predictor(bundle, device="cpu").network(images)
        trained = classifier.float()
    assert relative(got, expected) <= 1e-4
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert relative(got, trained(images).float()) <= 3e-2


def test_a_full_bundle_needs_no_base(
    tmp_path: Path, make_folder: Any, images: torch.Tensor, monkeypatch: Any
) -> None:
    train(
        make_folder(tmp_path / "data"),
        tmp_path / "bundle",
        adapter=FullFineTuning(),
        weights=None,
        image_size=None,
    )
    bundle = load_bundle(tmp_path / "bundle")
    assert Path(bundle.record.weights).is_absolute()
    monkeypatch.setattr("vitlora.backbones.backbone._weights_file", None)
    Predictor(bundle, device="cpu")


def test_another_base_is_refused(tmp_path: Path, make_folder: Any) -> None:
    from safetensors.torch import save_file

    train(make_folder(tmp_path / "data"), tmp_path / "bundle", adapter=Lora(rank=4))
    other = load_backbone("vitlora/vit_micro_patch8_96", 2, "none").module.state_dict()
    other["blocks.0.attn.qkv.weight"] = other["blocks.0.attn.qkv.weight"] + 0.01
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match=r"other weights.*expected digest \w+, got \w+"):
        Predictor(tmp_path / "bundle", weights=tmp_path / "other.safetensors")


def test_a_tensor_without_a_place_or_of_another_shape_is_refused(
    tmp_path: Path, make_folder: Any
) -> None:
    train(make_folder(tmp_path / "data"), tmp_path / "bundle", adapter=Lora(rank=4))
    bundle = load_bundle(tmp_path / "bundle")
    key = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
    cases = {
        "no place": {**bundle.tensors, "base_model.model.blocks.99.x": torch.ones(1)},
        "cannot be merged": {**bundle.tensors, "base_model.model.x.lora_C.weight": torch.ones(1)},
        "backbone has": {**bundle.tensors, key: torch.ones(4, 7)},
        "not finite": {**bundle.tensors, key: torch.full((4, 160), torch.nan)},
        "without a magnitude|with a magnitude": {
            **bundle.tensors,
            key.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(480),
        },
        "lora_A that fits": {**bundle.tensors, key: torch.ones(3, 160)},
        "lacks 1 tensors, first for blocks.0.attn.qkv": {
            name: tensor for name, tensor in bundle.tensors.items() if "0.attn.qkv" not in name
        },
        "lacks 2 tensors, first for head": {
            name: tensor for name, tensor in bundle.tensors.items() if ".head." not in name
        },
        "rank 5, but adapter_config.json says rank 4": {**bundle.tensors, key: torch.ones(5, 160)},
    }
    for message, tensors in cases.items():
        if message.startswith("rank 5"):
            tensors[key.replace("_A", "_B")] = torch.ones(480, 5)
        save_bundle(tmp_path / "bad", bundle.record, tensors, bundle.peft, "")
        with pytest.raises(BundleError, match=message):
            Predictor(tmp_path / "bad")


def test_files_are_predicted_in_order_around_bad_ones(tmp_path: Path, make_folder: Any) -> None:
    root = make_folder(tmp_path / "data")
    train(root, tmp_path / "bundle", adapter=Lora(rank=4))
    predictor = Predictor(tmp_path / "bundle", device="cpu")
    good = sorted(root.glob("val/*/*"))[:5]
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    paths = [good[0], bad, *good[1:], tmp_path / "missing.png"]
    results = list(predictor.predict(paths, top_k=2, batch_size=2))
    assert [isinstance(result, DataError) for result in results] == [
        path not in good for path in paths
    ]
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, DataError):
            continue
        alone = predictor.logits([Image.open(path).convert("RGB")]).softmax(1)[0]
        assert result.path == path
        assert result.confidence == pytest.approx(float(alone.max()), rel=1e-4)
        assert result.label == predictor.classes[int(alone.argmax())]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: Any, make_folder: Any) -> Predictor:
    where = tmp_path_factory.mktemp("trained_once")
    train(make_folder(where / "data"), where / "bundle", adapter=Lora(rank=4))
    return Predictor(where / "bundle", device="cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_only_a_few_pictures_are_opened_ahead_and_answers_keep_their_order(
    trained_once: Predictor, make_folder: Any, tmp_path: Path, batch_size: int
) -> None:
    good = sorted(make_folder(tmp_path / "data").rglob("*.jpg"))
    expected = {p.path: p for p in map(trained_once_answer(trained_once), good)}
    paths = [good[i % len(good)] if i % 3 else tmp_path / f"{i}.png" for i in range(60)]
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        for path in cycle(paths):
            taken += 1
            yield path

    for count, result in enumerate(islice(trained_once.predict(endless(), 2, batch_size), 150)):
        assert taken <= count + 3 * batch_size + 1
        if isinstance(result, DataError):
            assert f"{paths[count % 60].name}: no such file" in str(result)
        else:
            assert result.path == paths[count % 60]
            assert result.label == expected[result.path].label
            assert result.confidence == pytest.approx(expected[result.path].confidence, rel=1e-4)
    assert threading.active_count() < 40


def trained_once_answer(predictor: Predictor) -> Any:
    """Returns what opens and predicts one picture alone."""

    def answer(path: Path) -> Any:
        (only,) = predictor.predict([path])
        return only

    return answer


@pytest.mark.parametrize(("short", "decoded"), [(1343, 1343), (1344, 672), (2688, 672)])
def test_only_large_jpegs_are_decoded_at_a_smaller_scale(
    trained_once: Predictor, tmp_path: Path, short: int, decoded: int
) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth.resize((short + 8, short), Image.Resampling.BILINEAR).save(tmp_path / "a.jpg")
    _, got, outside = trained_once._open(tmp_path / "a.jpg")
    assert not outside
    transform = trained_once._transform
    with Image.open(tmp_path / "a.jpg") as image:
        full = transform(image.convert("RGB"))
    with Image.open(tmp_path / "a.jpg") as image:
        image.draft("RGB", (decoded, decoded))
        assert image.height == decoded
        expected = transform(image.convert("RGB"))
    assert isinstance(got, torch.Tensor)
    assert torch.equal(got, expected)
    assert torch.equal(got, full) == (short == decoded)
    torch.testing.assert_close(got, full, rtol=0, atol=0.1)  # of values from -1 to 1


def test_one_picture_starts_no_thread(
    trained_once: Predictor, make_folder: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    good = sorted(make_folder(tmp_path / "data").rglob("*.jpg"))
    monkeypatch.setattr("vitlora.prediction.ahead.ThreadPoolExecutor", None)
    assert len(list(trained_once.predict(good[:1]))) == 1
    assert list(trained_once.predict([])) == []
    with pytest.raises(TypeError):
        list(trained_once.predict(good[:2]))


def test_a_picture_in_memory_is_answered_as_its_file(
    trained_once: Predictor, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    upright, file = Image.fromarray(pixels), tmp_path / "a.png"
    upright.save(file)
    expected = trained_once(str(file))
    beside = trained_once([file, upright])[0]  # one row of a product is rounded otherwise than two
    assert beside.top == tuple((name, pytest.approx(p, rel=1e-4)) for name, p in expected.top)
    assert replace(beside, top=expected.top) == expected and expected.path == file
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned back
    turned.save(tmp_path / "turned.png", exif=exif)
    clear = np.dstack([pixels, np.full((40, 60), 255, np.uint8)])
    given = [upright, pixels, pixels / 255, clear, file.read_bytes()]
    given += [Image.open(tmp_path / "turned.png"), (tmp_path / "turned.png").read_bytes()]
    for picture in given:
        assert trained_once(picture) == replace(expected, path=Path())
    grey = trained_once(pixels[..., 0])
    assert grey.top == trained_once(Image.fromarray(pixels[..., 0])).top and not grey.outside
    deep = trained_once(pixels.astype(np.uint16) * 257)  # nobody said what its scale is
    assert deep.outside and deep.top == expected.top
    large = Image.effect_noise((1400, 1500), 80).convert("RGB")
    large.save(tmp_path / "large.jpg", quality=60)  # a file as large is decoded at a smaller scale
    (as_file,) = trained_once.predict(tmp_path / "large.jpg")
    assert trained_once((tmp_path / "large.jpg").read_bytes()) == replace(as_file, path=Path())
    assert trained_once([]) == []


def test_one_path_is_one_answer_and_no_classes_are_refused(
    tmp_path: Path, make_folder: Any
) -> None:
    root = make_folder(tmp_path / "d")
    train(root, tmp_path / "bundle")
    predictor = Predictor(tmp_path / "bundle", device="cpu", precision=32)  # pyright: ignore
    photo = root / "val" / "a" / "0.jpg"
    (answer,) = predictor.predict(str(photo))
    assert answer == predictor(photo)
    with pytest.raises(UsageError, match="top_k is 0; expected at least 1"):
        predictor(photo, top_k=0)
    for nothing, said in (
        ({}, "dict is not a picture"),
        (np.full((8, 8, 3), np.nan), "without a finite value"),
        (photo.open("rb"), r"pass its path, or the bytes of .read\(\)"),
    ):
        with pytest.raises(DataError, match=said):
            predictor(nothing)  # pyright: ignore
    assert len(repr(load_bundle(tmp_path / "bundle"))) < 5000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"no picture", "the picture's 10 bytes: not a picture, whatever its name says"),
        (b"", "the picture's 0 bytes: the file is empty"),
        (np.zeros((3, 4, 5)), r"an array of shape \(3, 4, 5\); expected \(H, W\), "),
        (np.zeros((0, 4)), r"an array of shape \(0, 4\); expected"),
        (np.zeros((4, 4), bool), "an array of bool; expected uint8"),
        (3, "int is not a picture; expected a path, bytes, an array"),
        ([None], "NoneType is not a picture"),
        ("nowhere.jpg", "nowhere.jpg: no such file"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(
    given: Any, said: str, trained_once: Predictor
) -> None:
    with pytest.raises(DataError, match=f"^{said}"):
        trained_once(given)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0])
def test_every_family_answers_alike_in_bf16(family: Any) -> None:
    _, name, kwargs = family
    network = theirs(name, kwargs, 6)
    size = kwargs["img_size"]
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, logits = features_and_logits(network, images)
        lower = features_and_logits(network.bfloat16(), images.bfloat16())
    assert logits.std() > 1e-3
    for got, expected in zip(lower, (features, logits), strict=True):
        assert got.dtype == torch.float32
        assert 0 < relative(got, expected) <= 0.05


def test_a_bf16_predictor_rounds_the_merged_network(tmp_path: Path, make_folder: Any) -> None:
    root = make_folder(tmp_path / "data")
    train(root, tmp_path / "bundle", adapter=Lora(rank=4))
    plain = Predictor(tmp_path / "bundle", device="cpu")
    lower = Predictor(tmp_path / "bundle", device="cpu", precision="bf16")
    for got, expected in zip(lower.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(got, expected.bfloat16())
    good = sorted(root.glob("val/*/*"))
    for got, expected in zip(lower.predict(good), plain.predict(good), strict=True):
        assert isinstance(got, Prediction) and isinstance(expected, Prediction)
        assert got.confidence == pytest.approx(expected.confidence, abs=0.02)


def test_predicting_imports_neither_peft_nor_lightning_nor_albumentations(
    tmp_path: Path, make_folder: Any
) -> None:
    root = make_folder(tmp_path / "data")
    train(root, tmp_path / "bundle", adapter=Lora(rank=4), quantization="nf4")
    picture = next(iter(root.glob("val/*/*")))
    code = (
        "import sys, json; from vitlora.cli.main import main; "
        f"words = [{str(picture)!r}, '--checkpoint', {str(tmp_path / 'bundle')!r}]; "
        "status = main(['predict', *words]); "
        "print(json.dumps([status, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert "torch" in modules
    assert not {"peft", "lightning", "albumentations", "transformers"} & set(modules)


def test_predicting_on_a_plain_base_imports_no_compiler(tmp_path: Path, make_folder: Any) -> None:
    root = make_folder(tmp_path / "data")
    train(root, tmp_path / "bundle", adapter=Lora(rank=4))
    code = (
        "import sys; from vitlora.cli.main import main; "
        f"main(['predict', {str(root / 'val')!r}, '--checkpoint', {str(tmp_path / 'bundle')!r}]); "
        "print([m for m in ('torch', 'torch._dynamo', 'sympy', 'triton', 'bitsandbytes') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['torch']"
