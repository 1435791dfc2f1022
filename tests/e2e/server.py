"""A real ComfyUI server on the CPU, and prompts sent to it over HTTP."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

START_SECONDS, RUN_SECONDS = 240, 240
PACK = Path(__file__).parents[2]


class PromptRefused(Exception):
    """The server did not accept a prompt."""


class ExecutionFailed(Exception):
    """A node raised; the text is its message."""


class Graph(dict):
    """A prompt in API format, built node by node."""

    def add(self, class_type, /, **inputs):
        """Add a node; an input may be a node (its first output) or `node[index]`. Inputs of a dynamic combo are given
        as name__inner.
        """
        node = Node(str(len(self) + 1))
        links = {
            name.replace("__", "."): value[0] if isinstance(value, Node) else value for name, value in inputs.items()
        }
        self[node.id] = {"class_type": class_type, "inputs": links}
        return node


class Node:
    def __init__(self, id):
        self.id = id

    def __getitem__(self, output):
        return [self.id, output]


class Server:
    """`base` is ComfyUI's base directory: models, inputs and outputs. options: of the host's command line."""

    def __init__(self, comfyui, python, base, pack=PACK, extra_packs=(), options=("--preview-method", "auto")):
        self.comfyui, self.python, self.base, self.port = comfyui, python, Path(base), free_port()
        (self.base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        for folder in (pack, *extra_packs):
            (self.base / "custom_nodes" / folder.name).symlink_to(folder, target_is_directory=True)
        self.arguments = f"--cpu --listen 127.0.0.1 --port {self.port} --disable-auto-launch".split()
        database = f"sqlite:///{self.base / 'comfyui.db'}"
        self.arguments += ["--base-directory", str(self.base), "--database-url", database, *options]
        self.start()

    def start(self):
        """Start the process, at first and after `stop` or `kill`."""
        with (self.base / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [self.python, "main.py", *self.arguments], cwd=self.comfyui, stdout=log, stderr=subprocess.STDOUT
            )
        self._wait_until_up()

    def kill(self):
        """As kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def output(self):
        """What the server has printed."""
        return (self.base / "server.log").read_text(errors="replace")

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as response:
            return json.load(response)

    def post(self, path, content):
        """Send JSON. Returns the bytes of the answer."""
        address, body = f"http://127.0.0.1:{self.port}{path}", json.dumps(content).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def queue(self, graph, client_id="test"):
        """Send a prompt. Returns its id."""
        try:
            return json.loads(self.post("/prompt", {"prompt": graph, "client_id": client_id}))["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRefused(error.read().decode()) from error

    def run(self, graph, client_id="test"):
        """Send a prompt and wait for it. Returns the outputs by node id."""
        prompt_id = self.queue(graph, client_id)
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return self._outputs(history[prompt_id])
            time.sleep(0.05)
        raise TimeoutError(f"a prompt took more than {RUN_SECONDS} s")

    def _outputs(self, entry):
        for kind, details in entry["status"]["messages"]:
            if kind == "execution_error":
                raise ExecutionFailed(details["exception_message"].strip())
        return entry["outputs"]

    def files(self, graph, node):
        """Run a graph; paths of the files that one of its nodes has saved."""
        saved = self.run(graph)[node.id]
        entries = next(value for key, value in saved.items() if key in ("images", "latents"))
        return [self.base / entry["type"] / entry["subfolder"] / entry["filename"] for entry in entries]

    def pictures(self, graph, image):
        """Run a graph and save what an IMAGE output holds: (B, H, W, 3), uint8."""
        return np.stack(
            [
                np.asarray(Image.open(path).convert("RGB"))
                for path in self.files(graph, graph.add("SaveImage", images=image, filename_prefix="p"))
            ]
        )

    def latents(self, graph, latent):
        """Run a graph and save what a LATENT output holds: (B, 32, h, w), raw."""
        (path,) = self.files(graph, graph.add("SaveLatent", samples=latent, filename_prefix="l"))
        return load_file(path)["latent_tensor"].to(torch.float32)

    def _wait_until_up(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.output()[-3000:]}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start within {START_SECONDS} s:\n{self.output()[-3000:]}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
