// Kernels for the tests of the emulation: some that use what it offers, and one each for what it refuses.

#include "../fragment.cuh"

// y[i] ← the sum of x over i's warp, i's block and its lane's mirror image, which a kernel can only have from the others.
KERNEL probe_exchange(float *y, const float *x) {
    __shared__ float sums[32];
    const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = x[i];
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
    float down = x[i];
    for (int delta = 16; delta > 0; delta /= 2) down += __shfl_down_sync(0xffffffff, down, delta);
    if (lane == 0) sums[warp] = down;
    __syncthreads();
    float all = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) all += sums[w];
    y[3 * i] = sum;
    y[3 * i + 1] = all;
    y[3 * i + 2] = __shfl_sync(0xffffffff, x[i], 31 - lane);
}
EXPORT(probe_exchange)

KERNEL probe_arguments(float *y, int i, long long l, float f) { y[threadIdx.x] = i + (float)l + f; }
EXPORT(probe_arguments)

KERNEL probe_narrow(T *y, const float *x) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = from_float(x[i]);
}
EXPORT(probe_narrow)

KERNEL probe_widen(float *y, const T *x) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = to_float(x[i]);
}
EXPORT(probe_widen)

// y[i] ← what shared memory holds before it is written, and beside it what the thread before left there.
KERNEL probe_unset(float *y) {
    __shared__ float declared[64];
    y[3 * threadIdx.x] = declared[threadIdx.x];
    declared[threadIdx.x] = 1;
    y[3 * threadIdx.x + 1] = declared[(threadIdx.x + 1) % blockDim.x];
    y[3 * threadIdx.x + 2] = declared[(threadIdx.x + blockDim.x - 1) % blockDim.x];
}
EXPORT(probe_unset)

// All of the shared memory that a block may declare.
KERNEL probe_full(float *y) {
    __shared__ float declared[12288];
    for (int i = threadIdx.x; i < 12288; i += blockDim.x) declared[i] = 0;
    y[threadIdx.x] = declared[threadIdx.x];
}
EXPORT(probe_full)

KERNEL probe_too_full(float *y) {
    __shared__ float declared[12289];
    for (int i = threadIdx.x; i < 12289; i += blockDim.x) declared[i] = 0;
    y[threadIdx.x] = declared[threadIdx.x];
}
EXPORT(probe_too_full)

KERNEL probe_some_end(float *) {
    if (threadIdx.x < 5) return;
    __syncthreads();
}
EXPORT(probe_some_end)

KERNEL probe_some_shuffle(float *) {
    if (threadIdx.x < 5) {
        __shfl_sync(0xffffffff, 0, 0);
    } else {
        __syncthreads();
    }
}
EXPORT(probe_some_shuffle)

KERNEL probe_two_barriers(float *) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
EXPORT(probe_two_barriers)

KERNEL probe_some_lanes(float *) { __shfl_xor_sync(0xffff, 0, 1); }
EXPORT(probe_some_lanes)

#ifdef HAS_FRAGMENTS
// y ← a bᵀ, of 16×16, where `a` begins `offset` elements late.
KERNEL probe_product(float *y, const T *a, const T *b, int offset) {
    fragment::Left left;
    fragment::RightTransposed right;
    fragment::Sum sum;
    fragment::load(left, a + offset, 16);
    fragment::load(right, b, 16);
    fragment::wmma::fill_fragment(sum, 0.0f);
    fragment::wmma::mma_sync(sum, left, right, sum);
    fragment::wmma::store_matrix_sync(y, sum, 16, fragment::wmma::mem_row_major);
}
EXPORT(probe_product)
#endif

// y[i] ← value for i < n.
KERNEL probe_fill(T *y, float value, long long n) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        y[i] = from_float(value);
    }
}
EXPORT(probe_fill)
