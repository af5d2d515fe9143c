// Normalisation of rows: groups of channels of a map, or the vectors along the last dimension; SiLU can follow.
//
// A row is `channels` channels of `inner` elements. Rows of up to a few thousand elements have a block each. Longer ones are worked
// through in pieces, a block each: one kernel writes the moments of every piece, the next merges them. With x̂ = (x − μ)/σ and d the
// gradient of x̂, gx = (d − mean(d) − x̂·mean(d x̂))/σ.
#pragma once
#include "activation.cuh"
#include "element.cuh"
#include "reduce.cuh"

// How rows fall into channels; the channels begin anew after `groups` rows.
struct Rows {
    int channels, inner, groups;
};

__device__ __forceinline__ int channel_of(Rows rows, long long row, int i) {
    return (int)(row % rows.groups) * rows.channels + i / rows.inner;
}

// Mean, and the sum of squared deviations from it.
struct Moments {
    float mean, deviations;
};

// Of x[begin..end], by all threads of the block. Sums are of differences to the first element, so that a mean far from zero costs no
// digits.
__device__ __forceinline__ Moments moments_of(const T* x, int begin, int end) {
    float shift = to_float(x[begin]);
    Pair sums = {0.0f, 0.0f};
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x) {
        float difference = to_float(x[i]) - shift;
        sums.first += difference;
        sums.second += difference * difference;
    }
    sums = block_sums(sums);
    float count = (float)(end - begin), mean = sums.first / count;
    return {shift + mean, fmaxf(sums.second - sums.first * mean, 0.0f)};
}

struct Standard {
    float mean, inverse_std;
};

__device__ __forceinline__ Standard standard(Moments moments, int length, float eps) {
    return {moments.mean, 1.0f / sqrtf(moments.deviations / (float)length + eps)};
}

// The moments of a row from those of its pieces (Chan, Golub & LeVeque 1983, eq. 2.1).
__device__ __forceinline__ Moments merged(const float* of_pieces, int pieces, int piece, int length) {
    Moments all = {0.0f, 0.0f};
    float count = 0.0f;
    for (int i = 0; i < pieces; i++) {
        float own = (float)min(piece, length - i * piece);
        float delta = of_pieces[2 * i] - all.mean, share = own / (count + own);
        all.mean += delta * share;
        all.deviations += of_pieces[2 * i + 1] + delta * delta * count * share;
        count += own;
    }
    return all;
}

__device__ __forceinline__ void normalise(const T* x, const T* weight, const T* bias, T* y, int begin, int end, long long row,
                                          Rows rows, Standard standard, int silu) {
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x) {
        int channel = channel_of(rows, row, i);
        float z = (to_float(x[i]) - standard.mean) * standard.inverse_std * to_float(weight[channel]) + to_float(bias[channel]);
        y[i] = from_float(silu ? z * sigmoid(z) : z);
    }
}

// d at one element.
__device__ __forceinline__ float derivative(float normal, float grad, float weight, float bias, int silu) {
    float d = grad * weight;
    return silu ? d * silu_derivative(normal * weight + bias) : d;
}

// Σ d and Σ d x̂ over begin..end.
__device__ __forceinline__ Pair gradient_sums(const T* x, const T* weight, const T* bias, const T* gy, int begin, int end,
                                              long long row, Rows rows, Standard standard, int silu) {
    Pair sums = {0.0f, 0.0f};
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x) {
        int channel = channel_of(rows, row, i);
        float normal = (to_float(x[i]) - standard.mean) * standard.inverse_std;
        float d = derivative(normal, to_float(gy[i]), to_float(weight[channel]), to_float(bias[channel]), silu);
        sums.first += d;
        sums.second += d * normal;
    }
    return block_sums(sums);
}

__device__ __forceinline__ void project(const T* x, const T* weight, const T* bias, const T* gy, T* gx, int begin, int end,
                                        long long row, Rows rows, Standard standard, Pair means, int silu) {
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x) {
        int channel = channel_of(rows, row, i);
        float normal = (to_float(x[i]) - standard.mean) * standard.inverse_std;
        float d = derivative(normal, to_float(gy[i]), to_float(weight[channel]), to_float(bias[channel]), silu);
        gx[i] = from_float(standard.inverse_std * (d - means.first - normal * means.second));
    }
}

