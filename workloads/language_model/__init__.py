"""The language model that AlphaFold 3 is compared with: BLOOM-560M, and a Llama of its size.

`presets` has the sizes, `model` the model, `attention` and `losses` its two costly parts, plain and
fused, `training` the step and `program` its phases, `matching` how much text equals a protein.
Nothing here knows who measures.
"""
