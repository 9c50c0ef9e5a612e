// Fourier coefficients of a crystal's potential, for every h, k, l of a box:
//
//     U_g = 1/V sum_e f_e(|g|) sum_j o_j exp(2 pi i (h x_j + k y_j + l z_j)),    0 where g is not inside
//
// e runs through the elements, j through the atoms of an element. f_e comes as a piecewise polynomial in g^2
// (`FactorTable` in gpuediff/diffraction/factor_tables.py). T is the type of the phases: double agrees with the CPU to
// rounding, float is for devices on which double is slow.
//
// Grid.    One thread for each pair g, -g: index n of the half box 0 <= h <= box[0], |k| <= box[1], |l| <= box[2],
//          l fastest. All sum the atoms in the same order, so the bits are the same every time.
// Thread.  Sums the phases of each element's atoms, looks up its factor, and writes U_g and, as the sum for -g is the
//          conjugate, U_-g. In the plane h = 0 both of a pair are in the half box, and each writes itself.
// Shared.  None: atoms and tables are read by all threads at the same time, and stay in the caches.
// Caller.  `first_atom` has elements + 1 values, rising from 0; `first_interval` likewise, and the intervals of an
//          element cover g^2 from 0 to the largest inside; `intervals` holds upper end, middle and 2 / width of each;
//          `first_cell` holds `cells` values an element, each within its intervals; box[3 .. 5] bound |h|, |k|, |l|
//          of what is inside. `table` has (2 box[0] + 1) (2 box[1] + 1) (2 box[2] + 1) elements.

constexpr int points = 16;  // coefficients of an interval

__device__ inline double2 factor_at(double square, const double* intervals, const double2* coefficients,
                                    const int* first_cell, int cells, int count, double cells_per_square) {
    int i = first_cell[min(int(square * cells_per_square), cells - 1)];
    while (i < count - 1 && square >= intervals[3 * i]) ++i;
    const double t = (square - intervals[3 * i + 1]) * intervals[3 * i + 2];
    const double2* const c = coefficients + i * points;
    double2 value = c[points - 1];
    for (int k = points - 2; k >= 0; --k) {
        value.x = value.x * t + c[k].x;
        value.y = value.y * t + c[k].y;
    }
    return value;
}

template <typename T>
__global__ void structure_factors(const double* positions, const double* occupancies, const int* first_atom,
                                  int elements, const double* intervals, const double2* coefficients,
                                  const int* first_interval, const int* first_cell, int cells,
                                  double cells_per_square, const double* metric, const int* box,
                                  double squared_limit, double density, double2* table) {
    const int rows_k = 2 * box[1] + 1;
    const int rows_l = 2 * box[2] + 1;
    const long long plane = (long long)rows_k * rows_l;
    const long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= (box[0] + 1) * plane) return;
    const int l = int(n % rows_l) - box[2];
    const int k = int(n / rows_l % rows_k) - box[1];
    const int h = int(n / plane);

    double2 forward = make_double2(0.0, 0.0);
    double2 backward = make_double2(0.0, 0.0);
    // metric: a*^2, b*^2, c*^2, 2 a*.b*, 2 a*.c*, 2 b*.c*
    const double square = metric[0] * h * h + metric[1] * k * k + metric[2] * l * l + metric[3] * h * k +
                          metric[4] * h * l + metric[5] * k * l;
    if (square <= squared_limit && h <= box[3] && abs(k) <= box[4] && abs(l) <= box[5]) {
        for (int e = 0; e < elements; ++e) {
            T real = T(0);
            T imaginary = T(0);
            for (int j = first_atom[e]; j < first_atom[e + 1]; ++j) {
                const double turns = h * positions[3 * j] + k * positions[3 * j + 1] + l * positions[3 * j + 2];
                T sine, cosine;
                sincospi(T(2) * T(turns - floor(turns)), &sine, &cosine);
                real += T(occupancies[j]) * cosine;
                imaginary += T(occupancies[j]) * sine;
            }
            const int first = first_interval[e];
            const double2 f = factor_at(square, intervals + 3 * first, coefficients + first * points,
                                        first_cell + e * cells, cells, first_interval[e + 1] - first,
                                        cells_per_square);
            forward.x += f.x * real - f.y * imaginary;
            forward.y += f.x * imaginary + f.y * real;
            backward.x += f.x * real + f.y * imaginary;
            backward.y += f.y * real - f.x * imaginary;
        }
    }
    const long long middle = box[0] * plane;
    table[middle + n] = make_double2(density * forward.x, density * forward.y);
    if (h > 0) table[middle + plane - 1 - n] = make_double2(density * backward.x, density * backward.y);
}
