"""An exported folder behind `transformers serve` answers OpenAI's protocol with MindVL's own words."""

import contextlib
import io
import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from mindvl.cli.main import main
from mindvl.phases.answering import Prompt, load_answerer
from mindvl.phases.decoding import Decoding

START_S = 240
ASK = """
import base64, json, sys
from openai import OpenAI

address, model, question, *pictures = sys.argv[1:]
images = [f"data:image/png;base64,{base64.b64encode(open(file, 'rb').read()).decode()}" for file in pictures]
content = [{"type": "image_url", "image_url": {"url": image}} for image in images]
messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
client = OpenAI(base_url=address, api_key="none")
said = client.chat.completions.create(model=model, messages=messages, max_tokens=24, temperature=0.0)
print(json.dumps({"text": said.choices[0].message.content, "prompt_tokens": said.usage.prompt_tokens}))
"""


@pytest.fixture(scope="module")
def exported(saved_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "hf"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["export", str(saved_model), str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def address(harness_environment, exported, tmp_path_factory):
    """The base URL of a server that has the folder loaded."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        exported,
        "--port",
        port,
        "--device",
        "cpu",
    ]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen([str(word) for word in command], env=harness_environment, stdout=file, stderr=file)
    try:
        stop = time.monotonic() + START_S
        while not _is_healthy(port):
            assert server.poll() is None and time.monotonic() < stop, log.read_text()
            time.sleep(0.5)
        yield f"http://localhost:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("sizes", [((56, 140),), ((84, 28), (60, 97)), ()], ids=["one", "two", "none"])
def test_an_endpoint_of_the_exported_folder_gives_mindvls_greedy_text(
    sizes, address, exported, saved_model, harness_environment, conversation, tmp_path
):
    messages, images = conversation("read the text.", None, sizes, seed=1)
    (answer,) = load_answerer(saved_model).answer([Prompt(messages, tuple(images))], Decoding(max_new_tokens=24))
    files = [tmp_path / f"{number}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    command = [sys.executable, "-c", ASK, address, exported, "read the text.", *files]
    asked = subprocess.run(command, env=harness_environment, capture_output=True, text=True, timeout=300)
    assert asked.returncode == 0, asked.stderr
    said = json.loads(asked.stdout)
    assert said["text"] == answer.text and len(answer.text) > 5
    assert said["prompt_tokens"] > answer.visual_tokens
