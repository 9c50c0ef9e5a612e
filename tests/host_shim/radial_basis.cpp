#include "cuda_shim.hpp"

#include "../../kernels/radial_basis.cu"

SHIM_EXPORT(radial_basis_coefficients, float)
SHIM_EXPORT(radial_basis_coefficients, double)
SHIM_EXPORT(radial_basis_polar, float)
SHIM_EXPORT(radial_basis_polar, double)
