r"""Convert a released checkpoint into a folder for `from_pretrained`.

    lavcap convert --checkpoint checkpoint_best.pth --config config_best.yaml \
        --text-model meta-llama/Llama-2-7b-chat-hf --audio-encoder audiotransformer_base_mAP_4999.pt \
        --vision-model openai/clip-vit-large-patch14 --output my_lavcap
    lavcap convert --checkpoint avcap_audiocaps.pt --output my_avcap
    lavcap convert --checkpoint dali_weights --llava llava-hf/llava-1.5-7b-hf --output my_dali

LAVCap: the CUDA runner's file with the trained tensors only, or the Gaudi Trainer's full state dict, as pickle or
safetensors; what it lacks comes from --text-model and --audio-encoder. CED: its own file, which becomes an audio
tower; it needs no --config. AVCap, CAV-MAE alone, GIT alone: sizes are read off the tensors; 12 heads, frames of 224
pixels and the mode `captioning` are taken unless --config, a JSON file, says otherwise. CAV-MAE becomes an encoder and
GIT a text decoder, which a recipe can start from. DALI: a folder with audio_backbone.pth, prefix.bin and
prefixMLP.bin, of which any may be missing, onto LLaVA; without --llava the encoders alone, to align them. CAV-MAE with
--llava becomes a DALI whose alignment begins with it. Every tensor must find its place and every place its tensor, or
nothing is written. Ends with a table of what went where.
"""

from lavcap.arguments import Parser
from lavcap.endings import errors_in_one_line
from lavcap.files import check_new_folder


DTYPES = ("float32", "bfloat16", "float16")


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="released file of LAVCap, CED, AVCap, CAV-MAE or GIT, or folder of DALI"
    )
    parser.add_argument("--config", help="the released YAML that it was trained with, or the same options as JSON")
    parser.add_argument(
        "--tokenizer", help="of AVCap: name or folder of BERT's; default: google-bert/bert-base-uncased"
    )
    parser.add_argument(
        "--llava", help="of DALI: name or folder of LLaVA-1.5, in llava-hf's layout or the original one"
    )
    parser.add_argument("--text-model", help="name or folder of the language model; its config.json may be enough")
    parser.add_argument("--vision-model", help="name or folder of CLIP; without it the model takes video_features")
    parser.add_argument("--audio-encoder", help="CED's file, where the checkpoint lacks the frozen encoder")
    parser.add_argument(
        "--lora", choices=("merge", "adapter"), default="merge", help="fold it in, or write a PEFT adapter beside"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: that of the language model")
    parser.add_argument("--output", required=True, help="new folder")
    args = parser.parse_args()
    with errors_in_one_line():
        check_new_folder(args.output, "--output")
        from lavcap.conversion.lavcap import Sources
        from lavcap.conversion.released import convert
        from parts_captioning import as_dtype

        table = convert(
            args.checkpoint,
            args.config,
            args.output,
            Sources(args.text_model, args.vision_model, args.audio_encoder),
            args.tokenizer,
            args.llava,
            lora=args.lora,
            dtype=as_dtype(args.dtype),
        )
        print(table)
    return 0
