r"""Every forward equation of the Reformer facing its gradient, and the functions that hold the two: the poster's words.

A section is a title and a text. In the text, an empty line separates rows. A row begins with the names of the forward
function and of its backward, as "file.function"; below them, each equation faces its gradient. A side of a line is an
equation in LaTeX, a function's name or a remark: `kind` says which. Letters are those of the notebooks: dx is the
gradient of the loss with respect to x, ⊤ transposes, ⊙ multiplies entry by entry. Read next: `poster_pictures.py`.
"""

import re

TITLE = "The Reformer, forward and backward"
SENTENCE = (
    "A Transformer for long sequences: a token attends to a few that hash like it, "
    "and the backward pass recomputes layer inputs."
)
CREDIT = "Kitaev, Kaiser, Levskaya\nICLR 2020, arXiv:2001.04451"
NOTATION = (
    "T tokens in chunks of C    R hash rounds    D size of a head    B batch    "
    "⊤ transposes    ⊙ multiplies entry by entry    dx is the gradient of the loss with respect to x",
    "Q queries    K keys    V values    S logits    P weights    O output    π sorted order    "
    "m, l: a query's largest logit and sum of exponentials",
)

ATTENTION = r"""
attention_layer.LSHAttention                             || attention_layer.LSHAttention.backward
$Q = x\,W_q^⊤ \quad V = x\,W_v^⊤ \quad y = O\,W_o^⊤$     || $dO = dy\,W_o \quad dx = dQ\,W_q + dV\,W_v$

attention.lsh_attention                                  || attention.lsh_attention_backward
all steps below; keeps Q, V, π, O, m, l                  || needs dO and what forward kept

unit_length.unit_length                                  || unit_length.unit_length_backward
$K = s\,Q \quad s = (|Q|^2 + 10^{-6} D)^{-1/2}$          || $dQ \leftarrow dQ + s\,(dK - K\,(K \cdot dK))$

hashing.hash_vectors                                     || No gradient: h is a whole number.
$h_r = \mathrm{argmax}\,[\,Q\,\Omega_r;\,-Q\,\Omega_r\,]$ || Backward reuses forward's buckets:
Ω: random, a new one in each round                       || rounding errors could flip one.

hashing.sort_by_bucket                                   || tables.Scratch.scatter_add
$\pi_r = \mathrm{argsort}(h_r) \quad Q_r = Q[\pi_r]$       || $dQ[\pi_r] \leftarrow dQ[\pi_r] + dQ_r$

schedule.Schedule.windows                                || tables.add_windows
$S_n = Q_n\,[\,K_{n-1};\,K_n\,]^⊤$                       || $dQ_n = dS_{n,n-1}\,K_{n-1} + dS_{n,n}\,K_n$
for chunk n, in a circle of all rounds                   || $dK_n = dS_{n,n}^⊤\,Q_n + dS_{n+1,n}^⊤\,Q_{n+1}$

schedule.Schedule.forbid                                 || schedule.Schedule.forbid
$S_{ij} = -\infty \;\text{ where }\; j \geq i \;\text{ (causal)}$ || $P_{ij} = 0 \;\text{ and so }\; dS_{ij} = 0$

kernel.attend                                            || kernel.attend_backward
$S = Q\,K^⊤$                                             || $\Delta_i = dO_i \cdot O_i$
$m_i = \mathrm{max}_j\;S_{ij}$                           || $dV = P^⊤ dO$
$l_i = \Sigma_j\,\exp(S_{ij} - m_i)$                     || $dS = P \odot (dO\,V^⊤ - \Delta)$
$P_{ij} = \exp(S_{ij} - m_i)\,/\,l_i$                    || $dQ = dS\,K$
$O = P\,V$                                               || $dK = dS^⊤ Q$
$O_i = V_i \;\text{ where }\; l_i = 0$                   || $dV_i \leftarrow dV_i + dO_i \;\text{ where }\; l_i = 0$

kernel.running_softmax                                   || kernel.softmax_gradient
$m' = \mathrm{max}(m,\,\mathrm{max}_j\;S_{ij})$          || $dS = \exp(S - m) \odot (dO\,V^⊤ - \Delta)\,/\,l$
$l \leftarrow e^{m - m'} l + \Sigma_j\,\exp(S_{ij} - m')$ || All rounds are one softmax and share
$O \leftarrow e^{m - m'} O + \exp(S - m')\,V$            || m, l and Δ. Each S tile is recomputed.
tile by tile; at the end, O / l                          ||

schedule.Schedule.keep                                   || schedule.Schedule.keep
$O = (M \odot P)\,V$                                     || $dV = (M \odot P)^⊤ dO$
dropout: M is 0 or 1 / (1 − rate)                        || $dS = P \odot (M \odot (dO\,V^⊤) - \Delta)$
"""

