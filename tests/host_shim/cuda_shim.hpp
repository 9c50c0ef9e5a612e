// Runs a CUDA kernel on the host, from its unchanged source: a grid is a loop over blocks, a block a set of
// cooperative fibers, one for each thread, that change over at __syncthreads() and nowhere else.
//
// It is stricter than a GPU where a GPU would be silent:
//   - shared memory is filled with NaN before every block, so that a read before a write shows;
//   - a write past the bytes of shared memory that the launch asked for is an error, and so is asking for > 99 KiB;
//     more than 48 KiB must be announced, as to CuPy (shim.py);
//   - all threads of a block must meet at the same __syncthreads(), none may have returned;
//   - between two barriers the threads run in an order drawn from a seed: a race between them changes the result.
// A race within one seed's order, memory outside the arrays, and the GPU's own arithmetic remain unseen.
//
// Dynamic shared memory must be called `shared_memory`, and be declared as `extern __shared__ double2`.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __syncthreads() shim::barrier(__LINE__)
// Of a warp: only where a block is one warp, or all of the block's threads come by.
#define __syncwarp() shim::barrier(__LINE__)
#define __ballot_sync(threads, vote) shim::ballot(threads, vote, __LINE__)

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct dim3 {
    unsigned int x = 1, y = 1, z = 1;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

using std::abs;
using std::atan2;
using std::exp;
using std::fabs;
using std::floor;
using std::fmax;
using std::fmin;
using std::max;
using std::min;
using std::sqrt;

inline int __popc(unsigned int bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int atomicAdd(int* address, int value) { return std::exchange(*address, *address + value); }

template <typename T>
void sincospi(T x, T* sine, T* cosine) {
    const T pi = T(3.14159265358979323846L);
    *sine = std::sin(pi * x);
    *cosine = std::cos(pi * x);
}

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr std::size_t shared_limit = 99 * 1024;
constexpr std::size_t guard = 4096;
constexpr std::size_t stack_size = 64 * 1024;
constexpr unsigned char poison = 0xFF;  // all bits set: NaN as float and as double, -1 as int

}  // namespace shim

inline double2 shared_memory[(shim::shared_limit + shim::guard) / sizeof(double2)];

namespace shim {

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[stack_size]};
    int waits_at = 0;  // line of the __syncthreads() that it stands at
    bool done = false;
    unsigned int ballots = 0;  // that it took part in
};

inline ucontext_t scheduler;
inline Fiber* running = nullptr;
inline void (*body)(void*) = nullptr;
inline void* body_arguments = nullptr;
inline std::string complaint;  // of a thread, which cannot end its block itself

inline void barrier(int line) {
    running->waits_at = line;
    swapcontext(&running->context, &scheduler);
}

// Two boxes in turn: a thread that votes again does not disturb one that has not counted yet.
inline unsigned int ballot(unsigned int threads, bool vote, int line) {
    static bool boxes[2][32];
    if (blockDim.x > 32 || threads != (blockDim.x == 32 ? 0xffffffffu : (1u << blockDim.x) - 1))
        complaint = "a ballot of other threads than those of a block that is one warp, line " + std::to_string(line);
    bool* const box = boxes[running->ballots++ % 2];
    box[threadIdx.x % 32] = vote;
    barrier(line);
    unsigned int votes = 0;
    for (unsigned int t = 0; t < min(blockDim.x, 32u); ++t) votes |= (unsigned int)box[t] << t;
    return votes;
}

