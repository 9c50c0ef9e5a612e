// Three-dimensional reciprocal lattices of single patterns, as `index_patterns` in gpuediff/lattices/indexing.py finds
// them: noise and centre from the differences of the peaks, triples of vectors by search, each fitted and ranked.
// Every stage stands there, under the same name and with its reasons.
//
// T is the type of differences, clusters and search. Fits, which the result comes from, are double always. With T =
//          double the steps are those of the CPU in the same order, so that only the rounding of fused multiply-adds
//          and of the device's own log, exp and pow sets the two apart; float is for devices on which double is slow.
//
// Grid.    Block x has pattern x. A block is one warp: a pattern is a chain of short steps, each of some 10 to 2000
//          elements, and what such steps wait for, other patterns of the multiprocessor fill.
// Thread.  A step is spread over the lanes: pairs of peaks, comparators of a sorting network, noises, layers of one
//          peak, columns of a sum. Where one element is chosen after the other (the next member of a cluster or of a
//          class), blockDim.x candidates are looked at together and a ballot tells which is first. What is small and
//          the same for all, every lane computes for itself. Floating-point numbers are added up by one lane in the
//          order of the peaks, or by all lanes alike; only integers are counted with atomics: the result has the same
//          bits every time, whatever the number of lanes.
// Shared.  See `Room`: the peaks, the clusters, the triples, and one region that first holds the differences, 6 bytes
//          each, then the arrays of search and fit. The bytes are counted by `shared_memory` in
//          gpuediff/lattices/gpu_indexing.py, for T = double.
// Caller.  blockDim.x <= 32. qx, qy, intensity are finite, intensity >= 0; offsets rise from 0 to the number of peaks.
//          `room` (<= 200) is no less than the most peaks that are taken of a pattern: min(peaks_max, its peaks).
//          `order` has room for one int a peak; `workspace` for `workspace_stride` ints a pattern, which hold the
//          differences where that is not 0. `basis`, `covariance`, `centre`, `values` hold `hypotheses` rows a pattern,
//          as `_index_all` fills them, and `plane` one. Settings are as `Indexing` validates them.

// The one dynamic array of shared memory; double2 so that it is aligned for every T.
extern __shared__ double2 shared_memory[];

constexpr int BLOCKS_TOGETHER = 12;  // on a multiprocessor: as many as its shared memory has room for, at 60 peaks each

constexpr double DIRECT_BEAM_RADIUS = 0.025;  // gpuediff/peaks.py
constexpr double PI = 3.14159265358979323846;

// differences.py
constexpr double REACH = 0.03, LENGTH_MAX = 1.5, LENGTH_MIN = 0.02, FINEST = 1e-5;
constexpr int AGREEMENTS_MIN = 6, BINS = 30, NOISES = 18, SHIFTS_MAX = 400, COMPARED_MAX = 500;
constexpr double KEY_ROUNDING = 1e-6;  // Å⁻¹, more than a length up to LENGTH_MAX loses as a float

// search.py
constexpr int SEARCH_LAYER_MAX = 6, TORSION_MAX = 6, CLASSES = 4;
constexpr double LAYER_SHARE = 0.3, LAYER_DECAY = 0.6, OUTLIERS = 0.08, RADII = 3.0, SINE_MIN = 0.1;

// refinement.py
constexpr double INTENSITY_POWER = 0.68, Q_POWER = 1.66, S_FLOOR = 0.0014, S_CEILING = 0.03;
constexpr double SCALE = 1.94e-4, SCALE_SPREAD = 0.84, Q_LOW = 0.1, DEGREES = 5.0, T_NORM = 0.3796066898;
constexpr double HEIGHT_MAX = 0.5;
constexpr int LAYER_MAX = 8;

// hypotheses.py
enum Status { INDEXED, TOO_FEW_PEAKS, ONE_ZONE, NO_LATTICE };
enum Value { EVIDENCE, NOISE, PATTERN_SCALE, PEAKS_ON, INTENSITY_ON, LAYERS, VALUES };
constexpr int TURNS = 4;
constexpr double COMPLETE = 0.96, BY_CHANCE = 0.1, SEARCH_NOISE = 1.3, POSITION_ROUNDING = 6e-8, SAME = 0.2;
constexpr double SHIFT_MAX = 0.02;

// Columns of a fit, one number for each peak; peaks that are not on the lattice have indices 0 and ON 0.
enum Column { H, K, L, ON, X, Y, TARGET, WEIGHT, TRUST, EXPECTED, GAIN, PRIOR, COLUMNS };

__device__ inline double infinity() { return 1.0 / 0.0; }
__device__ inline double not_a_number() { return infinity() - infinity(); }

struct Limits {
    int peaks_min, peaks_max, clusters, pairs, trials, hypotheses;
    double noise_min, centre_noise, evidence_min, wavelength;
};

// A pattern in the shared memory of its block.
template <typename T>
struct Room {
    int lane, lanes, room;
    double *x, *y, *strength, *unit;  // [room] strongest first
    T *centred_x, *centred_y;         // [room + 1] the direct beam first
    T *cluster_x, *cluster_y;         // [clusters] best first
    T *mean_x, *mean_y, *merit;       // [clusters] in the order they were found
    T* triples;                       // [trials][3][2]
    double* scores;                   // [trials]
    double* sums;                     // [32] what one lane tells the others
    double *in_plane, *heights;       // [3][3] inverses of a fit's normal matrices, places and heights
    double* before;                   // [3] what fits begin with: shift of the centre, noise
    double* plane;                    // [2][2] the two-dimensional cell that explains most
    int* notes;                       // [SHIFTS_MAX]
    double* region;                   // differences; then shifts, search, or the columns of a fit

    __device__ Room(int room, const Limits& limits) : lane(threadIdx.x), lanes(blockDim.x), room(room) {
        double* next = reinterpret_cast<double*>(shared_memory);
        auto take = [&next](int count) {
            double* const taken = next;
            next += count;
            return taken;
        };
        x = take(room);
        y = take(room);
        strength = take(room);
        unit = take(room);
        centred_x = reinterpret_cast<T*>(take(room + 1));
        centred_y = reinterpret_cast<T*>(take(room + 1));
        cluster_x = reinterpret_cast<T*>(take(limits.clusters));
        cluster_y = reinterpret_cast<T*>(take(limits.clusters));
        mean_x = reinterpret_cast<T*>(take(limits.clusters));
        mean_y = reinterpret_cast<T*>(take(limits.clusters));
        merit = reinterpret_cast<T*>(take(limits.clusters));
        triples = reinterpret_cast<T*>(take(6 * limits.trials));
        scores = take(limits.trials);
        sums = take(32);
        in_plane = take(9);
        heights = take(9);
        before = take(3);
        plane = take(4);
        notes = reinterpret_cast<int*>(take(SHIFTS_MAX / 2));
        region = next;
    }

    __device__ double* column(int c) const { return region + c * room; }
    __device__ unsigned int ballot(bool vote) const {
        return __ballot_sync(lanes == 32 ? 0xffffffffu : (1u << lanes) - 1, vote);
    }
};

// --- The peaks ------------------------------------------------------------------------------------------------------

// Take the strongest peaks but the direct beam; return how many, and where the direct beam is.
template <typename T>
__device__ int strongest(const Room<T>& own, const float* qx, const float* qy, const float* intensity, int peaks,
                         int peaks_max, int* order, double& origin_x, double& origin_y) {
    // Places decide between equals, so that the order in the list does not.
    for (int j = own.lane; j < peaks; j += own.lanes) {
        const float bright = intensity[j];
        int rank = 0;
        for (int k = 0; k < peaks; ++k) {
            if (intensity[k] > bright)
                ++rank;
            else if (intensity[k] == bright)
                rank += qx[k] < qx[j] || (qx[k] == qx[j] && (qy[k] < qy[j] || (qy[k] == qy[j] && k < j)));
        }
        order[rank] = j;
    }
    __syncwarp();
    double nearest = DIRECT_BEAM_RADIUS * DIRECT_BEAM_RADIUS, total = 0.0;
    int count = 0, diffracted = 0;
    origin_x = origin_y = 0.0;
    for (int first = 0; first < peaks; first += own.lanes) {
        const int tile = min(own.lanes, peaks - first);
        if (own.lane < tile) own.notes[own.lane] = order[first + own.lane];
        __syncwarp();
        for (int t = 0; t < tile; ++t) {
            const int j = own.notes[t];
            const double x = qx[j], y = qy[j], square = x * x + y * y;
            if (square < nearest) {
                nearest = square;
                origin_x = x;
                origin_y = y;
            }
            if (square >= DIRECT_BEAM_RADIUS * DIRECT_BEAM_RADIUS) {
                ++diffracted;
                total += intensity[j];
                if (count < peaks_max) {
                    if (own.lane == 0) {
                        own.x[count] = x;
                        own.y[count] = y;
                        own.strength[count] = intensity[j];
                    }
                    ++count;
                }
            }
        }
        __syncwarp();
    }
    for (int p = own.lane; p < count; p += own.lanes) {
        own.x[p] -= origin_x;
        own.y[p] -= origin_y;
        own.strength[p] = total > 0 ? own.strength[p] / total : 1.0 / count;
    }
    __syncwarp();
    return count;
}

