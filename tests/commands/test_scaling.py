"""How captioning and training scale, by formulas: against sums taken apart, and in the tables of the page."""

from math import inf

import pytest

from conftest import ROOT
from lavcap.benchmarks.scaling import (
    Work,
    captioning_seconds,
    most_clips,
    sent_by_replicas,
    sent_by_shards,
    step_seconds,
)


# What docs/scaling.md assumes of a GPU and of a machine with eight of them.
START, CAPTIONED, DECODED, TRAINED = 60.0, 25.0, 4.0, 56.0  # seconds; clips per second of a GPU, of a core, of a GPU
WEIGHTS, ADAPTER = 13_476_831_232, 30_556_164  # bytes of LLaMA-2-7B in bfloat16, and of what LoRA trains in float32
BATCH, LAYERS, LATENCY = 32, 33, 1e-4
NVLINK, NETWORK, CABLE = (
    450e9,
    400e9,
    50e9,
)  # bytes per second: of a GPU; of a machine with eight adapters, and with one


def test_one_process_sends_nothing():
    assert sent_by_replicas(10**9, 1) == sent_by_shards(10**9, 10**6, 1) == 0
    assert step_seconds(0.5, sent_by_replicas(10**9, 1), inf) == 0.5


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_what_is_sent_are_the_pieces_that_go_around_the_ring(processes):
    """Each process sends a piece of every tensor on to the next one, as often as there are others."""
    weights, gradients = 600 * processes, 24 * processes
    around = range(processes - 1)
    assert sent_by_replicas(gradients, processes) == 2 * sum(gradients // processes for _ in around)
    pieces = [2 * weights // processes + gradients // processes for _ in around]
    assert sent_by_shards(weights, gradients, processes) == sum(pieces)


def test_shards_send_half_as_much_again_as_replicas_where_all_is_trained():
    """ZeRO, arXiv 1910.02054, section 7.2."""
    assert sent_by_shards(10**9, 10**9, 64) == pytest.approx(1.5 * sent_by_replicas(10**9, 64))


@pytest.mark.parametrize(("clips", "processes"), [(0, 3), (1, 4), (8, 4), (9, 4), (10**6, 512)])
def test_clips_are_dealt_as_the_command_deals_them(clips, processes):
    assert most_clips(clips, processes) == max(len(range(clips)[index::processes]) for index in range(processes))


def test_processes_share_the_cores():
    work = Work(seconds=2.0, core_seconds=1.5)
    assert [work.among(processes, 2) for processes in (1, 2, 4)] == [2.0, 2.0, 3.0]
    start = Work(1.0, 1.0)
    assert [captioning_seconds(9, processes, 2, start, work) for processes in (1, 2, 4)] == [19.0, 11.0, 11.0]


def test_a_step_takes_what_is_computed_sent_and_waited_for():
    assert step_seconds(0.5, 2e9, 1e9, 3, 0.1) == pytest.approx(2.8)


@pytest.mark.parametrize("gpus", [1, 8, 64, 512])
def test_the_page_has_the_hours_that_the_formulas_give(gpus):
    start = Work(START, START)
    captioning = [
        captioning_seconds(10**6, gpus, cores * gpus, start, Work(1 / CAPTIONED, 1 / DECODED)) for cores in (8, 2)
    ]
    gathered, latency = sent_by_shards(WEIGHTS, ADAPTER, gpus), LATENCY * (gpus > 1)
    networks = (NETWORK, CABLE) if gpus > 8 else (NVLINK, NVLINK)
    training = [
        START + most_clips(2 * 10**6, BATCH * gpus) * step_seconds(BATCH / TRAINED, sent, bandwidth, *waited)
        for sent, bandwidth, *waited in (
            (sent_by_replicas(ADAPTER, gpus), networks[1], 2, latency),
            *((gathered, network, 3 * LAYERS, latency) for network in networks),
        )
    ]
    hours = " | ".join(f"{seconds / 3600:.3g}" for seconds in captioning + training)
    assert f"| {gpus} | {hours} |" in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
