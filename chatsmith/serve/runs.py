"""What the training page at /runs reads, and who is told when a run ends, fails or needs a look.

The page itself is a file like the chat's; what it shows stands behind the same keys. Nothing is read unless someone
looks, or is to be told.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response

from chatsmith.report.run_facts import Facts
from chatsmith.report.watch import RunWatcher, WatchedRuns
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle, run_of
from chatsmith.serve.errors import ApiError
from chatsmith.serve.log import log_event
from chatsmith.serve.page import HEADERS

LOOK_SECONDS = 5.0
"""Between two looks at the runs, for those who are to be told."""
STOPPED_LOOKS = 3
"""So many times in a row a run is found stopped before it counts as failed."""
SEND_SECONDS = 20.0


class Runs:
    """The runs that the page shows. `models` are those that this server answers with, path by name; `notify` is a
    command, or an http(s) address."""

    def __init__(self, watched: WatchedRuns, models: Mapping[str, Path], notify: str = "") -> None:
        self._watched = watched
        self._models = models
        self._notify = notify
        self._lock = asyncio.Lock()
        self._seen: dict[str, Facts] = {}

    def add_routes(self, router: APIRouter) -> None:
        """What the page asks for, on a router that checks keys."""

        @router.get("/runs/list", include_in_schema=False)
        async def list_runs() -> Response:
            async with self._lock:
                return JSONResponse({"runs": await asyncio.to_thread(self._summaries)})

        @router.get("/runs/data", include_in_schema=False)
        async def show(run: str, since: str = "", version: str = "") -> Response:
            async with self._lock:
                return JSONResponse(await asyncio.to_thread(self._facts, run, since, version))

        @router.get("/runs/report", include_in_schema=False)
        async def report(run: str) -> Response:
            page = self._find(run).run.path / "report.html"
            if not page.is_file():
                raise ApiError(404, "This run has no report yet.", code="not_found")
            return FileResponse(page, media_type="text/html", headers=HEADERS)

    def _find(self, name: str) -> RunWatcher:
        if name not in self._watched.by_name:
            raise ApiError(404, f"There is no run {name[:100]!r} here.", code="not_found")
        return self._watched.by_name[name]

    def _summaries(self) -> list[Facts]:
        self._watched.refresh()
        found = []
        for watcher in self._watched.by_name.values():
            with contextlib.suppress(UserError, OSError):  # it was moved away just now
                watcher.refresh()
                found.append({**watcher.summary(), "is_served": bool(self._served(watcher))})
        return found

    def _facts(self, name: str, since: str, version: str) -> Facts:
        watcher = self._find(name)
        try:
            watcher.refresh()
        except (UserError, OSError) as error:
            raise ApiError(404, f"The run {name} is no longer there.", code="not_found") from error
        return {**watcher.facts(since, version), "models": self._served(watcher)}

    def _served(self, watcher: RunWatcher) -> dict[str, str]:
        """The models of a run that one can talk to here, by stage."""
        models: dict[str, str] = {}
        for served, path in self._models.items():
            with contextlib.suppress(UserError, OSError):
                origin = run_of(resolve_bundle(path))
                if origin and origin[0].path.samefile(watcher.run.path):
                    models[origin[1]] = served
        return models

    async def tell(self) -> None:
        """Look every few seconds, and tell whoever is to be told of what happened since."""
        while self._notify:
            async with self._lock:
                events = await asyncio.to_thread(self._events)
            for event in events:
                try:
                    await asyncio.to_thread(send, self._notify, event)
                    log_event("notified", run=event["run"], what=event["event"])
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    log_event("notify_failed", level="warning", run=event["run"], error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def _events(self) -> list[Facts]:
        """What happened to the runs since the last look: `ended`, `failed` or `alarm`, in words."""
        events: list[Facts] = []
        for summary in self._summaries():
            name, state = summary["name"], summary["state"]
            kind, alarms = state["kind"], state["alarms"]
            seen = self._seen.setdefault(name, {"ran": kind == "running", "stopped": 0, "alarms": {}})
            seen["stopped"] = seen["stopped"] + 1 if kind == "stopped" else 0
            has_failed = seen["ran"] and seen["stopped"] == STOPPED_LOOKS
            at = f"{state['stage']}, step {state['step']:,}"
            told = [
                ("alarm", f"{at}: {words}") for what, words in alarms.items() if what not in seen["alarms"]
            ]
            told += [("failed", f"stopped at {at}: {state['reason']}")] if has_failed else []
            told += [("ended", "done")] if seen["ran"] and kind == "done" else []
            seen["ran"] = kind == "running" or (seen["ran"] and kind == "stopped" and not has_failed)
            seen["alarms"] = alarms
            events += [{"event": event, "run": name, "text": f"{name}: {words}"} for event, words in told]
        return events


def send(target: str, event: Mapping[str, str]) -> None:
    """Post an event to an address, or hand it to a command: the text on its standard input, and in its environment as
    RUN_TEXT with RUN_EVENT and RUN_NAME. Raises what goes wrong there."""
    if target.startswith(("http://", "https://")):
        body = json.dumps(event).encode("utf-8")
        request = urllib.request.Request(target, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=SEND_SECONDS).close()
        return
    named = {"RUN_EVENT": event["event"], "RUN_NAME": event["run"], "RUN_TEXT": event["text"]}
    environment, text = {**os.environ, **named}, f"{event['text']}\n".encode()
    # Its output does not go where this process writes its log for programs.
    quiet = subprocess.DEVNULL
    subprocess.run(
        target, shell=True, check=True, env=environment, input=text, stdout=quiet, timeout=SEND_SECONDS
    )
