"""The model, attention inside of documents and the loss: against implementations that share nothing with them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainer import config
from trainer.attention import attend, choose, scope
from trainer.loss import _turn, chunk_tokens, linear_cross_entropy, token_losses
from trainer.model import Decoder, ffn_width
from trainer.optim import Optimizer
from trainer.parallel import World, gradient_norm, scale_gradients

SHAPE = config.Model(layers=2, width=48, heads=4, kv_heads=2, head_dim=12, ffn=80, vocab_size=97)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(seed: int = 1, **changes: Any) -> Decoder:
    model = Decoder(replace(SHAPE, **changes))
    model.initialise(seed)
    with torch.no_grad():  # norms that do nothing would hide a norm that is missing
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)))
            elif "proj" in name:
                parameter.mul_(5.0)
    return model


def batch(n_rows: int = 3, length: int = 20, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets of which some are ignored, and documents of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.randint(0, 97, (n_rows, length + 1), generator=generator)
    targets = held[:, 1:].clone()
    targets[torch.rand(targets.shape, generator=generator) < 0.2] = -1
    opens = torch.rand(n_rows, length, generator=generator) < 0.2
    return held[:, :-1], targets, opens.cumsum(1).to(torch.int32)


def reference(model: Decoder, tokens: Tensor, docs: Tensor) -> Tensor:
    """Logits (B, T, V) by the papers, one head at a time, positions as complex numbers that are turned."""
    shape, state = model.shape, dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + shape.norm_eps) * state[name]

    def turn(x: Tensor) -> Tensor:  # (B, T, K): component j goes with j + K / 2
        half = shape.head_dim // 2
        at = torch.arange(x.shape[1], dtype=torch.float64)[:, None]
        angle = at * shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        pairs = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(
            torch.ones_like(angle), angle
        )
        return torch.cat([pairs.real, pairs.imag], -1).float()

    length = tokens.shape[1]
    sees = (docs[:, :, None] == docs[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    x = state["model.embed_tokens.weight"][tokens]
    for layer in range(shape.layers):
        own = f"model.layers.{layer}."
        y = norm(x, own + "input_layernorm.weight")
        q, k, v = (y @ state[f"{own}self_attn.{name}_proj.weight"].T for name in "qkv")
        outs = []
        for head in range(shape.heads):
            group = head // (shape.heads // shape.kv_heads)
            mine, its = (slice(n * shape.head_dim, (n + 1) * shape.head_dim) for n in (head, group))
            a, b = q[..., mine], k[..., its]
            if shape.qk_norm:
                a, b = norm(a, own + "self_attn.q_norm.weight"), norm(b, own + "self_attn.k_norm.weight")
            scores = turn(a) @ turn(b).transpose(1, 2) / math.sqrt(shape.head_dim)
            outs.append(torch.softmax(scores.masked_fill(~sees, -math.inf), -1) @ v[..., its])
        x = x + torch.cat(outs, -1) @ state[own + "self_attn.o_proj.weight"].T
        y = norm(x, own + "post_attention_layernorm.weight")
        gate, up = (y @ state[f"{own}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate * torch.sigmoid(gate) * up) @ state[own + "mlp.down_proj.weight"].T
    head = "model.embed_tokens.weight" if shape.tie_embeddings else "lm_head.weight"
    return norm(x, "model.norm.weight") @ state[head].T


def gradients(model: Decoder) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor], within: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        far = (ours[name] - theirs[name]).norm() / theirs[name].norm()
        assert far < within, f"{name} is off by {far:.1e}"


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "kv_heads": 4}, {"tie_embeddings": False, "kv_heads": 1}])
def test_loss_and_gradients_are_those_of_the_papers(changes: dict[str, Any]) -> None:
    model = made(**changes)
    tokens, targets, docs = batch()
    logits = reference(model, tokens, docs)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    log_z = torch.logsumexp(logits, -1)[targets != -1]
    (expected + 1e-2 * log_z.square().sum()).backward()
    theirs = gradients(model)
    found = model(tokens, targets, scope("mask", docs), 1e-2)
    found.total.backward()
    assert found.nll.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(found.n) == int((targets != -1).sum())
    agree(gradients(model), theirs)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_loss_and_gradients_are_those_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = made(qk_norm=kind == "Qwen3", tie_embeddings=kind == "Qwen3")
    shape = model.shape
    options = getattr(transformers, f"{kind}Config")(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=ffn_width(shape),
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=shape.tie_embeddings,
        attention_bias=False,
    )
    other = getattr(transformers, f"{kind}ForCausalLM")(options)
    state = dict(model.state_dict())
    if shape.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    other.load_state_dict(state)  # strict: the names are Hugging Face's
    tokens, targets, _ = batch()
    logits = other(input_ids=tokens).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    expected.backward()
    found = model(tokens, targets, scope("causal", tokens))
    found.total.backward()
    assert found.nll.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    agree(gradients(model), theirs)


def test_documents_in_a_row_are_as_documents_apart() -> None:
    """Nothing of one document reaches another, in values or gradients; positions count from where the row begins, which
    rotary positions do not notice."""
    model = made()
    tokens, targets, _ = batch(1, 24)
    cuts = [0, 5, 6, 17, 24]
    docs = torch.zeros(1, 24, dtype=torch.int32)
    for cut in cuts[1:-1]:
        docs[:, cut:] += 1
    together = model(tokens, targets, scope("mask", docs))
    together.total.backward()
    ours = gradients(model)
    nll = 0.0
    for first, end in pairwise(cuts):
        part = slice(first, end)
        found = model(tokens[:, part], targets[:, part], scope("causal", tokens[:, part]))
        found.total.backward()
        nll += found.nll.item()
    assert float(together.nll) == pytest.approx(nll, rel=1e-5)
    agree(ours, gradients(model))


def test_one_document_needs_no_mask() -> None:
    model = made()
    tokens, _, _ = batch()
    with torch.no_grad():
        masked = model.hidden(tokens, scope("mask", torch.zeros_like(tokens)))
        assert torch.allclose(masked, model.hidden(tokens, scope("causal", tokens)), atol=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_flash_attention_is_told_where_documents_begin(known: bool) -> None:
    docs = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
    found = scope("varlen", docs, 5 if known else None)
    assert found.bounds is not None and found.bounds.dtype == torch.int32 and found.longest == 5
    # One of few lengths, whatever the batch holds, so that little is compiled twice.
    assert found.bounds.tolist() == [0, 2, 5, 6, 8, *[10] * 60]
    many = scope("varlen", torch.arange(400).repeat(2, 1), 800 if known else None)
    assert many.bounds is not None and many.bounds.tolist() == [*range(800), *[800] * 225]
    assert choose(torch.device("cpu"), torch.float32, True) == "mask"
    assert choose(torch.device("cuda"), torch.bfloat16, False) == "causal"


def test_flash_attention_over_documents_compiles_without_a_break() -> None:
    """What no CPU can compute can still be traced: the block as CUDA would get it, keys repeated, nothing looking ahead."""

    class TracedError(Exception):
        pass

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        raise TracedError

    docs = torch.tensor([[0] * 8 + [1] * 8])
    q, k = (torch.randn(1, 16, heads, 8, dtype=torch.bfloat16) for heads in (4, 2))
    run = torch.compile(attend, fullgraph=True, dynamic=False, backend=keep)
    with pytest.raises(Exception, match="TracedError"):
        run(q, k, k, scope("varlen", docs, 2))
    (call,) = [node for node in graphs[0].graph.nodes if "varlen_attn" in str(node.target)]
    assert "[-1, 0]" in str(call.args) or "True" in str(call.args)
    torch._dynamo.reset()


def test_attention_in_blocks_is_attention_with_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flex_attention is told, which only CUDA compiles in reasonable time, is what the plain mask says."""
    from torch.nn.attention import flex_attention

    _, _, docs = batch(2, 128)
    asked: list[Any] = []
    monkeypatch.setattr(flex_attention, "create_block_mask", lambda *args, **options: asked.append(args))
    plain = scope("mask", docs)
    scope("flex", docs)
    visible, n_rows, _, n_queries, n_keys = asked[0]
    row, at, other = torch.meshgrid(*(torch.arange(n) for n in (n_rows, n_queries, n_keys)), indexing="ij")
    assert plain.mask is not None and torch.equal(visible(row, 0, at, other), plain.mask[:, 0])
    q, k, v = (torch.randn(2, 128, heads, 8, generator=torch.Generator().manual_seed(3)) for heads in (4, 2, 2))
    out = attend(q, k, v, plain)
    spread = attend(q, k.repeat_interleave(2, 2), v.repeat_interleave(2, 2), plain)
    assert out.shape == q.shape and torch.allclose(out, spread, atol=1e-6)


