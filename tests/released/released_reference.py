"""LAVCap as its authors wrote it down, in plain torch on the released tensors: the yardstick for every variant.

It shares no code with the model under test. It is itself held against the vectors recorded from the released code,
for the variants that were recorded.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM


GOLDEN = Path(__file__).parents[1] / "golden"
BOS, EOS, PAD = 1, 2, 3
OPTIONS = {
    "melbins": 64,
    "target_length": 128,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 12,
    "spec_f_mean": True,
    "av_embed_norm": False,
    "use_exp_Q": False,
    "ot_loss_weight": 1.0,
    "num_sinkhorn_iter": 50,
    "sinkhorn_epsilon": 0.1,
    "use_speech_Qformer": False,
    "enc_lora": False,
    "dec_lora": False,
    "lora_rank": 8,
    "lora_alpha": 32,
    "llama": {
        "vocab_size": 120,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}


def read_golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Released options and tensors of `tests/golden/<name>.safetensors`."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        options = json.loads((file.metadata() or {}).get("config", "{}"))
        return options, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)


def released_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a golden file."""
    return {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}


# ---------------------------------------------------------------------------------------------- random checkpoints


def random_state(options: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """State dict of the released layout with lively weights: every tensor matters in the outputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float | None = None) -> torch.Tensor:
        scale = shape[-1] ** -0.5 if scale is None else scale
        return scale * torch.randn(*shape, generator=generator)

    width, llama = options["embed_dim"], options["llama"]
    audio = {
        "init_bn.1.weight": 1 + normal(options["melbins"], scale=0.3),
        "init_bn.1.bias": normal(options["melbins"], scale=0.3),
        "init_bn.1.running_mean": normal(options["melbins"], scale=0.5),
        "init_bn.1.running_var": 0.5 + torch.rand(options["melbins"], generator=generator),
        "init_bn.1.num_batches_tracked": torch.tensor(7),
        "patch_embed.proj.weight": normal(width, 1, 16, 16, scale=1 / 16),
        "patch_embed.proj.bias": normal(width, scale=0.1),
        "time_pos_embed": normal(1, width, 1, options["target_length"] // 16, scale=0.5),
        "freq_pos_embed": normal(1, width, options["melbins"] // 16, 1, scale=0.5),
        **norm("norm", width, normal),
        **norm("output_layer.0", width, normal),
        "output_layer.1.weight": normal(527, width),
        "output_layer.1.bias": normal(527),
    }
    for layer in range(options["depth"]):
        block = f"blocks.{layer}."
        audio |= norm(f"{block}norm1", width, normal) | norm(f"{block}norm2", width, normal)
        sizes = {f"attn.{part}": (width, width) for part in ("q_proj", "k_proj", "v_proj", "proj")}
        for name, (rows, columns) in (sizes | {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}).items():
            audio |= {f"{block}{name}.weight": normal(rows, columns), f"{block}{name}.bias": normal(rows, scale=0.1)}
    torch.manual_seed(seed)
    text = dict(LlamaForCausalLM(LlamaConfig(**llama)).state_dict())
    text = {name: tensor if "norm" in name else 5 * tensor for name, tensor in text.items()}
    projected = 2 * width if "chancat" in options["fusion_type"] else width
    state = {
        "speech_llama_proj.weight": normal(llama["hidden_size"], projected),
        "speech_llama_proj.bias": normal(llama["hidden_size"], scale=0.1),
    }
    if options["ot_loss_weight"] > 0:
        state["logit_scale"] = torch.tensor(2.3)
    if options["av_embed_norm"]:
        state |= norm("ln_aud", width, normal) | norm("ln_vis", width, normal)
    if "crossattn" in options["fusion_type"]:
        state |= {
            "cross_attn.in_proj_weight": normal(3 * width, width),
            "cross_attn.in_proj_bias": normal(3 * width, scale=0.1),
            "cross_attn.out_proj.weight": normal(width, width),
            "cross_attn.out_proj.bias": normal(width, scale=0.1),
        }
    for name, part, on in (
        ("audio_encoder", audio, options["enc_lora"]),
        ("llama_decoder", text, options["dec_lora"]),
    ):
        part = with_lora(part, options["lora_rank"], normal) if on else part
        state |= {f"{name}.{key}": value for key, value in part.items()}
    return state


def norm(name: str, width: int, normal) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + normal(width, scale=0.2), f"{name}.bias": normal(width, scale=0.2)}


def with_lora(part: dict[str, torch.Tensor], rank: int, normal) -> dict[str, torch.Tensor]:
    """The tensors as PEFT names them, with LoRA on queries and values."""
    wrapped = {}
    for key, value in part.items():
        stem, _, kind = key.rpartition(".")
        if not stem.endswith(("q_proj", "v_proj")):
            wrapped[f"base_model.model.{key}"] = value
            continue
        wrapped[f"base_model.model.{stem}.base_layer.{kind}"] = value
        if kind == "weight":
            wrapped[f"base_model.model.{stem}.lora_A.default.weight"] = normal(rank, value.shape[1])
            wrapped[f"base_model.model.{stem}.lora_B.default.weight"] = normal(value.shape[0], rank, scale=0.05)
    return wrapped


def random_inputs(options: dict, frames: int = 5, batch: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    """Inputs as in a golden file."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = options["llama"]["vocab_size"]
    labels = torch.randint(4, vocabulary, (batch, 6), generator=generator)
    mask = torch.ones_like(labels)
    for row in range(batch):
        end = 3 + row % 3
        labels[row, end], labels[row, end + 1 :], mask[row, end + 1 :] = EOS, PAD, 0
    return {
        "in.spec": torch.randn(batch, options["target_length"], options["melbins"], generator=generator),
        "in.clip_feat": torch.randn(batch, frames, options["embed_dim"], generator=generator),
        "in.before_ids": torch.randint(4, vocabulary, (4,), generator=generator),
        "in.after_ids": torch.randint(4, vocabulary, (3,), generator=generator),
        "in.labels": labels,
        "in.labels_attention_mask": mask,
    }


# ---------------------------------------------------------------------------------------------------- the equations


@torch.no_grad()
def run(options: dict, state: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Everything that a golden file holds under `out.`."""
    audio = encode(part_of(state, "audio_encoder", options), inputs["in.spec"], options)
    tokens, ot_loss = fuse(state, audio, inputs["in.clip_feat"], options)
    soft = F.linear(tokens, state["speech_llama_proj.weight"], state["speech_llama_proj.bias"])
    llama = LlamaForCausalLM(LlamaConfig(**options["llama"])).eval()
    llama.load_state_dict(part_of(state, "llama_decoder", options))
    prompt = wrap(llama.get_input_embeddings(), soft, inputs)
    outputs = {"out.audio_hidden": audio, "out.av_embeds": soft, "out.ot_loss": ot_loss}
    outputs["out.loss"] = caption_loss(llama, prompt, inputs) + ot_loss
    outputs["out.prompt_logits"] = llama(inputs_embeds=prompt).logits
    mask = torch.ones(prompt.shape[:2], dtype=torch.long)
    for name, beams in (("greedy", 1), ("beam4", 4)):
        ids = llama.generate(
            inputs_embeds=prompt,
            attention_mask=mask,
            max_new_tokens=12,
            num_beams=beams,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
        outputs[f"out.{name}"] = F.pad(ids, (0, 12 - ids.shape[1]), value=PAD)
    return outputs


def part_of(state: dict[str, torch.Tensor], prefix: str, options: dict) -> dict[str, torch.Tensor]:
    """Tensors of one part with its LoRA added: `W + alpha / rank * B A`."""
    part = {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
    part = {key.removeprefix("base_model.model."): value for key, value in part.items()}
    plain = {key.replace(".base_layer.", "."): value for key, value in part.items() if ".lora_" not in key}
    for key in part:
        if key.endswith(".lora_A.default.weight"):
            stem = key.removesuffix(".lora_A.default.weight")
            product = part[f"{stem}.lora_B.default.weight"] @ part[key]
            plain[f"{stem}.weight"] = plain[f"{stem}.weight"] + options["lora_alpha"] / options["lora_rank"] * product
    return plain


def encode(audio: dict[str, torch.Tensor], spec: torch.Tensor, options: dict) -> torch.Tensor:
    """CED: `(batch, frames, mel)` to `(batch, 4 * frames / 16, dim)`."""
    width, heads = options["embed_dim"], options["num_heads"]
    mean, var = audio["init_bn.1.running_mean"][:, None], audio["init_bn.1.running_var"][:, None]
    x = (spec.transpose(1, 2) - mean) / (var + 1e-5).sqrt()
    x = x * audio["init_bn.1.weight"][:, None] + audio["init_bn.1.bias"][:, None]
    x = F.conv2d(x[:, None], audio["patch_embed.proj.weight"], audio["patch_embed.proj.bias"], stride=16)
    x = x + audio["time_pos_embed"][..., : x.shape[-1]] + audio["freq_pos_embed"]
    x = x.flatten(2).transpose(1, 2)

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), audio[f"{name}.weight"], audio[f"{name}.bias"], 1e-6)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, audio[f"{name}.weight"], audio[f"{name}.bias"])

    for layer in range(options["depth"]):
        block = f"blocks.{layer}."
        y = layer_norm(x, f"{block}norm1")
        q, k, v = (
            linear(y, f"{block}attn.{part}_proj").unflatten(-1, (heads, width // heads)).transpose(1, 2)
            for part in "qkv"
        )
        attention = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(dim=-1)
        x = x + linear((attention @ v).transpose(1, 2).flatten(2), f"{block}attn.proj")
        y = layer_norm(x, f"{block}norm2")
        x = x + linear(F.gelu(linear(y, f"{block}mlp.fc1")), f"{block}mlp.fc2")
    return layer_norm(x, "norm")


def fuse(state, audio: torch.Tensor, video: torch.Tensor, options: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Fused tokens, and the alignment loss or 0."""
    kind, width = options["fusion_type"], options["embed_dim"]
    if options["av_embed_norm"]:
        audio = F.layer_norm(audio, (width,), state["ln_aud.weight"], state["ln_aud.bias"])
        video = F.layer_norm(video, (width,), state["ln_vis.weight"], state["ln_vis.bias"])
    if options["spec_f_mean"]:
        audio = audio.unflatten(1, (options["melbins"] // 16, -1)).mean(dim=1)
    loss = torch.tensor(0.0)
    if kind.startswith("ot_"):
        audio, video = (x / x.norm(dim=-1, keepdim=True) for x in (audio, video))
        log_plan, loss = align(state, audio, video, options)
    if "chancat" in kind:
        spread = torch.zeros_like(audio)
        gap = audio.shape[1] // video.shape[1]
        for index in range(video.shape[1]):
            spread[:, index * gap] = video[:, index]
        return torch.cat([audio, spread], dim=-1), loss
    if "crossattn" in kind:
        heads = options.get("cross_attn_heads", width // 64)
        return audio + cross_attend(state, audio, video, heads), loss
    if "QAV_add" in kind:
        plan = log_plan.exp()
        audio, video = audio + plan.transpose(1, 2) @ video, video + plan @ audio
    return torch.cat([audio, video], dim=1), loss


def align(state, audio: torch.Tensor, video: torch.Tensor, options: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithm of the plan, `(batch, video_tokens, audio_tokens)`, and the alignment loss."""
    similarity = torch.einsum("bvd,bad->bva", video, audio)
    scores = similarity / options["sinkhorn_epsilon"]
    frames, steps = scores.shape[1:]
    u, v = torch.zeros_like(scores[:, :, 0]), torch.zeros_like(scores[:, 0])
    for _ in range(options["num_sinkhorn_iter"]):
        u = -torch.tensor(float(frames)).log() - torch.logsumexp(scores + v[:, None], dim=2)
        v = -torch.tensor(float(steps)).log() - torch.logsumexp(scores + u[:, :, None], dim=1)
    log_plan = scores + u[:, :, None] + v[:, None]
    weights = log_plan.exp() if options["use_exp_Q"] else log_plan
    if "logit_scale" not in state:
        return log_plan, torch.tensor(0.0)
    scale = state["logit_scale"].clamp(0, 4.6052)
    video_logits = scale * torch.einsum("bva,bua->bvu", weights, similarity)
    audio_logits = scale * torch.einsum("bva,bvc->bac", weights, similarity)
    loss = sum(
        F.cross_entropy(logits, torch.arange(logits.shape[1]).expand(len(logits), -1))  # classes on axis 1
        for logits in (video_logits, audio_logits)
    )
    return log_plan, options["ot_loss_weight"] * loss


def cross_attend(state, audio: torch.Tensor, video: torch.Tensor, heads: int) -> torch.Tensor:
    weights = state["cross_attn.in_proj_weight"].chunk(3)
    biases = state["cross_attn.in_proj_bias"].chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((audio, video, video), weights, biases, strict=True)
    )
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    attended = (attention @ v).transpose(1, 2).flatten(2)
    return F.linear(attended, state["cross_attn.out_proj.weight"], state["cross_attn.out_proj.bias"])


def wrap(embedding, soft: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """BOS, prompt before, soft tokens, prompt after: `(batch, sequence, llama hidden)`."""
    start = torch.cat([torch.tensor([BOS]), inputs["in.before_ids"]])
    before, after = (embedding(ids).expand(len(soft), -1, -1) for ids in (start, inputs["in.after_ids"]))
    return torch.cat([before, soft, after], dim=1)


def caption_loss(llama, prompt: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    ids, mask = inputs["in.labels"], inputs["in.labels_attention_mask"]
    embeds = torch.cat([prompt, llama.get_input_embeddings()(ids)], dim=1)
    attention_mask = torch.cat([torch.ones(prompt.shape[:2], dtype=mask.dtype), mask], dim=1)
    logits = llama(inputs_embeds=embeds, attention_mask=attention_mask).logits[:, prompt.shape[1] - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), ids.masked_fill(mask == 0, -100).flatten())