// --- What the differences tell ---------------------------------------------------------------------------------------

// Differences of places, shortest first. `key` is the length, rounded, and negative once a cluster has used it; `code`
// says of which two places. What a float cannot decide is computed anew.
template <typename T>
struct Differences {
    const T *x, *y;
    float* key;
    unsigned short* code;
    int count;

    __device__ void vector(int k, T& vx, T& vy) const {
        const int i = code[k] >> 8, j = code[k] & 255;
        vx = x[i] - x[j];
        vy = y[i] - y[j];
    }
    __device__ T length(int k) const {
        T vx, vy;
        vector(k, vx, vy);
        return sqrt(vx * vx + vy * vy);
    }
    __device__ bool longer(int k, T bound) const {
        const float apart = fabs(key[k]) - float(bound);
        return fabs(apart) > float(KEY_ROUNDING) ? apart > 0 : length(k) > bound;
    }
    __device__ bool after(int a, int b) const {
        if (key[a] != key[b]) return key[a] > key[b];
        const T length_a = length(a), length_b = length(b);
        return length_a != length_b ? length_a > length_b : code[a] > code[b];
    }
    __device__ void order(int a, int b) const {
        if (b < count && after(a, b)) {
            const float moved_key = key[a];
            key[a] = key[b];
            key[b] = moved_key;
            const unsigned short moved_code = code[a];
            code[a] = code[b];
            code[b] = moved_code;
        }
    }
};

// Take all differences of `n` places and sort them: Batcher's bitonic network in the form in which all comparators
// point one way, so that what is beyond the end needs no place.
template <typename T>
__device__ void differences(const Room<T>& own, Differences<T>& all, int n) {
    const int pairs = n * (n - 1) / 2;
    all.count = 0;
    int i = 1, j = own.lane;
    for (int first = 0; first < pairs; first += own.lanes) {
        while (j >= i) j -= i++;
        const bool there = first + own.lane < pairs;
        T size = T(0);
        if (there) {
            const T vx = all.x[i] - all.x[j], vy = all.y[i] - all.y[j];
            size = sqrt(vx * vx + vy * vy);
        }
        const bool fits = there && T(LENGTH_MIN) <= size && size <= T(LENGTH_MAX);
        const unsigned int votes = own.ballot(fits);
        if (fits) {
            const int place = all.count + __popc(votes & ((1u << own.lane) - 1));
            all.key[place] = float(size);
            all.code[place] = (unsigned short)(i << 8 | j);
        }
        all.count += __popc(votes);
        j += own.lanes;
    }
    __syncwarp();
    for (int log_size = 1; 1 << (log_size - 1) < all.count; ++log_size) {
        const int half = 1 << (log_size - 1), comparators = (all.count + 2 * half - 1) / (2 * half) * half;
        for (int t = own.lane; t < comparators; t += own.lanes) {
            const int start = t / half * 2 * half, within = t & (half - 1);
            all.order(start + within, start + 2 * half - 1 - within);
        }
        __syncwarp();
        for (int distance = half / 2; distance > 0; distance /= 2) {
            for (int t = own.lane; t < comparators; t += own.lanes) {
                const int a = 2 * t - (t & (distance - 1));
                all.order(a, a + distance);
            }
            __syncwarp();
        }
    }
}

template <typename T>
__device__ double position_noise(const Room<T>& own, const Differences<T>& all, double floor) {
    double* const edges = reinterpret_cast<double*>(own.notes);  // [BINS + 1]
    double* const chance = edges + BINS + 1;                     // [BINS]
    int* const counts = reinterpret_cast<int*>(chance + BINS);   // [BINS]
    const double low = log(FINEST * FINEST), high = log(REACH * REACH);
    for (int b = own.lane; b <= BINS; b += own.lanes) {
        edges[b] = b == 0 ? 0.0 : exp(low + (high - low) * b / BINS);
        if (b < BINS) counts[b] = 0;
    }
    __syncwarp();
    const int compared = min(all.count, COMPARED_MAX);
    for (int i = own.lane; i < compared; i += own.lanes) {
        T xi, yi;
        all.vector(i, xi, yi);
        const float last = all.key[i] + float(REACH + KEY_ROUNDING);
        for (int j = i + 1; j < compared && all.key[j] <= last; ++j) {
            T xj, yj;
            all.vector(j, xj, yj);
            const T sign = xi * xj + yi * yj >= 0 ? T(1) : T(-1);
            const T x = xi - sign * xj, y = yi - sign * yj;
            const T square = x * x + y * y;
            if (square < T(REACH * REACH)) {
                const double place = (log(fmax(double(square), FINEST * FINEST)) - low) / (high - low);
                atomicAdd(&counts[min(int(place * BINS), BINS - 1)], 1);
            }
        }
    }
    for (int b = own.lane; b < BINS; b += own.lanes) chance[b] = (edges[b + 1] - edges[b]) / (REACH * REACH);
    __syncwarp();
    int total = 0;
    for (int b = 0; b < BINS; ++b) total += counts[b];
    const double step = (log(REACH / 4) - log(floor)) / (NOISES - 1);
    if (total >= 3) {
        for (int k = own.lane; k < NOISES; k += own.lanes) {
            const double noise = floor * exp(step * k), scale = 2 * ((2 * noise) * (2 * noise));
            const double whole = 1 - exp(-(REACH * REACH) / scale);
            double equal[BINS];
            for (int b = 0; b < BINS; ++b)
                equal[b] = (exp(-edges[b] / scale) - exp(-edges[b + 1] / scale)) / whole;
            double share = 0.3;
            for (int round = 0; round < 8; ++round) {
                double taken = 0.0;
                for (int b = 0; b < BINS; ++b)
                    if (counts[b] > 0)
                        taken += counts[b] * share * equal[b] / (share * equal[b] + (1 - share) * chance[b]);
                share = fmin(fmax(taken / total, 1e-4), 1 - 1e-4);
            }
            double likelihood = 0.0;
            for (int b = 0; b < BINS; ++b)
                if (counts[b] > 0) likelihood += counts[b] * log(share * equal[b] + (1 - share) * chance[b]);
            own.sums[k] = likelihood;
        }
    }
    __syncwarp();
    int best = 0;
    if (total >= 3)
        for (int k = 1; k < NOISES; ++k)
            if (own.sums[k] > own.sums[best]) best = k;
    __syncwarp();
    return best == 0 ? floor : floor * exp(step * best);
}

