// Transposition of matrices.
#pragma once
#include "element.cuh"

// Grid: columns / 32, rows / 32, matrices, each rounded up; 256 threads. Tiles of 32 × 32 go through shared memory, so that reads and
// writes are both along rows.
KERNEL transpose(const T* x, T* y, int rows, int columns) {
    __shared__ T tile[32][33];
    long long start = (long long)blockIdx.z * rows * columns;
    int first_row = blockIdx.y * 32, first_column = blockIdx.x * 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < 32; i += blockDim.x / 32) {
        int row = first_row + i, column = first_column + lane;
        if (row < rows && column < columns) tile[i][lane] = x[start + (long long)row * columns + column];
    }
    __syncthreads();
    for (int i = threadIdx.x / 32; i < 32; i += blockDim.x / 32) {
        int row = first_row + lane, column = first_column + i;
        if (row < rows && column < columns) y[start + (long long)column * rows + row] = tile[lane][i];
    }
}
EXPORT(transpose)
