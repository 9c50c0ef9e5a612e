"""The reference data can be made again."""

from pathlib import Path

import h5py
import numpy as np
import pytest

FOLDER = Path(__file__).with_name("py4dstem")


@pytest.mark.py4dstem
def test_the_generator_makes_the_reference_data_again(tmp_path):
    pytest.importorskip("py4DSTEM", reason="py4DSTEM is not installed: pip install 'gpuediff[py4dstem]'")
    from tests.oracle.py4dstem.generate import main

    main(tmp_path / "again.h5", names=["Au"])
    with h5py.File(FOLDER / "reference.h5") as kept, h5py.File(tmp_path / "again.h5") as again:
        compared = []

        def compare(name, entry):
            if isinstance(entry, h5py.Dataset):
                np.testing.assert_allclose(again["Au"][name][()], entry[()], rtol=1e-9, atol=1e-12, err_msg=name)
                compared.append(name)

        kept["Au"].visititems(compare)
    assert any(name.endswith("intensity") for name in compared)