// The shift of the centre by which most of the `n` peaks differ from a difference of two others.
template <typename T>
__device__ void centre_shift(const Room<T>& own, const Differences<T>& all, int n, double noise, T& shift_x,
                             T& shift_y) {
    int* const hits = reinterpret_cast<int*>(own.unit);  // [n] how many differences come near a peak
    shift_x = shift_y = T(0);
    // Once to count, then to note them down in the order of the peaks.
    for (int writing = 0; writing < 2; ++writing) {
        for (int p = own.lane; p < n; p += own.lanes) {
            const T x = all.x[p], y = all.y[p];
            const T size = sqrt(x * x + y * y);
            int place = 0;
            if (writing)
                for (int before = 0; before < p; ++before) place += hits[before];
            int first = 0, end = all.count;
            while (first < end) {
                const int middle = (first + end) / 2;
                if (all.key[middle] < float(size - T(SHIFT_MAX + KEY_ROUNDING)))
                    first = middle + 1;
                else
                    end = middle;
            }
            int count = 0;
            for (int j = first; j < all.count && all.key[j] <= float(size + T(SHIFT_MAX + KEY_ROUNDING)); ++j) {
                T vx, vy;
                all.vector(j, vx, vy);
                const T sign = x * vx + y * vy >= 0 ? T(1) : T(-1);
                const T dx = x - sign * vx, dy = y - sign * vy;
                if (dx * dx + dy * dy < T(SHIFT_MAX * SHIFT_MAX)) {
                    if (writing && place + count < SHIFTS_MAX) own.notes[place + count] = p << 16 | j;
                    ++count;
                }
            }
            if (!writing) hits[p] = count;
        }
        __syncwarp();
    }
    int count = 0;
    for (int p = 0; p < n; ++p) count += hits[p];
    count = min(count, SHIFTS_MAX);
    T* const found_x = reinterpret_cast<T*>(own.region);  // over the keys, which are done with; not over the codes
    T* const found_y = found_x + SHIFTS_MAX;
    for (int c = own.lane; c < count; c += own.lanes) {
        const int p = own.notes[c] >> 16;
        const T x = all.x[p], y = all.y[p];
        T vx, vy;
        all.vector(own.notes[c] & 0xffff, vx, vy);
        const T sign = x * vx + y * vy >= 0 ? T(1) : T(-1);
        found_x[c] = x - sign * vx;
        found_y[c] = y - sign * vy;
    }
    __syncwarp();
    const double radius = 2.5 * noise * sqrt(3.0);
    const T radius2 = T(radius * radius);
    int best = SHIFTS_MAX, best_count = 0;
    for (int i = own.lane; i < count; i += own.lanes) {
        int near = 0;
        for (int j = 0; j < count; ++j) {
            const T x = found_x[i] - found_x[j], y = found_y[i] - found_y[j];
            near += x * x + y * y < radius2;
        }
        if (near > best_count) {
            best_count = near;
            best = i;
        }
    }
    own.notes[own.lane] = best;
    own.notes[own.lanes + own.lane] = best_count;
    __syncwarp();
    for (int t = 0; t < own.lanes; ++t) {
        const int other = own.notes[t], other_count = own.notes[own.lanes + t];
        if (other_count > best_count || (other_count == best_count && other < best)) {
            best_count = other_count;
            best = other;
        }
    }
    __syncwarp();
    const double ratio = radius / SHIFT_MAX;
    if (best_count < AGREEMENTS_MIN + 3 * count * fmin(1.0, ratio * ratio)) return;
    shift_x = found_x[best];
    shift_y = found_y[best];
    for (int round = 0; round < 3; ++round) {
        T sum_x = T(0), sum_y = T(0);
        int near = 0;
        for (int first = 0; first < count; first += own.lanes) {
            const int j = first + own.lane;
            bool close = false;
            if (j < count) {
                const T x = found_x[j] - shift_x, y = found_y[j] - shift_y;
                close = x * x + y * y < radius2;
            }
            for (unsigned int votes = own.ballot(close); votes; votes &= votes - 1) {
                sum_x += found_x[first + __ffs(votes) - 1];
                sum_y += found_y[first + __ffs(votes) - 1];
                ++near;
            }
        }
        if (near) {
            shift_x = sum_x / near;
            shift_y = sum_y / near;
        }
    }
}

// The differences that come most often, into `cluster_x`, `cluster_y`; return how many.
template <typename T>
__device__ int clusters(const Room<T>& own, const Differences<T>& all, T tolerance, int wanted) {
    for (int k = own.lane; k < wanted; k += own.lanes) own.merit[k] = T(-1);
    __syncwarp();
    int worst = 0;
    for (int i = 0; i < all.count; ++i) {
        if (all.key[i] < 0) continue;
        T sum_x, sum_y;
        all.vector(i, sum_x, sum_y);
        const T length = sqrt(sum_x * sum_x + sum_y * sum_y);
        T x = sum_x, y = sum_y;
        int count = 1;
        bool more = true;
        for (int first = i + 1; more && first < all.count; first += own.lanes) {
            const int j = first + own.lane;
            const bool beyond = j >= all.count || all.longer(j, length + 2 * tolerance);
            bool open = !beyond && all.key[j] > 0;
            T vx = T(0), vy = T(0);
            if (open) all.vector(j, vx, vy);
            more = own.ballot(beyond) == 0;
            while (true) {
                const T sign = x * vx + y * vy >= 0 ? T(1) : T(-1);
                const T dx = x - sign * vx, dy = y - sign * vy;
                const unsigned int votes = own.ballot(open && dx * dx + dy * dy < tolerance * tolerance);
                if (!votes) break;
                // The first that fits is taken, and moves the mean for those after it; those before have been refused.
                const int taken = __ffs(votes) - 1;
                if (own.lane == taken) all.key[j] = -all.key[j];
                open = open && own.lane > taken;
                T taken_x, taken_y;
                all.vector(first + taken, taken_x, taken_y);
                const T taken_sign = x * taken_x + y * taken_y >= 0 ? T(1) : T(-1);
                sum_x += taken_sign * taken_x;
                sum_y += taken_sign * taken_y;
                ++count;
                x = sum_x / count;
                y = sum_y / count;
            }
        }
        const T value = T(count * exp(-double(length)));
        if (value > own.merit[worst]) {
            __syncwarp();
            if (own.lane == 0) {
                own.merit[worst] = value;
                own.mean_x[worst] = x;
                own.mean_y[worst] = y;
            }
            __syncwarp();
            worst = 0;
            for (int k = 1; k < wanted; ++k)
                if (own.merit[k] < own.merit[worst]) worst = k;
        }
        __syncwarp();
    }
    int filled = 0;
    for (int k = 0; k < wanted; ++k) filled += own.merit[k] > 0;
    for (int k = own.lane; k < wanted; k += own.lanes) {
        int rank = 0;
        for (int l = 0; l < wanted; ++l)
            rank += own.merit[l] > own.merit[k] || (own.merit[l] == own.merit[k] && l < k);
        if (rank < filled) {
            own.cluster_x[rank] = own.mean_x[k];
            own.cluster_y[rank] = own.mean_y[k];
        }
    }
    __syncwarp();
    return filled;
}

// --- Triples of vectors ----------------------------------------------------------------------------------------------

// base**exponent by squaring.
__device__ inline double power(double base, int exponent) {
    double result = 1.0;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result *= base;
        base *= base;
    }
    return result;
}

// Two vectors of the detector plane.
template <typename T>
struct Cell {
    T a0, a1, b0, b1;

    // The squared distance from the nearest lattice point; h and k become what is beyond it.
    __device__ T rest(T& h, T& k) const {
        h -= rint(h);
        k -= rint(k);
        const T x = h * a0 + k * b0, y = h * a1 + k * b1;
        return x * x + y * y;
    }
};

