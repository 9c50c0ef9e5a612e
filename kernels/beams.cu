// Which of a pattern's beams a chain of couplings connects with the direct beam, as `_keep_reachable` in
// gpuediff/diffraction/beams.py finds them.
//
// T is the type of the coupling table.
//
// Grid.    Block x has pattern x, of beams offsets[x] .. offsets[x + 1]. Patterns of one launch are of one crystal.
// Thread.  Thread t owns beams t, t + blockDim.x, ... In every round, each beam that was not reached looks whether one
//          of those reached in the round before couples to it; the last round reaches none. In a primitive cell the
//          direct beam couples to nearly all, so that the first round, one look a beam, leaves little to do.
//          What a round reads, no thread writes before the barrier.
// Shared.  address [n] int, found [blockDim.x] int, state [n] and pending [n] unsigned char, n being the most beams of a
//          pattern (`shared_memory` in gpuediff/diffraction/gpu_beams.py).
// Caller.  Beam j scatters into beam i by coupling[centre + address[j] - address[i]]; one that is squared not above
//          `squared_least` counts as zero. The direct beam has address 0. `reached` is written 0 or 1.

// The one dynamic array of shared memory; double2 so that it is aligned for every type.
extern __shared__ double2 shared_memory[];

template <typename T>
struct ComplexOf;
template <>
struct ComplexOf<float> {
    using type = float2;
};
template <>
struct ComplexOf<double> {
    using type = double2;
};

enum State : unsigned char { NOT_REACHED, JUST_REACHED, LOOKED_FROM };

template <typename T>
__global__ void beams_reachable(const typename ComplexOf<T>::type* coupling, long long centre, double squared_least,
                                const int* address, const long long* offsets, int* reached) {
    const long long first = offsets[blockIdx.x];
    const int n = int(offsets[blockIdx.x + 1] - first);
    int* const own_address = reinterpret_cast<int*>(shared_memory);
    int* const found = own_address + n;
    unsigned char* const state = reinterpret_cast<unsigned char*>(found + blockDim.x);
    unsigned char* const pending = state + n;

    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        own_address[j] = address[first + j];
        state[j] = own_address[j] == 0 ? JUST_REACHED : NOT_REACHED;
        pending[j] = 0;
    }
    __syncthreads();

    bool more = true;
    while (more) {
        int own_found = 0;
        for (int j = threadIdx.x; j < n; j += blockDim.x) {
            if (state[j] != NOT_REACHED) continue;
            const typename ComplexOf<T>::type* const to_here = coupling + (centre - own_address[j]);
            for (int from = 0; from < n && !pending[j]; ++from) {
                if (state[from] != JUST_REACHED) continue;
                const double real = to_here[own_address[from]].x;
                const double imaginary = to_here[own_address[from]].y;
                pending[j] = real * real + imaginary * imaginary > squared_least;
            }
            own_found |= pending[j];
        }
        found[threadIdx.x] = own_found;
        __syncthreads();
        more = false;
        for (int t = 0; t < int(blockDim.x); ++t) more = more || found[t];
        for (int j = threadIdx.x; j < n; j += blockDim.x) {
            if (state[j] == JUST_REACHED) state[j] = LOOKED_FROM;
            if (pending[j]) state[j] = JUST_REACHED;
            pending[j] = 0;
        }
        __syncthreads();
    }
    for (int j = threadIdx.x; j < n; j += blockDim.x) reached[first + j] = state[j] != NOT_REACHED;
}
