import math
import pickle
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from backbones.families import FAMILIES, shrunk
from timm.optim import param_groups_weight_decay
from torch import nn

from vitlora.adapters import FullFineTuning, Lora
from vitlora.backbones import Backbone, load_backbone
from vitlora.errors import UsageError
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import OptimizerName, make_optimizer

CPU = torch.device("cpu")
sgd = partial(torch.optim.SGD, momentum=0.9)


def after(name: Any, steps: int, decay: float = 0.0) -> torch.Tensor:
    """Returns what a matrix becomes under gradients that are the same for every optimiser."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(80, 80, generator=generator))
    group = {"params": [parameter], "lr": 1e-2, "weight_decay": decay}
    optimizer = make_optimizer(name, [group], CPU)
    for _ in range(steps):
        parameter.grad = torch.randn(80, 80, generator=generator)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("name", [n for n in get_args(OptimizerName) if "paged" not in n])
def test_decay_shrinks_the_weights_apart_from_the_gradient(name: str) -> None:
    start = torch.randn(80, 80, generator=torch.Generator().manual_seed(0))
    plain, decayed = after(name, 1), after(name, 1, decay=0.5)
    # AdamW and Lion shrink first; SGD adds the decay to the gradient; one step is the same
    torch.testing.assert_close(decayed - plain, -1e-2 * 0.5 * start, rtol=1e-3, atol=1e-6)


def test_eight_bit_adam_stays_near_adam_and_keeps_a_byte_a_number() -> None:
    start, exact, eight = after("adamw", 0), after("adamw", 20), after("adamw8bit", 20)
    assert (eight - exact).norm() < 0.1 * (exact - start).norm()
    assert not torch.equal(eight, exact)
    parameter = nn.Parameter(torch.randn(80, 80))
    optimizer = make_optimizer("adamw8bit", [{"params": [parameter], "lr": 1e-3}], CPU)
    parameter.grad = torch.ones(80, 80)
    optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8


def test_lion_moves_every_weight_by_the_rate() -> None:
    change = after("lion", 1) - after("lion", 0)
    torch.testing.assert_close(change.abs(), torch.full((80, 80), 1e-2), rtol=1e-4, atol=1e-6)


def test_sgd_has_momentum() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer("sgd", [{"params": [parameter], "lr": 1.0}], CPU)
    for _ in range(2):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert math.isclose(parameter.item(), -(1 + 1.9), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("paged_adamw8bit", "cpu", "does not run on cpu; choose adamw8bit or adamw"),
        ("adamw8bit", "mps", "does not run on mps; choose adamw"),
        ("adam", "cpu", "model.optimizer is 'adam'; expected one of adamw"),
    ],
)
def test_what_does_not_run_is_refused(name: Any, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_optimizer(name, [], torch.device(device))


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "sgd", "lion"])
def test_only_matrices_trained_in_full_decay_and_b_has_its_own_rate(optimizer: Any) -> None:
    classifier: Any = Classifier(
        3,
        backbone="vitlora/vit_micro_patch8_96",
        weights="none",
        image_size=32,
        adapter=Lora(rank=4, lr_ratio=16, norms=True, biases=True),
        optimizer=optimizer,
        lr=1e-3,
        weight_decay=0.1,
    )
    classifier.network = classifier.adapter.inject(classifier.backbone, "full")

    class Stub:
        estimated_stepping_batches = 10

    classifier._trainer = Stub()
    groups = classifier.configure_optimizers()["optimizer"].param_groups
    found = {
        id(p): (group["weight_decay"], group["initial_lr"])
        for group in groups
        for p in group["params"]
    }
    trained = {n: p for n, p in classifier.named_parameters() if p.requires_grad}
    assert found.keys() == {id(p) for p in trained.values()}
    for name, parameter in trained.items():
        decay = 0.1 if name.endswith("head.modules_to_save.default.weight") else 0.0
        rate = 16e-3 if ".lora_B." in name else 1e-3
        assert found[id(parameter)] == pytest.approx((decay, rate)), name


def grouped(backbone: Backbone, network: nn.Module) -> dict[int, float]:
    """Returns the decay of each trained parameter, by the classifier."""
    classifier: Any = Classifier(
        3, "vitlora/vit_micro_patch8_96", weights="none", image_size=32, weight_decay=0.1
    )
    classifier.backbone, classifier.network = backbone, network
    classifier._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = classifier.configure_optimizers()["optimizer"].param_groups
    return {id(p): group["weight_decay"] for group in groups for p in group["params"]}


@pytest.mark.parametrize(("family", "name", "kwargs"), FAMILIES)
def test_full_fine_tuning_decays_what_timm_decays(family: str, name: str, kwargs: Any) -> None:
    with shrunk(name, kwargs):
        backbone = load_backbone(f"timm/{name}", 3, "none")
    module: Any = FullFineTuning().inject(backbone, "full")
    exempt = module.no_weight_decay()
    expected = {
        id(parameter): group["weight_decay"]
        for group in param_groups_weight_decay(module, 0.1, no_weight_decay_list=exempt)
        for parameter in group["params"]
    }
    got = grouped(backbone, module)
    assert got == expected
    named = dict(module.named_parameters())
    assert {got[id(named[n])] for n in exempt if n in named} <= {0.0}
    assert got[id(module.head.weight)] == 0.1


def test_a_table_that_timm_exempts_does_not_decay_beside_lora_either() -> None:
    _, name, kwargs = next(row for row in FAMILIES if row[0] == "beit")
    with shrunk(name, kwargs):
        backbone = load_backbone(f"timm/{name}", 3, "none")
    network = Lora(rank=2, norms=True, biases=True).inject(backbone, "full")
    named = dict(backbone.module.named_parameters())
    tables = [p for n, p in named.items() if "relative_position_bias_table" in n]
    for parameter in (*tables, named["cls_token"]):
        parameter.requires_grad_(True)
    got = grouped(backbone, network)
    assert tables and {got[id(p)] for p in (*tables, named["cls_token"])} == {0.0}
    decayed = [n for n, p in named.items() if p.requires_grad and got[id(p)]]
    assert decayed == ["head.modules_to_save.default.weight"]


@pytest.mark.parametrize(("name", "theirs"), [("adamw", torch.optim.AdamW), ("sgd", sgd)])
def test_steps_without_the_compiler_are_torchs_own(name: Any, theirs: Any) -> None:
    starts = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    ends = []
    for make in (lambda groups: make_optimizer(name, groups, CPU), theirs):
        parameter = nn.Parameter(starts[0].clone())
        optimizer = make([{"params": [parameter], "lr": 0.1, "weight_decay": 0.1}])
        for _ in range(3):
            assert optimizer.step(lambda p=parameter: _with_gradient(p, starts[1])) == 1
            optimizer.zero_grad()
        assert parameter.grad is None and optimizer.state[parameter]
        ends.append(parameter.detach())
    assert torch.equal(*ends)


def _with_gradient(parameter: nn.Parameter, target: torch.Tensor) -> float:
    with torch.enable_grad():
        ((parameter - target) ** 2).sum().backward()
    return 1.0


def test_a_step_imports_no_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; "
        "from vitlora.light_imports import light_imports; "
        "cm = light_imports(); cm.__enter__(); "
        "from vitlora.training.optimizers import make_optimizer; cm.__exit__(None, None, None); "
        "p = nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); "
        "o = make_optimizer('adamw', [{'params': [p]}], torch.device('cpu')); "
        "o.step(); o.zero_grad(); o.load_state_dict(o.state_dict()); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizers_can_be_pickled(name: Any) -> None:
    made = make_optimizer(
        name, [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1}], torch.device("cpu")
    )
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is type(made) and again.param_groups[0]["lr"] == 0.1