// Fill `triples` and `scores`, best first, and `plane`; return how many triples.
template <typename T>
__device__ int candidates(const Room<T>& own, int n, int vectors, int pairs, double noise, int wanted) {
    const double radius = RADII * noise;
    const T radius2 = T(radius * radius);
    T* const fractional_h = reinterpret_cast<T*>(own.region);  // [n]
    T* const fractional_k = fractional_h + n;                  // [n]
    T* const met_h = fractional_k + n;                         // [n] a point where it is nearest to its class
    T* const met_k = met_h + n;                                // [n]
    int* const taken = reinterpret_cast<int*>(own.region + 4 * own.room);  // [n] whether a point belongs to a class
    double* const weight = own.sums;                                       // [SEARCH_LAYER_MAX + 1]
    unsigned long long* const tallies = reinterpret_cast<unsigned long long*>(own.notes);  // [lanes]
    const T *const x = own.centred_x + 1, *const y = own.centred_y + 1;
    const double nothing = log(OUTLIERS);
    double plane_best = -infinity();
    for (int c = own.lane; c < 4; c += own.lanes) own.plane[c] = 0.0;
    int found = 0;
    for (int t = own.lane; t < wanted; t += own.lanes) own.scores[t] = -infinity();
    __syncwarp();
    const int m = min(pairs, vectors);
    for (int rank = 1; rank < 2 * m; ++rank) {
        for (int j = max(0, rank - m + 1); j < (rank + 1) / 2; ++j) {
            const int i = rank - j;
            if (i >= m) continue;
            Cell<T> cell{own.cluster_x[j], own.cluster_y[j], own.cluster_x[i], own.cluster_y[i]};
            // The shortest pair of the same plane lattice: rounding modulo (a, b) then finds the nearest point.
            for (int turn = 0; turn < 30; ++turn) {
                if (cell.a0 * cell.a0 + cell.a1 * cell.a1 > cell.b0 * cell.b0 + cell.b1 * cell.b1)
                    cell = {cell.b0, cell.b1, cell.a0, cell.a1};
                const T steps =
                    rint((cell.a0 * cell.b0 + cell.a1 * cell.b1) / (cell.a0 * cell.a0 + cell.a1 * cell.a1));
                if (steps == 0) break;
                cell.b0 -= steps * cell.a0;
                cell.b1 -= steps * cell.a1;
            }
            const T det = cell.a0 * cell.b1 - cell.a1 * cell.b0;
            const T aa = cell.a0 * cell.a0 + cell.a1 * cell.a1, bb = cell.b0 * cell.b0 + cell.b1 * cell.b1;
            if (aa < 16 * radius2 || fabs(det) < T(SINE_MIN) * sqrt(aa * bb)) continue;
            const T u0 = cell.b1 / det, u1 = -cell.b0 / det, v0 = -cell.a1 / det, v1 = cell.a0 / det;
            const double gain = double(fabs(det)) / (PI * double(radius2));
            for (int l = own.lane; l <= SEARCH_LAYER_MAX; l += own.lanes)
                weight[l] = log(OUTLIERS + (1 - OUTLIERS) * (LAYER_SHARE * power(LAYER_DECAY, l)) * gain);
            int off = 0;
            for (int first = 0; first < n; first += own.lanes) {
                const int p = first + own.lane;
                T h = T(0), k = T(0);
                bool apart = false;
                if (p < n) {
                    h = u0 * x[p] + u1 * y[p];
                    k = v0 * x[p] + v1 * y[p];
                    apart = !(cell.rest(h, k) < radius2);
                }
                const unsigned int votes = own.ballot(apart);
                if (apart) {
                    const int place = off + __popc(votes & ((1u << own.lane) - 1));
                    fractional_h[place] = h;
                    fractional_k[place] = k;
                    taken[place] = 0;
                }
                off += __popc(votes);
            }
            __syncwarp();
            const int on = n - off;
            const double flat = on * log(OUTLIERS + (1 - OUTLIERS) * gain) + off * nothing;
            if (flat > plane_best) {
                plane_best = flat;
                if (own.lane == 0) {
                    own.plane[0] = cell.a0;
                    own.plane[1] = cell.a1;
                    own.plane[2] = cell.b0;
                    own.plane[3] = cell.b1;
                }
            }
            // Even if all the others were in the first layers, it must do better than the worst.
            if (!(on * weight[0] + off * weight[1] <= own.scores[wanted - 1]) && off >= 2) {
                int size[CLASSES] = {0, 0, 0, 0};  // the largest classes, the largest first
                T class_h[CLASSES] = {}, class_k[CLASSES] = {};
                for (int p = 0; p < off; ++p) {
                    if (taken[p]) continue;
                    const T h = fractional_h[p], k = fractional_k[p];
                    T sum_h = h, sum_k = k;
                    int count = 1;
                    for (int first = p + 1; first < off; first += own.lanes) {
                        const int q = first + own.lane;
                        const bool open = q < off && !taken[q];
                        bool met = false;
                        if (open) {
                            T dh = fractional_h[q] - h, dk = fractional_k[q] - k;
                            met = cell.rest(dh, dk) < 2 * radius2;
                            if (!met) {
                                dh = -fractional_h[q] - h;
                                dk = -fractional_k[q] - k;
                                met = cell.rest(dh, dk) < 2 * radius2;
                            }
                            if (met) {
                                taken[q] = 1;
                                met_h[q] = h + dh;
                                met_k[q] = k + dk;
                            }
                        }
                        const unsigned int all_met = own.ballot(met);
                        __syncwarp();
                        for (unsigned int votes = all_met; votes; votes &= votes - 1) {
                            sum_h += met_h[first + __ffs(votes) - 1];
                            sum_k += met_k[first + __ffs(votes) - 1];
                        }
                        count += __popc(all_met);
                    }
                    int moved_size = count;
                    bool displaced = false;  // of two of one size the first found stays before the other
                    T moved_h = sum_h / count, moved_k = sum_k / count;
#pragma unroll
                    for (int c = 0; c < CLASSES; ++c) {
                        if (displaced || moved_size > size[c]) {
                            displaced = true;
                            const int last_size = size[c];
                            const T last_h = class_h[c], last_k = class_k[c];
                            size[c] = moved_size;
                            class_h[c] = moved_h;
                            class_k[c] = moved_k;
                            moved_size = last_size;
                            moved_h = last_h;
                            moved_k = last_k;
                        }
                    }
                }
#pragma unroll 1
                for (int c = 0; c < CLASSES && size[0] > 0; ++c) {
                    const T ch = class_h[0], ck = class_k[0];
#pragma unroll
                    for (int next = 1; next < CLASSES; ++next) {
                        size[next - 1] = size[next];
                        class_h[next - 1] = class_h[next];
                        class_k[next - 1] = class_k[next];
                    }
                    size[CLASSES - 1] = 0;
                    bool torsion = false;
                    for (int times = 2 + own.lane; times <= TORSION_MAX; times += own.lanes) {
                        T h = times * ch, k = times * ck;
                        torsion = torsion || cell.rest(h, k) < 2 * radius2;
                    }
                    if (own.ballot(torsion)) continue;
                    // How many peaks are in each layer; eight bits a layer.
                    unsigned long long tally = 0;
                    for (int p = own.lane; p < off; p += own.lanes) {
                        int layer = 0;
                        for (int l = 1; l <= SEARCH_LAYER_MAX && layer == 0; ++l) {
                            T h = fractional_h[p] - l * ch, k = fractional_k[p] - l * ck;
                            bool met = cell.rest(h, k) < radius2;
                            if (!met) {
                                h = fractional_h[p] + l * ch;
                                k = fractional_k[p] + l * ck;
                                met = cell.rest(h, k) < radius2;
                            }
                            if (met) layer = l;
                        }
                        tally += 1ull << 8 * layer;
                    }
                    tallies[own.lane] = tally;
                    __syncwarp();
                    tally = 0;
                    for (int t = 0; t < own.lanes; ++t) tally += tallies[t];
                    __syncwarp();
                    double score = on * weight[0] + int(tally & 255) * nothing;
                    for (int l = 1; l <= SEARCH_LAYER_MAX; ++l) score += int(tally >> 8 * l & 255) * weight[l];
                    if (score <= own.scores[wanted - 1]) continue;
                    bool known = false;  // another c of the same classes has the same score
                    for (int t = 0; t < found; ++t) known = known || fabs(own.scores[t] - score) < 1e-6 * fabs(score);
                    if (known) continue;
                    __syncwarp();
                    if (own.lane == 0) {
                        int place = min(found, wanted - 1);
                        for (; place > 0 && own.scores[place - 1] < score; --place) {
                            own.scores[place] = own.scores[place - 1];
                            for (int d = 0; d < 6; ++d) own.triples[6 * place + d] = own.triples[6 * place - 6 + d];
                        }
                        own.scores[place] = score;
                        T* const triple = own.triples + 6 * place;
                        triple[0] = cell.a0;
                        triple[1] = cell.a1;
                        triple[2] = cell.b0;
                        triple[3] = cell.b1;
                        triple[4] = ch * cell.a0 + ck * cell.b0;
                        triple[5] = ch * cell.a1 + ck * cell.b1;
                    }
                    found = min(found + 1, wanted);
                    __syncwarp();
                }
            }
            __syncwarp();  // the weights and the points are done with
        }
    }
    return found;
}

// --- A lattice fitted to the peaks -----------------------------------------------------------------------------------

