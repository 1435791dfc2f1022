"""NVIDIA's verifier, asked over stdin and stdout. Run by its path, by a Python with transformers 4.46:

    python -u nvila_process.py FOLDER

It needs nothing of this pack. Each line is a JSON object. First it says {"ready": true}. Then it reads
{"picture": PNG in base64, "text": what to ask} and answers {"answer": text, "yes": logit, "no": logit}, or
{"error": text}. It ends when stdin does.
"""

import base64
import io
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path = [folder for folder in sys.path if folder != HERE]  # its select.py is not Python's


def main(folder):
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the model's own code prints is no answer

    def answer(**values):
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        ask = loaded(folder)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        return 1
    answer(ready=True)
    for line in sys.stdin:
        try:
            answer(**ask(json.loads(line)))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")
    return 0


def loaded(folder):
    """The model in a folder, as a function question -> answer."""
    import torch
    from PIL import Image
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, trust_remote_code=True, device_map="auto")
    yes, no = (model.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no"))

    def ask(question):
        picture = Image.open(io.BytesIO(base64.b64decode(question["picture"]))).convert("RGB")
        with torch.inference_mode():
            said, scores = model.generate_content([picture, question["text"]])
        first = scores[0][0]
        return {"answer": said, "yes": float(first[yes]), "no": float(first[no])}

    return ask


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
