"""Gates that compare a candidate with a baseline and return a verdict with its reason.

`exact` compares costs that are known without running; `timing` compares times on this machine.
`outcome` is the common form of a finding; `markdown` and `junit` write it to files.
"""
