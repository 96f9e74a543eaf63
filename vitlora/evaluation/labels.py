"""Finds pictures that are probably mislabelled, for the folder doctor."""

from collections import Counter
from pathlib import Path

from vitlora.backbones import load_backbone
from vitlora.data.doctor.finding import Finding
from vitlora.data.doctor.leaks import copy_groups, together
from vitlora.data.doctor.survey import Survey
from vitlora.data.folder import Sample
from vitlora.errors import UsageError
from vitlora.evaluation.answers import answer
from vitlora.hardware import pick_device
from vitlora.metrics.label_noise import judged, suspects

_FEW = 5  # groups of a class, one for each fold: of fewer nothing can be said


def contradicted(
    survey: Survey, backbone: str, weights: str | Path | None = None, device: str = "auto"
) -> Finding | None:
    """Returns the pictures that are probably labelled wrongly, the surest first, if there are any.

    Neither a picture's own label counts when it is judged, nor that of a copy of it or of another
    picture of its group. Pictures of classes with fewer than five such groups are not judged.

    Args:
        survey: All that lies in the folder.
        backbone: Name of the frozen base whose features are compared.
        weights: File of its weights; None for the hub's.
        device: auto, cpu, cuda or mps.

    Raises:
        UsageError: There are fewer than two classes with five groups of readable pictures.
        BackboneError: The base cannot be found.
    """
    readable = survey.readable
    group = together(readable, copy_groups(readable))
    count = Counter(label for label, _ in {(p.label, group[p.name]) for p in readable})
    classes = [label for label in survey.classes if count[label] >= _FEW]
    if len(classes) < 2:
        raise UsageError(
            f"--check-labels needs two classes of {_FEW} pictures each, where copies and pictures "
            f"of one group count once; {survey.root} has {len(classes)}"
        )
    index = {label: number for number, label in enumerate(classes)}
    samples = [Sample(p.path, index[p.label], p.name) for p in readable if p.label in index]
    base = load_backbone(backbone, len(classes), weights)
    answers = answer(base.module.to(pick_device(device)).eval(), samples, base.preprocessing)
    groups = [group[sample.name] for sample in answers.samples]
    found = suspects(judged(answers.features, answers.labels, groups), answers.labels)
    if not found:
        return None
    why = {answers.samples[one.index].name: f"looks like {classes[one.likely]}" for one in found}
    return Finding(
        "label_noise",
        "warning",
        "pictures that look like another class",
        "look at each, the surest first: move it to its class, or leave it; some are only hard",
        list(why),
        why,
    )
