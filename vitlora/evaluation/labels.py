"""Pictures whose label the others contradict, by a frozen base: a finding for the folder doctor."""

from pathlib import Path

from vitlora.backbones import load_backbone
from vitlora.data.doctor.finding import Finding
from vitlora.data.doctor.leaks import copy_groups
from vitlora.data.doctor.survey import Survey
from vitlora.data.folder import Sample
from vitlora.errors import UsageError
from vitlora.evaluation.answers import answer
from vitlora.hardware import pick_device
from vitlora.metrics.label_noise import judged, suspects

_FEW = 5  # pictures of a class, one for each fold: of fewer nothing can be said


def contradicted(
    survey: Survey, backbone: str, weights: str | Path | None = None, device: str = "auto"
) -> Finding | None:
    """Returns the pictures that are probably labelled wrongly, the surest first, if there are any.

    Neither a picture's own label nor that of a copy of it counts when it is judged.

    Args:
        survey: All that lies in the folder.
        backbone: Name of the frozen base whose features are compared.
        weights: File of its weights; None for the hub's.
        device: auto, cpu, cuda or mps.

    Raises:
        UsageError: There are fewer than two classes with five readable pictures.
        BackboneError: The base cannot be had.
    """
    readable = survey.readable
    count = {label: sum(p.label == label for p in readable) for label in survey.classes}
    classes = [label for label in survey.classes if count[label] >= _FEW]
    if len(classes) < 2:
        raise UsageError(
            f"--check-labels needs two classes with {_FEW} readable pictures each; {survey.root} "
            f"has {len(classes)}"
        )
    pictures = [picture for picture in readable if picture.label in classes]
    base = load_backbone(backbone, len(classes), weights)
    samples = [Sample(p.path, classes.index(p.label), p.name) for p in pictures]
    answers = answer(base.module.to(pick_device(device)).eval(), samples, base.preprocessing)
    copies = {p.name: -1 - n for n, group in enumerate(copy_groups(pictures)) for p in group}
    groups = [copies.get(sample.name, place) for place, sample in enumerate(answers.samples)]
    found = suspects(judged(answers.features, answers.labels, groups), answers.labels)
    if not found:
        return None
    why = {answers.samples[one.index].name: f"others say {classes[one.likely]}" for one in found}
    return Finding(
        "label_noise",
        "warning",
        "pictures whose class the others contradict",
        "look at each, the surest first: move it to its class, or leave it; hard pictures are "
        "among them",
        list(why),
        why,
    )
