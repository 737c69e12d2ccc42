"""Reference system: everything that trains, and nothing that measures.

It imports no other package of the project. ``model`` is AlphaFold 3 in readable PyTorch, ``ops``
the fused operators that it calls, ``parallel`` the layouts of the pair representation over ranks,
``data`` the deterministic pipeline from mmCIF to batch, ``losses`` the loss terms, ``training``
the training step and its loop, and ``costs`` the costs of a program, from shapes alone. The modules
of this folder itself are shared by several of these.
"""