REVERSIBLE = r"""
reversible.ReversibleStack.forward                       || reversible.ReversibleStack.backward
$x_1 = x_2 = x \;\text{ for the first block}$            || $x_2 = y_2 - G(y_1)$
$y_1 = x_1 + F(x_2)$                                     || $dx_1 = dy_1 + G'(y_1)^⊤ dy_2$
$y_2 = x_2 + G(y_1)$                                     || $x_1 = y_1 - F(x_2)$
keeps y₁ and y₂ of the last block,                       || $dx_2 = dy_2 + F'(x_2)^⊤ dx_1$
the seed, and every block's buckets                      || $dx = dx_1 + dx_2 \;\text{ for the first block}$
"""

FEED_FORWARD = r"""
reversible.PreNorm.forward                               || reversible.PreNorm.backward
$F(x) = \mathrm{attention}(\mathrm{norm}(x))$            || $dx = \mathrm{norm}'^⊤ \mathrm{attention}'^⊤ dy$
$G(x) = \mathrm{feedforward}(\mathrm{norm}(x))$          || $dx = \mathrm{norm}'^⊤ \mathrm{feedforward}'^⊤ dy$

layer_norm.layer_norm                                    || layer_norm.layer_norm_backward
$n = (x - \overline{x})\,/\,\sigma$                      || $dn = dy \odot w$
$\sigma^2 = \mathrm{var}\,x + \varepsilon$        || $dx = (dn - \overline{dn} - n \odot \overline{dn \odot n})/\sigma$
$y = n \odot w + b$                                      || $dw = \Sigma_t\,dy_t \odot n_t \quad db = \Sigma_t\,dy_t$

feed_forward.FeedForward.forward                         || feed_forward.FeedForward.backward
$h = x\,W_1^⊤ + b_1$                                     || $dh = dy\,W_2 \odot \mathrm{act}'(h) \quad dx = dh\,W_1$
$a = \mathrm{act}(h)$                                    || $dW_2 = \Sigma_c\,dy^⊤ a \quad db_2 = \Sigma_t\,dy_t$
$y = a\,W_2^⊤ + b_2$                                     || $dW_1 = \Sigma_c\,dh^⊤ x \quad db_1 = \Sigma_t\,dh_t$
chunk by chunk (c); keeps only x                         || Each chunk recomputes its h and a.

activations.relu                                         || activations.relu_backward
$y = \mathrm{max}(x,\,0)$                                || $dx = dy \odot [\,x > 0\,]$

activations.gelu                                         || activations.gelu_backward
$y = x\,\Phi(x)$                                         || $dx = dy \odot (\Phi(x) + x\,\varphi(x))$

activations.gelu_tanh                                    || activations.gelu_tanh_backward
$y = x\,p \quad c^2 = 2/\pi \quad a = 0.044715$          || $dx = dy \odot (p + x\,p')$
$p = (1 + \tanh(c\,(x + a x^3)))\,/\,2$                  || $p' = 2\,p\,(1 - p)\,c\,(1 + 3 a x^2)$

linear.linear                                            || linear.linear_backward
$y = x\,W^⊤ + b$                                         || $dx = dy\,W \quad dW = dy^⊤ x \quad db = \Sigma_t\,dy_t$

dropout.dropout                                          || dropout.dropout_backward
$y = M \odot x$                                          || $dx = M \odot dy \;\text{ with the same seed}$

embedding.embedding                                      || embedding.embedding_backward
$y_t = W[\mathrm{token}_t]$                              || $dW[i] = \Sigma_t\,[\,\mathrm{token}_t = i\,]\;dy_t$

positions.LearnedPositions.forward                       || positions.LearnedPositions.backward
$y_t = x_t + W_t$                                        || $dx_t = dy_t \quad dW_t = \Sigma_B\,dy_t$

positions.AxialPositions.forward                         || positions.AxialPositions.backward
$y_t = x_t + [\,U_i,\,W_j\,] \quad t = i\,b + j$         || $dU_i = \Sigma_{B,j}\,dy_t[:d_a]$
tables U (a, d_a) and W (b, d_b)                         || $dW_j = \Sigma_{B,i}\,dy_t[d_a:]$
"""

