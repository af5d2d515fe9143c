// CUDA C's words for the host: threads' coordinates, barriers, shuffles, shared memory, vectors, halves. launch.cpp runs them.
//
// A launch has the process's emulation for itself, and its threads take turns on one thread of the host. So `threadIdx` is a
// variable, shared memory is static, and a thread runs until it waits for others. Shared memory begins as NaN (all bits set)
// in every block, and every other block starts its threads from the last, so that what was never written or not yet waited
// for shows.

#pragma once

#include "launch.hpp"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

struct uint2 { unsigned x, y; } __align__(8);
struct uint3 { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; } __align__(16);
struct int2 { int x, y; } __align__(8);
struct int4 { int x, y, z, w; } __align__(16);
struct float2 { float x, y; } __align__(8);
struct float4 { float x, y, z, w; } __align__(16);
typedef uint3 dim3;

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
template <class V> V __ldg(const V *p) { return *p; }

template <class To, class From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }

struct __half { uint16_t bits; };
typedef __half half;

inline float __half2float(__half x) {
    const unsigned sign = (x.bits & 0x8000u) << 16, magnitude = (x.bits & 0x7fffu) << 13;
    // Above the largest half's exponent: infinity or NaN.
    if (magnitude >= 0x0f800000u) return __uint_as_float(sign | 0x7f800000u | magnitude);
    // The exponents' biases differ by 112; a product puts subnormal halves right too.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
}

inline __half __float2half_rn(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7fffu)};
    // From 65520 on.
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
    // Subnormal: adding a half leaves the rounded multiple of 2⁻²⁴ in the lowest bits.
    if (magnitude < 0x38800000u) return {uint16_t(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u))};
    return {uint16_t(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13)};
}
inline __half __float2half(float x) { return __float2half_rn(x); }

namespace emulation {

constexpr int WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;

// Where in the source a thread waits.
struct Site {
    const char *file;
    int line;
};

// Waits until every thread of the block is here.
void with_block(Site);
// Waits until every lane of the warp is here; the last to come acts for all, on what each brought.
void with_warp(void *brought, void (*act)(void *const brought[WARP]), Site);
// Ends the launch: the kernel did what is undefined or what the emulation lacks.
[[noreturn]] void refuse(const char *what, Site);

template <class V> struct Exchange {
    V value;
    unsigned source;
    V found;
};

template <class V> V exchange(unsigned mask, V value, unsigned source, Site site) {
    if (mask != WHOLE_WARP) refuse("a shuffle among some lanes alone", site);
    Exchange<V> mine{value, source, value};
    const auto act = [](void *const brought[WARP]) {
        for (int lane = 0; lane < WARP; lane++) {
            auto *taker = static_cast<Exchange<V> *>(brought[lane]);
            taker->found = static_cast<Exchange<V> *>(brought[taker->source])->value;
        }
    };
    with_warp(&mine, act, site);
    return mine.found;
}

// A kernel's parameters, one letter each: p(ointer), i(nt), l(ong long), f(loat).
template <class P> constexpr char letter() {
    if constexpr (std::is_pointer_v<P>) return 'p';
    else if constexpr (std::is_same_v<P, float>) return 'f';
    else if constexpr (std::is_integral_v<P> && std::is_signed_v<P> && sizeof(P) == 4) return 'i';
    else if constexpr (std::is_integral_v<P> && std::is_signed_v<P> && sizeof(P) == 8) return 'l';
    else static_assert(!sizeof(P), "a kernel's parameter is a pointer, int, long long or float");
}

template <class P> P from_bits(uint64_t bits) {
    P value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The kernels of this compilation.
static const Kernel *kernels = nullptr;

template <auto function> struct Export;
template <class... P, void (*function)(P...)> struct Export<function> {
    static constexpr char parameters[] = {letter<P>()..., 0};
    Kernel kernel;

    explicit Export(const char *name) : kernel{name, parameters, call, kernels} { kernels = &kernel; }

    static void call(const uint64_t *arguments) { call(arguments, std::index_sequence_for<P...>()); }
    template <size_t... I> static void call(const uint64_t *arguments, std::index_sequence<I...>) {
        function(from_bits<P>(arguments[I])...);
    }
};

} // namespace emulation

#define EXPORT(name) static emulation::Export<name> export_##name(#name);
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
// Not in templates: there GCC forgets the section, and the memory begins as what was left in it.
#define __shared__ static __attribute__((section("shared_" TEXT(ELEMENT_NAME))))

#define WAITS const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(WAITS) { emulation::with_block({file, line}); }

inline void __syncwarp(unsigned mask = emulation::WHOLE_WARP, WAITS) {
    if (mask != emulation::WHOLE_WARP) emulation::refuse("a barrier of some lanes alone", {file, line});
    emulation::with_warp(nullptr, [](void *const *) {}, {file, line});
}

template <class V> V __shfl_sync(unsigned mask, V value, int source, int width = 32, WAITS) {
    const unsigned lane = threadIdx.x % 32, first = lane & -width;
    return emulation::exchange(mask, value, first + (source & (width - 1)), {file, line});
}
template <class V> V __shfl_xor_sync(unsigned mask, V value, int lanes, int width = 32, WAITS) {
    const unsigned lane = threadIdx.x % 32, source = lane ^ lanes;
    return emulation::exchange(mask, value, source < (lane & -width) + width ? source : lane, {file, line});
}
template <class V> V __shfl_down_sync(unsigned mask, V value, unsigned delta, int width = 32, WAITS) {
    const unsigned lane = threadIdx.x % 32, source = lane + delta;
    return emulation::exchange(mask, value, source < (lane & -width) + width ? source : lane, {file, line});
}

inline float atomicAdd(float *sum, float x) {
    const float before = *sum;
    *sum += x;
    return before;
}
