"""The page itself, made with Gradio: what people drop or record at the left, what can be heard in it at the right."""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio

from lavcap.captioning.loading import Options
from lavcap.captioning.records import FORMATS, Record
from lavcap.endings import printable
from lavcap.models.loading import load_model
from lavcap.page import html
from lavcap.page.clips import ClipCaptioner, Shown
from sources_captioning import MediaError


KINDS = {"sound": "audio", "picture": "video"}  # that a visitor may leave out, by the names of modalities
FILES = {"srt": "Subtitles (SRT)", "vtt": "Subtitles (WebVTT)", "json": "All of it (JSON)"}
MOST_CAPTIONS = 8
MOST_MIB = 500  # of a clip
KEPT_SECONDS = 3600  # that uploads are kept
FONT = ("system-ui", "sans-serif")  # of the visitor's machine: nothing is fetched from elsewhere
WIDTH = "70rem"
SAYS = "Drop or record a film, a sound or a picture, and read what can be heard in it. Speech is not written down."
READY = "Nothing captioned yet."


@dataclass(frozen=True)
class Outcome:
    """What is on the page: the windows so far of a file, and how they were asked for."""

    path: Path
    options: Options
    shown: tuple[Shown, ...] = ()


def show(
    name_or_path: str | Path,
    title: str | None = None,
    examples: Sequence[Path] = (),
    device: str | None = None,
    parts_from: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    max_mib: int = MOST_MIB,
    **options: Any,
):
    """Show the page of a model until the process is told to end.

    Args:
        name_or_path, device, parts_from, overrides: as of [`load_model`].
        title: of the page; default: the last part of the model's name.
        examples: media files that visitors may try.
        max_mib: largest clip, in MiB.
        options: of Gradio's `launch`: `server_name`, `server_port`, `share`.
    """
    model, processor = load_model(name_or_path, device, parts_from=parts_from, overrides=overrides)
    page = build_page(ClipCaptioner(model, processor), title or Path(name_or_path).name, examples)
    allowed = [str(path.resolve()) for path in examples]
    address = launch(page, allowed_paths=allowed, max_file_size=max_mib << 20, **options)
    print(f"the page is at {printable(address)}; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def build_page(captioner: ClipCaptioner, title: str, examples: Sequence[Path] = ()) -> gradio.Blocks:
    """The page of a model.

    Args:
        title: what the model is called.
        examples: media files that visitors may try.
    """
    page = _Page(captioner)
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gradio.Markdown(f"# {title}\n\n{SAYS}")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=280):
                page.add_inputs(examples)
            with gradio.Column(scale=3, min_width=280):
                page.add_outputs()
        page.connect()
    return blocks


