"""Fold a trained adapter into its base: one folder that loads without PEFT and without the parts it was made of.

    lavcap merge outputs/lavcap_llama2_7b --output merged

The base is taken from where it was trained from. What is written is read again, and its logits are compared with those
of the adapter on its base; if they differ by more than rounding, nothing is left of it.
"""

from lavcap.arguments import Parser
from lavcap.endings import errors_in_one_line, printable


PARTS = ("text", "audio", "vision", "audio_visual")  # that a base may be assembled of


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", help="folder of a model trained with LoRA, or of one of its checkpoints")
    parser.add_argument("--output", required=True, help="new folder for the whole model")
    parser.add_argument("--dtype", help="dtype of the weights (default: that of the base)")
    for part in PARTS:
        parser.add_argument(f"--{part}_model", help=f"where the {part} part of the base is, if it has moved")
    args = parser.parse_args()
    with errors_in_one_line():
        from lavcap.models.merging import merge_adapter

        parts = {part: getattr(args, f"{part}_model") for part in PARTS}
        difference = merge_adapter(args.model, args.output, args.dtype, **parts)
    print(
        f"{printable(args.output)}: the whole model; its logits differ by at most {difference:.1e} of the largest one."
    )
    return 0
