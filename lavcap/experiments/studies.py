"""Which runs a study is made of: variants of a recipe, worlds and seeds, all named before anything is run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


SEEDS = (42, 43, 44, 45, 46)
MORE_SEEDS = (*SEEDS, 47, 48, 49, 50, 51)
WORLDS = ("free", "typical")


@dataclass(frozen=True)
class Variant:
    """A recipe with some of its fields changed.

    Args:
        name: for tables and folders; the same name is the same run wherever it stands.
        recipe: file below `configs`, without its ending.
        config: fields of `model_config` that are added.
        options: fields of the recipe that are replaced.
    """

    name: str
    recipe: str = "toy"
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Variants that are compared on the same worlds with the same seeds.

    Args:
        question: that it answers.
        variants: the first is what the others are compared with.
    """

    question: str
    variants: tuple[Variant, ...]
    worlds: tuple[str, ...] = WORLDS
    seeds: tuple[int, ...] = SEEDS


def _transport(name: str, attention: str, weight: float, **config: Any) -> Variant:
    return Variant(name, config={"transport_attention": attention, "alignment_loss_weight": weight, **config})


def _contrast(weight: float, attention: str, epsilon: float) -> Variant:
    # The scale is that of CLIP (arXiv 2103.00020, section 2.5): exponentiated, and 20 to begin with.
    scale = {"exponentiate_logit_scale": True, "logit_scale_init": 3.0}
    name = f"clips-{weight:g}-{attention}-epsilon-{epsilon:g}"
    return _transport(name, attention, weight, alignment_objective="clips", sinkhorn_epsilon=epsilon, **scale)


NOTHING_HIDDEN = {"audio_only_rate": 0, "video_only_rate": 0}
RECIPE = Variant("recipe")
RELEASED = RECIPE  # whose objective and attention are the released ones
NO_TRANSPORT = Variant("no-transport", config={"optimal_transport": False})
CONTRAST = _contrast(0.1, "joint", 0.05)

STUDIES = {
    "seeds": Study("Does the recipe learn with every seed?", (RECIPE,), ("free",), MORE_SEEDS),
    "transport": Study(
        "Which parts of the paper help?",
        (
            NO_TRANSPORT,
            _transport("tokens-0.01-none", "none", 0.01),
            RELEASED,
            _transport("tokens-0.01-barycentric", "barycentric", 0.01),
            CONTRAST,
        ),
    ),
    "weight": Study(
        "How much should the alignment weigh?",
        (RELEASED, _transport("tokens-0.1-joint", "joint", 0.1), _transport("tokens-1-joint", "joint", 1.0)),
    ),
    "objective": Study(
        "Does the plan point at the event?",
        (
            RELEASED,
            NO_TRANSPORT,
            _transport("tokens-0.01-joint-epsilon-0.05", "joint", 0.01, sinkhorn_epsilon=0.05),
            _contrast(0.1, "joint", 0.1),
            CONTRAST,
            _contrast(0.1, "joint", 0.03),
            _contrast(0.1, "barycentric", 0.05),
        ),
        ("typical",),  # where something ties a frame to a sound
    ),
    "fusion": Study(
        "How should the modalities meet?",
        (
            RELEASED,
            _transport("concat-channel", "joint", 0.01, fusion="concat_channel"),
            _transport("cross-attention", "joint", 0.01, fusion="cross_attention"),
            Variant("audio-only", config={"fusion": "audio_only"}, options=NOTHING_HIDDEN),
            Variant("video-only", config={"fusion": "video_only"}, options=NOTHING_HIDDEN),
        ),
    ),
    "avcap": Study(
        "What does AVCap's joint layer do?",
        (
            Variant("avcap", "toy_avcap"),
            Variant(
                "avcap-no-joint-layer",
                "toy_avcap",
                config={"audio_visual_config": {"num_modality_layers": 4, "num_joint_layers": 0}},
            ),
        ),
    ),
    "dropout": Study(
        "What does hiding a modality in training do?",
        (RECIPE, Variant("nothing-hidden", options=NOTHING_HIDDEN)),
    ),
}
