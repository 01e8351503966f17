"""The page in a real browser: what is dropped is captioned, by mouse, by keyboard, on a telephone, and read aloud."""

import json
import shutil
import threading
from itertools import islice
from pathlib import Path

import pytest
from clock_films import write_clock
from media_files import write_media
from PIL import Image

from lavcap.captioning.loading import Options
from lavcap.captioning.records import clock, to_srt
from sources_captioning import MediaError


gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

from lavcap.page.app import build_page, launch  # noqa: E402 (needs Gradio)
from lavcap.page.clips import ClipCaptioner  # noqa: E402


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
# Of Gradio's own buttons, whose names for screen readers are not what they show.
GRADIOS = {"label-content-name-mismatch"}
# A camera and a microphone that Chromium makes up, and leave to use them.
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
TELEPHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_media(folder / "short.mp4", seconds=processor.window / 2)
    write_clock(folder / "long.mp4", 3 * processor.window)
    write_media(folder / "tone.wav", seconds=processor.window / 2, audio="pcm_s16le", video=None)
    Image.new("RGB", (64, 48), "red").save(folder / "still.png")
    for name in ("broken.mp4", "broken.wav", "broken.png"):
        (folder / name).write_bytes(b"no media at all" * 100)
    return folder


@pytest.fixture(scope="module")
def captioner(model, processor) -> ClipCaptioner:
    return ClipCaptioner(model, processor)


