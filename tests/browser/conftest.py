"""A real server with the tiny model, a real Chromium, and the page between them.

Where there is no browser, or the page is not built, these tests are skipped and say so. Whatever a test does, the page
must raise no error, break no policy and ask nothing of any other server; `page` checks that when the test ends.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "chatsmith" / "serve" / "static"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
START_SECONDS = 300  # on a busy machine it takes as long as it takes
TIMEOUT_SECONDS = 45  # on a busy machine everything comes, but late

# Stands between the page and the network: holds a stream, or breaks it off, as a bad connection would.
# It counts events, because on a busy machine many of them come in one read. A test that does something while a reply is
# written lets it be held until that is done, `holds(request, event)`, both counted from 1: no delay is long enough for
# every machine. The tiny model ends at random: `endless` replies, and those of a given length, are as long as they may
# be.
NETWORK = """
window.network = { cutAfter: Infinity, endless: false, holds: () => false, requests: 0 };
const plainFetch = window.fetch;
window.fetch = async (input, init) => {
  if (!String(input).includes("chat/completions")) return plainFetch(input, init);
  const body = JSON.parse(init.body);
  body.ignore_eos = window.network.endless || "max_completion_tokens" in body;
  const response = await plainFetch(input, { ...init, body: JSON.stringify(body) });
  if (!response.ok) return response;
  let left = window.network.cutAfter;
  let event = 0;
  const request = ++window.network.requests;
  const wire = new TransformStream({
    async transform(bytes, controller) {
      const events = new TextDecoder("latin1").decode(bytes).split(/(?<=\\n\\n)/); // a character for each byte
      for (let index = 0, at = 0; index < events.length; index++) {
        event += 1;
        while (window.network.holds(request, event) && !init.signal?.aborted) {
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        if (left-- <= 0) {
          // Breaking off takes along what was not read yet.
          while (controller.desiredSize < 0) await new Promise((resolve) => setTimeout(resolve, 10));
          throw new TypeError("network error");
        }
        controller.enqueue(bytes.subarray(at, (at += events[index].length)));
      }
    },
  });
  return new Response(response.body.pipeThrough(wire), response);
};
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("browser")
    group.addoption("--screenshots", type=Path, help="keep screenshots of the main views in this folder")
    group.addoption("--demo-run", type=Path, help="take them with this run's model instead of the tiny one")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium: Playwright's own, else the system's."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not (STATIC / "index.html").is_file():
        pytest.skip("the web chat is not built: make web")
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        system = next(filter(None, map(shutil.which, BROWSERS)), None)
        if not own.is_file() and system is None:
            pytest.skip("no browser: playwright install chromium, or apt install chromium")
        launched = playwright.chromium.launch(executable_path=None if own.is_file() else system)
        yield launched
        launched.close()


class Server:
    """A `chatsmith serve` or `watch` process. `address` ends with a slash."""

    def __init__(self, arguments: list[str], environment: dict[str, str], command: str = "serve") -> None:
        port = [] if "--port" in arguments else ["--port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatsmith", command, *arguments, *port],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        entry = next((json.loads(line) for line in self.process.stdout if '"listening"' in line), None)
        assert entry is not None, "the server ended before it listened"
        self.address = entry["url"].rstrip("/") + "/"
        # Its log must be read on, or the full pipe would block it.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def wait_until_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(self.address + "v1/models", timeout=5).close()
                return
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return
            time.sleep(0.1)
        raise AssertionError("the model was not ready in time")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def start_server(
    browser, subprocess_environment: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Server]]:
    """Starts servers, and ends them after the tests. Depends on the browser: without one, none is needed."""
    started: list[Server] = []
    run = request.config.getoption("--demo-run", default=None) or request.getfixturevalue("tiny_run")

    def start(*arguments: str) -> Server:
        started.append(Server([str(run), *arguments], subprocess_environment))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    """The server that most tests share."""
    server = start_server()
    server.wait_until_ready()
    return server


