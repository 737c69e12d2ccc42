"""Language models that AlphaFold 3 is compared with: BLOOM-560M and a Llama of the same size.

`presets` defines the sizes, `model` the model, `attention` and `losses` the plain and fused forms
of its two most expensive parts, `training` the training step, `program` its phases, and `matching`
the sequence length of a comparison. No module of this package depends on the measuring code.
"""
