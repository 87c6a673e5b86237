"""What is measured between epochs, against torch's own words for it."""

import pytest
import torch

from regrun import measure


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_hits_are_those_of_argmax_even_where_logits_tie(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(0, 4, (3, 257, classes), generator=generator).float()
    targets = torch.randint(0, classes, (3, 257), generator=generator)
    targets[0] = logits[0].argmax(1)
    assert measure._hits(logits, targets).tolist() == (logits.argmax(2) == targets).sum(1).tolist()
    assert measure._hits(torch.zeros(1, 5, classes), torch.tensor([[0, 1, 0, 1, 1]])).tolist() == [2]


def test_a_logit_that_is_not_a_number_is_no_hit() -> None:
    logits = torch.tensor([[[1.0, torch.nan], [1.0, 0.0], [torch.inf, 0.0]]])
    assert measure._hits(logits, torch.tensor([[0, 0, 0]])).tolist() == [2]


def test_layer_figures_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 2, 5, 7, generator=generator).unbind()
    output = torch.randn(2, 33, 5, generator=generator).relu()
    output[:, :, 0] = 0
    before = torch.randn(2, 5, generator=generator), torch.rand(2, generator=generator)
    found = measure._figures(weight, gradient, output, measure._moments(output), before)
    for r in range(2):
        expected = [
            weight[r].norm(),
            weight[r].std(correction=0),
            gradient[r].norm(),
            output[r].square().mean().sqrt(),
            output[r].var(0, correction=0).mean().sqrt(),
            (output[r].mean(0) - before[0][r]).square().mean().sqrt() / before[1][r],
            (output[r] == 0).all(0).float().mean(),
            (output[r] == 0).float().mean(),
        ]
        torch.testing.assert_close(found[r], torch.stack(expected))
