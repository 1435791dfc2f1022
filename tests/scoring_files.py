"""A tiny random CLIP on disk, as a published one is."""

import json

LETTERS = [chr(code) for code in range(97, 123)]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), ",</w>", "<|startoftext|>", "<|endoftext|>"]
LENGTH = 24  # tokens that it reads


def write_clip(folder):
    """Weights, tokenizer and image processor. Returns the folder."""
    import torch
    import transformers

    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    begin, end = len(VOCABULARY) - 2, len(VOCABULARY) - 1
    text = {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": LENGTH,
        "bos_token_id": begin,
        "eos_token_id": end,
    }
    config = transformers.CLIPConfig(
        text_config=size | text, vision_config=size | {"image_size": 32, "patch_size": 8}, projection_dim=24
    )
    torch.manual_seed(0)
    with torch.inference_mode(False):
        transformers.CLIPModel(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
