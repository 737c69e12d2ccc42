"""Reference system: everything that trains, and nothing that measures.

Imports nothing else of the project. ``model`` is AlphaFold 3 in readable PyTorch, ``ops`` the
fused operators that it calls, ``parallel`` the layouts of the pair representation over ranks,
``data`` the deterministic pipeline from mmCIF to batch, ``losses`` the loss terms, ``training`` the
step and its loop, and ``costs`` what a program costs, from shapes alone. Modules of this folder are
shared by several of these.
"""
