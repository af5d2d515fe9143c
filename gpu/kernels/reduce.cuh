// Sums over a block, the same in every thread and in every run.
#pragma once

// The sum of `value` over the threads of a warp.
__device__ __forceinline__ float warp_sum(float value) {
    for (int reach = 16; reach > 0; reach /= 2) value += __shfl_xor_sync(0xffffffffu, value, reach);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int reach = 16; reach > 0; reach /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, reach));
    return value;
}

// Two sums over the threads of a block.
struct Pair {
    float first, second;
};

__device__ __forceinline__ Pair block_sums(Pair value) {
    __shared__ Pair of_warp[32];
    value.first = warp_sum(value.first);
    value.second = warp_sum(value.second);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    Pair total = {0.0f, 0.0f};
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) {
        total.first += of_warp[warp].first;
        total.second += of_warp[warp].second;
    }
    return total;
}

__device__ __forceinline__ float block_sum(float value) { return block_sums({value, 0.0f}).first; }

__device__ __forceinline__ float block_max(float value) {
    __shared__ float of_warp[32];
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = of_warp[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++) largest = fmaxf(largest, of_warp[warp]);
    return largest;
}
