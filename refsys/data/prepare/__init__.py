"""Building of entries from files: `entries` for one, `parallel` for many, `fetch` for downloads.

`structure_record`, `msa_pairing`, `templates` and `homology` compute the records of an entry;
`similarity` searches all entries of a store for templates and clusters of similar chains.
"""
