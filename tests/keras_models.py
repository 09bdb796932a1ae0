"""Models of Keras, each with what it is called with; ``BUILDERS`` has those of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

#: Rows of every example.
ROWS = 6

Built = tuple[Any, Any]


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, *shape)).astype(np.float32)


def words(length: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (ROWS, length)).astype(np.int32)


def mlp() -> Built:
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(32, activation="gelu"),
            layers.Dropout(0.5),
            layers.Dense(5, activation="softmax"),
        ]
    )
    return model, floats(12)


def cnn() -> Built:
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Rescaling(0.5),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.MaxPooling2D(2),
            layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
            layers.GroupNormalization(2),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    return model, floats(12, 12, 3)


def resnet() -> Built:
    """Batch norm, skips, a frozen stem."""
    start = keras.Input((12, 12, 3), name="image")
    stem = layers.Conv2D(8, 3, padding="same", name="stem")
    stem.trainable = False
    x = stem(start)
    for block in range(2):
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv_{block}a")(x)
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm_{block}a")(y))
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv_{block}b")(y)
        x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization(name=f"norm_{block}b")(y)]))
    return keras.Model(start, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))), floats(
        12, 12, 3
    )


def lstm() -> Built:
    model = keras.Sequential(
        [
            keras.Input((7, 5)),
            layers.LSTM(8, return_sequences=True),
            layers.Bidirectional(layers.GRU(6)),
            layers.Dense(3),
        ]
    )
    return model, floats(7, 5)


def transformer() -> Built:
    start = keras.Input((9,), dtype="int32", name="words")
    x = layers.Embedding(30, 16)(start)
    for block in range(2):
        y = layers.LayerNormalization(name=f"norm_{block}a")(x)
        x = x + layers.MultiHeadAttention(2, 8, name=f"attention_{block}")(
            y, y, use_causal_mask=True
        )
        y = layers.LayerNormalization(name=f"norm_{block}b")(x)
        y = layers.Dense(32, activation="silu", name=f"up_{block}")(y)
        x = x + layers.Dense(16, name=f"down_{block}")(y)
    return keras.Model(start, layers.Dense(4)(layers.GlobalAveragePooling1D()(x))), words(9, 30)


def shared() -> Built:
    """Two inputs, in a mapping, through the same layers."""
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    tower = keras.Sequential(
        [keras.Input((6,)), layers.Dense(16, activation="tanh"), layers.Dense(8)]
    )
    joined = layers.Concatenate()([tower(left), tower(right)])
    model = keras.Model({"left": left, "right": right}, layers.Dense(3)(joined))
    return model, {"left": floats(6), "right": -floats(6)}


class Tied(keras.Model):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__(name="tied")
        self.embedding = layers.Embedding(20, 12, name="embedding")
        self.hidden = layers.Dense(12, activation="relu", name="hidden")

    def call(self, words: Any) -> Any:
        x = self.hidden(self.embedding(words))
        return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))


def tied() -> Built:
    model, example = Tied(), words(5, 20)
    model(example)
    return model, example


def application(name: str, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        kind = getattr(keras.applications, name)
        return kind(input_shape=(32, 32, 3), weights=None, classes=7, **options), floats(32, 32, 3)

    return build


#: Quick on every backend.
SMALL: dict[str, Callable[[], Built]] = {
    f.__name__: f for f in (mlp, cnn, resnet, lstm, transformer, shared, tied)
}

#: Whole architectures of keras.applications, with random weights.
APPLICATIONS = {
    "MobileNet": application("MobileNet", alpha=0.25),
    "MobileNetV2": application("MobileNetV2", alpha=0.35),
    "ResNet50": application("ResNet50"),
    "EfficientNetB0": application("EfficientNetB0"),
    "DenseNet121": application("DenseNet121"),
    "ConvNeXtTiny": application("ConvNeXtTiny"),
}
