"""What of a model folder is published: weights, settings, code and the card, and nothing else."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from configuration_captioning import CaptioningConfig
from lavcap.documents import read_json
from lavcap.files import whole_folder
from lavcap.models.decoding import check_decoding
from lavcap.models.families import check_model_name, config_class, load_processor
from lavcap.models.saved_weights import check_finite_files, check_saved_weights
from lavcap.models.weight_files import ADAPTER_SETTINGS, count_parameters, find_weights, fingerprint
from lavcap.provenance import PROVENANCE_FILE
from lavcap.publishing.card import RESULTS, CardFacts, check_results, write_card
from lavcap.publishing.paths import CODE, without_paths
from parts_captioning import published_name


CARD = "README.md"
SETTINGS_FILES = ("config.json", "generation_config.json", "processor_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# What a repository may hold of ours; of these names what is not uploaded again is deleted there.
OURS = (
    *SETTINGS_FILES,
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    ADAPTER_SETTINGS,
    "preprocessor_config.json",
    "chat_template.jinja",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    *CODE,
    PROVENANCE_FILE,
    RESULTS,
)

Files = dict[str, Path | bytes]


@dataclass(frozen=True)
class Publication:
    """What is asked for when a model is published.

    Args:
        repo_id: name on the Hub, `owner/name`.
        revision: branch, if it is not the main one.
        evaluation: folder that scripts/evaluate.py wrote; default: the model's own folder, if it holds results.
        base_model: name on the Hub of the base of an adapter, if the folder names another place.
        parts: the same for the parts of a base, by the arguments of `from_parts`.
        with_language_model: allow that the whole weights of somebody else's language model are uploaded.
        licence: identifier of the Hub; default: that of the language model, else Apache-2.0.
        datasets: names on the Hub of the training data.
        space: name on the Hub of a page that shows the model.
    """

    repo_id: str
    revision: str | None = None
    evaluation: str | Path | None = None
    base_model: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    with_language_model: bool = False
    licence: str | None = None
    datasets: Sequence[str] = ()
    space: str | None = None


def collect_files(folder: str | Path, publication: Publication, trained: str | Path | None = None) -> Files:
    """Files to upload by their names, as paths or content; paths of this machine are cut to their last part.

    Args:
        folder: of the model, as `save_pretrained` or training wrote it.
        trained: folder with the records of training whose weights were evaluated; default: `folder`. Of a merged
            model it is that of the adapter.

    Raises:
        ValueError: the folder holds no whole model, its base cannot be found by others, its language model is
            somebody else's, or the results are not of these weights.
    """
    folder, trained = Path(folder), Path(trained or folder)
    files = _own_files(folder)
    fields = _read(folder / "config.json")
    if publication.parts:
        fields["base_parts"] = (fields.get("base_parts") or {}) | dict(publication.parts)
    config = config_class(fields["model_type"]).from_dict(fields)
    has_base = any(name.startswith("model") and name.endswith(".safetensors") for name in files)
    if has_base:
        check_language_model(config, publication)
    weights = [file for name, file in files.items() if name.endswith(".safetensors")]
    content = {name: _read(file) for name, file in files.items() if name.endswith("config.json")}
    content = {name: without_paths(each) for name, each in (content | {"config.json": fields}).items()}
    adapter = content.get(ADAPTER_SETTINGS, {})
    if adapter:
        adapter["base_model_name_or_path"] = _base_of(folder, config, has_base, publication)
    if (trained / PROVENANCE_FILE).is_file():
        content[PROVENANCE_FILE] = without_paths(_read(trained / PROVENANCE_FILE))
    results = read_results(trained, publication.evaluation)
    content |= {RESULTS: without_paths(results)} if results else {}
    facts = CardFacts(
        repo_id=publication.repo_id,
        revision=publication.revision,
        config=config,
        window=load_processor(folder).window,
        adapter=adapter,
        has_base=has_base,
        parameters=count_parameters(weights),
        size=sum(file.stat().st_size for file in weights),
        trained=trained,
        results=content.get(RESULTS, {}),
        licence=publication.licence,
        datasets=publication.datasets,
        space=publication.space,
    )
    return files | {name: _as_json(each) for name, each in content.items()} | {CARD: write_card(facts).encode()}


def is_ours(name: str) -> bool:
    """Whether a file of a repository belongs to a model of ours; `README.md` is for its signature to tell."""
    return any(fnmatchcase(name, pattern) for pattern in OURS)


def check_language_model(config: CaptioningConfig, publication: Publication):
    """Refuse to upload all weights of a language model that is not the user's, unless that is asked for."""
    name = config.part_origins().get("language model")
    name = name and published_name(name)
    owner = publication.repo_id.partition("/")[0].lower()
    if name and name.partition("/")[0].lower() != owner and not publication.with_language_model:
        raise ValueError(
            f"The upload would hold the whole weights of {name}, whose licence may forbid or bind that; publish a "
            "LoRA adapter, which leaves them out, or ask for it: scripts/push_to_hub.py --with_language_model."
        )


