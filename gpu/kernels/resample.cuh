// Changing the size of maps: nearest neighbour ×2, bilinear, Gaussian blur. Planes of `height` × `width`; a thread computes one element.
#pragma once
#include "element.cuh"
#include "pointwise.cuh"

KERNEL upsample_nearest_2x(const T* x, T* y, long long count, int height, int width) {
    long long i = element_index();
    if (i >= count) return;
    int column = i % (2 * width), row = i / (2 * width) % (2 * height);
    y[i] = x[(i / (4LL * height * width) * height + row / 2) * width + column / 2];
}
EXPORT(upsample_nearest_2x)

// `width`: of the smaller map gx.
KERNEL upsample_nearest_2x_gradient(const T* gy, T* gx, long long count, int width) {
    long long i = element_index();
    if (i >= count) return;
    const T* upper = gy + (i / width * 2) * 2 * width + i % width * 2;
    const T* lower = upper + 2 * width;
    gx[i] = from_float((to_float(upper[0]) + to_float(upper[1])) + (to_float(lower[0]) + to_float(lower[1])));
}
EXPORT(upsample_nearest_2x_gradient)

// Which two source pixels an output pixel mixes: (1 − weight)·x[lower] + weight·x[upper]. Half-pixel centres, as PyTorch has them.
struct Tap {
    int lower, upper;
    float weight;
};

__device__ __forceinline__ Tap tap(int i, int from, float scale) {
    float source = fmaxf(scale * ((float)i + 0.5f) - 0.5f, 0.0f);
    int lower = min((int)floorf(source), from - 1);
    return {lower, min(lower + 1, from - 1), source - (float)lower};
}

KERNEL resize_bilinear(const T* x, T* y, long long count, int height, int width, int to_height, int to_width) {
    long long i = element_index();
    if (i >= count) return;
    Tap column = tap(i % to_width, width, (float)width / (float)to_width);
    Tap row = tap(i / to_width % to_height, height, (float)height / (float)to_height);
    const T* plane = x + i / to_width / to_height * height * width;
    const T* lower = plane + (long long)row.lower * width;
    const T* upper = plane + (long long)row.upper * width;
    float above = (1.0f - column.weight) * to_float(lower[column.lower]) + column.weight * to_float(lower[column.upper]);
    float below = (1.0f - column.weight) * to_float(upper[column.lower]) + column.weight * to_float(upper[column.upper]);
    y[i] = from_float((1.0f - row.weight) * above + row.weight * below);
}
EXPORT(resize_bilinear)

// What output pixel `tap` takes from source pixel `i`.
__device__ __forceinline__ float share(Tap tap, int i) {
    return (tap.lower == i ? 1.0f - tap.weight : 0.0f) + (tap.upper == i ? tap.weight : 0.0f);
}

// The first output pixel that may read source pixel i, and the one behind the last: their centres are less than a pixel away, with one
// more on either side for rounding.
__device__ __forceinline__ int first_reader(int i, float scale) { return max((int)floorf(((float)i - 0.5f) / scale - 0.5f) - 1, 0); }

__device__ __forceinline__ int readers_end(int i, float scale, int to) {
    return min((int)ceilf(((float)i + 1.5f) / scale - 0.5f) + 2, to);
}

// Every source pixel collects from the output pixels that read it, always in the same order.
KERNEL resize_bilinear_gradient(const T* gy, T* gx, long long count, int height, int width, int to_height, int to_width) {
    long long i = element_index();
    if (i >= count) return;
    int x = i % width, y = i / width % height;
    const T* plane = gy + i / width / height * to_height * to_width;
    float scale_x = (float)width / (float)to_width, scale_y = (float)height / (float)to_height, total = 0.0f;
    int end_x = readers_end(x, scale_x, to_width), end_y = readers_end(y, scale_y, to_height);
    for (int row = first_reader(y, scale_y); row < end_y; row++) {
        float of_row = share(tap(row, height, scale_y), y);
        if (of_row == 0.0f) continue;
        float along = 0.0f;
        for (int column = first_reader(x, scale_x); column < end_x; column++) {
            along += share(tap(column, width, scale_x), x) * to_float(plane[(long long)row * to_width + column]);
        }
        total += of_row * along;
    }
    gx[i] = from_float(total);
}
EXPORT(resize_bilinear_gradient)

__device__ __forceinline__ int reflected(int i, int n) {
    i = i < 0 ? -i : i;
    return i < n ? i : 2 * (n - 1) - i;
}

// 9 × 9 taps, the products of weights w0 (the centre) to w4; reflected borders.
KERNEL gaussian_blur(const T* x, T* y, long long count, int height, int width, float w0, float w1, float w2, float w3, float w4) {
    long long i = element_index();
    if (i >= count) return;
    float weights[5] = {w0, w1, w2, w3, w4};
    int column = i % width, row = i / width % height;
    const T* plane = x + i / width / height * height * width;
    float total = 0.0f;
    for (int dy = -4; dy <= 4; dy++) {
        const T* line = plane + (long long)reflected(row + dy, height) * width;
        float along = 0.0f;
        for (int dx = -4; dx <= 4; dx++) along += weights[dx < 0 ? -dx : dx] * to_float(line[reflected(column + dx, width)]);
        total += weights[dy < 0 ? -dy : dy] * along;
    }
    y[i] = from_float(total);
}
EXPORT(gaussian_blur)
