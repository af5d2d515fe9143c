// The element type T of this compilation, and the words in which a kernel is written.
//
// On a device they are CUDA's own. With EMULATION the same source is C++ for the host; see emulation/device.hpp.
//
//     KERNEL double_all(T *x, int n) { ... }
//     EXPORT(double_all)

#pragma once

#ifdef EMULATION
#include "emulation/device.hpp"
#define KERNEL static void
#else
#include <cuda_fp16.h>
#define KERNEL extern "C" __global__ void
#define EXPORT(name)
#endif

// Brain floating point: the upper half of a float. Our own, since NVIDIA's has no arithmetic below sm_80.
struct bf16 {
    unsigned short bits;
};

// Exact.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

__device__ __forceinline__ bf16 to_bf16(float x) {
#if __CUDA_ARCH__ >= 800
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
#else
    const unsigned bits = __float_as_uint(x);
    // A NaN stays one: rounding could carry its mantissa into an infinity.
    if (x != x) return {(unsigned short)(bits >> 16 | 0x40)};
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

// from_float rounds to the nearest, ties to even.
#if defined(ELEMENT_F32)
typedef float T;
__device__ __forceinline__ T from_float(float x) { return x; }
#elif defined(ELEMENT_F16)
typedef __half T;
__device__ __forceinline__ T from_float(float x) { return __float2half_rn(x); }
#elif defined(ELEMENT_BF16)
typedef bf16 T;
__device__ __forceinline__ T from_float(float x) { return to_bf16(x); }
#else
#error "ELEMENT_F32, ELEMENT_F16 or ELEMENT_BF16 names the element type"
#endif
