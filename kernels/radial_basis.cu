// Radial-angular basis of ragged peak lists (Gleason et al., Phys. Rev. Mater. 8, 093802, Eqs. 1 and 2):
//
//     R[n, m] = sum_j I_j max(0, 1 - |q_j - k_n| / spacing) exp(i m phi_j),    k_n = n * spacing
//
// Two kernels share one body: `radial_basis_coefficients<T>` writes R, `radial_basis_polar<T>` writes |R| and arg R.
// T is the type of the sums: double agrees with the CPU to the last bits of a float, also where peaks cancel; float is
// for devices on which double is slow, and is good to about 1e-5 of R[n, 0].
//
// Grid.    Block (x, y) has pattern x and the y-th chunk of `orders_per_block` orders m > 0. One chunk, the usual case,
//          holds them all; order 0 every block sums besides, because the polar form measures rounding by R[n, 0], and
//          chunk 0 writes it.
// Thread.  Peaks come in tiles of blockDim.x. First thread t stages peak t of the tile: its ring, its weight there, and
//          I exp(i m phi) for all m of the chunk, by multiplying with the unit phasor q / |q|. Then thread t owns one
//          column of the sums (the real or the imaginary part of one order) on either the even or the odd rings, and
//          adds the tile's peaks to it, in the order of the list: every peak touches one even and one odd ring.
//          No two threads write one sum, so there are no atomics, and the result has the same bits every time.
// Shared.  sums [rings][columns] T, powers [tile][columns] T, outer [tile] T, ring [tile] int. Columns are R[n, 0], then
//          real and imaginary part of each order of the chunk. Their number is odd, which keeps threads of a warp
//          that stage different peaks in different banks. The bytes are sized for T = double (`launch_geometry`
//          in gpuediff/features/radial_basis.py).
// Caller.  qx, qy, intensity are finite, intensity >= 0; offsets rise from 0 to the number of peaks; `turn` is
//          exp(i theta) and `scale` the factor on the intensities, one for each pattern; `out` holds
//          patterns * rings * orders float2, in that order. rings >= 1, orders >= 1, blockDim.x >= 1.

// The one dynamic array of shared memory; double2 so that it is aligned for every T.
extern __shared__ double2 shared_memory[];

template <typename T>
struct Tile {
    T* sums;
    T* powers;
    T* outer;
    int* ring;
    int columns;
    int first_order;  // of this block's chunk, >= 1
    int end_order;

    __device__ Tile(int rings, int orders, int orders_per_block) {
        first_order = 1 + blockIdx.y * orders_per_block;
        end_order = min(orders, first_order + orders_per_block);
        columns = 1 + 2 * (end_order - first_order);
        sums = reinterpret_cast<T*>(shared_memory);
        powers = sums + rings * columns;
        outer = powers + blockDim.x * columns;
        ring = reinterpret_cast<int*>(outer + blockDim.x);
    }
};

// Thread t's part in staging a tile. Geometry in double whatever T: a float would lose the direction of |q| < 1e-19.
template <typename T>
__device__ void stage_peak(const Tile<T>& tile, double x, double y, double intensity, double2 turn, int rings,
                           double ring_spacing) {
    const int t = threadIdx.x;
    const double q = sqrt(x * x + y * y);
    const double position = fmin(q / ring_spacing, double(rings));
    tile.ring[t] = int(position);
    tile.outer[t] = T(position - int(position));

    const double unit_x = q > 0 ? x / q : 1.0;
    const double unit_y = q > 0 ? y / q : 0.0;
    const T cosine = T(unit_x * turn.x - unit_y * turn.y);
    const T sine = T(unit_x * turn.y + unit_y * turn.x);

    T* const powers = tile.powers + t * tile.columns;
    T real = T(intensity);
    T imaginary = T(0);
    powers[0] = real;
    for (int m = 1; m < tile.end_order; ++m) {
        const T next_real = real * cosine - imaginary * sine;
        imaginary = real * sine + imaginary * cosine;
        real = next_real;
        if (m >= tile.first_order) {
            const int column = 1 + 2 * (m - tile.first_order);
            powers[column] = real;
            powers[column + 1] = imaginary;
        }
    }
}

