// Kernels with the faults that the shim is there to find.
#include "cuda_shim.hpp"

extern __shared__ double2 shared_memory[];

template <typename T>
__global__ void sum_without_barrier(const T* values, T* out) {
    T* const shared = reinterpret_cast<T*>(shared_memory);
    shared[threadIdx.x] = values[threadIdx.x];
    if (threadIdx.x == 0) {
        T sum = 0;
        for (unsigned int t = 0; t < blockDim.x; ++t) sum += shared[t];
        out[0] = sum;
    }
}

template <typename T>
__global__ void sum_with_barrier(const T* values, T* out) {
    T* const shared = reinterpret_cast<T*>(shared_memory);
    shared[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        T sum = 0;
        for (unsigned int t = 0; t < blockDim.x; ++t) sum += shared[t];
        out[0] = sum;
    }
}

template <typename T>
__global__ void returns_before_barrier(const T*, T* out) {
    if (threadIdx.x == 3) return;
    __syncthreads();
    out[0] = 1;
}

template <typename T>
__global__ void waits_at_two_barriers(const T*, T* out) {
    if (threadIdx.x == 3) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[0] = 1;
}

template <typename T>
__global__ void writes_past_shared(const T*, T* out) {
    reinterpret_cast<T*>(shared_memory)[threadIdx.x + 1] = T(1);
    out[0] = 1;
}

SHIM_EXPORT(sum_without_barrier, double)
SHIM_EXPORT(sum_with_barrier, double)
SHIM_EXPORT(returns_before_barrier, double)
SHIM_EXPORT(waits_at_two_barriers, double)
SHIM_EXPORT(writes_past_shared, double)
