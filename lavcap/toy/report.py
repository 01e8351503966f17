"""Report of a run on the toy world: numbers by modality and by novelty, captions, loss curve, transport plan."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib

from lavcap.data.dataset import read_features
from lavcap.data.splits import load_split
from lavcap.documents import read_json
from lavcap.evaluation.predictions import Prediction, read_predictions
from lavcap.evaluation.results import format_table
from lavcap.files import replace_text
from lavcap.models.loading import load_model
from lavcap.toy.accuracy import accuracy_section, is_right
from lavcap.toy.dataset import read_truth
from lavcap.toy.plan import EventMass, alignments, draw_transport_plan, event_mass
from lavcap.toy.timeline import long_clip_section
from lavcap.toy.world import SOUNDS, ToyClip


matplotlib.use("Agg")
from matplotlib import pyplot as plt


EXAMPLES = 10


def write_report(
    model_dir: Path, data_dir: Path, evaluation_dir: Path, output_dir: Path, captions: Path | None = None
) -> Path:
    """Write `report.md`, `loss_curve.png`, of a model that aligns `transport_plan.png`, and with captions of the long
    clip `long_clip.png` into `output_dir`.

    Args:
        model_dir: folder that `train_hf.py` wrote.
        data_dir: toy world with `test_events.json`.
        evaluation_dir: folder that `scripts/evaluate.py` wrote.
        captions: `captions.jsonl` that `lavcap caption` wrote of `videos/long_clip.mp4`, and of others.
    """
    if (output_dir / "report.md").exists():
        raise ValueError(
            f"{output_dir}: holds another report; name a new folder with --output, or move report.md away."
        )
    results = _read_json(evaluation_dir / "results.json")
    predictions = read_predictions(evaluation_dir / "predictions.jsonl")
    clips = read_truth(data_dir, results["split"])
    state = _read_json(model_dir / "trainer_state.json")
    output_dir.mkdir(parents=True, exist_ok=True)
    model, processor = load_model(model_dir, device="cpu")
    draw_loss_curve(state["log_history"], model.loss_terms, output_dir / "loss_curve.png")
    sections = [
        f"# {model.config.family} on the toy world",
        _training_section(model_dir, state, model),
        _scores_section(results),
        accuracy_section(predictions, clips),
        _examples_section(predictions, clips),
        "## Loss\n\n![loss and CIDEr-D over training](loss_curve.png)",
    ]
    if captions is not None:
        truth = data_dir / "videos" / "long_clip.json"
        sections.append(long_clip_section(captions, truth, output_dir / "long_clip.png"))
    rows = load_split(data_dir, results["split"])
    if plans := alignments(model, processor, rows):
        shown = clips[rows[0]["id"]]
        log_mel = read_features(rows[0], processor)[processor.feature_names["audio"][0]].numpy()
        draw_transport_plan(shown, plans[shown.id], log_mel, output_dir / "transport_plan.png")
        sections.append(_plan_section(shown, event_mass(plans, clips)))
    path = output_dir / "report.md"
    replace_text(path, "\n\n".join(sections) + "\n")
    return path


def draw_loss_curve(history: Sequence[dict[str, Any]], terms: Iterable[str], path: Path):
    """Losses of training, by term, and of validation above, CIDEr-D on the validation clips below."""
    figure, (losses, scores) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    labels = {name: f"training, {name.removesuffix('_loss')}" for name in terms} | {"eval_loss": "validation, sum"}
    for name, label in labels.items():
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        losses.plot(*zip(*points, strict=True), marker="o" if len(points) < 10 else None, label=label)
    points = [(entry["step"], entry["eval_cider_d"]) for entry in history if "eval_cider_d" in entry]
    scores.plot(*zip(*points, strict=True), marker="o", color="tab:purple")
    losses.set(ylabel="loss (nats)", title="Loss", yscale="log")
    losses.legend()
    title = "Validation captions" if points else "No validation captions"
    scores.set(xlabel="optimiser step", ylabel="CIDEr-D", title=title)
    scores.set_ylim(0, 1.1 * max((score for _, score in points), default=1.0))
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# -------------------------------------------------------------------------------------------------------- sections


def _training_section(model_dir: Path, state: dict[str, Any], model) -> str:
    train = _read_json(model_dir / "train_results.json")
    chosen = (
        f"{name.rpartition('.')[2].replace('_', ' ')} `{attrgetter(name)(model.config)}`"
        for name in model.resume_fields
    )
    minutes = train["train_runtime"] / 60
    resumed = f", resumed from {Path(train['resumed_from']).name}" if train["resumed_from"] else ""
    return (
        f"Trained from {train['start']} on {train['train_clips']} generated clips for {state['global_step']} steps "
        f"({train['epoch']:.1f} epochs) in {minutes:.1f} minutes{resumed}; seed {train['seed']}, "
        f"{train['parameters']:,} parameters: {', '.join(chosen) or 'as the family is'}.\n\n"
        "A toy: it shows that the parts work together, and says nothing about scores on AudioCaps (not measured)."
    )


def _scores_section(results: dict[str, Any]) -> str:
    decoding = ", ".join(f"{name} {value}" for name, value in sorted(results["decoding"].items()))
    return (
        f"## Scores on the {results['split']} split, by what the model is given\n\n"
        f"{format_table(results['modalities'])}\n\n"
        f"pycocoevalcap {results['libraries']['pycocoevalcap']}; decoding: {decoding}."
    )


def _examples_section(predictions: Sequence[Prediction], clips: dict[str, ToyClip]) -> str:
    """Up to five failures, then the first clips of the split, ten captions in all."""
    modality = predictions[0].modality
    chosen = [prediction for prediction in predictions if prediction.modality == modality]
    failures = [prediction for prediction in chosen if not is_right(prediction, clips)]
    others = [prediction for prediction in chosen if prediction not in failures]
    wrong = failures[: EXAMPLES // 2]
    shown = wrong + others[: EXAMPLES - len(wrong)]
    lines = [
        "## Captions",
        "",
        f"From {modality}. {len(failures)} of {len(chosen)} captions say something wrong or leave something "
        f"out; {len(wrong)} of them are shown first, then the first right ones of the split.",
        "",
        "| clip | caption | a reference | |",
        "|---|---|---|---|",
    ]
    for prediction in shown:
        verdict = "wrong" if prediction in failures else "right"
        lines.append(f"| {prediction.id} | {prediction.caption} | {prediction.references[0]} | {verdict} |")
    return "\n".join(lines)


def _plan_section(clip: ToyClip, mass: EventMass) -> str:
    events = "; ".join(
        f"{event.colour} {event.shape} {SOUNDS[event.sound][0]} from {event.start:.2f} s to {event.end:.2f} s"
        for event in clip.events
    )
    return (
        "## Transport plan\n\n![transport plan of one clip](transport_plan.png)\n\n"
        f"First clip of the split: {events}. Red: more mass than an even plan, blue: less. The frames mark where "
        "picture and sound of the same event meet. Over all clips of the split these places hold "
        f"{mass.own:.2f} times the mass that an even plan would give them, and those where the picture of one event "
        f"meets the sound of the other {mass.other:.2f} times."
    )


def _read_json(path: Path) -> Any:
    return read_json(path, "make it again", "run train_hf.py and scripts/evaluate.py first")
