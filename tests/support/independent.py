"""Independent reader of mmCIF and BinaryCIF files by biotite alone, to compare ours with."""

import gzip
import io
from collections import Counter

import numpy as np
from biotite.structure import info
from biotite.structure.io import pdbx

STANDARD = frozenset(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL UNK "
    "A G C U N DA DG DC DT DN".split()
)
PROTEIN_FRAME, NUCLEOTIDE_FRAME = {"N", "CA", "C"}, {"C1'", "C3'", "C4'"}
COVALENT = {"covale", "covale_base", "covale_phosphate", "covale_sugar"}
NOTHING = {"?", ".", ""}
LONGEST_BOND = 2.4


def counts(path):
    """Count chains, tokens, atoms, resolved atoms, bonds and frames of the asymmetric unit."""
    block = block_of(path)
    modelled = modelled_atoms(block)
    leaving, connections = connected(block, modelled)
    total = Counter(bonds=connections)
    for key, (component, polymer, is_first, is_last) in residues_of(block, modelled).items():
        modelled_names = modelled.get(key, {})
        names, has_conformer, bonds = component_atoms(component, modelled_names, block)
        left_out = leaving.get(key, set())
        left_out |= {"OXT"} if "peptide" in polymer and not is_last else set()
        left_out |= {"OP3"} if "nucleotide" in polymer and not is_first else set()
        names = [name for name in names if name not in left_out]
        total["atoms"] += len(names)
        total["modelled"] += sum(
            modelled_names[name].occupancy > 0 for name in names if name in modelled_names
        )
        if polymer and component in STANDARD:
            frame = PROTEIN_FRAME if "peptide" in polymer else NUCLEOTIDE_FRAME
            total["tokens"] += 1
            total["frames"] += frame <= set(names)
        else:
            total["tokens"] += max(1, len(names))
            total["frames"] += len(names) if has_conformer and len(names) >= 3 else 0
            total["bonds"] += sum(one in names and two in names for one, two in bonds)
    return {"chains": len(chains_of(block)), **total}


def residue_names(path):
    """Return (chain, component) of each residue of the asymmetric unit."""
    block = block_of(path)
    residues = residues_of(block, modelled_atoms(block))
    return [(chain, component) for (chain, _), (component, *_) in residues.items()]


def block_of(path):
    """Return the data block that has atoms."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    if ".bcif" in path.suffixes:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    else:
        file = pdbx.CIFFile.read(io.StringIO(content.decode()))
    return next(block for block in file.values() if "atom_site" in block)


def table(block, category, *names):
    """Return the rows of a category, `?` for a column that it lacks."""
    if category not in block:
        return []
    count = block[category].row_count
    columns = [
        block[category][name].as_array(str).tolist() if name in block[category] else ["?"] * count
        for name in names
    ]
    return list(zip(*columns, strict=True))


def chains_of(block):
    """Return the entity of each chain that is not water."""
    kinds = dict(table(block, "entity", "id", "type"))
    chains = table(block, "struct_asym", "id", "entity_id")
    return {chain: entity for chain, entity in chains if kinds[entity] != "water"}


def residue_key(chain, label_number, author_number):
    return chain, f"auth {author_number}" if label_number in NOTHING else label_number


def modelled_atoms(block):
    """Return the first model's heavy atoms of the best occupied location, by residue and name."""
    file = pdbx.CIFFile({"x": block})
    atoms = pdbx.get_structure(
        file,
        model=1,
        altloc="all",
        use_author_fields=False,
        extra_fields=["label_asym_id", "label_seq_id", "auth_seq_id", "occupancy"],
    )
    residues = {}
    for atom, location in zip(atoms, atoms.altloc_id, strict=True):
        if atom.element not in {"H", "D"}:
            key = residue_key(atom.label_asym_id, atom.label_seq_id, atom.auth_seq_id)
            name = "" if location in NOTHING else location
            residues.setdefault(key, {}).setdefault(name, []).append(atom)
    return {key: best_location(locations) for key, locations in residues.items()}


