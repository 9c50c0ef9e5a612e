#include "cuda_shim.hpp"

#include "../../kernels/beams.cu"

SHIM_EXPORT(beams_reachable, float)
SHIM_EXPORT(beams_reachable, double)
