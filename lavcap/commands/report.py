r"""Write the report of a run on the toy world: report.md with pictures of its losses, transport plan and a long clip.

    lavcap report --model outputs/demo/model --data_dir outputs/demo/data \
        --evaluation outputs/demo/evaluation --captions outputs/demo/captions/captions.jsonl --output outputs/demo
"""

from pathlib import Path

from lavcap.arguments import Parser
from lavcap.endings import errors_in_one_line


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder that train_hf.py wrote")
    parser.add_argument("--data_dir", type=Path, required=True, help="toy world that the model was tested on")
    parser.add_argument("--evaluation", type=Path, required=True, help="folder that scripts/evaluate.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    parser.add_argument("--captions", type=Path, help="captions.jsonl of videos/long_clip.mp4, for a picture")
    args = parser.parse_args()
    with errors_in_one_line():
        from lavcap.toy.report import write_report

        print(write_report(args.model, args.data_dir, args.evaluation, args.output, args.captions))
    return 0