def launch(blocks: gradio.Blocks, **options: Any) -> str:
    """Serve the page from threads of this process, which must go on; its address."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    theme = gradio.themes.Default(primary_hue="indigo", font=FONT, font_mono=("ui-monospace", "monospace"))
    # Darker than Gradio's own, whose contrast is too low.
    shades = {f"button_primary_background_fill{kind}": "*primary_600" for kind in ("", "_dark")}
    shades["body_text_color_subdued"] = "*neutral_500"
    *_, share = blocks.queue(default_concurrency_limit=None).launch(
        theme=theme.set(**shades),
        css=f".gradio-container {{ max-width: {WIDTH} !important; }}\n{style}",
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        **options,
    )
    return share or blocks.local_url


class _Page:
    """Components of the page, and what they do."""

    def __init__(self, captioner: ClipCaptioner):
        self._captioner = captioner
        self._folder = tempfile.TemporaryDirectory(prefix="captions-")

    def add_inputs(self, examples: Sequence[Path]):
        modalities = self._captioner.processor.modalities
        with gradio.Tabs():
            with gradio.Tab("Film"):
                self.film = gradio.Video(label="Film", sources=["upload", "webcam"], elem_id="film")
            with gradio.Tab("Sound"):
                self.sound = gradio.Audio(label="Sound", type="filepath", sources=["upload", "microphone"])
            with gradio.Tab("Picture"):
                self.picture = gradio.Image(label="Picture or animation", sources=["upload", "webcam", "clipboard"])
                self.picture.preprocess = _file_of  # not decoded by Gradio: errors are told as those of other clips
        with gradio.Row():
            self.run = gradio.Button("Caption", variant="primary")
            self.stop = gradio.Button("Stop", visible=False)
        with gradio.Accordion("Options", open=False):
            taken = [name for name, kind in KINDS.items() if kind in modalities]
            self.taken = gradio.CheckboxGroup(taken, value=taken, label="Take of the clip")
            self.number = gradio.Slider(1, MOST_CAPTIONS, value=3, step=1, label="Captions to consider")
            words = self._captioner.processor.takes_instruction
            self.instruction = gradio.Textbox(label="What to ask (default: as in training)", visible=words)
        self.examples = None
        if examples:
            files = [[str(path)] for path in examples]
            self.examples = gradio.Examples(
                files,
                inputs=self.film,
                label="Films to try",
                example_labels=[path.stem.replace("_", " ") for path in examples],
                cache_examples=False,
            )

    def add_outputs(self):
        self.status = gradio.HTML(html.status(READY))
        self.said = gradio.HTML(js_on_load=html.CHOOSE, apply_default_css=False)
        with gradio.Row():
            self.files = [gradio.DownloadButton(label, visible=False, size="sm") for label in FILES.values()]
        self.details = gradio.HTML(apply_default_css=False)
        self.outcome = gradio.State()

    def connect(self):
        inputs = [self.film, self.sound, self.picture]
        outputs = [self.status, self.stop, self.said, self.details, self.outcome, *self.files]
        hidden = {"show_progress": "hidden", "api_visibility": "private"}
        asked = [*inputs, self.taken, self.number, self.instruction]
        waiting = self.run.click(lambda: html.status("Waiting …"), None, self.status, queue=False, **hidden)
        running = waiting.then(self._caption, asked, outputs, concurrency_limit=1, **hidden)
        stopped = self.stop.click(None, cancels=[running], **hidden)
        stopped.then(self._stop, self.outcome, outputs, concurrency_limit=1, **hidden)
        self.said.select(self._choose, self.outcome, self.details, **hidden)
        for own in inputs:  # the last clip counts: others go, and what was said of them
            others = [each for each in inputs if each is not own]
            gradio.on([own.upload, own.input], self._forget, None, [*others, *outputs], queue=False, **hidden)
        if self.examples:
            self.examples.load_input_event.then(
                self._forget, None, [self.sound, self.picture, *outputs], queue=False, **hidden
            )

    # ----------------------------------------------------------------------------------------------- what they do

    def _caption(
        self,
        film: str | None,
        sound: str | None,
        picture: str | None,
        taken: Sequence[str],
        number: int,
        instruction: str | None,
    ) -> Iterator[list[Any]]:
        """Captions of what is there, window by window."""
        named = film or sound or picture
        kinds = tuple(kind for name, kind in KINDS.items() if name in taken)
        if named is None or not kinds:
            lacks = "Pass a film, a sound or a picture." if named is None else "Take sound, picture, or both."
            yield self._outputs(html.error(lacks), None)
            return
        modalities = None if len(kinds) == len(self._captioner.processor.modalities) else kinds
        outcome = Outcome(Path(named), Options(modalities=modalities))
        yield self._outputs(html.status("Reading …"), outcome)
        begun, told = time.monotonic(), 0
        try:
            for each in self._captioner.caption(outcome.path, outcome.options, int(number), instruction or None):
                outcome = replace(outcome, shown=(*outcome.shown, each))
                if len(outcome.shown) >= told + max(1, told // 20):  # a long list is not sent anew each time
                    told = len(outcome.shown)
                    progress = _progress(outcome.shown, time.monotonic() - begun)
                    yield self._outputs(html.status(f"{outcome.path.name}: {progress}"), outcome)
        except MediaError as error:
            yield self._outputs(html.error(str(error)), outcome, whole=True)
            return
        seconds = time.monotonic() - begun
        yield self._outputs(html.status(f"Done in {seconds:.1f} s: {outcome.path.name}"), outcome, whole=True)

    def _forget(self) -> list[Any]:
        """No other clip, and nothing said."""
        return [None, None, *self._outputs(html.status(READY), None)]

    def _stop(self, outcome: Outcome | None) -> list[Any]:
        """What was captioned when a visitor had enough."""
        return self._outputs(html.status("Stopped."), outcome, whole=True)

    def _choose(self, outcome: Outcome | None, event: gradio.EventData) -> str:
        """What is told of a window that a visitor chose."""
        if outcome is None or not 0 <= event.window < len(outcome.shown):
            return ""
        return self._details(outcome, outcome.shown[event.window].record)

    def _details(self, outcome: Outcome, record: Record) -> str:
        return html.details(record, self._captioner.draw_alignment(outcome.path, record, outcome.options))

    def _outputs(self, status: str, outcome: Outcome | None, whole: bool = False) -> list[Any]:
        """Values of all outputs; details and files once no more windows come."""
        shown = outcome.shown if outcome else ()
        details, files = "", [gradio.DownloadButton(visible=False)] * len(FILES)
        if whole and shown:
            details = self._details(outcome, shown[0].record)
            files = [gradio.DownloadButton(value=path, visible=True) for path in self._write(outcome)]
        running = gradio.Button(visible=outcome is not None and not whole)
        return [status, running, html.said(shown), details, outcome, *files]

    def _write(self, outcome: Outcome) -> list[str]:
        """Files of a clip to take along."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        records = [each.record for each in outcome.shown]
        paths = [folder / f"{outcome.path.stem}.{form}" for form in FILES]
        for path, form in zip(paths, FILES, strict=True):
            path.write_text(FORMATS[form](records), encoding="utf-8")
        return [str(path) for path in paths]


def _file_of(payload: Any) -> str | None:
    return payload and payload.path


def _progress(shown: Sequence[Shown], spent: float) -> str:
    """How far the work is, and how long it will take."""
    last = shown[-1].record
    if not last.duration or last.end is None:
        return f"{len(shown)} captioned …"
    left = spent * max(0.0, last.duration - last.end) / last.end
    return f"{last.end:.0f} of {last.duration:.0f} s captioned, {left:.0f} s left …"