class Chat:
    """The page, as someone uses it. `page` is Playwright's."""

    def __init__(self, page, address: str) -> None:
        self.page = page
        self.address = address
        self.message = page.get_by_role("textbox", name="Message", exact=True)
        self.replies = page.locator(".reply")
        self.last = page.locator(".reply.is-last")

    def open(self, path: str = "") -> "Chat":
        self.page.goto(self.address + path)
        self.page.locator(".model-picker.is-ready").wait_for()
        return self

    def say(self, text: str) -> None:
        """Send a message, and wait for the reply to be over."""
        before = self.page.locator(".said").count()
        self.message.fill(text)
        self.page.get_by_role("button", name="Send").click()
        self.page.locator(".said").nth(before).wait_for()
        self.wait()

    def wait(self) -> None:
        """Until no reply is being written."""
        self.last.wait_for()
        self.page.get_by_role("button", name="Stop", exact=True).wait_for(state="detached")

    def wait_for_all(self) -> None:
        """Until no reply is being written, of several at once."""
        self.last.first.wait_for()
        self.page.locator(".reply.is-writing").first.wait_for(state="detached")
        self.page.get_by_role("button", name="Stop", exact=True).wait_for(state="detached")

    def until(self, condition: str) -> None:
        """Until an expression is true on the page. (Playwright's own way needs eval, which the policy forbids.)"""
        until = time.monotonic() + TIMEOUT_SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < until, f"never happened: {condition}"
            self.page.wait_for_timeout(20)

    def reads(self, locator, *texts: str) -> None:
        """Until these are the texts of what `locator` finds. (An element that was not drawn yet has no inner text.)"""
        from playwright.sync_api import expect

        expect(locator).to_have_text(list(texts), timeout=TIMEOUT_SECONDS * 1000)

    def has_said(self, *texts: str) -> None:
        """Until these are the messages that the person sees to have sent."""
        self.reads(self.page.locator(".bubble"), *texts)

    def text(self) -> str:
        """What the last reply says."""
        return "\n".join(
            self.last.locator(".reply-body > :is(.markdown, .tool-card, .silent)").all_inner_texts()
        )

    def button(self, name: str):
        """A button of the last reply."""
        return self.last.get_by_role("button", name=name, exact=True)

    def begin(self) -> None:
        """Begin a new conversation."""
        self.page.get_by_role("button", name="New conversation").first.click()
        self.page.get_by_text("Say something to your model").wait_for()

    def holds(self, locator, value: str) -> None:
        """Until this is the value of a field. (What is kept comes a little after the field.)"""
        from playwright.sync_api import expect

        expect(locator).to_have_value(value, timeout=TIMEOUT_SECONDS * 1000)

    def act(self, name: str) -> None:
        """Do something from the menu of the last reply, with the keyboard."""
        self.button("Actions for this reply").focus()
        self.page.keyboard.press("Enter")
        self.choose(name)

    def choose(self, name: str) -> None:
        """Press an item of the open menu, once the menu has the focus: it takes it as it opens."""
        self.until("document.activeElement.matches('[role=menuitem]')")
        self.page.get_by_role("menuitem", name=name, exact=True).focus()
        self.page.keyboard.press("Enter")

    def set_up(self, settings: dict[str, float]) -> None:
        """Enter numbers in the settings sheet, by their labels."""
        folded = self.page.get_by_role("button", name="Prompt and settings")
        if folded.is_visible():
            folded.click()
            self.page.get_by_role("menuitem", name="Settings").click()
        else:
            self.page.get_by_role("button", name="Settings", exact=True).click()
        for label, value in settings.items():
            field = self.page.get_by_role("spinbutton", name=label, exact=True)
            field.fill(str(value))
            field.press("Tab")
        self.page.get_by_role("button", name="Close settings").click()

    def answer_with(self, *deltas: dict) -> None:
        """The next replies are these deltas, as the server would stream them."""

        def event(delta: dict, finish: str | None = None) -> str:
            said = {name: value for name, value in delta.items() if name != "chatsmith"}
            choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}
            choice |= {"chatsmith": delta["chatsmith"]} if "chatsmith" in delta else {}
            return f"data: {json.dumps({'choices': [choice]})}\n\n"

        body = "".join(event(delta) for delta in deltas) + event({}, "stop") + "data: [DONE]\n\n"
        self.page.route(
            "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body)
        )


def requests_of(chat: Chat) -> list[dict]:
    """The bodies of the requests for replies, filled as they are sent."""
    sent: list[dict] = []
    chat.page.on(
        "request", lambda asked: sent.append(asked.post_data_json) if "completions" in asked.url else None
    )
    return sent


