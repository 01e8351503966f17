"""A saved folder works on its own: loaded by the Auto classes in a process that does not know this project."""

import json
import subprocess
import sys

import numpy as np


STRANGER = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in PROJECT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

PROJECT = {"lavcap"} | {
    f"{name}_lavcap"
    for name in ("configuration", "media", "modeling", "parts", "processing", "transport", "weights")
}
sys.meta_path.insert(0, Absent())

import numpy as np
from transformers import AutoModel, AutoProcessor

folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
inputs = processor(audio=np.sin(np.arange(6000, dtype=np.float32)), videos=np.full((5, 16, 16, 3), 90, np.uint8))
captions = processor.decode_captions(model.generate(**inputs), inputs)
total = model(**inputs).logits.sum().item()
print(json.dumps({"class": type(model).__module__, "captions": captions, "logits": total}))
"""


def test_a_stranger_gets_the_same_logits_and_captions(saved_model, model, processor, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(saved_model)], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    inputs = processor(audio=np.sin(np.arange(6000, dtype=np.float32)), videos=np.full((5, 16, 16, 3), 90, np.uint8))
    assert found["class"].startswith("transformers_modules.")
    assert found["captions"] == processor.decode_captions(model.generate(**inputs), inputs)
    assert abs(found["logits"] - model(**inputs).logits.sum().item()) < 1e-3
