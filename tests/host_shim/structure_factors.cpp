#include "cuda_shim.hpp"

#include "../../kernels/structure_factors.cu"

SHIM_EXPORT(structure_factors, float)
SHIM_EXPORT(structure_factors, double)
