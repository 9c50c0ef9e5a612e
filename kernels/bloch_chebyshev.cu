// Bloch waves through crystals: intensities |exp(2 pi i t A) e_0|^2 of many patterns, by the Chebyshev expansion of
// gpuediff/diffraction/chebyshev.py (H. Tal-Ezer and R. Kosloff, J. Chem. Phys. 81, 3967, 1984). A_gh = U/(2 k0) off
// the diagonal, A_gg = s_g; the damping that all beams share is a factor apart.
//
//   `bloch_fill<T>`                        writes the matrices iA of patterns to global memory, for the dense variant
//   `bloch_bounds_gathered<T>`, `_dense`   measures between which two numbers the eigenvalues of A lie
//   `bloch_expand_gathered<T>`, `_dense`   goes through the crystal and writes the intensities
//
// T is the type of the matrix and of the Chebyshev vectors. What is summed up and carried from step to step is double
// always, as on the CPU: it is N numbers a term against N^2, and errors add up there.
//
// Variants. An element of iA depends on the difference of two reflections only. `gathered` looks it up in the crystal's
//          coupling table at every use: a pattern's differences are a few times N elements, some 10 to 50 kB, which
//          stay in L1, but neighbouring threads read where their reflections happen to lie. `dense` reads a matrix that
//          was filled once, N^2 elements, neighbouring threads neighbouring elements; many blocks' matrices together
//          exceed L2 (1 MB each at N = 350 in float), so that it is bound by the device's memory. Which is faster is
//          for a measurement to say (benchmarks/bloch_gpu.py); both do the same sums in the same order.
// Grid.    Block x has pattern which[x]. Patterns of one launch may be of different crystals and different N, but the
//          shared memory is that of the largest. `bloch_fill` has pattern x, and every gridDim.y-th column from y.
// Thread.  Thread t owns rows t, t + blockDim.x, ... of every vector, and is the only one to write them. In a product
//          with iA the block is `slices` groups of blockDim.x / slices threads: every group takes part of the columns,
//          and the owners add up the parts. A row is summed by one thread, so that a column's element of x is one
//          broadcast, and a dense column one coalesced read; four columns at once keep loads in flight.
//          No atomics, and sums of a fixed order: the result has the same bits every time.
// Shared.  sums [outputs][n] double2, scratch [blockDim.x] double2, tridiagonal [2][12] double, vectors [2][n4] T2,
//          address [n4] int, diagonal [n] T, n4 being n rounded up to a multiple of 4. The bytes are counted by
//          `launch_geometry` in gpuediff/diffraction/gpu_propagation.py; the bounds need no sums.
// Caller.  blockDim.x is a multiple of 32 and of `slices`, at most 256; where slices > 1, n <= blockDim.x / slices.
//          `coupling` holds iA without the diagonal, the tables of all crystals one behind the other, 0 at each
//          `centre`; `address` of a pattern are distinct, and 0 for the direct beam; all is finite. `matrix_start` are
//          multiples of 16 elements. Expansion e is steps first_step[e] .. first_step[e + 1], each of 5 numbers: where
//          its coefficients [terms][outputs] start, terms (>= 2), where its distances (Å from the end of the step
//          before) start, outputs (>= 1, no more than there is shared memory for), and the thickness that the first
//          output is; -1 where none is to be written. `intensity` is [thicknesses][stride], pattern p from offsets[p].
//          status[p] is 0, or 1 if the Chebyshev vectors have grown: the half-width was too narrow, and the pattern's
//          intensities are not to be used.

// The one dynamic array of shared memory; double2 so that it is aligned for every T.
extern __shared__ double2 shared_memory[];

constexpr int LANCZOS_ITERATIONS = 12;  // as many as on the CPU
constexpr int BISECTIONS = 40;          // halve an interval to the precision of double
constexpr int COLUMNS_AT_ONCE = 4;
constexpr int LEADING = 16;  // columns of a dense matrix start at multiples of this many elements, 128 bytes in float

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
template <typename T>
using Complex = typename ComplexOf<T>::type;

// Two elements of a vector in one read of shared memory.
template <typename T>
struct alignas(16) Pair {
    Complex<T> first, second;
};

__device__ inline int rounded_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// A pattern in the shared memory of its block.
template <typename T>
struct Pattern {
    int n;
    long long first_beam;
    double2* sums;
    double2* scratch;
    double* tridiagonal;
    Complex<T>* even;
    Complex<T>* odd;
    int* address;
    T* diagonal;
    int slices;
    int rows_at_once;
    int begin;  // columns of this thread's slice
    int end;

