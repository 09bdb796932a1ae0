"""Models of Keras and JAX, given to the frontends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tools.loss_models.model import CE, Model, Subject

#: keras.applications: classifiers of ImageNet, and the softmax of their authors or bare logits.
_APPLICATIONS = (
    ("MobileNet", "softmax"),
    ("MobileNetV2", None),
    ("MobileNetV3Small", "softmax"),
    ("EfficientNetB0", None),
    ("ResNet50", "softmax"),
    ("ResNet50V2", None),
    ("VGG16", "softmax"),
    ("VGG19", None),
    ("ConvNeXtTiny", None),
    ("DenseNet121", None),
)


def _application(name: str, activation: str | None) -> Subject:
    """Random weights, ten classes, images of 32×32."""
    import keras

    made = getattr(keras.applications, name)(
        weights=None, classes=10, input_shape=(32, 32, 3), classifier_activation=activation
    )
    return made, (np.zeros((2, 32, 32, 3), np.float32),), {}


def _segmentation() -> Subject:
    """A small U-Net; its classes are on the last axis."""
    import keras
    from keras import layers

    start = keras.Input((16, 16, 3))
    wide = layers.Conv2D(8, 3, padding="same", activation="relu")(start)
    low = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(wide)
    high = layers.Conv2DTranspose(8, 2, 2, activation="relu")(low)
    made = layers.Conv2D(5, 1)(layers.Concatenate()([wide, high]))
    return keras.Model(start, made), (np.zeros((2, 16, 16, 3), np.float32),), {}


def keras() -> list[Model]:
    import keras

    from tests import keras_models

    def compiled(with_loss: Any, build: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Subject:
            model, example = build()
            if with_loss is not None:
                model.compile(loss=with_loss)
            return model, (example,), {}

        return made

    small = keras_models.SMALL
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return [
        Model("Keras MLP with softmax", CE, compiled(None, small["mlp"])),
        Model("Keras CNN of four classes", CE, compiled(None, small["cnn"])),
        Model("Keras ResNet of four classes", CE, compiled(None, small["resnet"]), aside=True),
        Model("Keras language model, tied", CE, compiled(None, small["tied"])),
        Model("Keras transformer, compiled: sparse", CE, compiled(sparse, small["transformer"])),
        Model("Keras U-Net of five classes", CE, _segmentation, aside=True),
        *(
            Model(
                f"keras.applications.{name}, {activation or 'logits'}",
                CE,
                partial(_application, name, activation),
                aside=True,
            )
            for name, activation in _APPLICATIONS
        ),
    ]


def jax() -> list[Model]:
    from tests.jax_models import MODELS

    def build(name: str) -> Callable[[], Any]:
        def made() -> Subject:
            model, params, example = MODELS[name]()
            return model, example, {"params": params}

        return made

    names = (
        "function",
        "function, tied embedding",
        "Linen, convolutions",
        "NNX, transformer",
        "Equinox, MLP",
    )
    return [Model(f"JAX: {name}", CE, build(name)) for name in names]
