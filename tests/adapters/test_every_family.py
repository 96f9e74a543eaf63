"""Every family of backbones under the adapters: alive, right, merged right, opened by PEFT."""

from pathlib import Path

import pytest
from agreement import ARGUMENTS, METHODS, differences

from vitlora.errors import VitloraError
from vitlora.quantization import Storage

NF4 = Storage("nf4")
CASES = [
    *((family, "norms, biases", Storage()) for family in ARGUMENTS),
    *((family, "LoRA", NF4) for family in ARGUMENTS),
    *((family, "DoRA", Storage()) for family in ("mae", "dinov2-giant", "eva02-split", "beit")),
    *((family, "q and v", Storage()) for family in ("augreg", "dinov3", "eva02-split", "beit")),
    *((family, "PiSSA", Storage()) for family in ("dinov2-giant", "dinov3", "eva02-split")),
    *((family, "LoftQ", NF4) for family in ("augreg", "eva02-split", "beit")),
]


@pytest.mark.parametrize(("family", "method", "storage"), CASES)
def test_network_oracle_merge_and_peft_agree(
    family: str, method: str, storage: Storage, tmp_path: Path
) -> None:
    found = differences(family, method, storage, tmp_path / "bundle")
    assert found.pop("learnt") > 1e-2
    for name, difference in found.items():
        assert difference <= 3e-5, (name, difference)  # 1e-5 at most where it was measured
    assert len(found) == 3


def test_every_method_is_tried_somewhere() -> None:
    tried = {method for _, method, _ in CASES}
    elsewhere = {"LoRA head", "norms", "EVA", "OLoRA", "rsLoRA"}  # test_variants.py
    assert tried | elsewhere == set(METHODS)


def test_dora_on_odd_four_bit_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VitloraError, match="is not a multiple of 64 wide"):
        differences("eva02-split", "DoRA", NF4, tmp_path)