    // Each thread loads its own rows; others may read them after the next barrier. `middle` moves to eigenvalue 0.
    __device__ Pattern(const int* addresses, const double* excitation_error, const long long* offsets, int index,
                       double middle, int outputs, int slices_of_block)
        : first_beam(offsets[index]), slices(slices_of_block) {
        n = int(offsets[index + 1] - first_beam);
        const int n4 = rounded_up(n, 4);
        sums = shared_memory;
        scratch = sums + outputs * n;
        tridiagonal = reinterpret_cast<double*>(scratch + blockDim.x);
        even = reinterpret_cast<Complex<T>*>(tridiagonal + 2 * LANCZOS_ITERATIONS);
        odd = even + n4;
        address = reinterpret_cast<int*>(odd + n4);
        diagonal = reinterpret_cast<T*>(address + n4);
        rows_at_once = int(blockDim.x) / slices;
        const int columns = rounded_up((n + slices - 1) / slices, COLUMNS_AT_ONCE);
        begin = min(n, int(threadIdx.x) / rows_at_once * columns);
        end = min(n, begin + columns);
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            address[i] = addresses[first_beam + i];
            diagonal[i] = T(excitation_error[first_beam + i] - middle);
        }
    }
};

// Row i of iA without its diagonal, from the crystal's table.
template <typename T>
struct GatheredRow {
    const Complex<T>* __restrict__ from_here;  // coupling + centre - address[i]
    const int* address;

    __device__ Complex<T> element(int j) const { return from_here[address[j]]; }

    __device__ void elements(int j, Complex<T>* four) const {
        const int4 at = *reinterpret_cast<const int4*>(address + j);
        four[0] = from_here[at.x];
        four[1] = from_here[at.y];
        four[2] = from_here[at.z];
        four[3] = from_here[at.w];
    }
};

template <typename T>
struct Gathered {
    const Complex<T>* coupling;
    long long centre;

    __device__ GatheredRow<T> row(const Pattern<T>& pattern, int i) const {
        return {coupling + (centre - pattern.address[i]), pattern.address};
    }
};

// Row i of iA without its diagonal, from a matrix whose columns lie one behind the other.
template <typename T>
struct DenseRow {
    const Complex<T>* __restrict__ here;
    int leading;

    __device__ Complex<T> element(int j) const { return here[j * leading]; }

    __device__ void elements(int j, Complex<T>* four) const {
        for (int c = 0; c < COLUMNS_AT_ONCE; ++c) four[c] = here[(j + c) * leading];
    }
};

template <typename T>
struct Dense {
    const Complex<T>* matrix;

    __device__ DenseRow<T> row(const Pattern<T>& pattern, int i) const {
        return {matrix + i, rounded_up(pattern.n, LEADING)};
    }
};

template <typename C>
__device__ inline void add_product(C a, C b, C& sum) {
    sum.x += a.x * b.x - a.y * b.y;
    sum.y += a.x * b.y + a.y * b.x;
}

// The sum over the columns begin .. end, begin a multiple of 4, of one row times x.
template <typename T, typename Row>
__device__ Complex<T> multiply(const Row& row, const Complex<T>* x, int begin, int end) {
    Complex<T> sums[COLUMNS_AT_ONCE] = {};
    int j = begin;
#pragma unroll 2  // eight elements in flight; more would cost registers, and so warps
    for (; j + COLUMNS_AT_ONCE <= end; j += COLUMNS_AT_ONCE) {
        Complex<T> four[COLUMNS_AT_ONCE];
        row.elements(j, four);
        const Pair<T>* const pairs = reinterpret_cast<const Pair<T>*>(x + j);
        const Pair<T> low = pairs[0];
        const Pair<T> high = pairs[1];
        add_product(four[0], low.first, sums[0]);
        add_product(four[1], low.second, sums[1]);
        add_product(four[2], high.first, sums[2]);
        add_product(four[3], high.second, sums[3]);
    }
    for (; j < end; ++j) add_product(row.element(j), x[j], sums[0]);
    return {(sums[0].x + sums[1].x) + (sums[2].x + sums[3].x), (sums[0].y + sums[1].y) + (sums[2].y + sums[3].y)};
}

