"""Models: built of a recipe, loaded, trained in part, and asked for captions."""

from lavcap.models.kernel_advice import KERNEL_ADVICE


KERNEL_ADVICE.hold()  # before a module of this room imports PEFT