__device__ inline double determinant(const double m[3][3]) {
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

__device__ inline double product(const double a[3], const double b[3]) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

__device__ inline void longer_last(double first[3], double last[3]) {
    if (product(first, first) > product(last, last)) {
        for (int c = 0; c < 3; ++c) {
            const double moved = first[c];
            first[c] = last[c];
            last[c] = moved;
        }
    }
}

// Reduce a basis to its shortest vectors (basis.py); return whether the rows span a lattice.
__device__ inline bool shorten(double rows[3][3]) {
    for (int turn = 0; turn < 200; ++turn) {
        longer_last(rows[0], rows[1]);
        longer_last(rows[1], rows[2]);
        longer_last(rows[0], rows[1]);
        const double n0 = product(rows[0], rows[0]), n1 = product(rows[1], rows[1]), n2 = product(rows[2], rows[2]);
        const double g01 = product(rows[0], rows[1]);
        if (!(n0 > 0)) return false;
        const double k = rint(g01 / n0);
        if (k != 0) {
            for (int c = 0; c < 3; ++c) rows[1][c] -= k * rows[0][c];
            continue;
        }
        const double g02 = product(rows[0], rows[2]), g12 = product(rows[1], rows[2]);
        const double area = n0 * n1 - g01 * g01;
        if (!(area > 1e-12 * n0 * n1)) return false;
        const double x0 = rint((g02 * n1 - g12 * g01) / area), y0 = rint((g12 * n0 - g02 * g01) / area);
        double best = n2 * (1 - 1e-12), best_x = 0.0, best_y = 0.0;
        for (int dx = -1; dx < 2; ++dx) {
            for (int dy = -1; dy < 2; ++dy) {
                const double x = x0 + dx, y = y0 + dy;
                const double size = n2 - 2 * x * g02 - 2 * y * g12 + x * x * n0 + 2 * x * y * g01 + y * y * n1;
                if (size < best) {
                    best = size;
                    best_x = x;
                    best_y = y;
                }
            }
        }
        if (best_x == 0 && best_y == 0) return true;
        for (int c = 0; c < 3; ++c) rows[2][c] -= best_x * rows[0][c] + best_y * rows[1][c];
    }
    return true;
}

// A symmetric matrix: the upper triangle, row by row.
struct Symmetric {
    double v[6];

    __device__ double at(int i, int j) const { return v[i == 0 || j == 0 ? i + j : i + j + 1]; }
    __device__ void write(double* out) const {
#pragma unroll
        for (int c = 0; c < 9; ++c) out[c] = at(c / 3, c % 3);
    }
};

// Solve m x = r; return whether m is positive.
__device__ inline bool solve3(const Symmetric& matrix, const double r[3], double x[3], Symmetric& inverse) {
    const double* const m = matrix.v;
    const double c00 = m[3] * m[5] - m[4] * m[4];
    const double c01 = m[2] * m[4] - m[1] * m[5];
    const double c02 = m[1] * m[4] - m[2] * m[3];
    const double det = m[0] * c00 + m[1] * c01 + m[2] * c02;
    if (!(det > 1e-10 * fabs(m[0] * m[3] * m[5])) || !(det > 0)) return false;
    inverse.v[0] = c00 / det;
    inverse.v[1] = c01 / det;
    inverse.v[2] = c02 / det;
    inverse.v[3] = (m[0] * m[5] - m[2] * m[2]) / det;
    inverse.v[4] = (m[1] * m[2] - m[0] * m[4]) / det;
    inverse.v[5] = (m[0] * m[3] - m[1] * m[1]) / det;
    for (int i = 0; i < 3; ++i) x[i] = inverse.at(i, 0) * r[0] + inverse.at(i, 1) * r[1] + inverse.at(i, 2) * r[2];
    return true;
}

// sum_p weight[p] left[p] right[p], in the order of the peaks.
__device__ inline double column_sum(double sum, const double* weight, const double* left, const double* right, int n) {
    for (int p = 0; p < n; ++p) sum += (weight[p] * left[p]) * right[p];
    return sum;
}

// A lattice as `assign` needs it.
struct Lattice {
    double a0, a1, b0, b1, c0, c1, u0, u1, v0, v1, z0, z1, z2, noise, radius2, density;

    __device__ Lattice(const double rows[3][3], double noise) : noise(noise) {
        a0 = rows[0][0], a1 = rows[0][1], b0 = rows[1][0], b1 = rows[1][1], c0 = rows[2][0], c1 = rows[2][1];
        z0 = rows[0][2], z1 = rows[1][2], z2 = rows[2][2];
        const double det = a0 * b1 - a1 * b0;
        u0 = b1 / det, u1 = -b0 / det, v0 = -a1 / det, v1 = a0 / det;
        radius2 = (RADII * noise) * (RADII * noise);
        const double volume = det * z2 + (a1 * c0 - a0 * c1) * z1 + (b0 * c1 - b1 * c0) * z0;
        density = 1 / fmax(fabs(volume), 1e-9);
    }

    // The indices of a place; return what they cost, infinity where no point of the lattice is near.
    __device__ double indices(double x0, double y0, double expected, bool use_z, double wavelength,
                              double hkl[3]) const {
        double best = infinity();
        hkl[0] = hkl[1] = hkl[2] = 0.0;
        const double square = x0 * x0 + y0 * y0;
#pragma unroll 1
        for (int t = 0; t < 2 * LAYER_MAX + 1; ++t) {
            const int l = t % 2 ? (t + 1) / 2 : -(t / 2);
            double x = x0 - l * c0, y = y0 - l * c1;
            const double h = rint(u0 * x + u1 * y), k = rint(v0 * x + v1 * y);
            x = x - h * a0 - k * b0;
            y = y - h * a1 - k * b1;
            const double r2 = x * x + y * y;
            if (r2 < radius2) {
                double cost = 0.5 * r2 / (noise * noise);
                if (use_z) {
                    const double gz = h * z0 + k * z1 + l * z2;
                    const double s = (gz - 0.5 * wavelength * (square + gz * gz)) / expected;
                    cost += 0.5 * (DEGREES + 1) * log(1 + s * s / DEGREES);
                } else {
                    cost += 0.5 * (l < 0 ? -l : l);
                }
                if (cost < best) {
                    best = cost;
                    hkl[0] = h;
                    hkl[1] = k;
                    hkl[2] = l;
                }
            }
        }
        return best;
    }
};

__device__ inline double expected_error(double unit, double scale) {
    const double size = scale * unit;
    return 1 / sqrt(1 / (S_FLOOR * S_FLOOR + size * size) + 1 / (S_CEILING * S_CEILING));
}

// What a fit is, the same in all lanes.
struct Fit {
    double basis[3][3];
    double shift_x, shift_y, squares, noise, scale, total, evidence;
    int number;
};

// Give every peak its indices: fills the columns H, K, L, ON, GAIN; sums up how many are on the lattice, and the gain.
template <typename T>
__device__ void assign(const Room<T>& own, int n, bool use_z, double wavelength, Fit& fit) {
    const Lattice lattice(fit.basis, fit.noise);
    fit.number = 0;
    for (int first = 0; first < n; first += own.lanes) {
        const int p = first + own.lane;
        bool on = false;
        if (p < n) {
            double hkl[3];
            const double expected = own.column(EXPECTED)[p];
            const double cost =
                lattice.indices(own.column(X)[p], own.column(Y)[p], expected, use_z, wavelength, hkl);
            on = cost < infinity();
            const double ratio =
                on ? exp(-cost) * T_NORM / expected / (lattice.density * 2 * PI * fit.noise * fit.noise) : 0.0;
            own.column(GAIN)[p] = log(OUTLIERS + (1 - OUTLIERS) * ratio);
            own.column(ON)[p] = on;
            for (int i = 0; i < 3; ++i) own.column(H + i)[p] = hkl[i];
        }
        fit.number += __popc(own.ballot(on));
    }
    __syncwarp();
    fit.total = 0.0;
    for (int p = 0; p < n; ++p) fit.total += own.column(GAIN)[p];
}

// Sum q of a table of sums: which columns its factors are, the octal digits of `left` and `right` say, the last first.
template <typename T>
__device__ double table_sum(const Room<T>& own, double start, int weight, unsigned long long left,
                            unsigned long long right, int q, int n) {
    return column_sum(start, own.column(weight), own.column(int(left >> 3 * q & 7)),
                      own.column(int(right >> 3 * q & 7)), n);
}

// Least squares of the places; fills the components of the basis in the plane, and moves the centre.
template <typename T>
__device__ bool fit_plane(const Room<T>& own, int n, double shift_noise, Fit& fit) {
    // hkl hkl (upper triangle), hkl, hkl xy, xy, 1
    constexpr unsigned long long LEFT = 0333221100210211000, RIGHT = 0354545454333221210;
    constexpr int SUMS = 18;
    const double prior = (fit.noise / shift_noise) * (fit.noise / shift_noise);
    for (int q = own.lane; q < SUMS; q += own.lanes)
        own.sums[q] = table_sum(own, q == SUMS - 1 ? prior : 0.0, ON, LEFT, RIGHT, q, n);
    __syncwarp();
    const double number = own.sums[17];
    Symmetric m, inverse;
    double s[3], rest[2], x[3];
    for (int i = 0; i < 3; ++i) s[i] = own.sums[6 + i];
    for (int i = 0, t = 0; i < 3; ++i)
        for (int j = i; j < 3; ++j, ++t) m.v[t] = own.sums[t] - s[i] * s[j] / number;
    bool fixed = true;
    for (int d = 0; d < 2 && fixed; ++d) {
        const double t = own.sums[15 + d];
        double r[3];
        for (int i = 0; i < 3; ++i) r[i] = own.sums[9 + 2 * i + d] - s[i] * t / number;
        fixed = solve3(m, r, x, inverse);
        rest[d] = t / number;
        for (int i = 0; i < 3; ++i) {
            fit.basis[i][d] = x[i];
            rest[d] -= s[i] * x[i] / number;
        }
    }
    __syncwarp();
    if (!fixed) return false;
    if (own.lane == 0) inverse.write(own.in_plane);
    double* const squares = own.column(TARGET);  // and the column after it: two numbers for each peak
    for (int p = own.lane; p < n; p += own.lanes) {
        const double h = own.column(H)[p], k = own.column(K)[p], l = own.column(L)[p], on = own.column(ON)[p];
        for (int d = 0; d < 2; ++d) {
            const double e = own.column(X + d)[p] - rest[d] - h * fit.basis[0][d] - k * fit.basis[1][d] -
                             l * fit.basis[2][d];
            squares[2 * p + d] = on * (e * e);
        }
    }
    __syncwarp();
    fit.squares = 0.0;
    for (int p = 0; p < 2 * n; ++p) fit.squares += squares[p];
    fit.shift_x += rest[0];
    fit.shift_y += rest[1];
    __syncwarp();
    return true;
}

// Components along the beam, by weighing the peaks again and again; return the maximum, -infinity where they do not fix
// it. `side` is the sign of the determinant of the basis, 0 if z is already near.
template <typename T>
__device__ double fit_heights(const Room<T>& own, int n, double wavelength, int rounds, double side, double& scale,
                              double z[3], Fit& fit) {
    // w hkl hkl (upper triangle), w hkl target; and, with another weight, 1
    constexpr unsigned long long LEFT = 03210211000, RIGHT = 03666221210;
    constexpr int SUMS = 10;
    const double a0 = fit.basis[0][0], a1 = fit.basis[0][1], b0 = fit.basis[1][0], b1 = fit.basis[1][1];
    const double c0 = fit.basis[2][0], c1 = fit.basis[2][1];
    const double u[3] = {b0 * c1 - b1 * c0, a1 * c0 - a0 * c1, a0 * b1 - a1 * b0};
    double merit = -infinity();
#pragma unroll 1
    for (int turn = 0; turn < rounds; ++turn) {
        for (int p = own.lane; p < n; p += own.lanes) {
            const double on = own.column(ON)[p], x = own.column(X)[p], y = own.column(Y)[p];
            const double expected = expected_error(own.unit[p], scale);
            const double trust = on * (1 - own.column(PRIOR)[p] / S_CEILING);
            const double gz = own.column(H)[p] * z[0] + own.column(K)[p] * z[1] + own.column(L)[p] * z[2];
            const double target = 0.5 * wavelength * (x * x + y * y + gz * gz);
            double w = trust / (expected * expected);
            if (turn > 0 || side == 0) {
                const double s = (gz - target) / expected;
                w *= (DEGREES + 1) / (DEGREES + s * s);
            }
            own.column(EXPECTED)[p] = expected;
            own.column(TRUST)[p] = trust;
            own.column(TARGET)[p] = target;
            own.column(WEIGHT)[p] = w;
        }
        __syncwarp();
        for (int q = own.lane; q < SUMS; q += own.lanes)
            own.sums[q] = table_sum(own, 0.0, q == SUMS - 1 ? TRUST : WEIGHT, LEFT, RIGHT, q, n);
        __syncwarp();
        Symmetric m, inverse;
        double r[3], x[3];
        for (int i = 0; i < 6; ++i) m.v[i] = own.sums[i];
        for (int i = 0; i < 3; ++i) r[i] = own.sums[6 + i];
        const double number = own.sums[9];
        __syncwarp();
        if (!solve3(m, r, x, inverse)) return -infinity();
        const double flat = product(x, u);
        double kappa = 0.0;
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) kappa += u[i] * inverse.at(i, j) * u[j];
        const double sign = side != 0 ? side : flat >= 0 ? 1.0 : -1.0;
        const double high = 0.5 * (flat + sign * sqrt(flat * flat + 4 * number * kappa));
        if (high == 0) return -infinity();
        for (int i = 0; i < 3; ++i) {
            z[i] = x[i];
            for (int j = 0; j < 3; ++j) z[i] += number / high * inverse.at(i, j) * u[j];
        }
        const bool last = turn == rounds - 1;
        for (int p = own.lane; p < n; p += own.lanes) {
            double terms[3] = {0.0, 0.0, 0.0};
            if (own.column(ON)[p] != 0) {
                const double x_p = own.column(X)[p], y_p = own.column(Y)[p];
                const double expected = own.column(EXPECTED)[p], trust = own.column(TRUST)[p];
                const double gz = own.column(H)[p] * z[0] + own.column(K)[p] * z[1] + own.column(L)[p] * z[2];
                const double target = 0.5 * wavelength * (x_p * x_p + y_p * y_p + gz * gz);
                const double s = (gz - target) / expected, square = s * s;
                const double inner = 1 / (1 / (expected * expected) - 1 / (S_CEILING * S_CEILING));
                const double felt = expected * expected / inner * (1 - S_FLOOR * S_FLOOR / inner);
                terms[0] = trust * felt * ((DEGREES + 1) * square / (DEGREES + square) - 1);
                terms[1] = trust * 2 * felt * felt * DEGREES / (DEGREES + 3);
                if (last) terms[2] = -(trust * (log(expected) + 0.5 * (DEGREES + 1) * log(1 + square / DEGREES)));
            }
            own.column(TARGET)[p] = terms[0];
            own.column(WEIGHT)[p] = terms[1];
            own.column(GAIN)[p] = terms[2];
        }
        __syncwarp();
        const double off_scale = log(scale / SCALE), part = off_scale / SCALE_SPREAD;
        double gradient = -off_scale / (SCALE_SPREAD * SCALE_SPREAD), curvature = 1 / (SCALE_SPREAD * SCALE_SPREAD);
        merit = number * log(fabs(high)) - 0.5 * (part * part);
#pragma unroll 2
        for (int p = 0; p < n; ++p) {
            gradient += own.column(TARGET)[p];
            curvature += own.column(WEIGHT)[p];
            merit += own.column(GAIN)[p];
        }
        __syncwarp();
        scale *= exp(fmax(-1.0, fmin(1.0, gradient / curvature)));
        if (last) {
            for (int i = 0, t = 0; i < 3; ++i)
                for (int j = i; j < 3; ++j, ++t) m.v[t] = own.sums[t] + number * u[i] * u[j] / (high * high);
            for (int i = 0; i < 3; ++i) r[i] = own.sums[6 + i];
            if (!solve3(m, r, x, inverse)) return -infinity();
            if (own.lane == 0) inverse.write(own.heights);
            __syncwarp();
        }
    }
    return merit;
}

