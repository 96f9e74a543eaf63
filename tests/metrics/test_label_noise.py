"""Pictures that look like another class: planted mistakes are found, and a plain reading agrees."""

from __future__ import annotations

import torch

from vitlora.metrics.label_noise import judged, neighbours, suspects


def blobs(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features in well-parted clouds, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = 6 * torch.randn(classes, 8, generator=generator)
    return centres[labels] + torch.randn(count, 8, generator=generator), labels


def test_planted_mistakes_are_found_and_named():
    features, true = blobs(300, 4)
    wrong = torch.arange(0, 300, 31)
    labels = true.clone()
    labels[wrong] = (true[wrong] + 1) % 4
    found = suspects(judged(features, labels), labels)
    assert {one.index for one in found} == set(wrong.tolist())
    assert all(one.likely == true[one.index] and one.given == labels[one.index] for one in found)
    assert [one.confidence for one in found] == sorted((o.confidence for o in found), reverse=True)


def test_clean_labels_have_no_suspects():
    features, labels = blobs(300, 4)
    assert suspects(judged(features, labels), labels) == []


def test_a_picture_is_as_likely_as_those_labelled_so_or_it_does_not_count():
    """The rule of Northcutt et al. 2021, section 3, at nine tenths, written out."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (200,), generator=generator)
    probabilities = torch.randn(200, 3, generator=generator).mul(2).softmax(1)
    mean = [float(probabilities[labels == c, c].mean()) for c in range(3)]
    expected = set()
    for index, row in enumerate(probabilities.tolist()):
        sure = [c for c in range(3) if row[c] >= 0.9 * mean[c]]
        if sure:
            likely = max(sure, key=lambda c: row[c])
            if likely != labels[index] and row[likely] > row[labels[index]]:
                expected.add((index, likely))
    assert {(one.index, one.likely) for one in suspects(probabilities, labels)} == expected


def test_neighbours_are_weighed_by_their_cosine_after_whitening():
    """The formula in float64, a picture at a time."""
    features, labels = blobs(40, 3)
    wide = features * torch.linspace(1, 30, 8)
    centred = (wide - wide.mean(0)).double()
    left, lengths, _ = torch.linalg.svd(centred, full_matrices=False)
    variance = lengths**2 / 40
    white = left * lengths / (variance + variance.mean()).sqrt()
    for index, row in enumerate(neighbours(wide, labels)):
        cosine = torch.cosine_similarity(white[index], white, dim=1)
        near = [i for i in cosine.argsort(descending=True).tolist() if i != index][:15]
        weights = (cosine[near] / 0.1).exp()
        expected = [float(weights[labels[near] == c].sum() / weights.sum()) for c in range(3)]
        torch.testing.assert_close(row, torch.tensor(expected), atol=1e-4, rtol=0)


def test_copies_do_not_vouch_for_each_other():
    """Twins with one wrong label would each be learnt from the other."""
    features, true = blobs(200, 2)
    twice, labels = features.repeat(2, 1), true.repeat(2)
    labels[[3, 203]] = 1 - labels[3]
    apart = judged(twice, labels, [*range(200), *range(200)])
    assert {one.index for one in suspects(apart, labels)} == {3, 203}


def test_a_class_that_no_label_has_is_never_likely():
    probabilities = torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert suspects(probabilities, torch.tensor([0, 0, 1])) == []
