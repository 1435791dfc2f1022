"""A Gemma-2 in a GGUF file as llama.cpp writes it, shared by the tests."""

import gguf
import sentencepiece

Q8 = gguf.GGMLQuantizationType.Q8_0


def vocabulary(spiece, special=()):
    """Pieces, scores and kinds as llama.cpp's converter writes them. special: pieces that it calls control pieces."""
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    kind, pieces, scores, kinds = gguf.TokenType, [], [], []
    user_defined = {piece for piece, k in stored_kinds(spiece) if k == kind.USER_DEFINED}
    for index in range(model.get_piece_size()):
        piece, score, own = model.id_to_piece(index), model.get_score(index), kind.NORMAL
        own = kind.UNKNOWN if model.is_unknown(index) else own
        own = kind.CONTROL if model.is_control(index) else own
        own = kind.UNUSED if model.is_unused(index) else own
        own = kind.BYTE if model.is_byte(index) else own
        if piece in user_defined:
            score, own = -1000.0, kind.CONTROL if piece in special else kind.USER_DEFINED
            piece = piece if piece in special else piece.replace("\u2581", " ")
        pieces.append(piece)
        scores.append(score)
        kinds.append(int(own))
    return pieces, scores, kinds


def stored_kinds(spiece):
    """Pieces and their kinds, which the library does not tell: read from the protobuf."""
    place = 0
    while place < len(spiece) and spiece[place] == 0x0A:
        size, place = varint(spiece, place + 1)
        content, place = spiece[place : place + size], place + size
        length, begin = varint(content, 1)
        rest = content[begin + length + 5 :]  # after the piece and its score
        yield content[begin : begin + length].decode(), rest[1] if rest else 1


def varint(content, place):
    value = shift = 0
    while True:
        value |= (content[place] & 127) << shift
        shift, place = shift + 7, place + 1
        if content[place - 1] < 128:
            return value, place


NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA2, 3)


def llama_name(key):
    return NAMES.get_name(key, try_suffixes=(".weight",))


def write(path, source, *, architecture="gemma2", tokenizer="llama", special=(), changes=None, pieces=None, part=0):
    tensors, config = source
    writer = gguf.GGUFWriter(path, architecture)
    if part:
        writer.add_uint16("split.no", part - 1)
        writer.add_uint16("split.count", 2)
    if part < 2:
        add_fields(writer, tensors, config, tokenizer, special, pieces)
    else:
        del writer.kv_data[0]["general.architecture"]
    for key, tensor in {**tensors, **(changes or {})}.items():
        if key == "spiece_model":
            continue
        if key.endswith("norm.weight"):
            writer.add_tensor(llama_name(key), tensor.float().numpy() + 1)
        else:
            packed = gguf.quants.quantize(tensor.float().numpy(), Q8)
            writer.add_tensor(llama_name(key) if key.startswith("model.") else key, packed, raw_dtype=Q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_fields(writer, tensors, config, tokenizer, special, pieces):
    writer.add_context_length(8192)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(30.0)
    writer.add_sliding_window(4096)
    names, scores, kinds = vocabulary(tensors["spiece_model"].numpy().tobytes(), special)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(pieces or names)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(False)
