"""Reading the parameter tables that lie beside this file."""

from __future__ import annotations

from importlib import resources

import numpy as np

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb
Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db
Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(_SYMBOLS.split())  # of atomic number Z at Z - 1


def read_table(name: str) -> np.ndarray:
    """Read the parameters of one table.

    Parameters
    ----------
    name : str
        File name of a table: comment lines, a line of column names, then one line an element without gaps,
        beginning with its atomic number and symbol.

    Returns
    -------
    array, shape (elements, parameters), float64, not writeable
        Row Z - 1 belongs to atomic number Z.
    """
    with resources.files(__package__).joinpath(name).open(encoding="utf-8") as lines:
        rows = [line.rstrip().split(",") for line in lines if line[0].isdigit()]
    table = np.array([row[2:] for row in rows], dtype=np.float64)
    table.setflags(write=False)
    return table