@pytest.fixture(scope="module")
def address(captioner, clips):
    blocks = build_page(captioner, "A captioner", [clips / "short.mp4", clips / "long.mp4"])
    yield launch(blocks, server_name="127.0.0.1", allowed_paths=[str(clips)])
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *CAMERA])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """The page, which must say no error in the console and ask no other machine for anything."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    faults: list[str] = []
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(LOCAL) else None)
    page.on("filechooser", lambda chooser: None)  # intercepted from now on, and not too late for the first
    page.goto(address)
    page.get_by_role("button", name="Caption", exact=True).wait_for()
    yield page
    assert faults == []
    page.close()


LOCAL = ("http://127.0.0.1", "http://localhost", "data:", "blob:")


def upload(page, path: Path, tab: str = "Film"):
    page.get_by_role("tab", name=tab).click()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Click to Upload").filter(visible=True).click()
    with page.expect_response(lambda answer: "/upload" in answer.url):
        chooser.value.set_files(path)
    page.get_by_text("Click to Upload").filter(visible=True).wait_for(state="detached")


def caption(page):
    page.get_by_role("button", name="Caption", exact=True).click()
    page.get_by_role("status").filter(has_text="Done in").wait_for()


def expected(captioner: ClipCaptioner, path: Path, **options) -> list:
    return list(captioner.caption(path, Options(**options), 3, None))


@pytest.mark.parametrize(("name", "tab"), [("short.mp4", "Film"), ("tone.wav", "Sound"), ("still.png", "Picture")])
def test_what_is_uploaded_is_captioned(page, captioner, clips, name, tab):
    upload(page, clips / name, tab)
    caption(page)
    (shown,) = expected(captioner, clips / name)
    assert page.locator(".clip-caption").inner_text() == shown.record.caption
    sense = {"Film": "sound and picture", "Sound": "sound alone", "Picture": "picture alone"}[tab]
    assert sense in page.locator(".clip-meta").inner_text()
    scores = page.locator(".clip-beams tbody tr td:last-child").all_inner_texts()
    assert [float(score) for score in scores] == [
        round(each.mean_log_probability, 2) for each in shown.record.captions
    ]
    assert page.locator(".clip-plan img").count() == (tab == "Film")


def test_a_long_clip_stands_on_a_time_line(page, captioner, clips, tmp_path):
    upload(page, clips / "long.mp4")
    caption(page)
    shown = expected(captioner, clips / "long.mp4")
    cues = page.locator(".clip-windows button")
    assert cues.count() == len(shown) == page.locator(".clip-strip > div").count() > 2
    assert [text.split("\n")[-1] for text in cues.all_inner_texts()] == [each.record.caption for each in shown]
    second = shown[1].record
    cues.nth(1).click()
    page.locator(".clip-beams caption").filter(has_text=f"{clock(second.start)} to {clock(second.end)}").wait_for()
    assert cues.nth(1).get_attribute("aria-pressed") == "true" and cues.nth(0).get_attribute("aria-pressed") == "false"
    assert page.locator(".clip-beams tbody tr").nth(0).locator("td").nth(1).inner_text() == second.caption
    assert page.evaluate("document.querySelector('#film video').currentTime") == pytest.approx(second.start, abs=0.1)
    for label, read in (("Subtitles (SRT)", str), ("All of it (JSON)", json.loads)):
        with page.expect_download() as download:
            page.get_by_text(label).click()
        download.value.save_as(tmp_path / "taken")
        content = read((tmp_path / "taken").read_text(encoding="utf-8"))
        records = [each.record for each in shown]
        assert content == (to_srt(records) if read is str else [record.as_object() for record in records])


@pytest.mark.parametrize(("name", "tab"), [("broken.mp4", "Film"), ("broken.png", "Picture")])
def test_a_broken_file_is_told_in_one_line_and_the_next_one_is_captioned(page, captioner, clips, name, tab):
    upload(page, clips / name, tab)
    page.get_by_role("button", name="Caption", exact=True).click()
    told = page.locator(".clip-error")
    told.wait_for()
    assert told.inner_text().startswith(f"{name}: not readable as media") and "\n" not in told.inner_text()
    page.get_by_role("tab", name="Film").click()
    page.get_by_role("button", name="short").click()  # an example, which takes the place of what was there
    told.wait_for(state="detached")
    caption(page)
    (shown,) = expected(captioner, clips / "short.mp4")
    assert page.locator(".clip-caption").inner_text() == shown.record.caption
    assert told.count() == 0


def test_what_is_recorded_is_captioned(page):
    """By a browser, whose films have no length in their headers."""
    page.locator("#film").get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    record = page.get_by_role("button", name="start recording")
    record.click()
    record.filter(has_text="Stop").wait_for()
    page.wait_for_timeout(2000)
    with page.expect_response(lambda answer: "/upload" in answer.url):
        record.click()
    page.get_by_role("button", name="Clear").wait_for()
    caption(page)
    assert "picture" in page.locator(".clip-meta").inner_text()
    page.get_by_role("tab", name="Sound").click()
    page.get_by_role("button", name="Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(2000)
    with page.expect_response(lambda answer: "/upload" in answer.url):
        page.get_by_role("button", name="Stop").filter(visible=True).click()
    page.locator(".clip-meta").wait_for(state="detached")
    caption(page)
    assert page.locator(".clip-meta").inner_text().startswith("From sound alone")


def test_what_was_said_of_a_clip_goes_with_it(page, clips):
    upload(page, clips / "long.mp4")
    caption(page)
    upload(page, clips / "tone.wav", "Sound")
    page.locator(".clip-windows").wait_for(state="detached")
    caption(page)
    assert page.locator(".clip-meta").inner_text().startswith("From sound alone")


def test_nothing_at_all_is_told(page):
    page.get_by_role("button", name="Caption", exact=True).click()
    page.get_by_role("alert").filter(has_text="Pass a film, a sound or a picture.").wait_for()


def test_options_are_those_of_the_command(page, captioner, clips):
    page.get_by_role("button", name="short").click()
    page.locator("#film video").wait_for()
    page.get_by_role("button", name="Options").click()
    page.get_by_role("checkbox", name="picture").click()
    page.get_by_role("spinbutton").fill("2")
    page.get_by_role("spinbutton").press("Tab")
    caption(page)
    (shown,) = list(captioner.caption(clips / "short.mp4", Options(modalities=("audio",)), 2, None))
    assert page.locator(".clip-caption").inner_text() == shown.record.caption
    assert "sound alone" in page.locator(".clip-meta").inner_text()
    assert page.locator(".clip-beams tbody tr").count() == 2


def test_it_is_used_by_keyboard_alone(page, captioner, clips):
    def go_to(selector: str):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no way by Tab to {selector}")

    go_to("button[aria-label*='upload']")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(clips / "long.mp4")
    page.locator("#film video").wait_for()
    go_to("button.primary")
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="Done in").wait_for()
    go_to(".clip-windows li:nth-child(2) button")
    page.keyboard.press("Enter")
    page.locator(".clip-beams caption").filter(has_text=f" {clock(captioner.processor.window)} to").wait_for()
    assert page.evaluate("document.activeElement.matches('.clip-windows li:nth-child(2) button')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_screen_readers_and_on_a_telephone(page, clips, scheme):
    page.emulate_media(color_scheme=scheme)
    page.reload()
    page.get_by_role("button", name="Caption", exact=True).wait_for()
    assert _violations(page) <= GRADIOS
    upload(page, clips / "long.mp4")
    page.get_by_role("button", name="Options").click()
    caption(page)
    page.locator(".clip-plan img").wait_for()
    assert _violations(page) <= GRADIOS
    page.set_viewport_size(TELEPHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"]
    wide = "[...document.querySelectorAll('.clip-windows button, .clip-beams, .clip-plan img, button')]"
    assert page.evaluate(f"{wide}.every(each => each.getBoundingClientRect().right <= {TELEPHONE['width']})")


def _violations(page) -> set[str]:
    return {fault["id"] for fault in axe.Axe().run(page).response["violations"]}


def test_two_visitors_at_once_have_their_own_captions(browser, address, captioner, clips):
    pages = [browser.new_page() for _ in range(2)]
    for page, name in zip(pages, ("short", "long"), strict=True):
        page.goto(address)
        page.get_by_role("button", name=name).click()
        page.locator("#film video").wait_for()
    for page in pages:
        page.get_by_role("button", name="Caption", exact=True).click()
    for page in pages:
        page.get_by_role("status").filter(has_text="Done in").wait_for()
    counts = [page.locator(".clip-windows button").count() for page in pages]
    assert counts == [0, len(expected(captioner, clips / "long.mp4"))]
    for page in pages:
        page.close()


def test_a_clip_that_breaks_off_keeps_what_was_captioned(page, captioner, clips, monkeypatch):
    windows = captioner.processor.load_windows

    def broken(*arguments, **options):
        yield from islice(windows(*arguments, **options), 2)
        raise MediaError(f"{arguments[0]}: breaks off after two windows; copy it again.")

    monkeypatch.setattr(captioner.processor, "load_windows", broken)
    page.get_by_role("button", name="long").click()
    page.locator("#film video").wait_for()
    page.get_by_role("button", name="Caption", exact=True).click()
    page.get_by_role("alert").filter(has_text="long.mp4: breaks off after two windows; copy it again.").wait_for()
    assert page.locator(".clip-windows button").count() == 2
    page.get_by_text("Subtitles (SRT)").wait_for()


def test_the_page_stops(page, clips, captioner, monkeypatch):
    go_on = threading.Event()
    write = captioner._captioned

    def wait(*arguments):
        yield from write(*arguments)
        go_on.wait(20)

    monkeypatch.setattr(captioner, "_captioned", wait)
    page.get_by_role("button", name="long").click()
    page.locator("#film video").wait_for()
    page.get_by_role("button", name="Caption", exact=True).click()
    page.locator(".clip-caption").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("status").filter(has_text="Stopped.").wait_for()
    go_on.set()
    assert page.locator(".clip-caption").count() == 1  # of the window that was there
    page.get_by_text("Subtitles (SRT)").wait_for()
