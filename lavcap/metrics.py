"""Caption metrics: BLEU-1..4, ROUGE-L and CIDEr-D as pycocoevalcap computes them, without its Java tokenizer.

pycocoevalcap feeds its scorers with the tokens of Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines
-lowerCase`), less a list of punctuation marks. `tokenize_caption` gives the same tokens from a short list of regular
expressions, so that scores compare with published ones from pycocoevalcap and need no Java. Its METEOR and SPICE are
Java programs and are not here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge


__all__ = ["score_captions", "score_each_caption", "tokenize_caption"]

MAX_NGRAM = 4  # words; BLEU and CIDEr-D count n-grams of one to this many

# Characters that are rewritten before tokens are looked for.
_REWRITTEN = str.maketrans(
    {
        **dict.fromkeys("‘’‛‹›", "'"),
        **dict.fromkeys("“”«»", '"'),
        **dict.fromkeys("–—―", " -- "),
        **dict.fromkeys("\u2010\u2011", "-"),  # typographic hyphens, which PTBTokenizer takes for letters
        "…": " ... ",
        "\u00ad": "",  # soft hyphen: only a hint where a line may break
        "\u200b": " ",  # zero-width space: invisible, yet it ends a word
        "£": "#",  # the Penn Treebank's pound sign
        "€": "$",
        "¢": " cents ",
        "½": " 1/2 ",
        "¼": " 1/4 ",
        "¾": " 3/4 ",
        "⅓": " 1/3 ",
        "⅔": " 2/3 ",
    }
)
# What PTBTokenizer drops as untokenizable: everything beyond the basic plane (most emoji) and their variant marks.
_DROPPED = re.compile("[\U00010000-\U0010ffff\ufe0e\ufe0f]")

# A character of a word: a letter or digit of any script, or a combining mark, which \w leaves out (accents typed as
# two characters, Hebrew and Arabic points, the vowel signs of Indic and Thai script).
_CHAR = r"(?:[^\W_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0971-\u0dff\u0e31-\u0e4e])"
_START = rf"(?<!{_CHAR})"
_END = rf"(?!{_CHAR})"
# Words joined by hyphens or underscores are one: "high-pitched", "clickety-clack".
_WORD = rf"{_CHAR}+(?:[-_]{_CHAR}+)*"

# Tried in this order at each position of the lower-case text; the first that matches is the token.
_RULES = (
    # Markup of language models stays whole: "<unk>", "</s>".
    r"</?[a-z][^<>\s]*>",
    # So do a hashtag, a handle, and the one name with an ampersand that captions of music use.
    r"[#@][a-z]\w*",
    rf"{_START}r&b{_END}",
    # Clitics are words of their own: "woman 's", "they 're", "do n't".
    rf"'(?:s|m|d|re|ve|ll){_END}|n't{_END}|{_CHAR}+?(?=n't{_END})",
    # Fused pairs come apart: "can not", "gon na", "got ta", "gim me", "'t is".
    rf"{_START}(?:can(?=not)|(?:gon|wan)(?=na)|got(?=ta)|(?:gim|lem)(?=me))(?=(?:not|na|ta|me)(?![\w-]))",
    rf"'t(?=(?:is|was){_END})",
    # Words that lost their beginning, and decades: "'em", "rock 'n' roll", "'90s".
    rf"'n'|'(?:em|til|cause|n|\d\ds){_END}",
    # An apostrophe within a word: "o'clock", "ma'am", "c'mon"; "y'all" is "y' all", "ol'" whole, "u'a" is "u ' a".
    rf"{_START}(?:(?:[a-hj-xz]|ma|ne|qu)'[a-z]{{2,}}|y'(?={_CHAR})|ol')",
    # Abbreviations own their full stop, as do single letters: "a.m.", "etc.", "in c."
    rf"{_START}[a-z](?:\.[a-z])+{_END}\.?|{_START}[a-z]\.{_END}",
    rf"{_START}(?:mr|mrs|ms|dr|prof|lt|sgt|capt|gen|st|mt|ave|rd|blvd|jr|sr|co|corp|inc|ltd|dept|ft|etc|vs)\.{_END}",
    rf"{_START}nos?\.(?=\s*\d)",
    # Decimals, thousands, clock times and a leading sign: "0.5", "10,000", "5:30", "-10". "10.5s" is "10.5 s".
    rf"(?:{_START}[-+])?(?:\d+(?:[.,:]\d+)+|\.\d+)|{_START}[-+](?=\d){_WORD}",
    # A full stop without a space after it joins, as in a file name: "bark.wav", and so "barks.then".
    rf"{_WORD}(?:\.[a-z]{_CHAR}*)+",
    # Up to two slashes join: "and/or", "metal/rock", "24/7".
    rf"{_WORD}(?:/{_WORD}){{0,2}}",
    # A run of one of these marks is one token.
    r"[?!]+|\.{2,}|-{2,}|_+|\*+|''",
    # Any other visible character stands alone.
    r"\S",
)
_TOKEN = re.compile("|".join(f"(?:{rule})" for rule in _RULES))

# Tokens that pycocoevalcap removes. "!!" and "?!" are not on its list.
_PUNCTUATION = re.compile(r"[\"'`.?!,:;-]|''|\.{2,}|-{2,}")
# PTBTokenizer spells brackets out, in lower case here. pycocoevalcap means to remove the round and curly ones, but its
# list has them in capitals, so that they count as words; they do so here too.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def tokenize_caption(text: str) -> list[str]:
    """Splits a caption into lower-case Penn Treebank tokens without punctuation, as pycocoevalcap's tokenizer does.

    Token for token the same as the Java tokenizer on every AudioCaps test caption. Known differences elsewhere:
    typographic hyphens count as "-", "9 1/2" is two tokens, HTML entities are not decoded, web addresses come apart,
    and only common abbreviations are known. A single letter always keeps its full stop ("... in C."), whereas in Java
    the next word decides, even if it belongs to the next caption.

    Args:
        text: a caption in any case, of any length; line breaks count as spaces.

    Returns:
        The tokens in order: "A woman's voice." gives `["a", "woman", "'s", "voice"]`. An empty list for text that is
        empty or all punctuation. No token contains white space.
    """
    text = _DROPPED.sub("", text.translate(_REWRITTEN)).lower()
    tokens = _TOKEN.findall(text)
    return [_BRACKETS.get(token, token) for token in tokens if not _PUNCTUATION.fullmatch(token)]


def score_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores a whole set of captions.

    The keys, and where each is defined:
        `bleu_1` ... `bleu_4`: BLEU with n-grams of one to n words, clipped counts and lengths summed over the set,
            closest reference length in the brevity penalty; 0 to 1 (Papineni et al., ACL 2002).
        `rouge_l`: F-measure of the longest common subsequence, beta 1.2, best precision and best recall over the
            references, averaged over clips; 0 to 1 (Lin, ACL workshop 2004).
        `cider_d`: mean cosine of tf-idf n-gram vectors with clipping and a Gaussian length penalty of sigma 6,
            averaged over clips; 0 to 10, and papers print 0.897 also as 89.7 (Vedantam et al., CVPR 2015).
            Document frequencies come from `references`, so the value belongs to the whole set: a part of the set
            scores differently. It is left out, with a warning, where it is undefined: with one clip, or with several
            that all have the same references, every n-gram is in every document and weighs nothing.

    Args:
        predictions: one caption per clip. An empty caption is legal and scores 0.
        references: for each clip, its reference captions; the number may differ between clips.

    Returns:
        The six metrics as plain floats, unrounded.

    Raises:
        ValueError: if there are no clips, the two lengths differ, a clip has no references or one without words, or
            a string stands where a list of strings should.
    """
    return _run_scorers(predictions, references)[0]