inline void enter() {
    body(body_arguments);
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

__attribute__((noinline)) inline void prepare(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_size;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    fiber.waits_at = 0;
    fiber.done = false;
    fiber.ballots = 0;
}

// Run one block to its end; what it did wrong, or an empty string.
inline std::string run_block(std::vector<Fiber>& fibers, std::mt19937& order_of_threads) {
    std::vector<unsigned int> order(fibers.size());
    for (unsigned int t = 0; t < order.size(); ++t) order[t] = t;
    for (Fiber& fiber : fibers) prepare(fiber);
    while (true) {
        std::shuffle(order.begin(), order.end(), order_of_threads);
        for (unsigned int t : order) {
            running = &fibers[t];
            threadIdx.x = t;
            swapcontext(&scheduler, &running->context);
        }
        if (!complaint.empty()) return std::exchange(complaint, "");
        const Fiber& first = fibers.front();
        for (const Fiber& fiber : fibers) {
            if (fiber.done != first.done) return "some threads returned while others wait at __syncthreads()";
            if (!fiber.done && fiber.waits_at != first.waits_at)
                return "threads wait at different __syncthreads(), lines " + std::to_string(first.waits_at) + " and " +
                       std::to_string(fiber.waits_at);
        }
        if (first.done) return "";
    }
}

inline std::string run_grid(dim3 grid, unsigned int threads, std::size_t shared_bytes, unsigned int seed) {
    if (shared_bytes > shared_limit) return "more than 99 KiB of shared memory asked for";
    if (grid.x == 0 || grid.y == 0 || threads == 0 || threads > 1024) return "an empty grid, or a block of no size";
    gridDim = grid;
    blockDim = {threads, 1, 1};
    std::vector<Fiber> fibers(threads);
    std::mt19937 order_of_threads(seed);
    auto* const bytes = reinterpret_cast<unsigned char*>(shared_memory);
    for (unsigned int y = 0; y < grid.y; ++y) {
        for (unsigned int x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, 0};
            std::memset(bytes, poison, sizeof shared_memory);
            const std::string fault = run_block(fibers, order_of_threads);
            if (!fault.empty()) return fault;
            for (std::size_t k = shared_bytes; k < sizeof shared_memory; ++k)
                if (bytes[k] != poison)
                    return "shared memory written at byte " + std::to_string(k) + " of " + std::to_string(shared_bytes);
        }
    }
    return "";
}

// NumPy's name of a kernel parameter, a pointer followed by *.
template <typename T>
std::string type_name() {
    if constexpr (std::is_pointer_v<T>) return type_name<std::remove_cv_t<std::remove_pointer_t<T>>>() + "*";
    if constexpr (std::is_same_v<T, float>) return "float32";
    if constexpr (std::is_same_v<T, double>) return "float64";
    if constexpr (std::is_same_v<T, float2>) return "complex64";
    if constexpr (std::is_same_v<T, double2>) return "complex128";
    if constexpr (std::is_same_v<T, int>) return "int32";
    if constexpr (std::is_same_v<T, long long>) return "int64";
    return "";
}

template <typename... Parameters>
std::string signature(void (*)(Parameters...)) {
    std::string names;
    ((names += type_name<Parameters>() + " "), ...);
    return names;
}

// As cudaLaunchKernel: `arguments[i]` points to the value of parameter i.
template <typename... Parameters, std::size_t... I>
std::string launch(void (*kernel)(Parameters...), std::index_sequence<I...>, dim3 grid, unsigned int threads,
                   std::size_t shared_bytes, unsigned int seed, void** arguments) {
    auto call = [&] { kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...); };
    body = [](void* closure) { (*static_cast<decltype(call)*>(closure))(); };
    body_arguments = &call;
    return run_grid(grid, threads, shared_bytes, seed);
}

template <typename... Parameters>
std::string launch(void (*kernel)(Parameters...), dim3 grid, unsigned int threads, std::size_t shared_bytes,
                   unsigned int seed, void** arguments) {
    return launch(kernel, std::index_sequence_for<Parameters...>{}, grid, threads, shared_bytes, seed, arguments);
}

}  // namespace shim

// Give one instance of a kernel template to ctypes: <name>_<type>_signature and <name>_<type>_launch.
// `fault` takes up to 200 characters; it stays empty where all went well.
#define SHIM_EXPORT(name, type)                                                                                   \
    extern "C" void name##_##type##_signature(char* text, int size) {                                             \
        std::snprintf(text, size, "%s", shim::signature(name<type>).c_str());                                     \
    }                                                                                                             \
    extern "C" void name##_##type##_launch(unsigned int grid_x, unsigned int grid_y, unsigned int threads,        \
                                           unsigned int shared_bytes, unsigned int seed, void** arguments,        \
                                           char* fault) {                                                         \
        const dim3 grid{grid_x, grid_y, 1};                                                                       \
        std::snprintf(fault, 200, "%s",                                                                           \
                      shim::launch(name<type>, grid, threads, shared_bytes, seed, arguments).c_str());            \
    }
