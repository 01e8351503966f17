"""What metrics and modalities are called: all that a command needs to read its arguments."""

MAX_NGRAM = 4  # words; BLEU and CIDEr-D count n-grams of one to this many
BLEU = tuple(f"bleu_{n}" for n in range(1, MAX_NGRAM + 1))
QUICK_METRICS = (*BLEU, "rouge_l", "cider_d")  # need neither Java nor a model
METRICS = (*QUICK_METRICS, "meteor", "spice", "spider", "fense")

OTHER_VIDEO = "audio+other_video"  # the sound of a clip and the frames of another one
MODALITIES = ("audio+video", "audio", "video", OTHER_VIDEO)  # what captions are made from, the main one first