def best_location(locations):
    """Return the atoms of the location that has the largest occupied share of its component."""
    shared = locations.pop("", [])
    best = []
    if locations:
        every = [*shared, *(atom for atoms in locations.values() for atom in atoms)]

        def share(name):
            component = locations[name][0].res_name
            location = [atom for atom in shared if atom.res_name == component] + locations[name]
            size = component_size(component, every)
            return round(sum(float(np.float32(atom.occupancy)) for atom in location) / size, 4)

        best = locations[max(sorted(locations), key=share)]
        rejected = {a.res_name for atoms in locations.values() for a in atoms}
        rejected -= {best[0].res_name}
        shared = [atom for atom in shared if atom.res_name not in rejected]
    return {atom.atom_name: atom for atom in (*shared, *best)}


def component_size(component, atoms):
    """Return the number of heavy atoms that do not leave; of the file's without a definition."""
    table = info.get_from_ccd("chem_comp_atom", component)
    if table is None:
        return len({atom.atom_name for atom in atoms if atom.res_name == component})
    heavy = ~np.isin(np.char.upper(table["type_symbol"].as_array(str)), ["H", "D"])
    return max(int((heavy & (table["pdbx_leaving_atom_flag"].as_array(str) != "Y")).sum()), 1)


def residues_of(block, modelled):
    """Return (component, type of polymer or "", is first, is last) of each residue."""
    polymers = dict(table(block, "entity_poly", "entity_id", "type"))
    sequences = {}
    for entity, number, component in table(block, "entity_poly_seq", "entity_id", "num", "mon_id"):
        sequences.setdefault(entity, {}).setdefault(number, component)
    component_of = {key: next(iter(atoms.values())).res_name for key, atoms in modelled.items()}
    residues = {}
    for chain, entity in chains_of(block).items():
        if entity in polymers:
            last = str(len(sequences[entity]))
            for number, listed in sequences[entity].items():
                component = component_of.get((chain, number), listed)
                ends = number == "1", number == last
                residues[chain, number] = (component, polymers[entity], *ends)
        else:
            keys = [key for key in modelled if key[0] == chain]
            residues |= {key: (component_of[key], "", False, False) for key in keys}
    return residues


def component_atoms(component, modelled_names, block):
    """Return names, whether a conformer is known, and bonds of a component's heavy atoms."""
    try:
        whole = info.residue(component, allow_missing_coord=True)
    except KeyError:
        rows = table(block, "chem_comp_bond", "comp_id", "atom_id_1", "atom_id_2")
        return (
            list(modelled_names),
            False,
            [(one, two) for name, one, two in rows if name == component],
        )
    heavy = whole[~np.isin(whole.element, ["H", "D"])]
    names = heavy.atom_name.tolist()
    bonds = [(names[one], names[two]) for one, two, _ in heavy.bonds.as_array()]
    return names, not np.isnan(heavy.coord).any(), bonds


def connected(block, modelled):
    """Return the leaving atoms by residue, and the number of bonds between residues."""
    parts = ("label_asym_id", "label_seq_id", "auth_seq_id", "label_atom_id", "symmetry")
    columns = [f"ptnr{end}_{part}" for end in (1, 2) for part in parts]
    leaving, bonds = {}, set()
    for kind, *row in table(block, "struct_conn", "conn_type_id", *columns):
        sides = row[: len(parts)], row[len(parts) :]
        ends = tuple((residue_key(*side[:3]), side[3]) for side in sides)
        atoms = [modelled.get(key, {}).get(name) for key, name in ends]
        operators = {side[4] for side in sides} - NOTHING - {"1_555"}
        if kind not in COVALENT or operators or None in atoms or ends[0] == ends[1]:
            continue
        for (key, name), atom in zip(ends, atoms, strict=True):
            leaving.setdefault(key, set()).update(leaving_names(atom.res_name, name))
        if np.linalg.norm(atoms[0].coord - atoms[1].coord) <= LONGEST_BOND:
            bonds.add(frozenset(ends))
    return leaving, len(bonds)


def leaving_names(component, name):
    """Return the atoms that leave a component when its atom of that name is bonded to another."""
    atoms = info.get_from_ccd("chem_comp_atom", component)
    if atoms is None:
        return set()
    leave = atoms["pdbx_leaving_atom_flag"].as_array(str) == "Y"
    leave = set(atoms["atom_id"].as_array(str)[leave].tolist())
    pairs = component_atoms(component, {}, {})[2]
    return leave & {b for pair in pairs for a, b in (pair, pair[::-1]) if a == name}