# The loss alone.


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_loss_in_chunks_is_the_loss(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(64, 16, generator=generator), torch.randn(50, 16, generator=generator)
    targets = torch.randint(-1, 50, (64,), generator=generator)
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    found = linear_cross_entropy(*ours, targets, 1e-3, chunk)
    # Scaled, as a training step scales it.
    (found.total / 37).backward()
    logits = theirs[0] @ theirs[1].T
    nll = functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    squares = torch.logsumexp(logits, -1).square()[targets != -1].sum()
    ((nll + 1e-3 * squares) / 37).backward()
    assert found.nll.item() == pytest.approx(nll.item(), rel=1e-5)
    assert found.total.item() == pytest.approx((nll + 1e-3 * squares).item(), rel=1e-5)
    assert float(found.n) == int((targets != -1).sum())
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
    each = token_losses(hidden, weight, targets, chunk)
    assert each.shape == (64,) and float(each.sum()) == pytest.approx(nll.item(), rel=1e-5)
    assert (each[targets == -1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chunk_of_the_loss_compiles_without_a_break(dtype: torch.dtype) -> None:
    """Compiled it takes another way to the same gradient, which is that of autograd."""
    targets, learns = torch.arange(-1, 7), True
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = logits.clone().float().requires_grad_()
    log_z = torch.logsumexp(exact, -1)[1:]
    nll = functional.cross_entropy(exact, targets, ignore_index=-1, reduction="sum")
    total = nll + 1e-3 * log_z.square().sum()
    total.backward()
    compiled = torch.compile(_turn, backend="aot_eager", fullgraph=True, dynamic=False)
    for run in (_turn, compiled):
        sums, gradient = run(logits.clone(), targets, 1e-3, learns)
        torch.testing.assert_close(sums, torch.stack([total, nll, torch.tensor(7.0)]).detach())
        assert gradient is not None and gradient.dtype == dtype and exact.grad is not None
        torch.testing.assert_close(gradient, exact.grad.to(dtype))
        sums, gradient = run(logits.clone(), targets, 1e-3, False)
        assert gradient is None and sums[1].item() == pytest.approx(nll.item(), rel=1e-5)
    torch._dynamo.reset()


def test_chunks_follow_the_vocabulary_and_the_device() -> None:
    sizes = {n: (chunk_tokens(n, "cpu"), chunk_tokens(n, "cuda")) for n in (128, 4_096, 16_384, 50_304, 262_144)}
    assert sizes[16_384] == (256, 16_384) and sizes[50_304] == (256, 4_096)
    for n, (cpu, cuda) in sizes.items():
        assert cuda >= cpu >= 256 and cpu & (cpu - 1) == cuda & (cuda - 1) == 0
        assert cuda * n <= 1 << 28 and (cpu * n <= 1 << 22 or cpu == 256)


def test_a_second_backward_pass_is_refused_instead_of_wrong() -> None:
    """The first one scales in place what is kept for it."""
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(9, 8)
    found = linear_cross_entropy(hidden, weight, torch.arange(4))
    (found.total / 3).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        (found.total / 3).backward()


def test_a_batch_with_nothing_to_learn_has_no_loss_and_no_gradient() -> None:
    model = made()
    tokens, targets, docs = batch()
    found = model(tokens, torch.full_like(targets, -1), scope("mask", docs), 1e-4)
    found.total.backward()
    assert (found.total.item(), found.nll.item(), float(found.n)) == (0.0, 0.0, 0.0)
    assert all(bool((gradient == 0).all()) for gradient in gradients(model).values())


def test_micro_batches_add_up_to_the_batch() -> None:
    model = made()
    tokens, targets, docs = batch(4)
    targets[0] = -1  # of uneven weight: one has nothing to learn
    model(tokens, targets, scope("mask", docs), 1e-4).total.backward()
    whole = gradients(model)
    for row in range(4):
        part = slice(row, row + 1)
        model(tokens[part], targets[part], scope("mask", docs[part]), 1e-4).total.backward()
    agree(gradients(model), whole)


def test_gradients_are_finite_where_logits_are_large() -> None:
    hidden = torch.full((4, 8), 300.0, requires_grad=True)
    weight = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).mul(50).requires_grad_()
    found = linear_cross_entropy(hidden, weight, torch.arange(4))
    found.total.backward()
    assert torch.isfinite(found.total) and hidden.grad is not None and torch.isfinite(hidden.grad).all()


def test_computing_in_bf16_keeps_fp32_parameters_and_gradients() -> None:
    exact, rough = made(), Decoder(SHAPE, torch.bfloat16)
    rough.load_state_dict(exact.state_dict())
    tokens, targets, docs = batch()
    for model in (exact, rough):
        model(tokens, targets, scope("mask", docs)).total.backward()
    assert rough.hidden(tokens, scope("mask", docs)).dtype == torch.bfloat16
    for (name, a), (_, b) in zip(gradients(exact).items(), gradients(rough).items(), strict=True):
        assert b.dtype == torch.float32
        assert functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.98, name


# The model as a whole.


def test_numbers_of_a_start_depend_on_seed_and_name_alone() -> None:
    one, again, other, deeper = (Decoder(replace(SHAPE, layers=n)) for n in (2, 2, 2, 3))
    for model, seed in ((one, 5), (again, 5), (other, 6), (deeper, 5)):
        model.initialise(seed)
    states = [model.state_dict() for model in (one, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(states[0][name], deeper.state_dict()[name]) and not torch.equal(states[0][name], states[2][name])
    assert float(states[0][name].std()) == pytest.approx(0.02, rel=0.1)
    assert float(states[0]["model.layers.1.mlp.down_proj.weight"].std()) == pytest.approx(0.02 / 2, rel=0.1)


def test_a_start_expects_nothing() -> None:
    """The first loss is the logarithm of the size of the vocabulary."""
    model = Decoder(SHAPE)
    model.initialise(0)
    tokens, targets, docs = batch(8)
    found = model(tokens, targets, scope("mask", docs))
    assert float(found.nll / found.n) == pytest.approx(math.log(97), abs=0.05)


def test_training_goes_as_a_plain_loop_does() -> None:
    """Micro-batches, sums, one division, clipping on the device and groups of the optimiser come to what everybody writes:
    the mean of all logits' loss, clip_grad_norm_, AdamW. Compared step by step."""
    ours, plain = made(), made()
    optimizer = Optimizer(ours, config.Optim(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, clip=0.5))
    groups = [[p for p in plain.parameters() if (p.ndim == 2) == decays] for decays in (True, False)]
    usual = torch.optim.AdamW(
        [{"params": group, "weight_decay": w} for group, w in zip(groups, (0.1, 0.0), strict=True)],
        lr=3e-3,
        betas=(0.9, 0.95),
    )
    world = World(0, 1, 0, torch.device("cpu"), None)
    clipped = 0
    for step in range(12):
        tokens, targets, docs = batch(4, seed=step % 3)
        n = (targets != -1).sum()
        nll = torch.zeros(())
        for rows in (slice(0, 1), slice(1, 4)):
            found = ours(tokens[rows], targets[rows], scope("mask", docs[rows]))
            (found.total / targets.numel()).backward()
            nll += found.nll
        scale = targets.numel() / n
        norm = gradient_norm(ours, world) * scale
        clipped += bool(norm > 0.5)
        scale_gradients(ours, scale * (0.5 / (norm + 1e-6)).clamp_max(1.0))
        optimizer.step(1.0, torch.zeros(()))
        optimizer.zero_grad()
        logits = reference(plain, tokens, docs)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        usual.step()
        usual.zero_grad()
        assert (nll / n).item() == pytest.approx(loss.item(), rel=1e-4), step
    assert clipped > 3 and loss < 4.2


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_small_model_learns_a_batch_by_heart(name: str) -> None:
    model = Decoder(SHAPE)
    model.initialise(0)
    optimizer = Optimizer(model, config.Optim(name=name, lr=5e-3, muon_lr=0.02, weight_decay=0.0))  # type: ignore[arg-type]
    tokens, targets, docs = batch(2, 16)
    loss = math.inf
    for _ in range(80):
        found = model(tokens, targets, scope("mask", docs))
        (found.total / found.n).backward()
        optimizer.step(1.0, torch.zeros(()))
        optimizer.zero_grad()
        loss = float(found.nll / found.n)
    # What stands first in its document and is followed by several things cannot be known.
    assert loss < 0.2


def test_a_block_compiles_without_a_break() -> None:
    """Per block, as training does; the graph that comes out is run as it is."""
    model, plain = made(), made()
    tokens, targets, docs = batch()
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in model.model.layers:
        block.compile(fullgraph=True, dynamic=False, backend=keep)
    for n_rows in (3, 3):
        part = slice(0, n_rows)
        model(tokens[part], targets[part], scope("mask", docs[part])).total.backward()
        plain(tokens[part], targets[part], scope("mask", docs[part])).total.backward()
    agree(gradients(model), gradients(plain), 1e-5)
    assert len(graphs) <= len(model.model.layers)  # nothing is compiled twice
    torch._dynamo.reset()