def read_results(folder: Path, evaluation: str | Path | None) -> dict[str, Any]:
    """Results of the weights of a folder: of an evaluation, or beside the model; nothing without either.

    Raises:
        ValueError: there are none in the folder that was named, or they are of other weights.
    """
    path = Path(evaluation or folder) / RESULTS
    if not path.is_file():
        if evaluation:
            raise ValueError(f"{path}: no such file; pass the --output folder of scripts/evaluate.py.")
        return {}
    results = _read(path)
    check_results(results, path, fingerprint(folder), folder)
    return results


def size_of(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def write_files(files: Files, output: str | Path, option: str):
    """Write what would be uploaded into a new folder."""
    with whole_folder(output, option) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                shutil.copyfile(content, folder / name)


# ----------------------------------------------------------------------------------------------------------- files


def _own_files(folder: Path) -> dict[str, Path]:
    """Files of a whole model.

    Raises:
        ValueError: the folder holds no model, or one that was not written to the end.
    """
    check_model_name(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; pass a model that is on this machine.")
    weights = find_weights(folder)
    check_saved_weights(folder)
    check_finite_files(weights.values())
    check_decoding(folder)
    there = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    missing = [name for name in SETTINGS_FILES if name not in there]
    missing += [] if any(name in there for name in TOKENIZERS) else [TOKENIZERS[0]]
    code = set() if missing else _code_of(folder)
    missing += sorted(name for name in code if name not in there)
    if missing:
        raise ValueError(f"{folder}: lacks {', '.join(missing)}; pass a folder that training wrote to the end.")
    left_out = {name for name in there if name.endswith((".py", ".safetensors")) or not is_ours(name)}
    left_out = left_out - code - weights.keys() | {PROVENANCE_FILE, RESULTS}
    return {name: file for name, file in there.items() if name not in left_out}


def _code_of(folder: Path) -> set[str]:
    """Names of the code files that the settings or other code files name, whether they are there or not."""
    references = [
        reference
        for name in ("config.json", "processor_config.json")
        for reference in (_read(folder / name).get("auto_map") or {}).values()
    ]
    entries = {folder / f"{reference.rpartition('--')[2].partition('.')[0]}.py" for reference in references}
    if not entries:
        return {"auto_map in config.json"}
    names = {entry.name for entry in entries}
    if any(not entry.is_file() for entry in entries):
        return names
    try:
        return names | {Path(file).name for entry in entries for file in get_relative_import_files(entry)}
    except FileNotFoundError as error:
        return names | {Path(error.filename).name}


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path, "save or copy the model again")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object; save or copy it again.")
    return content


def _as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


# ------------------------------------------------------------------------------------------------------------ base


def public_base(base: str | None, config: CaptioningConfig, publication: Publication) -> str:
    """Where others find the base of an adapter: a name on the Hub.

    An adapter on parts that `config.json` names is said to have its own repository for a base: from there Transformers
    reads which parts.

    Args:
        base: what `adapter_config.json` says, or nothing for an adapter on parts.
        config: of the model, with the names of the parts as they are published.

    Raises:
        ValueError: the base, or a part of it, is a folder of this machine.
    """
    base = publication.base_model or base
    if base and base != publication.repo_id:
        if not _is_on_hub(base):
            raise ValueError(
                f"The adapter was trained on {base}, which others do not have; publish that model, and name it with "
                "scripts/push_to_hub.py --base_model owner/name."
            )
        return base
    parts = {name: place for name, place in (config.base_parts or {}).items() if place}
    if "text" not in parts:
        raise ValueError("The adapter does not tell its base; name one with scripts/push_to_hub.py --base_model.")
    if unknown := [f"{name} {place}" for name, place in parts.items() if not _is_on_hub(place)]:
        options = " ".join(f"--{each.partition(' ')[0]}_model owner/name" for each in unknown)
        raise ValueError(
            f"The adapter was trained on parts that others do not have: {', '.join(unknown)}; name them on the Hub "
            f"with scripts/push_to_hub.py {options}."
        )
    return publication.repo_id


def _is_on_hub(place: str) -> bool:
    return not Path(place).exists() and place.count("/") == 1 and not place.startswith(("/", "."))


def _base_of(folder: Path, config: CaptioningConfig, has_base: bool, publication: Publication) -> str:
    base = _read(folder / ADAPTER_SETTINGS).get("base_model_name_or_path")
    if has_base and not publication.base_model:  # beside the adapter, whatever place it had when it was made
        return publication.repo_id
    is_here = base and Path(base).exists() and Path(base).samefile(folder)
    return public_base(None if is_here else base, config, publication)
