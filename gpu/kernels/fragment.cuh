// Matrices of 16×16 that a warp holds together and multiplies on tensor cores: factors of half precision, sums of floats.
//
// HAS_FRAGMENTS is defined where they exist: for f16 from sm_70 on, for bf16 from sm_80 on, never for f32.

#pragma once

#include "element.cuh"

#if defined(ELEMENT_F16) || defined(ELEMENT_BF16) && (defined(EMULATION) || __CUDA_ARCH__ >= 800)
#define HAS_FRAGMENTS

#ifdef EMULATION
#include "emulation/wmma.hpp"
typedef T Factor;
#elif defined(ELEMENT_BF16)
#include <cuda_bf16.h>
#include <mma.h>
typedef __nv_bfloat16 Factor;
#else
#include <mma.h>
typedef T Factor;
#endif

namespace fragment {

using namespace nvcuda;

constexpr int SIDE = 16;
// A product needs of the right factor its rows or, if memory has them, its columns.
typedef wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, Factor, wmma::row_major> Left;
typedef wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, Factor, wmma::row_major> Right;
typedef wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, Factor, wmma::col_major> RightTransposed;
typedef wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> Sum;
// Elements of a sum in one thread.
constexpr int HELD = Sum::num_elements;

template <class F> __device__ __forceinline__ void load(F &f, const T *first, int stride) {
    wmma::load_matrix_sync(f, reinterpret_cast<const Factor *>(first), stride);
}

// Where in a sum this thread's elements lie. CUDA leaves that open, but it is the same for all sums; so a sum that is loaded
// from numbered elements tells.
class Positions {
    unsigned char number[HELD];

  public:
    // `scratch`: SIDE·SIDE floats of shared memory. The whole block calls.
    __device__ __forceinline__ explicit Positions(float *scratch) {
        for (int i = threadIdx.x; i < SIDE * SIDE; i += blockDim.x) scratch[i] = i;
        __syncthreads();
        Sum numbers;
        wmma::load_matrix_sync(numbers, scratch, SIDE, wmma::mem_row_major);
#pragma unroll
        for (int i = 0; i < HELD; i++) number[i] = (unsigned char)numbers.x[i];
        __syncthreads();
    }
    __device__ __forceinline__ int row(int i) const { return number[i] / SIDE; }
    __device__ __forceinline__ int column(int i) const { return number[i] % SIDE; }
};

} // namespace fragment

#endif