// y <- scale * (iA) x + y. Before it, a barrier must have let all threads see x; after it, all of y may be read.
template <typename T, typename Matrix>
__device__ void advance(const Pattern<T>& pattern, const Matrix& matrix, const Complex<T>* x, T scale, Complex<T>* y) {
    const auto finish = [&](int i, Complex<T> sum) {
        const T diagonal = pattern.diagonal[i];
        y[i].x += scale * (sum.x - diagonal * x[i].y);
        y[i].y += scale * (sum.y + diagonal * x[i].x);
    };
    const int t = threadIdx.x;
    if (pattern.slices == 1) {
        for (int i = t; i < pattern.n; i += blockDim.x)
            finish(i, multiply<T>(matrix.row(pattern, i), x, 0, pattern.n));
    } else {
        Complex<T>* const parts = reinterpret_cast<Complex<T>*>(pattern.scratch);
        const int i = t % pattern.rows_at_once;
        if (i < pattern.n) parts[t] = multiply<T>(matrix.row(pattern, i), x, pattern.begin, pattern.end);
        __syncthreads();
        if (t < pattern.n) {
            Complex<T> sum = parts[t];
            for (int slice = 1; slice < pattern.slices; ++slice) {
                const Complex<T> part = parts[slice * pattern.rows_at_once + t];
                sum.x += part.x;
                sum.y += part.y;
            }
            finish(t, sum);
        }
    }
    __syncthreads();
}

// The sum of all threads' values, to every thread; barriers before and after it.
__device__ inline double2 sum_of_block(double2 value, double2* scratch) {
    const int t = threadIdx.x;
    scratch[t] = value;
    int half = 1;
    while (2 * half < int(blockDim.x)) half *= 2;
    for (; half > 0; half /= 2) {
        __syncthreads();
        if (t < half && t + half < int(blockDim.x)) {
            scratch[t].x += scratch[t + half].x;
            scratch[t].y += scratch[t + half].y;
        }
    }
    __syncthreads();
    const double2 sum = scratch[0];
    __syncthreads();
    return sum;
}

template <typename T>
__device__ double squared_norm(const Pattern<T>& pattern, const Complex<T>* x) {
    double own = 0;
    for (int i = threadIdx.x; i < pattern.n; i += blockDim.x)
        own += double(x[i].x) * double(x[i].x) + double(x[i].y) * double(x[i].y);
    return sum_of_block(make_double2(own, 0), pattern.scratch).x;
}

template <typename T>
__device__ void scale_own(const Pattern<T>& pattern, Complex<T>* x, double factor) {
    for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
        x[i].x = T(x[i].x * factor);
        x[i].y = T(x[i].y * factor);
    }
}

// Lanczos iterations with iA, leaving diagonal and squared side diagonal of A's tridiagonal matrix in shared memory;
// returns its size. The absorption in A, which is small, is taken out of the diagonal only.
template <typename T, typename Matrix>
__device__ int tridiagonalise(const Pattern<T>& pattern, const Matrix& matrix) {
    // Any vector will do that no symmetry makes orthogonal to an extreme eigenvector: here, a scrambled index.
    for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
        const unsigned int scrambled = (i + 1) * 2654435761u;
        pattern.even[i].x = T(0.5 + (scrambled >> 16) / 65536.0);
        pattern.even[i].y = T((scrambled & 0xffff) / 65536.0 - 0.5);
        pattern.odd[i].x = pattern.odd[i].y = T(0);
    }
    scale_own(pattern, pattern.even, 1 / sqrt(squared_norm(pattern, pattern.even)));
    double side = 0;
    int size = 0;
    while (size < min(LANCZOS_ITERATIONS, pattern.n)) {
        Complex<T>* const x = size % 2 == 0 ? pattern.even : pattern.odd;
        Complex<T>* const y = size % 2 == 0 ? pattern.odd : pattern.even;
        scale_own(pattern, y, side);
        __syncthreads();  // all of x is there
        advance(pattern, matrix, x, T(1), y);
        double2 along = make_double2(0, 0);
        for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
            along.x += double(x[i].x) * double(y[i].x) + double(x[i].y) * double(y[i].y);
            along.y += double(x[i].x) * double(y[i].y) - double(x[i].y) * double(y[i].x);
        }
        along = sum_of_block(along, pattern.scratch);
        for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
            y[i].x -= T(along.x * x[i].x - along.y * x[i].y);
            y[i].y -= T(along.x * x[i].y + along.y * x[i].x);
        }
        const double squared_side = squared_norm(pattern, y);
        if (threadIdx.x == 0) {
            pattern.tridiagonal[size] = along.y;
            pattern.tridiagonal[LANCZOS_ITERATIONS + size] = squared_side;
        }
        ++size;
        const double whole = along.x * along.x + along.y * along.y + squared_side + side * side;
        if (squared_side <= 1e-8 * whole) break;  // an invariant subspace: the rest would be rounding
        side = sqrt(squared_side);
        scale_own(pattern, y, 1 / side);
    }
    __syncthreads();
    return size;
}

