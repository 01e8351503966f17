"""Distances of sets of tokens: the released numbers, and what they are by definition."""

import time

import pytest
import torch
from dali_golden import read_golden
from ot.lp import emd
from scipy.optimize import linprog

import set_distances_captioning
from set_distances_captioning import (
    MOST_PIVOTS,
    entropic_transport,
    even_weights,
    exact_transport,
    mean_discrepancy,
    squared_distances,
)


def cases(name: str) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in read_golden(name)[0].items():
        number, _, rest = key.partition(".")
        found.setdefault(number, {})[rest] = tensor
    return found


MMD, TRANSPORT = cases("mmd_sets"), cases("emd_sets")


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float, least: float = 0.0):
    assert (found - expected).abs().max() <= tolerance * max(float(expected.abs().max()), least)


@pytest.mark.parametrize("number", MMD)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_mean_discrepancy_is_the_released_one(number, dtype, tolerance):
    case = MMD[number]
    audio = case["audio_tokens"].to(dtype).requires_grad_()
    loss = mean_discrepancy(audio, case["image_tokens"].to(dtype)).mean()
    loss.backward()
    near(loss, case["loss"], tolerance, least=1.0)
    near(audio.grad, case["grad_audio_tokens"], tolerance, least=0.01)


@pytest.mark.parametrize("number", TRANSPORT)
def test_exact_transport_is_the_released_one(number):
    case = {name: tensor[None] for name, tensor in TRANSPORT[number].items()}
    audio, image = case["audio_tokens"].double().requires_grad_(), case["image_tokens"].double()
    weights = [case[side].double().requires_grad_() for side in "ab"]
    cost = squared_distances(audio, image)
    cost.retain_grad()
    transport = exact_transport(cost, *weights)
    value = transport.value(cost, *weights)
    value.sum().backward()
    found = {"cost": cost, "value": value, "plan": transport.plan}
    found |= {"grad_cost": cost.grad, "grad_audio_tokens": audio.grad}
    if case["duals_unique"]:
        found |= {"grad_a": weights[0].grad, "grad_b": weights[1].grad}
    for name, tensor in found.items():
        near(tensor, case[name], 1e-6)


def test_exact_transport_is_the_linear_program():
    """Of scipy's solver, with weights of other sums, for a batch whose clips are solved side by side."""
    torch.manual_seed(0)
    cost, a, b = (torch.rand(5, *size, dtype=torch.float64) + 0.1 for size in ((4, 6), (4,), (6,)))
    transport = exact_transport(cost, a, b)
    for number in range(5):
        rows, columns = torch.eye(4).repeat_interleave(6, dim=1), torch.eye(6).repeat(1, 4)
        target = torch.cat([a[number], b[number] * a[number].sum() / b[number].sum()])
        solved = linprog(cost[number].flatten(), A_eq=torch.cat([rows, columns]), b_eq=target)
        assert float(transport.value(cost, a, b)[number]) == pytest.approx(solved.fun, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clips_side_by_side_get_the_plans_of_a_loop(dtype):
    """To the last bit, and in order."""
    torch.manual_seed(0)
    cost, a, b = torch.rand(9, 30, 40, dtype=dtype), *(torch.rand(9, size, dtype=dtype) + 0.1 for size in (30, 40))
    plans = exact_transport(cost, a, b).plan
    arrays = (tensor.double().numpy() for tensor in (cost, a, b))
    for plan, clip, source, target in zip(plans, *arrays, strict=True):
        alone = emd(source, target * (source.sum() / target.sum()), clip, numItermax=MOST_PIVOTS)
        assert torch.equal(plan, torch.from_numpy(alone).to(dtype))


def test_of_several_clips_that_cannot_be_solved_the_first_is_named(monkeypatch):
    def solve(cost, *weights):
        if cost < 3:
            return cost, cost, cost
        if cost == 3:
            time.sleep(0.1)  # the next one fails sooner
        raise ValueError(f"clip {int(cost)}")

    monkeypatch.setattr(set_distances_captioning, "_solve", solve)
    with pytest.raises(ValueError, match="clip 3"):
        exact_transport(torch.arange(9.0), torch.ones(9), torch.ones(9))


def test_entropic_transport_comes_near_the_exact_one():
    torch.manual_seed(0)
    audio, image = torch.randn(3, 12, 8), torch.randn(3, 9, 8) + 1
    weights = [torch.rand(3, size).softmax(dim=-1).requires_grad_() for size in (12, 9)]
    cost = squared_distances(audio, image)
    exact = exact_transport(cost, *weights)
    values = {}
    for epsilon in (0.1, 0.01, 0.003):
        found = entropic_transport(cost, *weights, epsilon, iterations=2000)
        torch.testing.assert_close(found.plan.sum(dim=2), weights[0], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(found.plan.sum(dim=1), weights[1], atol=1e-5, rtol=1e-3)
        values[epsilon] = found.value(cost, *weights)
    distances = [float((value / exact.value(cost, *weights) - 1).mean()) for value in values.values()]
    assert distances[0] > distances[1] > distances[2] > 0 and distances[2] < 0.01
    near(found.audio_potential, exact.audio_potential, 0.1)


def test_a_clip_without_finite_tokens_spoils_no_other():
    cost = torch.rand(2, 3, 4)
    cost[0, 1, 2] = torch.nan
    weights = even_weights(torch.zeros(2, 3, 1)), even_weights(torch.zeros(2, 4, 1))
    transport = exact_transport(cost, *weights)
    value = transport.value(cost, *weights)
    assert value[0].isnan() and value[1].isfinite()
    assert not transport.plan[0].any() and transport.plan[1].sum() == pytest.approx(1)


def test_half_precision_is_lifted():
    audio, image = torch.randn(1, 5, 8).bfloat16() * 300, torch.randn(1, 6, 8).bfloat16() * 300
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = squared_distances(audio, image)
        found = mean_discrepancy(audio, image)
    assert cost.dtype == found.dtype == torch.float32
    torch.testing.assert_close(cost, torch.cdist(audio.float(), image.float()).square(), rtol=1e-4, atol=1e-3)
