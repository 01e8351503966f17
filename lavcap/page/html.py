"""What the page says, as HTML: captions, the time line, what was considered, errors."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from math import exp

from lavcap.captioning.records import Caption, Record, clock
from lavcap.page.clips import LOUDNESS_PARTS, Shown, data_address


SEEN = {"audio+video": "sound and picture", "audio": "sound alone", "video": "picture alone"}
MOST_PICTURES = 12  # of the strip
NOTHING = "(nothing to hear or see)"
# A click on a window shows it in the player, too, and tells the page which one it is.
CHOOSE = """
element.addEventListener("click", (event) => {
  const cue = event.target.closest("[data-window]");
  if (!cue) return;
  const player = document.querySelector("#film video");
  if (player && Number.isFinite(player.duration)) player.currentTime = Number(cue.dataset.start);
  for (const each of element.querySelectorAll("li button")) {
    each.setAttribute("aria-pressed", each.dataset.window === cue.dataset.window);
  }
  trigger("select", { window: Number(cue.dataset.window) });
});
"""


def said(shown: Sequence[Shown]) -> str:
    """What can be heard: one caption, large, or of a longer clip a time line; and what it was made from."""
    if not shown:
        return ""
    records = [each.record for each in shown]
    if len(records) > 1:
        return f'{_time_line(shown)}<p class="clip-meta">From {escape(_made_from(records))}.</p>'
    (record,) = records
    if record.error is not None:
        return error(record.error)
    span = "" if record.start is None else f", {_span(record)}"
    meta = escape(f"From {_made_from(records)}{span}.")
    return f'<p class="clip-caption">{escape(record.caption or NOTHING)}</p><p class="clip-meta">{meta}</p>'


def status(text: str) -> str:
    """What goes on, which screen readers say."""
    return f'<p role="status" class="clip-status">{escape(text)}</p>'


def error(message: str) -> str:
    return f'<p role="alert" class="clip-error">{escape(message)}</p>'


def details(record: Record, plan: bytes | None) -> str:
    """Captions of one window with their scores, the most probable first, and its plan as a picture, if it has one."""
    return (_considered(record) if record.captions else "") + ("" if plan is None else _figure(plan))


# -------------------------------------------------------------------------------------------------------- internals


def _time_line(shown: Sequence[Shown]) -> str:
    """A strip of pictures and loudness, and a list of the windows to choose from."""
    pieces = min(len(shown), MOST_PICTURES)
    edges = [round(piece * len(shown) / pieces) for piece in range(pieces + 1)]
    strip = "".join(_piece(first, shown[first:end]) for first, end in pairwise(edges))
    items = "".join(_item(number, each.record) for number, each in enumerate(shown))
    return (
        f'<div class="clip-strip" aria-hidden="true">{strip}</div>'
        f'<ol class="clip-windows" aria-label="Captions by time">{items}</ol>'
    )


def _made_from(records: Sequence[Record]) -> str:
    used = [record for record in records if record.error is None]
    kinds = list(dict.fromkeys(SEEN[record.modalities] for record in used if record.modalities)) or ["nothing"]
    silent = ", silence left out" if any(record.silent for record in used) else ""
    notes = list(dict.fromkeys(note for record in used for note in record.notes))
    return "; ".join([f"{' or '.join(kinds)}{silent}", *(f"the file {note}" for note in notes)])


def _span(record: Record) -> str:
    return f"{clock(record.start)} to {clock(record.end)}"


def _piece(first: int, shown: Sequence[Shown]) -> str:
    """Some windows in the strip, with the picture in their middle; a click goes to the first."""
    record = shown[0].record
    seconds = sum(each.record.end - each.record.start for each in shown)
    picture = shown[len(shown) // 2].picture
    image = f'<img src="{picture}" alt="">' if picture else "<span></span>"
    loudness = [peak for each in shown for peak in each.loudness or (0.0,) * LOUDNESS_PARTS]
    count = len(shown)
    peaks = [max(loudness[part * count : (part + 1) * count]) for part in range(LOUDNESS_PARTS)]
    return (
        f'<div data-window="{first}" data-start="{record.start:.3f}" style="flex-grow:{seconds:.3f}">'
        f"{image}{_wave(peaks)}</div>"
    )


def _wave(loudness: Sequence[float]) -> str:
    bars = "".join(
        f'<rect x="{place}" y="{0.5 - peak / 2:.3f}" width="0.8" height="{max(peak, 0.02):.3f}"/>'
        for place, peak in enumerate(loudness)
    )
    return f'<svg viewBox="0 0 {max(1, len(loudness))} 1" preserveAspectRatio="none">{bars}</svg>'


def _item(number: int, record: Record) -> str:
    if record.error is not None:
        said = f'<span class="clip-error">{escape(record.error)}</span>'
    else:
        said = f"<span>{escape(record.caption or NOTHING)}</span>"
    return (
        f'<li><button type="button" aria-pressed="{"true" if number == 0 else "false"}" data-window="{number}" '
        f'data-start="{record.start or 0:.3f}"><time>{clock(record.start or 0)}</time>{said}</button></li>'
    )


def _considered(record: Record) -> str:
    rows = "".join(_row(number, caption) for number, caption in enumerate(record.captions, 1))
    where = "" if record.start is None else f", {_span(record)}"
    return (
        f'<table class="clip-beams"><caption>Most probable captions{where}</caption><thead><tr><th scope="col">#</th>'
        '<th scope="col">caption</th><th scope="col">log-probability of a token</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _figure(png: bytes) -> str:
    """The picture of a plan, with how to read it."""
    address = data_address(png, "image/png")
    text = "How much each frame (rows) and each moment of the sound (columns) have to do with each other"
    return (
        f'<figure class="clip-plan"><img src="{address}" alt="{text}.">'
        f"<figcaption>{text}: red more than evenly, blue less.</figcaption></figure>"
    )


def _row(number: int, caption: Caption) -> str:
    share = 100 * exp(min(0.0, caption.mean_log_probability))
    return (
        f"<tr><td>{number}</td><td>{escape(caption.text or NOTHING)}</td><td>"
        f'<span class="clip-bar" aria-hidden="true" style="width:{share:.0f}%"></span>'
        f"{caption.mean_log_probability:.2f}</td></tr>"
    )