// The least eigenvalue of sign times a tridiagonal matrix, by bisection on Sturm's count of negative eigenvalues.
__device__ inline double least_eigenvalue(const double* tridiagonal, int size, double sign) {
    const double* const squared_side = tridiagonal + LANCZOS_ITERATIONS;
    double reach = 0;
    for (int k = 0; k < size; ++k)
        reach = fmax(reach, fabs(tridiagonal[k]) + 2 * sqrt(fmax(squared_side[k], k > 0 ? squared_side[k - 1] : 0.0)));
    double low = -reach;
    double high = reach;
    for (int round = 0; round < BISECTIONS; ++round) {
        const double shift = 0.5 * (low + high);
        bool none_below = true;
        double pivot = 1;
        for (int k = 0; k < size && none_below; ++k) {
            pivot = sign * tridiagonal[k] - shift - (k > 0 ? squared_side[k - 1] / pivot : 0.0);
            none_below = pivot > 0;  // a pivot of 0 is one too: the shift is not below the spectrum
        }
        if (none_below)
            low = shift;
        else
            high = shift;
    }
    return 0.5 * (low + high);
}

template <typename T, typename Matrix>
__device__ void measure_bounds(const Pattern<T>& pattern, const Matrix& matrix, double2* bounds) {
    const int size = tridiagonalise(pattern, matrix);
    if (threadIdx.x == 0) bounds->x = least_eigenvalue(pattern.tridiagonal, size, 1);
    if (threadIdx.x == 1) bounds->y = -least_eigenvalue(pattern.tridiagonal, size, -1);
}

// Add term k of the expansion to every sum.
template <typename T>
__device__ void add_term(const Pattern<T>& pattern, const Complex<T>* vector, const double* weights, int outputs) {
    for (int output = 0; output < outputs; ++output) {
        const double weight = weights[output];
        if (weight == 0) continue;  // nearer distances need fewer terms
        double2* const sums = pattern.sums + output * pattern.n;
        for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
            sums[i].x += weight * vector[i].x;
            sums[i].y += weight * vector[i].y;
        }
    }
}

// With W_k = i^k T_k(A / r) psi the recurrence is W_{k+1} = 2 (iA / r) W_k + W_{k-1}, and the coefficients are real.
// Even k and odd k take turns in two vectors. Returns the squared norm of the last.
template <typename T, typename Matrix>
__device__ double expand_step(const Pattern<T>& pattern, const Matrix& matrix, T inverse_half_width,
                              const double* coefficients, int terms, int outputs) {
    for (int output = 0; output < outputs; ++output)
        for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
            pattern.sums[output * pattern.n + i].x = coefficients[output] * pattern.even[i].x;
            pattern.sums[output * pattern.n + i].y = coefficients[output] * pattern.even[i].y;
        }
    for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) pattern.odd[i].x = pattern.odd[i].y = T(0);
    for (int k = 1; k < terms; ++k) {
        Complex<T>* const x = k % 2 == 0 ? pattern.odd : pattern.even;
        Complex<T>* const y = k % 2 == 0 ? pattern.even : pattern.odd;
        advance(pattern, matrix, x, k == 1 ? inverse_half_width : T(2) * inverse_half_width, y);
        add_term(pattern, y, coefficients + k * outputs, outputs);
    }
    return squared_norm(pattern, terms % 2 == 0 ? pattern.odd : pattern.even);
}

// Go through the crystal step by step; false if the vectors have grown.
template <typename T, typename Matrix>
__device__ bool expand(const Pattern<T>& pattern, const Matrix& matrix, double damping, T inverse_half_width,
                       const int* steps, int step_count, const double* coefficients, const double* distances,
                       double squared_growth_max, T* intensity, long long stride) {
    const double two_pi = 6.283185307179586;
    for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
        pattern.even[i].x = pattern.address[i] == 0 ? T(1) : T(0);
        pattern.even[i].y = T(0);
    }
    double before = 1;
    __syncthreads();
    for (int s = 0; s < step_count; ++s) {
        const int* const step = steps + 5 * s;
        const int outputs = step[3];
        const double last = expand_step(pattern, matrix, inverse_half_width, coefficients + step[0], step[1], outputs);
        if (!(last <= squared_growth_max * before)) return false;

        const double* const distance = distances + step[2];
        T* const rows = intensity + (step[4] * stride + pattern.first_beam);
        for (int output = 0; output < outputs && step[4] >= 0; ++output) {
            const double damped = exp(-2 * two_pi * damping * distance[output]);
            const double2* const sums = pattern.sums + output * pattern.n;
            for (int i = threadIdx.x; i < pattern.n; i += blockDim.x)
                rows[output * stride + i] = T(damped * (sums[i].x * sums[i].x + sums[i].y * sums[i].y));
        }
        const double damped = exp(-two_pi * damping * distance[outputs - 1]);
        const double2* const sums = pattern.sums + (outputs - 1) * pattern.n;
        double own = 0;
        for (int i = threadIdx.x; i < pattern.n; i += blockDim.x) {
            const double real = damped * sums[i].x;
            const double imaginary = damped * sums[i].y;
            own += real * real + imaginary * imaginary;
            pattern.even[i].x = T(real);
            pattern.even[i].y = T(imaginary);
        }
        before = sum_of_block(make_double2(own, 0), pattern.scratch).x;
    }
    return true;
}

