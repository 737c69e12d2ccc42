"""Preparation of entries, done once: `entries` for one, `parallel` for many, `fetch` for downloads.

`structure_record`, `msa_pairing`, `templates` and `homology` compute the records of an entry;
`similarity` relates the entries of a store by sequence (template candidates and clusters).
"""
