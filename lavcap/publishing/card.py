"""The model card: `model_card.md` filled with what is known of a model, "not recorded" or "not measured" elsewhere."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import TrainingArguments

from configuration_captioning import CaptioningConfig
from lavcap.documents import read_json
from lavcap.evaluation.results import TEST_MARKS, format_results
from lavcap.provenance import read_provenance
from lavcap.publishing.family_text import describe_family
from lavcap.publishing.paths import without_paths


TEMPLATE = "model_card.md"
WHOLE = 'pipeline("audio-visual-captioning", model="{}", trust_remote_code=True)("my_clip.mp4")'  # of Transformers
RESULTS = "results.json"
NOT_RECORDED, NOT_MEASURED = "not recorded", "not measured"
REQUIREMENTS = 'torch "transformers>=5.10.4,<6" av'
METRIC_NAMES = {
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "meteor": "METEOR",
    "spice": "SPICE",
    "spider": "SPIDEr",
    "fense": "FENSE",
} | {f"bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)}
SENSES = {  # by the modalities that a model takes
    ("audio",): "is a baseline that takes sound alone",
    ("video",): "is a baseline that takes the picture alone",
    ("audio", "video"): "takes sound and picture, or one of them",
}
LLAMA_2 = re.compile(r"(^|/)llama-2-\d+b", re.IGNORECASE)
RECIPE_FIELDS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "max_steps",
    "num_train_epochs",
    "bf16",
    "fp16",
    "gradient_checkpointing",
    "seed",
)
SIGNATURE = re.compile(r"\n<!-- card written by LAVCap for Transformers, ([0-9a-f]{16}) -->\n*\Z")


@dataclass(frozen=True)
class CardFacts:
    """What a card tells of a model that is about to be published.

    Args:
        repo_id: name on the Hub.
        revision: branch, if it is not the main one.
        config: of the model, with the origins of its parts as they are published.
        window: seconds of a clip that the model takes.
        adapter: content of `adapter_config.json` as it is published; nothing for a whole model.
        has_base: whether the language model and the towers are in the repository.
        parameters, size: numbers in the weight files, and their bytes.
        trained: folder that training wrote; of a merged model that of the adapter.
        results: content of the `results.json` of these weights; nothing without an evaluation.
        licence: identifier of the Hub, if it is not to be told from the language model.
        datasets: names on the Hub of the training data.
        space: name on the Hub of a page that shows the model.
    """

    repo_id: str
    revision: str | None
    config: CaptioningConfig
    window: float
    adapter: dict[str, Any]
    has_base: bool
    parameters: int
    size: int
    trained: Path
    results: dict[str, Any]
    licence: str | None = None
    datasets: Sequence[str] = ()
    space: str | None = None


def training_settings(args: TrainingArguments, **others: Any) -> dict[str, Any]:
    """Fields of a run that its note keeps for the card; `others` are added as they are."""
    known = {name: getattr(args, name, None) for name in RECIPE_FIELDS}
    return {name: getattr(value, "value", value) for name, value in (known | others).items() if value is not None}


def write_card(facts: CardFacts) -> str:
    """Markdown of the card, metadata at its head, signed at its end so that an edited one is known."""
    config, family = facts.config, describe_family(facts.config.model_type, facts.config.family)
    card = ModelCard.from_template(
        _metadata(facts),
        template_str=template_path().read_text(encoding="utf-8"),
        repo_id=facts.repo_id,
        title=facts.repo_id.rpartition("/")[2],
        description=family.description,
        citation=family.citation,
        model_type=config.model_type,
        sees=SENSES.get(config.modalities, SENSES["audio", "video"]),
        holds=_weights(facts),
        requirements=REQUIREMENTS + (" peft" if facts.adapter else ""),
        revision=f'revision="{facts.revision}", ' if facts.revision else "",
        clip='"my_clip.mp4"' if config.takes_media else 'audio="my_clip.mp4"',
        space=facts.space,
        window=facts.window,
        whole=WHOLE.format(facts.repo_id) if config.takes_media else None,
        training=[(_cell(name), _cell(value)) for name, value in _training(facts)],
        evaluation=_evaluation(facts.results),
        licence=_licence_line(facts),
        parts=_parts(facts),
    )
    return sign(str(card))


def sign(text: str) -> str:
    """A README with a mark at its end, by which [`is_untouched`] knows whether anybody has edited it."""
    text = text.rstrip() + "\n"
    return f"{text}\n<!-- card written by LAVCap for Transformers, {_digest(text)} -->\n"


def is_untouched(text: str) -> bool:
    """Whether a README was signed by [`sign`], and nobody has edited it."""
    text = text.replace("\r\n", "\n")
    found = SIGNATURE.search(text)
    return found is not None and found.group(1) == _digest(text[: found.start()])


def template_path() -> Path:
    """Where the template is: at the top of a clone, or among the data of the installed package.

    Raises:
        FileNotFoundError: in neither place.
    """
    clone = Path(__file__).resolve().parents[2]
    for place in (clone / TEMPLATE, clone / "share" / "lavcap" / TEMPLATE):  # the second: pip install --target
        if place.is_file():
            return place
    try:
        installed = next((file for file in files("lavcap") or () if file.name == TEMPLATE), None)
    except PackageNotFoundError:
        installed = None
    if installed is None or not Path(installed.locate()).is_file():
        raise FileNotFoundError(f"{clone / TEMPLATE}: no such file; it comes with the project, take it from there.")
    return Path(installed.locate())


def check_results(results: dict[str, Any], path: str | Path, weights: str | None, folder: str | Path):
    """Refuse results that are not of these weights, for a card must not show another model's numbers.

    Args:
        weights: of [`lavcap.models.weight_files.fingerprint`].

    Raises:
        ValueError: the results compare two models, do not say which weights they score, or score others; or a card
            cannot be made of them, such as of an edited file.
    """
    if "metrics" not in results or "comparison" in results:
        raise ValueError(f"{path}: not the results of one model; pass the --output folder of scripts/evaluate.py.")
    scored = results.get("weights")
    if not scored or not isinstance(scored, str):
        raise ValueError(f"{path}: does not say which weights it scored; evaluate {folder} again.")
    if scored != weights:
        raise ValueError(
            f"{path}: scores other weights ({results.get('model')}, sha256 {scored[:12]}…) than those of {folder} "
            f"(sha256 {str(weights)[:12]}…); evaluate this model, or publish it without an evaluation."
        )
    try:
        _evaluation(results), _eval_results(results)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not as scripts/evaluate.py wrote it ({type(error).__name__}: {error}); evaluate {folder} again."
        ) from error


# -------------------------------------------------------------------------------------------------------- metadata


def _metadata(facts: CardFacts) -> ModelCardData:
    names = [name for name in facts.config.part_origins().values() if name and "/" in name]
    own_base = facts.adapter.get("base_model_name_or_path")
    base = [own_base] if own_base not in (None, "", facts.repo_id) else []
    family = describe_family(facts.config.model_type, facts.config.family)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=_task(facts.config.modalities),
        base_model=list(dict.fromkeys(base + names)) or None,
        base_model_relation=("adapter" if facts.adapter else "finetune") if base + names else None,
        datasets=list(facts.datasets) or None,
        tags=[*family.tags, "custom_code"],
        model_name=facts.repo_id.rpartition("/")[2] if facts.results else None,
        eval_results=_eval_results(facts.results) or None,
        **_licence_fields(facts),
    )


def _eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """The numbers of the results' main set of captions, unrounded."""
    if not results:
        return []
    task = _task(results.get("modality") or "video")
    name = _dataset_name(results)
    marks = [mark.replace("_", " ") for mark in TEST_MARKS if results.get(mark)]
    marks += [f"partial: {results['scored']} of {results['expected']} clips"] if results["missing"] else []
    return [
        EvalResult(
            task_type=task,
            task_name="Audio-visual captioning",
            dataset_type=name.lower(),
            dataset_name=f"{name} ({'; '.join(marks)})" if marks else name,
            dataset_split=results.get("split"),
            dataset_args={
                "clips": results["scored"],
                "references": results["dataset"]["version"],
                "input": results.get("modality") or NOT_RECORDED,
                "decoding": results.get("decoding") or NOT_RECORDED,
            },
            metric_type=metric,
            metric_name=METRIC_NAMES.get(metric, metric),
            metric_value=value,
        )
        for metric, value in results["metrics"].items()
    ]