// Grid: rows.
KERNEL normalise_rows(const T* x, const T* weight, const T* bias, T* y, int channels, int inner, int groups, float eps, int silu) {
    Rows rows = {channels, inner, groups};
    int length = channels * inner;
    long long row = blockIdx.x, start = row * length;
    Standard found = standard(moments_of(x + start, 0, length), length, eps);
    normalise(x + start, weight, bias, y + start, 0, length, row, rows, found, silu);
}
EXPORT(normalise_rows)

// Grid: rows.
KERNEL normalise_rows_gradient(const T* x, const T* weight, const T* bias, const T* gy, T* gx, int channels, int inner, int groups,
                               float eps, int silu) {
    Rows rows = {channels, inner, groups};
    int length = channels * inner;
    long long row = blockIdx.x, start = row * length;
    Standard found = standard(moments_of(x + start, 0, length), length, eps);
    Pair sums = gradient_sums(x + start, weight, bias, gy + start, 0, length, row, rows, found, silu);
    Pair means = {sums.first / (float)length, sums.second / (float)length};
    project(x + start, weight, bias, gy + start, gx + start, 0, length, row, rows, found, means, silu);
}
EXPORT(normalise_rows_gradient)

// Grid: pieces of a row, rows. `moments`: [rows, pieces, 2].
KERNEL piece_moments(const T* x, float* moments, int length, int piece) {
    long long row = blockIdx.y;
    int begin = blockIdx.x * piece;
    Moments found = moments_of(x + row * length, begin, min(begin + piece, length));
    if (threadIdx.x == 0) {
        float* own = moments + 2 * (row * gridDim.x + blockIdx.x);
        own[0] = found.mean;
        own[1] = found.deviations;
    }
}
EXPORT(piece_moments)

// Grid: pieces of a row, rows.
KERNEL normalise_pieces(const T* x, const T* weight, const T* bias, const float* moments, T* y, int channels, int inner, int groups,
                        int piece, float eps, int silu) {
    Rows rows = {channels, inner, groups};
    int length = channels * inner, begin = blockIdx.x * piece;
    long long row = blockIdx.y, start = row * length;
    Standard found = standard(merged(moments + 2 * row * gridDim.x, gridDim.x, piece, length), length, eps);
    normalise(x + start, weight, bias, y + start, begin, min(begin + piece, length), row, rows, found, silu);
}
EXPORT(normalise_pieces)

// Grid: pieces of a row, rows. `sums`: [rows, pieces, 2], of d and of d x̂.
KERNEL piece_gradient_sums(const T* x, const T* weight, const T* bias, const T* gy, const float* moments, float* sums, int channels,
                           int inner, int groups, int piece, float eps, int silu) {
    Rows rows = {channels, inner, groups};
    int length = channels * inner, begin = blockIdx.x * piece;
    long long row = blockIdx.y, start = row * length;
    Standard found = standard(merged(moments + 2 * row * gridDim.x, gridDim.x, piece, length), length, eps);
    Pair own = gradient_sums(x + start, weight, bias, gy + start, begin, min(begin + piece, length), row, rows, found, silu);
    if (threadIdx.x == 0) {
        sums[2 * (row * gridDim.x + blockIdx.x)] = own.first;
        sums[2 * (row * gridDim.x + blockIdx.x) + 1] = own.second;
    }
}
EXPORT(piece_gradient_sums)

// Grid: pieces of a row, rows.
KERNEL normalise_pieces_gradient(const T* x, const T* weight, const T* bias, const T* gy, const float* moments, const float* sums,
                                 T* gx, int channels, int inner, int groups, int piece, float eps, int silu) {
    Rows rows = {channels, inner, groups};
    int length = channels * inner, begin = blockIdx.x * piece, pieces = gridDim.x;
    long long row = blockIdx.y, start = row * length;
    Standard found = standard(merged(moments + 2 * row * pieces, pieces, piece, length), length, eps);
    Pair means = {0.0f, 0.0f};
    for (int i = 0; i < pieces; i++) {
        means.first += sums[2 * (row * pieces + i)];
        means.second += sums[2 * (row * pieces + i) + 1];
    }
    means.first /= (float)length;
    means.second /= (float)length;
    project(x + start, weight, bias, gy + start, gx + start, begin, min(begin + piece, length), row, rows, found, means, silu);
}
EXPORT(normalise_pieces_gradient)