// Fit a lattice of which only the components in the detector plane are known; return whether it holds.
template <typename T>
__device__ bool fit_lattice(const Room<T>& own, int n, const Limits& limits, Fit& fit) {
#pragma unroll 1
    for (int turn = 0; turn < TURNS; ++turn) {
        const bool known = turn > 0;
        for (int p = own.lane; p < n; p += own.lanes) {
            own.column(X)[p] = own.x[p] - fit.shift_x;
            own.column(Y)[p] = own.y[p] - fit.shift_y;
            own.column(EXPECTED)[p] = expected_error(own.unit[p], fit.scale);
        }
        assign(own, n, known, limits.wavelength, fit);
        if (fit.number < limits.peaks_min || !fit_plane(own, n, limits.centre_noise, fit)) return false;
        // Which side of the plane the first layer is on, the curvature of the sphere alone may tell badly.
        double z[3], merit = -infinity(), scale = fit.scale;
#pragma unroll 1
        for (int side = known ? 0 : -1; side < 2; side += 2) {
            double side_z[3], side_scale = fit.scale;
            for (int i = 0; i < 3; ++i) side_z[i] = fit.basis[i][2];
            const double side_merit =
                fit_heights(own, n, limits.wavelength, known ? 3 : 6, double(side), side_scale, side_z, fit);
            if (side <= 0 || !(merit > side_merit)) {
                merit = side_merit;
                scale = side_scale;
                for (int i = 0; i < 3; ++i) z[i] = side_z[i];
            }
        }
        if (merit == -infinity()) return false;
        for (int i = 0; i < 3; ++i) {
            if (!(fabs(z[i]) < HEIGHT_MAX)) return false;
            fit.basis[i][2] = z[i];
        }
        fit.scale = scale;
        if (turn < TURNS - 1 && !shorten(fit.basis)) return false;
        const int freedom = 2 * fit.number - 6;
        if (known && freedom > 6)
            fit.noise = fmin(2 * fit.noise, fmax(limits.noise_min, sqrt(fit.squares / freedom)));
    }
    if (determinant(fit.basis) < 0)
        for (int i = 0; i < 3; ++i)
            for (int c = 0; c < 3; ++c) fit.basis[i][c] *= -1;
    const double part = 2 * PI * fit.noise * fit.noise;
    double inverse[3][3];
    for (int c = 0; c < 9; ++c) inverse[c / 3][c % 3] = own.in_plane[c];
    const double in_plane = determinant(inverse) * (part * part * part);
    for (int c = 0; c < 9; ++c) inverse[c / 3][c % 3] = own.heights[c];
    const double heights = determinant(inverse) * ((2 * PI) * (2 * PI) * (2 * PI));
    if (!(in_plane > 0 && heights > 0)) return false;
    fit.evidence = fit.total + log(in_plane) + 0.5 * log(heights);
    return true;
}