def _task(modalities: str | Sequence[str]) -> str:
    return "video-text-to-text" if "video" in modalities else "audio-text-to-text"


def _dataset_name(results: dict[str, Any]) -> str:
    source = results.get("data_dir") or results.get("references") or results.get("predictions") or NOT_RECORDED
    return Path(source).name


def _licence_fields(facts: CardFacts) -> dict[str, str]:
    base = facts.config.part_origins().get("language model")
    if facts.licence or not base:
        return {"license": facts.licence or "apache-2.0"}
    if LLAMA_2.search(base):
        return {"license": "llama2"}
    link = {"license_link": f"https://huggingface.co/{base}"} if "/" in base else {}
    return {"license": "other", "license_name": "that-of-the-language-model"} | link


# ------------------------------------------------------------------------------------------------------------ text


def _weights(facts: CardFacts) -> str:
    count = f"{facts.parameters:,} parameters, {facts.size / 1e6:,.1f} MB"
    if not facts.adapter:
        return f"The repository holds all of it: {count}."
    if facts.has_base:
        return f"The repository holds it with its LoRA adapter apart: {count} together."
    base = facts.adapter.get("base_model_name_or_path")
    where = "its parts are" if base in (None, "", facts.repo_id) else f"the base, `{base}`, is"
    return f"The repository holds what was trained, a LoRA adapter with its modules: {count}; {where} loaded apart."


