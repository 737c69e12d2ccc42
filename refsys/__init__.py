"""Reference system: model, operators, data pipeline, losses and training, without measuring code.

It imports no other package of the project. ``model`` is AlphaFold 3 in readable PyTorch, ``ops``
the fused operators that it calls, ``parallel`` the layouts of the pair representation over ranks,
``data`` the deterministic pipeline from mmCIF to batch, ``losses`` the loss terms and ``training``
the training step and its loop. The modules of this folder itself are shared by several of these.
"""