// Fit the two vectors of `plane` alone, in place; return the evidence.
template <typename T>
__device__ double fit_two_vectors(const Room<T>& own, int n, double noise) {
    // hh, hk, kk, hx, hy, kx, ky
    constexpr unsigned long long LEFT = 01100100, RIGHT = 05454110;
    double evidence = -infinity();
    for (int turn = 0; turn < 3; ++turn) {
        const double a0 = own.plane[0], a1 = own.plane[1], b0 = own.plane[2], b1 = own.plane[3];
        const double det = a0 * b1 - a1 * b0;
        if (det == 0 || !(fabs(det) < infinity())) return -infinity();
        for (int p = own.lane; p < n; p += own.lanes) {
            const double x = own.centred_x[p + 1], y = own.centred_y[p + 1];
            const double h = rint((b1 * x - b0 * y) / det), k = rint((a0 * y - a1 * x) / det);
            const double dx = x - h * a0 - k * b0, dy = y - h * a1 - k * b1;
            const double r2 = (dx * dx + dy * dy) / (noise * noise);
            const double ratio = fabs(det) * exp(-0.5 * r2) / (2 * PI * noise * noise);
            own.column(GAIN)[p] = log(OUTLIERS + (1 - OUTLIERS) * ratio);
            own.column(ON)[p] = r2 < RADII * RADII;
            own.column(H)[p] = h;
            own.column(K)[p] = k;
            own.column(X)[p] = x;
            own.column(Y)[p] = y;
        }
        __syncwarp();
        for (int q = own.lane; q < 7; q += own.lanes) own.sums[q] = table_sum(own, 0.0, ON, LEFT, RIGHT, q, n);
        __syncwarp();
        double total = 0.0;
        for (int p = 0; p < n; ++p) total += own.column(GAIN)[p];
        const double hh = own.sums[0], hk = own.sums[1], kk = own.sums[2], hx = own.sums[3], hy = own.sums[4];
        const double kx = own.sums[5], ky = own.sums[6], area = hh * kk - hk * hk;
        __syncwarp();
        if (!(area > 0)) return -infinity();
        const double part = 2 * PI * noise * noise;
        evidence = total + log(part * part / area);
        if (own.lane == 0) {
            own.plane[0] = (kk * hx - hk * kx) / area;
            own.plane[1] = (kk * hy - hk * ky) / area;
            own.plane[2] = (hh * kx - hk * hx) / area;
            own.plane[3] = (hh * ky - hk * hy) / area;
        }
        __syncwarp();
    }
    return evidence;
}

// --- The best lattices -----------------------------------------------------------------------------------------------

// The hypotheses of this block's pattern, in global memory; written and read by all lanes.
struct Hypotheses {
    static constexpr int NUMBERS = 9 + 27 + 2 + VALUES;
    double *basis, *covariance, *centre, *values;
    int room;

    __device__ double& number(int k, int c) const {
        if (c < 9) return basis[9 * k + c];
        if (c < 36) return covariance[27 * k + c - 9];
        if (c < 38) return centre[2 * k + c - 36];
        return values[VALUES * k + c - 38];
    }
    __device__ void rows(int k, double out[3][3]) const {
        for (int c = 0; c < 9; ++c) out[c / 3][c % 3] = basis[9 * k + c];
    }
};

// Whether three vectors of the plane are a basis of a lattice that explains nearly all peaks already.
template <typename T>
__device__ bool is_known(const Room<T>& own, const T* triple, const Hypotheses& best, int kept, double wavelength,
                         double noise) {
    for (int k = 0; k < kept; ++k) {
        double rows[3][3], steps[3][3];
        best.rows(k, rows);
        const double area = fabs(rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]);
        const double places_of_layers = (2 * LAYER_MAX + 1) * PI * ((RADII * noise) * (RADII * noise));
        if (best.values[VALUES * k + PEAKS_ON] < COMPLETE || places_of_layers > BY_CHANCE * area) continue;
        const Lattice lattice(rows, noise);
        bool missed = false;
        for (int i = own.lane; i < 3; i += own.lanes) {
            double hkl[3];
            const double cost =
                lattice.indices(triple[2 * i], triple[2 * i + 1], S_CEILING, false, wavelength, hkl);
            missed = missed || !(cost < infinity());
            for (int c = 0; c < 3; ++c) own.sums[3 * i + c] = hkl[c];
        }
        const bool all = own.ballot(missed) == 0;
        __syncwarp();
        for (int c = 0; c < 9; ++c) steps[c / 3][c % 3] = own.sums[c];
        __syncwarp();
        if (all && fabs(determinant(steps)) == 1) return true;
    }
    return false;
}

// Whether each row of one basis is a sum of rows of the other.
__device__ inline bool same_lattice(const double first[3][3], const double second[3][3]) {
    const double det = determinant(second);
    if (det == 0 || !(fabs(det) < infinity())) return false;
    double inverse[3][3], steps[3][3];
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        for (int c = 0; c < 3; ++c) {
            const int d = (c + 1) % 3, e = (c + 2) % 3;
            inverse[c][i] = (second[j][d] * second[k][e] - second[j][e] * second[k][d]) / det;
        }
    }
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            double value = 0.0;
            for (int c = 0; c < 3; ++c) value += first[i][c] * inverse[c][j];
            steps[i][j] = rint(value);
            if (fabs(value - steps[i][j]) > SAME) return false;
        }
    }
    return fabs(determinant(steps)) == 1;
}