template <typename T>
__global__ void bloch_fill(const Complex<T>* coupling, const long long* centre, const int* address,
                           const long long* offsets, const long long* matrix_start, Complex<T>* matrix) {
    const long long first_beam = offsets[blockIdx.x];
    const int n = int(offsets[blockIdx.x + 1] - first_beam);
    const Complex<T>* const middle = coupling + centre[blockIdx.x];
    const int* const own = address + first_beam;
    for (int j = blockIdx.y; j < n; j += gridDim.y) {
        Complex<T>* const column = matrix + matrix_start[blockIdx.x] + (long long)j * rounded_up(n, LEADING);
        for (int i = threadIdx.x; i < n; i += blockDim.x) column[i] = middle[own[j] - own[i]];
    }
}

template <typename T>
__global__ void __launch_bounds__(256, sizeof(T) == 4 ? 3 : 1)
    bloch_bounds_gathered(const Complex<T>* coupling, const long long* centre, const int* address,
                          const double* excitation_error, const long long* offsets, const int* which, int slices,
                          double2* bounds) {
    const int index = which[blockIdx.x];
    const Pattern<T> pattern(address, excitation_error, offsets, index, 0, 0, slices);
    measure_bounds(pattern, Gathered<T>{coupling, centre[index]}, bounds + index);
}

template <typename T>
__global__ void __launch_bounds__(256, sizeof(T) == 4 ? 3 : 1)
    bloch_bounds_dense(const Complex<T>* matrix, const long long* matrix_start, const int* address,
                       const double* excitation_error, const long long* offsets, const int* which, int slices,
                       double2* bounds) {
    const int index = which[blockIdx.x];
    const Pattern<T> pattern(address, excitation_error, offsets, index, 0, 0, slices);
    measure_bounds(pattern, Dense<T>{matrix + matrix_start[index]}, bounds + index);
}

template <typename T>
__global__ void __launch_bounds__(256, sizeof(T) == 4 ? 3 : 1)
    bloch_expand_gathered(const Complex<T>* coupling, const long long* centre, const int* address,
                          const double* excitation_error, const long long* offsets, const int* which, int slices,
                          const double* middle, const double* damping, const int* expansion,
                          const double* inverse_half_width, const int* first_step, const int* steps,
                          const double* coefficients, const double* distances, int outputs, double squared_growth_max,
                          long long stride, T* intensity, int* status) {
    const int index = which[blockIdx.x];
    const int own = expansion[index];
    const Pattern<T> pattern(address, excitation_error, offsets, index, middle[index], outputs, slices);
    const bool good = expand(pattern, Gathered<T>{coupling, centre[index]}, damping[index], T(inverse_half_width[own]),
                             steps + 5 * first_step[own], first_step[own + 1] - first_step[own], coefficients,
                             distances, squared_growth_max, intensity, stride);
    if (threadIdx.x == 0) status[index] = good ? 0 : 1;
}

template <typename T>
__global__ void __launch_bounds__(256, sizeof(T) == 4 ? 3 : 1)
    bloch_expand_dense(const Complex<T>* matrix, const long long* matrix_start, const int* address,
                       const double* excitation_error, const long long* offsets, const int* which, int slices,
                       const double* middle, const double* damping, const int* expansion,
                       const double* inverse_half_width, const int* first_step, const int* steps,
                       const double* coefficients, const double* distances, int outputs, double squared_growth_max,
                       long long stride, T* intensity, int* status) {
    const int index = which[blockIdx.x];
    const int own = expansion[index];
    const Pattern<T> pattern(address, excitation_error, offsets, index, middle[index], outputs, slices);
    const bool good = expand(pattern, Dense<T>{matrix + matrix_start[index]}, damping[index],
                             T(inverse_half_width[own]), steps + 5 * first_step[own],
                             first_step[own + 1] - first_step[own], coefficients, distances, squared_growth_max,
                             intensity, stride);
    if (threadIdx.x == 0) status[index] = good ? 0 : 1;
}
