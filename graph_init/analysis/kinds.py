"""Tables: the kind of the tensor that each input of an operator reads, and what follows from it."""

from __future__ import annotations

# Most weight-like first: with several uses the first kind in this tuple wins. "quantized" leads
# because a tensor with an integer use must not be changed, whatever else reads it.
KINDS = (
    "quantized",
    "embedding",
    "convolution kernel",
    "recurrent",
    "matrix",
    "position",
    "token",
    "norm gain",
    "norm shift",
    "bias",
    "activation slope",
    "gain",
    "other",
    "running statistic",
    "constant",
    "unused",
)
RANK = {kind: place for place, kind in enumerate(KINDS)}
NEVER_TRAINED = frozenset({"quantized", "running statistic", "constant", "unused"})
# Scaled whenever they are trained; of the other kinds only TABLES with two or more real axes.
WEIGHTS = frozenset({"embedding", "convolution kernel", "recurrent", "matrix"})
TABLES = frozenset({"position", "token", "other"})

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})

# Input 0 goes on, with the same numbers in another arrangement.
VIEWS = frozenset(
    "Transpose Reshape Flatten Cast CastLike Identity Squeeze Unsqueeze Expand Split Slice "
    "Tile Dropout DepthToSpace SpaceToDepth".split()
)
RANDOM = frozenset(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial".split()
)

LINEAR = frozenset("MatMul FusedMatMul Gemm Einsum Conv FusedConv ConvTranspose".split())
MATRIX_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "Einsum"})
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})

SLOTS: dict[tuple[str, int], str] = {
    **{
        (op, 1): "convolution kernel" for op in ("Conv", "FusedConv", "ConvTranspose", "DeformConv")
    },
    **{(op, 2): "bias" for op in ("Conv", "FusedConv", "ConvTranspose", "Gemm", "Attention")},
    ("DeformConv", 3): "bias",
    **{(op, slot): "recurrent" for op in ("LSTM", "GRU", "RNN") for slot in (1, 2)},
    **{(op, 3): "bias" for op in ("LSTM", "GRU", "RNN")},
    ("LSTM", 7): "bias",
    ("STFT", 2): "constant",  # the window
    **{(op, slot): "constant" for op in ("LSTM", "GRU", "RNN") for slot in (4, 5, 6)},
    **{
        (op, slot): kind
        for op in (
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "LayerNormalization",
            "SimplifiedLayerNormalization",
            "RMSNormalization",
            "GroupNorm",
        )
        for slot, kind in ((1, "norm gain"), (2, "norm shift"))
    },
    ("BatchNormalization", 3): "running statistic",
    ("BatchNormalization", 4): "running statistic",
    ("SkipLayerNormalization", 2): "norm gain",
    ("SkipLayerNormalization", 3): "norm shift",
    ("SkipLayerNormalization", 4): "bias",
    ("SkipSimplifiedLayerNormalization", 2): "norm gain",
    ("SkipSimplifiedLayerNormalization", 3): "bias",
    ("EmbedLayerNormalization", 2): "embedding",
    ("EmbedLayerNormalization", 3): "position",
    ("EmbedLayerNormalization", 4): "embedding",
    ("EmbedLayerNormalization", 5): "norm gain",
    ("EmbedLayerNormalization", 6): "norm shift",
    ("PRelu", 1): "activation slope",
    ("BiasGelu", 1): "bias",
    ("FastGelu", 1): "bias",
    ("MultiHeadAttention", 3): "bias",
}
# Every float input that SLOTS does not name is a fixed setting of these operators.
SETTINGS = frozenset(
    "Where Pow Max Min Clip Pad Equal Greater Less GreaterOrEqual LessOrEqual Mod OneHot Range "
    "Resize Upsample RotaryEmbedding SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss "
    "TopK NonMaxSuppression".split()
)
QUANTIZED = frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger "
    "MatMulIntegerToFloat DynamicQuantizeMatMul DynamicQuantizeLSTM MatMulNBits MatMulBnb4 "
    "GatherBlockQuantized QAttention".split()
)

ACTIVATIONS = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Gelu FastGelu BiasGelu QuickGelu Sigmoid Tanh HardSigmoid "
    "HardSwish Softplus Softsign Mish Swish ThresholdedRelu Softmax LogSoftmax Sin Cos Clip Erf "
    "Exp Abs Sign Hardmax".split()
)
NORMS = frozenset(op for (op, _), kind in SLOTS.items() if kind == "norm gain") | {
    "LpNormalization",
    "LRN",
    "MeanVarianceNormalization",
}
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
# Gates written out as x · f(x): the function inside says which activation it is. First hit wins.
GATED = (
    ("Erf", "Gelu"),
    ("Softplus", "Mish"),
    ("Tanh", "Gelu"),
    ("Sigmoid", "Silu"),
    ("HardSigmoid", "HardSwish"),
)
GATE_PARTS = frozenset(
    "Mul Div Add Sub Pow Erf Tanh Sigmoid HardSigmoid Softplus Cast Identity Clip".split()
)

#: Which running statistic an operator's slot reads, in BatchNormalization and where it is written
#: out: the mean is subtracted, and the variance goes under a root, first with an epsilon added.
STATISTICS = {
    ("BatchNormalization", 3): "mean",
    ("BatchNormalization", 4): "variance",
    ("Sub", 1): "mean",
    ("Add", 0): "variance",
    ("Add", 1): "variance",
    ("Sub", 0): "variance",
    ("Sqrt", 0): "variance",
    ("Rsqrt", 0): "variance",
    ("Reciprocal", 0): "variance",
}
