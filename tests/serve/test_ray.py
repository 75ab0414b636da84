"""Two replicas of the Ray Serve application on one machine: OpenAI's client is answered, also while one is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

pytest.importorskip("ray", reason="the extra [ray] is not installed")
PROGRAM = Path(__file__).parents[2] / "examples/ray_serve.py"
MARK = "CHATSMITH_RAY_TEST"


def replicas(mark: str) -> list[int]:
    """The processes of replicas among those that this test has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, title = (folder.joinpath(name).read_bytes() for name in ("environ", "cmdline"))
        except OSError:  # it is gone, or another's
            continue
        if f"{MARK}={mark}".encode() in environment and title.startswith(b"ray::ServeReplica"):
            found.append(int(folder.name))
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_replicas_answer_and_the_death_of_one_costs_no_answer(bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    mark = uuid.uuid4().hex
    command = [sys.executable, str(PROGRAM), str(bundle), "--min-replicas", "2", "--port", str(port)]
    with tmp_path.joinpath("log").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=log, stderr=log)
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=20)
        deadline = time.monotonic() + 300
        while "/v1" not in tmp_path.joinpath("log").read_text():
            assert server.poll() is None and time.monotonic() < deadline, tmp_path.joinpath("log").read_text()
            time.sleep(0.5)
        assert len(replicas(mark)) == 2
        [model] = client.models.list().data

        def ask(seed: int) -> str:
            body = {"model": model.id, "prompt": [9, 8, 7], "max_tokens": 40, "seed": seed}
            return client.completions.create(**body, extra_body={"ignore_eos": True}).choices[0].text

        stream = client.completions.create(model=model.id, prompt=[9, 8, 7], max_tokens=40, seed=1, stream=True,
                                           extra_body={"ignore_eos": True})  # fmt: skip
        expected = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(ask, 1) for _ in range(64)]
            waiting[4].result()
            os.kill(replicas(mark)[0], signal.SIGKILL)
            assert {one.result() for one in waiting} == {expected}
        while len(replicas(mark)) < 2:  # Ray starts another
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        server.terminate()
        assert server.wait(120) == 0
    assert not replicas(mark)