// Put a fit into its place among the best, unless a better one has the same lattice; return how many there are.
template <typename T>
__device__ int insert(const Room<T>& own, int n, const Fit& fit, const Hypotheses& best, int kept) {
    for (int k = 0; k < kept; ++k) {
        double rows[3][3];
        best.rows(k, rows);
        if (!same_lattice(rows, fit.basis)) continue;
        if (fit.evidence <= best.values[VALUES * k + EVIDENCE]) return kept;
        __syncwarp();
        for (int c = own.lane; c < Hypotheses::NUMBERS; c += own.lanes)
            for (int i = k; i < kept - 1; ++i) best.number(i, c) = best.number(i + 1, c);
        __syncwarp();
        --kept;
        break;
    }
    int place = kept;
    while (place > 0 && best.values[VALUES * (place - 1) + EVIDENCE] < fit.evidence) --place;
    if (place == best.room) return kept;
    __syncwarp();
    for (int c = own.lane; c < Hypotheses::NUMBERS; c += own.lanes)
        for (int i = min(kept, best.room - 1); i > place; --i) best.number(i, c) = best.number(i - 1, c);
    __syncwarp();
    if (own.lane == 0) {
        const double variance = fmax(fit.squares / max(2 * fit.number - 6, 1), POSITION_ROUNDING * POSITION_ROUNDING);
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) {
                best.basis[9 * place + 3 * i + j] = fit.basis[i][j];
                double* const covariance = best.covariance + 27 * place + 3 * i + j;
                covariance[0] = covariance[9] = own.in_plane[3 * i + j] * variance;
                covariance[18] = own.heights[3 * i + j];
            }
        }
        best.centre[2 * place] = fit.shift_x;
        best.centre[2 * place + 1] = fit.shift_y;
        double number = 0.0, bright = 0.0, total = 0.0;
        unsigned int layers = 1u << LAYER_MAX;  // that of the direct beam
        for (int p = 0; p < n; ++p) {
            total += own.strength[p];
            if (own.column(ON)[p] != 0) {
                number += 1;
                bright += own.strength[p];
                layers |= 1u << (int(own.column(L)[p]) + LAYER_MAX);
            }
        }
        double* const values = best.values + VALUES * place;
        values[EVIDENCE] = fit.evidence;
        values[NOISE] = fit.noise;
        values[PATTERN_SCALE] = fit.scale;
        values[PEAKS_ON] = number / n;
        values[INTENSITY_ON] = bright / total;
        values[LAYERS] = __popc(layers);
    }
    __syncwarp();
    return min(kept + 1, best.room);
}

// Index the pattern whose peaks are in `own`; return what became of it. Its noise is that of the best lattice, or else
// `before[2]`.
template <typename T>
__device__ Status index_pattern(const Room<T>& own, int n, const Limits& limits, int* workspace, long long stride,
                                const Hypotheses& best) {
    const int most = (own.room + 1) * own.room / 2;
    Differences<T> all;
    if (stride > 0) {
        all.key = reinterpret_cast<float*>(workspace + blockIdx.x * stride);
        all.code = reinterpret_cast<unsigned short*>(all.key + most);
    } else {
        all.key = reinterpret_cast<float*>(own.region);
        all.code = reinterpret_cast<unsigned short*>(own.region + max(2 * SHIFTS_MAX, (most + 1) / 2));
    }
    // First the peaks alone, then, with the centre known, the direct beam too.
    T shift_x = T(0), shift_y = T(0);
    double noise = 0.0;
    int vectors = 0;
#pragma unroll 1
    for (int with_direct_beam = 0; with_direct_beam < 2; ++with_direct_beam) {
        for (int p = own.lane; p <= n; p += own.lanes) {
            own.centred_x[p] = p == 0 ? T(0) : T(own.x[p - 1]) - shift_x;
            own.centred_y[p] = p == 0 ? T(0) : T(own.y[p - 1]) - shift_y;
        }
        __syncwarp();
        all.x = own.centred_x + 1 - with_direct_beam;
        all.y = own.centred_y + 1 - with_direct_beam;
        differences(own, all, n + with_direct_beam);
        if (with_direct_beam) {
            vectors = clusters(own, all, T(4 * noise), limits.clusters);
        } else {
            noise = position_noise(own, all, limits.noise_min);
            centre_shift(own, all, n, noise, shift_x, shift_y);
        }
        __syncwarp();
    }
    if (own.lane == 0) {
        own.before[0] = shift_x;
        own.before[1] = shift_y;
        own.before[2] = noise;
    }
    const int found = candidates(own, n, vectors, limits.pairs, SEARCH_NOISE * noise, limits.trials);

    for (int p = own.lane; p < n; p += own.lanes) {
        const double q = hypot(double(own.centred_x[p + 1]), double(own.centred_y[p + 1]));
        own.unit[p] = pow(own.strength[p], -INTENSITY_POWER) * pow(fmax(q, Q_LOW), -Q_POWER);
        own.column(PRIOR)[p] = expected_error(own.unit[p], SCALE);
    }
    __syncwarp();
    int kept = 0;
#pragma unroll 1
    for (int t = 0; t < found; ++t) {
        const T* const triple = own.triples + 6 * t;
        if (is_known(own, triple, best, kept, limits.wavelength, 1.5 * SEARCH_NOISE * own.before[2])) continue;
        Fit fit;
        for (int i = 0; i < 3; ++i) {
            fit.basis[i][0] = triple[2 * i];
            fit.basis[i][1] = triple[2 * i + 1];
            fit.basis[i][2] = 0.0;
        }
        fit.shift_x = own.before[0];
        fit.shift_y = own.before[1];
        fit.noise = own.before[2];
        fit.scale = SCALE;
        if (fit_lattice(own, n, limits, fit)) kept = insert(own, n, fit, best, kept);
        __syncwarp();
    }
    const double flat = fit_two_vectors(own, n, own.before[2]);
    for (int c = own.lane; c < Hypotheses::NUMBERS; c += own.lanes)
        for (int k = kept; k < best.room; ++k) best.number(k, c) = not_a_number();
    __syncwarp();
    if (kept && best.values[EVIDENCE] > fmax(flat, limits.evidence_min)) {
        return INDEXED;
    }
    return flat > limits.evidence_min ? ONE_ZONE : NO_LATTICE;
}

template <typename T>
__global__ void __launch_bounds__(32, BLOCKS_TOGETHER)
lattice_index(const float* qx, const float* qy, const float* intensity, const long long* offsets, double wavelength,
              int peaks_min, int peaks_max, int hypotheses, int clusters, int pairs, int trials, double noise_min,
              double centre_noise, double score_min, int room, int* order, int* workspace, long long workspace_stride,
              long long* status, double* noise, double* basis, double* covariance, double* centre, double* values,
              double* plane) {
    const Limits limits{peaks_min, peaks_max, clusters,     pairs,     trials,    hypotheses,
                        noise_min, centre_noise, score_min, wavelength};
    const Room<T> own(room, limits);
    const long long pattern = blockIdx.x, first = offsets[pattern], row = pattern * hypotheses;
    const Hypotheses best{basis + 9 * row, covariance + 27 * row, centre + 2 * row, values + VALUES * row, hypotheses};
    double origin_x, origin_y;
    const int n = strongest(own, qx + first, qy + first, intensity + first, int(offsets[pattern + 1] - first),
                            peaks_max, order + first, origin_x, origin_y);
    Status found = TOO_FEW_PEAKS;
    if (n >= peaks_min) found = index_pattern(own, n, limits, workspace, workspace_stride, best);
    __syncwarp();  // all have read what is overwritten now
    if (found != INDEXED)
        for (int c = own.lane; c < Hypotheses::NUMBERS; c += own.lanes)
            for (int k = 0; k < hypotheses; ++k) best.number(k, c) = not_a_number();
    __syncwarp();
    for (int k = own.lane; k < hypotheses; k += own.lanes) {
        best.centre[2 * k] += origin_x;
        best.centre[2 * k + 1] += origin_y;
    }
    if (own.lane == 0) {
        status[pattern] = found;
        noise[pattern] = not_a_number();
        if (found != TOO_FEW_PEAKS) noise[pattern] = found == INDEXED ? best.values[NOISE] : own.before[2];
        for (int c = 0; c < 4; ++c)
            plane[4 * pattern + c] = found == INDEXED || found == ONE_ZONE ? own.plane[c] : not_a_number();
    }
}