def score_each_caption(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Scores every clip of a set, for confidence intervals and for finding the worst captions.

    `rouge_l` and `cider_d` average to what `score_captions` gives. `bleu_1` ... `bleu_4` are sentence-level and do
    not: BLEU pools its counts over the set. pycocoevalcap smooths them, so that a caption of fewer than n words has a
    `bleu_n` of up to 0.04 where the definition gives 0.

    Args:
        predictions: as for `score_captions`.
        references: as for `score_captions`. Document frequencies of `cider_d` come from all clips given.

    Returns:
        One dictionary per clip, in order, with the keys and ranges of `score_captions`.

    Raises:
        ValueError: as `score_captions`.
    """
    return _run_scorers(predictions, references)[1]


def _run_scorers(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of the set, and of each clip."""
    _check_clips(predictions, references)
    # pycocoevalcap wants {clip: [caption, ...]} with tokens joined by single spaces.
    hypotheses = {clip: [_join_tokens(caption)] for clip, caption in enumerate(predictions)}
    truths = {clip: [_join_tokens(caption) for caption in captions] for clip, captions in enumerate(references)}
    _check_reference_words(truths)

    bleu, bleu_each = Bleu(MAX_NGRAM).compute_score(truths, hypotheses, verbose=0)
    columns = {f"bleu_{n}": (bleu[n - 1], bleu_each[n - 1]) for n in range(1, MAX_NGRAM + 1)}
    columns["rouge_l"] = Rouge().compute_score(truths, hypotheses)
    if _references_differ(truths):
        columns["cider_d"] = Cider(n=MAX_NGRAM).compute_score(truths, hypotheses)

    overall = {name: float(score) for name, (score, _) in columns.items()}
    each = [{name: float(scores[clip]) for name, (_, scores) in columns.items()} for clip in hypotheses]
    return overall, each


def _join_tokens(caption: str) -> str:
    return " ".join(tokenize_caption(caption))


def _check_clips(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(predictions, str):
        raise ValueError("predictions is one string, expected a list with one caption per clip: wrap it in a list")
    if len(predictions) != len(references):
        raise ValueError(
            f"got {len(predictions)} predictions and references for {len(references)} clips, expected as many of "
            "each: pass one prediction and one list of references per clip, in the same order"
        )
    if len(predictions) == 0:
        raise ValueError("got no clips, expected at least one: check that the data set and its filters leave any")
    for clip, (prediction, captions) in enumerate(zip(predictions, references, strict=True)):
        _check_clip(clip, prediction, captions)


def _check_clip(clip: int, prediction: str, captions: Sequence[str]) -> None:
    if not isinstance(prediction, str):
        kind = type(prediction).__name__
        raise ValueError(f"the prediction for clip {clip} is a {kind}, expected one string: pass the decoded caption")
    if isinstance(captions, str) or not isinstance(captions, Sequence):
        kind = type(captions).__name__
        raise ValueError(
            f"the references of clip {clip} are a {kind}, expected a list of strings: wrap a lone reference in a list"
        )
    if len(captions) == 0:
        raise ValueError(f"clip {clip} has no references, expected at least one: add one or leave the clip out")
    for caption in captions:
        if not isinstance(caption, str):
            kind = type(caption).__name__
            raise ValueError(f"a reference of clip {clip} is a {kind}, expected a string: pass a flat list per clip")


def _check_reference_words(truths: dict[int, list[str]]) -> None:
    # ROUGE-L of pycocoevalcap would call an empty prediction a perfect match of an empty reference.
    for clip, captions in truths.items():
        if "" in captions:
            raise ValueError(
                f"reference {captions.index('')} of clip {clip} has no words, expected a caption: leave that one out"
            )


def _references_differ(truths: dict[int, list[str]]) -> bool:
    if len({frozenset(captions) for captions in truths.values()}) > 1:
        return True
    reason = "there is only one clip" if len(truths) == 1 else "all clips have the same references"
    warnings.warn(
        f"cider_d is left out: {reason}, so its document frequencies are undefined; score more clips together",
        stacklevel=4,  # the caller of score_captions or score_each_caption
    )
    return False
