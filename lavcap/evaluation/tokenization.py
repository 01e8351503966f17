"""Tokens of captions as pycocoevalcap's tokenizer gives them, without Java.

pycocoevalcap feeds its scorers with the tokens of Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines
-lowerCase`), less a list of punctuation marks. `tokenize_caption` gives the same tokens from a short list of regular
expressions, so that scores compare with published ones from pycocoevalcap.
"""

import re


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
