#!/usr/bin/env python3
"""Makes testdata/mtp: tiny checkpoints with a DeepSeek-style MTP layer, and what a plain float64 implementation of
target and layer computes with them. Needs numpy only:  python3 model/testdata/gen/mtp.py model/testdata/mtp

The target is random. So is the MTP layer, but for eh_proj, which is fitted (least squares, on the greedy continuations)
to put out the target's own residual stream one position on: so drafts are often right, and often wrong.

Row i of the layer takes token i+1 and the target's normed state i, is rotated as position i+1 and predicts token i+2.
A chain feeds its normed output back as the next state.
"""
import json, os, struct, sys
import numpy as np

V, H, HEADS, KV, D, FFN, LAYERS, EPS, THETA = 160, 64, 4, 2, 16, 96, 2, 1e-5, 10000.0
PROMPTS, PROMPT, GREEDY, DRAFT, K, REDUCED = 4, 20, 32, 6, 3, 80


def bf16(x):
    """Rounds to bfloat16, half to even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def rms(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w


def rope(x, positions):
    angle = positions[:, None] * THETA ** (-2 * np.arange(D // 2) / D)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., : D // 2], x[..., D // 2 :]
    return np.concatenate([a * c - b * s, b * c + a * s], -1)


def layer(w, p, x, positions, window):
    """One decoder layer over all rows; row r sees the rows before it, within the window."""
    n = rms(x, w[p + "input_layernorm.weight"])
    q = rope((n @ w[p + "self_attn.q_proj.weight"].T).reshape(-1, HEADS, D), positions)
    k = rope((n @ w[p + "self_attn.k_proj.weight"].T).reshape(-1, KV, D), positions)
    v = (n @ w[p + "self_attn.v_proj.weight"].T).reshape(-1, KV, D)
    k, v = np.repeat(k, HEADS // KV, 1), np.repeat(v, HEADS // KV, 1)
    s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(D)
    far = positions[:, None] - positions[None, :]
    s[:, (far < 0) | (far >= (window or 1 << 30))] = -np.inf
    a = np.exp(s - s.max(-1, keepdims=True))
    a = np.einsum("hqk,khd->qhd", a / a.sum(-1, keepdims=True), v).reshape(-1, HEADS * D)
    x = x + a @ w[p + "self_attn.o_proj.weight"].T
    n = rms(x, w[p + "post_attention_layernorm.weight"])
    g = n @ w[p + "mlp.gate_proj.weight"].T
    return x + (g / (1 + np.exp(-g)) * (n @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T


def target(w, ids, window):
    """Residual stream before the final norm, and states after it."""
    x = w["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        x = layer(w, f"model.layers.{i}.", x, np.arange(len(ids)), window)
    return x, rms(x, w["model.norm.weight"])


MTP = f"model.layers.{LAYERS}."


def mtp(w, tokens, states, window):
    """g of all rows: tokens[i] stands at position i+1, states[i] is the state at i."""
    e = rms(w["model.embed_tokens.weight"][tokens], w[MTP + "enorm.weight"])
    x = np.concatenate([e, rms(states, w[MTP + "hnorm.weight"])], -1) @ w[MTP + "eh_proj.weight"].T
    y = layer(w, MTP, x, np.arange(1, len(tokens) + 1), window)
    return rms(y, w[MTP + "shared_head.norm.weight"])


def head(w, x):
    return x @ w["lm_head.weight"].T


def chain(w, ids, k, window, subset=None):
    """k drafts after ids, whose last token the target has not seen."""
    tokens, states = list(ids[1:]), list(target(w, ids[:-1], window)[1])
    drafts, logits, margin = [], [], np.inf
    for _ in range(k):
        g = mtp(w, np.array(tokens), np.array(states), window)[-1]
        full = head(w, g)
        l = full if subset is None else full[subset]
        best = int(l.argmax())
        margin = min(margin, l[best] - np.partition(l, -2)[-2])
        drafts.append(best if subset is None else int(subset[best]))
        logits.append(full)
        tokens.append(drafts[-1])
        states.append(g)
    return drafts, np.array(logits), margin


def greedy(w, prompt, n, window):
    ids, margin = list(prompt), np.inf
    for _ in range(n):
        l = head(w, target(w, np.array(ids), window)[1][-1])
        ids.append(int(l.argmax()))
        margin = min(margin, l.max() - np.partition(l, -2)[-2])
    return ids, margin


def weights(rng):
    w = {}

    def add(name, *shape, scale=1.0):
        x = rng.standard_normal(shape)
        w[name + ".weight"] = bf16(1 + 0.2 * x if len(shape) == 1 else x * scale / np.sqrt(shape[-1]))

    add("model.embed_tokens", V, H, scale=np.sqrt(H))
    for i in range(LAYERS + 1):
        p, small = f"model.layers.{i}.", 1.0 if i < LAYERS else 0.2
        add(p + "input_layernorm", H)
        add(p + "self_attn.q_proj", HEADS * D, H, scale=1.5)
        add(p + "self_attn.k_proj", KV * D, H, scale=1.5)
        add(p + "self_attn.v_proj", KV * D, H)
        add(p + "self_attn.o_proj", H, HEADS * D, scale=small)
        add(p + "post_attention_layernorm", H)
        add(p + "mlp.gate_proj", FFN, H)
        add(p + "mlp.up_proj", FFN, H)
        add(p + "mlp.down_proj", H, FFN, scale=small)
    add("model.norm", H)
    add("lm_head", V, H, scale=3)
    add(MTP + "enorm", H)
    add(MTP + "hnorm", H)
    w[MTP + "shared_head.norm.weight"] = w["model.norm.weight"]
    return w


def fit(w, texts, window):
    """eh_proj such that its output is the target's next residual."""
    inputs, wanted = [], []
    for ids in texts:
        x, states = target(w, np.array(ids), window)
        e = rms(w["model.embed_tokens.weight"][ids[1:]], w[MTP + "enorm.weight"])
        inputs.append(np.concatenate([e, rms(states[:-1], w[MTP + "hnorm.weight"])], -1))
        wanted.append(x[1:])
    a, b = np.concatenate(inputs), np.concatenate(wanted)
    w[MTP + "eh_proj.weight"] = bf16(np.linalg.solve(a.T @ a + 0.3 * np.eye(2 * H), a.T @ b).T)