@pytest.fixture
def new_page(browser, request: pytest.FixtureRequest) -> Iterator[Callable]:
    """Opens pages in browsers of their own, and checks in the end that they did nothing they must not."""
    contexts = []
    wrong: list[str] = []

    def make(address: str, **options):
        # A service worker would answer before the test can; what moves would cost the test machine much.
        context = browser.new_context(**{"service_workers": "block", "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        context.add_init_script(NETWORK)
        page = context.new_page()
        page.complaints = wrong
        page.set_default_timeout(TIMEOUT_SECONDS * 1000)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "console",
            # That a request failed is logged by the browser itself; the page deals with it.
            lambda entry: (
                wrong.append(f"console: {entry.text}")
                if entry.type == "error" and "Failed to load resource" not in entry.text
                else None
            ),
        )
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith((address, "blob:", "data:"))
                else wrong.append(f"request: {asked.url}")
            ),
        )
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def chat(new_page: Callable, server: Server) -> Chat:
    """The page, opened on a desktop, with the model ready and nothing stored."""
    return Chat(new_page(server.address), server.address).open()


@pytest.fixture
def shoot(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Takes screenshots of a page, light and dark, into the folder that `--screenshots` names; else one, to see that
    there is something."""
    kept = request.config.getoption("--screenshots", default=None)

    def take(chat: Chat, name: str, **options) -> None:
        for scheme in ("light", "dark") if kept else ("dark",):
            chat.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            if kept:
                chat.page.wait_for_timeout(400)  # what fades has begun to
                chat.until(
                    "document.getAnimations().every(({ playState, effect }) => "
                    "playState !== 'running' || effect.getTiming().iterations === Infinity)"
                )
            picture = chat.page.screenshot(path=(kept or tmp_path) / f"{name}-{scheme}.png", **options)
            assert len(picture) > 10_000, "an empty page makes a smaller picture"

    return take


@pytest.fixture(scope="session")
def watch(browser, subprocess_environment: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """Starts `chatsmith watch` on runs, and ends it after the tests."""
    if not (STATIC / "runs.html").is_file():
        pytest.skip("the training page is not built: make web")
    started: list[Server] = []

    def start(*arguments: object) -> Server:
        started.append(Server(list(map(str, arguments)), subprocess_environment, command="watch"))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def watched(watch: Callable[..., Server], two_runs: Path) -> Server:
    """The watching of `two_runs` that most tests share."""
    return watch(two_runs)


@pytest.fixture(scope="session")
def two_runs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished tiny run, and one that was stopped in pretraining, with 400 steps made up."""
    folder = tmp_path_factory.mktemp("watched") / "runs"
    shutil.copytree(tiny_run, folder / "done")
    stopped = folder / "stopped"
    stopped.mkdir()
    shutil.copytree(tiny_run / "data", stopped / "data")
    recipe = (tiny_run / "recipe.toml").read_text()
    (stopped / "recipe.toml").write_text(recipe.replace("seed = 1", "seed = 7"))
    rows = [
        {"stage": "pretrain", "step": n, "steps": 1000, "time": 1e9 + n, "seconds": n, "tokens": n * 1000}
        | {"loss": 3 + 5 / n, "rate": min(1, n / 20), "tokens_per_second": 1000.0, "share_of_peak": 0.4}
        for n in range(1, 401)
    ]
    for step, bpb, word in ((100, 2.0, ""), (200, 1.5, " rather"), (300, 1.25, " Paris")):
        row = {"stage": "pretrain", "step": step, "time": 1e9 + step, "bpb": bpb, "sample": "Once <b>upon"}
        said = [[7, word, -0.1, [[7, word, -0.1], [9, " <i>big", -2.5]]], [8, [226, 130], -1.0, []]]
        rows.append(row | ({"samples": [{"prompt": "The capital is", "tokens": said}]} if word else {}))
    rows.sort(key=lambda row: row["step"])
    (stopped / "pretrain" / "steps" / "000300").mkdir(parents=True)
    (stopped / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (stopped / "run.log").write_text(
        "pretrain 39 %\rpretrain 40 %\nchatsmith: the disk is full; free space\n"
    )
    return folder
