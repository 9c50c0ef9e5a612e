"""The kernels compile for every GPU generation that the package speaks of; running them needs a GPU."""

import shutil
import subprocess

import pytest

from gpuediff.arrays import kernel_source

NVCC = shutil.which("nvcc")
INSTANCES = {
    "beams": [f"beams_reachable<{dtype}>" for dtype in ("float", "double")],
    "bloch_chebyshev": [
        f"bloch_{stage}<{dtype}>"
        for stage in ("fill", "bounds_gathered", "bounds_dense", "expand_gathered", "expand_dense")
        for dtype in ("float", "double")
    ],
    "lattice_index": [f"lattice_index<{dtype}>" for dtype in ("float", "double")],
    "radial_basis": [
        f"radial_basis_{layout}<{dtype}>" for layout in ("coefficients", "polar") for dtype in ("float", "double")
    ],
    "structure_factors": [f"structure_factors<{dtype}>" for dtype in ("float", "double")],
}


def test_every_kernel_is_compiled_here():
    assert {path.stem for path in kernel_source("radial_basis").parent.glob("*.cu")} == set(INSTANCES)


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("name", INSTANCES)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_the_kernels_compile_without_warnings_or_spills(name, architecture, tmp_path):
    # Taking the address of an instance makes nvcc compile it.
    takers = [f"void* instance_{i}() {{ return (void*){name}; }}" for i, name in enumerate(INSTANCES[name])]
    source = tmp_path / f"{name}.cu"
    source.write_text("\n".join([f'#include "{kernel_source(name)}"', *takers]), encoding="utf-8")
    command = [NVCC, "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas", "-v", "-Werror", "all-warnings"]
    result = subprocess.run(
        [*command, str(source), "-o", str(tmp_path / "out.cubin")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    functions = result.stderr.count("bytes spill stores")  # the instances, and what they call without inlining it
    assert functions >= len(INSTANCES[name])
    assert result.stderr.count(" 0 bytes spill stores, 0 bytes spill loads") == functions