LOSS = r"""
heads.TokenHead.forward                                  || heads.TokenHead.backward
$z = f\,W^⊤ + b$                                         || $df = dz\,W \quad dW = dz^⊤ f \quad db = \Sigma_t\,dz_t$
f: LayerNorm of y₁ and y₂ side by side                   ||

losses.softmax_cross_entropy                             || losses.softmax_cross_entropy_backward
$\text{loss}_i = \text{logsumexp}\,z_i - z_i[t_i]$          || $dz_i = (\text{softmax}(z_i) - \text{onehot}(t_i))\,/\,n$
their mean; t: the n targets                             ||

losses.chunked_cross_entropy                             || losses.chunked_cross_entropy_backward
head, loss and gradients, one chunk                      || only multiplies by dloss: forward has
of positions at a time                                   || already computed df, dW and db
"""

COLUMNS = (
    (("Attention", ATTENTION), ("Reversible layers", REVERSIBLE)),
    (("Feed-forward and positions", FEED_FORWARD), ("Loss and head", LOSS)),
)


T, R, C, D_MODEL, D_FF, V, N, A, B = 65_536, 4, 64, 1024, 4096, 32_000, 12, 256, 256
PART = 1024  # positions that the feed-forward layer and the head take at a time
COSTS = (  # what is computed or kept, in a Transformer and in the Reformer: formulas, and the numbers that they give
    ("logits of a head, computed", "$T^2$", r"$T \cdot 2RC$", T**2, T * 2 * R * C),
    ("weights of a head, kept", "$T^2$", r"$2T:\; m \text{ and } l$", T**2, 2 * T),
    ("layer inputs of N blocks, kept", "$2NTd$", "$2Td$", 2 * N * T * D_MODEL, 2 * T * D_MODEL),
    ("hidden layer, at once", r"$T\,d_{ff}$", "one chunk", T * D_FF, PART * D_FF),
    ("vocabulary logits, at once", r"$T\,V$", "one chunk", T * V, PART * V),
    ("table of positions", r"$T\,d$", r"$(a + b)\,d\,/\,2$", T * D_MODEL, (A + B) * D_MODEL // 2),
)
SIZES = (
    f"T = a b = {T:,} tokens, C = {C}, R = {R},",
    f"d = {D_MODEL}, d_ff = {D_FF}, V = {V:,}, N = {N},",
    f"chunks of {PART:,}, one sequence, float32.",
    f"Up to T = 2RC = {2 * R * C}, hashing saves nothing.",
)


def rows(text):
    """The rows of a section: each a list of lines, and each line a pair of texts, forward and gradient."""
    return [[tuple(map(str.strip, line.split("||"))) for line in row.split("\n")] for row in text.strip().split("\n\n")]


def kind(text):
    """What a text is: "equation", "function" or "remark"."""
    return "equation" if text.startswith("$") else "function" if re.fullmatch(r"\w+(\.\w+)+", text) else "remark"
