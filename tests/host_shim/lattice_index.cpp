#include "cuda_shim.hpp"

#include "../../kernels/lattice_index.cu"

SHIM_EXPORT(lattice_index, float)
SHIM_EXPORT(lattice_index, double)