def _training(facts: CardFacts) -> list[tuple[str, Any]]:
    provenance, folder = without_paths(read_provenance(facts.trained)), facts.trained
    state, run = (_optional_json(folder / name) for name in ("trainer_state.json", "train_results.json"))
    data_dir = provenance.get("data_dir")
    data = f"{Path(data_dir).name}, split {provenance['train_split']}" if data_dir else NOT_RECORDED
    rows = [
        ("training data", data),
        ("version of the captions", provenance.get("dataset_version") or NOT_RECORDED),
        ("clips", provenance.get("train_clips", NOT_RECORDED)),
        ("clips of a test split among them", provenance.get("trained_on_test_clips", NOT_RECORDED)),
        ("watched on", _validation(provenance)),
        ("begun from", Path(run["start"]).name if run.get("start") else NOT_RECORDED),
        ("optimiser steps", state.get("global_step", NOT_RECORDED)),
        ("training loss, mean of the run", run.get("train_loss", NOT_RECORDED)),
        ("duration", f"{run['train_runtime']:.0f} s" if "train_runtime" in run else NOT_RECORDED),
    ]
    lora = {name: facts.adapter.get(name) for name in ("r", "lora_alpha", "lora_dropout", "modules_to_save")}
    rows += [(f"adapter: {name}", value) for name, value in lora.items() if value is not None]
    recipe = provenance.get("recipe") or {}
    return rows + ([(name, value) for name, value in recipe.items()] or [("recipe", NOT_RECORDED)])


def _validation(provenance: dict[str, Any]) -> str:
    if not provenance.get("validation_split"):
        return NOT_RECORDED
    of_test = "; SELECTED ON TEST CLIPS" if provenance.get("selected_on_test") else ""
    return f"split {provenance['validation_split']}, {provenance.get('validation_clips', NOT_RECORDED)} clips{of_test}"


def _evaluation(results: dict[str, Any]) -> str:
    if not results:
        return NOT_MEASURED.capitalize() + "."
    text = re.sub(r"^# ", "### ", format_results(results).strip())
    decoding = ", ".join(f"{name} {value}" for name, value in (results.get("decoding") or {}).items())
    libraries = ", ".join(f"{name} {number}" for name, number in (results.get("libraries") or {}).items())
    lines = [
        f"Data: {_dataset_name(results)}, split {results.get('split') or NOT_RECORDED}. "
        f"Decoding: {decoding or NOT_RECORDED}. Versions: {libraries or NOT_RECORDED}.",
        f"`{RESULTS}` in this repository has all of it, the ids of the scored clips included.",
    ]
    return "\n\n".join([text, *lines])


def _licence_line(facts: CardFacts) -> str:
    base = facts.config.part_origins().get("language model")
    if not base:
        return f"The weights: {facts.licence or 'Apache-2.0'}."
    held = "are in this repository, under their own licence" if facts.has_base else "are not in this repository"
    return (
        f"The weights were trained for `{base}`, whose licence binds their use too; the weights of the language model "
        f"itself {held}."
    )


def _parts(facts: CardFacts) -> list[tuple[str, str, str]]:
    rows = []
    for part, name in facts.config.part_origins().items():
        elsewhere = f"[its own repository](https://huggingface.co/{name})" if name and "/" in name else "its base"
        rows.append((part, f"`{name}`" if name else NOT_RECORDED, "here" if facts.has_base else elsewhere))
    return rows


def _cell(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path, "move it away, or train again") if path.is_file() else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]