def save(path, tensors):
    kinds = {"bf16": "BF16", np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}
    entries, blobs, at = {}, [], 0
    for name, x in tensors.items():
        if x.dtype == np.float64:  # a weight
            raw, kind = (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes(), "BF16"
        else:
            raw, kind = np.ascontiguousarray(x).tobytes(), kinds[x.dtype]
        entries[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def rounds(w, ids, window):
    """Speculative rounds along a greedy text: prefix (its last token unseen), K drafts, how many are right."""
    prefix, out, margin = PROMPT + 1, [], np.inf
    while prefix + K < len(ids):
        drafts, _, m = chain(w, np.array(ids[:prefix]), K, window)
        margin = min(margin, m)
        right = 0
        while right < K and drafts[right] == ids[prefix + right]:
            right += 1
        out.append((prefix, drafts, right))
        prefix += right + 1
    return out, margin


def case(folder, arch, window, seed):
    rng = np.random.default_rng(seed)
    w = weights(rng)
    texts = []
    while len(texts) < PROMPTS:
        prompt = rng.integers(0, V, PROMPT)
        ids, margin = greedy(w, prompt, GREEDY, window)
        if margin >= 0.02 and len(set(ids[PROMPT:])) >= 12:
            texts.append(ids)
    fit(w, texts, window)
    subset = np.sort(rng.permutation(V)[:REDUCED])
    golden, accepted, drafted, margin = {"head_ids": subset.astype(np.int32)}, 0, 0, np.inf
    for k, ids in enumerate(texts):
        prompt = np.array(ids[:PROMPT])
        _, states = target(w, prompt, window)
        g = mtp(w, prompt[1:], states[:-1], window)
        after = np.array(ids[: PROMPT + 1])
        drafts, logits, m1 = chain(w, after, DRAFT, window)
        reduced, _, m2 = chain(w, after, DRAFT, window, subset)
        spec, m3 = rounds(w, ids, window)
        margin = min(margin, m1, m2, m3)
        accepted, drafted = accepted + sum(r[2] for r in spec), drafted + K * len(spec)
        s = f"seq{k}."
        golden |= {
            s + "input_ids": prompt.astype(np.int32), s + "greedy_ids": np.array(ids[PROMPT:], np.int32),
            s + "logits": head(w, states).astype(np.float32),
            s + "mtp_hidden": g.astype(np.float32), s + "mtp_logits": head(w, g).astype(np.float32),
            s + "mtp_draft_ids": np.array(drafts, np.int32), s + "mtp_draft_logits": logits.astype(np.float32),
            s + "mtp_reduced_ids": np.array(reduced, np.int32),
            s + "spec_prefix": np.array([r[0] for r in spec], np.int32),
            s + "spec_draft": np.array([r[1] for r in spec], np.int32),
            s + "spec_accepted": np.array([r[2] for r in spec], np.int32),
        }
    print(f"{arch}, seed {seed}: {accepted} of {drafted} drafts accepted, smallest draft margin {margin:.4f}")
    if margin < 2e-3 or not 0.3 < accepted / drafted < 0.9:
        return False
    config = {
        "architectures": [arch], "model_type": "tiny", "vocab_size": V, "hidden_size": H, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": D, "rms_norm_eps": EPS,
        "rope_theta": THETA, "max_position_embeddings": 256, "tie_word_embeddings": False, "hidden_act": "silu",
        "num_nextn_predict_layers": 1, "torch_dtype": "bfloat16",
    }
    if window:
        config["sliding_window"] = window
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    save(os.path.join(folder, "model.safetensors"), w)
    save(os.path.join(folder, "golden.safetensors"), golden)
    return True


def main(out):
    for name, arch, window in [("llama", "LlamaForCausalLM", 0), ("mistral", "MistralForCausalLM", 12)]:
        seed = 1
        while not case(os.path.join(out, name), arch, window, seed):
            seed += 1


main(sys.argv[1])