// Add the staged peaks to every sum that thread t owns.
template <typename T>
__device__ void add_tile(const Tile<T>& tile, int count, int rings) {
    for (int owned = threadIdx.x; owned < 2 * tile.columns; owned += blockDim.x) {
        const int parity = owned >= tile.columns;
        const int column = owned - parity * tile.columns;
        for (int p = 0; p < count; ++p) {
            const int inner_ring = tile.ring[p];
            const bool inner = (inner_ring & 1) == parity;
            const int ring = inner ? inner_ring : inner_ring + 1;
            if (ring < rings) {
                const T weight = inner ? T(1) - tile.outer[p] : tile.outer[p];
                tile.sums[ring * tile.columns + column] += weight * tile.powers[p * tile.columns + column];
            }
        }
    }
}

// Sum this block's pattern; afterwards every thread may read all of tile.sums.
template <typename T>
__device__ void sum_pattern(const Tile<T>& tile, const float* qx, const float* qy, const float* intensity,
                            const long long* offsets, const double2* turn, const double* scale, int rings,
                            double ring_spacing) {
    const long long end = offsets[blockIdx.x + 1];
    const double2 pattern_turn = turn[blockIdx.x];
    const double pattern_scale = scale[blockIdx.x];

    for (int k = threadIdx.x; k < rings * tile.columns; k += blockDim.x) tile.sums[k] = T(0);

    for (long long first = offsets[blockIdx.x]; first < end; first += blockDim.x) {
        const int count = int(min((long long)blockDim.x, end - first));
        if (int(threadIdx.x) < count) {
            const long long j = first + threadIdx.x;
            stage_peak(tile, double(qx[j]), double(qy[j]), intensity[j] * pattern_scale, pattern_turn, rings,
                       ring_spacing);
        }
        __syncthreads();  // the tile is staged, and before the first one the sums are zero
        add_tile(tile, count, rings);
        __syncthreads();  // the tile is used up
    }
    __syncthreads();  // a pattern without peaks met no other
}

// Hand every coefficient of this block to `write`, neighbouring threads with neighbouring orders.
template <typename T, typename Write>
__device__ void write_pattern(const Tile<T>& tile, int rings, int orders, float2* out, Write write) {
    float2* const pattern = out + (long long)blockIdx.x * rings * orders;
    const int first = blockIdx.y == 0 ? 0 : tile.first_order;
    const int width = tile.end_order - first;
    for (int k = threadIdx.x; k < rings * width; k += blockDim.x) {
        const int n = k / width;
        const int m = first + k % width;
        const T* const sums = tile.sums + n * tile.columns;
        const int column = 1 + 2 * (m - tile.first_order);
        const T real = m == 0 ? sums[0] : sums[column];
        const T imaginary = m == 0 ? T(0) : sums[column + 1];
        pattern[n * orders + m] = write(real, imaginary, sums[0]);
    }
}

template <typename T>
struct AsComplex {
    __device__ float2 operator()(T real, T imaginary, T) const { return make_float2(float(real), float(imaginary)); }
};

// What is not above rounding_level * R[n, 0] counts as zero, coefficient or imaginary part: its argument is noise.
template <typename T>
struct AsPolar {
    T rounding_level;

    __device__ float2 operator()(T real, T imaginary, T order_zero) const {
        const T level = rounding_level * order_zero;
        const T magnitude = sqrt(real * real + imaginary * imaginary);
        if (!(magnitude > level)) return make_float2(0.0f, 0.0f);
        const float y = fabs(imaginary) > level ? float(imaginary / magnitude) : 0.0f;
        return make_float2(float(magnitude), atan2f(y, float(real / magnitude)));
    }
};

template <typename T>
__global__ void radial_basis_coefficients(const float* qx, const float* qy, const float* intensity,
                                          const long long* offsets, const double2* turn, const double* scale, int rings,
                                          double ring_spacing, int orders, int orders_per_block, float2* out) {
    const Tile<T> tile(rings, orders, orders_per_block);
    sum_pattern(tile, qx, qy, intensity, offsets, turn, scale, rings, ring_spacing);
    write_pattern(tile, rings, orders, out, AsComplex<T>{});
}

template <typename T>
__global__ void radial_basis_polar(const float* qx, const float* qy, const float* intensity, const long long* offsets,
                                   const double2* turn, const double* scale, int rings, double ring_spacing, int orders,
                                   int orders_per_block, double rounding_level, float2* out) {
    const Tile<T> tile(rings, orders, orders_per_block);
    sum_pattern(tile, qx, qy, intensity, offsets, turn, scale, rings, ring_spacing);
    write_pattern(tile, rings, orders, out, AsPolar<T>{T(rounding_level)});
}
