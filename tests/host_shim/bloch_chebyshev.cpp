#include "cuda_shim.hpp"

#include "../../kernels/bloch_chebyshev.cu"

SHIM_EXPORT(bloch_fill, float)
SHIM_EXPORT(bloch_fill, double)
SHIM_EXPORT(bloch_bounds_gathered, float)
SHIM_EXPORT(bloch_bounds_gathered, double)
SHIM_EXPORT(bloch_bounds_dense, float)
SHIM_EXPORT(bloch_bounds_dense, double)
SHIM_EXPORT(bloch_expand_gathered, float)
SHIM_EXPORT(bloch_expand_gathered, double)
SHIM_EXPORT(bloch_expand_dense, float)
SHIM_EXPORT(bloch_expand_dense, double)
